"""What is recorded of a run: all at once, or by layers that are taken from it, or made, when they are first asked for.

A run that is taken up again reads the layers behind its first edit, and no patterns: to copy the rest for each few examples, or
to make it again, would take longer than the run itself.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.types import HeadId

Kind = Literal["pattern", "v", "z", "residual", "q", "k"]
"""What is recorded of a layer, with the axes of `Recording` but for its first."""


@dataclass(frozen=True)
class Recording:
    """One run of a model: logits and, for each layer and head, attention pattern, value vectors and outputs z.

    `residual` is the residual stream before each layer, `q` and `k` the queries and keys, from which a run can be taken up
    again (`replay.py`), those that have been turned where positions are rotary; `q` and `k` are None where no forward is known.
    """

    logits: Float[Tensor, "batch pos d_vocab_out"]
    pattern: Float[Tensor, "layer batch head pos source"]
    v: Float[Tensor, "layer batch pos head d_head"]
    z: Float[Tensor, "layer batch pos head d_head"]
    residual: Float[Tensor, "layer batch pos d_model"] | None = None
    q: Float[Tensor, "layer batch head pos d_head"] | None = None
    k: Float[Tensor, "layer batch head pos d_head"] | None = None

    def of(self, head: HeadId | str) -> tuple[Tensor, Tensor, Tensor]:
        """This head's pattern [batch, pos, source], v [batch, pos, d_head] and z [batch, pos, d_head].

        Raises `InterventionError` if there is no such head.
        """
        head = HeadId.of(head).check(self.pattern.shape[0], self.pattern.shape[2])
        layer, index = head.layer, head.index
        return self.pattern[layer, :, index], self.v[layer, :, :, index], self.z[layer, :, :, index]

    @property
    def resumable(self) -> bool:
        """Whether a run can be taken up again from it."""
        return self.residual is not None and self.q is not None

    def whole(self) -> "Recording":
        """The whole of it, which it is (`models/condensed.py`)."""
        return self

    def output(self, head: HeadId | str) -> Float[Tensor, "batch pos d_head"]:
        """This head's z. Raises `InterventionError` if there is no such head."""
        return self.of(head)[2]

    def part(self, some: "slice | Tensor") -> "Recording | Part":
        """Some examples: by a slice of the same numbers, or by their own, which are copied a layer at a time."""
        if isinstance(some, Tensor):
            return Part(self, some, self.pattern.shape[0], self.pattern.shape[2])
        inputs = (None if each is None else each[:, some] for each in (self.residual, self.q, self.k))
        return Recording(self.logits[some], self.pattern[:, some], self.v[:, some], self.z[:, some], *inputs)

    def has(self, kind: Kind) -> bool:
        """Whether it was recorded."""
        return getattr(self, kind) is not None

    def layer(self, kind: Kind, number: int) -> Tensor:
        """What is recorded of a layer, of a kind that is there (`has`)."""
        return getattr(self, kind)[number]


class Layered(ABC):
    """A run of so many layers and heads, one layer at a time; what was had is kept. Otherwise as a `Recording`."""

    resumable: bool
    """Whether a run can be taken up again from it."""

    def __init__(self, logits: Tensor, layers: int, heads: int, resumable: bool = True):
        self.logits, self.layers, self.heads, self.resumable = logits, layers, heads, resumable
        self._known: dict[tuple[Kind, int], Tensor] = {}

    @abstractmethod
    def _take(self, kind: Kind, number: int) -> Tensor:
        """What is recorded of a layer."""

    def layer(self, kind: Kind, number: int) -> Tensor:
        """What is recorded of a layer."""
        if (kind, number) not in self._known:
            self._known[kind, number] = self._take(kind, number)
        return self._known[kind, number]

    def of(self, head: HeadId | str) -> tuple[Tensor, Tensor, Tensor]:
        """This head's pattern, v and z, as `Recording.of`."""
        head = HeadId.of(head).check(self.layers, self.heads)
        return self.layer("pattern", head.layer)[:, head.index], self._value("v", head), self._value("z", head)

    def output(self, head: HeadId | str) -> Tensor:
        """This head's z. Raises `InterventionError` if there is no such head."""
        return self._value("z", HeadId.of(head).check(self.layers, self.heads))

    def _value(self, kind: Kind, head: HeadId) -> Tensor:
        return self.layer(kind, head.layer)[:, :, head.index]

    def part(self, some: "slice | Tensor") -> "Layered":
        """Some examples, by a slice or by their numbers."""
        return Part(self, some, self.layers, self.heads)

    def whole(self) -> Recording:
        """The whole recording."""
        return Recording(self.logits, self.pattern, self.v, self.z, self.residual, self.q, self.k)

    def has(self, kind: Kind) -> bool:
        """Whether it was recorded."""
        return True

    def _all(self, kind: Kind) -> Tensor:
        return torch.stack([self.layer(kind, number) for number in range(self.layers)])

    @property
    def pattern(self) -> Tensor:
        """The patterns of all layers, copied, like those that follow."""
        return self._all("pattern")

    @property
    def v(self) -> Tensor:
        """The value vectors."""
        return self._all("v")

    @property
    def z(self) -> Tensor:
        """The outputs."""
        return self._all("z")

    @property
    def residual(self) -> Tensor | None:
        """The residual streams, if there are any, as of queries and keys."""
        return self._all("residual") if self.has("residual") else None

    @property
    def q(self) -> Tensor | None:
        """The queries."""
        return self._all("q") if self.has("q") else None

    @property
    def k(self) -> Tensor | None:
        """The keys."""
        return self._all("k") if self.has("k") else None


class Part(Layered):
    """Some examples of a run."""

    def __init__(self, run: Recording | Layered, some: "slice | Tensor", layers: int, heads: int):
        super().__init__(run.logits[some], layers, heads, run.resumable)
        self.run, self.some = run, some
        self._of: dict[HeadId, tuple[Tensor, Tensor, Tensor]] = {}

    def has(self, kind: Kind) -> bool:
        """Whether it was recorded."""
        return self.run.has(kind)

    def _take(self, kind: Kind, number: int) -> Tensor:
        return self.run.layer(kind, number)[self.some]

    def of(self, head: HeadId | str) -> tuple[Tensor, Tensor, Tensor]:
        """This head's pattern, v and z: those of the others need not be copied."""
        head = HeadId.of(head)
        if head not in self._of:
            pattern, v, z = (each[self.some] for each in self.run.of(head))
            self._of[head] = pattern, v, z
        return self._of[head]


Layers = Recording | Layered
"""What a run can be taken up again from."""
