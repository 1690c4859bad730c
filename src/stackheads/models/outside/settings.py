"""What the weights of a GPT-2 do not tell: its heads, activation, epsilon, how attention is scaled, whether outputs are tied.

`save_pretrained` writes it into `config.json` beside the weights, where it is read and honoured; without one the caller says
it.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from stackheads.errors import CheckpointError, ConfigError
from stackheads.files import Stored, checked, read_json

CONFIG = "config.json"
ACTIVATIONS = {
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu": "gelu",
    "gelu_fast": "gelu_fast",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Activations by the names of transformers, as TransformerLens calls them."""


@dataclass(frozen=True)
class Gpt2Settings:
    """Settings of a GPT-2; None is what was not said.

    `activation`       a name of transformers'; None: gelu_new, or gelu in nanoGPT's layout.
    `epsilon`          what LayerNorm adds to the variance; None: 1e-5.
    `unscaled`         attention scores are not divided by the root of the head's width.
    `scaled_by_layer`  they are divided by the layer's number as well, counted from 1.
    `tied`             whether outputs are read by the token embedding; None: by `lm_head` where there is one.
    `sizes`            what the weights must show as well: layers, width, context, vocabulary, inner width.
    """

    heads: int | None = None
    activation: str | None = None
    epsilon: float | None = None
    unscaled: bool = False
    scaled_by_layer: bool = False
    tied: bool | None = None
    sizes: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise ConfigError(f"an activation is one of {', '.join(ACTIVATIONS)}, got {self.activation!r}: name one of these")
        if self.epsilon is not None and not 0 <= self.epsilon < 1:
            raise ConfigError(f"epsilon is what LayerNorm adds to the variance, 0 to 1, got {self.epsilon}: give 1e-5, say")

    def beside(self, found: "Gpt2Settings | None", where: Path) -> "Gpt2Settings":
        """What a config says, and what was said besides. Raises `ConfigError` where the two differ."""
        if found is None:
            return self
        for field in fields(self):
            said, read = getattr(self, field.name), getattr(found, field.name)
            if said not in (field.default, read) and field.name != "sizes":
                name = field.name.replace("_", " ")
                raise ConfigError(f"{where} says {name} = {read}, got {said}: leave the option out, or correct the file")
        return found


class _Config(Stored):
    """The members of a GPT2Config that change what is computed, with the defaults that transformers leaves out."""

    model_type: str = "gpt2"
    n_head: int = Field(default=12, ge=1)
    n_layer: int = 12
    n_embd: int = 768
    n_positions: int = 1024
    vocab_size: int = 50257
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True


def read_settings(weights: Path) -> Gpt2Settings | None:
    """What the `config.json` beside a file of weights says; None without one.

    Raises `CheckpointError` for one that is damaged, not a GPT-2's, or says what cannot be honoured.
    """
    file = weights.parent / CONFIG
    if not file.exists():
        return None
    content = read_json(file, "save the model again, or move the file away")
    if not content.keys() & {"model_type", "n_head"}:
        raise CheckpointError(f"{file} beside the weights is no GPT-2's, it has no model_type and no n_head: move it away")
    config = checked(_Config, _numbers(content), file, "save the model again")
    refused = {
        f"model_type {config.model_type!r}": config.model_type != "gpt2",
        f"activation_function {config.activation_function!r}": config.activation_function not in ACTIVATIONS,
        "add_cross_attention": config.add_cross_attention,
    }
    for what, is_so in refused.items():
        if is_so:
            raise CheckpointError(f"{file} says {what}, which cannot be honoured here: give a GPT-2 without it")
    sizes = {"n_layer": config.n_layer, "n_embd": config.n_embd, "n_positions": config.n_positions}
    sizes |= {"vocab_size": config.vocab_size, "n_inner": config.n_inner or 4 * config.n_embd}
    return Gpt2Settings(
        heads=config.n_head,
        activation=config.activation_function,
        epsilon=config.layer_norm_epsilon,
        unscaled=not config.scale_attn_weights,
        scaled_by_layer=config.scale_attn_by_inverse_layer_idx,
        tied=config.tie_word_embeddings,
        sizes=tuple(sizes.items()),
    )


def _numbers(content: dict[str, Any]) -> dict[str, Any]:
    """JSON has one kind of number: an epsilon of 0 or 1 may be written without a point."""
    epsilon = content.get("layer_norm_epsilon")
    return content | ({"layer_norm_epsilon": float(epsilon)} if type(epsilon) is int else {})


def check_sizes(settings: Gpt2Settings, found: dict[str, int]) -> None:
    """Raise `CheckpointError` where the weights are not those that a config speaks of."""
    for name, expected in settings.sizes:
        if found[name] != expected:
            raise CheckpointError(
                f"{CONFIG} says {name} = {expected}, the weights have {found[name]}: they do not belong together"
            )


def with_heads(settings: Gpt2Settings, heads: int | None) -> Gpt2Settings:
    """The settings with a number of heads that was given on its own."""
    if heads is None or heads == settings.heads:
        return settings
    if settings.heads is not None:
        raise ConfigError(f"heads are given twice, {settings.heads} and {heads}: give them once")
    return replace(settings, heads=heads)
