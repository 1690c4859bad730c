"""Models that others trained: a GPT-2 state dict becomes a `HookedTransformer` with the same outputs.

Two layouts share GPT-2's names. Hugging Face's `GPT2Model` stores weights as [in, out] (Conv1D) and computes GELU by tanh;
nanoGPT stores them as [out, in] (Linear), computes GELU exactly, may leave out biases, and names the whole `transformer`. The
shape of the first `c_attn` tells which it is. A prefix before the names does not matter.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import CheckpointError
from stackheads.models.config import check_fit, hooked, parse_device
from stackheads.tasks import Task

Unembed = str | Float[Tensor, "d_vocab_out d_model"]
"""`tied`, `identity` or a tensor: see `from_gpt2`."""

HEAD = "lm_head.weight"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
NESTED = ("state_dict", "model", "model_state_dict")
"""Where a training script may have put the state dict in its file."""


def load_gpt2(
    path: Path | str,
    task: Task,
    n_heads: int,
    unembed: Unembed = "tied",
    allow_pickle: bool = False,
    device: torch.device | str | None = None,
) -> Any:
    """The GPT-2 in a file, ready for `analyze(model, task)`: `read_state_dict`, then `from_gpt2`, named after the file.

    Tokens and outputs beyond the task's vocabulary are left out – the answer is then the best of the task's own. Raises
    `CheckpointError` as these two do, `TaskMismatchError` if the task does not fit, `ConfigError` for an unknown device.
    """
    place = parse_device(device)
    model = from_gpt2(read_state_dict(path, allow_pickle), n_heads, unembed, (task.d_vocab, task.d_vocab_out))
    check_fit(model, task)
    model.cfg.model_name = Path(path).stem
    return model.to(place, print_details=False)


def from_gpt2(
    state_dict: Mapping[str, Tensor],
    n_heads: int,
    unembed: Unembed = "tied",
    vocabulary: tuple[int | None, int | None] = (None, None),
) -> Any:
    """A `HookedTransformer` in eval mode that computes what this GPT-2 computes.

    `unembed`     `tied`: logits through `lm_head` or, without one, the transposed token embedding, as `GPT2LMHeadModel`;
                  `identity`: the last normalised residual stream itself, as `GPT2Model`; or a tensor [d_vocab_out, d_model],
                  as `nn.Linear` stores it.
    `vocabulary`  keep this many tokens and this many outputs, the first ones; None: all.

    Dropout is left out. Logits are within 1e-4 of the original's (tested against transformers). Raises `CheckpointError` if the
    tensors are not a GPT-2's or not finite, or `n_heads` does not divide its width.
    """
    tensors = _without_prefix(state_dict)
    d_model, n_ctx = _shape(tensors, "wte.weight")[1], _shape(tensors, "wpe.weight")[0]
    layers = _count_layers(tensors)
    if not 1 <= n_heads <= d_model or d_model % n_heads:
        raise CheckpointError(f"heads must divide the width of the model, {d_model}, got {n_heads}: give its number of heads")
    linear = _shape(tensors, "h.0.attn.c_attn.weight")[0] != d_model
    w_e, w_u = tensors["wte.weight"][: vocabulary[0]], _unembedding(tensors, unembed)[:, : vocabulary[1]]
    weights = {"embed.W_E": w_e, "pos_embed.W_pos": _take(tensors, "wpe.weight", (n_ctx, d_model)), "unembed.W_U": w_u}
    weights |= _norm(tensors, "ln_f", "ln_final", d_model)
    for layer in range(layers):
        weights |= _block(tensors, layer, n_heads, d_model, linear)
    model = hooked(
        n_layers=layers,
        n_heads=n_heads,
        d_model=d_model,
        d_head=d_model // n_heads,
        d_mlp=4 * d_model,
        n_ctx=n_ctx,
        d_vocab=len(w_e),
        d_vocab_out=w_u.shape[1],
        act_fn="gelu" if linear else "gelu_new",
        normalization_type="LN",
        attention_dir="causal",
        device="cpu",
    )
    for name, parameter in model.named_parameters():  # what a GPT-2 has not, the bias of the outputs, is zero
        parameter.data.copy_(weights.get(name, torch.zeros_like(parameter)))
    return model.eval()


def read_state_dict(path: Path | str, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors in a `.safetensors` file or, with `allow_pickle`, in a `.pt` file, loaded with `weights_only=True`.

    Nothing in a pickle is executed: one that would run code is refused. Raises `CheckpointError`.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"a state dict is a file, {file} is none: check the path")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} must be a safetensors file, it is not ({_first(error)}): copy it again") from None
    if file.suffix not in PICKLES:
        raise CheckpointError(f"a state dict ends in .safetensors or {', '.join(PICKLES)}, got {file.name}: convert it")
    if not allow_pickle:
        raise CheckpointError(f"{file} is a pickle, which may run code: convert it to safetensors or add --allow-pickle")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of old pickle protocols
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever a broken or hostile pickle raises
        raise CheckpointError(
            f"{file} must hold plain tensors, it is damaged or holds code or other objects, none of which was run: "
            "save the model's state dict"
        ) from None
    for name in NESTED:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a state dict, it holds a {type(content).__name__}: save the state dict")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _without_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under GPT-2's own names."""
    found = [name for name in state_dict if name == "wte.weight" or name.endswith(".wte.weight")]
    if len(found) != 1:
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise CheckpointError(
            f"a GPT-2's state dict has one wte.weight, this has {some}, …: give a GPT-2 or nanoGPT state dict"
        )
    prefix = found[0].removesuffix("wte.weight")
    tensors = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    heads = [value for name, value in state_dict.items() if name == HEAD or name.endswith(f".{HEAD}")]
    return tensors | {HEAD: heads[0]} if heads else tensors


