"""Models in which no head does what a label says, for judging a labeller by what it must not find."""

import copy
from typing import Any

import torch

from stackheads.models.native import named_weights
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream


def permuted_heads(model: Model, seed: int) -> Any:
    """A copy of the model in which each layer's query, key and value weights are dealt out to its heads anew.

    Queries, keys and values move by different shifts, so with two heads or more no head keeps its parts together.
    """
    generator = stream(seed, Stream.NULLS)
    permuted = copy.deepcopy(model)
    n_heads = model.cfg.n_heads
    with torch.no_grad():
        weights = named_weights(permuted)
        for layer in range(model.cfg.n_layers):
            order = torch.randperm(n_heads, generator=generator)
            for shift, part in enumerate("QKV"):
                for kind in ("W", "b"):
                    parameter = weights[f"blocks.{layer}.attn.{kind}_{part}"]
                    dealt = torch.empty(n_heads, dtype=torch.long)
                    dealt[order] = order.roll(shift)
                    parameter.copy_(parameter[dealt])
    return permuted
