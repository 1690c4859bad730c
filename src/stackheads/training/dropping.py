"""Drop whole heads in training: drop branch (Fan et al. 2020, *Multi-branch Attentive Transformer*, arXiv 2006.10270, §3.2).

In each example every head's output is set to zero with probability ρ, independently of the others, and what is left is
divided by 1 - ρ, so that its expectation is that of all heads. No answer can then rest on one head alone.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from stackheads.models.forwards.fused import FusedForward
from stackheads.models.protocol import Model


class DroppingForward(FusedForward):
    """A fused forward in which each head of each example is dropped with probability `rate`; draws from `generator`."""

    def __init__(self, model: Model, rate: float, generator: torch.Generator):
        super().__init__(model)
        self.rate, self.generator = rate, generator

    def project(self, attn: Any, z: Float[Tensor, "*rows head_by_d_head"]) -> Float[Tensor, "*rows d_model"]:
        heads = self.model.cfg.n_heads
        kept = torch.rand(len(z), heads, generator=self.generator, device=self.generator.device, dtype=torch.float) >= self.rate
        share = kept.to(z)[:, None, :, None] / (1 - self.rate)
        return super().project(attn, rearrange(rearrange(z, "b p (h d) -> b p h d", h=heads) * share, "b p h d -> b p (h d)"))
