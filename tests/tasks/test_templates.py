"""Templates against a plain-Python resolver that knows tokens and functions only, and what these functions are."""

from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import Templates, check, from_config
from stackheads.types import IGNORE, NOWHERE, Role, Slot

from .templates_resolver import TemplatesExample

seeds = st.integers(0, 2**31)


@st.composite
def tasks(draw, **fixed):
    pairs, values = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    layout = draw(st.sampled_from(["statements", "pairs"]))
    chosen = {
        "pairs": pairs,
        "values": values,
        "symbols": draw(st.integers(pairs + 3, 10)),
        "templates": values * draw(st.integers(1, 4)),
        "template_seed": draw(st.integers(0, 1000)),
        "layout": layout,
        "supervision": draw(st.sampled_from(["final", "dense"])) if layout == "statements" else "final",
        "held_out": draw(st.sampled_from([0.0, 0.2])),
    }
    return Templates(**chosen | fixed)


def drawn(task, n, seed):
    try:
        return task.sample(n, torch.Generator().manual_seed(seed))
    except ConfigError as error:  # few values, many templates: tested below
        assume("never do" not in str(error))
        raise


def resolved(task, tokens):
    return TemplatesExample(tokens, task.functions, task.held, task.values, task.layout)


def check_against_resolver(task, batch):
    """Everything in a batch is what the resolver reads off tokens and functions."""
    places, last = range(task.n_ctx), task.n_ctx - 1
    for row in range(len(batch)):
        tokens = batch.tokens[row].tolist()
        example = resolved(task, tokens)
        kinds = dict.fromkeys(example.key_slots, Slot.KEY) | dict.fromkeys(example.value_slots, Slot.VALUE) | {last: Slot.QUERY}
        assert batch.slots[row].tolist() == [kinds.get(i, Slot.OTHER) for i in places]
        assert len(example.pairs) == task.pairs
        asks = {last, *(example.key_slots if task.supervision == "dense" else ())}
        answers = [example.answer(i, task.asks_held) if i in asks else None for i in places]
        assert batch.targets[row, :, 0].tolist() == [IGNORE if each is None else each for each in answers]
        assert batch.target_hop[row, :, 0].tolist() == [int(each is not None) for each in answers]
        assert batch.gates["own symbol"][row].tolist() == tokens
        assert batch.gates["own template"][row].tolist() == [example.template(i) for i in places]
        named = {role: [set() for _ in places] for role in task.operands}
        for role, sources in zip(task.operands, batch.operands[row].tolist(), strict=True):
            for i, source in enumerate(sources):
                named[role][i] |= {source} - {NOWHERE}
        slots = {Role("hop", 1): example.value_slots, Role("key", 1): example.key_slots}
        assert named == {role: [example.before(i, slots[role]) for i in places] for role in named}
    assert (batch.find == NOWHERE).all()


@settings(max_examples=60)
@given(tasks(), seeds)
def test_maps_and_answers_are_what_tokens_and_functions_say(task, seed):
    batch = drawn(task, 3, seed)
    check_against_resolver(task, batch)
    for tokens in batch.tokens.tolist():
        example = resolved(task, tokens)
        assert example.answer(task.n_ctx - 1) is not None
        assert len({symbol for symbol, _ in example.pairs} | {tokens[-1]}) == task.pairs + 1, "the query is in no pair"
        assert tokens[0] == task.begin
        assert tokens[-2] == task.begin + 1


@settings(max_examples=60)
@given(tasks(), seeds)
def test_a_counterfactual_changes_one_value_wherever_that_can_change_the_answer(task, seed):
    batch = drawn(task, 4, seed)
    other = task.counterfactual(batch, 1, torch.Generator().manual_seed(seed))
    check_against_resolver(task, other)
    query = task.n_ctx - 1
    for before, after in zip(batch.tokens.tolist(), other.tokens.tolist(), strict=True):
        example = resolved(task, before)
        fitting = []
        for slot, (symbol, value) in zip(example.value_slots, example.pairs, strict=True):
            for instead in set(range(task.values)) - {value}:
                token = task.symbols + (instead if task.layout == "statements" else symbol * task.values + instead)
                tokens = [*before[:slot], token, *before[slot + 1 :]]
                if resolved(task, tokens).answer(query) not in (None, example.answer(query)):
                    fitting.append(tokens)
        assert after in fitting if fitting else after == before


@settings(max_examples=40)
@given(tasks(), seeds, st.randoms(use_true_random=False))
def test_the_order_of_pairs_means_nothing_to_the_question(task, seed, random):
    batch = drawn(task, 4, seed)
    shown, value = task.read(batch.tokens)
    order = list(range(task.pairs))
    random.shuffle(order)
    other = task.batch(task.written(shown[:, [*order, task.pairs]], value[:, order]))
    assert torch.equal(other.targets[:, -1], batch.targets[:, -1])
    assert torch.equal(other.gates["own template"][:, -1], batch.gates["own template"][:, -1])


@settings(max_examples=40)
@given(tasks(layout="statements", supervision="final"), seeds)
def test_both_layouts_ask_the_same(task, seed):
    batch = drawn(task, 4, seed)
    other = task.model_copy(update={"layout": "pairs"})
    written = other.batch(other.written(*task.read(batch.tokens)))
    assert torch.equal(written.targets[:, -1], batch.targets[:, -1])
    assert torch.equal(written.tokens, drawn(other, 4, seed).tokens)


