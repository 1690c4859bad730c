"""Checkpoints: a folder with `model.safetensors` and `config.json`. Pickles are never loaded.

`config.json` holds `format`, `model`, `task`, `training`, `metrics` and `versions`. A run folder is accepted in place of a
checkpoint and means its last snapshot.
"""

import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stackheads.errors import CheckpointError, ConfigError, StackheadsError
from stackheads.files import Stored, as_path, check_name, checked, read_json, write_folder, write_json
from stackheads.models.config import ModelConfig, build, check_fit, moved, parse_device
from stackheads.models.native import named_weights
from stackheads.models.protocol import Model
from stackheads.tasks import StoredTask, check_storable, from_config

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CURE = "restore the file"
PLENTY = 100_000
"""Numbers that may be asked for before the weights are compared with the config one by one."""


class StoredConfig(Stored):
    """`config.json`; model and task are checked by their own rules."""

    model: dict[str, Any]
    task: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. `model` is a `HookedTransformer`, or what takes its place (`native.py`), in eval mode; `training`
    and `metrics` are as stored.
    """

    name: str
    model: Model
    task: StoredTask
    config: ModelConfig
    training: dict[str, Any]
    metrics: dict[str, Any]


def parameters(model: Model) -> dict[str, Tensor]:
    """The learned tensors by name, contiguous and on the CPU; buffers that the configuration implies are left out."""
    return {name: value.detach().cpu().contiguous() for name, value in named_weights(model).items()}


def save_checkpoint(
    folder: Path | str,
    model: Model,
    task: StoredTask,
    config: ModelConfig,
    training: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder, replacing one of the same name; a reader sees the old one or the new one, whole.

    Other files that are there stay. Raises `ConfigError` for a folder of another kind or whose name is not UTF-8, or a task
    that can't be stored.
    """
    check_storable(task)
    path = as_path(folder, ConfigError)
    check_name(path, ConfigError)
    from safetensors.torch import save_file

    content = {
        "format": FORMAT,
        "model": config.model_dump(),
        "task": task.model_dump(),
        "training": training or {},
        "metrics": metrics or {},
        "versions": {name: version(name) for name in ("stackheads", "torch", "transformer-lens")},
    }

    def write(temporary: Path) -> None:
        save_file(parameters(model), temporary / WEIGHTS)
        (temporary / WEIGHTS).chmod(0o644)
        write_json(temporary / CONFIG, content)

    write_folder(path, write, kind=WEIGHTS)


def load(path: Path | str, device: torch.device | str | int = "cpu", into: Checkpoint | None = None) -> Checkpoint:
    """Load a checkpoint folder, or the last snapshot of a run folder, and check it whole.

    `into`: a loaded checkpoint that is not needed any more; if its model is built alike, it takes the weights where it is, and
    none is built.

    Raises `CheckpointError` for a missing folder or file, another format version, weights that are not safetensors, are
    cut short, have other names or shapes than the config says, or are not finite; `ConfigError` for bad settings and a device
    that does not exist.
    """
    place = parse_device(device)
    folder = snapshot_folder(as_path(path))
    check_name(Path(path))
    content = _read_config(folder / CONFIG)
    try:
        task, config = from_config(content["task"]), ModelConfig(**content["model"])
    except StackheadsError as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from None
    stored = _read_weights(folder / WEIGHTS)
    _check_size(config, task, stored, folder / WEIGHTS)
    if into is not None and (into.config, into.task) == (config, task):
        model = into.model
        _load_weights(model, stored, folder / WEIGHTS)
    else:
        model = build(config, task)
        _load_weights(model, stored, folder / WEIGHTS)
        check_fit(model, task)
        model.eval().requires_grad_(False)
        model = moved(model, place)
    return Checkpoint(Path(path).resolve().name, model, task, config, content["training"], content["metrics"])


def holds_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint or a run, and no folder of others (`checkpoints/known`)."""
    return path.is_dir() and ((path / CONFIG).exists() or (path / WEIGHTS).exists() or bool(snapshots(path)))


def snapshot_folder(path: Path) -> Path:
    """The folder itself if it is a checkpoint, else the last `step-…` snapshot in it."""
    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        raise CheckpointError(f"a checkpoint is a folder with {WEIGHTS} and {CONFIG}, {path} is {what}: check the path")
    if (path / CONFIG).exists() or (path / WEIGHTS).exists():
        return path
    found = snapshots(path)
    if not found:
        raise CheckpointError(
            f"a checkpoint is a folder with {WEIGHTS} and {CONFIG}, {path} has neither, nor step-* snapshots: check the path"
        )
    return found[max(found)]


def snapshots(run: Path) -> dict[int, Path]:
    """The `step-…` snapshots of a run folder by step, in order; empty for a folder without any, or no folder."""
    named = {path: re.fullmatch(r"step-(\d+)", path.name) for path in run.glob("step-*") if path.is_dir()}
    return dict(sorted((int(match[1]), path) for path, match in named.items() if match))


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise CheckpointError(f"a checkpoint needs {CONFIG}, {path.parent} has none: copy it beside {WEIGHTS}")
    content = read_json(path, CURE, FORMAT)
    checked(StoredConfig, content, path, CURE)
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"a checkpoint needs {WEIGHTS}, {path.parent} has none: pickles are not loaded, convert them")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        start = path.read_bytes()[:2]
        kind = "a pickle or zip" if start in (b"PK", b"\x80\x02", b"\x80\x04") else "damaged or cut short"
        raise CheckpointError(
            f"{path} must be a safetensors file, it is {kind} ({str(error).splitlines()[0]}): restore or convert it"
        ) from None


def _check_size(config: ModelConfig, task: StoredTask, stored: dict[str, Tensor], path: Path) -> None:
    """A config that asks for more than the weights have is found before so much memory is asked for."""
    positions = task.n_ctx if config.positions == "standard" else 0
    mlp = 0 if config.attn_only else 2 * config.layers * (config.d_mlp or config.d_model)
    heads = 4 * config.layers * config.heads * config.d_head
    least, found = config.d_model * (task.d_vocab + positions + mlp + heads), sum(value.numel() for value in stored.values())
    if least > max(found, PLENTY):
        rule = f"{path} must hold the weights that {CONFIG} describes"
        raise CheckpointError(f"{rule}, at least {least:,} numbers, got {found:,}: use matching files")


def _load_weights(model: Model, stored: dict[str, Tensor], path: Path) -> None:
    expected = named_weights(model)
    for name in sorted(expected.keys() ^ stored.keys()):
        state = "is missing" if name in expected else "is not part of the model"
        raise CheckpointError(f"{path} must hold the weights that {CONFIG} describes, {name} {state}: use matching files")
    for name, value in stored.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} must have shape {tuple(expected[name].shape)} by {CONFIG}, "
                f"got {tuple(value.shape)}: use matching files"
            )
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: all weights must be finite, {name} holds NaN or infinity: train again")
        with torch.no_grad():  # and not through `data`, which would not count as a change (`trust.py:state`)
            expected[name].copy_(value)
