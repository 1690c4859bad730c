"""Models in which no head does what a label says, for judging a labeller by what it must not find."""

import copy
from typing import Any

import torch

from stackheads.errors import ConfigError
from stackheads.models.config import ModelConfig, build
from stackheads.models.native import named_weights
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tasks import Task


def permuted_heads(model: Model, seed: int) -> Any:
    """A copy of the model in which each layer's query, key and value weights are dealt out to its heads anew.

    Queries, keys and values move by different shifts, so with three heads or more no head keeps any two of its parts together;
    of two the values move with the keys, so that queries look by other keys, and what is brought is written by another. Raises
    `ConfigError` for a model of one head a layer, which would be itself.
    """
    if model.cfg.n_heads < 2:
        raise ConfigError("heads are taken apart among two or more of a layer, got 1: take another model")
    generator = stream(seed, Stream.NULLS)
    permuted = copy.deepcopy(model)
    n_heads = model.cfg.n_heads
    with torch.no_grad():
        weights = named_weights(permuted)
        for layer in range(model.cfg.n_layers):
            order = torch.randperm(n_heads, generator=generator)
            for shift, part in zip((0, 1, 2 if n_heads > 2 else 1), "QKV", strict=True):
                for kind in ("W", "b"):
                    parameter = weights[f"blocks.{layer}.attn.{kind}_{part}"]
                    dealt = torch.empty(n_heads, dtype=torch.long)
                    dealt[order] = order.roll(shift)
                    parameter.copy_(parameter[dealt])
    return permuted


def beside_untrained(
    model: Model, config: ModelConfig, task: Task, more: int, seed: int, looks: float = 1.0, writes: float = 1.0
) -> Any:
    """A copy of a model of ours with `more` untrained heads in each layer, behind its own.

    No weight was ever trained to read them. `looks` multiplies their scores, so that they look at some sources and not evenly
    at all; `writes` what they write.
    """
    n_heads = config.heads
    wider = build(config.model_copy(update={"heads": n_heads + more}), task, seed)
    own, weights = named_weights(model), named_weights(wider)
    with torch.no_grad():
        for name, parameter in weights.items():
            kind = name.split(".")[-1]
            if ".attn." in name and kind != "b_O":
                parameter[:n_heads] = own[name]
                parameter[n_heads:] *= {"W_Q": looks, "b_Q": looks, "W_O": writes}.get(kind, 1.0)
            else:
                parameter.copy_(own[name])
    return wider.eval().requires_grad_(False)
