"""Machines as such: the smallest one that gives the same answers, and one that is found by asking.

`minimal` merges states by Moore's algorithm (1956): states are alike that answer alike, and apart from then on if some symbol
leads them to states that are apart. States are numbered as a breadth-first search meets them, so that two machines give the
same answers to all strings if and only if their minimal ones are equal. At most as many rounds as states; Hopcroft's (1971) is
faster for machines of thousands of states, which nothing here has.

`extract` asks a black box for its answers, as Angluin's L* does (1987), with answers for membership as in Adriaensen & Maene
(arXiv 2410.06045). Two strings are one state while their answers to all known continuations agree (Myhill-Nerode); a string
that is told apart becomes a new state. The machine made so is compared with the box on `trials`, each as often as it stands
there: in a sparse language the few strings that belong to it count if they are drawn often. Where box and machine differ the
shortest such string holds a continuation that tells two states apart (found by halving, Rivest & Schapire 1993), and it begins
anew. It ends when they agree on a share of `agreement` of the trials, so that a box that errs now and then still has a machine,
or with none when more than `most` states are told apart.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stackheads.errors import ConfigError
from stackheads.tasks.languages import Machine

Word = tuple[int, ...]
"""A string of symbols, numbers from 0."""
Box = Callable[[Sequence[Word]], Sequence[int]]
"""What answers: a number from 0 for each word."""


@dataclass(frozen=True)
class Extracted:
    """What `extract` found.

    `machine`  the last one that was made; None if a first one would have had too many states.
    `agrees`   the share of the trials on which it answers as the box does.
    `found`    whether that is as much as was asked for, with no more states than allowed.
    `asked`    how many different strings the box was asked about, the trials among them.
    """

    machine: Machine | None
    agrees: float
    found: bool
    asked: int


def minimal(machine: Machine) -> Machine:
    """The smallest machine with the same answers, its states in the order in which a breadth-first search meets them."""
    reached = _reached(machine)
    block = {state: machine.answers[state] for state in reached}
    while True:
        signs = {state: (block[state], *(block[after] for after in machine.after[state])) for state in reached}
        numbers = {sign: number for number, sign in enumerate(dict.fromkeys(signs.values()))}
        finer = {state: numbers[signs[state]] for state in reached}
        if len(numbers) == len(set(block.values())):
            break
        block = finer
    # `reached` is breadth-first and so is the order in which its signs, hence blocks, are numbered
    first = {number: state for state, number in reversed(finer.items())}
    after = tuple(tuple(finer[to] for to in machine.after[first[number]]) for number in range(len(first)))
    return Machine(after, tuple(machine.answers[first[number]] for number in range(len(first))))


def same(one: Machine, other: Machine) -> bool:
    """Whether two machines give the same answer to every string."""
    return minimal(one) == minimal(other)


def extract(box: Box, symbols: int, trials: Sequence[Word], agreement: float = 1.0, most: int = 32) -> Extracted:
    """A machine that answers as the box does. Raises `ConfigError` if there are no trials, or agreement is not in (0, 1]."""
    if not trials:
        raise ConfigError("a machine is compared with the box on some strings, got no trials: give some")
    if not 0 < agreement <= 1:
        raise ConfigError(f"the agreement asked for is a share in (0, 1], got {agreement}: lower it")
    asked = _Asked(box)
    times = Counter(trials)
    by_length = sorted(times, key=len)
    asked(by_length)
    continuations: list[Word] = [()]
    best: tuple[Machine | None, float] = (None, 0.0)
    while (table := _closed(asked, symbols, continuations, most)) is not None:
        machine, access = table
        wrong = [word for word in by_length if machine.answer(word) != asked.known[word]]
        agrees = 1 - sum(times[word] for word in wrong) / len(trials)
        best = (machine, agrees)
        if agrees >= agreement:
            return Extracted(machine, agrees, True, len(asked.known))
        continuations.append(_telling(asked, machine, access, wrong[0]))
    return Extracted(*best, False, len(asked.known))


class _Asked:
    """The box, asked only once about each word."""

    def __init__(self, box: Box):
        self.box = box
        self.known: dict[Word, int] = {}

    def __call__(self, words: Sequence[Word]) -> tuple[int, ...]:
        new = [word for word in dict.fromkeys(words) if word not in self.known]
        if new:
            self.known.update(zip(new, map(int, self.box(new)), strict=True))
        return tuple(self.known[word] for word in words)


def _closed(asked: _Asked, symbols: int, continuations: Sequence[Word], most: int) -> tuple[Machine, list[Word]] | None:
    """The machine whose states these continuations tell apart, and a string that leads to each; None if there are too many."""

    def rows(words: Sequence[Word]) -> list[tuple[int, ...]]:
        width = len(continuations)
        answers = asked([word + more for word in words for more in continuations])
        return [answers[start : start + width] for start in range(0, len(answers), width)]

    access: list[Word] = [()]
    states = {rows(access)[0]: 0}
    after: list[tuple[int, ...]] = []
    while len(after) < len(access):
        word, leads = access[len(after)], []
        for symbol, row in enumerate(rows([(*word, symbol) for symbol in range(symbols)])):
            if row not in states:
                states[row] = len(access)
                access.append((*word, symbol))
            leads.append(states[row])
        if len(access) > most:
            return None
        after.append(tuple(leads))
    return Machine(tuple(after), tuple(row[0] for row in states)), access


def _telling(asked: _Asked, machine: Machine, access: Sequence[Word], word: Word) -> Word:
    """The end of a word on which box and machine differ that tells two words apart which are one state to the machine."""
    states = machine.run(word)

    def as_whole(read: int) -> bool:
        """Whether the box answers as to the whole word if the machine's string for its state stands for what is read."""
        return asked([access[states[read]] + word[read:]])[0] == asked.known[word]

    low, high = 0, len(word)  # true of 0, and false of all of it, where the box says what the machine says
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if as_whole(middle) else (low, middle)
    return word[high:]


def _reached(machine: Machine) -> list[int]:
    """The states that some string leads to, breadth-first."""
    found = [0]
    for state in found:  # grows as it goes
        found += [after for after in dict.fromkeys(machine.after[state]) if after not in found]
    return found
