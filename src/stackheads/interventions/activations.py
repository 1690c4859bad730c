"""What an analysis keeps of its runs, so that no run is made twice: the clean run, and one for each counterfactual."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.models.condensed import Run
from stackheads.models.forwards.rows import marked
from stackheads.tasks import Batch, gates
from stackheads.tasks.layout import Matched, matched, one_layout, places
from stackheads.types import Destination, Gated, HeadId, Where


@dataclass(frozen=True)
class Recorded:
    """A batch and what the model did on it.

    `hooked` says why the run may only be taken up again through the model's own hooks; None where the fast forward was proved
    on this batch (`interventions/proof.py`), for the model in the state `state`. `edited`: the run is one with edits in place
    (`interventions/onward.py`), which the model's own hooks would not make again.
    """

    batch: Batch
    run: Run
    hooked: str | None = "nothing is proved of a run that was put together by hand"
    state: tuple[Any, ...] = field(default=(), compare=False, repr=False)
    edited: bool = False
    part_of: "tuple[Recorded, Int[Tensor, 'some']] | None" = field(default=None, compare=False, repr=False)

    def part(self, some: "slice | Int[Tensor, 'some']") -> "Recorded":
        """Some examples, by a slice or by their numbers, with all that is known of their run.

        What is matched with them, and means over examples, stay those of the whole batch, `origin`.
        """
        return replace(self, batch=self.batch[some], run=self.run.part(some), part_of=(self.origin, self.numbers[some]))

    @property
    def numbers(self) -> "Int[Tensor, 'some']":
        """Which examples of `origin` these are."""
        return torch.arange(len(self.batch), device=self.batch.tokens.device) if self.part_of is None else self.part_of[1]

    @property
    def origin(self) -> "Recorded":
        """The record that this one is a part of: itself if it is none."""
        return self if self.part_of is None else self.part_of[0]

    @cached_property
    def matched(self) -> Matched:
        """What stands in another example of `origin` where each position stands: in the next of its layout, if there is one.

        Raises `InterventionError` if every example's is the example itself over again.
        """
        if self.part_of is not None:
            return self.origin.matched.part(self.part_of[1])
        self._check_others()
        return matched(self.batch)

    @cached_property
    def places(self) -> Int[Tensor, "batch pos"] | None:
        """The places that means are over (`tasks/layout.py`); None where they are the positions. Raises as `matched` does."""
        if self.part_of is not None:
            place = self.origin.places
            return None if place is None else place[self.part_of[1]]
        self._check_others()
        return None if one_layout(self.batch) else places(self.batch)

    @cached_property
    def means(self) -> Float[Tensor, "layer pos head d_head"]:
        """The heads' mean outputs over examples, by position."""
        self._check_others()
        return self.run.z.mean(dim=1)

    def _check_others(self) -> None:
        n, tokens = len(self.batch), self.batch.tokens
        if n < 2 or torch.equal(tokens, tokens[:1].expand_as(tokens)):
            found = f"{n} example" if n < 2 else f"{n} times the same one"
            raise InterventionError(f"a matched example is another one of the batch, got {found}: draw more examples")


def destination_rows(batch: Batch, destination: Where | str) -> Bool[Tensor, "batch pos"]:
    """The positions of a destination, or of the part of it that a gate names, which may be none.

    Raises `InterventionError` for a destination or a gate that there is not.
    """
    if destination not in batch.known:  # always the same tensor: what is known of its numbers (`marked`) is not asked again
        batch.known[destination] = _destination_rows(batch, destination)
    return batch.known[destination]


def _destination_rows(batch: Batch, destination: Where | str) -> Bool[Tensor, "batch pos"]:
    if not isinstance(destination, Gated):
        return batch.slots == Destination(destination).slot
    gate, known = destination.gate, gates(batch)
    if gate.name not in known:
        raise InterventionError(f"a gate is one that the task names, {', '.join(known) or 'none'}, got {gate.name!r}: name one")
    values = torch.tensor(gate.values, device=batch.slots.device)
    return destination_rows(batch, destination.destination) & torch.isin(known[gate.name], values)


def acting_rows(batch: Batch, destination: Where | str) -> Bool[Tensor, "batch pos"]:
    """The positions of a destination. Raises `InterventionError` where it has none, since an edit there could not act."""
    rows = destination_rows(batch, destination)
    if not marked(rows):
        there = ", ".join(place for place in Destination if marked(destination_rows(batch, place)))
        raise InterventionError(f"an edit acts at some row, and this batch has no {destination}: use one of {there}")
    return rows


def check_rows(rows: Bool[Tensor, "batch pos"]) -> None:
    """Raise `InterventionError` if no row is marked, since an edit there could not act."""
    if not marked(rows):
        raise InterventionError("an edit acts at some row, got rows of which none is marked: mark some")


def the_heads(heads: Sequence[HeadId | str] | HeadId | str) -> list[HeadId]:
    """Heads by themselves or their names, also a single one. Raises `InterventionError` if there are none."""
    found = [HeadId.of(head) for head in ([heads] if isinstance(heads, (HeadId, str)) else heads)]
    if not found:
        raise InterventionError("an intervention acts on heads, got none: name at least one, such as L0H0")
    return found
