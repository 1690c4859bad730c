"""Models that others trained: a GPT-2 state dict becomes a `HookedTransformer` with the same outputs.

Two layouts share GPT-2's names. Hugging Face's `GPT2Model` stores weights as [in, out] (Conv1D) and computes GELU by tanh;
nanoGPT stores them as [out, in] (Linear), computes GELU exactly, may leave out biases, and names the whole `transformer`. The
shape of the first `c_attn` tells which it is. A prefix before the names does not matter. What weights do not tell stands in
`settings.py`; how attention scores are scaled is put into the queries, so that no part of the model need know of it.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import CheckpointError, StackheadsWarning
from stackheads.limits import whole
from stackheads.models.config import check_fit, hooked, parse_device
from stackheads.models.hooks import logits_of
from stackheads.models.native import named_weights
from stackheads.models.outside.settings import ACTIVATIONS, CONFIG, Gpt2Settings, check_sizes, read_settings, with_heads
from stackheads.models.outside.weights import read_state_dict, weights_file
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tasks import Task, check_task, draw
from stackheads.types import IGNORE

Unembed = str | Float[Tensor, "d_vocab_out d_model"]
"""`tied`, `identity` or a tensor: see `from_gpt2`."""

HEAD, HEAD_BIAS, ANCHOR = "lm_head.weight", "lm_head.bias", "wpe.weight"
PARTS = ("wte", "wpe", "ln_f", "lm_head")
LAYER_PARTS = ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
MASKS = ("attn.bias", "attn.masked_bias", "attn.mask")
"""Buffers that others save in each layer: the causal mask, and what stands for minus infinity."""
TRIED, CHANCE = 64, 0.1
"""Examples on which a model's answers are tried, and by how much more than chance they should be right."""


def load_gpt2(
    path: Path | str,
    task: Task,
    n_heads: int | None = None,
    unembed: Unembed = "tied",
    allow_pickle: bool = False,
    device: torch.device | str | int | None = None,
    settings: Gpt2Settings | None = None,
) -> Any:
    """The GPT-2 in a file or folder, ready for `analyze(model, task)`: `read_state_dict`, then `from_gpt2`, named after it.

    A `config.json` beside the weights is honoured; what is given besides must agree with it. Without one, `n_heads` must be
    given. Tokens and outputs beyond the task's vocabulary are left out – the answer is then the best of the task's own. Warns
    (`StackheadsWarning`) where the model answers the task no better than chance: a setting may be wrong. Raises
    `CheckpointError` as these two do, `TaskMismatchError` if the task does not fit, `ConfigError` for an unknown device or
    settings that contradict the file. Cost: one forward pass on 64 examples.
    """
    check_task(task)
    place, file = parse_device(device), weights_file(path)
    settings = with_heads(settings or Gpt2Settings(), n_heads).beside(read_settings(file), file.parent / CONFIG)
    model = from_gpt2(read_state_dict(file, allow_pickle), None, unembed, (task.d_vocab, task.d_vocab_out), settings)
    check_fit(model, task)
    model.cfg.model_name = Path(path).resolve().name if Path(path).is_dir() else Path(path).stem
    _warn_at_chance(model, task)
    return model.to(place, print_details=False)


