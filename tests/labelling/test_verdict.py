"""The table of statuses, cell by cell, and what is said where nothing is decided."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stackheads.labelling.cause import AblationEffects, CauseEvidence
from stackheads.labelling.needed import examples_needed, is_least
from stackheads.labelling.patterns import PatternEvidence
from stackheads.labelling.readouts import Readout
from stackheads.labelling.redundancy import with_joint_evidence
from stackheads.labelling.rivals import Contrast
from stackheads.labelling.rows import label_row, reason
from stackheads.labelling.statistics import Estimate, Shares, no_shares, unseen
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import (
    Answer,
    Evidence,
    JointEvidence,
    cause_answer,
    confirmed_again,
    pattern_answer,
    shares_answer,
    status,
    write_answer,
)
from stackheads.labelling.write import WriteEvidence
from stackheads.types import Destination, HeadId, Role, Status

THRESHOLDS = Thresholds()
EXAMPLES = 2048
READOUTS = (Readout(Destination.QUERY, 1), Readout(Destination.QUERY, 2))
SHARES = {
    "yes": ((0.4, 0.02), (0.0, 0.001)),
    "against": ((-0.3, 0.02), (0.0, 0.001)),
    "no": ((0.001, 0.002), (0.0, 0.001)),
    "undecided": ((0.015, 0.01), (0.0, 0.001)),
    "one readout undecided": ((0.0, 0.001), (0.03, 0.05)),
}


def shares_of(pairs, examples=EXAMPLES):
    value, half = (torch.tensor(part, dtype=torch.double) for part in zip(*pairs, strict=True))
    asked = torch.tensor(examples).expand(len(pairs))
    return Shares(value, value - half, value + half, half / 3, asked, 0.5, value.expand(100, -1))


def cause(kind, unclear=(), guess=None):
    effects = shares_of(SHARES[kind]) if kind in SHARES else no_shares()
    readouts = READOUTS[: len(effects)]
    both = AblationEffects([0.0, 0.0] if kind == "nothing open" else effects.value.tolist(), [0.1, 0.1])
    ablations = {} if guess is not None else {"resample": both, "mean": both, "zero": both}
    return CauseEvidence(readouts, effects, (0.1,) * len(effects), unclear, EXAMPLES, READOUTS, ablations, guess)


def write(kind):
    if kind == "untested":
        return WriteEvidence(no_shares(), (), 0, EXAMPLES)
    return WriteEvidence(
        shares_of(SHARES[kind]), ("its source moves hop 1 @query", "its source moves hop 2 @query"), 9, EXAMPLES
    )


LEADS = {"yes": 0.7, "no": 0.1, "undecided": 0.19}


def pattern(kind):
    lead = LEADS.get(kind, 0.1)
    found = Estimate(lead, lead - 0.05, lead + 0.05, EXAMPLES)
    named = {kind: (Role("previous"),)} if kind in ("coinciding", "fixed", "rare") else {}
    return PatternEvidence(Role("hop", 1), lead + 0.1, "self", 0.1, found, found, 1e-9, found, 500, EXAMPLES, **named)


def beside_tables(kind, *leads, examples=EXAMPLES):
    """A pattern beside tables from which its role differs in so many examples, with these leads there, known to 0.05."""
    told = [Estimate(lead, lead - 0.05, lead + 0.05, examples) for lead in leads]
    tables = tuple(Contrast("symbols", 0.5 + lead.value / 2, 0.5 - lead.value / 2, lead, 2 * examples) for lead in told)
    return replace(pattern(kind), contrasts=tables)


def evidence(looks, matters, written=None, redundant=False, **more):
    joint = JointEvidence(HeadId(1, 1), cause("yes"), (0.0, 0.0), write("yes")) if redundant else None
    return Evidence(
        HeadId(1, 0), Destination.QUERY, pattern(looks), cause(matters, **more), write(written) if written else None, joint
    )


def test_what_was_not_measured_alone_is_no_zero_beside_a_joint_effect():
    """A readout may open on more examples than those on which one of the two was ablated, and then its effect is not known."""
    alone = evidence("yes", "no")
    pair = [replace(alone, head=HeadId(1, number)) for number in range(2)]
    every = [(item.head, item.where) for item in pair]

    def joint(one):
        return with_joint_evidence([one, pair[1]], lambda groups: [cause("yes")] * len(groups), answers, THRESHOLDS, every)

    def answers(questions):
        return [write("yes")] * len(questions)

    unknown = AblationEffects([None, 0.0], [None, 0.1])
    hidden = replace(pair[0], cause=replace(pair[0].cause, ablations={"resample": unknown}))
    assert [status(item, THRESHOLDS) for item in joint(pair[0])] == [Status.REDUNDANT] * 2
    assert [item.joint for item in joint(hidden)] == [None, None]


def test_a_backup_that_was_decided_before_is_one_with_its_partner():
    """Which of the two is looked at again must not decide which of them is redundant."""
    pair = [replace(evidence("yes", "no"), head=HeadId(1, number)) for number in range(2)]
    for again in (pair, pair[:1], pair[1:]):
        found = with_joint_evidence(
            pair,
            lambda groups: [cause("yes")] * len(groups),
            lambda questions: [write("yes")] * len(questions),
            THRESHOLDS,
            {(item.head, item.where) for item in again},
        )
        assert [status(item, THRESHOLDS) for item in found] == [Status.REDUNDANT] * 2


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (evidence("yes", "yes", "yes"), "confirmed"),
        (evidence("yes", "yes", "no"), "causal-unclassified"),
        (evidence("yes", "yes", "against"), "causal-unclassified"),
        (evidence("yes", "yes", "undecided"), "undecided"),
        (evidence("yes", "yes", "untested"), "undecided"),
        (evidence("yes", "no", "yes", redundant=True), "redundant"),
        (evidence("yes", "undecided", "yes", redundant=True), "redundant"),
        (evidence("yes", "undecided", "yes"), "undecided"),
        (evidence("yes", "one readout undecided", "yes"), "undecided"),
        (evidence("yes", "no", "yes"), "pattern-only"),
        (evidence("yes", "no", "no"), "pattern-only"),
        (evidence("yes", "no", "untested"), "pattern-only"),
        (evidence("yes", "no", "yes", unclear=READOUTS[:1]), "undecided"),
        (evidence("yes", "yes", "yes", unclear=READOUTS[:1]), "confirmed"),
        (evidence("yes", "against", "against"), "opposing"),
        (evidence("yes", "against", "yes"), "causal-unclassified"),
        (evidence("no", "yes"), "causal-unclassified"),
        (evidence("no", "against"), "causal-unclassified"),
        (evidence("no", "no"), "none"),
        (evidence("no", "undecided"), "undecided"),
        (evidence("no", "nothing open"), "none"),
        (evidence("no", "nothing open", unclear=READOUTS), "undecided"),
        (evidence("undecided", "yes"), "undecided"),
        (evidence("undecided", "no"), "undecided"),
        (evidence("coinciding", "yes"), "causal-unclassified"),
        (evidence("fixed", "yes"), "causal-unclassified"),
        (evidence("fixed", "no"), "none"),
        (evidence("rare", "yes"), "undecided"),
        (evidence("yes", "nothing open", guess=0.01), "undecided"),
        (evidence("no", "nothing open", guess=0.01), "undecided"),
    ],
)
def test_statuses(case, expected):
    assert status(case, THRESHOLDS) == expected
    row = label_row(case, THRESHOLDS)
    assert row["status"] == expected
    assert (row["would_decide"] is None) or expected == Status.UNDECIDED


KINDS = ("yes", "no", "undecided", "coinciding", "fixed", "rare")


@given(
    st.sampled_from(KINDS),
    st.sampled_from([*SHARES, "nothing open"]),
    st.sampled_from([None, "untested", *SHARES]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_on_bootstrap_samples_the_verdict_is_that_on_their_numbers(looks, matters, written, redundant, screened, seed):
    """Shares and leads are put where each sample has them, with intervals as wide, and judged one by one."""
    generator = torch.Generator().manual_seed(seed)
    item = evidence(looks, matters, written, redundant, guess=0.01 if screened else None)
    lead = item.pattern.lead
    drawn = tuple((lead.value + 0.1 * torch.randn(100, generator=generator)).tolist()) if seed % 2 else ()

    def with_draws(shares):
        return replace(shares, draws=shares.value + 0.1 * torch.randn(100, len(shares), generator=generator))

    item = replace(
        item,
        pattern=replace(item.pattern, lead_draws=drawn),
        cause=replace(item.cause, effects=with_draws(item.cause.effects)),
        write=item.write and replace(item.write, moved=with_draws(item.write.moved)),
    )

    def moved(shares, draw):
        value = shares.draws[draw]
        return replace(shares, value=value, low=shares.low + (value - shares.value), high=shares.high + (value - shares.value))

    for draw, found in enumerate(confirmed_again(item, THRESHOLDS).tolist()):
        by = drawn[draw] - lead.value if drawn else 0.0
        again = replace(
            item,
            pattern=replace(item.pattern, lead=replace(lead, value=lead.value + by, low=lead.low + by, high=lead.high + by)),
            cause=replace(item.cause, effects=moved(item.cause.effects, draw)),
            write=item.write and replace(item.write, moved=moved(item.write.moved, draw)),
        )
        assert found == (status(again, THRESHOLDS) == Status.CONFIRMED)


def test_a_role_is_named_only_where_the_pattern_passed():
    assert (label_row(evidence("yes", "yes", "yes"), THRESHOLDS)["hop"]) == 1
    row = label_row(evidence("no", "yes"), THRESHOLDS)
    assert (row["role"], row["hop"], row["looks_like"]) == (None, None, "hop 1")


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (evidence("coinciding", "yes"), "ambiguous: no row tells previous apart"),
        (evidence("fixed", "yes"), "ambiguous: the source of previous is always in the same place; vary the layout"),
        (evidence("rare", "yes"), "whose source stands in too few examples"),
        (evidence("rare", "yes"), "; at least 4,096 examples are needed"),
        (evidence("yes", "yes", "no"), "but what it carries does not matter: its source moves"),
        (evidence("yes", "yes", "untested"), "not tested whether what it carries matters"),
        (evidence("yes", "no", "yes", redundant=True), "with L1H1 0.40 of hop 1 @query against 0.00 for the sum"),
        (evidence("yes", "no", "yes"), "no effect (ablation takes 0.00 of hop"),
        (evidence("yes", "undecided", "yes"), "undecided whether it matters (ablation takes 0.01 of hop 1 @query [0.00, 0.03]"),
        (evidence("no", "nothing open"), "the model answers nothing better than chance"),
        (evidence("no", "nothing open", unclear=READOUTS), "not decided whether the model answers hop 1 @query, hop 2 @query"),
        (evidence("no", "nothing open", unclear=READOUTS), "; at least 4,096 examples are needed"),
        (evidence("no", "nothing open", guess=0.5), "not ablated: by gradient it would take 0.50"),
        (evidence("yes", "one readout undecided", "yes"), "about 8,192 examples would decide"),
    ],
)
def test_reasons_name_what_decided(case, says):
    assert says in reason(case, THRESHOLDS)


def test_a_verdict_that_another_ablation_would_not_give_says_so():
    flipping = evidence("yes", "yes", "yes")
    flipping.cause.ablations["zero"] = AblationEffects([0.0, 0.0], [0.0, 0.0])
    assert "flips with zero ablation" in reason(flipping, THRESHOLDS)


shares_strategy = st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 0.5)), min_size=1, max_size=6)


@given(shares_strategy, st.integers(16, 5000))
def test_no_effect_is_said_only_of_intervals_inside_the_bar(pairs, examples):
    shares, bar = shares_of(pairs, examples), THRESHOLDS.min_effect
    answer = shares_answer(shares, bar, THRESHOLDS)
    if answer == Answer.NO:
        hidden = unseen(examples, THRESHOLDS.confidence)
        assert all(abs(value) + half + hidden < bar + 1e-12 for value, half in pairs)
    if answer == Answer.YES:
        assert any(value >= bar and value > half for value, half in pairs)
    if answer == Answer.AGAINST:
        assert any(value <= -bar for value, _ in pairs)


@given(shares_strategy)
def test_turning_the_signs_turns_the_answer(pairs):
    """Yes and against are each other's mirror but for what wins where both are there."""
    there = shares_answer(shares_of(pairs), 0.02, THRESHOLDS)
    back = shares_answer(shares_of([(-value, half) for value, half in pairs]), 0.02, THRESHOLDS)
    if there == Answer.AGAINST:
        assert back == Answer.YES
    if there == Answer.NO:
        assert back == Answer.NO


