"""Models where TransformerLens has no `HookedTransformer` any more, from 4.0 on: bridges around its own small transformer.

A `TransformerBridge` is made around TransformerLens' `NativeModel`, which is a `HookedTransformer` in all but what is mended
here: it has no bias at the outputs, rotary positions turn neighbouring numbers instead of the two halves, attention is always
scaled, and its weights have other names and shapes. `named_weights` gives those of either kind under the names of a
`HookedTransformer`, as views: what is written into them is written into the model. So checkpoints, compiled circuits and
imported models are the same for both.
"""

import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from stackheads.errors import ConfigError
from stackheads.models.protocol import Model

ARCHITECTURE = "TransformerLensNative"
INITIAL = 0.8
"""Weights are drawn with this over the root of d_model for a standard deviation, as a `HookedTransformer`'s are."""

NAMES = {
    "tok_embed.weight": "embed.W_E",
    "pos.weight": "pos_embed.W_pos",
    "ln_out.weight": "ln_final.w",
    "ln_out.bias": "ln_final.b",
    "head.weight": "unembed.W_U",
    "head.bias": "unembed.b_U",
    "ln1.weight": "ln1.w",
    "ln1.bias": "ln1.b",
    "ln2.weight": "ln2.w",
    "ln2.bias": "ln2.b",
    "attn.q.weight": "attn.W_Q",
    "attn.q.bias": "attn.b_Q",
    "attn.k.weight": "attn.W_K",
    "attn.k.bias": "attn.b_K",
    "attn.v.weight": "attn.W_V",
    "attn.v.bias": "attn.b_V",
    "attn.o.weight": "attn.W_O",
    "attn.o.bias": "attn.b_O",
    "mlp.fc_in.weight": "mlp.W_in",
    "mlp.fc_in.bias": "mlp.b_in",
    "mlp.fc_out.weight": "mlp.W_out",
    "mlp.fc_out.bias": "mlp.b_out",
}
"""What `NativeModel` calls its weights, and a `HookedTransformer`; inside a layer without its number."""

FIRST, LAST = ("embed.W_E", "pos_embed.W_pos"), ("ln_final.w", "ln_final.b", "unembed.W_U", "unembed.b_U")
IN_LAYER = (
    *("ln1.w", "ln1.b", "ln2.w", "ln2.b"),
    *("attn.W_Q", "attn.W_O", "attn.b_Q", "attn.b_O", "attn.W_K", "attn.W_V", "attn.b_K", "attn.b_V"),
    *("mlp.W_in", "mlp.b_in", "mlp.W_out", "mlp.b_out"),
)
"""The order of a `HookedTransformer`'s weights, in which they are drawn."""


def has_hooked_transformer() -> bool:
    """Whether TransformerLens is of the line that has `HookedTransformer`."""
    return int(version("transformer-lens").split(".")[0]) < 4


def is_native(model: object) -> bool:
    """Whether a model is such a bridge."""
    return type(getattr(model, "original_model", None)).__name__ == "NativeModel"


def named_weights(model: Model) -> dict[str, Tensor]:
    """The learned tensors of a `HookedTransformer`, or of such a bridge by the same names and in the same shapes.

    They share the model's memory: what is written into one is written into the model. Of other bridges, their own names and
    shapes. Raises `ConfigError` for a bridge with parts that a `HookedTransformer` of these names has not: gated MLPs, grouped
    queries.
    """
    if not is_native(model):
        return dict(model.named_parameters())
    found, heads = {}, model.cfg.n_heads
    for path, parameter in model.named_parameters():
        name = _name(path)
        if name is None or (name.endswith(("_K", "_V")) and len(parameter) != heads * model.cfg.d_head):
            raise ConfigError(
                "a model is stored and exported where each head has queries, keys and values of its own and MLPs have two "
                f"layers, got {_plain(path)} of shape {tuple(parameter.shape)}: analyse it as it is"
            )
        found[name] = _shaped(name, parameter, heads)
    inside = [f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in IN_LAYER]
    return {name: found[name] for name in (*FIRST, *inside, *LAST) if name in found}


