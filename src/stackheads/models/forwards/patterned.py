"""Run a recorded model with all attention patterns given, differentiable in the patterns.

Rows whose patterns are given look where these say; the others look as the model makes them. Where a head is silent it gives
its mean, at that position or `place`, over the examples in which it is. Values, MLPs and norms are the model's own, computed
anew in each layer. Where the fast forward is proved on the run the model is taken up in any layer; where it is not, it runs
through its own hooks, from the beginning each time.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.models.forwards.fused import attention
from stackheads.models.forwards.rotary import forward_of
from stackheads.models.hooks import evaluating, hook_name, logits_of, precise
from stackheads.models.protocol import Forward, Model
from stackheads.models.runs import Recording

Pattern = Float[Tensor, "layer batch head pos source"]
Silent = Bool[Tensor, "layer batch pos head"]
"""On the CPU, where it is asked in each layer whether any head is silent."""


def mean_where(
    z: Float[Tensor, "batch pos *head d_head"],
    rows: Bool[Tensor, "batch pos *head"],
    place: Int[Tensor, "batch pos"] | None = None,
) -> Float[Tensor, "#batch pos *head d_head"]:
    """The mean of z over the examples in which a position is marked, or over all positions of one place that are marked; 0
    where none is.
    """
    weight = rows.to(z.dtype)
    if place is None:
        return (torch.einsum("b...d,b...->...d", z, weight) / weight.sum(dim=0).clamp(min=1)[..., None])[None]
    at, n_places = place.flatten(), int(place.max()) + 1
    total = z.new_zeros(n_places, *z.shape[2:]).index_add(0, at, (z * weight[..., None]).flatten(0, 1))
    count = weight.new_zeros(n_places, *weight.shape[2:]).index_add(0, at, weight.flatten(0, 1))
    return (total / count.clamp(min=1)[..., None])[place]


@dataclass(frozen=True)
class Patterned:
    """A run whose patterns are given at `rows`. `hooked`: through the model's hooks. Cost of a run: one forward pass."""

    model: Model
    tokens: Int[Tensor, "batch pos"]
    run: Recording
    rows: Bool[Tensor, "batch pos"]
    hooked: bool
    place: Int[Tensor, "batch pos"] | None = None
    pads: Bool[Tensor, "batch pos"] | None = None

    def logits(self, pattern: Pattern, silent: Silent) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Logits with these patterns, and heads that are silent in some rows."""
        with evaluating(self.model), precise():
            if self.hooked:
                return self._through_hooks(pattern, silent)
            assert self.run.residual is not None
            return self._from(0, self.run.residual[0], pattern, silent)

    def streams(self, pattern: Pattern, silent: Silent) -> list[Float[Tensor, "batch pos d_model"]]:
        """The residual stream before each layer, for `from_layer`; nothing where runs go through hooks."""
        if self.hooked:
            return []
        assert self.run.residual is not None
        found = [self.run.residual[0]]
        with evaluating(self.model), precise():
            for layer in range(len(pattern) - 1):
                found.append(self._layer(layer, found[-1], pattern[layer], silent[layer]))
        return found

    def from_layer(self, layer: int, streams: list[Tensor], pattern: Pattern, silent: Silent) -> Tensor:
        """Logits where patterns and silence are as in the run of `streams` before this layer. Cost: the layers from it on."""
        if self.hooked:
            return self.logits(pattern, silent)
        with evaluating(self.model), precise():
            return self._from(layer, streams[layer], pattern, silent)

    def _from(self, first: int, stream: Tensor, pattern: Pattern, silent: Silent) -> Tensor:
        for layer in range(first, len(pattern)):
            stream = self._layer(layer, stream, pattern[layer], silent[layer])
        return self._forward.unembed(stream)

    @cached_property
    def _everywhere(self) -> bool:
        """Whether all patterns are given."""
        return bool(self.rows.all())

    @cached_property
    def _forward(self) -> Forward:
        forward = forward_of(self.model)
        assert forward is not None
        return forward

    def _layer(self, layer: int, stream: Tensor, pattern: Tensor, silent: Tensor) -> Tensor:
        forward, block = self._forward, self.model.blocks[layer]
        x = forward.norm(getattr(block, "ln1", None), stream)
        if self._everywhere:
            v = forward.values(block.attn, x)
        else:
            q, k, v = forward.qkv(block.attn, x, torch.arange(x.shape[1], device=x.device))
            own = attention(q, k, forward.scale, forward.causal)
            pattern = torch.where(self.rows[:, None, :, None], pattern, own)
        z = torch.einsum("bhps,bhsd->bphd", pattern, v)
        return forward.mlp(block, stream + forward.project(block.attn, self._silenced(layer, z, silent).flatten(2)))

    def _silenced(
        self, layer: int, z: Float[Tensor, "batch pos head d_head"], silent: Bool[Tensor, "batch pos head"]
    ) -> Tensor:
        """z with the mean of the recorded one where a head is silent."""
        if not bool(silent.any()):
            return z
        silent = silent.to(z.device)
        return torch.where(silent[..., None], mean_where(self.run.z[layer], silent, self.place), z)

    def _through_hooks(self, pattern: Pattern, silent: Silent) -> Tensor:
        def look(value: Tensor, hook: Any, *, layer: int) -> Tensor:
            return torch.where(self.rows[:, None, :, None], pattern[layer], value)

        def give(value: Tensor, hook: Any, *, layer: int) -> Tensor:
            return self._silenced(layer, value, silent[layer])

        hooks: list[tuple[str, Any]] = []
        for layer in range(len(pattern)):
            hooks.append((hook_name(layer, "pattern"), partial(look, layer=layer)))
            hooks.append((hook_name(layer, "z"), partial(give, layer=layer)))
        with self.model.hooks(fwd_hooks=hooks):
            return logits_of(self.model, self.tokens, self.pads)
