"""Key slots as sources: where the statements say that they are, by a plain reading, and nothing else of a task is another."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.tasks import Conditional, Cycle, Retrieval, check, from_config, settings_of, with_keys
from stackheads.types import Destination, Role, Slot

from .resolver import Example
from .test_truth import tasks


def key_of(example, position, j):
    """The key slot that holds f^j of the symbol at a position, -1 where there is none; dictionaries and loops."""
    symbol = example.tokens[position]
    for _ in range(abs(j)):
        if j > 0:
            symbol = example.f.get(symbol)
        else:
            keys = [key for _, key, value in example.statements if value == symbol]
            symbol = keys[0] if len(keys) == 1 else None
    return next((start for start, key, _ in example.statements if key == symbol), -1)


@settings(max_examples=200)
@given(tasks, st.integers(0, 2**31), st.data())
def test_key_slots_are_where_the_statements_say(task, seed, data):
    task, generator = with_keys(task), torch.Generator().manual_seed(seed)
    batch = task.sample(3, generator)
    if data.draw(st.booleans()):
        batch = task.counterfactual(batch, data.draw(st.integers(1, task.max_hops)), generator)
    causal = task.attention_dir == "causal"
    assert task.operands == (Role("hop", 0), *(Role("key", hop) for hop in task.hops))
    for row in range(len(batch)):
        example = Example(batch.tokens[row].tolist())
        for number, role in enumerate(task.operands):
            find = key_of if role.name == "key" else Example.find
            places = [find(example, position, role.hop) for position in range(task.n_ctx)]
            own = [i for i in range(task.n_ctx) if role == Role("key", -1) and example.slot(i) == 1]  # `previous`
            own += [i for i, place in enumerate(places) if place == i and role.hop == 0]
            hidden = [i in own or (causal and place > i) for i, place in enumerate(places)]
            seen = [-1 if unseen else place for unseen, place in zip(hidden, places, strict=True)]
            assert batch.operands[row, number].tolist() == seen


@settings(max_examples=50)
@given(tasks, st.integers(0, 2**31))
def test_nothing_else_of_a_task_changes(task, seed):
    keyed = with_keys(task)
    plain, its = (each.sample(4, torch.Generator().manual_seed(seed)) for each in (task, keyed))
    for name in ("tokens", "targets", "target_hop", "find", "slots"):
        assert torch.equal(getattr(plain, name), getattr(its, name))
    assert plain.operands is None
    assert with_keys(keyed) == keyed
    assert keyed.name == f"{task.name}, key slots as sources"


@pytest.mark.parametrize("task", [Cycle(symbols=8, max_hops=3), Retrieval(max_hops=3, attention_dir="bidirectional")])
def test_a_task_with_keys_is_right_and_is_read_back(task):
    keyed = with_keys(task)
    check(keyed)
    assert from_config(settings_of(keyed)) == keyed
    assert "keys" not in settings_of(task), "what was stored before there was a choice is stored so still"
    assert from_config(settings_of(task)) == task


@settings(max_examples=30)
@given(tasks, st.integers(0, 2**31))
def test_every_source_has_one_name_and_what_adjoins_stands_behind_its_key(task, seed):
    keyed = with_keys(task)
    batch = keyed.sample(4, torch.Generator().manual_seed(seed))
    roles = candidate_roles(keyed)
    assert len(set(roles)) == len(roles)
    named = dict(zip(roles, role_targets(keyed, batch, roles), strict=True))
    named_apart = [named[role] for role in roles if role.name not in ("start", "previous")]
    assert not (named[Role("key", -1)] & named[Role("previous")] & (batch.slots == Slot.VALUE)[..., None]).any()
    assert (torch.stack(named_apart).sum(dim=0) <= 1).all()
    same = (batch.tokens[:, :, None] == batch.tokens[:, None, :]) & ~torch.eye(task.n_ctx, dtype=torch.bool)
    seen = same.tril() if task.attention_dir == "causal" else same
    duplicates = named[Role("hop", 0)] | named[Role("key", 0)]
    assert torch.equal(duplicates[:, :-1, :-1], seen[:, :-1, :-1]), "told apart, none is left out"
    for role, place in keyed.adjoining:
        example, row, source = (named[role] & (batch.slots == place.slot)[..., None]).nonzero().T
        assert (source == row + 1).all()
        assert len(example) == (0 if task.attention_dir == "causal" else int((batch.slots == Slot.KEY).sum()))


def test_on_a_cycle_every_key_slot_has_one_name():
    """So that no example tells that a head looks at the start, or takes a key for it."""
    task = with_keys(Cycle(symbols=7, max_hops=3))
    batch = task.sample(20, torch.Generator().manual_seed(0))
    roles = [role for role in candidate_roles(task) if role.name not in ("start", "hop")]
    named = role_targets(task, batch, roles)
    for row in ((batch.slots == Slot.QUERY), (batch.slots == Slot.KEY), (batch.slots == Slot.VALUE)):
        assert (named.sum(dim=0)[row][(batch.slots == Slot.KEY)[row.nonzero()[:, 0]]] == 1).all()


class WithSources(Cycle):
    """With a source of its own."""

    @property
    def operands(self):
        return (Role("key", 1),)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Conditional(symbols=6, max_hops=2), "key slots are sources of a cycle or of retrieval, got conditional retrieval"),
        (WithSources(symbols=6, max_hops=2), "of a task that names no others, got WithSources with operands: add them there"),
        (Cycle, "a task is an object like tasks.Cycle(…), got the class Cycle"),
    ],
)
def test_what_has_no_keys_to_name_says_so(task, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        with_keys(task)


def test_what_adjoins_is_told_with_keys_alone():
    assert Cycle(symbols=6, max_hops=2).adjoining == ()
    assert with_keys(Cycle(symbols=6, max_hops=2)).adjoining == ((Role("hop", 1), Destination.KEY),)
