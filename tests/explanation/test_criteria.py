"""The criteria are what their definition says, the same whether runs are taken up from the set that they differ from or not."""

import math
from dataclasses import replace

import pytest
import torch
from subjects import CHECKPOINTS, subject

from stackheads import load
from stackheads.explanation.criteria import RANDOM_SETS, Criteria
from stackheads.interventions import ABLATIONS, destination_rows
from stackheads.labelling.bench import Label, make_bench
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import HeadEdit, all_heads, analysing
from stackheads.seeds import Stream, stream
from stackheads.types import Destination, Role


@pytest.mark.parametrize("name", ["chain-d4-l4", "cycle-d4-l3"])
def test_sets_near_one_another_are_what_they_are_afresh(name):
    model, task = subject(name)
    bench = make_bench(model, task, 16, 0, Thresholds())
    labels = [
        Label(head, place, Role("hop", 1 + number % 3), "none" if number % 3 == 1 else "confirmed")
        for number, head in enumerate(all_heads(model)[::2])  # the others are always live
        for place in (Destination.QUERY, Destination.VALUE)
    ]
    confirmed = [label for label in labels if label.status == "confirmed"]
    with analysing(model):
        taken_up, plain = (Criteria(bench, labels, confirmed, stream(0, Stream.CIRCUIT_SETS)) for _ in range(2))
        assert taken_up.near
        plain.near = False
        near, afresh = taken_up.all(), plain.all()
    assert near["minimality"] == pytest.approx(afresh["minimality"], abs=1e-5)
    assert near["completeness"] == pytest.approx(afresh["completeness"], abs=1e-5)
    assert near["faithfulness"] == pytest.approx(afresh["faithfulness"], abs=1e-5)
    assert max(near["minimality"].values()) > 0.01


def known():
    checkpoint = load(CHECKPOINTS / "known" / "khop-k3-mlp-guided")
    return checkpoint.model, checkpoint.task


def criteria_of(model, task, examples=64):
    bench = make_bench(model, task, examples, 0, Thresholds())
    labels = [
        Label(head, place, None, "confirmed") for head in all_heads(model) for place in (Destination.QUERY, Destination.VALUE)
    ]
    return bench, Criteria(bench, labels, labels, stream(0, Stream.CIRCUIT_SETS))


@pytest.mark.parametrize("hop", [1, 3])
def test_the_whole_model_is_faithful_to_what_it_answers(hop):
    """F(M) is 1 though most examples ask nothing of it, and though other readouts have no gap at all."""
    model, task = known()
    bench, criteria = criteria_of(model, task, 256)
    is_open = torch.tensor([readout.hop == hop for readout in bench.baseline.readouts])
    shut = replace(bench.baseline, open=is_open)
    shut.clean.margin[:, ~is_open] = shut.chance.margin[:, ~is_open]
    with analysing(model):
        found = Criteria(replace(bench, baseline=shut), criteria.labels, criteria.confirmed[:4], criteria.generator)
        whole, parts = found._share(found._kept(criteria.labels)), found.all()
    assert not bool((shut.count[:, is_open] > 0).any(dim=1).all())
    assert whole == pytest.approx(1.0, abs=1e-6)
    assert all(math.isfinite(value) for part in parts.values() for value in part.values())
    assert parts["faithfulness"]["mean"] < 0.9


def test_every_set_is_scored_by_the_definition():
    """Random sets as the greedy one: by the difference of two recovered shares, each with the rest at its mean."""
    model, task = subject("chain-d4-l4")
    bench = make_bench(model, task, 32, 0, Thresholds())
    labels = [
        Label(head, place, None, "confirmed" if number % 2 else "none")
        for number, head in enumerate(all_heads(model))
        for place in (Destination.QUERY, Destination.VALUE)
    ]
    confirmed = [label for label in labels if label.status == "confirmed"]
    with analysing(model):
        found = Criteria(bench, labels, confirmed, stream(0, Stream.CIRCUIT_SETS)).all()["completeness"]
        again = Criteria(bench, labels, confirmed, stream(0, Stream.CIRCUIT_SETS))
        sets = [again._random_set() for _ in range(RANDOM_SETS)]

        def recovered(live):
            silent = [label for label in labels if label not in live]
            edits = [
                HeadEdit(
                    label.head, destination_rows(bench.clean.batch, label.where), ABLATIONS["mean"](bench.clean, label.head)
                )
                for label in silent
            ]
            return bench.recovered(bench.margin(edits))[bench.baseline.open].mean().item()

        by_hand = [
            abs(
                recovered([one for one in confirmed if one not in some]) - recovered([one for one in labels if one not in some])
            )
            for some in sets
        ]
    assert found["random_worst"] == pytest.approx(max(by_hand), abs=1e-5)
    assert found["random_mean"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-5)
