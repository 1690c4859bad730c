"""Heads that look at all sources of a kind but some: who they are, and that they bring what they leave out."""

import pandas as pd
import pytest
import torch
from eliminating import TASK, by_elimination
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads import analyze
from stackheads.explanation.away import Away, left_out, looking_away, source
from stackheads.explanation.carried import carried
from stackheads.explanation.ideal import evenly
from stackheads.explanation.mechanism import name_carried
from stackheads.interventions import destination_rows
from stackheads.labelling.roles import role_targets
from stackheads.models.hooks import record
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import MECHANISMS, doubling_over_keys
from stackheads.programs.program import WALKED, Step, lower
from stackheads.tasks import Cycle, KHopInduction, Retrieval, with_keys
from stackheads.types import Destination, HeadId, Role

QUERY, VALUE, KEY = Destination.QUERY, Destination.VALUE, Destination.KEY
HEAD = HeadId(1, 0)
CURVE = ("level", "destination", "hop", "recovered")
KEYED = with_keys(Cycle(symbols=8, max_hops=4))


@pytest.mark.parametrize(
    ("shares", "gaps"),
    [
        ((0.14, 0.14, 0.14, 0.0, 0.14, 0.14, 0.14, 0.14), (0,)),
        ((0.14, 0.14, 0.03, 0.0, 0.03, 0.14, 0.14, 0.14), (-1, 0, 1)),
        ((0.12,) * 8, ()),  # no gap
        ((0.1, 0.1, 0.1, 0.0, 0.3, 0.1, 0.1, 0.1), ()),  # a look at key 1
        ((0.06, 0.06, 0.06, 0.0, 0.06, 0.06, 0.06, 0.06), ()),  # mostly elsewhere
        ((0.2, 0.2, 0.0, 0.0, 0.0, 0.0, 0.2, 0.2), ()),  # half are gaps
    ],
)
def test_what_counts_as_looking_at_all_but_some(shares, gaps):
    assert left_out(shares, TASK.hops) == gaps


def even(task, batch, kind, at, but):
    """The attention of one head, even over all sources of a kind but those of some offsets, at a destination."""
    roles = [source(kind, offset, at) for offset in task.hops if offset not in but]
    mass = evenly(role_targets(task, batch, roles).any(dim=0), torch.double) * destination_rows(batch, at)[..., None]
    return mass[None, :, None]  # layer batch head pos source


@pytest.mark.parametrize(("kind", "at"), [("key", QUERY), ("key", KEY), ("hop", QUERY), ("hop", VALUE)])
@given(gaps=st.sets(st.sampled_from(KEYED.hops), min_size=1, max_size=3))
@settings(max_examples=8)
def test_a_head_that_looks_so_is_found_with_its_gaps(kind, at, gaps):
    batch = KEYED.sample(32, torch.Generator().manual_seed(0))
    pattern = even(KEYED, batch, kind, at, gaps)
    (found,) = looking_away(pattern, batch, KEYED)
    assert found == Away(HeadId(0, 0), at, kind, tuple(sorted(gaps)))
    assert {step.role.hop for step in found.steps} == gaps - ({0} if at is WALKED[kind] else set())
    half = 0.6 * pattern + 0.4 * even(KEYED, batch, "hop" if kind == "key" else "key", QUERY, ()) * (at is QUERY)
    assert looking_away(half, batch, KEYED) == [found], "what else it looks at does not matter, if it is less than half"


def test_without_keys_as_sources_there_are_values_and_where_attention_is_causal_the_query():
    plain, causal = KEYED.model_copy(update={"keys": False}), Cycle(symbols=8, max_hops=4, attention_dir="causal")
    batch = KEYED.sample(32, torch.Generator().manual_seed(0))
    assert not looking_away(even(KEYED, batch, "key", QUERY, (0,)), batch, plain)
    for at in (QUERY, VALUE):
        found = looking_away(even(plain, batch, "hop", at, (1,)), batch, causal)
        assert [each.at for each in found] == [at] * (at is QUERY)


