"""Sweeps: a grid of training runs, killed at any point and taken up again, with a table and success rates at the end.

A sweep is a file (YAML) of settings that all runs share and a grid of those that differ:

    task: {kind: cycle, symbols: 8, max_hops: 4}
    model: {layers: 4, heads: 2}
    training: {steps: 4000}
    success: 0.99
    grid:
      task.supervision: [chain, dense, final]
      training.seed: {range: 16}

Each combination is a plan, named by its varied settings, and an ordinary run folder `cells/NAME`. When a plan is done it holds
`result.json`, written in one piece; a plan with a result is never run again, one without resumes from its last stored state,
bit for bit (`training/run.py`). So whoever runs plans – processes of this machine or a Ray cluster, `sweeps/workers.py` – may
die at any moment. A lock that the system frees with its process keeps two workers out of one plan.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stackheads.errors import ConfigError, StackheadsError, bad_setting
from stackheads.files import Stored, check_folder, checked, first_difference, read_json, write_file, write_json
from stackheads.models import model_config
from stackheads.tasks import from_config
from stackheads.training.config import training_config
from stackheads.training.run import RunFolder, read_metrics

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("task", "model", "training")
SEED, DATA_SEED = "training.seed", "training.data_seed"
SWEEP = "sweep.json"
MOST_PLANS = 100_000
"""Plans of a sweep. Each is a folder."""
LONGEST_NAME = 249
"""Bytes of a plan's name, which `.error` still follows: file systems take 255."""


class SweepConfig(BaseModel):
    """What a sweep's file says: settings of every run, the grid of those that vary, and the accuracy that counts as solved.

    A grid entry is named `part.setting` and has a list of values, or `{range: N}` for 0..N-1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    success: float = Field(default=0.99, gt=0, le=1)


@dataclass(frozen=True)
class Plan:
    """One run of a sweep: its name, what sets it apart, and all its settings by part."""

    name: str
    varied: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    success: float


class Result(Stored):
    """`result.json`, besides what sets the plan apart and its accuracies. `solved_at` is a step."""

    cell: str
    steps: int
    solved: bool
    solved_at: int | None


class RunBusyError(StackheadsError):
    """Another process is training this plan."""


def read_sweep(path: Path, seed: int = 0) -> SweepConfig:
    """Read a sweep's YAML file; `seed` is that of plans whose seed it does not name. Raises `ConfigError` if it is none."""
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
    grid = content.get("grid")
    if isinstance(grid, dict):
        content["grid"] = {name: _values(name, values) for name, values in grid.items()}
    training = content.setdefault("training", {})
    if isinstance(training, dict) and seed:
        training.setdefault("seed", seed)
    try:
        return SweepConfig(**content)
    except ValidationError as error:
        raise bad_setting("sweep", error) from None


