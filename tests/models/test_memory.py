"""Freed memory is kept inside, so that large tensors are not mapped anew at every step, and given back afterwards.

Looked at in a process of its own: what a C library does with memory depends on all that was done before.
"""

import json
import subprocess
import sys

import pytest

from stackheads.models import memory
from stackheads.models.memory import glibc, kept_memory

pytestmark = pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")

LOOK = """
import json, resource, sys
import torch
from stackheads.models.memory import kept_memory

SIZE = 48_000_000  # 192 MB in float32, more than may stay

def faults(steps=4, size=SIZE):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.zeros(size).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
torch.zeros(SIZE).add_(1)
found = {"plain": faults(), "before": resident()}
with kept_memory():
    torch.zeros(SIZE).add_(1)
    found |= {"inside": faults(), "kept": resident()}
found["after"] = resident()
calls = []
for _ in range(8):
    with kept_memory():
        calls.append(faults(1, SIZE // 10))
found["first"], found["last"] = calls[0], calls[-1]
sys.stdout.write(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    """Page faults and resident bytes outside, inside and afterwards."""
    return json.loads(subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout)


def test_large_tensors_are_not_mapped_anew_at_every_step(found):
    assert found["inside"] < found["plain"] / 4


def test_what_was_kept_is_given_back(found):
    assert found["kept"] - found["before"] > 100_000_000
    assert found["after"] - found["before"] < 100_000_000


def test_little_may_stay_for_the_next_calls(found):
    """Sooner or later they take what stayed: which free place the heap takes first is its own affair."""
    assert found["last"] < found["first"] / 4


def test_it_may_be_nested():
    with kept_memory():
        with kept_memory():
            assert memory._inside == 2
        assert memory._inside == 1
    assert memory._inside == 0


def fail():
    with kept_memory():
        raise ZeroDivisionError


def test_an_error_inside_ends_it():
    with pytest.raises(ZeroDivisionError):
        fail()
    assert memory._inside == 0
