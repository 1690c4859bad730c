"""A recorded run that keeps what its heads give and the residual streams, a fifth of it or less where contexts are long.

Queries, keys, values and patterns are a linear map of the normed stream away, and are made again for the examples, or the head,
that are looked at: by the forward that was seen to be the model's on this run (`interventions/proof.py`), equal to what the
model's hooks gave up to rounding. For models of which a `FusedForward` can be built; the others' runs are kept whole.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.models.forwards.fused import FusedForward, attention
from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.models.runs import Kind, Layered, Recording
from stackheads.models.trust import state
from stackheads.types import HeadId

AT_ONCE = 64
"""Examples of which a head's pattern is made at a time."""


@dataclass(frozen=True)
class Condensed:
    """What is kept of a run, and the model that the rest is made by, which must stay as it was (`made_in`).

    Raises `InterventionError` where something is asked for that has to be made and the model has changed since.
    """

    model: Model = field(compare=False, repr=False)
    logits: Float[Tensor, "batch pos d_vocab_out"]
    z: Float[Tensor, "layer batch pos head d_head"]
    residual: Float[Tensor, "layer batch pos d_model"]
    made_in: tuple[Any, ...] = field(repr=False)
    last: dict[HeadId, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)
    """Pattern and values of the head that was asked for last, which is often asked for again."""

    resumable = True
    """A run can be taken up again from it."""

    def part(self, some: "slice | Tensor") -> "Made":
        """The recording of some examples, by a slice or by their numbers. Cost: at most a third of a forward pass on them, for
        what is looked at.
        """
        return Made(self, some, self._forward())

    def whole(self) -> Recording:
        """The whole recording. Cost: a third of a forward pass."""
        made = self.part(slice(None))
        return Recording(self.logits, made.pattern, made.v, self.z, self.residual, made.q, made.k)

    def of(self, head: HeadId | str) -> tuple[Tensor, Tensor, Tensor]:
        """This head's pattern, v and z, as `Recording.of`. Cost: one head's attention."""
        head = HeadId.of(head).check(len(self.z), self.z.shape[3])
        forward = self._forward()
        if head not in self.last:
            self.last.clear()
            self.last[head] = self._of(head, forward)
        return *self.last[head], self.output(head)

    def _of(self, head: HeadId, forward: FusedForward) -> tuple[Tensor, Tensor]:
        """Its pattern and values, made a part of the examples at a time: what is made on the way takes more than these."""
        block, made = self.model.blocks[head.layer], list[tuple[Tensor, Tensor]]()
        with analysing(self.model):
            for stream in self.residual[head.layer].split(AT_ONCE):
                x = forward.norm(getattr(block, "ln1", None), stream)
                q, k, v = (forward.reads(block.attn, head.index, part, x) for part in "qkv")
                made.append((attention(q[:, None], k[:, None], forward.scale, forward.causal)[:, 0], v))
        pattern, v = (torch.cat(parts) for parts in zip(*made, strict=True))
        return pattern, v

    def output(self, head: HeadId | str) -> Float[Tensor, "batch pos d_head"]:
        """This head's z. Raises `InterventionError` if there is no such head."""
        head = HeadId.of(head).check(len(self.z), self.z.shape[3])
        return self.z[head.layer, :, :, head.index]

    @property
    def pattern(self) -> Float[Tensor, "layer batch head pos source"]:
        """All patterns, made anew each time."""
        return self.part(slice(None)).pattern

    @property
    def v(self) -> Float[Tensor, "layer batch pos head d_head"]:
        """All value vectors, made anew each time."""
        return self.part(slice(None)).v

    def check(self) -> None:
        """Raise `InterventionError` if the model is no longer the one that was recorded."""
        if state(self.model) != self.made_in:
            raise InterventionError("a model must be as it was when the run was recorded, it is not: record it anew")

    def _forward(self) -> FusedForward:
        self.check()
        return FusedForward(self.model, fixed=True)


class Made(Layered):
    """Some examples of a condensed run, made again by a forward."""

    def __init__(self, run: Condensed, some: "slice | Tensor", forward: FusedForward):
        super().__init__(run.logits[some], len(run.z), run.z.shape[3])
        self.run, self.some, self.forward = run, some, forward

    def _take(self, kind: Kind, number: int) -> Tensor:
        if kind in ("z", "residual"):
            return getattr(self.run, kind)[number][self.some]
        self.run.check()
        with analysing(self.run.model):
            if kind == "pattern":
                return attention(self.layer("q", number), self.layer("k", number), self.forward.scale, self.forward.causal)
            block = self.run.model.blocks[number]
            x = self.forward.norm(getattr(block, "ln1", None), self.layer("residual", number))
            q, k, v = self.forward.qkv(block.attn, x)
        self._known |= {("q", number): q, ("k", number): k, ("v", number): rearrange(v, "b h p d -> b p h d")}
        return self._known[kind, number]


Run = Recording | Layered | Condensed
"""A recorded run, whole, by its layers, or condensed."""
