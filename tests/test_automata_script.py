"""The script of automata: the same weights in a longer context, and a model that is an automaton is found to be it."""

import sys
from itertools import product
from pathlib import Path

import pytest
import torch

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.append(str(ANALYSES))

import automata  # noqa: E402

from stackheads.models import Checkpoint, ModelConfig, build  # noqa: E402
from stackheads.tasks import LANGUAGES, Automaton  # noqa: E402
from stackheads.theory import same  # noqa: E402

ROTARY = ModelConfig(layers=2, heads=1, d_model=8, d_head=4, attn_only=False, positions="rotary")


class Perfect(torch.nn.Module):
    """Logits that say the true state after every token."""

    def __init__(self, task):
        super().__init__()
        self.task, self.calls = task, []

    def forward(self, tokens):
        self.calls.append(tokens)
        return torch.nn.functional.one_hot(self.task.states(tokens), self.task.d_vocab_out).double()


@pytest.mark.parametrize("name", ["parity", "seen"])
def test_all_strings_of_a_length_are_there_once(name):
    task = Automaton(language=name, context=13)
    words = [(task.begin, *word) for word in product(range(task.begin), repeat=5)]
    assert list(map(tuple, automata.every(task, 5).tolist())) == words


@pytest.mark.parametrize("name", ["parity", "seen", "last-two"])
def test_of_short_strings_each_counts_once_however_many_begin_with_it(name):
    """Of an untrained model, which is wrong often: what it says of each word by itself, the empty one among them."""
    task = Automaton(language=name, context=7)
    model = build(ROTARY, task, seed=5)
    words = [word for length in range(6) for word in product(range(task.begin), repeat=length)]
    alone = automata.Asked(model, task)
    right = [alone([word])[0] == task.machine.answer(word) for word in words]
    assert automata.short(automata.Asked(model, task), 5) == pytest.approx(sum(right) / len(words))


def test_the_same_weights_say_the_same_in_a_longer_context():
    task = Automaton(language="tomita-3", context=9)
    short = build(ROTARY, task, seed=3)
    checkpoint = Checkpoint("short", short, task, ROTARY, {}, {})
    model, longer = automata.lengthened(checkpoint, 33)
    assert (longer.context, longer.language) == (33, "tomita-3")
    tokens = task.sample(16, torch.Generator().manual_seed(0)).tokens
    behind = longer.sample(16, torch.Generator().manual_seed(1)).tokens[:, 1:9]
    with torch.no_grad():
        alone, more = short(tokens), model(torch.cat([tokens, behind], dim=1))
    torch.testing.assert_close(more[:, :9], alone)


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_automaton_of_a_perfect_model_is_right_by_states_and_by_acceptance(name):
    task = Automaton(language=name, context=13)
    asked = automata.Asked(Perfect(task), task)
    tokens = task.sample(128, torch.Generator().manual_seed(0)).tokens
    trials = asked.remember(tokens, asked.states(tokens))
    for found, truth in automata.extracted(asked, trials).values():
        assert found.found
        assert same(found.machine, truth)


def test_all_prefixes_are_known_as_often_as_they_stand_there():
    task = Automaton(language="seen", context=13)
    asked, tokens = automata.Asked(Perfect(task), task), automata.every(task, 4)
    prefixes = asked.remember(tokens, asked.states(tokens))
    assert len(prefixes) == 3**4 * 5
    assert prefixes.count(()) == 3**4
    assert set(prefixes) == {word for length in range(5) for word in product(range(3), repeat=length)}
    assert all(asked.known[word] == task.machine.answer(word) for word in prefixes)


def test_words_are_asked_once_and_what_stands_behind_them_does_not_matter():
    task = Automaton(language="parity", context=13)
    asked = automata.Asked(Perfect(task), task)
    words = [(), (1,), (1, 0, 1), (1, 1, 1, 1, 1)]
    assert asked(words) == [0, 1, 0, 1]
    assert asked([*words, (1, 0)]) == [0, 1, 0, 1, 1]
    assert [tuple(call.shape) for call in asked.model.calls] == [(4, 6), (1, 3)]


def test_a_model_that_never_changes_its_mind_has_a_machine_of_one_state_that_is_wrong():
    task = Automaton(language="parity", context=13)

    class Stubborn(Perfect):
        def forward(self, tokens):
            return torch.tensor([1.0, 0.0]).expand(*tokens.shape, 2)

    asked = automata.Asked(Stubborn(task), task)
    tokens = automata.every(task, 5)
    found, truth = automata.extracted(asked, asked.remember(tokens, asked.states(tokens)))["states"]
    assert found.found
    assert found.machine.states == 1
    assert not same(found.machine, truth)
