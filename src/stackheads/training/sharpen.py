"""An entropy term that makes attention sharp: mean entropy of the attention rows at value slots and the query, in nats.

Soft heads add up: several diffuse heads can do together what no attention map shows. A small weight on the entropy prefers,
among circuits that solve the task, those whose heads look at one place. It is part of the recipe, never of the labeller, and
stands in the checkpoint's configuration. Attention is computed explicitly, about 1.3 times the time of a fused step.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.models.fused import FusedForward
from stackheads.tasks import Batch
from stackheads.types import Slot


class SharpeningForward(FusedForward):
    """A fused forward that also keeps the entropy of every attention row."""

    def __init__(self, model: Any):
        super().__init__(model)
        self._entropies: list[Tensor] = []

    def __call__(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab_out"]:
        self._entropies = []
        return super().__call__(tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Float[Tensor, "batch head pos d_head"]:
        scores = (q @ k.transpose(-1, -2)) * self.scale
        if causal:
            n_pos = scores.shape[-1]
            future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        pattern = scores.softmax(dim=-1)
        self._entropies.append(torch.special.entr(pattern.clamp(min=1e-9)).sum(dim=-1))
        return pattern @ v

    def entropy(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean over layers, heads and the rows at value slots and the query, of the last call."""
        rows = (batch.slots != Slot.KEY).to(self._entropies[0].dtype)[:, None]
        means = [(entropy * rows).sum() / (rows.sum() * entropy.shape[1]) for entropy in self._entropies]
        return torch.stack(means).mean()
