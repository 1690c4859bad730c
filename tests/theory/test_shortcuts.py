"""Arrangements against sampling, best guesses against a brute-force posterior, and shortcuts that are known."""

from collections import Counter

import pytest
import torch

from stackheads.tasks import Cycle, Retrieval
from stackheads.theory import guesses, shortcuts, structure
from stackheads.types import Destination

from . import oracle


@pytest.mark.parametrize(
    "task",
    [
        Cycle(symbols=5, max_hops=3),
        Cycle(symbols=5, max_hops=3, order="sorted"),
        Retrieval(chains=2, max_hops=3),
        Retrieval(chains=3, max_hops=2, symbols=12),
        Retrieval(chains=2, max_hops=2, order="shuffled"),
    ],
    ids=lambda task: task.name,
)
def test_arrangements_are_what_is_sampled_and_as_often(task):
    """20,000 samples, each class within five standard errors of its probability, and no class left out."""
    listed = task.arrangements()
    expected = Counter()
    for row, probability in zip(listed.tokens.tolist(), listed.probability.tolist(), strict=True):
        expected[oracle.pattern(row)] += probability
    n = 20_000
    found = Counter(map(oracle.pattern, task.sample(n, torch.Generator().manual_seed(0)).tokens.tolist()))
    assert sum(expected.values()) == pytest.approx(1)
    assert found.keys() == expected.keys()
    for row, p in expected.items():
        assert abs(found[row] / n - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1e-9


@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
@pytest.mark.parametrize(
    ("task", "examples"),
    [
        (Cycle(symbols=4, max_hops=2), list(oracle.cycles(4))),
        (Retrieval(chains=2, max_hops=2), list(oracle.retrievals(2, 2, 6))),
        (Retrieval(chains=2, max_hops=1, symbols=5), list(oracle.retrievals(2, 1, 5))),
    ],
    ids=["cycle", "retrieval", "spare symbols"],
)
def test_best_guesses_are_the_brute_force_posteriors(task, examples, direction):
    task = task.model_copy(update={"attention_dir": direction})
    found = {(g.destination.value, g.hop, g.layers): g for g in guesses(task)}
    checked = 0
    for destination in ("query", "value"):
        for hop in range(1, task.max_hops + 1):
            layer = 0
            while (destination, hop, layer) in found:
                guess = found.pop((destination, hop, layer))
                expected = oracle.guesses(examples, direction == "causal", destination, hop, layer)
                assert (guess.open, guess.seen, guess.named, guess.looked) == pytest.approx(expected)
                layer, checked = layer + 1, checked + 1
    assert checked >= 2
    assert not found


@pytest.mark.parametrize("symbols", [6, 7])
def test_on_a_cycle_the_best_guess_is_uniform_over_what_is_not_seen(symbols):
    """After t layers the query has seen r // 2 links each way, a value slot one more back where r is odd: 1 / unseen."""
    for guess in guesses(Cycle(symbols=symbols, max_hops=4)):
        r = (3**guess.layers - 1) // 2
        back = r // 2 if guess.destination == Destination.QUERY else (r + 1) // 2
        wrapped = symbols - guess.hop <= back
        assert guess.open == pytest.approx(1)
        assert guess.seen == pytest.approx(float(wrapped))
        assert guess.named == pytest.approx(1 if wrapped else 1 / (symbols - 1 - r // 2 - back))


def test_known_shortcuts_are_found_with_their_kind():
    """A cycle of 6: two layers see all but one symbol (hop 3), and hop 4 is hop -2. Sorted statements: places tell all."""
    small = {(g.hop, g.layers): g.kind for g in shortcuts(Cycle(symbols=6, max_hops=4)) if g.destination == Destination.QUERY}
    assert small == {(3, 2): "elimination", (4, 2): "wrap-around"}
    ordered = shortcuts(Cycle(symbols=10, max_hops=8, order="sorted"))
    assert [g.looked for g in ordered] == pytest.approx([1] * len(ordered))
    assert {(g.hop, g.kind) for g in ordered if g.layers == 1} == {(hop, "order") for hop in range(1, 9)}


def test_two_chains_in_causal_order_have_a_shortcut_that_more_chains_take_away():
    two, three = (shortcuts(Retrieval(chains=chains, max_hops=3, attention_dir="causal")) for chains in (2, 4))
    assert ("order", 1) in {(g.kind, g.hop) for g in two}
    assert three is None or not [g for g in three if g.hop == 1 and g.destination == Destination.QUERY]


def test_structure_sees_the_way_round_likely_places_and_chain_ends():
    assert structure(Cycle(symbols=10, max_hops=8)).around == {8: 2}
    assert structure(Cycle(symbols=18, max_hops=8)).around == {}
    assert structure(Cycle(symbols=10, max_hops=8, order="sorted")).place == dict.fromkeys(range(1, 9), 1.0)
    assert structure(Retrieval(chains=2, max_hops=8, attention_dir="causal")).place[1] > 0.6
    assert structure(Retrieval(chains=4, max_hops=2)).ends == 1 / 4
    assert structure(Cycle(symbols=6, max_hops=2)).ends is None


def test_tasks_too_large_to_list_have_no_exact_guesses():
    assert shortcuts(Cycle(symbols=10, max_hops=4)) is None
    assert shortcuts(Retrieval(chains=3, max_hops=5)) is None
