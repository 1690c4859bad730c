"""A run on disk: `run.json` (settings), `metrics.jsonl`, `state.safetensors` (to resume from) and `step-…` snapshots.

The state file holds weights, both AdamW moments, the sampling generator and the step as one unit, so a run that is killed
at any moment resumes from a state that belongs together, and continues bit for bit.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from stackheads.errors import CheckpointError, ConfigError
from stackheads.files import Stored, checked, first_difference, holds_other, read_json, write_file, write_json
from stackheads.models import ModelConfig, parameters
from stackheads.models.native import named_weights
from stackheads.models.protocol import Model
from stackheads.tasks import StoredTask, check_storable, from_config
from stackheads.training.config import TrainingConfig

FORMAT = 1
CURE = "start a new run"
MOMENTS = ("exp_avg", "exp_avg_sq")


class StoredRun(Stored):
    """`run.json`."""

    model: dict[str, Any]
    task: dict[str, Any]
    training: dict[str, Any]


class Evaluation(Stored):
    """A line of `metrics.jsonl`."""

    step: int
    accuracy: dict[int, float] = Field(min_length=1)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def state(self) -> Path:
        return self.path / "state.safetensors"

    def snapshot(self, step: int) -> Path:
        """The folder of the snapshot after `step` steps."""
        return self.path / f"step-{step:06d}"


def open_run(path: Path, task: StoredTask, model: ModelConfig, training: TrainingConfig, resume: bool) -> RunFolder:
    """Create the run's folder, or check that the one there was made with these settings.

    Raises `ConfigError` if the folder holds a run and `resume` is False, or one with other settings, and for a task that can't
    be stored.
    """
    check_storable(task)
    folder = RunFolder(path)
    if not folder.settings.exists():
        if holds_other(path, folder.settings.name):
            raise ConfigError(f"a new run needs an empty folder, {path} holds other files: choose another --output-dir")
        write_json(folder.settings, _content(task, model, training))
        return folder
    if not resume:
        raise ConfigError(f"a new run needs an empty folder, {path} holds a run: add --resume or choose another --output-dir")
    if found := other_settings(folder, task, model, training):
        raise ConfigError(f"a run resumes with its own settings, {folder.settings} has {found}: give the same options")
    return folder


def other_settings(folder: RunFolder, task: StoredTask, model: ModelConfig, training: TrainingConfig) -> str | None:
    """The first setting in which the run that is there differs from these, None if it has the same.

    Settings that are newer than the run have their defaults there. Raises `CheckpointError` if its `run.json` is damaged,
    `ConfigError` for settings in it that can't be.
    """
    stored, content = read_json(folder.settings, CURE), _content(task, model, training)
    if stored.get("format") == FORMAT and stored != content:
        parts = checked(StoredRun, stored, folder.settings, CURE)
        try:
            stored = _content(from_config(parts.task), ModelConfig(**parts.model), TrainingConfig(**parts.training))
        except ConfigError as error:
            raise ConfigError(f"{folder.settings}: {error}") from None
    return None if stored == content else first_difference(stored, content)


def _content(task: StoredTask, model: ModelConfig, training: TrainingConfig) -> dict[str, Any]:
    """What `run.json` holds."""
    parts = {"model": model, "task": task, "training": training}
    return {"format": FORMAT, **{name: part.model_dump(mode="json") for name, part in parts.items()}}


def save_state(path: Path, model: Model, optimiser: torch.optim.AdamW, generator: torch.Generator, step: int) -> None:
    """Write everything that the next step depends on, atomically."""
    from safetensors.torch import save_file

    tensors = {f"weight.{name}": value for name, value in parameters(model).items()}
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            if parameter in optimiser.state:
                tensors[f"{moment}.{name}"] = optimiser.state[parameter][moment].detach().cpu().contiguous()
    tensors["generator"] = generator.get_state()
    tensors["step"] = torch.tensor(step)
    write_file(path, lambda temporary: save_file(tensors, temporary))


def load_state(path: Path, model: Model, optimiser: torch.optim.AdamW, generator: torch.Generator) -> int:
    """Restore what `save_state` wrote and return the step; 0 if there is no state yet.

    Raises `CheckpointError` if the file is damaged or belongs to another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        return 0
    try:
        tensors: dict[str, Tensor] = load_file(path)
        step = int(tensors["step"])
        for name, weight in named_weights(model).items():
            weight.data.copy_(tensors[f"weight.{name}"])
        for name, parameter in model.named_parameters():
            if step and parameter.requires_grad:
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
                taken = torch.tensor(float(step), device=parameter.device)  # a fused step on a device reads it there
                optimiser.state[parameter] = {"step": taken, **moments}
        generator.set_state(tensors["generator"])
    except (SafetensorError, KeyError, RuntimeError, OSError, ValueError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} must hold this run's state, it does not ({first}): start a new run") from None
    return step


def read_metrics(folder: RunFolder, up_to: int) -> list[dict[str, Any]]:
    """The evaluations of the run so far, those after step `up_to` left out (they will be made again).

    A last line that was cut short is left out. Raises `CheckpointError` for other damage.
    """
    if not folder.metrics.exists():
        return []
    try:
        text = folder.metrics.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder.metrics} must hold a JSON object a line, it does not ({error}): {CURE}") from None
    for line in lines:
        checked(Evaluation, line, folder.metrics, CURE)
    return [line for line in lines if line["step"] <= up_to]


def write_metrics(folder: RunFolder, history: list[dict[str, Any]]) -> None:
    """Write all evaluations, one JSON object a line, atomically."""
    text = "".join(json.dumps(line) + "\n" for line in history)
    write_file(folder.metrics, lambda temporary: temporary.write_text(text, encoding="utf-8"))
