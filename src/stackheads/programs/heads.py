"""Attention heads in terms of registers: what a head looks at and what it copies, before there are weights (`compiler.py`).

A register holds one symbol, one-hot: the position's own token, or the symbol some offset further along the chain; or one
position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stackheads.errors import StackheadsError
from stackheads.tasks import KHopInduction, StatementTask
from stackheads.types import Destination, Gate, Role, Slot

TOKEN = "f0"
"""The register that the embedding fills: the token itself, offset 0."""

POSITION = "position"
"""The register of the position, one-hot."""

PLACES = (Destination.QUERY, Destination.VALUE, Destination.KEY)
"""The destinations that a program knows; conditions have no place in one."""

Written = StatementTask | KHopInduction
"""The tasks that circuits are written for."""


class ProgramError(StackheadsError):
    """A step asks for a source that its rows cannot find with what is known at that layer."""


def register(offset: int) -> str:
    """The register that holds f^offset of a position's symbol."""
    return f"f{offset}"


Table = Mapping[tuple[int, int], float]
"""Numbers of one register against those of another, each pair with a weight."""


@dataclass(frozen=True)
class Copy:
    """Write a source's register into the row's register, times a gain; by a table, (read, written), where numbers change."""

    source: str
    target: str
    gain: float = 1.0
    table: Table | None = None


@dataclass(frozen=True)
class Content:
    """A look by a table of own symbol against the symbols of a slot."""

    slot: Slot

    def __str__(self) -> str:
        return f"symbols of {self.slot.plural}"


Look = Role | Slot | Literal["place", "distance"] | Content
"""A role; a slot, evenly; a table of places or of distances; a table of symbols."""

Job = tuple[Look, Gate | None]
"""What a head looks at, and when."""


@dataclass(frozen=True)
class HeadSpec:
    """One attention head in terms of registers.

    A row in `rows` scores each source by the registers that `matches` pairs up (row register, source register) being equal,
    and by the source being one of `sources`; with `offset` by standing that many places away instead. Rows in `at_last` look
    at the last token, which for the query is itself. Other rows are parked: they look at the first token, as trained heads
    do that have nothing to do (an attention sink). `sharpness` is the score of a match in nats, `preference` that of a right
    kind of source. `roles` says per destination where the head looks; `status` overrides the status that follows from what is
    read later.

    `on` says for each match at which own symbols it acts (None: at all); what is matched must then be the token, and rows at
    which no match acts look evenly at sources of the right kind. A head that looks at several things has several matches, each
    with what is added to the logarithm of its attention in `leans`; `jobs` then says what it looks at, and when.

    `tables` says for each match which numbers, (row's, source's), match in place of equal ones (None: equal ones), and how many
    times: symbols against symbols are content, positions against positions places or distances. `when` names a register and
    numbers: rows at which it holds another one are parked.
    """

    matches: tuple[tuple[str, str], ...]
    rows: frozenset[Destination]
    copies: tuple[Copy, ...]
    roles: dict[Destination, Role]
    sources: frozenset[Slot] = frozenset({Slot.VALUE})
    offset: int | None = None
    at_last: frozenset[Destination] = frozenset()
    sharpness: float | None = None
    preference: float | None = None
    status: dict[Destination, str] = field(default_factory=dict)
    leans: tuple[float, ...] = ()
    on: tuple[frozenset[int] | None, ...] = ()
    tables: tuple[Table | None, ...] = ()
    when: tuple[str, frozenset[int]] | None = None
    jobs: dict[Destination, tuple[Job, ...]] = field(default_factory=dict)


Layers = tuple[tuple[HeadSpec, ...], ...]
Readouts = dict[int, dict[str, float]]
"""Which registers each readout hop reads, with weights."""


def plain_readouts(task: Written) -> Readouts:
    """Readout hop h reads f^h. Raises `ProgramError` for a task that has one readout for all hops."""
    if not isinstance(task, StatementTask):
        raise ProgramError(f"readouts go by hop where each is read apart, {task.name} reads one: say what it reads")
    return {hop: {register(task.same_offset(hop)): 1.0} for hop in task.readout_hops}
