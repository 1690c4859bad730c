"""Heads with the same label can take each other's place, heads with different ones cannot."""

from itertools import combinations

import pytest

from stackheads import analyze
from stackheads.labelling.bench import make_bench, read_labels
from stackheads.models.hooks import analysing
from stackheads.seeds import Stream
from stackheads.tables import records
from stackheads.trial.interchange import interchange
from stackheads.validation.further import SMALL
from stackheads.validation.specimens import Guise, specimen


@pytest.fixture(scope="module")
def exchanged():
    """Labels of known circuits, and the pairs that take each other's place; no other part of a trial."""
    found = {}
    for name in ("e: backups", "tripling"):
        made = specimen(name, SMALL[name](), Guise(seed=7, normalization=None))
        analysis = analyze(made.model, made.task, examples=64, progress=False, explain=False)
        bench = make_bench(made.model, made.task, 64, 0, analysis.thresholds, Stream.TRIAL)
        with analysing(made.model):
            found[name] = analysis.labels, interchange(bench, read_labels(analysis.labels))
    return found


def test_backups_can_be_interchanged(exchanged):
    rows = [row for row in records(exchanged["e: backups"][1]) if row["same"]]
    assert rows
    assert all(row["kept"] > 0.95 for row in rows)


def test_heads_of_different_hops_cannot(exchanged):
    """In the tripling circuit one head looks ahead and another one back."""
    rows = [row for row in records(exchanged["tripling"][1]) if not row["same"]]
    assert any(set(row["roles"].split(", ")) == {"hop -1", "hop 1"} for row in rows)
    assert all(row["kept"] < 0.5 for row in rows)


@pytest.mark.parametrize("name", ["e: backups", "tripling"])
def test_every_pair_of_a_layer_is_tried_and_no_other(exchanged, name):
    labels, table = exchanged[name]
    labelled = [row for row in records(labels) if row["status"] in ("confirmed", "redundant")]
    pairs = {
        f"{one['head']}, {two['head']} {one['destination']}"
        for one, two in combinations(labelled, 2)
        if (one["layer"], one["destination"]) == (two["layer"], two["destination"])
    }
    assert {f"{row['heads']} {row['destination']}" for row in records(table)} == pairs
