"""A run recorded without hooks: what `models/hooks.py:record` keeps, by the fused forward.

Equal to the hooked record up to rounding, where the fused forward is the model's (`models/trust.py`).
"""

from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from stackheads.models.forwards.fused import FusedForward, attention
from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.models.runs import Recording


def record_fused(model: Model, tokens: Int[Tensor, "batch pos"]) -> Recording:
    """Run the model once and keep what its heads do. Needs a model with a fused forward. Cost: a forward pass without hooks."""
    with analysing(model):
        forward = FusedForward(model, fixed=True)
        stream = forward.embed(tokens)
        layers, heads, (n, n_pos, d_model) = model.cfg.n_layers, model.cfg.n_heads, stream.shape
        residual = stream.new_empty(layers, n, n_pos, d_model)
        pattern = stream.new_empty(layers, n, heads, n_pos, n_pos)
        q, k = (stream.new_empty(layers, n, heads, n_pos, model.cfg.d_head) for _ in range(2))
        v, z = (stream.new_empty(layers, n, n_pos, heads, model.cfg.d_head) for _ in range(2))
        for layer, block in enumerate(forward.model.blocks):
            residual[layer] = stream
            q[layer], k[layer], values = forward.qkv(block.attn, forward.norm(getattr(block, "ln1", None), stream))
            pattern[layer] = attention(q[layer], k[layer], forward.scale, forward.causal)
            v[layer], z[layer] = (rearrange(each, "b h p d -> b p h d") for each in (values, pattern[layer] @ values))
            stream = forward.mlp(block, stream + forward.project(block.attn, rearrange(z[layer], "b p h d -> b p (h d)")))
        return Recording(forward.unembed(stream), pattern, v, z, residual, q, k)