def from_gpt2(
    state_dict: Mapping[str, Tensor],
    n_heads: int | None,
    unembed: Unembed = "tied",
    vocabulary: tuple[int | None, int | None] = (None, None),
    settings: Gpt2Settings | None = None,
) -> Any:
    """A `HookedTransformer` in eval mode that computes what this GPT-2 computes.

    `n_heads`     None where `settings` say it.
    `unembed`     `tied`: logits through `lm_head` or, without one, the transposed token embedding, as `GPT2LMHeadModel`;
                  `identity`: the last normalised residual stream itself, as `GPT2Model`; or a tensor [d_vocab_out, d_model],
                  as `nn.Linear` stores it.
    `vocabulary`  keep this many tokens and this many outputs, the first ones; None: all.
    `settings`    what the weights do not tell (`settings.py`).

    Dropout is left out. Logits are within 1e-4 of the original's (tested against transformers). Raises `CheckpointError` if the
    tensors are not a GPT-2's or not finite, contradict the settings, or the heads do not divide its width; and for further
    tensors, since without them this would be another model.
    """
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(f"a GPT-2 is given by its state dict, got {type(state_dict).__name__}: give its .state_dict()")
    settings = with_heads(settings or Gpt2Settings(), n_heads)
    tensors = _without_prefix(state_dict, settings.tied)
    d_model, n_ctx = _shape(tensors, "wte.weight")[1], _shape(tensors, "wpe.weight")[0]
    layers, heads = _count_layers(tensors), settings.heads
    if heads is None:
        raise CheckpointError("a state dict does not tell its number of heads, got none: give n_heads, or --heads N")
    heads, given = whole(heads), heads
    if heads is None or not 1 <= heads <= d_model or d_model % heads:
        raise CheckpointError(f"heads must divide the width of the model, {d_model}, got {given!r}: give its number of heads")
    linear = _shape(tensors, "h.0.attn.c_attn.weight")[0] != d_model
    d_mlp = _shape(tensors, "h.0.mlp.c_fc.weight")[0 if linear else 1]
    found = {"n_layer": layers, "n_embd": d_model, "n_positions": n_ctx, "n_inner": d_mlp}
    check_sizes(settings, found | {"vocab_size": len(tensors["wte.weight"])})
    w_e, w_u = tensors["wte.weight"][: vocabulary[0]], _unembedding(tensors, unembed, settings.tied)[:, : vocabulary[1]]
    weights = {"embed.W_E": w_e, "pos_embed.W_pos": _take(tensors, "wpe.weight", (n_ctx, d_model)), "unembed.W_U": w_u}
    if isinstance(unembed, str) and unembed == "tied" and HEAD_BIAS in tensors:
        weights["unembed.b_U"] = _take(tensors, HEAD_BIAS, (len(tensors.get(HEAD, tensors["wte.weight"])),))[: vocabulary[1]]
    weights |= _norm(tensors, "ln_f", "ln_final", d_model)
    for layer in range(layers):
        weights |= _block(tensors, layer, (heads, d_model, d_mlp), linear, _scaling(settings, layer, d_model // heads))
    model = hooked(
        n_layers=layers,
        n_heads=heads,
        d_model=d_model,
        d_head=d_model // heads,
        d_mlp=d_mlp,
        n_ctx=n_ctx,
        d_vocab=len(w_e),
        d_vocab_out=w_u.shape[1],
        act_fn=ACTIVATIONS[settings.activation or ("gelu" if linear else "gelu_new")],
        eps=1e-5 if settings.epsilon is None else settings.epsilon,
        normalization_type="LN",
        attention_dir="causal",
        device="cpu",
    )
    for name, mine in named_weights(model).items():  # a bias of the outputs that is not there is zero
        mine.data.copy_(weights.get(name, torch.zeros_like(mine)))
    return model.eval()


def _scaling(settings: Gpt2Settings, layer: int, d_head: int) -> float:
    """By what the queries of a layer are multiplied, so that scores divided by the root of d_head are those of this GPT-2."""
    return (d_head**0.5 if settings.unscaled else 1.0) / (layer + 1 if settings.scaled_by_layer else 1)


def _warn_at_chance(model: Model, task: Task) -> None:
    """Answers are compared with the right ones, and with those of the next example, which are right by chance alone."""
    batch = draw(task, TRIED, stream(0, Stream.OUTSIDE))
    with torch.no_grad():
        given = task.readout(logits_of(model, batch.tokens, batch.pads), batch).argmax(dim=-1)
    accuracy, chance = (_share_right(given, targets) for targets in (batch.targets, batch.targets.roll(1, 0)))
    if accuracy < chance + CHANCE:
        cfg = model.cfg
        warnings.warn(
            f"{cfg.model_name} answers its task no better than chance ({accuracy:.0%}): are its {cfg.n_heads} heads, "
            f"activation {cfg.act_fn}, epsilon {cfg.eps:g}, attention scaling and the task's options right?",
            StackheadsWarning,
            stacklevel=3,
        )


def _share_right(given: Tensor, targets: Tensor) -> float:
    return float((given == targets)[targets != IGNORE].float().mean())


def _without_prefix(state_dict: Mapping[str, Tensor], tied: bool | None) -> dict[str, Tensor]:
    """The tensors under GPT-2's own names; a tied weight that was saved under one name stands under both."""
    found = [name for name in state_dict if name == ANCHOR or name.endswith(f".{ANCHOR}")]
    if len(found) != 1:
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise CheckpointError(f"a GPT-2's state dict has one {ANCHOR}, this has {some}, …: give a GPT-2 or nanoGPT state dict")
    prefix = found[0].removesuffix(ANCHOR)
    tensors = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    for own in (HEAD, HEAD_BIAS):
        heads = {name: value for name, value in state_dict.items() if name == own or name.endswith(f".{own}")}
        if len(heads) > 1:
            raise CheckpointError(f"a GPT-2 has one {own}, this has {' and '.join(heads)}: leave one out")
        tensors |= dict(zip([own], heads.values(), strict=False))
    _refuse_others(tensors, whole=bool(prefix))
    if "wte.weight" not in tensors and HEAD in tensors and tied is not False:
        tensors["wte.weight"] = tensors[HEAD]
    if tied and HEAD in tensors and not torch.equal(_get(tensors, HEAD), _get(tensors, "wte.weight")):
        raise CheckpointError(f"{CONFIG} says that outputs are tied, and {HEAD} is not wte.weight: correct one of them")
    return tensors


def _refuse_others(tensors: Mapping[str, Tensor], whole: bool) -> None:
    """Raise `CheckpointError` for tensors that a GPT-2 does not compute with; `whole`: the names are those of nothing else."""
    for name in tensors:
        inside = name.split(".", 2)[2] if name.startswith("h.") and name.count(".") > 1 else None
        part, _, kind = (name if inside is None else inside).rpartition(".")
        known = inside in MASKS or (kind in ("weight", "bias") and part in (PARTS if inside is None else LAYER_PARTS))
        if not known and (whole or name.split(".")[0] in ("h", *PARTS)):
            rule = f"a GPT-2 computes with all of its weights, and {name} is none of them"
            raise CheckpointError(f"{rule}: merge it into the others, or bridge the model (models.bridge)")


def _count_layers(tensors: Mapping[str, Tensor]) -> int:
    numbers = {int(name.split(".")[1]) for name in tensors if name.startswith("h.") and name.split(".")[1].isdigit()}
    if not numbers or numbers != set(range(len(numbers))):
        raise CheckpointError(f"a GPT-2 has layers h.0, h.1, …, this has {sorted(numbers)}: check the state dict")
    return len(numbers)


def _get(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor that must be there, with finite numbers."""
    if name not in tensors:
        raise CheckpointError(f"a GPT-2's state dict has {name}, this has not: give a GPT-2 or nanoGPT state dict")
    if not isinstance(tensors[name], Tensor) or not tensors[name].is_floating_point():
        kind = tensors[name].dtype if isinstance(tensors[name], Tensor) else type(tensors[name]).__name__
        raise CheckpointError(f"all weights must be tensors of floating-point numbers, {name} is {kind}: convert it")
    if tensors[name].is_meta:
        raise CheckpointError(f"all weights must have numbers, {name} is on the meta device: load the model before it is saved")
    if not bool(tensors[name].isfinite().all()):
        raise CheckpointError(f"all weights must be finite, {name} holds NaN or infinity: take another state dict")
    return tensors[name]


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    tensor = _get(tensors, name)
    if tensor.ndim != 2:
        raise CheckpointError(f"a GPT-2's {name} has two dimensions, got {tuple(tensor.shape)}: check the state dict")
    return tensor.shape[0], tensor.shape[1]


def _take(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor that must have this shape."""
    if (value := _get(tensors, name)).shape != shape:
        raise CheckpointError(f"{name} must have shape {shape} in this GPT-2, got {tuple(value.shape)}: check the state dict")
    return value


def _bias(tensors: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    """A bias, zero where the model has none."""
    return _take(tensors, name, (size,)) if name in tensors else torch.zeros(size)


def _unembedding(tensors: Mapping[str, Tensor], unembed: Unembed, tied: bool | None) -> Float[Tensor, "d_model d_vocab_out"]:
    d_model = _shape(tensors, "wte.weight")[1]
    if unembed == "identity":
        return torch.eye(d_model)
    if isinstance(unembed, str) and unembed != "tied":
        raise CheckpointError(f"unembed must be tied, identity or a tensor, got {unembed!r}: name one of these")
    if isinstance(unembed, str) and tied is False and HEAD not in tensors:
        raise CheckpointError(
            f"{CONFIG} says that outputs are not tied, and there is no {HEAD}: unembed identity reads without"
        )
    outward = _get(tensors, HEAD if HEAD in tensors else "wte.weight") if isinstance(unembed, str) else unembed
    if outward.ndim != 2 or outward.shape[1] != d_model:
        raise CheckpointError(f"unembed must have shape [outputs, {d_model}], got {tuple(outward.shape)}: transpose it")
    return outward.T


def _block(
    tensors: Mapping[str, Tensor], layer: int, sizes: tuple[int, int, int], linear: bool, scaling: float
) -> dict[str, Tensor]:
    """One layer's parameters under TransformerLens' names; `sizes` are heads, width and the MLP's width."""
    n_heads, d_model, d_mlp = sizes

    def weight(name: str, inputs: int, outputs: int) -> Tensor:
        name = f"h.{layer}.{name}.weight"
        return _take(tensors, name, (outputs, inputs)).T if linear else _take(tensors, name, (inputs, outputs))

    def bias(name: str, size: int) -> Tensor:
        return _bias(tensors, f"h.{layer}.{name}.bias", size)

    joined, joined_bias = weight("attn.c_attn", d_model, 3 * d_model), bias("attn.c_attn", 3 * d_model)
    block = {
        "attn.W_O": weight("attn.c_proj", d_model, d_model).reshape(n_heads, -1, d_model),
        "attn.b_O": bias("attn.c_proj", d_model),
        "mlp.W_in": weight("mlp.c_fc", d_model, d_mlp),
        "mlp.b_in": bias("mlp.c_fc", d_mlp),
        "mlp.W_out": weight("mlp.c_proj", d_mlp, d_model),
        "mlp.b_out": bias("mlp.c_proj", d_model),
    }
    for part, value, offset in zip("QKV", joined.split(d_model, dim=1), joined_bias.split(d_model), strict=True):
        block[f"attn.W_{part}"] = value.reshape(d_model, n_heads, -1).transpose(0, 1)
        block[f"attn.b_{part}"] = offset.reshape(n_heads, -1)
    block |= {name: block[name] * scaling for name in ("attn.W_Q", "attn.b_Q")}
    block |= _norm(tensors, f"h.{layer}.ln_1", "ln1", d_model) | _norm(tensors, f"h.{layer}.ln_2", "ln2", d_model)
    return {f"blocks.{layer}.{name}": value for name, value in block.items()}


def _norm(tensors: Mapping[str, Tensor], name: str, ours: str, d_model: int) -> dict[str, Tensor]:
    return {f"{ours}.w": _take(tensors, f"{name}.weight", (d_model,)), f"{ours}.b": _bias(tensors, f"{name}.bias", d_model)}
