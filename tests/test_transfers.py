"""On a device an analysis is that of the CPU, and how often it waits for the device does not grow with what it looks at.

The device is one in name (`analyses/benchmarks/transfers.py`); asking for it changes torch for good, so each analysis is made in
a process of its own.
"""

import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from stackheads import analyze
from stackheads.programs.heads import plain_readouts
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.tasks import Retrieval
from stackheads.validation.specimens import Circuit, Guise, specimen

from .forked import SERVER

BASE = {"idle": 1, "chains": 3, "examples": 64}
MORE = {"idle": 5, "chains": 5, "examples": 96}
"""Four more heads in each of three layers; eight more positions; 32 more examples."""
ADDED = {"idle": 12, "chains": 8, "examples": 32}


def subject(idle: int, chains: int):
    task = Retrieval(chains=chains, max_hops=2, attention_dir="causal")
    circuit = Circuit(lower(doubling(2)), task, plain_readouts(task))
    return specimen("doubling", circuit, Guise(idle=idle, permute=False, noise=0.1)).model, task


def on_the_device(idle: int, chains: int, examples: int):
    """Reads and uploads by line, with the labels."""
    sys.path.append(str(Path(__file__).parent.parent / "analyses" / "benchmarks"))
    import transfers

    model, task = subject(idle, chains)
    with transfers.counted() as seen:
        analysis = analyze(model, task, examples=examples, device=transfers.DEVICE, progress=False)
        analysis.selectors(examples=examples, fitted_to="attention", progress=False)
    return seen, analysis.labels


@cache
def found(**changed: int):
    with ProcessPoolExecutor(1, mp_context=SERVER) as process:
        return process.submit(on_the_device, **(BASE | changed)).result()


def test_labels_are_those_of_the_cpu():
    model, task = subject(BASE["idle"], BASE["chains"])
    expected = analyze(model, task, examples=BASE["examples"], progress=False, explain=False).labels
    labels = found()[1]
    assert labels.drop(columns="reason").equals(expected.drop(columns="reason"))


@pytest.mark.parametrize("grows", BASE)
def test_no_line_waits_for_the_device_more_often_where_there_is_more_to_look_at(grows):
    few, many = (Counter(seen["reads"]) for seen, _ in (found(), found(**{grows: MORE[grows]})))
    assert few
    assert not {line: (few[line], number) for line, number in many.items() if number - few[line] >= ADDED[grows]}
