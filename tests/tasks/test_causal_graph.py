"""Causal structure against a plain-Python resolver that knows tokens and parents only, and what its graphs and rules are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import CausalGraph, check, from_config
from stackheads.types import IGNORE, Role, Slot

from .causal_resolver import CausalExample

seeds = st.integers(0, 2**31)


@st.composite
def tasks(draw, **fixed):
    graph = draw(st.sampled_from(["chain", "tree", "dag"]))
    in_degree = 1 if graph == "tree" else draw(st.integers(1, 3))
    chosen = {
        "graph": graph,
        "in_degree": in_degree,
        "context": draw(st.integers(2 * in_degree + 2, 20)),
        "symbols": draw(st.integers(2, 6)),
        "graph_seed": draw(st.integers(0, 1000)),
        "noise": draw(st.sampled_from([0.0, 0.2, 0.9])),
        "supervision": draw(st.sampled_from(["final", "dense"])),
    }
    return CausalGraph(**chosen | fixed)


def drawn(task, n, seed):
    return task.sample(n, torch.Generator().manual_seed(seed))


def check_against_resolver(task, batch):
    """Everything in a batch is what the resolver reads off tokens and parents."""
    places, last = range(task.n_ctx), task.n_ctx - 1
    for row in range(len(batch)):
        tokens = batch.tokens[row].tolist()
        example = CausalExample(tokens, task.parents)
        assert batch.slots[row].tolist() == [Slot.QUERY if i == last else Slot.VALUE for i in places]
        assert batch.gates["own place"][row].tolist() == list(places)
        assert batch.gates["own symbol"][row].tolist() == tokens
        assert batch.find[row, 0].tolist() == [example.find(i) for i in places]
        answers = [example.answer(i) if i == last or task.supervision == "dense" else None for i in places]
        assert batch.targets[row, :, 0].tolist() == [IGNORE if each is None else each for each in answers]
        assert batch.target_hop[row, :, 0].tolist() == [int(each is not None) for each in answers]
        named = {role: [set() for _ in places] for role in task.operands}
        for role, sources in zip(task.operands, batch.operands[row].tolist(), strict=True):
            for i, source in enumerate(sources):
                named[role][i] |= {source} - {-1}
        assert named.pop(Role("hop", 1)) == [set(example.cases(i)) for i in places]
        for role, sources in named.items():
            assert sources == [{role.hop} if role.hop < i - 1 and i != last else set() for i in places]


@settings(max_examples=60)
@given(tasks(), seeds)
def test_maps_and_answers_are_what_tokens_and_parents_say(task, seed):
    batch = drawn(task, 3, seed)
    check_against_resolver(task, batch)
    assert (batch.targets[:, -1] >= 0).all()


@settings(max_examples=60)
@given(tasks(), seeds)
def test_a_counterfactual_changes_the_last_case_wherever_that_can_change_the_answer(task, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(4, generator)
    other = task.counterfactual(batch, 1, generator)
    check_against_resolver(task, other)
    for before, after in zip(batch.tokens.tolist(), other.tokens.tolist(), strict=True):
        example = CausalExample(before, task.parents)
        place = example.find(task.n_ctx - 1)
        instead = [[*before[:place], symbol, *before[place + 1 :]] for symbol in range(task.symbols)]
        answers = [CausalExample(tokens, task.parents).answer(task.n_ctx - 1) for tokens in instead]
        fitting = [
            tokens
            for tokens, answer in zip(instead, answers, strict=True)
            if answer not in (None, example.answer(task.n_ctx - 1))
        ]
        assert after in fitting if fitting else after == before


@settings(max_examples=100)
@given(tasks())
def test_graphs_are_what_their_names_say(task):
    parents, k = task.parents, task.in_degree
    assert len(parents) == task.n_ctx
    assert set(map(len, parents)) == {0, k}
    assert all(list(mine) == sorted(set(mine)) and max(mine, default=-1) < child for child, mine in enumerate(parents))
    assert not any([*parents[:k], *parents[-k:]])
    assert parents[k]
    between = parents[k : task.n_ctx - k]
    if task.graph == "chain":
        assert list(between) == [tuple(range(child - k, child)) for child in range(k, task.n_ctx - k)]
    if task.graph == "tree":
        assert all(between)
    assert task.edges == {(child, parent) for child, mine in enumerate(parents) for parent in mine}
    assert CausalGraph(**task.model_dump()).parents == parents


@settings(max_examples=60)
@given(tasks(noise=0.0), seeds)
def test_without_noise_one_symbol_follows_and_each_parent_matters(task, seed):
    for tokens in drawn(task, 4, seed).tokens.tolist():
        rule = CausalExample(tokens, task.parents).rule()
        assert all(len(followed) == 1 for followed in rule.values())
        for one, followed in rule.items():
            for other, instead in rule.items():
                if sum(a != b for a, b in zip(one, other, strict=True)) == 1:
                    assert followed != instead


@settings(max_examples=40)
@given(tasks(), seeds, st.randoms(use_true_random=False))
def test_names_of_symbols_mean_nothing(task, seed, random):
    batch = drawn(task, 4, seed)
    renamed = list(range(task.symbols))
    random.shuffle(renamed)
    name = torch.tensor(renamed)
    other = task.batch(name[batch.tokens])
    assert torch.equal(other.find, batch.find)
    assert torch.equal(other.operands, batch.operands)
    assert torch.equal(other.targets, torch.where(batch.targets >= 0, name[batch.targets.clamp(min=0)], IGNORE))


@settings(max_examples=20)
@given(tasks(graph="dag"), seeds)
def test_words_for_places_say_nothing_of_the_graph(task, seed):
    """What labels and selectors may call a place is the same for every graph."""
    tokens = drawn(task, 2, seed).tokens
    other = task.model_copy(update={"graph_seed": task.graph_seed + 1})
    keys = [number for number, role in enumerate(task.operands) if role.name == "key"]
    assert [task.operands[number] for number in keys] == [role for role in other.operands if role.name == "key"]
    assert torch.equal(task.batch(tokens).operands[:, keys], other.batch(tokens).operands[:, keys])


@pytest.mark.parametrize(("graph", "in_degree"), [("chain", 1), ("tree", 1), ("dag", 1), ("dag", 2)])
def test_no_symbol_is_more_frequent_anywhere(graph, in_degree):
    """Five standard deviations of a share of 1/4 in 4,000 draws are 0.034."""
    task = CausalGraph(context=14, symbols=4, graph=graph, in_degree=in_degree)
    batch = drawn(task, 4000, 0)
    shares = torch.nn.functional.one_hot(batch.tokens, 4).double().mean(dim=0)
    assert (shares - 1 / 4).abs().max() < 0.034
    assert (batch.targets[:, -1, 0].bincount() / 4000 - 1 / 4).abs().max() < 0.034


def test_graphs_differ_by_seed_and_not_by_what_else_is_drawn():
    one, other = (CausalGraph(context=20, symbols=8, graph_seed=seed) for seed in (0, 1))
    assert one.parents != other.parents
    assert one.parents == CausalGraph(context=20, symbols=3, noise=0.5, graph_seed=0).parents


def test_most_questions_have_one_case_that_decides():
    """Enough examples can be rewired for an analysis to see what a head carries from a case."""
    for task in (CausalGraph(context=20, symbols=8), CausalGraph(context=20, symbols=3, graph="dag", in_degree=2)):
        generator = torch.Generator().manual_seed(0)
        batch = task.sample(1000, generator)
        assert (batch.tokens != task.counterfactual(batch, 1, generator).tokens).any(dim=1).double().mean() > 0.25


@pytest.mark.parametrize(("graph", "in_degree"), [("chain", 1), ("chain", 2), ("tree", 1), ("dag", 1), ("dag", 2)])
@pytest.mark.parametrize("supervision", ["final", "dense"])
def test_it_passes_the_checker(graph, in_degree, supervision):
    check(CausalGraph(context=20, symbols=4, graph=graph, in_degree=in_degree, supervision=supervision))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_hops": 2}, "one hop, got max_hops 2"),
        ({"symbols": 1}, "at least 2 symbols to choose from, got 1"),
        ({"in_degree": 0}, "in_degree of a chain must be at least 1, got 0"),
        ({"graph": "tree", "in_degree": 2}, "in_degree of a tree must be 1, got 2"),
        ({"in_degree": 3, "context": 7}, "at least 8 positions with in_degree 3, got 7"),
        ({"noise": 1.0}, r"share in \[0, 1\), got 1"),
        ({"attention_dir": "bidirectional"}, "got attention_dir bidirectional"),
        ({"graph": "tree", "graph_seed": -1}, "a seed is an int"),
        ({"graph": "ring"}, "got 'ring'"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_config({"kind": "graph", "context": 16, "symbols": 4, "graph": "chain"} | settings)


def test_there_is_one_hop_and_at_least_one_example():
    task = CausalGraph(context=8, symbols=4)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        task.sample(0, torch.Generator())
    with pytest.raises(ConfigError, match=r"in 1\.\.1, got 2"):
        task.counterfactual(drawn(task, 2, 0), 2, torch.Generator())
