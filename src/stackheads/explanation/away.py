"""Heads that look at all sources of a kind but some: round a cycle what such a head brings is what it leaves out.

Each symbol comes once round a cycle, so what all keys hold is the same in every example, and what all keys but one hold says
what that one does. Selectors give a head that looks evenly at all keys but its own a role for each of the others ("key -3; key
-2; …"), or one for all and one against some ("key slots; not key 0"). Taken as so many steps it would bring every other symbol,
each by its name, which a sum of equal parts does not tell. It is *one* look, and the steps that it makes are the sources that
it leaves out (the *gaps*).

A look is one at all but some where, on average over examples, half of the head's attention or more is on the sources of the
kind, one to three of them (`MOST_GAPS`) have at most a quarter of the median one's (`GAP`), and none has twice as much
(`PEAK`), which would be a look at that source. These bars were fixed on three models and used on 28 others
(docs/results/paper.md#scale-away). How attention is spread in each example, and that answers rest on the gaps, is not asked
here: what selectors keep of the answer says how much of it these looks carry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from einops import einsum
from jaxtyping import Float
from torch import Tensor

from stackheads.interventions import destination_rows
from stackheads.labelling.roles import role_targets
from stackheads.programs.program import WALKED, Step
from stackheads.tasks import Batch, StatementTask, Task
from stackheads.types import Destination, HeadId, Role, RoleName

LEAST, GAP, PEAK, MOST_GAPS = 0.5, 0.25, 2.0, 3
"""Least attention on the kind, most of a gap and least of a look at one source in shares of the median one's, and most gaps."""

KINDS: tuple[RoleName, ...] = ("hop", "key")
"""The roles that name a source of each offset, whose slots are in `WALKED`."""


@dataclass(frozen=True)
class Away:
    """A head that looks, at a destination, at all sources of a kind but those of some offsets, the gaps."""

    head: HeadId
    at: Destination
    kind: RoleName
    gaps: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.head} @{self.at} at all but {', '.join(str(source(self.kind, gap, self.at)) for gap in self.gaps)}"

    @property
    def steps(self) -> tuple[Step, ...]:
        """What it brings: the sources that it leaves out, but for the one where it is."""
        roles = (source(self.kind, gap, self.at) for gap in self.gaps)
        return tuple(Step(self.head.layer, role, (self.at,)) for role in roles if role.name == self.kind)


def source(kind: RoleName, offset: int, at: Destination) -> Role:
    """The role of a kind's source at an offset; at such a slot that of offset 0 is the slot itself."""
    return Role("self") if offset == 0 and at is WALKED[kind] else Role(kind, offset)


def is_about(selector: str, what: str, kind: RoleName, at: Destination) -> bool:
    """Whether a selector of a destination is about sources of a kind, one of them or all: "role" and "key -1", say."""
    if selector == "slot":
        return what == WALKED[kind].slot.plural
    own = "self" if at is WALKED[kind] else kind
    return selector == "role" and what.split()[0] in (kind, own)


def looking_away(pattern: Float[Tensor, "layer batch head pos source"], batch: Batch, task: Task) -> list[Away]:
    """The heads that look at all sources of a kind but some, at the query and at slots of that kind.

    None where hops do not come round to where they began. Where attention is causal slots do not see all sources, and are not
    asked.
    """
    if not isinstance(task, StatementTask) or task.period != len(task.hops):
        return []
    named = {role.name for role in task.operands} | {"hop"}
    found: list[Away] = []
    for kind in KINDS:
        for at in (Destination.QUERY, WALKED[kind]) if kind in named else ():
            if at is Destination.QUERY or task.attention_dir == "bidirectional":
                found += looks_away(pattern, batch, task, at, kind)
    return found


def looks_away(
    pattern: Float[Tensor, "layer batch head pos source"], batch: Batch, task: StatementTask, at: Destination, kind: RoleName
) -> list[Away]:
    """The heads that look, at a destination, at all sources of a kind but some."""
    return [
        Away(HeadId(layer, index), at, kind, gaps)
        for layer, heads in enumerate(attention_over(pattern, batch, task, at, kind).tolist())
        for index, shares in enumerate(heads)
        if (gaps := left_out(shares, task.hops))
    ]


def attention_over(
    pattern: Float[Tensor, "layer batch head pos source"], batch: Batch, task: StatementTask, at: Destination, kind: RoleName
) -> Float[Tensor, "layer head offset"]:
    """The mean attention of each head on the source of each offset, in the order of `task.hops`."""
    rows = destination_rows(batch, at)
    roles = [source(kind, offset, at) for offset in task.hops]
    targets = (role_targets(task, batch, roles) & rows[:, :, None]).to(pattern.dtype)
    total = einsum(pattern, targets, "layer batch head pos source, offset batch pos source -> layer head offset")
    return total / rows.sum()


def left_out(shares: Sequence[float], offsets: Sequence[int]) -> tuple[int, ...]:
    """The offsets that are not looked at, where all others are about alike; none where that is not so."""
    median = sorted(shares)[len(shares) // 2]
    gaps = tuple(offset for offset, share in zip(offsets, shares, strict=True) if share <= GAP * median)
    even = sum(shares) >= LEAST and max(shares) < PEAK * median
    return gaps if even and len(gaps) <= MOST_GAPS else ()
