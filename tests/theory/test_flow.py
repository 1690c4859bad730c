"""The simulation against sets and loops, against the closed forms, and against what trained models do."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import Conditional, Cycle, Retrieval, StatementTask, from_config, with_keys
from stackheads.theory import depth, guesses, knowledge, layers_around, layers_needed, least_layers, readable, structure
from stackheads.theory.flow import chain_known, chains
from stackheads.types import IGNORE, Destination, Slot

from . import oracle

seeds = st.integers(0, 2**31)


@st.composite
def tasks(draw, max_hops=5):
    direction = draw(st.sampled_from(["causal", "bidirectional"]))
    hops = draw(st.integers(1, max_hops))
    if draw(st.booleans()):
        order = draw(st.sampled_from(["shuffled", "sorted"]))
        return Cycle(symbols=draw(st.integers(hops + 2, hops + 6)), max_hops=hops, attention_dir=direction, order=order)
    order = draw(st.sampled_from(["definition-first", "shuffled"]))
    return Retrieval(chains=draw(st.integers(2, 3)), max_hops=hops, attention_dir=direction, order=order)


@settings(max_examples=25)
@given(tasks(max_hops=3), seeds)
def test_what_each_position_knows_and_reads_is_what_sets_and_loops_say(task, seed):
    batch = task.sample(3, torch.Generator().manual_seed(seed))
    causal = task.attention_dir == "causal"
    layers = list(knowledge(batch.tokens, task.attention_dir))
    examples = [tuple(row) for row in batch.tokens.tolist()]
    slow = [oracle.knowledge(oracle.pattern(tokens), causal) for tokens in examples]
    assert len(layers) == max(len(one) for one in slow)
    for t, knows in enumerate(layers):
        for number, one in enumerate(slow):
            known = [set(row.nonzero().flatten().tolist()) for row in knows[number]]
            assert known == one[min(t, len(one) - 1)]
    for destination, shares in readable(task, batch).items():
        for hop in range(1, task.max_hops + 1):
            rows, expected = oracle.readable(examples, causal, destination.value, hop)
            assert rows == 0 or shares[:, hop - 1].tolist() == pytest.approx(
                expected + expected[-1:] * (len(layers) - len(expected))
            )


@settings(max_examples=40)
@given(tasks(max_hops=9), seeds)
def test_looking_both_ways_or_causal_with_definitions_first_every_example_is_the_closed_form(task, seed):
    definition_first = isinstance(task, Retrieval) and task.order == "definition-first"
    if task.attention_dir == "causal" and not definition_first:
        return
    for least in least_layers(task, examples=4, seed=seed):
        if least.rows:
            expected = layers_needed(least.hop, task.attention_dir, least.destination, task.period)
            assert least.layers == least.first == expected


@settings(max_examples=40)
@given(tasks(max_hops=9), seeds)
def test_in_any_causal_order_what_stands_after_its_chain_needs_at_most_the_closed_form_and_nothing_else_ever_knows(task, seed):
    task = task.model_copy(update={"attention_dir": "causal"})
    batch = task.sample(4, torch.Generator().manual_seed(seed))
    layers = list(knowledge(batch.tokens, "causal"))
    known = [chain_known(knows, chains(task, batch.tokens)) for knows in layers]
    visible = (batch.targets != IGNORE).mT  # dense supervision asks what a position can see
    for hop in range(1, task.max_hops + 1):
        bound = layers_needed(hop, "causal")
        assert bool(known[min(bound, len(layers) - 1)][:, hop - 1][visible[:, hop - 1]].all())
        at_query = layers_needed(hop, "causal", period=task.period)
        assert bool(known[min(at_query, len(layers) - 1)][:, hop - 1, -1].all())
        assert torch.equal(known[-1][:, hop - 1], visible[:, hop - 1])
        least_possible = layers_needed(hop, "bidirectional", period=task.period)
        assert not any(bool(known[t][:, hop - 1].any()) for t in range(min(least_possible, len(layers))))


@pytest.mark.parametrize("order", ["shuffled", "sorted"])
@pytest.mark.parametrize("symbols", [4, 6, 7, 8, 10, 13])
def test_on_a_causal_cycle_the_closed_form_is_the_worst_case_at_the_query(symbols, order):
    task = Cycle(symbols=symbols, max_hops=symbols - 2, attention_dir="causal", order=order)
    found = {each.hop: each.layers for each in least_layers(task, 1024) if each.destination == Destination.QUERY}
    assert found == {hop: layers_needed(hop, "causal", period=symbols) for hop in found}


def test_shuffled_causal_order_has_lucky_examples():
    """Two chains of four: the query needs 3 or 4 layers for hop 4."""
    task = Retrieval(chains=2, max_hops=4, attention_dir="causal", order="shuffled")
    hop_4 = readable(task, task.sample(256, torch.Generator().manual_seed(0)))[Destination.QUERY][:, 3]
    assert hop_4[2] == 0
    assert 0 < hop_4[3] < 1
    assert hop_4[4] == 1


def test_a_value_slot_sees_its_chain_if_its_statement_is_the_last_of_them():
    """In all orders of a cycle of 6: one of j + 1 statements is last. A key slot never sees its value."""
    task = Cycle(symbols=6, max_hops=4, attention_dir="causal")
    shares = readable(task, task.batch(task.arrangements().tokens))
    assert shares[Destination.VALUE][-1].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert bool((shares[Destination.KEY] == 0).all())


def test_no_shipped_model_answers_a_hop_in_fewer_layers_than_the_bound(checkpoints):
    solved = 0
    for path in sorted(checkpoints.glob("*/config.json")):
        config = json.loads(path.read_text())
        task, layers = from_config(config["task"]), config["model"]["layers"]
        if not isinstance(task, StatementTask):
            continue
        for hop, accuracy in config["metrics"].get("accuracy", {}).items():
            if accuracy > 0.99:
                solved += 1
                bound = layers_needed(int(hop), task.attention_dir)
                around = layers_around(int(hop), Destination.QUERY, task.period) if task.period else bound
                assert layers >= min(bound, around), f"{path.parent.name}, hop {hop}"
    assert solved > 30


@pytest.mark.parametrize("layout", ["pages", "records"])
@pytest.mark.parametrize("asked", [depth, least_layers, guesses, structure])
def test_statements_of_other_tokens_are_refused(asked, layout):
    with pytest.raises(ConfigError, match=r"statements of two tokens, .* has others: use cycle or retrieval"):
        asked(Conditional(symbols=6, max_hops=2, layout=layout))
    keyed = with_keys(Cycle(symbols=5, max_hops=1))  # whose statements are as plain
    assert asked(keyed)


def test_the_same_seed_gives_the_same_layers():
    task = Retrieval(chains=2, max_hops=6, attention_dir="causal", order="shuffled")
    assert least_layers(task, 16, seed=1) == least_layers(task, 16, seed=1)
    assert {least.destination.slot for least in least_layers(task, 1)} == {Slot.KEY, Slot.VALUE, Slot.QUERY}
