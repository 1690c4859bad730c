"""Sums of selectors: which heads look where which selectors say, which are silent, and which look as they do in the model.

A head of which all selectors are roles is silent, too, where none of them names a source: its label says nothing there.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.labelling.selectors import Selector
from stackheads.types import Destination

LEAST = 1e-9
"""Attention that counts as none."""

Taken = tuple[Destination, Selector]
Part = tuple[Destination, int, Selector | None]
"""A head at a destination as a whole (None), or one of its selectors. Heads are numbered through all layers."""


@dataclass(frozen=True)
class Sum:
    """The weights of all heads' selectors, which heads have which, and which are not silent at each destination; heads that are
    their `own` look as they do in the model, and have no selector.
    """

    weights: Mapping[Taken, Float[Tensor, "head size value"]]
    has: Mapping[Taken, Bool[Tensor, "head"]]
    live: Mapping[Destination, Bool[Tensor, "head"]]
    own: Mapping[Destination, Bool[Tensor, "head"]] = field(default_factory=dict)

    @property
    def heads(self) -> int:
        """Heads of all layers."""
        return len(next(iter(self.live.values())))

    def of(self, destination: Destination, head: int) -> dict[Selector, Float[Tensor, "1 size value"]]:
        """The weights of one head at one destination."""
        return {
            selector: self.weights[place, selector][head : head + 1]
            for (place, selector), has in self.has.items()
            if place == destination and bool(has[head])
        }

    def at(self, destination: Destination) -> dict[Selector, Tensor]:
        """The weights of one destination, 0 where a head has a selector not."""
        return {
            selector: self.weights[place, selector] * self.has[place, selector][:, None, None]
            for place, selector in self.weights
            if place == destination and bool(self.has[place, selector].any())
        }

    def without(self, dropped: Iterable[Part]) -> "Sum":
        """Some heads silenced and some selectors gone."""
        has = {taken: marks.clone() for taken, marks in self.has.items()}
        live = {place: marks.clone() for place, marks in self.live.items()}
        for place, head, selector in dropped:
            if selector is None:
                live[place][head] = False
            else:
                has[place, selector][head] = False
        return replace(self, has=has, live=live)

    def offering(self, more: Mapping[Taken, tuple[int, int]], device: torch.device) -> "Sum":
        """Further selectors, of these shapes, for every head that is not silent, with weights of 0."""
        weights, has = dict(self.weights), dict(self.has)
        for taken, shape in more.items():
            weights[taken] = torch.zeros(self.heads, *shape, device=device)
            has[taken] = self.live[taken[0]].clone()
        return replace(self, weights=weights, has=has)

    def alone(self, cells: Collection[tuple[Destination, int]]) -> "Sum":
        """With all heads silent but these, at these destinations, and those that are their own."""
        return self.without((*cell, None) for cell in self.cells() if cell not in cells)

    def without_bare(self) -> "Sum":
        """With those heads silent of which no selector is left."""
        return self.alone({(place, head) for place, head, _ in self.taken()})

    def only(self, kinds: Iterable[str], gated: bool = True, also: Collection[Part] = ()) -> "Sum":
        """Selectors of these kinds alone, and some others."""

        def kept(place: Destination, selector: Selector, marks: Tensor) -> Tensor:
            if selector.kind in kinds and (gated or selector.gate is None):
                return marks
            some = [head for at, head, other in also if (at, other) == (place, selector)]
            return torch.zeros_like(marks).index_copy(0, marks.new_tensor(some, dtype=torch.long), marks[some])

        return replace(self, has={taken: kept(*taken, marks) for taken, marks in self.has.items()})

    def parts(self) -> list[Part]:
        """Every head that looks where its selectors say, and every selector of these."""
        whole: list[Part] = [(place, head, None) for place, head in self.cells()]
        return [*whole, *self.taken()]

    def cells(self) -> list[tuple[Destination, int]]:
        """Every head, at each destination, that looks where its selectors say."""
        asked = {place: live & ~self.own[place] if place in self.own else live for place, live in self.live.items()}
        return [(place, head) for place, marks in asked.items() for head in marks.nonzero().flatten().tolist()]

    def taken(self) -> list[tuple[Destination, int, Selector]]:
        """Every selector of a head that is not silent."""
        return [
            (place, head, selector)
            for (place, selector), has in self.has.items()
            for head in (has & self.live[place]).nonzero().flatten().tolist()
        ]

    @property
    def numbers(self) -> int:
        """How many numbers the selectors have."""
        return sum(self.weights[place, selector][head].numel() for place, head, selector in self.taken())


def left(chosen: Sum, part: Part) -> dict[Selector, Tensor]:
    """The weights of the other selectors of a selector's head at its destination."""
    place, number, dropped = part
    return {selector: weight for selector, weight in chosen.of(place, number).items() if selector != dropped}


def cross_entropy(
    target: Float[Tensor, "*head row source"], pattern: Float[Tensor, "*head row source"]
) -> Float[Tensor, "*head row"]:
    """How badly a pattern tells attention, in nats."""
    return -(target * (pattern + LEAST).log()).sum(dim=-1)


def most_nats(one: Mapping[Selector, Tensor], other: Mapping[Selector, Tensor]) -> float:
    """The most by which one head's weights can tell attention better than others, in any row, seen or not.

    With patterns p and q, and d the difference of their scores, log p / q is d less the log of its mean of exp d under q, which
    is the least d of a source or more: so no row shows more nats than by how much d can vary over the sources of one.
    """
    apart = {**other, **one} | {selector: one[selector] - other[selector] for selector in one.keys() & other.keys()}
    return sum(varies(selector, weight) for selector, weight in apart.items())


def varies(selector: Selector, weight: Float[Tensor, "1 size value"]) -> float:
    """By how much a selector's score can vary over the sources of a row: those that it says nothing about have 0."""
    high, low = weight.amax(dim=1), weight.amin(dim=1)
    if selector.kind != "position":
        high, low = high.clamp(min=0), low.clamp(max=0)
    return float((high - low).max())


def only_ones(parts: Iterable[Part]) -> set[Part]:
    """The selectors of heads that have no other at their destination."""
    of_cell: dict[tuple[Destination, int], list[Part]] = {}
    for part in parts:
        of_cell.setdefault(part[:2], []).append(part)
    return {some[0] for some in of_cell.values() if len(some) == 1 and some[0][2] is not None}
