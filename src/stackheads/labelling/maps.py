"""What the roles say about a batch, and how much attention lies there: the tables that patterns are judged from.

For every role: the attention mass on its sources and on those of *another* example, the null; the rows at which it has a
source, one that is no other role's, and the first one. Where layouts vary the other example is read at the position of the same
slot that is nearest in distance from the end, and its sources count both where they stand and at their distance from the row,
so that the null has too much rather than too little. No forward pass.
"""

import math
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import Recorded
from stackheads.labelling.roles import candidate_roles, role_targets, visible
from stackheads.tasks import Batch, Task
from stackheads.tasks.layout import Matched, by_distance, next_one
from stackheads.types import Role

CHUNK = 16
"""Examples whose maps, [role, example, row, source], are held at a time."""


@dataclass(frozen=True)
class _Sources:
    """The sources of all roles in some examples, one after the other: which row of the maps, [role, example, position] as one
    axis, and which attention, [example, position, source] as one axis.
    """

    row: Int[Tensor, "source"]
    at: Int[Tensor, "source"]

    @classmethod
    def of(cls, targets: Bool[Tensor, "role some pos source"]) -> "_Sources":
        """Those that are named."""
        row, source = targets.flatten(0, 2).nonzero().unbind(dim=1)
        at = row % math.prod(targets.shape[1:3]) * targets.shape[3] + source
        return cls(row.int(), at.int())

    def mass(
        self, attention: Float[Tensor, "attention head"], shape: tuple[int, int, int]
    ) -> Float[Tensor, "role some pos head"]:
        """The attention that lies on them, summed for each row."""
        rows = attention.new_zeros(math.prod(shape), attention.shape[1], dtype=torch.double)  # in whatever order a device adds
        return rows.index_add_(0, self.row.long(), attention.index_select(0, self.at).double()).unflatten(0, shape)


@dataclass(frozen=True)
class RoleMaps:
    """What the roles say about a batch, whatever the model: made once for all models that are labelled on it.

    `own` and `null` are the sources of the roles, and of the roles in another example, `CHUNK` examples at a time; the others
    as in `Maps`.
    """

    roles: list[Role]
    own: list[_Sources]
    null: list[_Sources]
    uniform: Float[Tensor, "role batch pos"]
    exists: Bool[Tensor, "role batch pos"]
    null_exists: Bool[Tensor, "role batch pos"]
    distinct: Bool[Tensor, "role batch pos"]
    first: Int[Tensor, "role batch pos"]


@dataclass(frozen=True)
class Maps:
    """What the roles say about a batch, and how much attention each head has there; layers and heads are on one axis.

    `mass` on each role's sources, `null` on those of another example, `uniform` what of even attention is on its own, which may
    be several; `exists`: whether there are any; `distinct`: they exist and are no other role's; `null_exists`: whether there
    are any in the other example; `place` as in `Recorded.places`.
    """

    mass: Float[Tensor, "role head batch pos"]
    null: Float[Tensor, "role head batch pos"]
    uniform: Float[Tensor, "role batch pos"]
    exists: Bool[Tensor, "role batch pos"]
    null_exists: Bool[Tensor, "role batch pos"]
    distinct: Bool[Tensor, "role batch pos"]
    first: Int[Tensor, "role batch pos"]
    place: Int[Tensor, "batch pos"] | None = None

    def of(self, heads: list[int]) -> "Maps":
        """The maps of some heads."""
        if heads == list(range(self.mass.shape[1])):
            return self
        return replace(self, mass=self.mass[:, heads], null=self.null[:, heads])

    def at(self, positions: Int[Tensor, "some"]) -> "Maps":
        """The maps at some positions; sources keep their numbers. Not for `stands_still`."""
        if len(positions) == self.first.shape[2]:
            return self
        cut = (self.mass, self.null, self.uniform, self.exists, self.null_exists, self.distinct, self.first)
        mass, null, uniform, exists, null_exists, distinct, first = (part[..., positions] for part in cut)
        return Maps(mass, null, uniform, exists, null_exists, distinct, first)

    def stands_still(self, rows: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "role"]:
        """Which roles' sources stand at the same place of a row in every example.

        Where layouts vary, also those that stand at the same distance from all rows of a place.
        """
        there, far = rows & (self.first >= 0), self.first.shape[2]
        still = _alike(self.first.where(there, -1).amax(dim=1), self.first.where(there, far).amin(dim=1), there.sum(dim=1))
        if self.place is None:
            return still
        distance = torch.arange(far, device=rows.device) - self.first
        found = [_by_place(*each, self.place) for each in zip(distance, there, strict=True)]
        return still | torch.stack([_alike(*each) for each in found])


