"""A Llama without hooks: the parts of its forward, over a `TransformerBridge`'s own parameters, for running it from the middle.

Covers the architecture `LlamaForCausalLM` (SmolLM2 is one): RMSNorm, rotary positions, grouped queries, gated MLPs with SiLU.
Equal to the hooked forward up to rounding (tested to 1e-4). The angles of the positions come from the model's own rotary
embedding. Keys and values are repeated for each query head, as `models/hooks.py` records them; queries and keys are the turned
ones.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from stackheads.models.forwards.fused import FusedForward, supported
from stackheads.models.protocol import Forward, Model


class RotaryForward:
    """The parts that `replay.py` asks for, named and shaped as in `FusedForward`."""

    causal = True
    foldable = False
    """Queries can't be multiplied into the stream, since a turn by the position stands between."""

    def __init__(self, model: Model):
        self.model: Any = model  # its parts go by the language model's names
        self.scale = model.cfg.d_head**-0.5

    def norm(self, norm: Any, x: Float[Tensor, "*rows d_model"], like: Tensor | None = None) -> Float[Tensor, "*rows d_model"]:
        """RMSNorm. With `like`, the scale is that of `like`."""
        like = x if like is None else like
        return x * torch.rsqrt(like.square().mean(dim=-1, keepdim=True) + self.model.cfg.eps) * norm.weight

    def qkv(
        self, attn: Any, x: Float[Tensor, "batch pos d_model"], positions: Int[Tensor, "pos"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of what stands at these positions, each [batch, head, pos, d_head]."""
        width, heads = self.model.cfg.d_head, self.model.cfg.n_heads
        parts = (functional.linear(x, part.weight, part.bias) for part in (attn.q, attn.k, attn.v))
        q, k, v = (rearrange(part, "batch pos (head d_head) -> batch head pos d_head", d_head=width) for part in parts)
        k, v = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (k, v))
        cos, sin = self.model.rotary_emb.original_component(x, positions[None])
        return _turned(q, cos, sin), _turned(k, cos, sin), v

    def values(self, attn: Any, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch head pos d_head"]:
        """Values alone, for patterns that are given."""
        v = functional.linear(x, attn.v.weight, attn.v.bias)
        v = rearrange(v, "batch pos (head d_head) -> batch head pos d_head", d_head=self.model.cfg.d_head)
        return v.repeat_interleave(self.model.cfg.n_heads // v.shape[1], dim=1)

    def project(self, attn: Any, z: Float[Tensor, "*rows head_by_d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What the heads write to the residual stream."""
        return functional.linear(z, attn.o.weight, attn.o.bias)

    def mlp(
        self, block: Any, residual: Float[Tensor, "*rows d_model"], like: Tensor | None = None
    ) -> Float[Tensor, "*rows d_model"]:
        """The residual stream after the block's MLP; `like` as in `norm`."""
        normed, parts = self.norm(block.ln2, residual, like), dict(block.mlp.named_children())
        gate, up, down = parts["gate"], parts["in"], parts["out"]
        opened = functional.silu(functional.linear(normed, gate.weight, gate.bias))
        return residual + functional.linear(opened * functional.linear(normed, up.weight, up.bias), down.weight, down.bias)

    def unembed(
        self, residual: Float[Tensor, "*rows d_model"], like: Tensor | None = None
    ) -> Float[Tensor, "*rows d_vocab_out"]:
        """Logits from the last residual stream; `like` as in `norm`."""
        unembed = self.model.unembed
        return functional.linear(self.norm(self.model.ln_final, residual, like), unembed.weight, unembed.bias)


def _turned(x: Float[Tensor, "batch head pos d_head"], cos: Tensor, sin: Tensor) -> Float[Tensor, "batch head pos d_head"]:
    """Each pair (i, i + d_head / 2) turned by the angle of its position."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def covers(model: Model) -> bool:
    """Whether a `RotaryForward` can be built: the parts that it reads are there. Its numbers are another question
    (`models/trust.py`).
    """
    cfg = model.cfg
    return (
        type(model).__name__ == "TransformerBridge"
        and getattr(cfg, "architecture", None) == "LlamaForCausalLM"
        and getattr(cfg, "hidden_act", None) == "silu"
        and not getattr(model, "compatibility_mode", False)
    )


def forward_of(model: Model) -> Forward | None:
    """The forward by which a model can be run from the middle; None where there is none."""
    if supported(model):
        return FusedForward(model, fixed=True)
    return RotaryForward(model) if covers(model) else None


def input_hooks(model: Model) -> tuple[str, str] | None:
    """The hooks at which the queries and keys of such a forward are recorded."""
    if supported(model):
        return "q", "k"
    return ("rot_q", "rot_k") if covers(model) else None
