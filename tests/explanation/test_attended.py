"""Selectors that are chosen by attention are those that attention was made of, and of trained heads those that labels name."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import subject

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.explanation.attended import attended
from stackheads.explanation.attention_fit import RIDGE, fitted_to_attention
from stackheads.explanation.examples import Examples
from stackheads.explanation.gains import best_weights
from stackheads.explanation.sums import Sum, cross_entropy
from stackheads.explanation.taken_out import OfModel, moved
from stackheads.labelling.bench import make_bench
from stackheads.labelling.selectors import Selector
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream
from stackheads.tables import records, role_of
from stackheads.types import Destination, Role, Slot
from stackheads.validation.blends import BLENDS, jobs_by_construction
from stackheads.validation.specimens import Guise, specimen

VALUE, QUERY = Destination.VALUE, Destination.QUERY
KNOWN = ("one hop per layer", "tripling", "cycle-d4-l3", "chain-d4-l4")
HOP, AGAIN, PREVIOUS = (Selector("role", role) for role in (Role("hop", 1), Role("hop", 2), Role("previous")))
OWN = "own symbol"
EXAMPLES = 128


@pytest.fixture(scope="module")
def benches():
    """Two samples of one model."""
    model, task = subject("cycle-d4-l3")
    return [
        Examples(make_bench(model, task, 128, 0, Thresholds(), name)) for name in (Stream.SELECTORS, Stream.SELECTORS_JUDGED)
    ]


def looking(benches, made):
    """The samples with attention that is made of selectors at value slots: `made` says which and how strongly, head by head."""
    taken = {selector for weights in made for selector in weights}
    heads = benches[0].heads
    weights, has = {}, {}
    for selector in taken:
        rows = benches[0].rows[VALUE]
        shape = rows.size(selector), rows.values(selector.gate)
        weights[VALUE, selector] = torch.zeros(heads, *shape)
        has[VALUE, selector] = torch.tensor([selector in made[head % len(made)] for head in range(heads)])
        for head in range(heads):
            if selector in made[head % len(made)]:
                weights[VALUE, selector][head] = made[head % len(made)][selector]
    live = {place: torch.ones(heads, dtype=torch.bool) for place in benches[0].rows}
    truth, found = Sum(weights, has, live), []
    for bench in benches:
        examples = copy.copy(bench)
        examples.attention = {place: rows.patterns(truth.at(place), heads) for place, rows in bench.rows.items()}
        found.append(examples)
    return truth, found


def gated(values, weight):
    """A weight at some of eight values of a gate."""
    return torch.tensor([[weight if value in values else 0.0 for value in range(8)]])


def table(seed, rows, selector):
    """A table of numbers with nothing in common."""
    return 3.0 * torch.randn(rows.size(selector), rows.values(selector.gate), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("strength", [1.5, 3.0, 8.0])
def test_what_attention_is_made_of_is_found(benches, strength):
    """Roles alone, mixed, under a gate; slots; tables of distances and of symbols; nothing. With their weights."""
    rows = benches[0].rows[VALUE]
    distance, content = Selector("position", "distance"), Selector("content", Slot.VALUE, OWN)
    keys, under = Selector("slot", Slot.KEY), Selector("role", Role("hop", 1), OWN)
    made = [
        {HOP: strength, AGAIN: strength - 0.4},
        {under: gated((1, 3, 5), strength)},
        {keys: strength},
        {distance: table(0, rows, distance)},
        {content: table(1, rows, content)},
        {},
    ]
    truth, (fit, judge) = looking(benches, made)
    chosen = attended(fit, judge, 0.03)
    found = {
        head: {selector for place, number, selector in chosen.taken() if (place, number) == (VALUE, head)} for head in range(6)
    }
    assert found == {head: set(weights) for head, weights in enumerate(made)}
    assert {place for place, _, _ in chosen.taken()} == {VALUE}
    told, own = (rows.patterns(one.at(VALUE), fit.heads) for one in (chosen, truth))
    assert (cross_entropy(own, told) - cross_entropy(own, own)).mean() < 0.02
    for selector, head in ((HOP, 0), (AGAIN, 0), (keys, 2)) if strength < 8 else ():  # e^-8 is left to tell larger ones by
        assert chosen.weights[VALUE, selector][head].item() == pytest.approx(made[head][selector], rel=0.06)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_best_weight_of_some_sources_is_the_best(data):
    """And its gain the cross-entropy that softmax has with it and without."""
    rows, sources, values = 12, 5, data.draw(st.integers(1, 3))
    numbers = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    target, pattern = (torch.randn(rows, sources, generator=numbers).softmax(-1) for _ in range(2))
    mask = (torch.rand(rows, sources, generator=numbers) < 0.4).float()
    gate = torch.randint(values, (rows,), generator=numbers)
    weight, gain = best_weights((target * mask).sum(-1)[None], (pattern * mask).sum(-1)[None], gate, values)

    def entropy(shift):
        return cross_entropy(target, (pattern.log() + shift[gate][:, None] * mask).softmax(-1))

    assert torch.allclose(entropy(torch.zeros(values)) - entropy(weight[0]), gain[0], atol=2e-3)
    for step in (-0.2, 0.2):
        for value in range(values):
            other = weight[0].clone()
            other[value] += step
            assert float(entropy(other).sum()) >= float(entropy(weight[0]).sum()) - 1e-4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), values=st.integers(1, 3), heads=st.integers(2, 6))
def test_the_best_weights_of_many_are_those_of_each(seed, values, heads):
    """Whoever is there first waits for nobody, also where a weight is as large as weights become."""
    numbers = torch.Generator().manual_seed(seed)
    target, pattern = (torch.rand(heads, 10, generator=numbers) for _ in range(2))
    target[0] = 1.0  # all of the attention: no weight is large enough
    gate = torch.randint(values, (10,), generator=numbers)
    weights, gains = best_weights(target, pattern, gate, values)
    for head in range(heads):
        weight, gain = best_weights(target[head, None], pattern[head, None], gate, values)
        assert torch.allclose(gains[head], gain[0], atol=1e-4)
        assert head == 0 or torch.allclose(weights[head], weight[0], atol=1e-3)  # what is large enough is not sharp


def test_a_fit_of_some_heads_is_that_of_all_and_leaves_the_others(benches):
    truth, (fit, _) = looking(benches, [{HOP: 3.0, PREVIOUS: 1.0}, {HOP: 1.0, PREVIOUS: 2.0}])
    start = Sum({taken: torch.zeros_like(weight) for taken, weight in truth.weights.items()}, truth.has, truth.live)
    every, some = fitted_to_attention(start, fit), fitted_to_attention(start, fit, [(VALUE, 1)])
    for taken, weight in some.weights.items():
        assert torch.allclose(weight[1], every.weights[taken][1], atol=1e-3)
        assert not weight[[0, 2, 3, 4, 5]].any()
        assert torch.allclose(every.weights[taken], truth.weights[taken], atol=0.1)
    assert RIDGE < 1e-4


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_taken_out_moves_to_where_more_is_without_it(seed):
    """It stays a pattern; where the fitted one is the head's own, what is left is the fitted one without."""
    numbers = torch.Generator().manual_seed(seed)
    own, told, rest = (torch.randn(4, 6, generator=numbers).mul(3).softmax(-1) for _ in range(3))
    left = moved(own, told, rest)
    assert torch.allclose(left.sum(-1), torch.ones(4), atol=1e-5)
    assert bool((left >= 0).all())
    assert torch.allclose(moved(told, told, rest), rest, atol=1e-4)
    assert torch.allclose(moved(own, told, told), own)


