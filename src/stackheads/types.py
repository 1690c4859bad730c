"""The small vocabulary shared by all rooms: head names, slots and destinations."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Literal, get_args

from stackheads.errors import InterventionError
from stackheads.limits import whole

IGNORE = -100
"""Target of a readout that is not asked; the value `torch.nn.functional.cross_entropy` ignores."""

NOWHERE = -1
"""Source position of a find map where the source does not exist or cannot be attended to."""


class Slot(IntEnum):
    """What a position holds in a statement. ASKED: the word asked about, where the answer is read at another place, QUERY."""

    KEY = 0
    VALUE = 1
    QUERY = 2
    OTHER = 3
    CONDITION = 4
    ASKED = 5

    @property
    def plural(self) -> str:
        """All of them, as selectors say it: "value slots"."""
        return f"{self.name.lower()} slots"


class Destination(StrEnum):
    """The class of positions a head reads *from the point of view of*. A role belongs to (head, destination)."""

    QUERY = "query"
    VALUE = "value"
    KEY = "key"
    CONDITION = "condition"
    ASKED = "asked"

    @property
    def slot(self) -> Slot:
        """The slot whose positions make up this destination."""
        return Slot[self.name]

    @classmethod
    def _missing_(cls, value: object) -> None:
        """One line for a destination that there is not, wherever one is read."""
        raise InterventionError(f"a destination is one of {', '.join(cls)}, got {value!r}: name one of these")


def ranges(values: Sequence[int]) -> str:
    """Ascending whole numbers as ranges: "1..4, 7"."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}..{part[-1]}" for part in parts)


def parse_ranges(text: str) -> tuple[int, ...]:
    """Read what `ranges` wrote."""
    ends = [[int(end) for end in part.split("..")] for part in text.split(", ")]
    return tuple(value for part in ends for value in range(part[0], part[-1] + 1))


@dataclass(frozen=True, order=True)
class Gate:
    """What the looking position knows when a selector acts: that a gate of the task (`Batch.gates`) has one of these values.

    Written "asked 1..4, 7"; `values` ascend.
    """

    name: str
    values: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {ranges(self.values)}"

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Read "asked 1..4, 7". Raises `InterventionError` for anything else."""
        match = re.fullmatch(r"(.+?) (\d+(?:\.\.\d+)?(?:, \d+(?:\.\.\d+)?)*)", text)
        if match is None:
            raise InterventionError(f'a gate is written like "asked 1..4, 7", got {text!r}: give its name and values')
        return cls(match[1], parse_ranges(match[2]))


@dataclass(frozen=True)
class Gated:
    """The positions of a destination at which a gate has some of its values."""

    destination: Destination
    gate: Gate

    def __str__(self) -> str:
        return f"{self.destination} when {self.gate}"


Where = Destination | Gated
"""Which positions a row of the labels is about: a destination, or a part of it."""


def where(destination: Destination, gate: Gate | None) -> Where:
    """The destination, or the part of it that the gate names."""
    return destination if gate is None else Gated(destination, gate)


def destination_of(place: Where) -> Destination:
    """The destination that this is, or is a part of."""
    return place.destination if isinstance(place, Gated) else place


@dataclass(frozen=True, order=True)
class HeadId:
    """An attention head, written "L2H1": layer 2, head 1, both counted from 0."""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.index}"

    @classmethod
    def parse(cls, name: str) -> "HeadId":
        """Read "L2H1". Raises `InterventionError` for anything else."""
        match = re.fullmatch(r"L(\d+)H(\d+)", name)
        if match is None:
            raise InterventionError(f"a head is written like L2H1, got {name!r}: give layer and head number")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, head: "HeadId | str") -> "HeadId":
        """A head that is given as one, or by its name. Raises `InterventionError` for anything else."""
        if isinstance(head, str):
            return cls.parse(head)
        layer, index = (whole(head.layer), whole(head.index)) if isinstance(head, HeadId) else (None, None)
        if layer is None or index is None:
            raise InterventionError(f"a head is a HeadId of two whole numbers or its name, got {head!r}: give one like L2H1")
        return cls(layer, index)

    def check(self, layers: int, heads: int) -> "HeadId":
        """The head itself. Raises `InterventionError` if a model of so many layers and heads has none like it."""
        if not (0 <= self.layer < layers and 0 <= self.index < heads):
            raise InterventionError(f"heads run from L0H0 to L{layers - 1}H{heads - 1}, got {self}: name one of these")
        return self


RoleName = Literal["hop", "condition", "unchosen", "key", "asked", "previous", "duplicate", "self", "start"]
NUMBERED: tuple[RoleName, ...] = ("hop", "condition", "unchosen", "key")
"""The roles that have a number."""


@dataclass(frozen=True)
class Role:
    """Where a head looks. `hop` is the offset j of find^j for role "hop", the step j for "condition" and "unchosen"
    (`tasks/conditional.py`), and for "key" (`tasks/prompted.py`, `causal_graph.py`, `templates.py`,
    `depth_cases.py`); None for the others.
    """

    name: RoleName
    hop: int | None = None

    def __str__(self) -> str:
        return self.name if self.hop is None else f"{self.name} {self.hop}"

    @property
    def exists(self) -> bool:
        """Whether there is such a role: of a name that is known, and with a number if it has one."""
        return self.name in get_args(RoleName) and type(self.hop) is (int if self.name in NUMBERED else type(None))

    @property
    def positional(self) -> bool:
        """Whether the target depends on the position alone, so that another example's map is the same."""
        return self.name in ("previous", "self", "start")


class Status(StrEnum):
    """The verdict on one row of the labels (docs/method/evidence.md#status), in the order in which tables list them.

    `colour` is for figures and pages (Okabe and Ito's, 2008, for colour-blind readers), `symbol` the one character that says
    the same without colour; both are given here and nowhere else.
    """

    colour: str
    symbol: str

    CONFIRMED = "confirmed", "#009E73", "●"
    REDUNDANT = "redundant", "#56B4E9", "◍"
    OPPOSING = "opposing", "#CC79A7", "▼"
    PATTERN_ONLY = "pattern-only", "#E69F00", "◐"
    CAUSAL_UNCLASSIFIED = "causal-unclassified", "#0072B2", "◒"
    UNDECIDED = "undecided", "#D55E00", "?"
    NONE = "none", "#BBBBBB", "·"

    def __new__(cls, value: str, colour: str, symbol: str) -> "Status":
        member = str.__new__(cls, value)
        member._value_, member.colour, member.symbol = value, colour, symbol
        return member
