"""What a model is made of, as stored in a checkpoint, and how it is built.

This room is the only one that constructs TransformerLens models. `HookedTransformer` is deprecated in TransformerLens 3.x,
where its warning is silenced here and nowhere else, and gone in 4.0, where a bridge takes its place (`native.py`).
"""

import warnings
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from stackheads.errors import ConfigError, TaskMismatchError
from stackheads.limits import check_memory, whole
from stackheads.models.kinds import check_model
from stackheads.models.native import has_hooked_transformer, is_native, named_weights, native
from stackheads.models.protocol import Model
from stackheads.seeds import bare, initialising
from stackheads.settings import Settings
from stackheads.tasks import Task, check_task


class ModelConfig(Settings):
    """Sizes and kinds of a `HookedTransformer`; what depends on the task (context, vocabularies) comes from the task.

    `normalization`  "LN" or None.
    `positions`      "standard" (learned, added to the residual stream) or "rotary".
    `attn_only`      no MLP when True; otherwise MLPs of width `d_mlp` (default 4 × d_model) with ReLU.
    """

    called = "model"

    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    d_model: int = Field(default=64, ge=1)
    d_head: int = Field(default=16, ge=1)
    attn_only: bool = True
    d_mlp: int | None = Field(default=None, ge=1)
    normalization: Literal["LN"] | None = "LN"
    positions: Literal["standard", "rotary"] = "standard"
    dtype: Literal["float32", "float64"] = "float32"

    @field_validator("positions")
    @classmethod
    def _pairs_to_rotate(cls, positions: str, others: ValidationInfo) -> str:
        if positions == "rotary" and others.data.get("d_head", 2) % 2:
            raise ValueError(
                f"rotary positions turn pairs of numbers, which needs an even d_head and not {others.data['d_head']}"
            )
        return positions


def build(config: ModelConfig, task: Task, seed: int = 0, device: torch.device | str | int = "cpu") -> Any:
    """A freshly initialised `HookedTransformer` (or what takes its place, `native.py`) for a task; the same seed gives the same
    weights.

    The global random state is left as it was. Raises `ConfigError` where one example's attention would not fit.
    """
    place = parse_device(device)
    if place.type == "cpu":
        check_memory(f"a layer's attention between {task.n_ctx:,} tokens", 4 * config.heads * task.n_ctx**2)
    model = hooked(
        seed,
        n_layers=config.layers,
        n_heads=config.heads,
        d_model=config.d_model,
        d_head=config.d_head,
        n_ctx=task.n_ctx,
        d_vocab=task.d_vocab,
        d_vocab_out=task.d_vocab_out,
        attn_only=config.attn_only,
        d_mlp=None if config.attn_only else config.d_mlp or 4 * config.d_model,
        act_fn="relu",
        normalization_type=config.normalization,
        positional_embedding_type=config.positions,
        rotary_dim=config.d_head if config.positions == "rotary" else None,
        attention_dir=task.attention_dir,
        dtype=getattr(torch, config.dtype),
        device="cpu",
    )
    return moved(model, place)


def freeze_embedding(model: Model, vectors: Float[Tensor, "token d_model"]) -> None:
    """Give tokens these vectors, and take them out of training."""
    embedding = named_weights(model)["embed.W_E"].requires_grad_(False)
    embedding.copy_(vectors)


def moved(model: Model, device: torch.device) -> Any:
    """The model on a device, without TransformerLens' line on stdout."""
    quiet = type(model).__name__ == "HookedTransformer" or is_native(model)
    return model.to(device, print_details=False) if quiet else model.to(device)


def hooked(seed: int = 0, **settings: Any) -> Any:
    """A `HookedTransformer` with these settings of TransformerLens' own, its weights drawn from the bare seed.

    Where TransformerLens has none any more, from 4.0 on, the bridge that is the same (`native.py`).
    """
    if not has_hooked_transformer():
        return native(bare(seed), **settings)
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with initialising(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(HookedTransformerConfig(**settings))


def check_fit(model: Model, task: Task) -> None:
    """Raise `TaskMismatchError` if the model cannot be asked this task's questions, `ConfigError` if one of the two is none."""
    check_model(model)
    check_task(task)
    if empty := [name for name, weight in model.named_parameters() if weight.is_meta]:
        raise ConfigError(f"a model's weights must hold numbers, {empty[0]} is on the meta device: load them first")
    cfg = model.cfg
    if cfg.n_ctx < task.n_ctx:
        raise TaskMismatchError(
            f"{task.name} needs a context of {task.n_ctx} tokens, the model has {cfg.n_ctx}: use a shorter task"
        )
    for field in ("d_vocab", "d_vocab_out", "attention_dir"):
        expected, found = getattr(task, field), getattr(cfg, field, None)
        if expected != found:
            raise TaskMismatchError(
                f"{task.name} needs {field} = {expected}, the model has {found}: use the task the model was trained on"
            )


def parse_device(name: torch.device | str | int | None) -> torch.device:
    """The device to compute on; None means CPU, a number that graphics processor, as torch has it.

    Raises `ConfigError` if it is unknown or not available.
    """
    try:
        number = whole(name)
        device = torch.device("cpu" if name is None else name if number is None else f"cuda:{number}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        raise ConfigError(f"device must be one that torch can use here, got {name!r}: try --device cpu") from None
    if device.type == "meta":
        raise ConfigError("device must hold data, got 'meta': try --device cpu")
    return device