def role_maps(task: Task, batch: Batch) -> RoleMaps:
    """Made a chunk of the examples at a time: with their sources, maps are the largest tensors of an analysis."""
    n, roles, other = len(batch), candidate_roles(task), next_one(batch)
    own, null = [], []
    parts: list[list[Tensor]] = [[] for _ in range(5)]
    seen = visible(task, batch).double().sum(dim=2).clamp(min=1).expand(n, -1)
    for start in range(0, n, CHUNK):
        targets = role_targets(task, batch[start : start + CHUNK], roles)
        theirs = _null_targets(task, batch, other, torch.arange(start, min(n, start + CHUNK)), roles)
        own.append(_Sources.of(targets))
        null.append(_Sources.of(theirs))
        exists = targets.any(dim=-1)
        first = targets.to(torch.uint8).argmax(dim=-1).where(exists, -1)
        uniform = targets.sum(dim=-1) / seen[start : start + CHUNK]
        for part, tensor in zip(parts, (uniform, exists, theirs.any(dim=-1), _distinct_rows(targets), first), strict=True):
            part.append(tensor)
    return RoleMaps(roles, own, null, *(torch.cat(part, dim=1) for part in parts))


def make_maps(clean: Recorded, said: RoleMaps) -> Maps:
    """How much attention the heads of a recorded run have where the roles of its batch say."""
    (n, n_pos), heads = clean.batch.tokens.shape, clean.run.z.shape[0] * clean.run.z.shape[3]
    mass, null = (clean.run.z.new_empty(len(said.roles), heads, n, n_pos) for _ in range(2))
    for start, *each in zip(range(0, n, CHUNK), said.own, said.null, strict=True):
        some = slice(start, start + CHUNK)
        pattern = clean.run.part(some).pattern
        attention = rearrange(pattern, "layer some head pos source -> (some pos source) (layer head)")
        shape = len(said.roles), pattern.shape[1], n_pos
        for whole, sources in zip((mass, null), each, strict=True):
            whole[:, :, some] = rearrange(sources.mass(attention, shape), "role some pos head -> role head some pos")
    return Maps(mass, null, said.uniform, said.exists, said.null_exists, said.distinct, said.first, clean.places)


def _null_targets(
    task: Task, batch: Batch, other: Matched, some: Int[Tensor, "some"], roles: list[Role]
) -> Bool[Tensor, "role some pos source"]:
    """The sources of each role in another example, for the row there that corresponds to each row here.

    Where layouts vary a source may correspond to one here by its position or by its distance from the row: both count.
    """
    theirs = role_targets(task, batch[other.example[some]], roles)
    if other.position is None:
        return theirs
    row, n_pos = other.position[some], batch.tokens.shape[1]
    theirs = theirs.gather(2, row.clamp(min=0)[None, :, :, None].expand_as(theirs))
    source = by_distance(torch.arange(n_pos, device=row.device).expand_as(row), row, n_pos)  # [example, row, source]
    moved = theirs.gather(3, source.clamp(min=0).expand_as(theirs)) & (source >= 0)
    return (theirs | moved) & (row >= 0)[:, :, None] & visible(task, batch[some])


def _distinct_rows(targets: Bool[Tensor, "role batch pos source"]) -> Bool[Tensor, "role batch pos"]:
    """Rows where a role's target exists and shares no source with any other role's."""
    claimed = targets.sum(dim=0)  # [batch, pos, source]: by how many roles
    shared = (targets & (claimed > 1)).any(dim=-1)
    return targets.any(dim=-1) & ~shared


def _alike(
    highest: Int[Tensor, "*role place"], lowest: Int[Tensor, "*role place"], count: Int[Tensor, "*role place"]
) -> Bool[Tensor, "*role"]:
    """Whether a number is the same in all examples at each place where several have it, and there is such a place."""
    several = count > 1
    return several.any(dim=-1) & ((highest <= lowest) | ~several).all(dim=-1)


def _by_place(
    number: Int[Tensor, "batch pos"], there: Bool[Tensor, "batch pos"], place: Int[Tensor, "batch pos"]
) -> tuple[Int[Tensor, "place"], Int[Tensor, "place"], Int[Tensor, "place"]]:
    """The highest and the lowest number at each place, and how many have one."""
    n_places, at = int(place.max()) + 1, place[there]
    low, high = (number.new_full((n_places,), sign * torch.iinfo(torch.long).max) for sign in (1, -1))
    highest = high.scatter_reduce(0, at, number[there], "amax")
    return highest, low.scatter_reduce(0, at, number[there], "amin"), at.bincount(minlength=n_places)
