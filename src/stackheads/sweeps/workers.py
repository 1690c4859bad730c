"""Who trains a sweep's cells: processes of this machine, or a Ray cluster. Both may lose a worker at any moment.

A cell belongs to its folder, not to a worker, so a lost worker costs what its cell did since its last stored state. Results are
read from the cells' folders, hence each cell is there once however often it was begun. A Ray cluster needs a folder that all
its nodes see at the same path.
"""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from stackheads.errors import ConfigError, StackheadsError
from stackheads.models.config import parse_device
from stackheads.sweeps.sweep import Cell, CellBusyError, SweepConfig, open_sweep, run_cell, stored_result, write_tables

if TYPE_CHECKING:
    import pandas as pd

RETRIES = 3
"""How often a cell whose worker died is begun again before the sweep gives up on it."""

POLL = 0.2
"""Seconds between two looks at the workers."""

Report = Callable[[Cell], None]


@dataclass(frozen=True)
class Failure:
    """A cell that was not finished, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Outcome:
    """A sweep as it stands: a row for each finished cell, success rates per setting, and the cells that failed."""

    folder: Path
    cells: int
    results: "pd.DataFrame"
    success: "pd.DataFrame"
    failures: list[Failure]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": 1,
            "folder": str(self.folder),
            "cells": self.cells,
            "results": _rows(self.results),
            "success": _rows(self.success),
            "failures": {failure.cell.name: failure.reason for failure in self.failures},
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
    """Train all cells of a sweep that have no result yet, on processes or (`ray`: an address) a Ray cluster.

    Writes the sweep's tables into its folder at the end and after every cell. Raises `ConfigError` for settings that can't be.
    """
    parse_device(device)
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}: give the number of cores of a cell")
    made = open_sweep(config, folder)
    todo = [cell for cell in made if stored_result(folder, cell) is None]
    with tqdm(total=len(made), initial=len(made) - len(todo), disable=None if progress else True, unit="cell") as bar:

        def report(cell: Cell) -> None:
            bar.update()
            bar.set_postfix_str(cell.name)
            write_tables(folder, made)

        if ray:
            failures = run_on_ray(todo, folder, ray, device, threads, report)
        else:
            failures = run_on_processes(todo, folder, workers, device, threads, report)
    return Outcome(folder, len(made), *write_tables(folder, made), failures)


def run_on_processes(
    cells: Sequence[Cell], folder: Path, workers: int, device: str, threads: int, report: Report
) -> list[Failure]:
    """Train the cells that have no result, `workers` at a time, each in a fresh process; `report` is called for each done.

    Raises `ConfigError` if workers < 1. A process that dies is begun again, up to `RETRIES` times.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}: give the number of processes")
    context = multiprocessing.get_context("spawn")
    waiting, running = list(cells), dict[str, tuple[Cell, Any]]()
    begun: dict[str, int] = {}
    failures: list[Failure] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                process = context.Process(target=_process, args=(cell, folder, device, threads, os.getpid()))
                process.start()
                begun[cell.name] = begun.get(cell.name, 0) + 1
                running[cell.name] = (cell, process)
            time.sleep(POLL)
            for cell, process in [pair for pair in running.values() if not pair[1].is_alive()]:
                del running[cell.name]
                if stored_result(folder, cell) is not None:
                    report(cell)
                elif process.exitcode == 1 or begun[cell.name] > RETRIES:
                    failures.append(Failure(cell, _reason(folder, cell, process.exitcode)))
                else:
                    waiting.append(cell)
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()
    return failures


def _process(cell: Cell, folder: Path, device: str, threads: int, parent: int) -> None:
    """The body of a worker process, which does not outlive the sweep that began it."""
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    failed = _failure_file(folder, cell)
    failed.unlink(missing_ok=True)
    try:
        run_cell(cell, folder, device, threads)
    except CellBusyError:
        time.sleep(1)
        raise SystemExit(2) from None
    except StackheadsError as error:
        failed.write_text(str(error), encoding="utf-8")
        raise SystemExit(1) from None


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(3)


def _failure_file(folder: Path, cell: Cell) -> Path:
    return folder / "locks" / f"{cell.name}.error"


def _reason(folder: Path, cell: Cell, exitcode: int | None) -> str:
    path = _failure_file(folder, cell)
    return path.read_text(encoding="utf-8") if path.exists() else f"its process ended with status {exitcode}"


def run_on_ray(cells: Sequence[Cell], folder: Path, address: str, device: str, threads: int, report: Report) -> list[Failure]:
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
    pending = {remote.remote(cell, folder, device, threads): cell for cell in cells}
    failures: list[Failure] = []
    try:
        while pending:
            done, _ = ray.wait(list(pending), timeout=1.0)
            for reference in done:
                cell = pending.pop(reference)
                try:
                    ray.get(reference)
                except RayError as error:
                    failures.append(Failure(cell, str(error).strip().splitlines()[-1]))
                else:
                    report(cell)
    finally:
        ray.shutdown()
    return failures


def _patient(cell: Cell, folder: Path, device: str, threads: int) -> dict[str, Any]:
    """`run_cell`, waiting while a worker that the cluster has given up is still at the cell."""
    while True:
        try:
            return run_cell(cell, folder, device, threads)
        except CellBusyError:
            time.sleep(1)
