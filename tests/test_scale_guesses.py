"""Guesses from where chains end: exact over all arrangements, as a sample has it, and told apart from answers."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "analyses"))

import scale_guesses
from assumption import ends_guess, ends_of, order_guesses

from stackheads.models import ModelConfig, build
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.tasks import Retrieval
from stackheads.theory import structure
from stackheads.types import Destination


def paper(chains, hops):
    return Retrieval(chains=chains, max_hops=hops, attention_dir="causal", supervision="final")


TASK = paper(3, 3)


@pytest.mark.parametrize(("chains", "hops"), [(2, 2), (2, 4), (3, 2), (3, 3)])
def test_the_guess_by_place_is_what_a_sample_has(chains, hops):
    """Between blind choice of an end and what the order of all definitions tells."""
    task, ends = paper(chains, hops), ends_guess(paper(chains, hops))
    batch = task.sample(20_000, torch.Generator().manual_seed(3))
    there, answer = ends_of(task, batch.tokens), batch.find[:, task.hops.index(hops), -1] // 2
    assert (there.sum(dim=-1) == chains).all()
    assert there.gather(1, answer[:, None]).all(), "the answer is an end"
    right = 0
    for which, likely in zip(ends.sets, ends.likely, strict=True):
        right += int((answer[(there == which).all(dim=-1)] == likely.argmax()).sum())
    assert right / len(answer) == pytest.approx(ends.right, abs=0.015)
    blind = structure(task).ends
    assert blind is not None
    assert blind - 1e-9 <= ends.right <= order_guesses(task)[Destination.QUERY, hops, 1] + 1e-9


def test_a_model_that_follows_chains_answers_with_ends_and_does_not_guess():
    model, _ = compile_layers(lower(doubling(3), TASK.same_offset), TASK)
    found = scale_guesses.answers(model, TASK)
    assert found["right"] > 0.99
    assert found["end"] > 0.99
    assert 1 / 3 < found["worth"] < ends_guess(TASK).right, "the query's end is not always the likeliest"
    assert not scale_guesses.by_place(pd.DataFrame([found])).any()


def test_a_model_that_was_not_trained_guesses_no_ends():
    found = scale_guesses.answers(build(ModelConfig(layers=1, heads=1, d_model=8, d_head=4), TASK, seed=0), TASK)
    assert found["end"] < 0.9
    assert found["right"] < 0.3


def test_what_is_told_is_told_of_runs_that_are_not_solved():
    runs = [(False, 0.4, 1.0, 0.39), (False, 0.47, 1.0, 0.39), (False, 0.4, 0.98, 0.39), (True, None, None, None)]
    names = ["sweep", "solved", "right", "end", "worth"]
    table = pd.DataFrame([dict(zip(names, (sweep, *run), strict=True)) for sweep in scale_guesses.SWEEPS for run in runs])
    table = table.assign(more_right=table["right"], more_worth=table["worth"])
    assert scale_guesses.by_place(table).tolist() == [True, False, False, False] * 2
    told = scale_guesses.tell({"scale-guesses": table})
    assert told.count("1 of 3, 33 %") == 2
    assert told.count(": 0 of 3; right minus worth 1.0 points (1.0 to 8.0)") == 2, "a point is much, on so many examples"