def test_without_a_selector_the_model_runs_on_by_itself():
    """As with the head's pattern replaced in TransformerLens, whose later layers look anew."""
    model, task = subject("cycle-d4-l3")
    fit, trial = (
        Examples(make_bench(model, task, 48, 0, Thresholds(), name)) for name in (Stream.SELECTORS, Stream.SELECTORS_TRIED)
    )
    chosen = attended(fit, fit, 0.03)
    part = next(part for part in chosen.taken() if part == (VALUE, 3, Selector("role", Role("hop", -1))))  # L1H1
    (lost,) = OfModel(trial).each(chosen, [part])
    rows, batch = trial.rows[VALUE], trial.bench.clean.batch
    told, rest = (rows.patterns(one.of(VALUE, 3), 1)[0] for one in (chosen, chosen.without([part])))

    def without(pattern, hook):
        at = rows.at[:, 0], 1, rows.at[:, 1]
        new = pattern.clone()
        new[at] = moved(pattern[at], told, rest)
        return new

    logits = model.run_with_hooks(batch.tokens, fwd_hooks=[("blocks.1.attn.hook_pattern", without)])
    expected = trial.bench.baseline.clean.margin - trial.bench.scorer.score(logits).margin
    assert torch.allclose(lost, expected, atol=1e-3)
    assert float(lost.abs().max()) > 1


