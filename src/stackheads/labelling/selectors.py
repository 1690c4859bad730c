"""What a head looks at when it is not one thing: attention as a softmax over a sum of selectors.

    score(p, s) = Σ over selectors  weight(gate(p)) × match(p, s),        pattern = softmax over what p may see

A selector is one reason to look at a source: a role, a slot, a place or distance, or the content of both ends. Its gate says
what the looking position knows that the weight depends on (`Batch.gates`: the number of hops asked, its own symbol). Scores are
linear in the weights, so that a fit of patterns by cross-entropy is convex.

Nothing is ever as large as rows × sources × selectors: a role's weight is added where its source stands, tables of places and
distances are looked up once for all examples, content by the tokens of both ends.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from stackheads.interventions import destination_rows
from stackheads.labelling.roles import candidate_roles, role_targets, visible
from stackheads.tasks import Batch, Task, gates
from stackheads.tasks.layout import Matched, by_distance
from stackheads.types import Destination, Role, Slot

Kind = Literal["role", "slot", "position", "content"]
Table = Literal["place", "distance"]
MOST_DISTANCES = 64
"""Distances further than this are one: a table that nobody reads would have hundreds of entries."""


@dataclass(frozen=True)
class Selector:
    """One reason to look at a source. `what` is a role, a slot, a table of positions, or for content the sources' slot.

    `gate` names what the weight depends on; None: always the same.
    """

    kind: Kind
    what: Role | Slot | Table
    gate: str | None = None

    def __str__(self) -> str:
        if self.kind == "content":
            assert isinstance(self.what, Slot)
            return f"{self.gate} × symbol of {self.what.name.lower()}"
        text = self.what.plural if isinstance(self.what, Slot) else str(self.what)
        return text if self.gate is None else f"{text} by {self.gate}"


@dataclass(frozen=True)
class Rows:
    """The positions of one destination in a batch, and what the selectors say about them.

    `at` are (example, position) of each row, `hidden` 0 at sources it may see and -inf elsewhere. `first` holds a role's source
    where it has one at most (-1: none), `masks` its sources where there may be several. `gates` are numbers from 0.
    """

    at: Int[Tensor, "row 2"]
    hidden: Float[Tensor, "row source"]
    first: Mapping[Role, Int[Tensor, "row"]]
    masks: Mapping[Role, Float[Tensor, "row source"]]
    tokens: Int[Tensor, "row source"]
    slots: Int[Tensor, "row source"]
    gates: Mapping[str, Int[Tensor, "row"]]
    n_tokens: int

    def __len__(self) -> int:
        return len(self.at)

    def to(self, device: torch.device | str) -> "Rows":
        """The same on a device."""
        tables = {"first": self.first, "masks": self.masks, "gates": self.gates}
        moved: dict[str, Any] = {
            name: {key: value.to(device) for key, value in table.items()} for name, table in tables.items()
        }
        moved |= {name: getattr(self, name).to(device) for name in ("at", "hidden", "tokens", "slots")}
        return replace(self, **moved)

    @property
    def n_pos(self) -> int:
        """Positions of an example."""
        return self.hidden.shape[1]

    def values(self, gate: str | None) -> int:
        """How many weights a gate tells apart."""
        return 1 if gate is None else int(self.gates[gate].max()) + 1

    def size(self, selector: Selector) -> int:
        """How many numbers a selector has for each value of its gate."""
        if selector.kind == "content":
            return self.n_tokens
        if selector.kind != "position":
            return 1
        return self.n_pos if selector.what == "place" else 2 * min(self.n_pos, MOST_DISTANCES) - 1

    def score(self, selector: Selector, weight: Float[Tensor, "head size value"]) -> Float[Tensor, "head row source"]:
        """What a selector adds to the scores of several heads; may be smaller where it is the same for all rows or sources."""
        if selector.kind == "position" and selector.what == "place" and selector.gate is None:
            return weight.transpose(1, 2).expand(-1, len(self), -1)
        weight = self._for_all(selector, weight)
        if self.size(selector) > 1:
            numbers = self._entries(selector) * weight.shape[2] + self._own(selector)[:, None]
            found = weight.flatten(1).gather(1, numbers.expand(len(self), self.n_pos).flatten().expand(len(weight), -1))
            return found.unflatten(1, (len(self), self.n_pos)) * self._matches(selector)
        return self._gated(selector, weight).transpose(1, 2) * self._matches(selector)

    def _for_all(self, selector: Selector, weight: Float[Tensor, "head size seen"]) -> Float[Tensor, "head size value"]:
        """With a weight for every value of its gate that these rows have: 0 for those that it was not fitted on."""
        missing = 0 if selector.gate is None else self.values(selector.gate) - weight.shape[2]
        return pad(weight, (0, missing)) if missing > 0 else weight

    def columns(self, selector: Selector, values: int) -> Int[Tensor, "row source"]:
        """Which of a selector's numbers, size by `values` of its gate, is in the score of each source; -1 where none is."""
        numbers = self._entries(selector) * values + self._own(selector)[:, None]
        return numbers.where(self._matches(selector) & (self.hidden == 0), -1)

    def _own(self, selector: Selector) -> Int[Tensor, "row"]:
        """The value of its gate in each row."""
        return torch.zeros_like(self.at[:, 0]) if selector.gate is None else self.gates[selector.gate]

    def _entries(self, selector: Selector) -> Int[Tensor, "#row #source"]:
        """The number of each source in a selector's table, whatever its gate."""
        if selector.kind == "content":
            return self.tokens
        source = torch.arange(self.n_pos, device=self.at.device)[None]
        if selector.kind != "position":
            return torch.zeros_like(source)
        most = (self.size(selector) - 1) // 2
        return source if selector.what == "place" else (self.at[:, 1, None] - source).clamp(-most, most) + most

    def _matches(self, selector: Selector) -> Bool[Tensor, "#row #source"]:
        """The sources that a selector says something about."""
        if selector.kind == "position":
            return torch.ones(1, 1, dtype=torch.bool, device=self.at.device)
        if isinstance(selector.what, Role):
            return self.sources(selector.what) > 0
        return torch.eq(self.slots, int(selector.what))

    def sources(self, role: Role) -> Float[Tensor, "row source"]:
        """1 at the sources of a role."""
        mask = self.masks.get(role)
        return (self.first[role][:, None] == torch.arange(self.n_pos, device=self.at.device)).float() if mask is None else mask

    def on(self, selector: Selector, pattern: Float[Tensor, "head row source"]) -> Float[Tensor, "head row"]:
        """How much of a pattern is on the sources of a role or in a slot."""
        if selector.what in self.first:
            assert isinstance(selector.what, Role)
            source = self.first[selector.what]
            there = pattern.gather(2, source.clamp(min=0)[None, :, None].expand(len(pattern), -1, 1)).squeeze(2)
            return there.where(source >= 0, 0.0)
        return torch.einsum("hrs,rs->hr", pattern, self._matches(selector).to(pattern.dtype))

    def on_each(
        self, selector: Selector, pattern: Float[Tensor, "head row source"], values: int
    ) -> Float[Tensor, "head size value"]:
        """How much of a pattern, in all rows, is on the sources that each number of a selector stands for."""
        if selector.what == "place" and selector.gate is None:
            return pattern.sum(dim=1)[:, :, None]
        size, numbers = self.size(selector), self.columns(selector, values)
        found = pattern.new_zeros(len(pattern), size * values + 1)  # the last is that of sources that it says nothing about
        at = numbers.where(numbers >= 0, size * values).flatten().expand(len(pattern), -1)
        return found.scatter_add(1, at, pattern.flatten(1))[:, :-1].unflatten(1, (size, values))

    def names(self, selector: Selector) -> Bool[Tensor, "row"]:
        """The rows in which there is something that the selector may point at or away from."""
        if selector.kind == "role":
            assert isinstance(selector.what, Role)
            mask = self.masks.get(selector.what)
            return self.first[selector.what] >= 0 if mask is None else mask.any(dim=1)
        if selector.kind == "position":
            return torch.ones(len(self), dtype=torch.bool, device=self.at.device)
        return ((self.slots == selector.what) & (self.hidden == 0)).any(dim=1)

    def unnamed(self, selectors: Collection[Selector]) -> Bool[Tensor, "row"]:
        """The rows in which selectors, all of them roles, name no source; none where there is another kind, or nothing."""
        silent = torch.full((len(self),), bool(selectors), device=self.at.device)
        for selector in selectors:
            if selector.kind != "role":
                return torch.zeros_like(silent)
            silent &= ~self.names(selector)
        return silent

    def _gated(self, selector: Selector, weight: Tensor) -> Tensor:
        """The weight of each row."""
        if selector.gate is None:
            return weight
        return weight.gather(2, self._own(selector).expand(*weight.shape[:2], -1))

    def patterns(
        self, weights: Mapping[Selector, Float[Tensor, "head size value"]], heads: int
    ) -> Float[Tensor, "head row source"]:
        """Softmax of the summed scores."""
        total = self.hidden.expand(heads, -1, -1)
        single = [selector for selector in weights if selector.kind == "role" and selector.what in self.first]
        if single:
            total = self._pointed(total, {selector: weights[selector] for selector in single})
        for selector, weight in weights.items():
            if selector not in single:
                total = total + self.score(selector, weight)
        return total.softmax(dim=-1)

    def _pointed(self, total: Tensor, weights: Mapping[Selector, Tensor]) -> Float[Tensor, "head row source"]:
        """With the weights of roles of one source added where it stands, all at once."""
        source = torch.stack([self.first[selector.what] for selector in weights if isinstance(selector.what, Role)], dim=1)
        every = {one: self._for_all(one, weight) for one, weight in weights.items()}
        added = torch.stack([self._gated(one, weight)[:, 0].expand(-1, len(self)) for one, weight in every.items()], dim=2)
        added = torch.where(source >= 0, added, 0.0)  # [head, row, selector]
        return total.scatter_add(2, source.clamp(min=0).expand(len(total), -1, -1), added)


