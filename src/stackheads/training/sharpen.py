"""Two terms that make circuits clean: sharp attention, and silence where nothing has to be said.

Soft heads add up: several diffuse heads can do together what no attention map shows. Among the circuits that solve a task these
terms prefer those whose heads look at one place, and as few of them as it takes. They are part of the recipe, never of the
labeller, and stand in the checkpoint's configuration.

`entropy`   the mean entropy, in nats, of the attention rows at value slots and the query.
`loudness`  the sum over (head, destination) of the root mean square of what the head writes there beyond its positional mean,
            in units of the final residual stream's norm: a group lasso (Yuan & Lin 2006) on outputs. A head that need not
            speak at a destination falls silent there, and positional means can take its place.

Attention is computed explicitly, about 1.3 times the time of a fused step.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.models.forwards.fused import FusedForward, attention
from stackheads.models.protocol import Model
from stackheads.tasks import Batch
from stackheads.tasks.layout import check_one_layout
from stackheads.types import Destination, Slot


class SharpeningForward(FusedForward):
    """A fused forward that also keeps what the two terms need: attention entropies, head outputs, the last residual stream."""

    def __init__(self, model: Model):
        super().__init__(model)
        self._entropies: list[Tensor] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._final: Tensor | None = None

    def __call__(self, tokens: Int[Tensor, "batch pos"], read: Tensor | None = None) -> Float[Tensor, "batch pos d_vocab_out"]:
        """All positions: what the terms need is everywhere."""
        assert read is None
        self._entropies, self._outputs = [], []
        return super().__call__(tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Float[Tensor, "batch head pos d_head"]:
        pattern = attention(q, k, self.scale, causal)
        self._entropies.append(torch.special.entr(pattern.clamp(min=1e-9)).sum(dim=-1))
        return pattern @ v

    def project(self, attn: Any, z: Float[Tensor, "*rows head_by_d_head"]) -> Float[Tensor, "*rows d_model"]:
        heads = rearrange(z, "b p (h d) -> b p h d", h=self.model.cfg.n_heads)
        self._outputs.append((heads, self.output_weights(attn)))
        return super().project(attn, z)

    def unembed(
        self, residual: Float[Tensor, "*rows d_model"], like: Tensor | None = None
    ) -> Float[Tensor, "*rows d_vocab_out"]:
        self._final = residual
        return super().unembed(residual, like)

    def entropy(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean over layers, heads and the rows at value slots and the query, of the last call."""
        rows = (batch.slots != Slot.KEY).to(self._entropies[0].dtype)[:, None]
        means = [(entropy * rows).sum() / (rows.sum() * entropy.shape[1]) for entropy in self._entropies]
        return torch.stack(means).mean()

    def loudness(self, batch: Batch) -> Float[Tensor, ""]:
        """Sum over (head, destination) of the last call. Raises `TaskError` where layouts vary."""
        assert self._final is not None
        check_one_layout(batch, "loudness needs one")
        scale = self._final.detach().square().sum(dim=-1).mean().sqrt()
        total = self._final.new_zeros(())
        for z, w_o in self._outputs:
            beyond = z - z.mean(dim=0)
            written = w_o @ w_o.transpose(-1, -2)
            for destination in Destination:
                rows = batch.slots[0] == destination.slot
                if bool(rows.any()):
                    here = rearrange(beyond[:, rows], "b p h d -> h (b p) d")
                    power = torch.einsum("hnd,hde,hne->h", here, written, here) / here.shape[1]
                    total = total + (power + 1e-8).sqrt().sum() / scale
        return total
