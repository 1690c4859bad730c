"""The other way: a `HookedTransformer` that GPT-2 can express, as a GPT-2 state dict in Hugging Face's layout.

A model without MLPs is a GPT-2 whose MLPs write nothing, and one whose heads fill only a part of the residual stream's width is
a GPT-2 with further heads, last in each layer, that write nothing. Outputs go to `lm_head`, untied; GPT-2 has no bias there,
but the last LayerNorm's bias can stand for it where there are no more outputs than the width.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from stackheads.errors import ConfigError
from stackheads.models.checkpoint import parameters
from stackheads.models.hooks import analysing
from stackheads.models.outside.imported import from_gpt2
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream

TRIED, CLOSE = 4, 1e-3
"""Sequences on which the way back is tried, and how far logits may be off, as a share of the largest."""


def to_gpt2(model: Model) -> dict[str, Tensor]:
    """The state dict from which `from_gpt2(…, n_heads=d_model // d_head)` makes a model with the same logits.

    Raises `ConfigError` for a model that is no GPT-2: not causal, without LayerNorm or learned positions, with another
    activation than gelu_new, MLPs not 4 × as wide, a d_head that does not divide d_model, or an output bias that no bias before
    `lm_head` gives. Whatever else a model may be set to: the way back is tried on random tokens, and must give its logits.
    """
    state = _state_dict(model)
    tokens = torch.randint(model.cfg.d_vocab, (TRIED, model.cfg.n_ctx), generator=stream(0, Stream.OUTSIDE, "tokens"))
    with torch.no_grad(), analysing(model):
        ours = model(tokens.to(next(model.parameters()).device)).cpu()
        off = float((from_gpt2(state, model.cfg.d_model // model.cfg.d_head)(tokens) - ours).abs().max())
    if not off <= CLOSE * max(1.0, float(ours.abs().max())):
        raise ConfigError(
            f"a GPT-2 of the same weights gives logits that are off by {off:.2g}: keep this model as a checkpoint"
        )
    return state


def _state_dict(model: Model) -> dict[str, Tensor]:
    cfg, ours = model.cfg, parameters(model)
    if "unembed.W_U" not in ours:
        raise ConfigError(
            f"a GPT-2 is written of weights with a HookedTransformer's names, got a {type(model).__name__} around "
            f"{type(getattr(model, 'original_model', model)).__name__}: save what it wraps"
        )
    ours.setdefault("unembed.b_U", ours["unembed.W_U"].new_zeros(cfg.d_vocab_out))  # a bridge that was made elsewhere has none
    before = _bias_before(ours["unembed.W_U"], ours["unembed.b_U"])
    _check(cfg, before @ ours["unembed.W_U"] - ours["unembed.b_U"])
    state = {
        "transformer.wte.weight": ours["embed.W_E"],
        "transformer.wpe.weight": ours["pos_embed.W_pos"],
        "transformer.ln_f.weight": ours["ln_final.w"],
        "transformer.ln_f.bias": ours["ln_final.b"] + before,
        "lm_head.weight": ours["unembed.W_U"].T,
    }
    for layer in range(cfg.n_layers):
        start = f"blocks.{layer}."
        block = {name.removeprefix(start): value for name, value in ours.items() if name.startswith(start)}
        state |= {f"transformer.h.{layer}.{name}": value for name, value in _block(block, cfg).items()}
    return {name: value.cpu().contiguous() for name, value in state.items()}


def _check(cfg: Any, left_of_bias: Tensor) -> None:
    rules = {
        "causal attention": cfg.attention_dir == "causal",
        "LayerNorm": cfg.normalization_type == "LN",
        "learned positions": cfg.positional_embedding_type == "standard",
        "MLPs with gelu_new and 4 × the width, or none": cfg.attn_only
        or (cfg.act_fn == "gelu_new" and cfg.d_mlp == 4 * cfg.d_model),
        "heads whose width divides the model's": cfg.d_model % cfg.d_head == 0 and cfg.n_heads * cfg.d_head <= cfg.d_model,
        "no output bias of its own": bool(left_of_bias.abs().max() < 1e-4),
    }
    for rule, kept in rules.items():
        if not kept:
            raise ConfigError(f"a GPT-2 has {rule}, this model has not: keep it as a checkpoint")


def _bias_before(w_u: Float[Tensor, "d_model d_vocab_out"], b_u: Float[Tensor, "d_vocab_out"]) -> Float[Tensor, "d_model"]:
    """What w_u turns into b_u, as closely as it can."""
    return torch.linalg.lstsq(w_u.double().T, b_u.double()[:, None], driver="gelsd").solution[:, 0].to(w_u.dtype)


def _block(ours: dict[str, Tensor], cfg: Any) -> dict[str, Tensor]:
    """One layer's tensors under GPT-2's names; what the model lacks writes nothing."""
    width, silent = cfg.d_model, cfg.d_model - cfg.n_heads * cfg.d_head

    def joined(kind: str) -> Tensor:
        """Queries, keys and values of all heads on one last axis, the silent heads' zeros after each."""
        parts = [ours[f"attn.{kind}_{part}"].movedim(0, -2).flatten(-2) for part in "QKV"]
        return torch.cat([pad(part, (0, silent)) for part in parts], dim=-1)

    return {
        "ln_1.weight": ours["ln1.w"],
        "ln_1.bias": ours["ln1.b"],
        "attn.c_attn.weight": joined("W"),
        "attn.c_attn.bias": joined("b"),
        "attn.c_proj.weight": pad(ours["attn.W_O"].flatten(0, 1), (0, 0, 0, silent)),
        "attn.c_proj.bias": ours["attn.b_O"],
        "ln_2.weight": ours.get("ln2.w", torch.ones(width)),
        "ln_2.bias": ours.get("ln2.b", torch.zeros(width)),
        "mlp.c_fc.weight": ours.get("mlp.W_in", torch.zeros(width, 4 * width)),
        "mlp.c_fc.bias": ours.get("mlp.b_in", torch.zeros(4 * width)),
        "mlp.c_proj.weight": ours.get("mlp.W_out", torch.zeros(4 * width, width)),
        "mlp.c_proj.bias": ours.get("mlp.b_out", torch.zeros(width)),
    }