def make_rows(
    task: Task, batch: Batch, destination: Destination, matched: Matched | None = None, distances: bool = False
) -> Rows:
    """What the selectors say about one destination, or with `matched` what they say at the row that is matched with each row:
    its roles, its symbols, its gates. Their sources are read where they stand there, or with `distances`, where that row may
    stand at another position, at their distance from it. Cost: no forward pass.
    """
    at = destination_rows(batch, destination).nonzero()
    example, position = at.unbind(dim=1)
    seen = visible(task, batch).expand(len(batch), -1, -1)[example, position]
    if matched is not None:
        example, position = matched.at(example, position)
    n_pos = batch.tokens.shape[1]
    roles = candidate_roles(task)
    targets = {role: role_targets(task, batch, [role])[0][example, position] for role in roles}
    tokens = batch.tokens[example]
    if distances:
        source = by_distance(at[:, 1], position, n_pos)
        targets = {role: found.gather(1, source.clamp(min=0)) & (source >= 0) & seen for role, found in targets.items()}
        tokens = tokens.gather(1, source.clamp(min=0))
    single = {role: bool((found.sum(dim=1) <= 1).all()) for role, found in targets.items()}
    first = {
        role: found.to(torch.uint8).argmax(dim=1).where(found.any(dim=1), -1) for role, found in targets.items() if single[role]
    }
    return Rows(
        at=at,
        hidden=torch.zeros(len(at), n_pos, device=batch.tokens.device).masked_fill(~seen, -torch.inf),
        first=first,
        masks={role: found.float() for role, found in targets.items() if not single[role]},
        tokens=tokens,
        slots=batch.slots[at[:, 0]],
        gates={name: values[example, position].long() for name, values in gates(batch).items()},
        n_tokens=task.d_vocab,
    )


def candidates(task: Task, rows: Rows, kind: Kind, gate: str | None = None) -> list[Selector]:
    """The selectors of one kind, under one gate, that name a source of any of these rows."""
    if kind == "role":
        named = {role: bool((source >= 0).any()) for role, source in rows.first.items()}
        named |= {role: bool(mask.any()) for role, mask in rows.masks.items()}
        return [Selector("role", role, gate) for role in candidate_roles(task) if named[role]]
    there = [Slot(number) for number in rows.slots.unique().tolist()]
    if kind == "slot":
        return [Selector("slot", slot, gate) for slot in there]
    if kind == "position":
        tables: tuple[Table, ...] = ("place",) if len(rows.at[:, 1].unique()) == 1 else ("place", "distance")
        return [Selector("position", table) for table in tables]
    return [] if gate is None else [Selector("content", slot, gate) for slot in there if slot != Slot.OTHER]
