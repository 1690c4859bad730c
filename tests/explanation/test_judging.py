"""Selectors that a head has are told from those that it has not, whatever the answer makes of them."""

import copy
import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import subject

from stackheads.explanation.attention_fit import fitted_to_attention, steepest
from stackheads.explanation.examples import Examples
from stackheads.explanation.judging import FLAT, gate_of, judged
from stackheads.explanation.measuring import rolled
from stackheads.explanation.selected import select
from stackheads.explanation.sums import Sum, cross_entropy, most_nats, varies
from stackheads.labelling.bench import make_bench
from stackheads.labelling.rows import selector_reason
from stackheads.labelling.selectors import Kind, Selector, candidates, make_rows
from stackheads.labelling.statistics import Estimate, Shares, mean_interval, no_shares, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, SelectorEvidence, selector_answer, selector_status
from stackheads.labelling.write import WriteEvidence
from stackheads.seeds import Stream
from stackheads.tasks import Conditional, Cycle, gates
from stackheads.tasks.layout import matched
from stackheads.types import Destination, Gate, Role, Slot

HOP, BACK, PREVIOUS = (Selector("role", role) for role in (Role("hop", 1), Role("hop", -1), Role("previous")))
VALUE = Destination.VALUE


@pytest.fixture(scope="module")
def known():
    """Two samples on which every head of a model looks at hop 1, weight 3, and nowhere else."""
    model, task = subject("cycle-d4-l3")
    fit, trial = (
        Examples(make_bench(model, task, 64, 0, Thresholds(), name)) for name in (Stream.SELECTORS, Stream.SELECTORS_TRIED)
    )
    truth = having(fit, {HOP: 3.0})
    for examples in (fit, trial):
        examples.attention = {place: rows.patterns(truth.at(place), fit.heads) for place, rows in examples.rows.items()}
    return fit, trial


def having(examples, weights):
    """Every head with these selectors at value slots."""
    chosen = examples.everything()
    live = {place: marks & (place == VALUE) for place, marks in chosen.live.items()}
    taken = {(VALUE, selector): torch.full((examples.heads, 1, 1), weight) for selector, weight in weights.items()}
    return Sum(taken, {each: torch.ones(examples.heads, dtype=torch.bool) for each in taken}, live)


def judge(chosen, fit, trial, effects=None):
    effects = effects or dict.fromkeys(chosen.taken(), no_shares())
    draws = resampling(len(trial.bench.clean.batch), 100, 0.99, torch.Generator().manual_seed(0))
    return judged(chosen, fit, trial, effects, draws, Thresholds(), 0)


def test_the_gain_of_a_head_s_only_selector_is_what_its_attention_has_less_than_even_attention(known):
    fit, trial = known
    visible = trial.bench.clean.batch.tokens.shape[1]
    peak = math.exp(3.0)
    entropy = math.log(visible - 1 + peak) - 3.0 * peak / (visible - 1 + peak)
    for evidence in judge(having(trial, {HOP: 1.0}), fit, trial).values():
        assert evidence.settled
        assert evidence.gain.value == pytest.approx(math.log(visible) - entropy, abs=1e-3)
        assert evidence.beyond is not None
        assert evidence.beyond.value > evidence.gain.value


def test_a_selector_that_a_head_has_not_gains_nothing(known):
    """However large its weight is in what was fitted to the answer."""
    fit, trial = known
    found = judge(having(trial, {HOP: 3.0, BACK: 5.0, PREVIOUS: 5.0}), fit, trial)
    for (_, _, selector), evidence in found.items():
        assert (evidence.gain.value > 0.5) == (selector == HOP)
        assert abs(evidence.gain.value) < 1e-3 or selector == HOP