def test_few_examples_deny_nothing():
    """An effect that is in one example of 50, and whole there, is missed by 32 examples every other time."""
    assert shares_answer(shares_of([(0.0, 0.0)], 200), 0.02, THRESHOLDS) == Answer.UNDECIDED
    assert shares_answer(shares_of([(0.0, 0.0)], 256), 0.02, THRESHOLDS) == Answer.NO
    assert pattern_answer(pattern("no"), THRESHOLDS) == Answer.NO


def test_a_readout_that_few_examples_ask_denies_nothing_however_many_there_are():
    """Every channel counts the examples that could have shown it, not all that were drawn."""
    often, rarely = shares_of([(0.0, 0.0), (0.0, 0.0)]), shares_of([(0.0, 0.0), (0.0, 0.0)], [EXAMPLES, 32])
    for answer, evidence, name in (
        (cause_answer, cause("no"), "effects"),
        (write_answer, WriteEvidence(often, ("hop 1 @query", "hop 2 @query"), 9, EXAMPLES), "moved"),
    ):
        assert answer(replace(evidence, **{name: often}), THRESHOLDS) == Answer.NO
        assert answer(replace(evidence, **{name: rarely}), THRESHOLDS) == Answer.UNDECIDED
    looks = pattern("no")
    few = replace(looks.furthest, value=0.0, low=0.0, high=0.19, examples=32)
    assert pattern_answer(replace(looks, furthest=few), THRESHOLDS) == Answer.UNDECIDED
    assert pattern_answer(replace(looks, furthest=replace(few, examples=EXAMPLES)), THRESHOLDS) == Answer.NO
    undecided = replace(evidence_with(rarely), pattern=pattern("yes"))
    assert status(undecided, THRESHOLDS) == Status.UNDECIDED
    assert examples_needed(undecided, THRESHOLDS) == 16384  # of which one in 64 asks


