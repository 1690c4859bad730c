"""Heads with the same label can take each other's place, heads with different ones cannot."""

from itertools import combinations

import pytest

from stackheads import analyze
from stackheads.tables import records
from stackheads.validation.specimens import CIRCUITS, Guise, specimen


@pytest.fixture(scope="module")
def trials():
    found = {}
    for name in ("e: backups", "tripling"):
        made = specimen(name, CIRCUITS[name](), Guise(seed=7, normalization=None))
        analysis = analyze(made.model, made.task, examples=256, progress=False, explain=False)
        found[name] = analysis, analysis.trial(examples=64)
    return found


def test_backups_can_be_interchanged(trials):
    rows = [row for row in records(trials["e: backups"][1].interchange) if row["same"]]
    assert rows
    assert all(row["kept"] > 0.95 for row in rows)


def test_heads_of_different_hops_cannot(trials):
    """In the tripling circuit one head looks ahead and another one back."""
    rows = [row for row in records(trials["tripling"][1].interchange) if not row["same"]]
    assert any(set(row["roles"].split(", ")) == {"hop -1", "hop 1"} for row in rows)
    assert all(row["kept"] < 0.5 for row in rows)


@pytest.mark.parametrize("name", ["e: backups", "tripling"])
def test_every_pair_of_a_layer_is_tried_and_no_other(trials, name):
    analysis, trial = trials[name]
    labelled = [row for row in records(analysis.labels) if row["status"] in ("confirmed", "redundant")]
    pairs = {
        f"{one['head']}, {two['head']} {one['destination']}"
        for one, two in combinations(labelled, 2)
        if (one["layer"], one["destination"]) == (two["layer"], two["destination"])
    }
    assert {f"{row['heads']} {row['destination']}" for row in records(trial.interchange)} == pairs


def test_it_is_said_in_a_sentence(trials):
    trial = trials["tripling"][1]
    assert any("with different labels keep" in sentence for sentence in trial.exchanged)
    assert all(sentence in repr(trial) for sentence in trial.exchanged)