def test_a_table_gains_what_it_adds_to_a_simpler_selector(known):
    """Key slots as a table of their places gain nothing, and as a slot they do. Places that make up no slot gain as a table,
    also where the head looks at something simpler that is not among its selectors.
    """
    fit, trial = known
    keys, place = Selector("slot", Slot.KEY), Selector("position", "place")
    rows = fit.rows[VALUE]
    as_table, other = torch.zeros(rows.size(place), 1), torch.zeros(rows.size(place), 1)
    as_table[fit.bench.clean.batch.slots[0] == Slot.KEY] = 1.0
    other[: rows.size(place) // 2] = 1.0
    made = []
    for numbers in (as_table, other):
        truth = having(fit, {HOP: 3.0})
        truth.weights[VALUE, place] = numbers.expand(fit.heads, -1, -1).clone()
        truth.has[VALUE, place] = torch.ones(fit.heads, dtype=torch.bool)
        some = [copy.copy(examples) for examples in (fit, trial)]
        for examples in some:
            examples.attention = {at: each.patterns(truth.at(at), fit.heads) for at, each in examples.rows.items()}
        made.append((judge(truth, *some), judge(having(fit, {HOP: 3.0, keys: 1.0}), *some)))
    gains = [[evidence[VALUE, 0, one].gain.value for evidence, one in zip(each, (place, keys), strict=True)] for each in made]
    assert gains[0][0] < 0.005 < 0.03 < gains[0][1]
    assert gains[1][0] > 0.03
    some = [copy.copy(examples) for examples in (fit, trial)]
    for examples in some:
        examples.attention = {at: each.patterns(truth.at(at), fit.heads) for at, each in examples.rows.items()}
    alone = judge(truth.without([(VALUE, head, HOP) for head in range(fit.heads)]), *some)
    assert alone[VALUE, 0, place].gain.value > 0.03


def test_a_gate_has_the_values_that_the_examples_have(known):
    """Also where the weight is largest at one that none of these has. Of those that there were none of when it was fitted it
    says nothing. One that acts at all of them is none.
    """
    _, trial = known
    rows = trial.rows[VALUE]
    (name,) = rows.gates
    seen = replace(rows, gates={name: rows.gates[name].clamp(min=2, max=4)})
    gated = Selector("role", Role("hop", 1), name)
    weight = torch.tensor([[9.0, -9.0, 0.1, 1.0]])
    assert gate_of(seen, gated, weight) == Gate(name, (3,))
    assert gate_of(seen, gated, torch.tensor([[9.0, 9.0, 0.0, 0.0]])) is None
    assert gate_of(seen, gated, torch.tensor([[9.0, 9.0, 4.0, 5.0]])) is None
    assert gate_of(seen, gated, -weight) == Gate(name, (3,))


def test_a_table_counts_for_what_roles_do_not_tell(known):
    """Previous and distance can each stand for the other: it is the role that the head has."""
    fit, trial = (copy.copy(examples) for examples in known)
    distance = Selector("position", "distance")
    truth = having(fit, {PREVIOUS: 3.0})
    for examples in (fit, trial):
        examples.attention = {place: rows.patterns(truth.at(place), fit.heads) for place, rows in examples.rows.items()}
    chosen = having(trial, {PREVIOUS: 1.0})
    size = trial.rows[VALUE].size(distance)
    both = chosen.offering({(VALUE, distance): (size, 1)}, torch.device("cpu"))
    for (_, _, selector), evidence in judge(both, fit, trial).items():
        assert (evidence.gain.value > 0.5) == (selector == PREVIOUS)
        assert abs(evidence.gain.value) < 0.01 or selector == PREVIOUS


def test_what_says_the_same_in_every_example_is_compared_with_no_other(known):
    fit, trial = known
    found = judge(having(trial, {HOP: 3.0, PREVIOUS: 1.0}), fit, trial)
    assert {selector for (_, _, selector), evidence in found.items() if evidence.beyond is None} == {PREVIOUS}


def test_fits_to_attention_end_where_nothing_changes(known):
    fit, _ = known
    chosen = having(fit, {HOP: 0.0, BACK: 0.0, PREVIOUS: 0.0})
    assert max(float(slope.max()) for slope in steepest(chosen, fit).values()) > 0.1
    assert max(float(slope.max()) for slope in steepest(fitted_to_attention(chosen, fit), fit).values()) < FLAT


def test_the_selectors_of_another_head_are_never_confirmed():
    """The null, given the effects of the head's own: that they matter is not enough."""
    model, task = subject("cycle-d4-l3")
    streams = (Stream.SELECTORS, Stream.SELECTORS_JUDGED, Stream.SELECTORS_TRIED)
    fit, judge_on, tried = (make_bench(model, task, 256, 0, Thresholds(), name) for name in streams)
    examples, trial = Examples(fit), Examples(tried)
    chosen = select(examples, Examples(judge_on))
    other = rolled(chosen, examples)
    assert other is not None
    effects = dict.fromkeys(other.taken(), shares(0.5, 0.4, 0.6))
    draws = resampling(256, 100, 0.99, torch.Generator().manual_seed(0))
    found = judged(other, examples, trial, effects, draws, Thresholds(), 0)
    assert len(found) >= 6
    said = [str(selector_status(evidence, Thresholds())) for evidence in found.values()]
    assert set(said) <= {"causal-unclassified", "undecided"}
    assert "causal-unclassified" in said


def shares(value, low, high):
    one = (torch.tensor([each], dtype=torch.double) for each in (value, low, high, (high - low) / 5))
    return Shares(*one, torch.tensor([512]))


LOOKS = {"yes": (0.5, 0.4, 0.6), "no": (0.001, 0.0, 0.002), "undecided": (0.04, -0.1, 0.2)}
MOVES = {"yes": (0.5, 0.4, 0.6), "against": (-0.5, -0.6, -0.4), "no": (0.0, -0.001, 0.001), "undecided": (0.03, -0.1, 0.2)}
VERDICTS = [
    ("yes", "yes", "yes", "confirmed", "moves"),
    ("yes", "against", "against", "opposing", "moves"),
    ("yes", "yes", "no", "causal-unclassified", "does not matter"),
    ("yes", "yes", "undecided", "undecided", "undecided whether what it carries matters"),
    ("yes", "no", "yes", "pattern-only", "no effect"),
    ("yes", "undecided", "yes", "undecided", "undecided whether it matters"),
    ("no", "yes", "yes", "causal-unclassified", "does not look there"),
    ("no", "no", "yes", "none", "no effect"),
    ("undecided", "yes", "yes", "undecided", "undecided whether it looks there"),
]


@pytest.mark.parametrize(("looks", "matters", "carries", "status", "said"), VERDICTS)
def test_three_channels_make_the_verdict(looks, matters, carries, status, said):
    evidence = evidence_of(looks, matters, carries)
    assert str(selector_status(evidence, Thresholds())) == status
    assert said in selector_reason(evidence, Thresholds())


def evidence_of(looks, matters, carries, settled=True, beyond=None):
    write = WriteEvidence(shares(*MOVES[carries]), ("its source moves hop 1",), 512, 512)
    gain = Estimate(*LOOKS[looks], 512)
    readouts = (subject_readout(),)
    return SelectorEvidence(gain, beyond, settled, shares(*MOVES[matters]), readouts, write)


def subject_readout():
    model, task = subject("cycle-d4-l3")
    return make_bench(model, task, 16, 0, Thresholds()).baseline.readouts[0]


def test_a_fit_that_did_not_end_decides_nothing():
    evidence = evidence_of("yes", "yes", "yes", settled=False)
    assert str(selector_status(evidence, Thresholds())) == "undecided"
    assert "the fit did not end" in selector_reason(evidence, Thresholds())


def test_what_another_example_tells_as_well_is_not_looked_at():
    """Attention on a place where a role's source stands often."""
    evidence = evidence_of("yes", "yes", "yes", beyond=Estimate(0.0, -0.001, 0.001, 512))
    assert str(selector_status(evidence, Thresholds())) == "causal-unclassified"


@pytest.mark.parametrize("nats", [0.5, 4.0, 10.0])
def test_a_gain_that_few_examples_show_is_denied_as_rarely_as_is_said(nats):
    """In so many examples that their mean is above the bar, and nothing in all others."""
    share, generator = 1.2 * Thresholds().min_gain / nats, torch.Generator().manual_seed(0)
    denied = 0
    for _ in range(1000):
        shown = nats * (torch.rand(512, 1, generator=generator) < share).double()
        mean, low, high = (each.item() for each in mean_interval(shown, torch.ones_like(shown), 1 - Thresholds().null_p, 10))
        gain = Estimate(mean, low, high, 512, most=nats)
        denied += selector_answer(SelectorEvidence(gain, None, True, no_shares(), (), None), Thresholds()) == Answer.NO
    assert denied <= 10


@pytest.mark.parametrize(
    "task", [Cycle(symbols=5, max_hops=2), Conditional(symbols=6, kinds=2, max_hops=2)], ids=["cycle", "conditional"]
)
@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_no_row_shows_more_nats_than_the_weights_can(task, data, seed):
    """Whatever the weights, of whichever selectors, wherever the head looks; beside other weights and in another example."""
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(4, generator)
    rows, others = make_rows(task, batch, VALUE), make_rows(task, batch, VALUE, matched(batch))
    offered = [each for kind in get_args(Kind) for gate in (None, *gates(batch)) for each in candidates(task, rows, kind, gate)]
    one, other = (data.draw(st.lists(st.sampled_from(offered), min_size=1, max_size=4, unique=True)) for _ in range(2))
    weights, beside = (
        {each: 9 * torch.randn(1, rows.size(each), rows.values(each.gate), generator=generator) for each in some}
        for some in (one, other)
    )
    most, own = most_nats(weights, beside), rows.patterns(weights, 1)[0]
    selector = one[0]
    rest = {each: weight for each, weight in weights.items() if each != selector}
    elsewhere = (rows.patterns(rest, 1)[0].log() + others.score(selector, weights[selector])[0]).softmax(dim=-1)
    for target in (own, rows.patterns(beside, 1)[0], elsewhere, *(one_hot.expand_as(own) for one_hot in torch.eye(rows.n_pos))):
        seen = target * (rows.hidden == 0)
        told = cross_entropy(seen, own)
        assert bool((cross_entropy(seen, rows.patterns(beside, 1)[0]) - told <= most + 1e-3).all())
        assert bool((cross_entropy(seen, elsewhere) - told <= 2 * varies(selector, weights[selector]) + 1e-3).all())
