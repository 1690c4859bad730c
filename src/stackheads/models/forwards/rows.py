"""The positions that edits touch, as numbers on the processor: which of a run must be computed anew is decided there.

To learn what a tensor of rows marks is to wait for its device. Edits share their rows, so each tensor is looked through once,
and many of them at a time.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from stackheads.models.hooks import Edit


@dataclass(frozen=True)
class Rows:
    """Some positions, ascending."""

    positions: tuple[int, ...]

    @classmethod
    def of(cls, positions: "set[int] | range") -> "Rows":
        """These positions."""
        return cls(tuple(sorted(positions)))

    def __len__(self) -> int:
        return len(self.positions)

    def __and__(self, other: "Rows") -> "Rows":
        return Rows.of(set(self.positions) & set(other.positions))

    def __or__(self, other: "Rows") -> "Rows":
        return Rows.of(set(self.positions) | set(other.positions))

    @cached_property
    def index(self) -> Any:
        """What picks them from a tensor: a slice, and so no copy, where they lie together."""
        if not self.positions:
            return slice(0, 0)
        first, last = self.positions[0], self.positions[-1]
        return slice(first, last + 1) if last - first + 1 == len(self) else list(self.positions)

    def within(self, others: "Rows") -> Any:
        """What picks them from a tensor that holds `others`."""
        place = {position: number for number, position in enumerate(others.positions)}
        return Rows(tuple(place[position] for position in self.positions)).index


_marked = WeakTensorKeyDictionary()
"""Of rows that were looked through, at which version, and which positions they mark."""


def marked(rows: Bool[Tensor, "*batch pos"]) -> Rows:
    """The positions that are marked in any example. Edits share their rows: each tensor is looked through once."""
    look_through([rows])
    return _marked[rows][1]


def look_through(every: Iterable[Bool[Tensor, "*batch pos"]]) -> None:
    """Learn what many rows mark, so that their device need not be waited for each time."""
    new = {id(rows): rows for rows in every if rows not in _marked or _marked[rows][0] != _version(rows)}
    if new:
        any_example = torch.stack([rows.any(dim=0) if rows.ndim > 1 else rows for rows in new.values()])
        for rows, marks in zip(new.values(), any_example.tolist(), strict=True):
            _marked[rows] = _version(rows), Rows(tuple(position for position, mark in enumerate(marks) if mark))


def _version(rows: Tensor) -> float:
    """What tells whether a tensor was changed since it was looked through, nan where nothing does: then it is again.

    How often it was changed is not known of those of inference mode, nor through `.data`: where nothing has to be waited for,
    on the CPU, it is not relied on.
    """
    return math.nan if rows.is_inference() or rows.device.type == "cpu" else rows._version


def edited_rows(edit: Edit) -> Rows:
    """The positions that an edit touches in any example."""
    return marked(edit.rows)
