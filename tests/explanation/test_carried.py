"""What selectors do together: which hops steps bring, under gates and by elimination, and what that is called."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import pad

from stackheads import analyze
from stackheads.explanation.carried import carried
from stackheads.explanation.mechanism import name_carried, name_mechanism
from stackheads.explanation.program import agreement, answerable, extract_program, program_of, shared
from stackheads.labelling.thresholds import Thresholds
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import MECHANISMS
from stackheads.programs.program import Program, Step, followed, lower, possible_part
from stackheads.tasks import Conditional, Cycle, KHopInduction, Retrieval, StatementTask
from stackheads.types import Destination, Gate, Role
from stackheads.validation.specimens import CIRCUITS, Guise, specimen

QUERY, VALUE = Destination.QUERY, Destination.VALUE
CYCLE, CHAIN = Cycle(symbols=9, max_hops=4), Retrieval(chains=2, max_hops=4)
KHOP = KHopInduction(max_hops=4, symbols=4, context=24)


LEAST = Thresholds()


def selectors_of(steps, effect=1.0, kind="role"):
    """A table of selectors, one for each step and destination."""
    rows = [
        {"head": f"L{step.layer}H0", "layer": step.layer, "destination": str(place), "selector": kind, "what": str(step.role)}
        | {"role": step.role.name, "hop": step.role.hop, "gate": step.gate and step.gate.name, "weight": 5.0}
        | {"values": step.gate and str(step.gate).removeprefix(f"{step.gate.name} "), "effect": effect}
        for step in steps
        for place in step.destinations
    ]
    return pd.DataFrame(rows).astype({"hop": "Int64"})


def curve(task, hops, at="query", roles=0.99):
    """What all selectors and roles alone recover of these hops."""
    rows = [("roles", at, hop, roles) for hop in hops] + [("content", at, hop, 0.99) for hop in hops]
    return pd.DataFrame(rows, columns=["level", "destination", "hop", "recovered"])


def found(steps, task, hops, layers=6, at="query", roles=0.99, **how):
    batch = task.sample(256, torch.Generator().manual_seed(0))
    return carried(selectors_of(steps, **how), curve(task, hops, at, roles), task, batch, layers)


def named(steps, task, hops, **how):
    return name_carried(found(steps, task, hops, **how), task, None).name


@pytest.mark.parametrize(("name", "task"), [(name, task) for name in MECHANISMS for task in (CYCLE, CHAIN)])
def test_mechanisms_are_named_by_their_steps(name, task):
    steps = MECHANISMS[name](4).steps
    assert named(steps, task, (1, 2, 3, 4)) == name


@given(st.sampled_from(list(MECHANISMS)), st.integers(1, 8))
@settings(max_examples=25)
def test_steps_that_find_their_sources_bring_what_programs_bring(name, hops):
    """Windows of a model in which every step finds its source are those of a program in which each does by rule."""
    program = MECHANISMS[name](hops)
    _, dropped, windows = possible_part(program)
    assert not dropped
    for mine, theirs in zip(followed(program), windows, strict=True):
        assert {place: mine[place] for place in theirs} == theirs


@pytest.mark.parametrize(
    ("of_all", "said"),
    [(0.9, "most of hop 1 is carried by looks that follow no role"), (0.1, "selectors keep little of hop 1")],
)
def test_of_a_model_whose_roles_do_not_carry_some_hops_these_are_named(of_all, said):
    """And whether other looks carry them: what nothing carries is not said to follow no role."""
    table = curve(CHAIN, (1, 2, 3, 4))
    for level, share in (("roles", 0.04), ("content", of_all)):
        table.loc[(table["level"] == level) & (table["hop"] == 1), "recovered"] = share
    batch = CHAIN.sample(64, torch.Generator().manual_seed(0))
    parts = carried(selectors_of(MECHANISMS["doubling"](4).steps), table, CHAIN, batch, 6)
    assert (parts.roles, parts.kept) == (0.04, of_all)
    assert parts.by_roles == {1: 0.04, 2: 0.99, 3: 0.99, 4: 0.99}
    mechanism = name_carried(parts, CHAIN, None)
    assert mechanism.name == "other"
    assert mechanism.reason.startswith(f"{said}; roles alone keep 0.99 or more of hop 2, 3, 4; ")


def test_a_model_without_a_needed_step_is_other():
    """Leaving out the last layer leaves the furthest hops without a step; the reason names them."""
    steps = [step for step in MECHANISMS["doubling"](4).steps if step.layer < 3]
    mechanism = name_carried(found(steps, CHAIN, (1, 2, 3, 4)), CHAIN, None)
    assert mechanism.name == "other"
    assert "roles bring no hop 4" in mechanism.reason


def test_looks_back_that_carry_nothing_count_where_the_program_has_them():
    """With patterns given, nothing needs the heads that let later ones find their source: of tripling, all that looks back."""
    program = MECHANISMS["tripling"](4).steps
    parts = found([step for step in program if (step.role.hop or 0) >= 0], CYCLE, (1, 2, 3, 4))
    assert name_carried(parts, CYCLE, None).name == "doubling"
    assert name_carried(parts, CYCLE, None, program) == name_carried(found(program, CYCLE, (1, 2, 3, 4)), CYCLE, None)
    assert name_carried(parts, CYCLE, None, MECHANISMS["doubling"](4).steps).name == "doubling"


def test_what_carries_little_is_no_step():
    steps = MECHANISMS["one hop per layer"](2).steps
    assert found(steps, CHAIN, (1, 2), effect=LEAST.min_step / 2).steps == ()
    assert named(steps, CHAIN, (1, 2), effect=LEAST.min_step / 2) == "none"


@pytest.mark.parametrize("status", ["causal-unclassified", "none"])
def test_what_no_head_has_is_no_step(status):
    """Selectors by which the answer can be given where no head looks there, or what it reads there does not matter."""
    steps = MECHANISMS["one hop per layer"](2).steps
    batch = CHAIN.sample(8, torch.Generator().manual_seed(0))
    table = selectors_of(steps).assign(status="confirmed")
    table.loc[table["hop"] == 2, "status"] = status
    parts = carried(table, curve(CHAIN, (1, 2)), CHAIN, batch, 3)
    assert parts.unheld == ("hop 2 (L2H0 @query)",)
    assert Role("hop", 2) not in {step.role for step in parts.steps}
    mechanism = name_carried(parts, CHAIN, None)
    assert mechanism.name == "other"
    assert "roles bring no hop 2 without hop 2 (L2H0 @query), which a channel denies" in mechanism.reason
    table["status"] = "undecided"
    assert name_carried(carried(table, curve(CHAIN, (1, 2)), CHAIN, batch, 3), CHAIN, None).name == "one hop per layer"


def test_steps_of_two_heads_count_together():
    half = selectors_of([Step(0, Role("previous"), (VALUE,)), Step(1, Role("hop", 1), (QUERY,))], effect=0.6 * LEAST.min_step)
    both = pd.concat([half, half.assign(head="L1H1")], ignore_index=True)
    batch = CHAIN.sample(8, torch.Generator().manual_seed(0))
    assert carried(half, curve(CHAIN, (1,)), CHAIN, batch, 2).answered == (frozenset(), frozenset())
    assert carried(both, curve(CHAIN, (1,)), CHAIN, batch, 2).answered == (frozenset(), frozenset({1}))


def test_roles_that_keep_little_name_nothing():
    steps = MECHANISMS["doubling"](4).steps
    assert named(steps, CHAIN, (1, 2, 3, 4), roles=LEAST.min_by_roles - 0.01) == "other"
    assert named(steps, CHAIN, (1, 2, 3, 4), roles=LEAST.min_by_roles) == "doubling"


def test_conditions_have_no_words():
    task = Conditional(symbols=6, kinds=2, max_hops=2)
    assert named([Step(1, Role("hop", 1), (QUERY,)), Step(2, Role("hop", 2), (QUERY,))], task, (1, 2)) == "other"


def test_other_kinds_are_told_by_head():
    steps = MECHANISMS["doubling"](2).steps
    table = pd.concat([selectors_of(steps), selectors_of(steps[:1], kind="content").assign(role=None)], ignore_index=True)
    batch = CHAIN.sample(8, torch.Generator().manual_seed(0))
    parts = carried(table, curve(CHAIN, (1, 2)), CHAIN, batch, 3)
    assert parts.others == ("tables of symbols (L0H0 @value)",)
    assert "the rest takes tables of symbols (L0H0 @value)" in name_carried(parts, CHAIN, None).reason


def asked(*values):
    return Gate("asked", values)


FAR = (Step(0, Role("previous"), (VALUE,)), Step(1, Role("hop", 1), (VALUE, QUERY)))


def test_hops_are_brought_where_they_are_asked():
    """Hop 1 for those that ask for up to two hops, hop 3 for those that ask for more: each has the step that it needs."""
    near, far = (Step(2, Role("hop", hop), (QUERY,), asked(*at)) for hop, at in ((1, (1, 2)), (3, (3, 4))))
    parts = found([*FAR, near, far], KHOP, (1, 2, 3, 4))
    assert parts.answered[2] == {1, 2, 3, 4}
    assert name_carried(parts, KHOP, None).name == "doubling"
    wrong = [Step(2, Role("hop", hop), (QUERY,), asked(*at)) for hop, at in ((3, (1, 2)), (1, (3, 4)))]
    assert found([*FAR, *wrong], KHOP, (1, 2, 3, 4)).answered[2] == {1}


@pytest.mark.parametrize("at_pads", [0, 1, 9])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_pads_hold_is_known_by_nobody(side, at_pads):
    """Steps act, and make one step together, as in the same examples without pads."""
    near, far = (Step(2, Role("hop", 1), (QUERY,), asked(*at)) for at in ((1, 2), (3, 4)))
    batch, size = KHOP.sample(256, torch.Generator().manual_seed(0)), {"left": (2, 0), "right": (0, 2)}[side]
    longer = {name: pad(getattr(batch, name), size) for name in ("tokens", "slots")}
    asked_there = {name: pad(getattr(batch, name), (0, 0, *size)) for name in ("targets", "target_hop")}
    known = {name: pad(values, size, value=at_pads) for name, values in batch.gates.items()}
    pads = pad(torch.zeros_like(batch.tokens, dtype=torch.bool), size, value=True)
    padded = replace(batch, **longer, **asked_there, find=pad(batch.find, size, value=-1), gates=known, pads=pads)
    for steps in ([*FAR[:1], near, far], [*FAR[:1], near]):
        alone, beside = (carried(selectors_of(steps), curve(KHOP, (1, 2)), KHOP, each, 3) for each in (batch, padded))
        assert alone == beside
    assert alone.answered[-1] == {1}


def test_a_program_prints_hops_by_what_is_asked():
    near, far = (Step(2, Role("hop", hop), (QUERY,), asked(*at)) for hop, at in ((1, (1, 2)), (3, (3, 4))))
    text = str(program_of([*FAR[:1], near, far], {"asked": (1, 2, 3, 4)}, KHOP))
    assert "layer 2: hop 1 @query when asked 1..2, hop 3 @query when asked 3..4" in text
    assert "not compiled" in text


@given(st.sets(st.integers(0, 7), min_size=1), st.sets(st.integers(0, 7), min_size=1))
@settings(max_examples=50)
def test_parts_that_make_a_whole_are_one_step(one, other):
    """Two gated steps are one without a gate exactly if they hold at all values together; else their values are joined."""
    steps = [Step(1, Role("hop", 1), (QUERY,), Gate("own symbol", tuple(sorted(values)))) for values in (one, other)]
    (joined,) = shared(steps, {"own symbol": range(8)})
    everything = one | other == set(range(8))
    assert joined.gate == (None if everything else Gate("own symbol", tuple(sorted(one | other))))


def test_a_job_shared_by_symbol_is_compiled_as_one_step():
    made = specimen("j: by symbol", CIRCUITS["j: by symbol"](), Guise(seed=3))
    analysis = analyze(made.model, made.task, examples=256, progress=False)
    extracted = extract_program(analysis.labels, made.task)
    assert extracted is not None
    assert Step(1, Role("hop", 1), (QUERY,)) in extracted.program.steps
    assert isinstance(made.task, StatementTask)
    assert agreement(extracted, made.model, made.task)[1] == 1.0  # the one hop that this circuit answers


BACK = Cycle(symbols=8, max_hops=4)
BACKWARD = Program(
    (
        Step(0, Role("previous"), (VALUE,)),
        Step(1, Role("duplicate"), (QUERY,)),
        Step(1, Role("hop", -1), (VALUE,)),
        Step(2, Role("hop", -1), (QUERY,)),
        Step(2, Role("hop", -2), (VALUE,)),
        Step(3, Role("hop", -2), (QUERY,)),
    )
)


def test_the_last_hop_round_a_cycle_is_answered_by_elimination():
    """Heads that look back only bring all symbols but one: a compiled circuit answers what none of them is."""
    kept, dropped, windows = possible_part(BACKWARD, BACK.same_offset)
    assert not dropped
    known = windows[-1][QUERY]
    assert BACK.same_offset(1) not in known
    assert answerable(known, BACK) == frozenset(map(BACK.same_offset, range(8)))
    extracted = program_of(kept.steps, {}, BACK)
    assert extracted is not None
    by_rule, _ = compile_layers(lower(Program(MECHANISMS["tripling"](4).steps), BACK.same_offset), BACK)
    assert agreement(extracted, by_rule, BACK) == dict.fromkeys((1, 2, 3, 4), 1.0)
    parts = found(BACKWARD.steps, BACK, (1, 2, 3, 4), layers=4)
    assert parts.eliminated == {1}
    mechanism = name_carried(parts, BACK, None)
    assert mechanism.name == "doubling"
    assert "hop 1 since all others are known" in mechanism.reason


def test_a_far_hop_that_is_brought_at_once_is_no_mechanism_where_nothing_says_how_it_is_found():
    """Of a model that is asked hop 4 alone: one head that looks there, with and without the hops on the way."""
    task = Cycle(symbols=8, max_hops=4, supervision="final")
    at_once = (Step(3, Role("hop", 4), (QUERY,)),)
    mechanism = name_carried(found(at_once, task, (4,), layers=4), task, None)
    assert mechanism.name == "other"
    assert mechanism.reason.startswith("roles bring hop 4 without hop 1, 2, 3, and do not say what its source is found by; ")
    for name, steps in {name: make(4).steps for name, make in MECHANISMS.items()}.items():
        assert name_carried(found(steps, task, (4,)), task, None).name == name


def test_a_far_hop_that_is_found_from_behind_is_one_by_labels_and_by_selectors():
    """On a cycle of 8 hop 4 is hop -4: a query that looks back has it without hops 1 to 3, and each step finds its source."""
    task = Cycle(symbols=8, max_hops=4, supervision="final")
    jobs = ((Role("previous"), VALUE), (Role("hop", 1), VALUE), (Role("hop", 2), VALUE), (Role("hop", -3), QUERY))
    steps = [Step(layer, role, (place,)) for layer, (role, place) in enumerate(jobs)]
    extracted = program_of(steps, {}, task)
    assert extracted is not None
    assert not extracted.dropped
    assert answerable(extracted.windows[-1][QUERY], task) & {1, 2, 3, 4} == {4}
    reach = pd.DataFrame({"layer": [0, 1, 2, 3], "destination": "query", "hops": [(), (), (), (4,)]})
    by_labels = name_mechanism(extracted, task, reach)
    parts = found(steps, task, (4,), layers=4)
    by_selectors = name_carried(parts, task, reach, extracted.program.steps)
    assert by_labels.name == by_selectors.name == "doubling"
    assert "follow 0, 0, 0, 4 hops" in by_labels.reason
    assert name_carried(parts, task, reach).name == "other", "without a program that finds it"


@pytest.mark.parametrize("supervision", ["chain", "final"])
def test_the_mechanism_of_a_model_does_not_depend_on_which_hops_it_is_asked(supervision):
    """A hop a layer, and value slots that look ahead too late for anyone: depth counts what is known, whatever is asked."""
    task = Cycle(symbols=10, max_hops=3, supervision=supervision)
    jobs = ((0, Role("previous"), VALUE), *((hop, Role("hop", 1), QUERY) for hop in (1,)), (2, Role("hop", 1), VALUE))
    jobs += ((2, Role("hop", 2), QUERY), (3, Role("hop", 3), QUERY))
    steps = [Step(layer, role, (place,)) for layer, role, place in jobs]
    extracted = program_of(steps, {}, task)
    assert extracted is not None
    reach = pd.DataFrame({"layer": [0, 1, 2, 3], "destination": "query", "hops": [(), (1,), (1, 2), (1, 2, 3)]})
    by_labels = name_mechanism(extracted, task, reach)
    by_selectors = name_carried(found(steps, task, task.readout_hops, layers=4), task, reach, steps)
    for named_so in (by_labels, by_selectors):
        assert named_so.name == "one hop per layer"
        assert "follow 0, 1, 2, 3 hops" in named_so.reason


def test_nothing_is_eliminated_where_two_are_unknown():
    assert answerable(frozenset({0, 1, 2, 3, -1, -2}), BACK) == frozenset({0, 1, 2, 3, -1, -2})
    assert answerable(frozenset({0, 1}), CHAIN) == frozenset({0, 1})
