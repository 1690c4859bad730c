"""Sweeps: a grid of training runs (`plans.py`), killed at any point and taken up again.

Each plan is an ordinary run folder `cells/NAME`. When it is done it holds `result.json`, written in one piece; a plan with a
result is never run again, one without resumes from its last stored state, bit for bit (`training/run.py`). So whoever runs
plans – processes of this machine or a Ray cluster, `workers.py` – may die at any moment. A lock that the system frees with its
process keeps two workers out of one plan.
"""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from stackheads.errors import ConfigError, StackheadsError
from stackheads.files import Stored, check_folder, check_name, checked, first_difference, read_json, write_json
from stackheads.sweeps.plans import PARTS, Plan, SweepConfig, built, plans
from stackheads.training.run import RunFolder, other_settings, read_metrics

SWEEP, RESULT, CELLS = "sweep.json", "result.json", "cells"


class Result(Stored):
    """`result.json`, besides what sets the plan apart and its accuracies. `solved_at` is a step."""

    cell: str
    steps: int
    solved: bool
    solved_at: int | None


class RunBusyError(StackheadsError):
    """Another process is training this plan."""


def open_sweep(config: SweepConfig, folder: Path) -> list[Plan]:
    """The plans of a sweep in its folder, which is made, or checked to belong to this sweep.

    Plans may be added to the grid later; those there keep their settings. Raises `ConfigError` if the folder can't be written
    to, or holds something else, a sweep with other shared settings or runs of plans that this one has not; `CheckpointError` if
    its `sweep.json` is damaged.
    """
    made = plans(config)
    check_folder(folder, SWEEP)
    check_name(folder, ConfigError)
    before, content = check_sweep(config, folder), _stored(config)
    there = {path.name for path in (folder / CELLS).glob("*") if path.is_dir()}
    if lost := sorted(there - {plan.name for plan in made}):
        rule = f"a sweep goes on with its plans, and may be given more, {folder} has a run of {lost[0]} and the file not"
        raise ConfigError(f"{rule} ({len(lost)} such runs): put it back into the grid, or choose another --output-dir")
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
    return folder / CELLS / plan.name


def stored_result(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """The result of a finished plan. Raises `CheckpointError` if it is damaged, `ConfigError` if its run has other settings."""
    run = RunFolder(plan_folder(folder, plan))
    path = run.path / RESULT
    if not path.exists():
        return None
    cure = "delete it and run again"
    found = read_json(path, cure)
    checked(Result, found, path, cure)
    if run.settings.exists() and (other := other_settings(run, *built(plan.settings))):
        raise ConfigError(f"a finished run has the settings of its plan, {run.settings} has {other}: choose another folder")
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
        task, model, training = built(plan.settings)
        checkpoint = train(task, model, training, path, device=device, progress=False, resume=True)
        result = _result(plan, checkpoint, read_metrics(RunFolder(path), checkpoint.training["step"]))
        write_json(path / RESULT, result)
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
