"""k-hop induction against a plain loop, and its counterfactuals."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import KHopInduction, check, from_config
from stackheads.tasks.induction import AT_ONCE, find_maps


def loop(tokens, max_hops):
    """find^1..find^max_hops of every position of one example, by looking back one by one."""
    string = {position: token for position, token in enumerate(tokens) if position > 0}

    def once(i):
        earlier = [j for j in string if j < i and string[j] == string[i]] if i in string else []
        return earlier[-1] + 1 if earlier else -1

    maps = []
    for i in range(len(tokens)):
        here, found = i, []
        for _ in range(max_hops):
            here = once(here) if here >= 0 else -1
            found.append(here)
        maps.append(found)
    return maps


@st.composite
def tasks(draw):
    return KHopInduction(
        context=draw(st.integers(4, 24)),
        symbols=draw(st.integers(3, 6)),
        max_hops=draw(st.integers(1, 4)),
        supervision=draw(st.sampled_from(["final", "dense"])),
    )


@settings(max_examples=40)
@given(tasks(), st.integers(0, 1000))
def test_maps_and_answers_are_those_of_a_plain_loop(task, seed):
    batch = task.sample(4, torch.Generator().manual_seed(seed))
    for example in range(4):
        tokens = batch.tokens[example].tolist()
        assert 1 <= tokens[0] <= task.max_hops
        assert all(one != other for one, other in pairwise(tokens[1:]))
        maps = loop(tokens, task.max_hops)
        assert batch.find[example].T.tolist() == maps
        for i in range(1, task.n_ctx):
            source = maps[i][tokens[0] - 1]
            expected = tokens[source] if source >= 0 else task.does_not_exist
            if task.supervision == "dense" or i == task.n_ctx - 1:
                assert batch.targets[example, i, 0] == expected
                assert batch.target_hop[example, i, 0] == tokens[0]
            else:
                assert batch.targets[example, i, 0] == -100
    if task.supervision == "dense":
        assert (batch.targets[:, 0] == task.blank).all()
        assert (batch.target_hop[:, 0] == 0).all()


def test_maps_of_many_examples_are_those_of_each():
    task = KHopInduction(max_hops=3, symbols=4, context=12)
    tokens = task.sample(AT_ONCE + 7, torch.Generator().manual_seed(0)).tokens
    assert torch.equal(find_maps(tokens, 3), torch.cat([find_maps(one, 3) for one in tokens.split(1)]))


@settings(max_examples=30)
@given(tasks(), st.integers(0, 1000), st.data())
def test_a_counterfactual_rewires_one_link(task, seed, data):
    hop = data.draw(st.integers(1, task.max_hops))
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(30, generator)
    other = task.counterfactual(batch, hop, generator)
    changed = batch.tokens != other.tokens
    assert (changed.sum(dim=1) <= 1).all()
    moved = changed.any(dim=1)
    place = batch.find[:, hop - 1, -1]
    assert (changed.nonzero()[:, 1] == place[moved]).all()
    assert torch.equal(other.find[:, : hop - 1, -1], batch.find[:, : hop - 1, -1])
    deep = moved & (batch.tokens[:, 0] >= hop)
    assert (batch.targets[deep, -1] != other.targets[deep, -1]).all()
    shallow = batch.tokens[:, 0] < hop
    assert torch.equal(batch.targets[shallow, -1], other.targets[shallow, -1])


def test_enough_examples_can_be_rewired():
    task = KHopInduction(context=32, symbols=4, max_hops=3)
    generator = torch.Generator().manual_seed(0)
    batch = task.sample(500, generator)
    for hop in (1, 2, 3):
        exists = batch.find[:, hop - 1, -1] >= 0
        moved = (batch.tokens != task.counterfactual(batch, hop, generator).tokens).any(dim=1)
        assert moved[exists].double().mean() > 0.5


@pytest.mark.parametrize(("symbols", "max_hops"), [(3, 1), (4, 2), (5, 3), (6, 3)])
def test_it_passes_the_checker(symbols, max_hops):
    check(KHopInduction(context=40, symbols=symbols, max_hops=max_hops), examples=128)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"symbols": 2}, "at least 3 symbols, got 2"),
        ({"context": 3}, "at least 3 characters, got 3"),
        ({"max_hops": 0}, "at least 1, got 0"),
        ({"attention_dir": "bidirectional"}, "looks back only"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_config({"kind": "khop", "context": 16, "symbols": 4, "max_hops": 2} | settings)
