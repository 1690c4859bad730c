"""Conditional retrieval against a plain-Python resolver that reads tokens only, and what can be guessed without it."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError, StackheadsError
from stackheads.tasks import Conditional, Cycle, from_config
from stackheads.tasks.conditional import OWN_KIND, PLACE_OF_KIND, fewest_symbols
from stackheads.tasks.statements import OWN
from stackheads.types import IGNORE, Role, Slot

from .conditional_resolver import ConditionalExample

layouts = st.sampled_from(["records", "pages"])


@st.composite
def conditionals(draw):
    hops, kinds = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    return Conditional(
        symbols=fewest_symbols(hops, kinds) + kinds * draw(st.integers(0, 1)),
        kinds=kinds,
        max_hops=hops,
        layout=draw(layouts),
        supervision=draw(st.sampled_from(["final", "chain", "dense"])),
        attention_dir=draw(st.sampled_from(["causal", "bidirectional"])),
    )


def read(task, row):
    return ConditionalExample(row.tolist(), task.symbols, task.kinds, task.layout)


def check_against_resolver(task, batch):
    """Everything in a batch is what the resolver reads off the tokens."""
    causal = task.attention_dir == "causal"
    for row in range(len(batch)):
        example = read(task, batch.tokens[row])
        places = range(task.n_ctx)
        assert batch.slots[row].tolist() == [example.slot(i) for i in places]
        for name, known in ((OWN, example.symbol), (OWN_KIND, example.own_kind), (PLACE_OF_KIND, example.place_of_kind)):
            assert batch.gates[name][row].tolist() == [known(i) for i in places]
        for number, j in enumerate(task.hops):
            assert batch.find[row, number].tolist() == [seen(example.find(i, j), i, causal) for i in places]
        for role in set(task.operands):
            numbers = [number for number, other in enumerate(task.operands) if other == role]
            found = [set(here) - {-1} for here in zip(*batch.operands[row, numbers].tolist(), strict=True)]
            assert found == [{seen(at, i, causal) for at in sources(example, i, role)} - {-1} for i in places]
        asked = {Slot.QUERY, Slot.VALUE} if task.supervision == "dense" else {Slot.QUERY}
        for number, hop in enumerate(task.readout_hops):
            answers = [example.answer(i, hop, causal) if example.slot(i) in asked else None for i in places]
            assert batch.targets[row, :, number].tolist() == [IGNORE if each is None else each for each in answers]
            assert batch.target_hop[row, :, number].tolist() == [0 if each is None else hop for each in answers]


def seen(place, position, causal):
    return -1 if causal and place > position else place


def sources(example, position, role):
    if role.name == "condition":
        return {example.condition(position, role.hop)}
    return (example.unchosen if role.name == "unchosen" else example.holders)(position, role.hop)


@settings(max_examples=40)
@given(conditionals(), st.integers(0, 2**31))
def test_maps_and_targets_are_what_the_statements_say(task, seed):
    batch = task.sample(2, torch.Generator().manual_seed(seed))
    check_against_resolver(task, batch)
    assert batch.target_hop[:, -1].tolist() == [list(task.readout_hops)] * 2


@settings(max_examples=40)
@given(conditionals(), st.integers(0, 2**31), st.data())
def test_a_counterfactual_changes_one_token_and_the_answers_from_that_hop_on(task, seed, data):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(2, generator)
    hop, operand = data.draw(st.integers(1, task.max_hops)), data.draw(st.sampled_from(["value", "condition"]))
    other = task.counterfactual(batch, hop, generator, operand=operand)
    check_against_resolver(task, other)
    query = task.n_ctx - 1
    for row in range(len(batch)):
        before, after = read(task, batch.tokens[row]), read(task, other.tokens[row])
        changed = [i for i, (a, b) in enumerate(zip(before.tokens, after.tokens, strict=True)) if a != b]
        assert changed == [before.find(query, hop) if operand == "value" else before.condition(query, hop)]
        for h in range(1, task.max_hops + 1):
            assert (before.answer(query, h, False) == after.answer(query, h, False)) == (h < hop)


@settings(max_examples=40)
@given(conditionals(), st.integers(0, 2**31))
def test_a_condition_always_matters(task, seed):
    """No symbol is its own candidate, none another's under two kinds; kinds and values stand equally often."""
    for row in task.sample(3, torch.Generator().manual_seed(seed)).tokens:
        example = read(task, row)
        for symbol in range(task.symbols):
            candidates = [row[fact[symbol]].item() for fact in example.facts[1:]]
            assert len({symbol, *candidates}) == 1 + task.kinds
        kinds = Counter(example.kind(symbol) for symbol in range(task.symbols))
        assert set(kinds.values()) == {task.symbols // task.kinds}
        for fact in example.facts[1:]:
            assert sorted(row[slot].item() for slot in fact.values()) == list(range(task.symbols))


def test_same_seed_same_examples():
    task = Conditional(symbols=6, max_hops=2)
    one, two = (task.sample(50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(task.batch(one.tokens).operands, one.operands)
    assert torch.equal(one[10:20].to("cpu").operands, one.operands[10:20])


def test_a_known_example_by_hand():
    """Six people, wizards (6) live with their mothers, the others (7) with their fathers; where does 0 live, and where she?"""
    kinds, mothers, fathers = [6, 7, 6, 7, 6, 7], [1, 2, 3, 4, 5, 0], [2, 3, 4, 5, 0, 1]
    task = Conditional(symbols=6, max_hops=2)
    batch = task.batch(
        torch.tensor([[*(t for record in zip(range(6), kinds, mothers, fathers, strict=True) for t in record), 0]])
    )
    assert batch.targets[0, -1].tolist() == [1, 3]  # 0 is a wizard: mother 1; 1 is none: father 3
    at = {role: batch.operands[0, number] for number, role in enumerate(task.operands)}
    assert [int(batch.find[0, task.hops.index(j), -1]) for j in (1, 2)] == [2, 7]
    assert [int(at[Role("condition", j)][-1]) for j in (0, 1, 2)] == [-1, 1, 5]
    assert [int(at[Role("unchosen", j)][-1]) for j in (1, 2)] == [3, 6]
    assert int(at[Role("condition", 0)][7]) == 5  # whether "1's father is 3" counts is a matter of what 1 is
    assert int(at[Role("condition", 1)][7]) == 13
    assert [int(batch.find[0, task.hops.index(j), 5]) for j in (1, 2)] == [7, 15]  # "1 is none" stands for 1


def best_guess(answers, *known):
    """Accuracy of the best fixed answer to each value of some tokens, in sample: never less than what knowing them is worth."""
    code = answers
    for number, token in enumerate(known, start=1):
        code = code + 10**number * token
    counts = torch.bincount(code, minlength=10 ** (1 + len(known)))
    return counts.unflatten(0, (-1, 10)).amax(dim=1).sum().item() / len(answers)


@pytest.mark.parametrize("layout", ["records", "pages"])
@pytest.mark.parametrize("hop", [1, 2])
def test_no_position_tells_the_answer(hop, layout):
    """The query, any one token, or both together are worth what chance says."""
    task = Conditional(symbols=6, max_hops=2, layout=layout)
    batch = task.sample(20000, torch.Generator().manual_seed(0))
    answers, query = batch.targets[:, -1, hop - 1], batch.tokens[:, -1]
    assert best_guess(answers, query) < task.chance(hop) + 0.02
    for token in batch.tokens[:, :-1].unbind(dim=1):
        assert best_guess(answers, token) < task.chance(hop) + 0.02
        assert best_guess(answers, token, query) < task.chance(hop) + 0.04


def test_without_the_conditions_all_candidates_are_as_likely():
    """Follow every candidate and answer where most ways end: one in two at hop 1, little more than one in four at hop 2."""
    task = Conditional(symbols=6, max_hops=2)
    batch = task.sample(4000, torch.Generator().manual_seed(0))
    right = torch.zeros(2)
    for row, targets in zip(batch.tokens, batch.targets[:, -1], strict=True):
        example, ways = read(task, row), [int(row[-1])]
        for hop in range(2):
            ways = [int(row[fact[symbol]]) for symbol in ways for fact in example.facts[1:]]
            ends = Counter(ways)
            likely = [symbol for symbol, times in ends.items() if times == max(ends.values())]
            right[hop] += (int(targets[hop]) in likely) / len(likely)
    assert (right / len(batch)).tolist() == pytest.approx([1 / 2, 0.29], abs=0.025)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Conditional(symbols=6, max_hops=2, kinds=1), "at least 2 kinds to decide between, got 1"),
        (lambda: Conditional(symbols=40, max_hops=2, kinds=10), "at most 8 kinds have candidates that differ in time, got 10"),
        (lambda: Conditional(symbols=4, max_hops=2), "2 hops with 2 kinds need at least 6 symbols, got 4"),
        (lambda: Conditional(symbols=7, max_hops=2), "a multiple of the 2 kinds, as many of each, got 7: try 8"),
        (lambda: from_config({"kind": "conditional", "max_hops": 2}), "symbols"),
        (lambda: counterfactual(Cycle(symbols=6, max_hops=2), 1), "no conditions to rewire, got operand 'condition'"),
        (lambda: counterfactual(Conditional(symbols=6, max_hops=1), 2), r"in 1\.\.1, got 2"),
    ],
)
def test_bad_requests_are_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def counterfactual(task, hop):
    generator = torch.Generator().manual_seed(0)
    return task.counterfactual(task.sample(2, generator), hop, generator, operand="condition")


def test_a_condition_that_changes_nothing_further_on_has_no_counterfactual():
    """Both candidates of the query lead to the same symbol: flipping its kind leaves the answer of hop 2."""
    kinds, first, second = [6, 6, 6, 7, 7, 7], [1, 3, 4, 5, 0, 2], [4, 0, 5, 2, 3, 1]  # 0, 1, 3 or 0, 4, 3
    task = Conditional(symbols=6, max_hops=2)
    batch = task.batch(torch.tensor([[*(t for record in zip(range(6), kinds, first, second, strict=True) for t in record), 0]]))
    with pytest.raises(StackheadsError, match="can replace its condition, example 0 has none for hop 1"):
        task.counterfactual(batch, 1, torch.Generator(), operand="condition")