@pytest.mark.parametrize("task", [Retrieval(chains=3, max_hops=2), KHopInduction(max_hops=2, symbols=4, context=24)])
def test_nothing_is_left_out_where_hops_do_not_come_round(task):
    batch = task.sample(4, torch.Generator().manual_seed(0))
    uniform = torch.full((1, 4, 1, batch.tokens.shape[1], batch.tokens.shape[1]), 1 / batch.tokens.shape[1])
    assert looking_away(uniform, batch, task) == []


def table(*looks):
    """Rows of selectors: layer, destination, role, what is lost without it."""
    rows = [
        {"head": f"L{layer}H0", "layer": layer, "destination": str(at), "selector": "role", "what": str(role), "values": None}
        | {"role": role.name, "hop": role.hop, "gate": None, "weight": 2.0, "effect": effect, "status": "confirmed"}
        for layer, at, role, effect in looks
    ]
    return pd.DataFrame(rows).astype({"hop": "Int64"})


def test_such_a_look_is_one_step_and_brings_what_it_leaves_out():
    """Of a walk over keys: the query has hop 1 from the key that it does not look at, and nothing from each of the others."""
    others = [(1, QUERY, Role("key", offset), 0.06) for offset in KEYED.hops if offset != 0]
    walk = [
        (0, KEY, Role("hop", 1), 0.9),
        (1, KEY, Role("key", 1), 0.9),
        (2, KEY, Role("key", 2), 0.9),
        (3, QUERY, Role("key", 1), 0.9),
    ]
    curve = pd.DataFrame(
        [("roles", "query", hop, 0.9) for hop in (1, 2, 3, 4)], columns=["level", "destination", "hop", "recovered"]
    )
    batch = KEYED.sample(64, torch.Generator().manual_seed(0))
    away = [Away(HEAD, QUERY, "key", (0,))]
    each, one = (carried(table(*walk, *others), curve, KEYED, batch, 4, away=looks) for looks in ((), away))
    louder = carried(table(*walk, *[(*look[:3], 0.2) for look in others]), curve, KEYED, batch, 4)
    assert Step(1, Role("key", 0), (QUERY,)) in one.steps
    assert {step for step in one.steps if step.layer == 1 and step.destinations == (QUERY,)} == {
        Step(1, Role("key", 0), (QUERY,))
    }
    assert not [step for step in each.steps if step.layer == 1 and step.destinations == (QUERY,)], "each is too little alone"
    assert [sorted(hops & {1, 2, 3, 4}) for hops in one.answered] == [[], [1], [1], [1, 2, 3, 4]]
    assert sorted(louder.answered[1]) == [1, 2, 3, 4], "which no sum of equal parts can tell"
    mechanism = name_carried(one, KEYED, None)
    assert mechanism.name == "doubling"
    assert "follow 0, 1, 1, 4 hops" in mechanism.reason
    assert "what is left out is brought by looks (L1H0 @query at all but key 0)" in mechanism.reason
    weak = carried(table(*walk, *[(*look[:3], 0.01) for look in others]), curve, KEYED, batch, 4, away=away)
    assert (weak.away, Step(1, Role("key", 0), (QUERY,)) in weak.steps) == ((), False)


def test_a_circuit_that_answers_by_elimination_is_named_and_its_program_answers_like_it():
    model = by_elimination()
    for fitted_to in ("attention", "answer"):
        chosen = analyze(model, TASK, examples=128, progress=False).selectors(examples=128, fitted_to=fitted_to, progress=False)
        assert chosen.mechanism == "one hop per layer"
        assert [str(away) for away in chosen.away] == ["L1H0 @query at all but key 0"]
        assert "L1H0 @query at all but key 0" in str(chosen.mechanism_reason)
        assert "L1H0 @query at all but key 0: brings what it leaves out" in repr(chosen)
        assert chosen.program_agreement == {1: 1.0}


@pytest.mark.parametrize("name", MECHANISMS)
def test_known_circuits_look_away_from_nothing(name):
    for task, program in ((Cycle(symbols=8, max_hops=3), MECHANISMS[name](3)), (KEYED, doubling_over_keys(4))):
        model, _ = compile_layers(lower(program, task.same_offset), task)
        batch = task.sample(64, torch.Generator().manual_seed(0))
        assert looking_away(record(model, batch.tokens).pattern, batch, task) == []