def evidence_with(effects):
    return replace(evidence("yes", "no"), cause=replace(cause("no"), effects=effects))


def test_a_role_hardly_beyond_its_null_is_none_however_sure_that_is():
    looks = pattern("yes")
    hardly = replace(looks, beyond=Estimate(0.01, 0.005, 0.015, EXAMPLES))
    assert (pattern_answer(looks, THRESHOLDS), pattern_answer(hardly, THRESHOLDS)) == (Answer.YES, Answer.NO)
    case = replace(evidence("yes", "yes", "yes"), pattern=replace(hardly, lead_draws=(0.7,) * 100))
    assert not bool(confirmed_again(case, THRESHOLDS).any())


@pytest.mark.parametrize("shown", [0, 1])
def test_a_null_that_one_example_or_none_could_show_asks_for_twice_as_many(shown):
    """A source that stands in few examples may never stand in the next one, which the null is measured on, too."""
    looks = replace(pattern("yes"), beyond=Estimate(float(shown), -math.inf, math.inf, shown), p_value=0.5)
    case = replace(evidence("yes", "yes", "yes"), pattern=looks)
    assert pattern_answer(looks, THRESHOLDS) == Answer.UNDECIDED
    assert examples_needed(case, THRESHOLDS) == 2 * EXAMPLES
    assert is_least(case, THRESHOLDS)
    assert "no number of examples" not in reason(case, THRESHOLDS)