@pytest.fixture(scope="module")
def explained():
    """Analysis and selectors of attention of each known circuit."""
    found = {}
    for name in KNOWN:
        analysis = analyze(*subject(name), examples=EXAMPLES, explain=False, progress=False)
        found[name] = analysis, analysis.selectors(examples=EXAMPLES, progress=False, fitted_to="attention")
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_every_confirmed_label_is_a_confirmed_selector(explained, name):
    """Of heads that only tell later ones where to look as well; and no other role is confirmed."""
    analysis, selected = explained[name]
    labels = {row_of(row) for row in records(analysis.labels) if row["status"] == "confirmed"}
    roles = {row_of(row) for row in records(selected.table) if row["status"] == "confirmed" and row["selector"] == "role"}
    assert roles == labels
    assert selected.fitted_to == "attention"
    assert selected.worst > 0.95


@pytest.mark.parametrize(
    ("name", "mechanism"), list(zip(KNOWN, ("one hop per layer", "tripling", "tripling", "doubling"), strict=True))
)
def test_selectors_of_attention_name_the_mechanism(explained, name, mechanism):
    assert explained[name][1].mechanism == mechanism


def test_the_same_again_whatever_surrounds_the_call(explained):
    analysis, selected = explained["tripling"]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        again = analysis.selectors(examples=EXAMPLES, progress=False, fitted_to="attention")
    assert again.to_dict() == selected.to_dict()


def test_in_double_precision_and_through_the_model_s_own_hooks(explained):
    """The same statuses where nothing is replayed, and in a model of other numbers."""
    model, task = subject("tripling")
    double = copy.deepcopy(model).double()
    double.cfg.dtype = torch.float64
    hooked = copy.deepcopy(model)
    hooked.add_hook("blocks.0.attn.hook_z", lambda value, hook: value, is_permanent=True)
    analysis, selected = explained["tripling"]
    for other in (double, hooked):
        table = analysis.selectors(other, task, examples=EXAMPLES, progress=False, fitted_to="attention").table
        named = ["head", "destination", "what", "status"]
        doing = [rows[rows["effect"].abs() > 0.1][named].values.tolist() for rows in (selected.table, table)]
        assert doing[0] == doing[1]
        assert len(doing[0]) > 4


def test_a_head_without_effect_does_nothing_whatever_its_selectors_do(explained):
    """Only a pattern that the model never has would show something."""
    for _, selected in explained.values():
        idle = [row for row in records(selected.table) if abs(row["head_effect"]) < 1e-4]
        assert idle
        assert not [row for row in idle if row["status"] in ("confirmed", "opposing", "causal-unclassified")]


