"""Minimal machines and extracted ones against brute force, on random machines."""

from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import LANGUAGES, Machine
from stackheads.theory import extract, minimal, same

BINARY = {name: language for name, language in LANGUAGES.items() if language.machine.symbols == 2}


@st.composite
def machines(draw, most=6, answers=3):
    states, symbols = draw(st.integers(1, most)), draw(st.integers(1, 3))
    after = st.tuples(*[st.integers(0, states - 1)] * symbols)
    says = draw(st.tuples(*[st.integers(0, answers - 1)] * states))
    return Machine(draw(st.tuples(*[after] * states)), says)


def words(symbols, longest):
    return [word for length in range(longest + 1) for word in product(range(symbols), repeat=length)]


def apart(machine, one, other):
    """Whether some string tells two states apart: a search through pairs of states, each once."""
    pairs = [(one, other)]
    for left, right in pairs:
        if machine.answers[left] != machine.answers[right]:
            return True
        pairs += [pair for pair in zip(machine.after[left], machine.after[right], strict=True) if pair not in pairs]
    return False


def beside(one, other):
    """Both machines as one, the second one's start, and a machine that runs it: the disjoint sum."""
    shift = one.states
    after = one.after + tuple(tuple(state + shift for state in row) for row in other.after)
    return Machine(after, one.answers + other.answers), shift


def renumbered(machine, order):
    """The same machine with its states under other numbers, the first one kept."""
    number = {state: place for place, state in enumerate(order)}
    after = tuple(tuple(number[to] for to in machine.after[state]) for state in order)
    return Machine(after, tuple(machine.answers[state] for state in order))


@given(machines())
def test_a_minimal_machine_answers_the_same_and_tells_all_its_states_apart(machine):
    small = minimal(machine)
    total, start = beside(machine, small)
    assert not apart(total, 0, start)
    assert all(apart(small, one, other) for one in range(small.states) for other in range(one))
    shortest = {small.run(word)[-1] for word in words(small.symbols, small.states - 1)}
    assert shortest == set(range(small.states)), "every state is reached"
    assert minimal(small) == small


@given(machines(), st.randoms())
def test_numbers_of_states_do_not_matter(machine, random):
    order = [0, *random.sample(range(1, machine.states), machine.states - 1)]
    assert minimal(renumbered(machine, order)) == minimal(machine)


@given(machines(most=4, answers=2), machines(most=4, answers=2))
def test_machines_are_the_same_if_they_answer_all_strings_alike(one, other):
    assume(one.symbols == other.symbols)
    total, start = beside(one, other)
    assert same(one, other) == (not apart(total, 0, start))
    shorter = words(one.symbols, 4)
    if same(one, other):
        assert [one.answer(word) for word in shorter] == [other.answer(word) for word in shorter]


@settings(max_examples=60)
@given(machines(most=4))
def test_asking_finds_the_minimal_machine(machine):
    """Machines of m and n states that differ do so on a string of at most m + n - 2 symbols, here six."""
    trials = words(machine.symbols, 6)
    found = extract(lambda some: [machine.answer(word) for word in some], machine.symbols, trials)
    assert found.found
    assert found.agrees == 1
    assert found.machine == minimal(machine)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("kind", ["machine", "acceptor"])
def test_asking_finds_every_language_also_from_acceptance_alone(name, kind):
    machine = getattr(LANGUAGES[name], kind)
    found = extract(lambda some: [machine.answer(word) for word in some], 2, words(2, 8))
    assert found.machine == minimal(machine)


def test_a_box_that_errs_now_and_then_still_has_a_machine():
    parity, odd = LANGUAGES["parity"].machine, {(1, 0, 1, 1, 0, 1, 0), (0,) * 8}
    trials = words(2, 8)

    def box(some):
        return [parity.answer(word) ^ (word in odd) for word in some]

    found = extract(box, 2, trials, agreement=0.99)
    assert found.machine == parity
    assert found.agrees == pytest.approx(1 - 2 / len(trials))
    assert found.asked >= len(trials)
    strict = extract(box, 2, trials)
    assert strict.machine is None or strict.machine.states > 2


def test_a_trial_counts_as_often_as_it_stands_there():
    """Few words belong to (10)*: a machine that accepts none at length agrees with nearly all, until some are repeated."""
    acceptor = LANGUAGES["tomita-2"].acceptor

    def box(some):
        return [acceptor.answer(word) for word in some]

    inside = [word for word in words(2, 12) if acceptor.answer(word)]
    assert extract(box, 2, words(2, 12), agreement=0.99).machine != minimal(acceptor)
    assert extract(box, 2, words(2, 12) + inside * 1000, agreement=0.99).machine == minimal(acceptor)


def test_a_box_that_counts_has_no_machine():
    found = extract(lambda some: [sum(word) for word in some], 2, words(2, 8), most=6)
    assert not found.found
    assert found.agrees < 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: extract(lambda some: [0 for _ in some], 2, []), "got no trials"),
        (lambda: extract(lambda some: [0 for _ in some], 2, [()], agreement=0), r"in \(0, 1\], got 0"),
        (lambda: Machine((), ()), "needs a state and a symbol"),
        (lambda: Machine(((0, 0),), ()), "each of its 1 states, got 0"),
        (lambda: Machine(((0, 0), (0,)), (0, 1)), "different lengths"),
        (lambda: Machine(((0, 3),), (0,)), r"in 0\.\.0, got 3"),
    ],
)
def test_mistakes(call, says):
    with pytest.raises(ConfigError, match=says):
        call()