@pytest.mark.parametrize(("resample", "other", "flips"), [("no", -0.3, True), ("no", 0.0, False), ("against", 0.0, True)])
def test_a_verdict_flips_from_any_side_of_the_bar_to_another(resample, other, flips):
    case = evidence("yes", resample)
    case.cause.ablations["mean"] = AblationEffects([other, other], [0.0, 0.0])
    assert ("flips with mean" in reason(case, THRESHOLDS)) == flips


def test_what_would_decide_decides():
    """An effect of 0.001 ± 0.04 on 512 examples: with that many it would be inside the bar, with half as many not."""
    wide = replace(cause("no"), effects=shares_of([(0.001, 0.04)]), readouts=READOUTS[:1], examples=512)
    open_row = replace(evidence("no", "no"), cause=wide)
    needed = examples_needed(open_row, THRESHOLDS)
    for examples, decided in ((needed, True), (needed // 2, False)):
        narrower = replace(wide, effects=shares_of([(0.001, 0.04 * (512 / examples) ** 0.5)]), examples=examples)
        assert (cause_answer(narrower, THRESHOLDS) == Answer.NO) == decided
    at_the_bar = replace(open_row, cause=replace(wide, effects=shares_of([(0.01999, 0.04)])))
    assert examples_needed(at_the_bar, THRESHOLDS) is None
    assert "no number of examples may decide" in reason(at_the_bar, THRESHOLDS)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (beside_tables("yes", 0.7), "yes"),
        (beside_tables("yes", 0.0), "yes"),  # what takes as much is no better
        (beside_tables("yes", -0.15), "yes"),  # … nor what takes a little more
        (beside_tables("yes", -0.3), "no"),
        (beside_tables("yes", 0.7, -0.3), "no"),  # one table is enough
        (beside_tables("yes", -0.3, examples=16), "yes"),  # a fourth of all examples may be of a kind that is not among 16
        (beside_tables("yes", -0.9, examples=16), "no"),
        (beside_tables("yes", -0.9, examples=15), "yes"),  # too few to measure
        (beside_tables("undecided", -0.9), "not decided"),
        (beside_tables("no", -0.9), "no"),
    ],
)
def test_a_role_is_denied_by_a_table_that_takes_more_by_the_bar_where_they_differ(found, expected):
    assert str(pattern_answer(found, THRESHOLDS)) == expected


def test_a_head_that_follows_a_table_matters_without_a_role():
    one = replace(evidence("yes", "yes", "yes"), pattern=beside_tables("yes", -0.9))
    assert confirmed_again(evidence("yes", "yes", "yes"), THRESHOLDS).all()
    assert not confirmed_again(one, THRESHOLDS).any()
    row = label_row(one, THRESHOLDS)
    assert (row["status"], row["role"], row["looks_like"]) == ("causal-unclassified", None, "hop 1")
    assert row["reason"].startswith(
        "no role but a table of symbols: where hop 1 names another source, in 2,048 examples, 0.05 of attention on the role's, "
    )