@pytest.mark.parametrize("name", list(BLENDS))
def test_heads_that_look_at_several_things_are_said_to(name):
    """Every job by construction is confirmed, under its gate, and no other role."""
    made = specimen(name, BLENDS[name](), Guise(seed=3, normalization=None))
    analysis = analyze(made.model, made.task, examples=EXAMPLES, explain=False, progress=False)
    assert min(analysis.accuracy.values()) > 0.99
    table = records(analysis.selectors(examples=EXAMPLES, progress=False, fitted_to="attention").table)
    confirmed = {
        (row["head"], row["destination"], row["what"])
        for row in table
        if row["status"] == "confirmed" and (row["weight"] or 0) > 0
    }
    jobs = jobs_by_construction(made)
    wanted = {
        (str(head), str(place), f"{what.name.lower()} slots" if isinstance(what, Slot) else str(what))
        for (head, place), every in jobs.items()
        for what, _ in every
    }
    assert confirmed == wanted
    if name == "l: gated":
        under = [row for row in table if row["gate"] is not None and row["status"] == "confirmed"]
        assert [(row["what"], row["values"]) for row in under] in ([("hop 1", "0, 2, 4, 6, 8")], [("hop 2", "1, 3, 5, 7")])


def test_what_selectors_are_fitted_to_is_one_of_two():
    model, task = subject("cycle-d4-l3")
    analysis = analyze(model, task, examples=64, explain=False, progress=False)
    with pytest.raises(ConfigError, match="selectors are fitted to answer or attention, got 'labels'"):
        analysis.selectors(fitted_to="labels")


def row_of(row):
    """A head, where it acts, and its role."""
    return row["head"], row["destination"], str(role_of(row))


def test_a_tie_goes_to_the_earlier_kind(benches):
    """Distances can say what a role says that stands at one of them; where the role tells most, they tell the rest alone."""
    rows = benches[0].rows[VALUE]
    distance = Selector("position", "distance")
    beside, instead = (torch.zeros(rows.size(distance), rows.values(None)) for _ in range(2))
    beside[3], beside[5] = 2.5, 2.0
    instead[1:7] = 3.0
    truth, (fit, judge) = looking(benches, [{PREVIOUS: 4.0, distance: beside}, {distance: instead}, {PREVIOUS: 3.0}])
    chosen = attended(fit, judge, 0.03)
    found = {
        head: {selector for place, number, selector in chosen.taken() if (place, number) == (VALUE, head)} for head in range(3)
    }
    assert found == {0: {PREVIOUS, distance}, 1: {distance}, 2: {PREVIOUS}}
    told, own = (rows.patterns(one.at(VALUE), fit.heads) for one in (chosen, truth))
    assert (cross_entropy(own, told) - cross_entropy(own, own)).mean() < 0.02


def test_a_slot_keeps_its_word_beside_a_table_of_places(benches):
    """Which can say all that it says; a table that is no slot stays alone."""
    rows = benches[0].rows[VALUE]
    keys, place = Selector("slot", Slot.KEY), Selector("position", "place")
    made = [{HOP: 3.0, keys: 1.5, place: table(1, rows, place) / 6}, {HOP: 3.0, place: table(2, rows, place) / 3}]
    _, (fit, judge) = looking(benches, made)
    chosen = attended(fit, judge, 0.03)
    found = [{selector for at, number, selector in chosen.taken() if (at, number) == (VALUE, head)} for head in range(2)]
    assert found == [{HOP, keys, place}, {HOP, place}]
    alone = fitted_to_attention(chosen.without([(VALUE, 0, place)]), fit)
    assert chosen.weights[VALUE, keys][0].item() == pytest.approx(alone.weights[VALUE, keys][0].item(), abs=0.1)


def test_a_weight_that_is_held_stays_and_the_others_are_the_best_beside_it(benches):
    truth, (fit, _) = looking(benches, [{HOP: 3.0, PREVIOUS: 1.0}])
    start = Sum({taken: torch.full_like(weight, 2.0) for taken, weight in truth.weights.items()}, truth.has, truth.live)
    found = fitted_to_attention(start, fit, held={(VALUE, 0, HOP)})
    assert found.weights[VALUE, HOP][0].item() == 2.0
    assert found.weights[VALUE, HOP][1].item() == pytest.approx(3.0, abs=0.1)

    def entropy(step):
        weights = {one: weight + step * (one == PREVIOUS) for one, weight in found.at(VALUE).items()}
        return float(cross_entropy(fit.attention[VALUE][0], fit.rows[VALUE].patterns(weights, fit.heads)[0]).mean())

    assert all(entropy(step) > entropy(0.0) for step in (-0.2, 0.2))
