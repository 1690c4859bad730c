"""Weights that tell attention best are the same by every method, and of one model by every number of its rows."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import subject

from stackheads.explanation import attention_fit
from stackheads.explanation.attended import attended
from stackheads.explanation.attention_fit import RIDGE, fitted_to_attention, steepest
from stackheads.explanation.examples import Examples, Looks
from stackheads.explanation.sums import Sum, cross_entropy
from stackheads.labelling.bench import make_bench
from stackheads.labelling.selectors import candidates, make_rows
from stackheads.labelling.thresholds import Thresholds
from stackheads.seeds import Stream
from stackheads.tasks import Conditional, Cycle, KHopInduction, Retrieval, gates
from stackheads.types import Destination

TASKS = {
    "cycle": Cycle(symbols=5, max_hops=2),
    "retrieval": Retrieval(chains=2, max_hops=2, attention_dir="causal"),
    "khop": KHopInduction(max_hops=3, symbols=4, context=9),
    "conditional": Conditional(symbols=6, kinds=2, max_hops=2),
}
KINDS = ("role", "slot", "position", "content")


def drawn(data, name, seed):
    """Rows of one destination, some selectors of two heads, and attention that is made of them and noise."""
    task, generator = TASKS[name], torch.Generator().manual_seed(seed)
    batch = task.sample(16, generator)
    places = [place for place in Destination if len(make_rows(task, batch, place))]
    place = data.draw(st.sampled_from(places))
    rows = make_rows(task, batch, place)
    offered = [one for kind in KINDS for gate in [None, *gates(batch)] for one in candidates(task, rows, kind, gate)]
    some = data.draw(st.lists(st.sampled_from(offered), min_size=1, max_size=4, unique=True))
    shapes = {one: (2, rows.size(one), rows.values(one.gate)) for one in some}
    truth = {one: 2 * torch.randn(shape, generator=generator) for one, shape in shapes.items()}
    noise = torch.randn(2, len(rows), rows.n_pos, generator=generator)
    attention = (rows.patterns(truth, 2).clamp(min=1e-9).log() + noise + rows.hidden).softmax(-1)
    start = Sum(
        {(place, one): torch.zeros(shape) for one, shape in shapes.items()},
        {(place, one): torch.tensor([True, number % 2 == 0]) for number, one in enumerate(some)},
        {place: torch.ones(2, dtype=torch.bool)},
    )
    return start, Looks(task, {place: rows}, {place: attention}), place


def losses(chosen, looks, place):
    """What each head's fit is to make least."""
    told = cross_entropy(looks.attention[place], looks.rows[place].patterns(chosen.at(place), 2)).mean(dim=1)
    price = sum(weight.square().sum(dim=(1, 2)) for weight in chosen.at(place).values())
    return told + RIDGE * price


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(TASKS)), seed=st.integers(0, 2**31))
def test_newton_s_method_finds_the_least_cross_entropy(data, name, seed):
    """Not above what L-BFGS finds, nor near by; and what no head has, or no row shows, stays zero."""
    start, looks, place = drawn(data, name, seed)
    found = fitted_to_attention(start, looks)
    best = losses(found, looks, place)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attention_fit, "MOST_SELECTORS", -1)
        other = fitted_to_attention(start, looks, steps=200)
    assert bool((best <= losses(other, looks, place) + 1e-5).all())
    assert max(float(slope.max()) for slope in steepest(found, looks).values()) < 1e-3
    generator = torch.Generator().manual_seed(seed)
    for taken, weight in found.weights.items():
        assert not weight[~found.has[taken]].any()
        moved = {**found.weights, taken: weight + 0.1 * torch.randn(weight.shape, generator=generator)}
        near = Sum(moved, found.has, found.live)
        assert bool((losses(near, looks, place) >= best - 1e-5).all())


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(TASKS)), seed=st.integers(0, 2**31))
def test_columns_say_which_number_is_in_which_score(data, name, seed):
    """As scores that are each their number's own have it, where they may be seen; and what is on sources is a sum over them."""
    _, looks, place = drawn(data, name, seed)
    rows, pattern = looks.rows[place], looks.attention[place]
    seen = rows.hidden == 0
    for kind in KINDS:
        for gate in [None, *rows.gates]:
            for selector in candidates(looks.task, rows, kind, gate):
                size, values = rows.size(selector), rows.values(selector.gate)
                numbers = torch.arange(1.0, size * values + 1).view(1, size, values)
                score = rows.score(selector, numbers)[0].expand(len(rows), rows.n_pos)
                assert torch.equal(rows.columns(selector, values)[seen] + 1, score[seen].long())
                assert bool((rows.columns(selector, values)[~seen] == -1).all())
                on_each = (rows.on_each(selector, pattern, values) * numbers).sum(dim=(1, 2))
                torch.testing.assert_close(on_each, (pattern * score).sum(dim=(1, 2)), rtol=1e-4, atol=1e-4)
                if size == 1:
                    there = (pattern * (score > 0)).sum(dim=-1)
                    torch.testing.assert_close(rows.on(selector, pattern), there)


@pytest.mark.filterwarnings("ignore:running the model through its own hooks")
def test_selectors_of_a_model_in_half_precision_are_fitted_in_single():
    """And are those of the model that it was made from, but for what its numbers cannot tell."""
    model, task = subject("cycle-d4-l3")
    half = copy.deepcopy(model).to(torch.bfloat16)
    found = []
    for one in (model, half):
        examples = Examples(make_bench(one, task, 128, 0, Thresholds(), Stream.SELECTORS))
        assert all(attention.dtype == torch.float32 for attention in examples.attention.values())
        found.append({part for part in attended(examples, examples, 0.03).taken() if part[2].kind == "role"})
    assert len(found[0] & found[1]) >= 0.8 * len(found[0] | found[1]) > 4
