"""Regular languages as tables: machines that read a string and are in some state after every prefix.

A `Machine` is a Moore machine: finitely many states, one next state for each symbol, and an answer in each state. Those here
answer with their state (*state prediction*; Adriaensen & Maene, arXiv 2410.06045); `accepting` are the states in which the
string so far belongs to the language.

How much of a string its state hangs on, from its transitions alone (Krohn & Rhodes 1965, Schützenberger 1965; the tests
compute it):

reset        each symbol resets to one state or changes nothing, so that one position decides: `flip-flop`, `tomita-1`
star-free    no symbols count modulo anything; which stand somewhere, or stand together, decides: `last-two`, `seen`,
             `tomita-2`, `tomita-4`, `tomita-7`
counting     some string permutes some states, so that every position counts: `parity`, `tomita-3`, `tomita-5`, `tomita-6`

Tomita's languages (Tomita 1982, as Weiss, Goldberg & Yahav 2018, arXiv 1711.09576, list them), over 0 and 1:
1  1*            2  (10)*            3  no odd run of 0s after an odd run of 1s            4  no 000
5  0s and 1s both even in number     6  as many 0s as 1s, modulo 3                         7  0*1*0*1*
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stackheads.errors import ConfigError
from stackheads.types import NOWHERE

Family = Literal["reset", "star-free", "counting"]
"""How much of a string its state hangs on; each is the first of these that fits."""


@dataclass(frozen=True)
class Machine:
    """A Moore machine over the symbols 0, 1, …; it starts in state 0.

    `after`    the next state, for each state and symbol.
    `answers`  what it says in each state, numbers from 0.

    Raises `ConfigError` if there is no state or symbol, an answer is missing, or a next state is none of its states.
    """

    after: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.after or not self.after[0]:
            raise ConfigError("a machine needs a state and a symbol, got none: give its transitions")
        if len(self.answers) != len(self.after):
            raise ConfigError(f"a machine answers in each of its {len(self.after)} states, got {len(self.answers)}: give each")
        if {len(row) for row in self.after} != {self.symbols}:
            raise ConfigError("a machine has a next state for each symbol, got rows of different lengths: complete them")
        if outside := [state for row in self.after for state in row if not 0 <= state < len(self.after)]:
            raise ConfigError(f"next states are in 0..{len(self.after) - 1}, got {outside[0]}: correct the transitions")

    @property
    def states(self) -> int:
        """How many states it has."""
        return len(self.after)

    @property
    def symbols(self) -> int:
        """How many symbols it reads."""
        return len(self.after[0])

    def run(self, word: Sequence[int]) -> list[int]:
        """The states after each prefix of a word, the empty one first."""
        states = [0]
        for symbol in word:
            states.append(self.after[states[-1]][symbol])
        return states

    def answer(self, word: Sequence[int]) -> int:
        """What it says when it has read a word."""
        return self.answers[self.run(word)[-1]]

    @property
    def resets(self) -> tuple[int, ...]:
        """For each symbol the one state that it leads to from every state; -1 where it leads to several."""
        targets = [{row[symbol] for row in self.after} for symbol in range(self.symbols)]
        return tuple(target.pop() if len(target) == 1 else NOWHERE for target in targets)


@dataclass(frozen=True)
class Language:
    """A machine that answers with its state, and what is known of its language.

    `accepting`  the states in which the string so far is in the language.
    `family`     how much of the string its state hangs on.
    `says`       what it is, in words.
    """

    after: tuple[tuple[int, ...], ...]
    accepting: tuple[int, ...]
    family: Family
    says: str

    @property
    def machine(self) -> Machine:
        """The machine that answers with its state."""
        return Machine(self.after, tuple(range(len(self.after))))

    @property
    def acceptor(self) -> Machine:
        """The machine that answers 1 where it accepts and 0 where it does not."""
        return Machine(self.after, tuple(int(state in self.accepting) for state in range(len(self.after))))


LANGUAGES: dict[str, Language] = {
    "flip-flop": Language(((0, 1, 0), (0, 1, 1)), (1,), "reset", "the last of 0 and 1; 2 changes nothing"),
    "last-two": Language(
        ((1, 2), (3, 4), (5, 6), (3, 4), (5, 6), (3, 4), (5, 6)), (6,), "star-free", "the last two symbols, or fewer"
    ),
    "seen": Language(((1, 2, 0), (1, 3, 1), (3, 2, 2), (3, 3, 3)), (3,), "star-free", "which of 0 and 1 there were yet"),
    "parity": Language(((0, 1), (1, 0)), (0,), "counting", "whether the 1s are odd in number"),
    "tomita-1": Language(((1, 0), (1, 1)), (0,), "reset", "no 0 yet"),
    "tomita-2": Language(((2, 1), (0, 2), (2, 2)), (0,), "star-free", "10 over and over"),
    "tomita-3": Language(
        ((0, 1), (2, 0), (3, 4), (2, 1), (4, 4)), (0, 1, 3), "counting", "no odd run of 0s after an odd run of 1s"
    ),
    "tomita-4": Language(((1, 0), (2, 0), (3, 0), (3, 3)), (0, 1, 2), "star-free", "no 000 yet"),
    "tomita-5": Language(((1, 2), (0, 3), (3, 0), (2, 1)), (0,), "counting", "0s and 1s both even in number"),
    "tomita-6": Language(((1, 2), (2, 0), (0, 1)), (0,), "counting", "0s less 1s, modulo 3"),
    "tomita-7": Language(((0, 1), (2, 1), (2, 3), (4, 3), (4, 4)), (0, 1, 2, 3), "star-free", "at most 0*1*0*1*"),
}
"""The languages that a task can name."""
