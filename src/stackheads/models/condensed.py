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
from stackheads.models.hooks import Recording, analysing
from stackheads.models.protocol import Model
from stackheads.models.trust import state
from stackheads.types import HeadId


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

    resumable = True
    """A run can be taken up again from it."""

    def part(self, some: "slice | Tensor") -> Recording:
        """The whole recording of some examples, by a slice or by their numbers. Cost: a third of a forward pass on them."""
        z, residual = self.z[:, some], self.residual[:, some]
        kept: list[tuple[Tensor, ...]] = []
        forward = self._forward()
        with analysing(self.model):
            for block, stream in zip(self.model.blocks, residual, strict=True):
                q, k, v = forward.qkv(block.attn, forward.norm(getattr(block, "ln1", None), stream))
                pattern = attention(q, k, forward.scale, forward.causal)
                kept.append((pattern, rearrange(v, "b h p d -> b p h d"), q, k))
        pattern, v, q, k = (torch.stack(parts) for parts in zip(*kept, strict=True))
        return Recording(self.logits[some], pattern, v, z, residual, q, k)

    def whole(self) -> Recording:
        """The whole recording."""
        return self.part(slice(None))

    def of(self, head: HeadId | str) -> tuple[Tensor, Tensor, Tensor]:
        """This head's pattern, v and z, as `Recording.of`. Cost: one head's attention."""
        head = HeadId.of(head).check(len(self.z), self.z.shape[3])
        forward, block = self._forward(), self.model.blocks[head.layer]
        with analysing(self.model):
            x = forward.norm(getattr(block, "ln1", None), self.residual[head.layer])
            q, k, v = (forward.reads(block.attn, head.index, part, x) for part in "qkv")
            pattern = attention(q[:, None], k[:, None], forward.scale, forward.causal)[:, 0]
        return pattern, v, self.output(head)

    def output(self, head: HeadId | str) -> Float[Tensor, "batch pos d_head"]:
        """This head's z. Raises `InterventionError` if there is no such head."""
        head = HeadId.of(head).check(len(self.z), self.z.shape[3])
        return self.z[head.layer, :, :, head.index]

    @property
    def pattern(self) -> Float[Tensor, "layer batch head pos source"]:
        """All patterns, made anew each time."""
        return self.whole().pattern

    @property
    def v(self) -> Float[Tensor, "layer batch pos head d_head"]:
        """All value vectors, made anew each time."""
        return self.whole().v

    def _forward(self) -> FusedForward:
        if state(self.model) != self.made_in:
            raise InterventionError("a model must be as it was when the run was recorded, it is not: record it anew")
        return FusedForward(self.model, fixed=True)


Run = Recording | Condensed
"""A recorded run, whole or condensed."""
