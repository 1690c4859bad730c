"""The criteria are the same whether runs are taken up from the set that they differ from or from the clean run."""

import pytest
from subjects import subject

from stackheads.explanation.criteria import Criteria
from stackheads.labelling.bench import Label, make_bench
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import all_heads, analysing
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
