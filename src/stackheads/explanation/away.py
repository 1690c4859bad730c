"""Heads that look at all sources of a kind but some: round a cycle what such a head brings is what it leaves out.

Each symbol comes once round a cycle, so what all keys hold is the same in every example, and what all keys but one hold says
what that one does. A head that looks evenly at all keys but its own has a selector for each of the others ("key -3; key -2; …")
or one for all and one against some ("key slots; not key 0"). Taken as so many steps it would bring every other symbol, each by
its name, which a sum of equal parts does not tell: it is *one* look, and the steps that it makes are the sources it leaves out
(the *gaps*). Its effect is that of all its selectors together.

How even a look is follows from the weights: attention on a source goes with the exponential of its score, whatever else is
there. A look is one at all but some where half of the attention or more is on the sources of the kind, one to three of them
(`MOST_GAPS`) have at most a quarter of the median one's (`GAP`), and none has twice as much (`PEAK`), which would be a look at
that source. These bars were fixed for attention itself before this was used on selectors (docs/results/paper.md#scale-away).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackheads.programs.program import WALKED, Step
from stackheads.tasks import StatementTask, Task
from stackheads.types import Destination, Role, RoleName, Slot

LEAST, GAP, PEAK, MOST_GAPS = 0.5, 0.25, 2.0, 3

KINDS: tuple[RoleName, ...] = ("hop", "key")
"""The roles that name a source of each offset, whose slots are in `WALKED`."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Away:
    """A head that looks, at a destination, at all keys or values but those of some offsets; `rows` are its selectors that say
    so.
    """

    head: str
    layer: int
    at: Destination
    kind: RoleName
    gaps: tuple[int, ...]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        return f"{self.head} @{self.at} at all but {', '.join(str(Role(self.kind, gap)) for gap in self.gaps)}"

    @property
    def steps(self) -> tuple[Step, ...]:
        """What it brings: the sources that it leaves out, but for the one where it is."""
        left_out = (Role(self.kind, gap) for gap in self.gaps if gap or WALKED[self.kind] is not self.at)
        return tuple(Step(self.layer, role, (self.at,)) for role in left_out)


def gaps(attention: Sequence[float], offsets: Sequence[int], all_attention: float = 1.0) -> tuple[int, ...]:
    """The offsets that are not looked at, where all others are looked at alike; none where that is not so.

    `attention` is that on the source of each offset, `all_attention` that on all sources of the row.
    """
    median = sorted(attention)[len(attention) // 2]
    found = tuple(offset for offset, share in zip(offsets, attention, strict=True) if share <= GAP * median)
    even = sum(attention) >= LEAST * all_attention and max(attention) < PEAK * median
    return found if even and len(found) <= MOST_GAPS else ()


def looking_away(rows: Iterable[Row], task: Task) -> list[Away]:
    """The heads that look at all sources of a kind but some, from the rows of selectors. None where hops do not come round to
    where they began.
    """
    if not isinstance(task, StatementTask) or task.period != len(task.hops):
        return []
    cells: dict[tuple[str, Destination], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["head"], Destination(row["destination"])), []).append(row)
    found = (_of_cell(cell, at, kind, task) for (_, at), cell in cells.items() for kind in KINDS)
    return [away for away in found if away is not None]


def _of_cell(rows: Sequence[Row], at: Destination, kind: RoleName, task: StatementTask) -> Away | None:
    """The look of one head at one destination; None where it is another, or depends on a gate."""
    unseen = task.attention_dir == "causal" and at is not Destination.QUERY  # then what is left out is not all that is missing
    if unseen or any(row["values"] is not None and _sources(row, at) for row in rows):
        return None
    attention = {name: _attention(rows, name, at, task) for name in KINDS}
    everywhere = sum(map(sum, attention.values())) + math.exp(sum(row["weight"] for row in rows if _is_own(row, at)))
    left_out = gaps(attention[kind], task.hops, everywhere)
    own = tuple(row for row in rows if _sources(row, at) == kind)
    return Away(rows[0]["head"], int(rows[0]["layer"]), at, kind, left_out, own) if left_out and own else None


def _attention(rows: Sequence[Row], kind: str, at: Destination, task: StatementTask) -> list[float]:
    """Attention on the source of each offset, in shares of that on a source that selectors say nothing of."""
    of_all = sum(row["weight"] for row in rows if row["selector"] == "slot" and _sources(row, at) == kind)
    of_one = {_offset(row): row["weight"] for row in rows if row["selector"] == "role" and _sources(row, at) == kind}
    return [math.exp(of_all + of_one.get(offset, 0.0)) for offset in task.hops]


def _sources(row: Row, at: Destination) -> str:
    """The kind of sources that a selector is about; nothing where it is about none of them alone."""
    if row["selector"] == "slot":
        return next((kind for kind, place in WALKED.items() if row["what"] == f"{place} slots"), "")
    if row["selector"] != "role":
        return ""
    if row["role"] == "self":
        return next((kind for kind, place in WALKED.items() if place is at), "")
    return row["role"] if row["role"] in WALKED else ""


def _is_own(row: Row, at: Destination) -> bool:
    """Whether a selector is about the query, at itself, which is no source of a kind."""
    about = row["what"] in (str(Role("self")), Slot.QUERY.plural)
    return at is Destination.QUERY and row["values"] is None and row["selector"] in ("role", "slot") and about


def _offset(row: Row) -> int:
    return 0 if row["role"] == "self" else int(row["hop"])