def native(generator: torch.Generator, **settings: Any) -> Any:
    """A bridge of these settings, as `HookedTransformer` has them, its weights drawn as there."""
    from transformer_lens import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformer_lens.model_bridge.sources.native import NativeModel

    device, dtype = settings.pop("device", "cpu"), settings.pop("dtype", torch.float32)
    outputs = settings.pop("d_vocab_out", settings["d_vocab"])
    activation = settings.pop("act_fn", None)
    config = TransformerBridgeConfig(
        **settings, d_vocab_out=outputs, act_fn="relu", attn_scale=settings["d_head"] ** 0.5, architecture=ARCHITECTURE
    )
    with torch.random.fork_rng(devices=[]):  # its own first weights are not kept
        inner = NativeModel(config)
        inner.head = nn.Linear(config.d_model, outputs, bias=True)
    _mend(inner, config, activation)
    inner = inner.to(device=device, dtype=dtype)
    model: Any = build_bridge_from_module(
        inner, ARCHITECTURE, tl_config=config, dtype=dtype, device=device, model_name="native"
    )
    with torch.no_grad():
        for name, value in named_weights(model).items():
            if "W_" in name:
                drawn = torch.randn(value.shape, dtype=dtype, generator=generator)
                value.copy_(INITIAL / config.d_model**0.5 * drawn)
            else:
                value.fill_(1.0 if name.endswith(".w") else 0.0)
    return model


def _name(path: str) -> str | None:
    """What a `HookedTransformer` calls a parameter of a bridge; None if it has no such parameter."""
    plain = _plain(path)
    match = re.fullmatch(r"layers\.(\d+)\.(.+)", plain)
    known = NAMES.get(plain if match is None else match[2])
    return known if known is None or match is None else f"blocks.{match[1]}.{known}"


def _plain(path: str) -> str:
    """A parameter's path in the model that a bridge wraps."""
    return path.replace("._original_component", "").removeprefix("original_model.")


def _shaped(name: str, parameter: Tensor, heads: int) -> Tensor:
    """A parameter in the shape that a `HookedTransformer` has it in: a view."""
    kind = name.rsplit(".", 1)[-1]
    if kind in ("W_Q", "W_K", "W_V"):
        return parameter.unflatten(0, (heads, -1)).transpose(1, 2)
    if kind in ("b_Q", "b_K", "b_V"):
        return parameter.unflatten(0, (heads, -1))
    if kind == "W_O":
        return parameter.T.unflatten(0, (heads, -1))
    return parameter.T if kind in ("W_in", "W_out", "W_U") else parameter


def _mend(inner: Any, config: Any, activation: str | None) -> None:
    """What a `NativeModel` does in another way than a `HookedTransformer`, or has no setting for."""
    from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

    if inner.rotary is not None:
        _turn_halves(inner.rotary)
    for layer, block in enumerate(inner.layers):
        block.attn.scale = config.attn_scale if config.use_attn_scale else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            block.attn.scale *= layer + 1
        if activation is not None and not config.attn_only:
            block.mlp.act = SUPPORTED_ACTIVATIONS[activation]
    if activation is not None:
        config.act_fn = activation


def _turn_halves(rotary: Any) -> None:
    """Rotary positions that turn the two halves of a head's numbers against each other, as a `HookedTransformer`'s do."""

    def rotate(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return torch.cat([-x[..., half:], x[..., :half]], dim=-1)

    for name in ("cos_cached", "sin_cached"):
        table = getattr(rotary, name)
        setattr(rotary, name, torch.cat([table[..., 0::2], table[..., 0::2]], dim=-1))
    turned: Callable[[Tensor], Tensor] = rotate
    rotary._rotate_half = turned
