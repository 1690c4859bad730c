"""A recorded run on other tokens: a counterfactual changes one token, so what stands before it need not be computed again.

Where attention is causal the rows before the first changed position are those of the recorded run, in every layer. From there
on queries, keys and values are computed anew, in the last layer only the queries of the rows that are read. Equal to the hooked
run on these tokens up to rounding, where the fused forward is the model's from the tokens on (`models/trust.py`): a run that
may be taken up again is no proof of that, since it begins behind the embedding.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from stackheads.models.forwards.fused import FusedForward
from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.models.runs import Layers


def values_on(
    model: Model, run: Layers, tokens: Int[Tensor, "batch pos"], first: int, read: Int[Tensor, "read"]
) -> tuple[Float[Tensor, "batch pos d_vocab_out"], Float[Tensor, "layer batch pos head d_head"]]:
    """Logits at the positions `read` (ascending; elsewhere the recorded ones) and value vectors of the run on these tokens,
    which are the recorded run's before position `first`. Cost: at most a forward pass without hooks.
    """
    with analysing(model):
        forward = FusedForward(model, fixed=True)
        first = first if forward.causal else 0
        n_pos, at = tokens.shape[1], read[read >= first] - first
        sees = torch.ones(n_pos, n_pos, dtype=torch.bool, device=tokens.device).tril()[first:] if forward.causal else None
        values, stream = _values(run, model.cfg.n_layers), forward.embed(tokens)[:, first:]
        for layer, block in enumerate(forward.model.blocks):
            q, k, v = forward.qkv(block.attn, forward.norm(getattr(block, "ln1", None), stream))
            values[layer][:, first:] = rearrange(v, "b h r d -> b r h d")
            if layer == model.cfg.n_layers - 1:  # [batch, row, d_model] at the rows that are read alone
                q, stream, sees = q[:, :, at], stream[:, at], None if sees is None else sees[at]
            k = torch.cat([run.layer("k", layer)[:, :, :first], k], dim=2)
            z = functional.scaled_dot_product_attention(
                q, k, rearrange(values[layer], "b s h d -> b h s d"), attn_mask=sees, scale=forward.scale
            )
            stream = forward.mlp(block, stream + forward.project(block.attn, rearrange(z, "b h r d -> b r (h d)")))
        logits = run.logits.clone()
        logits[:, at + first] = forward.unembed(stream)
        return logits, values


def _values(run: Layers, layers: int) -> Float[Tensor, "layer batch pos head d_head"]:
    """A copy of the recorded ones."""
    return torch.stack([run.layer("v", layer) for layer in range(layers)])
