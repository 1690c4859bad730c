"""The fused forward with outputs of heads and MLPs taken from another run, for training with interchange interventions.

As `fused.py`, and gradients reach the parameters through both runs: what is put in is what the model itself gave elsewhere.
Attention is computed explicitly, which takes less time than the fused one where contexts are short.
Edits of runs without gradients are `models/hooks.py`'s.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.models.forwards.fused import FusedForward, attention
from stackheads.models.protocol import Model
from stackheads.models.trust import why_not_fused


@dataclass(frozen=True)
class Outputs:
    """What the heads (z, before W_O) and the MLPs of one run gave, layer by layer, and where heads looked; no MLPs in a model
    without any.
    """

    z: tuple[Float[Tensor, "batch pos head d_head"], ...]
    mlp: tuple[Float[Tensor, "batch pos d_model"], ...]
    patterns: tuple[Float[Tensor, "batch head pos source"], ...]

    def rolled(self, by: int) -> "Outputs":
        """Each example's outputs where those of the example `by` further on stand."""
        return Outputs(*(tuple(each.roll(by, dims=0) for each in kind) for kind in (self.z, self.mlp, self.patterns)))


@dataclass(frozen=True)
class Swap:
    """Where a run gets the outputs of another: heads, and MLPs, at positions."""

    heads: Bool[Tensor, "layer batch pos head"]
    mlps: Bool[Tensor, "layer batch pos"]


class PatchedForward(FusedForward):
    """Runs a model and returns what its parts gave. Raises `InterventionError` for a model that the fused forward is not."""

    def __init__(self, model: Model):
        if why := why_not_fused(model):
            raise InterventionError(f"interchanges in training need a model that the fused forward covers, {why}: build one")
        super().__init__(model)

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        swap: Swap | None = None,
        given: Outputs | None = None,
        read: Int[Tensor, "read"] | None = None,
    ) -> tuple[Float[Tensor, "batch read d_vocab_out"], Outputs]:
        """Logits, at the positions `read` or at all, and outputs, with those of `given` in place where `swap` says.

        Cost: one forward pass.
        """
        residual = self.embed(tokens)
        heads, mlps, patterns = [], [], []
        for layer, block in enumerate(self.model.blocks):
            q, k, v = self.qkv(block.attn, self.norm(getattr(block, "ln1", None), residual))
            patterns.append(attention(q, k, self.scale, self.causal))
            z = rearrange(patterns[-1] @ v, "batch head pos d_head -> batch pos head d_head")
            if swap is not None and given is not None:
                z = torch.where(swap.heads[layer, ..., None], given.z[layer], z)
            heads.append(z)
            middle = residual + self.project(block.attn, rearrange(z, "batch pos head d_head -> batch pos (head d_head)"))
            residual = self.mlp(block, middle)
            if not self.model.cfg.attn_only:
                written = residual - middle
                if swap is not None and given is not None:
                    written = torch.where(swap.mlps[layer, ..., None], given.mlp[layer], written)
                mlps.append(written)
                residual = middle + written
        logits = self.unembed(residual if read is None else residual[:, read])
        return logits, Outputs(tuple(heads), tuple(mlps), tuple(patterns))
