"""Channel 1, the rivals that are no role: does attention follow a role where the role and a table name different sources?

A table gives each pair of a looking position and a source a number, the mean attention between two of their kind: of *symbols*
(own symbol × symbol and slot of the source) or of *places* (own place × distance of the source, which is its place). Where
examples differ little in what a role names, a head that looks by a table seems to have the role: it takes all of the attention
wherever the two agree. So tables are read off from one half of the examples, and on the other half attention is compared at the
rows where the source that the table favours is none of the role's: all that lies on the role's sources against what lies on
that one (their mean, where several are favoured alike). Then the halves change places. The difference has an interval by
Student's t over examples, Bonferroni-corrected over roles × tables.

A head that has the role passes whatever a table says: where they differ it looks at the role's source. A role that is itself a
table of the kind (*previous* of places), no entry being the role's in one example and not in another, is not compared with it:
the role says in short what the table says, and exceptions are no reason to say less. A pair of which the first half holds
nothing is no favourite. Examples are halved by twos, so that every second one of them, on which gates are judged (`gating.py`),
is halved too. No forward pass.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from stackheads.interventions import Recorded
from stackheads.interventions.engine import MEMORY
from stackheads.labelling.roles import role_targets, visible
from stackheads.labelling.statistics import Estimate, brought, mean_interval
from stackheads.tasks import Task
from stackheads.types import HeadId, Role, Slot

TABLES = ("symbols", "places")
ALIKE = 1e-6
"""Numbers of a table that differ by less favour their sources alike: so much may be rounding."""


@dataclass(frozen=True)
class Contrast:
    """Attention where a role and a table of `TABLES` name different sources, at so many rows: on all of the role's, and on the
    one that the table favours; `lead` is the first less the second, with its number of examples.
    """

    table: str
    on_role: float
    on_table: float
    lead: Estimate
    rows: int


@dataclass(frozen=True)
class Pairs:
    """Rows that tables are read off from, with all sources, and the entry of each table that a pair belongs to.

    `sees`: whether the row can attend to the source; `second`: whether its example, of so many `examples`, is of the second
    half; `parts` of the rows are looked at one after the other, since a head's numbers for all pairs take much memory.
    """

    example: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    sees: Bool[Tensor, "row source"]
    second: Bool[Tensor, "row"]
    examples: int
    entries: dict[str, Int[Tensor, "row source"]]
    sizes: dict[str, int]

    @property
    def parts(self) -> list[slice]:
        """So many rows that a number in double precision for each of their pairs takes a 64th of `MEMORY`."""
        n, size = len(self.example), max(1, MEMORY // (512 * self.sees.shape[1]))
        return [slice(start, start + size) for start in range(0, n, size)]

    def of(self, values: Shaped[Tensor, "batch pos *rest"], part: slice = slice(None)) -> Shaped[Tensor, "row *rest"]:
        """What stands at these rows."""
        return values[self.example[part], self.position[part]]

    @cached_property
    def seen(self) -> dict[str, Float[Tensor, "half entry"]]:
        """How many pairs there are of each entry."""
        return {table: self.sums(table, lambda part: self.sees[part]) for table in TABLES}

    def sums(self, table: str, values: Callable[[slice], Shaped[Tensor, "some source"]]) -> Float[Tensor, "half entry"]:
        """What the pairs of some rows have, summed over each entry in each half."""
        found = torch.zeros(2 * self.sizes[table], dtype=torch.double, device=self.example.device)
        for part in self.parts:
            found.index_add_(0, self._at(table, self.second, part).flatten(), values(part).double().flatten())
        return found.unflatten(0, (2, -1))

    def in_other(self, table: str, numbers: Float[Tensor, "half entry"], part: slice) -> Float[Tensor, "some source"]:
        """What pairs have by the numbers of the half that their rows are not of."""
        return numbers.flatten()[self._at(table, ~self.second, part)]

    def _at(self, table: str, second: Bool[Tensor, "row"], part: slice) -> Int[Tensor, "some source"]:
        return self.entries[table][part] + self.sizes[table] * second[part, None].int()


def contrasts(
    task: Task,
    clean: Recorded,
    rows: Bool[Tensor, "batch pos"],
    leading: Mapping[HeadId, Role],
    own: Mapping[Role, Bool[Tensor, "batch pos"]],
    level: float,
) -> dict[HeadId, tuple[Contrast, ...]]:
    """Attention at these rows where each head's role and each table differ, on those that are the role's `own`.

    `level`: coverage of each interval. Left out are tables that never differ from the role, or of whose kind it is.
    """
    if not leading:
        return {}
    pairs, asked, sums = _pairs(task, clean, rows), list[tuple[HeadId, str]](), list[Tensor]()
    for role in dict.fromkeys(leading.values()):
        named = pairs.of(role_targets(task, clean.batch, [role])[0])  # [row, source]: the role's
        tables = [table for table in TABLES if not _is_one(named, pairs, table)]
        for head in (head for head, its in leading.items() if its == role):
            pattern = clean.run.of(head)[0]
            asked += [(head, table) for table in tables]
            sums += [_apart(pattern, named, pairs.of(own[role]), pairs, table) for table in tables]
    found: dict[HeadId, tuple[Contrast, ...]] = dict.fromkeys(leading, ())
    for (head, table), each in zip(asked, brought(sums), strict=True):
        if (one := _contrast(table, each, level)) is not None:
            found[head] += (one,)
    return found


def _pairs(task: Task, clean: Recorded, rows: Bool[Tensor, "batch pos"]) -> Pairs:
    """The pairs of these rows."""
    batch, (n, n_pos) = clean.batch, rows.shape
    example, position = rows.nonzero().unbind(dim=1)
    source = torch.arange(n_pos, device=rows.device)
    places = source.expand_as(rows) if clean.places is None else clean.places
    symbols = batch.tokens.unique(return_inverse=True)[1]
    of_source = (symbols * len(Slot) + batch.slots).int()  # of each row all of them are taken
    entries = {
        "symbols": _paired(symbols[example, position], of_source[example]),
        "places": _paired(places[example, position], position.int()[:, None] - source.int() + n_pos - 1),
    }
    sizes = {table: int(entry.max()) + 1 for table, entry in entries.items()}
    return Pairs(
        example, position, visible(task, batch).expand(n, -1, -1)[example, position], example % 4 >= 2, n, entries, sizes
    )


def _apart(
    pattern: Float[Tensor, "batch pos source"],
    named: Bool[Tensor, "row source"],
    own: Bool[Tensor, "row"],
    pairs: Pairs,
    table: str,
) -> Float[Tensor, "4 batch"]:
    """Where a role and one table differ, summed over an example's rows: by how much the role leads, how many they are, and the
    attention on the sources of the role and of the table.
    """
    total, seen = pairs.sums(table, lambda part: pairs.of(pattern, part)), pairs.seen[table]
    mean = (total / seen.clamp(min=1)).where(seen > 0, -1.0)
    sums = mean.new_zeros(4, pairs.examples)
    for part in pairs.parts:
        attention, its = pairs.of(pattern, part), named[part]
        # For each pair the mean attention of its entry in the other half; -1 where that holds none, or it is not seen.
        number = pairs.in_other(table, mean, part).where(pairs.sees[part], -1.0)
        favoured = (number >= number.amax(dim=1, keepdim=True) - ALIKE) & (number >= 0)
        apart = own[part] & favoured.any(dim=1) & ~(favoured & its).any(dim=1)
        on_role = (attention * its).sum(dim=1, dtype=torch.double)
        on_table = (attention * favoured).sum(dim=1, dtype=torch.double) / favoured.sum(dim=1).clamp(min=1)
        each = torch.stack([on_role - on_table, torch.ones_like(on_role), on_role, on_table])
        sums.index_add_(1, pairs.example[part], each * apart)
    return sums


def _contrast(table: str, sums: Float[Tensor, "4 batch"], level: float) -> Contrast | None:
    """Where a role and one table differ; None where they never do."""
    lead, rows, on_role, on_table = sums
    count = int(rows.sum())
    if not count:
        return None
    value, low, high = (float(part) for part in mean_interval(lead[:, None], rows[:, None], level, 1))
    estimate = Estimate(value, low, high, int((rows > 0).sum()))
    return Contrast(table, float(on_role.sum() / count), float(on_table.sum() / count), estimate, count)


def _paired(own: Int[Tensor, "row"], source: Int[Tensor, "row source"]) -> Int[Tensor, "row source"]:
    """A number for each pair, in the fewest bytes; where numbers are many more than pairs, as of a language's words, only those
    that there are.
    """
    most, every = int(own.max()) + 1, int(source.max()) + 1
    if most * every <= torch.iinfo(torch.int).max:  # half the memory
        own, source = own.int(), source.int()
    pair = own[:, None] * every + source
    pair = pair if int(pair.max()) < pair.numel() else pair.unique(return_inverse=True)[1]
    return pair.to(torch.short if int(pair.max()) <= torch.iinfo(torch.short).max else torch.int)


def _is_one(named: Bool[Tensor, "row source"], pairs: Pairs, table: str) -> bool:
    """Whether a role is a table of the kind: it names each entry whenever that is seen, or never."""
    hits, seen = pairs.sums(table, lambda part: named[part]).sum(dim=0), pairs.seen[table].sum(dim=0)
    return bool(((hits == 0) | (hits == seen)).all())
