"""Scores of selectors are what their definition says, by a brute-force oracle, and names are read at a glance."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.labelling.roles import role_targets, visible
from stackheads.labelling.selectors import MOST_DISTANCES, Kind, Selector, candidates, make_rows
from stackheads.tasks import (
    CausalGraph,
    Conditional,
    Cycle,
    DepthCases,
    KHopInduction,
    NearestNeighbour,
    Retrieval,
    Templates,
    gates,
)
from stackheads.types import Destination, Role, Slot

TASKS = {
    "cycle": Cycle(symbols=5, max_hops=2),
    "retrieval": Retrieval(chains=2, max_hops=2, attention_dir="causal"),
    "khop": KHopInduction(max_hops=3, symbols=4, context=9),
    "conditional": Conditional(symbols=6, kinds=2, max_hops=2),
    "graph": CausalGraph(context=9, symbols=3, graph="dag", in_degree=2),
    "nearest": NearestNeighbour(symbols=6, pairs=3, values=2, layout="statements", supervision="dense"),
    "templates": Templates(symbols=6),
    "cases": DepthCases(case="template-in-context", symbols=9, length=3, pairs=2),
}
KINDS = get_args(Kind)
GATES = {name: [None, *gates(task.sample(1, torch.Generator().manual_seed(0)))] for name, task in TASKS.items()}


def match(task, batch, selector, example, position, source):
    """The number of a selector's weight that counts for one row and source; None where none does."""
    if selector.kind == "role":
        return 0 if bool(role_targets(task, batch, [selector.what])[0][example, position, source]) else None
    if selector.kind == "slot":
        return 0 if int(batch.slots[example, source]) == selector.what else None
    if selector.kind == "content":
        return int(batch.tokens[example, source]) if int(batch.slots[example, source]) == selector.what else None
    if selector.what == "place":
        return source
    most = min(batch.tokens.shape[1], MOST_DISTANCES) - 1
    return max(-most, min(most, position - source)) + most


def by_hand(task, batch, weights, example, position):
    """One row's pattern for one head, term by term."""
    n_pos = batch.tokens.shape[1]
    scores = torch.full((n_pos,), -torch.inf, dtype=torch.double)
    for source in range(n_pos):
        if bool(visible(task, batch)[0, position, source]):
            scores[source] = 0.0
            for selector, weight in weights.items():
                number = match(task, batch, selector, example, position, source)
                value = 0 if selector.gate is None else int(gates(batch)[selector.gate][example, position])
                if number is not None and value < weight.shape[2]:  # of other values nothing is known
                    scores[source] += float(weight[0, number, value])
    return scores.softmax(0)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(TASKS)), seed=st.integers(0, 2**31))
def test_patterns_are_what_the_definition_says(data, name, seed):
    task, generator = TASKS[name], torch.Generator().manual_seed(seed)
    batch = task.sample(3, generator)
    places = [place for place in Destination if len(make_rows(task, batch, place))]
    rows = make_rows(task, batch, data.draw(st.sampled_from(places)))
    offered = [one for kind in KINDS for gate in GATES[name] for one in candidates(task, rows, kind, gate)]
    some = data.draw(st.lists(st.sampled_from(offered), min_size=1, max_size=4, unique=True))
    known = {one: data.draw(st.integers(1, rows.values(one.gate))) for one in some}  # by the examples it was fitted on
    weights = {one: torch.randn(1, rows.size(one), values, generator=generator) for one, values in known.items()}
    found = rows.patterns(weights, 1)[0]
    for row in data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=3)):
        expected = by_hand(task, batch, weights, *rows.at[row].tolist())
        torch.testing.assert_close(found[row].double(), expected, atol=1e-5, rtol=1e-5)


def test_heads_are_fitted_side_by_side():
    """Several heads at once give what each gives alone."""
    task, generator = TASKS["cycle"], torch.Generator().manual_seed(1)
    rows = make_rows(task, task.sample(4, generator), Destination.VALUE)
    offered = [one for kind in KINDS for gate in GATES["cycle"] for one in candidates(task, rows, kind, gate)]
    weights = {one: torch.randn(3, rows.size(one), rows.values(one.gate), generator=generator) for one in offered}
    together = rows.patterns(weights, 3)
    for head in range(3):
        alone = rows.patterns({one: weight[head : head + 1] for one, weight in weights.items()}, 1)
        torch.testing.assert_close(together[head], alone[0])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_a_gate_may_have_any_type_of_whole_numbers(dtype):
    """Scores, and what is on each number, are those of the same numbers in torch's own."""
    task = TASKS["cycle"]
    batch = task.sample(4, torch.Generator().manual_seed(1))
    asked = (batch.tokens % 2).long()
    long, short = (
        make_rows(task, replace(batch, gates={"odd": values}), Destination.VALUE) for values in (asked, asked.to(dtype))
    )
    pattern = torch.rand(2, len(long), long.n_pos, generator=torch.Generator().manual_seed(2))
    for one in (Selector("role", Role("hop", 1), "odd"), Selector("content", Slot.VALUE, "odd")):
        weight = torch.rand(2, long.size(one), 2, generator=torch.Generator().manual_seed(3))
        assert torch.equal(long.score(one, weight), short.score(one, weight))
        assert torch.equal(long.on_each(one, pattern, 2), short.on_each(one, pattern, 2))


def test_only_what_has_a_source_is_offered():
    """The query of a cycle stands in one place, so that a distance says no more than a place."""
    task = TASKS["cycle"]
    rows = make_rows(task, task.sample(8, torch.Generator().manual_seed(0)), Destination.QUERY)
    assert [one.what for one in candidates(task, rows, "position")] == ["place"]
    assert candidates(task, rows, "content") == []
    causal = TASKS["retrieval"]
    keys = make_rows(causal, causal.sample(64, torch.Generator().manual_seed(0)), Destination.KEY)
    assert not any(str(one.what) == "hop 1" for one in candidates(causal, keys, "role"))  # its definition comes after the key


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (Selector("slot", Slot.KEY), "key slots"),
        (Selector("slot", Slot.KEY, "asked"), "key slots by asked"),
        (Selector("position", "place"), "place"),
        (Selector("content", Slot.VALUE, "own symbol"), "own symbol × symbol of value"),
    ],
)
def test_selectors_say_what_they_are(selector, said):
    assert str(selector) == said
