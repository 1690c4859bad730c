"""Automata against a reader that knows the languages by other words than their tables, and their counterfactuals."""

import re
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import LANGUAGES, Automaton, check, from_config

NO_SINGLE_POSITION = {"last-two", "seen", "parity", *(f"tomita-{number}" for number in range(2, 8))}


def belongs(name, word):
    """Membership, from each language's description alone."""
    text = "".join(map(str, word))
    runs = re.findall("1+|0+", text)
    pairs = [(one, zero) for one, zero in pairwise(runs) if one[0] == "1"]
    return {
        "flip-flop": lambda: text.rstrip("2").endswith("1"),
        "last-two": lambda: text.endswith("11"),
        "seen": lambda: "0" in text and "1" in text,
        "parity": lambda: text.count("1") % 2 == 0,
        "tomita-1": lambda: "0" not in text,
        "tomita-2": lambda: re.fullmatch("(10)*", text) is not None,
        "tomita-3": lambda: not any(len(one) % 2 and len(zero) % 2 for one, zero in pairs),
        "tomita-4": lambda: "000" not in text,
        "tomita-5": lambda: text.count("0") % 2 == text.count("1") % 2 == 0,
        "tomita-6": lambda: (text.count("0") - text.count("1")) % 3 == 0,
        "tomita-7": lambda: re.fullmatch("0*1*0*1*", text) is not None,
    }[name]()


def monoid(machine):
    """What strings do to states: every product of the symbols' maps."""
    maps = [tuple(row[symbol] for row in machine.after) for symbol in range(machine.symbols)]
    found = list(dict.fromkeys(maps))
    for one in found:
        found += [new for new in dict.fromkeys(tuple(more[state] for state in one) for more in maps) if new not in found]
    return maps, found


def decided_by(machine, word):
    """The last position (from 1) that resets, if the state has not changed since: by looking back one by one."""
    states = machine.run(word)
    for position in range(len(word), 0, -1):
        if len({row[word[position - 1]] for row in machine.after}) == 1:
            return position
        if states[position] != states[position - 1]:
            break
    return -1


@st.composite
def tasks(draw):
    return Automaton(
        language=draw(st.sampled_from(list(LANGUAGES))),
        context=draw(st.integers(4, 20)),
        supervision=draw(st.sampled_from(["final", "dense"])),
    )


@pytest.mark.parametrize("name", LANGUAGES)
def test_tables_are_the_languages_that_their_words_say(name):
    language = LANGUAGES[name]
    for length in range(9):
        for word in product(range(language.machine.symbols), repeat=length):
            assert language.acceptor.answer(word) == belongs(name, word)


@pytest.mark.parametrize("name", LANGUAGES)
def test_families_are_those_of_the_transition_monoid(name):
    """Reset: every symbol resets or does nothing. Star-free: some power of every string does what the next power does."""
    machine = LANGUAGES[name].machine
    maps, found = monoid(machine)
    still = tuple(range(machine.states))
    reset = all(symbol == still or len(set(symbol)) == 1 for symbol in maps)

    def settles(one):
        power = one
        for _ in range(machine.states):
            power = tuple(one[state] for state in power)
        return power == tuple(one[state] for state in power)

    family = "reset" if reset else "star-free" if all(map(settles, found)) else "counting"
    assert LANGUAGES[name].family == family


@settings(max_examples=40)
@given(tasks(), st.integers(0, 1000))
def test_answers_and_sources_are_those_of_a_plain_reader(task, seed):
    batch = task.sample(4, torch.Generator().manual_seed(seed))
    for example in range(4):
        begin, *word = batch.tokens[example].tolist()
        assert begin == task.begin
        assert all(0 <= symbol < task.begin for symbol in word)
        states = task.machine.run(word)
        for i in range(task.n_ctx):
            asked = task.supervision == "dense" or i == task.n_ctx - 1
            assert batch.targets[example, i, 0] == (states[i] if asked else -100)
            assert batch.target_hop[example, i, 0] == (asked and i > 0)
            assert batch.find[example, 0, i] == decided_by(task.machine, word[:i])


@settings(max_examples=40)
@given(tasks(), st.integers(0, 1000))
def test_where_one_position_decides_nothing_before_it_matters(task, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(8, generator)
    source = batch.find[:, 0]
    other = torch.randint(task.begin, batch.tokens.shape, generator=generator)
    for i in range(1, task.n_ctx):
        before = (torch.arange(task.n_ctx) < source[:, i : i + 1]) & (torch.arange(task.n_ctx) > 0)
        states = task.states(other.where(before, batch.tokens))
        found = source[:, i] >= 0
        assert torch.equal(states[found, i], task.states(batch.tokens)[found, i])


@settings(max_examples=40)
@given(tasks(), st.integers(0, 1000))
def test_a_counterfactual_changes_one_symbol_and_the_last_state_wherever_one_can(task, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(16, generator)
    other = task.counterfactual(batch, 1, generator)
    changed = batch.tokens != other.tokens
    for example in range(16):
        _, *word = batch.tokens[example].tolist()
        last, source = task.machine.run(word)[-1], int(batch.find[example, 0, -1])
        where = range(1, task.n_ctx) if source < 0 else [source]
        possible = {
            (position, symbol)
            for position in where
            for symbol in range(task.begin)
            if task.machine.run([*word[: position - 1], symbol, *word[position:]])[-1] != last
        }
        made = {(int(position), int(other.tokens[example, position])) for position in changed[example].nonzero()}
        assert len(made) == min(1, len(possible))
        assert made <= possible


@pytest.mark.parametrize("name", LANGUAGES)
def test_last_states_are_even(name):
    task = Automaton(language=name, context=16)
    last = task.sample(2000, torch.Generator().manual_seed(0)).targets[:, -1, 0]
    shares = last.bincount(minlength=task.d_vocab_out)[list(task.last_states)] / 2000
    assert shares.sum() == pytest.approx(1)
    assert (shares - task.chance(1)).abs().max() < 0.05
    reached = {task.machine.run(word)[-1] for word in product(range(task.begin), repeat=6)}
    assert set(Automaton(language=name, context=7).last_states) == reached


@pytest.mark.parametrize("name", LANGUAGES)
def test_it_passes_the_checker(name):
    check(Automaton(language=name, context=20), examples=128)
    check(Automaton(language=name, context=9, supervision="final"), examples=128)


@pytest.mark.parametrize("name", LANGUAGES)
def test_which_languages_have_a_deciding_position(name):
    batch = Automaton(language=name, context=16).sample(64, torch.Generator().manual_seed(0))
    assert bool((batch.find < 0).all()) == (name in NO_SINGLE_POSITION)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language": "dyck"}, "one of flip-flop, .*, got 'dyck'"),
        ({"context": 3}, "3 symbols, got 3"),
        ({"max_hops": 2}, "one hop away, got max_hops 2"),
        ({"attention_dir": "bidirectional"}, "from left to right"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_config({"kind": "automaton", "language": "parity", "context": 16} | settings)


def test_mistaken_calls():
    task = Automaton(language="parity", context=8)
    batch = task.sample(2, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="must be 1, got 2"):
        task.counterfactual(batch, 2, torch.Generator())
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        task.sample(0, torch.Generator())
