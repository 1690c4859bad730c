"""Find maps, targets and counterfactuals against the plain-Python resolver, over random configurations."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stackheads.tasks import Cycle, Retrieval
from stackheads.types import IGNORE, Slot

from .resolver import Example

directions = st.sampled_from(["causal", "bidirectional"])
supervisions = st.sampled_from(["final", "chain", "dense"])


@st.composite
def cycles(draw):
    hops = draw(st.integers(1, 6))
    return Cycle(
        symbols=draw(st.integers(hops + 2, hops + 6)),
        max_hops=hops,
        supervision=draw(supervisions),
        attention_dir=draw(directions),
    )


@st.composite
def retrievals(draw):
    hops, chains = draw(st.integers(1, 5)), draw(st.integers(2, 4))
    return Retrieval(
        chains=chains,
        max_hops=hops,
        order=draw(st.sampled_from(["definition-first", "shuffled"])),
        symbols=draw(st.sampled_from([0, chains * (hops + 1) + 3])),
        supervision=draw(supervisions),
        attention_dir=draw(directions),
    )


tasks = st.one_of(cycles(), retrievals())


def check_against_resolver(task, batch):
    causal = task.attention_dir == "causal"
    for row in range(len(batch)):
        example = Example(batch.tokens[row].tolist())
        for position in range(task.n_ctx):
            assert batch.slots[row, position] == example.slot(position)
            for number, j in enumerate(task.hops):
                assert batch.find[row, number, position] == example.visible_find(position, j, causal)
            is_asked = example.slot(position) == Slot.QUERY or (
                task.supervision == "dense" and example.slot(position) == Slot.VALUE
            )
            for number, hop in enumerate(task.readout_hops):
                answer = example.answer(position, hop, causal) if is_asked else None
                assert batch.targets[row, position, number] == (IGNORE if answer is None else answer)
                assert batch.target_hop[row, position, number] == (0 if answer is None else hop)


@settings(max_examples=300)
@given(tasks, st.integers(0, 2**31))
def test_find_maps_and_targets_are_what_the_statements_say(task, seed):
    check_against_resolver(task, task.sample(3, torch.Generator().manual_seed(seed)))


@settings(max_examples=200)
@given(tasks, st.integers(0, 2**31), st.data())
def test_counterfactual_changes_one_token_and_reroutes_the_chain_from_that_hop_on(task, seed, data):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(4, generator)
    hop = data.draw(st.integers(1, task.max_hops))
    other = task.counterfactual(batch, hop, generator)
    check_against_resolver(task, other)
    causal = task.attention_dir == "causal"
    for row in range(len(batch)):
        before, after = Example(batch.tokens[row].tolist()), Example(other.tokens[row].tolist())
        changed = [i for i, (a, b) in enumerate(zip(before.tokens, after.tokens, strict=True)) if a != b]
        query = task.n_ctx - 1
        assert changed == [before.find(query, hop)]
        for h in range(1, task.max_hops + 1):
            same = before.answer(query, h, causal) == after.answer(query, h, causal)
            assert same == (h < hop)
            assert after.answer(query, h, causal) is not None


@settings(max_examples=200)
@given(retrievals(), st.integers(0, 2**31), st.booleans())
def test_definition_first_states_each_link_after_the_one_it_needs(task, seed, rewired):
    assume(task.order == "definition-first")
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(4, generator)
    if rewired:
        batch = task.counterfactual(batch, 1, generator)
    for row in batch.tokens.tolist():
        example = Example(row)
        stated: set[int] = set()
        for _, key, value in example.statements:
            assert value in stated or value not in example.f
            stated.add(key)


@settings(max_examples=100)
@given(tasks, st.integers(0, 2**31))
def test_every_hop_is_asked_at_the_query_and_never_leads_back_to_it(task, seed):
    batch = task.sample(5, torch.Generator().manual_seed(seed))
    assert batch.target_hop[:, -1].tolist() == [list(task.readout_hops)] * 5
    assert (batch.targets[:, -1] != batch.tokens[:, -1:]).all()


@settings(max_examples=50)
@given(tasks, st.integers(0, 2**31))
def test_same_seed_same_examples(task, seed):
    one, two = (task.sample(6, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(task.batch(one.tokens).find, one.find)


def test_a_known_example_by_hand():
    """A = 7, B = A, C = B; C? with a distractor chain, as ids: A 0, B 1, C 2, 7 is 3; X 4, Y 5, Z 6, 9 is 7."""
    task = Retrieval(chains=2, max_hops=3, attention_dir="causal", supervision="chain")
    batch = task.batch(torch.tensor([[0, 3, 4, 7, 5, 4, 1, 0, 2, 1, 6, 5, 2]]))
    assert batch.targets[0, -1].tolist() == [1, 0, 3]
    offset = {j: number for number, j in enumerate(task.hops)}
    assert [int(batch.find[0, offset[j], -1]) for j in (1, 2, 3, 0, -1)] == [9, 7, 1, -1, -1]
    assert int(batch.find[0, offset[1], 9]) == 7  # the value slot of "C = B" looks up B
    assert int(batch.find[0, offset[-1], 9]) == -1  # C is nobody's value


def test_chains_are_asked_about_at_random():
    """The queried chain's last statement is not always at one place: position alone does not answer hop 1."""
    task = Retrieval(chains=3, max_hops=4, attention_dir="causal")
    batch = task.sample(2000, torch.Generator().manual_seed(0))
    place = batch.find[:, task.hops.index(1), -1]
    assert place.bincount().max() / 2000 < 0.5
