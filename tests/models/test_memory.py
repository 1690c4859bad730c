"""Freed memory is kept inside, so that large tensors are not mapped anew at every step, and given back afterwards."""

import resource

import pytest
import torch

from stackheads.models.memory import glibc, kept_memory

SIZE = 16_000_000  # 64 MB in float32, more than glibc ever keeps of its own accord
pytestmark = pytest.mark.skipif(glibc() is None, reason="the C library is not glibc")


def faults(steps=8):
    """Pages that were faulted in while a large tensor was made and freed so many times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.zeros(SIZE).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident():
    """Bytes of this process that are in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_large_tensors_are_not_mapped_anew_at_every_step():
    plain = faults()
    with kept_memory():
        with kept_memory():
            torch.zeros(SIZE)  # the first one is mapped
        assert faults() < plain / 4
    assert faults() > plain / 2


def test_what_was_kept_is_given_back():
    before = resident()
    with kept_memory():
        torch.zeros(SIZE).add_(1)
        assert resident() - before > 2 * SIZE
    assert resident() - before < 2 * SIZE


def test_an_error_inside_ends_it():
    with pytest.raises(ZeroDivisionError), kept_memory():
        _ = 1 / 0
    torch.zeros(SIZE).add_(1)
    assert faults() > 0
