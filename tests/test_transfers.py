"""On a device an analysis is that of the CPU, and how often it waits for the device does not grow with what it looks at.

The device is one in name (`analyses/benchmarks/transfers.py`); asking for it changes torch for good, so analyses there are made
in a process of their own.
"""

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from stackheads import analyze
from stackheads.programs.heads import plain_readouts
from stackheads.programs.mechanisms import one_hop_per_layer
from stackheads.programs.program import lower
from stackheads.tasks import Retrieval
from stackheads.validation.specimens import Circuit, Guise, specimen

from .forked import SERVER

FEW = {"idle": 1, "chains": 3, "examples": 64}
MANY = {"idle": 5, "chains": 7, "examples": 96}
ADDED = 8
"""Heads, in two layers, and positions; there are 32 more examples."""


def subject(idle: int, chains: int):
    task = Retrieval(chains=chains, max_hops=1, attention_dir="causal")
    circuit = Circuit(lower(one_hop_per_layer(1)), task, plain_readouts(task))
    return specimen("one hop", circuit, Guise(idle=idle, permute=False, noise=0.1)).model, task


def on_the_device(idle: int, chains: int, examples: int):
    """Reads and uploads by line, with the labels."""
    sys.path.append(str(Path(__file__).parent.parent / "analyses" / "benchmarks"))
    import transfers

    model, task = subject(idle, chains)
    with transfers.counted() as seen:
        analysis = analyze(model, task, examples=examples, device=transfers.DEVICE, progress=False)
        analysis.selectors(examples=examples, fitted_to="attention", progress=False)
    return seen, analysis.labels


@pytest.fixture(scope="module")
def found():
    with ProcessPoolExecutor(1, mp_context=SERVER) as process:
        yield [process.submit(on_the_device, **sizes).result() for sizes in (FEW, MANY)]


def test_labels_are_those_of_the_cpu(found):
    model, task = subject(FEW["idle"], FEW["chains"])
    expected = analyze(model, task, examples=FEW["examples"], progress=False, explain=False).labels
    pd.testing.assert_frame_equal(found[0][1].drop(columns="reason"), expected.drop(columns="reason"), rtol=1e-3, atol=1e-5)


def test_no_line_waits_for_the_device_more_often_where_there_is_more_to_look_at(found):
    few, many = (Counter(seen["reads"]) for seen, _ in found)
    assert few
    assert not {line: (few[line], number) for line, number in many.items() if number - few[line] >= ADDED}
