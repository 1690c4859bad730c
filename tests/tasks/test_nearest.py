"""One nearest neighbour against a plain-Python resolver that walks the ring, and what its examples are drawn from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import NearestNeighbour, check, from_config
from stackheads.types import IGNORE, Role, Slot

from .nearest_resolver import NearestExample

seeds = st.integers(0, 2**31)


@st.composite
def tasks(draw):
    pairs = draw(st.integers(2, 9))
    chosen = {
        "pairs": pairs,
        "symbols": draw(st.integers(pairs, 40)),
        "values": draw(st.integers(2, 9)),
        "layout": draw(st.sampled_from(["pairs", "statements"])),
    }
    dense = chosen["layout"] == "statements" and draw(st.booleans())
    return NearestNeighbour(**chosen, supervision="dense" if dense else "final")


def drawn(task, n, seed):
    return task.sample(n, torch.Generator().manual_seed(seed))


def resolved(task, tokens):
    return NearestExample(tokens, task.symbols, task.values, task.layout)


def check_against_resolver(task, batch):
    """Everything in a batch is what the resolver reads off tokens."""
    places, last = range(task.n_ctx), task.n_ctx - 1
    for row, tokens in enumerate(batch.tokens.tolist()):
        example = resolved(task, tokens)
        expected = [Slot.VALUE if place in example.slots else Slot.KEY for place in places[:-1]]
        assert batch.slots[row].tolist() == [*expected, Slot.QUERY]
        assert batch.find[row, 0].tolist() == [example.find(place) for place in places]
        answers = [example.answer(place) if place == last or task.supervision == "dense" else None for place in places]
        assert batch.targets[row, :, 0].tolist() == [IGNORE if each is None else each for each in answers]
        assert batch.target_hop[row, :, 0].tolist() == [int(each is not None) for each in answers]
        assert [set(named) - {-1} for named in batch.operands[row].T.tolist()] == [example.second(place) for place in places]
        assert task.distances(batch)[row].tolist() == [example.steps(example.query, key) for key in example.keys]
        known = [*example.keys, example.query] if task.layout == "pairs" else tokens
        assert batch.gates["own symbol"][row].tolist() == known
        assert len(set(example.keys)) == task.pairs
        assert answers[-1] is not None


@settings(max_examples=60)
@given(tasks(), seeds)
def test_maps_and_answers_are_what_tokens_say(task, seed):
    check_against_resolver(task, drawn(task, 4, seed))


@settings(max_examples=60)
@given(tasks(), seeds)
def test_a_counterfactual_gives_the_nearest_key_another_value_and_nothing_else(task, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(6, generator)
    other = task.counterfactual(batch, 1, generator)
    check_against_resolver(task, other)
    assert torch.equal(other.find, batch.find)
    last = task.n_ctx - 1
    for before, after in zip(batch.tokens.tolist(), other.tokens.tolist(), strict=True):
        one, two = resolved(task, before), resolved(task, after)
        assert one.answer(last) != two.answer(last)
        assert (one.keys, one.query) == (two.keys, two.query)
        assert sum(a != b for a, b in zip(one.values, two.values, strict=True)) == 1


def test_a_counterfactual_reaches_every_other_value_equally_often():
    """Five standard deviations of a share of 1/3 in 3,000 draws are 0.043."""
    for layout in ("pairs", "statements"):
        task, generator = NearestNeighbour(pairs=3, values=4, layout=layout), torch.Generator().manual_seed(0)
        batch = task.sample(3000, generator)
        after = task.counterfactual(batch, 1, generator).targets[:, -1, 0]
        steps = (after - batch.targets[:, -1, 0]) % 4
        assert (steps.bincount(minlength=4)[1:] / 3000 - 1 / 3).abs().max() < 0.043


@settings(max_examples=40)
@given(tasks(), seeds, st.integers(0, 40), st.booleans())
def test_turning_or_mirroring_the_ring_changes_nothing_that_is_asked(task, seed, turn, mirror):
    batch = drawn(task, 4, seed)
    keys, values, query = task.read(batch.tokens)
    sign = -1 if mirror else 1
    other = task.batch(task.tokens((sign * keys + turn) % task.symbols, values, (sign * query + turn) % task.symbols))
    for name in ("targets", "find", "operands", "slots"):
        assert torch.equal(getattr(other, name), getattr(batch, name))
    assert torch.equal(task.distances(other), task.distances(batch))


@settings(max_examples=40)
@given(tasks(), seeds)
def test_both_layouts_ask_the_same(task, seed):
    batch = drawn(task, 4, seed)
    other = task.model_copy(update={"layout": "statements" if task.layout == "pairs" else "pairs", "supervision": "final"})
    told = other.batch(other.tokens(*task.read(batch.tokens)))
    assert torch.equal(told.targets[:, -1], batch.targets[:, -1])
    place = (task.value_slots == batch.find[:, 0, -1:]).long().argmax(dim=1)
    assert torch.equal(told.find[:, 0, -1], other.value_slots[place])
    assert all(torch.equal(one, two) for one, two in zip(other.read(told.tokens), task.read(batch.tokens), strict=True))


@settings(max_examples=30)
@given(tasks(), seeds, st.randoms(use_true_random=False))
def test_names_of_values_mean_nothing(task, seed, random):
    batch = drawn(task, 4, seed)
    renamed = list(range(task.values))
    random.shuffle(renamed)
    name = torch.tensor(renamed)
    keys, values, query = task.read(batch.tokens)
    other = task.batch(task.tokens(keys, name[values], query))
    assert torch.equal(other.find, batch.find)
    assert torch.equal(other.targets, torch.where(batch.targets >= 0, name[batch.targets.clamp(min=0)], IGNORE))


def test_nothing_but_the_nearest_key_tells_the_answer():
    """Answers, codes of the query, places of the source; five standard deviations of 1/8 in 8,000 draws are 0.019."""
    task = NearestNeighbour()
    batch = drawn(task, 8000, 0)
    for found in (batch.targets[:, -1, 0], batch.find[:, 0, -1], task.read(batch.tokens)[2] // 4):
        assert (found.bincount(minlength=8) / 8000 - 1 / 8).abs().max() < 0.019


def test_every_code_with_one_nearest_key_is_asked_equally_often():
    """Keys 0, 1 and 4 on a ring of 8: all codes but 6, from which it is two steps to 0 and to 4."""
    task = NearestNeighbour(symbols=8, pairs=3, values=2)
    batch = drawn(task, 60000, 1)
    keys, _, query = task.read(batch.tokens)
    these = (keys.sort(dim=1).values == torch.tensor([0, 1, 4])).all(dim=1)
    askable = [0, 1, 2, 3, 4, 5, 7]
    shares = query[these].bincount(minlength=8) / these.sum()
    assert sorted(query[these].unique().tolist()) == askable
    assert (shares[askable] - 1 / 7).abs().max() < 5 * (6 / 49 / int(these.sum())) ** 0.5


@pytest.mark.parametrize(("layout", "supervision"), [("pairs", "final"), ("statements", "final"), ("statements", "dense")])
def test_it_passes_the_checker(layout, supervision):
    check(NearestNeighbour(layout=layout, supervision=supervision))
    check(NearestNeighbour(symbols=5, pairs=2, values=2, layout=layout, supervision=supervision))


@settings(max_examples=40)
@given(tasks(), seeds)
def test_inner_products_of_vectors_are_ordered_as_the_steps_between_codes(task, seed):
    """Of pairs with whatever values, and of keys, with the query: the farther a key, the smaller; equal where it is as far."""
    batch = drawn(task, 4, seed)
    vectors = task.vectors(3 + task.values).double()
    keys = batch.tokens[:, :-1] if task.layout == "pairs" else batch.tokens[:, :-1:2]
    products = (vectors[keys] * vectors[batch.tokens[:, -1:]]).sum(dim=2)
    far = task.distances(batch)
    for one, other in ((one, other) for one in range(task.pairs) for other in range(task.pairs)):
        nearer, equal = far[:, one] < far[:, other], far[:, one] == far[:, other]
        assert (products[:, one] > products[:, other])[nearer].all()
        torch.testing.assert_close(products[:, one][equal], products[:, other][equal], atol=1e-6, rtol=0)


def test_vectors_are_a_code_a_value_and_the_mark_of_the_query():
    task = NearestNeighbour(symbols=4, pairs=2, values=2)
    vectors = task.vectors(6)
    assert vectors.shape == (task.d_vocab, 6)
    pair, query = task.tokens(torch.tensor([[1, 2]]), torch.tensor([[1, 0]]), torch.tensor([3]))[0, [0, 2]].tolist()
    torch.testing.assert_close(vectors[pair], torch.tensor([0.0, 1, 0, 1, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors[query], torch.tensor([0.0, -1, 0, 0, 1, 0]), atol=1e-6, rtol=0)
    apart = NearestNeighbour(symbols=4, pairs=2, values=2, layout="statements").vectors(6)
    torch.testing.assert_close(apart[[1, 5]], torch.tensor([[0.0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]), atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="need d_model 5, got 4"):
        task.vectors(4)


def test_chance_and_roles():
    task = NearestNeighbour(values=5)
    assert task.chance(1) == 1 / 5
    assert set(task.operands) == {Role("unchosen", 1)}
    assert from_config(task.model_dump()) == task


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_hops": 2}, "one hop away, got max_hops 2"),
        ({"pairs": 1}, "at least 2 pairs to choose from, got 1"),
        ({"symbols": 7}, "8 pairs need as many symbols, got 7"),
        ({"values": 1}, "at least 2 values to choose from, got 1"),
        ({"attention_dir": "bidirectional"}, "got attention_dir bidirectional"),
        ({"supervision": "dense"}, "holds its own value, got supervision dense"),
        ({"supervision": "chain", "layout": "statements"}, "got 'chain'"),
        ({"layout": "records"}, "got 'records'"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_config({"kind": "nearest"} | settings)


def test_there_is_one_hop_and_at_least_one_example():
    task = NearestNeighbour()
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        task.sample(0, torch.Generator())
    with pytest.raises(ConfigError, match=r"in 1\.\.1, got 2"):
        task.counterfactual(drawn(task, 2, 0), 2, torch.Generator())
