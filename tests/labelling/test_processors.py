"""The same labels on every processor: other instruction sets and numbers of threads change the last bits of every number.

Each setting labels everything in a process of its own, as libraries choose their instructions when they are loaded; a process
takes one setting of each of two libraries, since what they change is far apart and half as many processes do. On a
processor that has no more than what a setting allows, the setting changes nothing.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import labelled
import pytest
from constructed import truth

import stackheads

SCRIPT = Path(labelled.__file__)
SETTINGS = {
    "MKL as on any processor, torch without vectors": {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    "MKL with AVX2, oneDNN with SSE 4.1": {"MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "two threads": {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
}
TOUCHED = {name for setting in SETTINGS.values() for name in setting}


@cache
def labels(setting=None):
    """What a process under a setting finds; None: one thread and nothing else set."""
    bare = {name: value for name, value in os.environ.items() if name not in TOUCHED}
    source = str(Path(stackheads.__file__).parent.parent)
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": source}
    env = bare | one_thread | SETTINGS.get(setting, {})
    run = subprocess.run([sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("setting", SETTINGS)
def test_labels_are_the_same_on_every_processor(setting):
    found, plain = labels(setting), labels()
    assert found.keys() == plain.keys() == labelled.EVERYTHING.keys()
    changed = {
        name: {cell: (rows, found[name][cell]) for cell, rows in plain[name].items() if found[name][cell] != rows}
        for name in plain
    }
    assert {name: cells for name, cells in changed.items() if cells} == {}


def built(right):
    """A label by construction, as a verdict in words."""
    role = right.role
    return f"{right.status} {role.name} {role.hop or '-'}" if role else f"{right.status} - -"


@pytest.mark.parametrize("setting", [None, *SETTINGS])
def test_what_is_known_by_construction_is_found_on_every_processor(setting):
    """Hop 1 is answered and hop 2 is not: hop 1's heads are what they were built to be, wherever something is said."""
    right = {f"{head} @{place}": built(label) for (head, place), label in truth("first").items()}
    wrong = {
        (name, cell): (said, right[cell])
        for name, rows in labels(setting).items()
        for cell, (said,) in rows.items()
        if name.startswith("first") and not said.startswith("undecided") and said != right[cell]
    }
    assert wrong == {}
