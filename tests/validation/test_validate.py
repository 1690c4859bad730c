"""The labeller against circuits whose labels are known by construction, decoys among them."""

import pytest
import torch

from stackheads import analyze
from stackheads.models.nulls import permuted_heads
from stackheads.tables import records
from stackheads.types import Destination, Gate, HeadId
from stackheads.validation.further import SMALL
from stackheads.validation.scores import Judged, NullHead, Validation, score
from stackheads.validation.specimens import Guise, specimen
from stackheads.validation.validate import is_rest


@pytest.mark.parametrize("name", SMALL)
def test_every_head_of_a_known_circuit_gets_its_label(name):
    """In the plainest guise; `make test` also runs `stackheads validate --quick`, with others and with noise."""
    made = specimen(name, SMALL[name](), Guise(seed=7, normalization=None, rotate=False))
    gated = any(truth.gate for truth in made.truth.values())
    labels = analyze(made.model, made.task, examples=512 if gated else 256, progress=False, explain=False).labels
    for row in records(labels):
        truth = made.truth[HeadId.parse(row["head"]), Destination(row["destination"])]
        if not is_rest(None if row["gate"] is None else Gate.parse(row["gate"]), truth):
            assert row["status"] == truth.status, row["reason"]
            if truth.role is not None:
                assert (row["role"], row["hop"]) == (truth.role.name, truth.role.hop)
                assert row["gate"] == (None if truth.gate is None else str(truth.gate))


def test_the_ambiguous_layout_says_so():
    made = specimen("h", SMALL["h: ambiguous"](), Guise())
    row = (
        analyze(made.model, made.task, examples=256, progress=False, explain=False)
        .labels.query("destination == 'query'")
        .iloc[0]
    )
    assert row["status"] == "causal-unclassified"
    assert row["reason"].startswith("ambiguous: no row tells hop 1 and previous apart")


@pytest.mark.parametrize("name", ["doubling", "tripling"])
def test_heads_taken_apart_are_not_confirmed(name):
    made = specimen(name, SMALL[name](), Guise(seed=3, idle=2))
    labels = analyze(permuted_heads(made.model, 3), made.task, examples=256, progress=False, explain=False).labels
    assert not (labels["status"] == "confirmed").any()


def cell(true, found, role_right=True):
    return Judged("a: x", False, found, true, "hop", "hop", role_right)


def test_scores_by_hand():
    cells = [cell("confirmed", "confirmed")] * 3 + [cell("confirmed", "none"), cell("none", "confirmed")]
    cells += [cell("confirmed", "confirmed", role_right=False)]
    entry = score(cells)["statuses"]["confirmed"]
    assert (entry["precision"], entry["recall"], entry["support"]) == (3 / 5, 3 / 5, 5)
    assert score(cells)["precision_confirmed"] == 3 / 5
    nulls = (NullHead("untrained", "L0H0", False), NullHead("untrained", "L0H1", True))
    result = Validation(tuple(cells), {}, nulls, 1.0)
    assert result.null_false_positive_rate == 0.5
    assert result.confusion["confirmed"] == {
        "confirmed": 4, "redundant": 0, "opposing": 0, "pattern-only": 0, "causal-unclassified": 0, "undecided": 0, "none": 1
    }  # fmt: skip
    assert result.decoys == {"a: x": 3 / 6}


def test_shuffled_answers_are_another_examples():
    task = SMALL["tripling"]().task
    shuffled = task.model_copy(update={"answers": "shuffled"})
    one, two = (each.sample(8, torch.Generator().manual_seed(0)) for each in (task, shuffled))
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.targets.roll(1, dims=0), two.targets)