def _values(name: str, values: Any) -> list[Any]:
    if isinstance(values, dict) and set(values) == {"range"}:
        number = values["range"]
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST_PLANS:
            raise ConfigError(
                f"grid {name} as {{range: N}} is 0..N-1, N from 1 to {MOST_PLANS:,}, got {number!r}: correct the sweep file"
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
    made = []
    for values in itertools.product(*config.grid.values()):
        varied = dict(zip(config.grid, values, strict=True))
        settings = {part: dict(getattr(config, part)) for part in PARTS}
        for name, value in varied.items():
            part, _, setting = name.partition(".")
            settings[part][setting] = value
        _build(settings)
        made.append(Plan(_plan_name(varied), varied, settings, config.success))
    names = [plan.name for plan in made]
    if len(set(names)) < len(names):
        raise ConfigError("every plan of a sweep needs its own settings, some values of the grid are the same: remove doubles")
    return made


def _plan_name(varied: dict[str, Any]) -> str:
    """The name of a plan's folder and lock; of one too long for a file system the beginning, and a digest of the whole."""
    parts = [f"{name.partition('.')[2]}-{value}" for name, value in varied.items()]
    name = "_".join("".join(c if c.isalnum() or c in "-." else "-" for c in part) for part in parts) or "run"
    told = name.encode()
    if len(told) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(told).hexdigest()[:16]
    return f"{told[: LONGEST_NAME - len(digest) - 1].decode(errors='ignore')}-{digest}"


def _build(settings: dict[str, dict[str, Any]]) -> tuple[Any, Any, Any]:
    return from_config(settings["task"]), model_config(settings["model"]), training_config(settings["training"])


def open_sweep(config: SweepConfig, folder: Path) -> list[Plan]:
    """The plans of a sweep in its folder, which is made, or checked to belong to this sweep.

    Plans may be added to the grid later; those there keep their settings. Raises `ConfigError` if the folder can't be written
    to, or holds something else or a sweep with other shared settings; `CheckpointError` if its `sweep.json` is damaged.
    """
    made = plans(config)
    check_folder(folder, SWEEP)
    before, content = check_sweep(config, folder), _stored(config)
    if before != content:
        write_json(folder / SWEEP, content)
    return made


def check_sweep(config: SweepConfig, folder: Path) -> dict[str, Any] | None:
    """What a sweep's folder says of itself, None if nothing. Raises `ConfigError` if its shared settings are others."""
    stored, content = folder / SWEEP, _stored(config)
    before = read_json(stored, "choose another --output-dir") if stored.exists() else None
    if before is None:
        return None
    for part in (*PARTS, "success"):
        if before.get(part) != content[part]:
            found = first_difference(before.get(part), content[part], part)
            raise ConfigError(f"a sweep resumes with its own settings, {stored} has {found}: choose another --output-dir")
    return before


def _stored(config: SweepConfig) -> dict[str, Any]:
    return {"format": 1, **config.model_dump(mode="json")}


def plan_folder(folder: Path, plan: Plan) -> Path:
    """Where a plan's run is."""
    return folder / "cells" / plan.name


def stored_result(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """The result of a finished plan. Raises `CheckpointError` if it is damaged."""
    path = plan_folder(folder, plan) / "result.json"
    if not path.exists():
        return None
    cure = "delete it and run again"
    found = read_json(path, cure)
    checked(Result, found, path, cure)
    return found


def carry_out(plan: Plan, folder: Path, device: str = "cpu", threads: int = 1) -> dict[str, Any]:
    """Train a plan, or what is left of it, and store and return its result; a finished plan gives its stored one.

    Raises `RunBusyError` if another process is at it.
    """
    import torch

    from stackheads.training.trainer import train

    torch.set_num_threads(threads)
    path = plan_folder(folder, plan)
    path.mkdir(parents=True, exist_ok=True)
    with _locked(folder, plan):
        done = stored_result(folder, plan)
        if done is not None:
            return done
        if not (path / "run.json").exists():  # killed while the first file was written
            for rest in path.iterdir():
                rest.unlink()
        task, model, training = _build(plan.settings)
        checkpoint = train(task, model, training, path, device=device, progress=False, resume=True)
        result = _result(plan, checkpoint, read_metrics(RunFolder(path), checkpoint.training["step"]))
        write_json(path / "result.json", result)
        return result


@contextmanager
def _locked(folder: Path, plan: Plan) -> Generator[None]:
    locks = folder / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / plan.name).open("w") as handle:
        try:
            _lock(handle.fileno())
        except OSError:
            raise RunBusyError(f"one process trains a plan, another is training {plan.name}: wait for it") from None
        yield


def _lock(file: int) -> None:
    """Lock an open file until it is closed or the process ends. Raises `OSError` if another process holds it."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # Windows
        msvcrt: Any = import_module("msvcrt")
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        flock(file, LOCK_EX | LOCK_NB)


def _result(plan: Plan, checkpoint: Any, history: list[dict[str, Any]]) -> dict[str, Any]:
    """`solved_at`: the first evaluation (step) at which every hop reaches `success`, None if it never did."""
    accuracy = {int(hop): share for hop, share in checkpoint.metrics["accuracy"].items()}
    reached = [line["step"] for line in history if min(line["accuracy"].values()) >= plan.success]
    return {
        "cell": plan.name,
        **plan.varied,
        "steps": checkpoint.training["step"],
        "solved": min(accuracy.values()) >= plan.success,
        "solved_at": reached[0] if reached else None,
        **{f"accuracy_{hop}": share for hop, share in sorted(accuracy.items())},
    }


def results(folder: Path, made: list[Plan]) -> "pd.DataFrame":
    """One row for each finished plan, in the order of the grid."""
    import pandas as pd

    found = [stored_result(folder, plan) for plan in made]
    table = pd.DataFrame([result for result in found if result is not None])
    return _as_given(table.astype({"solved_at": "Int64"}), found, made[0].varied) if len(table) else table


def _as_given(table: "pd.DataFrame", rows: Sequence[Mapping[str, Any] | None], names: Iterable[str]) -> "pd.DataFrame":
    """The table with these settings as they stand in the rows: a null stays a null, and whole numbers beside it whole."""
    import pandas as pd

    given = {name: pd.Series([row.get(name) for row in rows if row is not None], dtype=object) for name in names}
    return table.assign(**given)


def success_rates(table: "pd.DataFrame", varied: list[str]) -> "pd.DataFrame":
    """Share of solved runs for each combination of the settings but the seeds of training, with Wilson's 95 % interval.

    Columns: the settings, runs, solved, rate, low, high, and the quartiles of `solved_at` among the solved.
    """
    import pandas as pd
    from scipy.stats import binomtest

    by = [name for name in varied if name not in (SEED, DATA_SEED)]
    groups: dict[str, list[dict[Any, Any]]] = {}
    for row in table.to_dict("records"):
        groups.setdefault(json.dumps([row[name] for name in by], default=str), []).append(row)
    rows = []
    for group in groups.values():
        runs, solved = len(group), sum(bool(row["solved"]) for row in group)
        interval = binomtest(solved, runs).proportion_ci(method="wilson")
        at = pd.Series([row["solved_at"] for row in group if row["solved"]], dtype=float).quantile([0.25, 0.5, 0.75]).tolist()
        names = {name: group[0][name] for name in by}
        counts = {"runs": runs, "solved": solved, "rate": solved / runs, "low": interval.low, "high": interval.high}
        rows.append({**names, **counts, "solved_at_q25": at[0], "solved_at_median": at[1], "solved_at_q75": at[2]})
    return _as_given(pd.DataFrame(rows), rows, by)


def write_tables(folder: Path, made: list[Plan]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Write `results.csv` (one row a plan) and `success.csv` (one row a setting) of the finished plans, and return both."""
    table = results(folder, made)
    rates = success_rates(table, list(made[0].varied)) if len(table) else table
    for name, frame in (("results.csv", table), ("success.csv", rates)):
        write_file(folder / name, lambda temporary, frame=frame: frame.to_csv(temporary, index=False))
    return table, rates
