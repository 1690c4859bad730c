"""Tensors that others saved: one file, a `save_pretrained` folder, or shards that an index lists.

Nothing in a pickle is executed: `weights_only=True` refuses one that would run code. What a file is that holds no weights –
a Git LFS pointer, an index without its shards – is said by name.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stackheads.errors import CheckpointError
from stackheads.files import as_path, check_name, read_json

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
WHOLE = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What `save_pretrained` has written, in the order in which a folder is read."""
INDEX = ".index.json"
POINTER = b"version https://git-lfs"


def read_state_dict(path: Path | str, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors in a `.safetensors` file or, with `allow_pickle`, a pickle; or in a `save_pretrained` folder, or its shards.

    Weights may lie under any one key of a pickle ("model", "state_dict", …), at any depth. Raises `CheckpointError` for what
    holds no weights, or weights under several keys.
    """
    file = weights_file(path)
    return _shards(file, allow_pickle) if file.name.endswith(INDEX) else _tensors(file, allow_pickle)


def weights_file(path: Path | str) -> Path:
    """The file itself, or the one in a folder that holds its weights or lists them. Raises `CheckpointError`."""
    place = as_path(path)
    check_name(place)
    if not place.is_dir():
        if not place.is_file():
            raise CheckpointError(f"a state dict is a file or a folder, {place} is none: check the path")
        return place
    for name in WHOLE:
        if (place / name).is_file():
            return place / name
    raise CheckpointError(
        f"a model's folder has {WHOLE[0]}, an index or {WHOLE[2]}, {place} has none: name the file of weights"
    )


def _shards(index: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of all files that an index names."""
    listed = read_json(index, "save the model again").get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{index} must list each tensor's file in weight_map, it does not: save the model again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(listed.values())):
        if name != Path(name).name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names the shard {name}, which is not beside it: copy all shards")
        tensors |= _tensors(index.parent / name, allow_pickle)
    if missing := sorted(set(listed) - set(tensors)):
        raise CheckpointError(f"{index} lists {missing[0]}, which its shard has not: copy the shards again")
    return tensors


def _tensors(file: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of one file."""
    with file.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise CheckpointError(f"{file} is a Git LFS pointer and not the weights themselves: fetch them with git lfs pull")
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
    return _unpacked(content, file)


def _unpacked(content: Any, file: Path) -> dict[str, Tensor]:
    """The state dict in what a pickle held, wherever it lies."""
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a state dict, it holds a {type(content).__name__}: save the state dict")
    if not content or any(isinstance(value, Tensor) for value in content.values()):
        return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    inner = {name: value for name, value in content.items() if isinstance(name, str) and _holds_weights(value)}
    if len(inner) > 1:
        raise CheckpointError(f"{file} holds weights under {' and '.join(map(repr, inner))}: save one of them")
    return _unpacked(next(iter(inner.values()), {}), file)


def _holds_weights(value: Any) -> bool:
    """Whether tensors lie in it by names; the state of an optimiser has numbers for names."""
    return isinstance(value, dict) and any(
        isinstance(name, str) and (isinstance(part, Tensor) or _holds_weights(part)) for name, part in value.items()
    )


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
