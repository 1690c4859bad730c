"""Who trains a sweep's plans: processes of this machine, or a Ray cluster. Both may lose a worker at any moment.

A plan belongs to its folder, not to a worker, so a lost worker costs what its plan did since its last stored state. Results are
read from the plans' folders, hence each plan is there once however often it was begun. A Ray cluster needs a folder that all
its nodes see at the same path.
"""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from stackheads.errors import ConfigError, StackheadsError
from stackheads.limits import check_parallel, too_large
from stackheads.models.config import parse_device
from stackheads.processes import POLL, become_worker
from stackheads.sweeps.plans import Plan, SweepConfig
from stackheads.sweeps.rates import write_tables
from stackheads.sweeps.sweep import RunBusyError, carry_out, open_sweep, stored_result

if TYPE_CHECKING:
    import pandas as pd

RETRIES = 3
"""How often a plan whose worker died is begun again before the sweep gives up on it."""

Report = Callable[[Plan], None]


@dataclass(frozen=True)
class Failure:
    """A plan that was not finished, and why."""

    plan: Plan
    reason: str


@dataclass(frozen=True)
class Outcome:
    """A sweep as it stands: a row for each finished plan, success rates per setting, and the plans that failed."""

    folder: Path
    plans: int
    results: "pd.DataFrame"
    success: "pd.DataFrame"
    failures: list[Failure]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": 1,
            "folder": str(self.folder),
            "cells": self.plans,
            "results": _rows(self.results),
            "success": _rows(self.success),
            "failures": {failure.plan.name: failure.reason for failure in self.failures},
        }


def _rows(table: "pd.DataFrame") -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")


def run_sweep(
    config: SweepConfig,
    folder: Path,
    workers: int = 2,
    ray: str = "",
    device: str = "cpu",
    threads: int = 1,
    progress: bool = True,
) -> Outcome:
    """Train all plans of a sweep that have no result yet, on processes or (`ray`: an address) a Ray cluster.

    Writes the sweep's tables into its folder at the end and after every plan. Raises `ConfigError` for settings that can't be.
    """
    parse_device(device)
    check_parallel("threads", threads, "cores of a plan")
    check_parallel("workers", workers, "processes")
    made = open_sweep(config, folder)
    todo = [plan for plan in made if stored_result(folder, plan) is None]
    with tqdm(total=len(made), initial=len(made) - len(todo), disable=None if progress else True, unit="cell") as bar:

        def report(plan: Plan) -> None:
            bar.update()
            bar.set_postfix_str(plan.name)
            write_tables(folder, made)

        if ray:
            failures = run_on_ray(todo, folder, ray, device, threads, report)
        else:
            failures = run_on_processes(todo, folder, workers, device, threads, report)
    return Outcome(folder, len(made), *write_tables(folder, made), failures)


def run_on_processes(
    plans: Sequence[Plan], folder: Path, workers: int, device: str, threads: int, report: Report
) -> list[Failure]:
    """Train the plans that have no result, `workers` at a time, each in a fresh process; `report` is called for each done.

    A process that dies is begun again, up to `RETRIES` times. Raises `ConfigError` for a number of workers that can't be.
    """
    check_parallel("workers", workers, "processes")
    context = multiprocessing.get_context("spawn")
    waiting, running = list(plans), dict[str, tuple[Plan, Any]]()
    begun: dict[str, int] = {}
    failures: list[Failure] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                plan = waiting.pop(0)
                process = context.Process(target=_process, args=(plan, folder, device, threads, os.getpid()))
                process.start()
                begun[plan.name] = begun.get(plan.name, 0) + 1
                running[plan.name] = (plan, process)
            time.sleep(POLL)
            for plan, process in [pair for pair in running.values() if not pair[1].is_alive()]:
                del running[plan.name]
                if stored_result(folder, plan) is not None:
                    report(plan)
                elif process.exitcode == 1 or begun[plan.name] > RETRIES:
                    failures.append(Failure(plan, _reason(folder, plan, process.exitcode)))
                else:
                    waiting.append(plan)
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()
    return failures


def _process(plan: Plan, folder: Path, device: str, threads: int, parent: int) -> None:
    """The body of a worker process."""
    become_worker(parent)
    failed = _failure_file(folder, plan)
    failed.unlink(missing_ok=True)
    try:
        carry_out(plan, folder, device, threads)
    except RunBusyError:
        time.sleep(1)
        raise SystemExit(2) from None
    except Exception as error:
        told = str(error) if isinstance(error, StackheadsError) else too_large(error)
        if told is None:
            raise
        failed.write_text(told, encoding="utf-8")
        raise SystemExit(1) from None


def _failure_file(folder: Path, plan: Plan) -> Path:
    return folder / "locks" / f"{plan.name}.error"


def _reason(folder: Path, plan: Plan, exitcode: int | None) -> str:
    path = _failure_file(folder, plan)
    return path.read_text(encoding="utf-8") if path.exists() else f"its process ended with status {exitcode}"


def run_on_ray(plans: Sequence[Plan], folder: Path, address: str, device: str, threads: int, report: Report) -> list[Failure]:
    """The same on the Ray cluster at `address` ("auto": the one running here), as many at a time as it has cores for.

    Raises `ConfigError` without the extra `cluster`, or where no cluster answers. A task whose node dies is begun again on
    another.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError:
        raise ConfigError("--ray needs the package ray, it is not installed: pip install 'stackheads[cluster]'") from None
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"--ray needs the address of a running cluster, got {address!r} ({first}): see ray start") from None
    remote = ray.remote(num_cpus=threads, max_retries=RETRIES)(_patient)
    pending = {remote.remote(plan, folder, device, threads): plan for plan in plans}
    failures: list[Failure] = []
    try:
        while pending:
            done, _ = ray.wait(list(pending), timeout=1.0)
            for reference in done:
                plan = pending.pop(reference)
                try:
                    ray.get(reference)
                except RayError as error:
                    failures.append(Failure(plan, str(error).strip().splitlines()[-1]))
                else:
                    report(plan)
    finally:
        ray.shutdown()
    return failures


def _patient(plan: Plan, folder: Path, device: str, threads: int) -> dict[str, Any]:
    """`carry_out`, waiting while a worker that the cluster has given up is still at the plan."""
    while True:
        try:
            return carry_out(plan, folder, device, threads)
        except RunBusyError:
            time.sleep(1)