@settings(max_examples=60)
@given(tasks())
def test_each_value_is_that_of_as_many_templates(task):
    assert len(task.functions) == task.templates
    for column in zip(*task.functions, strict=True):
        assert Counter(column) == dict.fromkeys(range(task.values), task.templates // task.values)
    assert Templates(**task.model_dump()).functions == task.functions
    assert sum(map(sum, task.held)) == round(task.held_out * task.templates * task.symbols)


@settings(max_examples=30)
@given(tasks(held_out=0.3, templates=8, values=4, symbols=8, pairs=3), seeds)
def test_what_is_held_out_is_asked_about_or_not_but_stands_in_pairs(task, seed):
    for asks_held in (False, True):
        batch = drawn(task.model_copy(update={"asks_held": asks_held}), 64, seed)
        in_pairs = set()
        for tokens in batch.tokens.tolist():
            example = resolved(task, tokens)
            left = example.agreeing(task.n_ctx - 1)
            assert {task.held[number][tokens[-1]] for number in left} == {asks_held}
            in_pairs |= {task.held[number][symbol] for number in left for symbol, _ in example.pairs}
        assert in_pairs == {False, True}


def test_functions_differ_by_seed_and_not_by_what_else_is_asked():
    one, other = (Templates(symbols=8, template_seed=seed) for seed in (0, 1))
    assert one.functions != other.functions
    assert one.functions == Templates(symbols=8, pairs=5, layout="pairs", held_out=0.5).functions
    assert len(set(one.functions)) == 16


def test_no_value_is_a_better_guess():
    """Of 16 symbols each value is the answer of a quarter of the questions; five standard deviations in 4,000 are 0.034."""
    batch = drawn(Templates(symbols=16), 4000, 0)
    assert (batch.targets[:, -1, 0].bincount() / 4000 - 1 / 4).abs().max() < 0.034


def test_a_pair_alone_does_not_tell():
    """Who reads two of three pairs, and knows all functions, is right in fewer than 95 % of the questions at best."""
    task = Templates(symbols=16)
    batch = drawn(task, 2000, 0)
    shown, value = task.read(batch.tokens)
    said = torch.tensor(task.functions).T[shown]  # [batch, asked, template]
    left = (said[:, 1:-1] == value[:, 1:, None]).all(dim=1)
    votes = torch.stack([((said[:, -1] == answer) & left).sum(dim=1) for answer in range(4)], dim=1).double()
    assert (votes / votes.sum(dim=1, keepdim=True)).amax(dim=1).mean() < 0.95


def test_many_questions_have_a_value_that_decides():
    """Enough examples can be rewired for an analysis to see what a head carries from a pair."""
    for layout in ("statements", "pairs"):
        task, generator = Templates(symbols=16, layout=layout), torch.Generator().manual_seed(0)
        batch = task.sample(1000, generator)
        assert (batch.tokens != task.counterfactual(batch, 1, generator).tokens).any(dim=1).double().mean() > 0.25


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layout": "pairs"},
        {"supervision": "dense"},
        {"held_out": 0.2},
        {"held_out": 0.2, "asks_held": True},
        {"pairs": 2, "values": 2, "templates": 4},
    ],
)
def test_it_passes_the_checker(settings):
    check(Templates(symbols=8, **settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_hops": 2}, "one hop, got max_hops 2"),
        ({"values": 1}, "at least 2 values to choose from, got 1"),
        ({"templates": 6}, "multiple of the 4 values, as many for each, got 6: try 4"),
        ({"templates": 2}, "got 2: try 4"),
        ({"pairs": 0}, "at least 1, got 0"),
        ({"pairs": 8}, "in none of 8 pairs needs at least 9 symbols, got 8"),
        ({"attention_dir": "bidirectional"}, "got attention_dir bidirectional"),
        ({"layout": "pairs", "supervision": "dense"}, "got supervision dense: use final"),
        ({"held_out": 1.0}, r"share in \[0, 1\), got 1"),
        ({"held_out": 0.999}, "got held_out 0.999: hold less out"),
        ({"asks_held": True}, "got held_out 0.0: hold more out"),
        ({"template_seed": -1}, "a seed is an int"),
        ({"layout": "columns"}, "got 'columns'"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_config({"kind": "templates", "symbols": 8} | settings)


def test_there_is_one_hop_and_at_least_one_example():
    task = Templates(symbols=8)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        task.sample(0, torch.Generator())
    with pytest.raises(ConfigError, match="must be 1, got 2"):
        task.counterfactual(drawn(task, 2, 0), 2, torch.Generator())


def test_pairs_that_never_tell_are_named():
    """Where templates are all functions that there are, what is said of one symbol tells nothing about another."""
    tasks = (Templates(symbols=2, values=2, templates=4, pairs=1, template_seed=seed) for seed in range(100))
    task = next(task for task in tasks if len(set(task.functions)) == 4)
    with pytest.raises(ConfigError, match="got 1 that never do"):
        task.sample(2**12, torch.Generator().manual_seed(0))  # many at a time, as it gives up after so many in a row
