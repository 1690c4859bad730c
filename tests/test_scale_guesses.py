"""Guesses from where chains end: exact over all arrangements, as a sample has it, and told apart from answers."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "analyses"))

import scale_guesses
from assumption import all_statements, blind, ends_of, order_guesses

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
    task, ends = paper(chains, hops), blind(paper(chains, hops), ends_of)
    batch = task.sample(20_000, torch.Generator().manual_seed(3))
    there, answer = ends_of(task, batch.tokens), batch.find[:, task.hops.index(hops), -1] // 2
    assert (there.sum(dim=-1) == chains).all()
    assert there.gather(1, answer[:, None]).all(), "the answer is an end"
    assert (ends.of(there).argmax(dim=-1) == answer).double().mean() == pytest.approx(ends.right, abs=0.015)
    of_all = blind(task, all_statements)
    known = of_all.of(all_statements(task, batch.tokens))
    assert (known.argmax(dim=-1) == answer).double().mean() == pytest.approx(of_all.right, abs=0.015)
    assert known.gather(1, answer[:, None]).all()
    any_end = structure(task).ends
    assert any_end is not None
    assert any_end - 1e-9 <= ends.right <= of_all.right + 1e-9
    assert of_all.right == pytest.approx(order_guesses(task)[Destination.QUERY, hops, 1]), "found by counting, too"


def asked(model):
    return scale_guesses.answers(model, TASK, 4096, torch.Generator().manual_seed(4))


def test_a_model_that_follows_chains_answers_with_ends_and_does_not_guess():
    found = asked(compile_layers(lower(doubling(3), TASK.same_offset), TASK)[0])
    assert (found["right"], found["end"], found["same"]) == pytest.approx((1, 1, 0), abs=0.01)
    assert 1 / 3 < found["worth"] < blind(TASK, ends_of).right, "the query's end is not always the likeliest"
    assert not scale_guesses.by_place(pd.DataFrame([found])).any()


def test_a_model_that_was_not_trained_guesses_no_ends():
    found = asked(build(ModelConfig(layers=1, heads=1, d_model=8, d_head=4), TASK, seed=0))
    assert found["end"] < 0.9
    assert found["right"] < 0.3


@pytest.mark.parametrize(("number", "worth"), [(0, 0.24), (2, blind(TASK, ends_of).right)])
def test_who_names_the_end_that_stands_first_or_last_guesses_by_place(number, worth, monkeypatch):
    """The last is as good as the best guess; the first is worse, and no more than a guess by place."""

    def named(model, task, batch):
        ends = ends_of(task, batch.tokens)
        return batch.tokens[:, 1:-1:2][ends.cumsum(dim=-1) * ends == number + 1]

    monkeypatch.setattr(scale_guesses, "answer", named)
    found = asked(None)
    assert (found["end"], found["same"], found["last"]) == (1, 1, number == 2)
    assert found["worth"] == pytest.approx(worth, abs=0.005)
    assert scale_guesses.by_place(pd.DataFrame([found])).all()


def test_what_is_told_is_told_of_runs_that_are_not_solved():
    runs = [(False, 0.4, 1.0, 0.39), (False, 0.47, 1.0, 0.39), (False, 0.4, 0.98, 0.39), (True, None, None, None)]
    names = ["sweep", "solved", "right", "end", "worth"]
    table = pd.DataFrame([dict(zip(names, (sweep, *run), strict=True)) for sweep in scale_guesses.SWEEPS for run in runs])
    beside = {"more_right": "right", "more_worth": "worth", "more_blind": "right", "last": "end", "same": "end"}
    table = table.assign(**{name: table[other] for name, other in beside.items()})
    assert scale_guesses.by_place(table).tolist() == [True, False, False, False] * 2
    told = scale_guesses.tell({"scale-guesses": table})
    assert told.count("1 of 3, 33 %") == 2
    assert told.count("| 1.0 (1.0–8.0) | 0 of 3 | 0.0 (0.0) | 3 of 3 |") == 2, "a point is much, on so many examples"
