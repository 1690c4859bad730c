"""Layouts: where the slots of an example stand, and what stands in another example where a position stands in this one.

Where every example has one layout, that is the same position of the next example. Where layouts differ – slots at other places,
examples of other lengths with pads before or behind them – a position is known by its *place*: its slot, and its distance from
the last position of the example that is no pad.

*Matched* with a position is one of the same slot, in the next example of the same layout; where there is none, in the next
example that has the slot, at the distance that is nearest. *Means* are over the positions of one place, of at least `MANY`
examples, and else over all positions of the slot. With one layout both are what they are without this module: the next
example's, and the positional mean.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from stackheads.errors import TaskError
from stackheads.tasks.base import Batch
from stackheads.types import NOWHERE

MANY = 16
"""A mean over fewer examples says too much about each of them."""
CHUNK = 64
"""Examples that are compared with others at a time, all positions with all."""


@dataclass(frozen=True)
class Matched:
    """For each position an example and a position in it; `position` is -1 where nothing matches, None: the same position."""

    example: Int[Tensor, "batch"] | Int[Tensor, "batch pos"]
    position: Int[Tensor, "batch pos"] | None = None

    def of(self, values: Shaped[Tensor, "every pos *rest"]) -> Shaped[Tensor, "batch pos *rest"]:
        """What is there; anything where nothing matches."""
        if self.position is None:
            return values[self.example]
        example = self.example if self.example.ndim == 2 else self.example[:, None]
        return values[example, self.position.clamp(min=0)]

    def part(self, some: "slice | Tensor") -> "Matched":
        """What is matched with some examples, by a slice or by their numbers; `of` takes the values of all."""
        return Matched(self.example[some], None if self.position is None else self.position[some])

    def at(self, example: Int[Tensor, "row"], position: Int[Tensor, "row"]) -> tuple[Int[Tensor, "row"], Int[Tensor, "row"]]:
        """Example and position of what is matched with these rows; anything where nothing matches."""
        other = self.example[example] if self.example.ndim == 1 else self.example[example, position]
        return other, position if self.position is None else self.position[example, position].clamp(min=0)


def real(batch: Batch) -> Bool[Tensor, "batch pos"]:
    """The positions that are there: no pads."""
    return torch.ones_like(batch.slots, dtype=torch.bool) if batch.pads is None else ~batch.pads


def one_layout(batch: Batch) -> bool:
    """Whether slots, and pads, are the same in every example."""
    fixed = bool((batch.slots == batch.slots[:1]).all())
    return fixed and (batch.pads is None or bool((batch.pads == batch.pads[:1]).all()))


def check_one_layout(batch: Batch, why: str) -> None:
    """Raise `TaskError` if layouts vary."""
    if not one_layout(batch):
        raise TaskError(
            f"{why}, so slots must be the same in every example, got {len(layouts(batch).unique())} layouts: use one"
        )


def check_no_pads(batch: Batch, what: str) -> None:
    """Raise `TaskError` if there are pads."""
    if batch.pads is not None and bool(batch.pads.any()):
        raise TaskError(f"{what} on examples without pads, got some: fill the examples")


def at_end(batch: Batch, values: Shaped[Tensor, "batch pos *rest"]) -> Shaped[Tensor, "batch *rest"]:
    """What stands at the last position of each example that is no pad."""
    last = (from_end(batch) == 0).to(torch.uint8).argmax(dim=1)
    return values[torch.arange(len(batch), device=last.device), last]


def layouts(batch: Batch) -> Int[Tensor, "batch"]:
    """The number of each example's layout."""
    return torch.where(real(batch), batch.slots, NOWHERE).unique(dim=0, return_inverse=True)[1]


def from_end(batch: Batch) -> Int[Tensor, "batch pos"]:
    """Each position minus the last one that is no pad."""
    position = torch.arange(batch.slots.shape[1], device=batch.slots.device).expand_as(batch.slots)
    return position - position.where(real(batch), 0).amax(dim=1, keepdim=True)


def by_distance(position: Int[Tensor, "*rows"], other: Int[Tensor, "*rows"], sources: int) -> Int[Tensor, "*rows source"]:
    """Where each source of a row stands for another row, at the same distance; -1 where that is outside, or for no row."""
    source = torch.arange(sources, device=position.device) + (other - position)[..., None]
    return source.where((source >= 0) & (source < sources) & (other >= 0)[..., None], NOWHERE)


def places(batch: Batch) -> Int[Tensor, "batch pos"]:
    """A number for each place; one for all of a slot's places that fewer than `MANY` examples have."""
    own = torch.stack([batch.slots.where(real(batch), NOWHERE), from_end(batch)], dim=-1).flatten(0, 1)
    number, count = own.unique(dim=0, return_inverse=True, return_counts=True)[1:]
    rare = count[number] < MANY
    return torch.where(rare, -2 - own[:, 0], number).unique(return_inverse=True)[1].view_as(batch.slots)


def matched(batch: Batch) -> Matched:
    """What is matched with each position, as above; a position is its own match where no other example has its slot."""
    n = len(batch)
    following = (torch.arange(n, device=batch.slots.device) + 1) % n
    if one_layout(batch):
        return Matched(following)
    number = layouts(batch)
    alike = _next(number[:, None] == number)
    example = torch.empty_like(batch.slots)
    for slot in batch.slots.unique():
        has = (batch.slots == slot).any(dim=1)
        other = alike.where(alike != torch.arange(n, device=alike.device), _next(has.expand(n, n)))
        example = torch.where(batch.slots == slot, other[:, None], example)
    return Matched(example, nearest(batch, example))


def next_one(batch: Batch) -> Matched:
    """The next example, whatever its layout, and in it the position of the same slot that is nearest in distance."""
    following = torch.arange(len(batch), device=batch.slots.device).roll(-1)
    return (
        Matched(following)
        if one_layout(batch)
        else Matched(following, nearest(batch, following[:, None].expand_as(batch.slots)))
    )


def nearest(batch: Batch, example: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """In the example named for each position, the one of the same slot whose distance from the end is nearest; -1: none."""
    distance, there, far = from_end(batch), real(batch), torch.iinfo(torch.long).max
    found = []
    for some in torch.arange(len(batch), device=example.device).split(CHUNK):
        other = example[some]  # [some, pos]; with the sources of the other example behind, [some, pos, source]
        same = (batch.slots[other] == batch.slots[some][..., None]) & (there[other] == there[some][..., None])
        least, at = (distance[other] - distance[some][..., None]).abs().where(same, far).min(dim=2)
        found.append(at.where(least < far, NOWHERE))
    return torch.cat(found)


def _next(allowed: Bool[Tensor, "batch other"]) -> Int[Tensor, "batch"]:
    """The next example, in a circle, that is allowed for each; the example itself if no other one is."""
    n = len(allowed)
    here = torch.arange(n, device=allowed.device)
    ahead = (here - here[:, None] - 1) % n  # how many lie between
    return ahead.where(allowed, n).argmin(dim=1).where(allowed.any(dim=1), here)
