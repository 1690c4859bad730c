"""The plans of a sweep: what its file says, and the grid's combinations, all checked before anything is trained.

A sweep is a file (YAML) of settings that all runs share and a grid of those that differ:

    task: {kind: cycle, symbols: 8, max_hops: 4}
    model: {layers: 4, heads: 2}
    training: {steps: 4000}
    success: 0.99
    grid:
      task.supervision: [chain, dense, final]
      training.seed: {range: 16}

Each combination is a plan, named by its varied settings.
"""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from stackheads.errors import ConfigError
from stackheads.limits import whole
from stackheads.models import ModelConfig
from stackheads.settings import Settings
from stackheads.tasks import from_config
from stackheads.training.config import TrainingConfig

PARTS = ("task", "model", "training")
MOST_PLANS = 100_000
"""Plans of a sweep. Each is a folder."""
LONGEST_NAME = 249
"""Bytes of a plan's name, which `.error` still follows: file systems take 255."""


class SweepConfig(Settings):
    """What a sweep's file says: settings of every run, the grid of those that vary, and the accuracy that counts as solved.

    A grid entry is named `part.setting` and has a list of values, or `{range: N}` for 0..N-1.
    """

    called = "sweep"

    task: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any] = Field(default_factory=dict[str, Any])
    grid: dict[str, list[Any]] = Field(default_factory=dict[str, list[Any]])
    success: float = Field(default=0.99, gt=0, le=1)


@dataclass(frozen=True)
class Plan:
    """One run of a sweep: its name, what sets it apart, and all its settings by part."""

    name: str
    varied: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    success: float


def read_sweep(path: Path, seed: int = 0) -> SweepConfig:
    """Read a sweep's YAML file; `seed`, if it is not 0, is that of all plans. Raises `ConfigError` if it is none, or names a
    seed of its own beside that.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"a sweep file must be YAML, {path} is not ({first}): correct it") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"a sweep file holds task, model, training and grid, {path} has none of them: see docs/guides/sweep.md"
        )
    if wrong := [key for key in content if not isinstance(key, str)]:
        raise ConfigError(f"a sweep file holds task, model, training and grid, {path} has {wrong[0]!r}: correct it")
    grid = content.get("grid")
    if isinstance(grid, dict):
        content["grid"] = {name: _values(name, values) for name, values in grid.items()}
    training = content.setdefault("training", {})
    if isinstance(training, dict) and seed:
        if "seed" in training or (isinstance(grid, dict) and "training.seed" in grid):
            raise ConfigError(f"the file says the seed of its runs, {path} has training.seed, got {seed} too: leave one out")
        training["seed"] = seed
    return SweepConfig(**content)


def _values(name: str, values: Any) -> list[Any]:
    if isinstance(values, dict) and set(values) == {"range"}:
        number = whole(values["range"])
        if number is None or not 1 <= number <= MOST_PLANS:
            got = values["range"]
            raise ConfigError(
                f"grid {name} as {{range: N}} is 0..N-1, N from 1 to {MOST_PLANS:,}, got {got!r}: correct the sweep file"
            )
        return list(range(number))
    if isinstance(values, list) and values:
        return values
    raise ConfigError(f"grid {name} must be a list of values or {{range: N}}, got {values!r}: correct the sweep file")


def plans(config: SweepConfig) -> list[Plan]:
    """All combinations of the grid, checked, in the order of the file. Raises `ConfigError` for settings that can't be."""
    for name in config.grid:
        part, _, setting = name.partition(".")
        if part not in PARTS or not setting:
            raise ConfigError(f"a grid entry is named task.…, model.… or training.…, got {name!r}: correct the sweep file")
    if not 1 <= (number := math.prod(map(len, config.grid.values()))) <= MOST_PLANS:
        raise ConfigError(
            f"a sweep has 1 to {MOST_PLANS:,} plans, got {number:,}: correct the grid, or make several sweeps of it"
        )
    made: dict[str, Plan] = {}
    named: dict[str, str] = {}
    for values in itertools.product(*config.grid.values()):
        varied = dict(zip(config.grid, values, strict=True))
        settings = {part: dict(getattr(config, part)) for part in PARTS}
        for name, value in varied.items():
            part, _, setting = name.partition(".")
            settings[part][setting] = value
        plan = Plan(_plan_name(varied), varied, settings, config.success)
        told = json.dumps([part.model_dump(mode="json") for part in built(settings)])
        if (same := named.setdefault(told, plan.name)) != plan.name or plan.name in made:
            raise ConfigError(f"every plan of a sweep needs its own settings, {same} and {plan.name} are one: remove doubles")
        made[plan.name] = plan
    return list(made.values())


def _plan_name(varied: dict[str, Any]) -> str:
    """The name of a plan's folder and lock; of one too long for a file system the beginning, and a digest of the whole."""
    parts = [f"{name.partition('.')[2]}-{value}" for name, value in varied.items()]
    name = "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in part) for part in parts) or "run"
    told = name.encode()
    if len(told) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(told).hexdigest()[:16]
    return f"{told[: LONGEST_NAME - len(digest) - 1].decode(errors='ignore')}-{digest}"


def built(settings: dict[str, dict[str, Any]]) -> tuple[Any, Any, Any]:
    """Task, model and training settings of a plan. Raises `ConfigError` for what can't be."""
    training = TrainingConfig(**settings["training"])
    training.check_counts()
    return from_config(settings["task"]), ModelConfig(**settings["model"]), training