def _count_layers(tensors: Mapping[str, Tensor]) -> int:
    numbers = {int(name.split(".")[1]) for name in tensors if name.startswith("h.") and name.split(".")[1].isdigit()}
    if not numbers or numbers != set(range(len(numbers))):
        raise CheckpointError(f"a GPT-2 has layers h.0, h.1, …, this has {sorted(numbers)}: check the state dict")
    return len(numbers)


def _get(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor that must be there, with finite numbers."""
    if name not in tensors:
        raise CheckpointError(f"a GPT-2's state dict has {name}, this has not: give a GPT-2 or nanoGPT state dict")
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


def _unembedding(tensors: Mapping[str, Tensor], unembed: Unembed) -> Float[Tensor, "d_model d_vocab_out"]:
    d_model = _shape(tensors, "wte.weight")[1]
    if unembed == "identity":
        return torch.eye(d_model)
    if isinstance(unembed, str) and unembed != "tied":
        raise CheckpointError(f"unembed must be tied, identity or a tensor, got {unembed!r}: name one of these")
    outward = _get(tensors, HEAD if HEAD in tensors else "wte.weight") if isinstance(unembed, str) else unembed
    if outward.ndim != 2 or outward.shape[1] != d_model:
        raise CheckpointError(f"unembed must have shape [outputs, {d_model}], got {tuple(outward.shape)}: transpose it")
    return outward.T


def _block(tensors: Mapping[str, Tensor], layer: int, n_heads: int, d_model: int, linear: bool) -> dict[str, Tensor]:
    """One layer's parameters under TransformerLens' names."""

    def weight(name: str, inputs: int, outputs: int) -> Tensor:
        name = f"h.{layer}.{name}.weight"
        return _take(tensors, name, (outputs, inputs)).T if linear else _take(tensors, name, (inputs, outputs))

    def bias(name: str, size: int) -> Tensor:
        return _bias(tensors, f"h.{layer}.{name}.bias", size)

    joined, joined_bias = weight("attn.c_attn", d_model, 3 * d_model), bias("attn.c_attn", 3 * d_model)
    block = {
        "attn.W_O": weight("attn.c_proj", d_model, d_model).reshape(n_heads, -1, d_model),
        "attn.b_O": bias("attn.c_proj", d_model),
        "mlp.W_in": weight("mlp.c_fc", d_model, 4 * d_model),
        "mlp.b_in": bias("mlp.c_fc", 4 * d_model),
        "mlp.W_out": weight("mlp.c_proj", 4 * d_model, d_model),
        "mlp.b_out": bias("mlp.c_proj", d_model),
    }
    for part, value, offset in zip("QKV", joined.split(d_model, dim=1), joined_bias.split(d_model), strict=True):
        block[f"attn.W_{part}"] = value.reshape(d_model, n_heads, -1).transpose(0, 1)
        block[f"attn.b_{part}"] = offset.reshape(n_heads, -1)
    block |= _norm(tensors, f"h.{layer}.ln_1", "ln1", d_model) | _norm(tensors, f"h.{layer}.ln_2", "ln2", d_model)
    return {f"blocks.{layer}.{name}": value for name, value in block.items()}


def _norm(tensors: Mapping[str, Tensor], name: str, ours: str, d_model: int) -> dict[str, Tensor]:
    return {f"{ours}.w": _take(tensors, f"{name}.weight", (d_model,)), f"{ours}.b": _bias(tensors, f"{name}.bias", d_model)}
