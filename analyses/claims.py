"""What the scripts of claims share: the finished runs of a sweep, the tables kept in CSVs, Markdown, and one `main`.

A script says how runs become tables, tables Markdown, and tables a figure. Without options it reads the tables from
analyses/results/ and prints and draws them. `--from-scratch` trains what is missing of its sweeps (`analyses/sweeps/NAME.yaml`,
into --sweeps/NAME), measures all runs again and writes the tables; with `--finished` nothing is trained, and what is measured
are the runs that are done, beside which `--keep` keeps the rows of those that are not there. Tables list every run that they
rest on, so that a part of a sweep is always said to be one.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import pandas as pd

from stackheads import Analysis, analyze
from stackheads.errors import CheckpointError, StackheadsError
from stackheads.files import check_file, write_file
from stackheads.labelling.statistics import wilson
from stackheads.models import snapshots
from stackheads.report.figures import save_figure
from stackheads.sweeps.plans import Plan, SweepConfig, plans, read_sweep
from stackheads.sweeps.sweep import check_sweep, plan_folder, stored_result
from stackheads.sweeps.workers import run_sweep
from stackheads.tasks import StoredTask, from_config
from stackheads.validation.kept import key

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "analyses" / "results"
KEPT = ROOT / "runs" / "mechanisms"
RECIPES = ROOT / "analyses" / "recipes.py"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"  # Okabe and Ito: safe for the colour-blind

LETTERS = 14
"""Letters of a heading on an inch of a figure, so that none is cut off."""

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Run:
    """One finished run of a sweep; `result` is what the sweep stored about it (`sweeps/sweep.py`)."""

    sweep: str
    plan: Plan
    folder: Path
    result: dict[str, Any]

    @property
    def seed(self) -> int:
        return self.plan.settings["training"]["seed"]

    @property
    def names(self) -> dict[str, Any]:
        """The columns that every table begins with."""
        return {"sweep": self.sweep, "cell": self.plan.name, "seed": self.seed}


@dataclass(frozen=True)
class Claim:
    """A script: its docstring, the name of its CSV and figure, its sweeps, and what is its own.

    `wanted` says which runs of the sweeps it rests on. The first of the tables has the claim's name, and a row or more for each
    run; further ones are `NAME-….csv`.
    """

    doc: str
    name: str
    sweeps: tuple[str, ...]
    measure: Callable[[list[Run], int], Tables]
    tell: Callable[[Tables], str]
    draw: Callable[[Tables], Any]
    further: tuple[str, ...] = ()
    wanted: Callable[[Plan], bool] = lambda plan: True


def workers(text: str) -> int:
    """A number of processes, for argparse, which makes one line of what is none."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}: give the number of processes")
    return int(text)


def main(claim: Claim) -> None:
    """Run a script from the command line."""
    parser = argparse.ArgumentParser(description=claim.doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="measure again, and first train what is missing")
    parser.add_argument("--finished", action="store_true", help="with --from-scratch: train nothing, take what is finished")
    parser.add_argument("--keep", action="store_true", help="with --finished: keep the tables' rows of runs that are not there")
    parser.add_argument("--sweeps", type=Path, default=ROOT / "runs" / "sweeps", help="where the folders of the sweeps are")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the CSVs and the figure are")
    parser.add_argument("--workers", type=workers, default=2, help="processes")
    arguments = parser.parse_args()
    files = {name: arguments.results / f"{name}.csv" for name in (claim.name, *claim.further)}
    picture = arguments.results / f"{claim.name}.png"
    if arguments.from_scratch:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        try:
            for file in (*files.values(), picture):
                check_file(file)
            runs = [run for name in claim.sweeps for run in finished_runs(name, arguments) if claim.wanted(run.plan)]
            if claim.sweeps and not runs:
                sys.exit(f"error: {claim.name} rests on finished runs, {arguments.sweeps} has none: leave out --finished")
            found = claim.measure(runs, arguments.workers)
        except StackheadsError as error:
            sys.exit(f"error: {error}")
        measured = {(run.sweep, run.plan.name) for run in runs}
        for name, table in found.items():
            if arguments.keep and files[name].exists():
                table = beside(table, pd.read_csv(files[name]), gone=measured)
            write_file(files[name], lambda temporary, table=table: table.to_csv(temporary, index=False))
    if missing := [str(file) for file in files.values() if not file.exists()]:
        sys.exit(f"error: the figure is made from {missing[0]}, which does not exist: add --from-scratch")
    tables = {name: pd.read_csv(file) for name, file in files.items()}
    whole, note = coverage(claim, tables[claim.name])
    figure = claim.draw(tables)
    if not whole:
        width = int(LETTERS * figure.get_figwidth())
        figure.suptitle(fill(f"NOT ALL RUNS: {note}", width), color=ORANGE, fontsize=9)
    save_figure(figure, picture)
    print(f"{note}\n\n{claim.tell(tables)}" if note else claim.tell(tables))


def beside(
    new: pd.DataFrame, old: pd.DataFrame, by: Sequence[str] = ("sweep", "cell"), gone: Iterable[tuple[Any, ...]] = ()
) -> pd.DataFrame:
    """New rows of some runs with the old rows of the others; runs and columns in the order of the old table, then new ones.

    `by`: the columns that name a run. `gone`: runs of which no old row is kept, though there may be no new one. Whole numbers
    of the new table that may be missing stay whole in the old rows.
    """
    old = old.astype({name: "Int64" for name in new if name in old and new[name].dtype == "Int64"})
    keys = [list(table[[*by]].itertuples(index=False, name=None)) for table in (new, old)]
    order = {key: place for place, key in enumerate(dict.fromkeys([*keys[1], *keys[0]]))}
    replaced = {*keys[0], *gone}
    kept = old[[key not in replaced for key in keys[1]]]
    both = pd.concat([new, kept], ignore_index=True)
    places = [order[key] for key in both[[*by]].itertuples(index=False, name=None)]
    columns = dict.fromkeys([*old, *new])
    return both.assign(place=places).sort_values("place", kind="stable")[[*columns]].reset_index(drop=True)


def planned_runs(name: str) -> list[Plan]:
    """All planned runs of a sweep."""
    return plans(_config(name))


def planned_task(name: str) -> StoredTask:
    """The task of a sweep that varies none of its settings."""
    return from_config(_config(name).task)


def _config(name: str) -> SweepConfig:
    return read_sweep(ROOT / "analyses" / "sweeps" / f"{name}.yaml")


def finished_runs(name: str, arguments: argparse.Namespace) -> list[Run]:
    """The finished runs of a sweep in the order of its file, those that are missing trained first unless --finished."""
    found = finished(name, arguments.sweeps)
    if arguments.finished or len(found) == len(planned_runs(name)):
        return found
    for failure in run_sweep(_config(name), arguments.sweeps / name, arguments.workers).failures:
        print(f"{failure.plan.name} failed: {failure.reason}", file=sys.stderr)
    return finished(name, arguments.sweeps)


def finished(name: str, sweeps: Path) -> list[Run]:
    """The finished runs of a sweep in a folder of sweeps, in the order of its file.

    Raises `ConfigError` for a sweep, or a run of it, that was made with other settings than the file's.
    """
    folder = sweeps / name
    check_sweep(_config(name), folder)
    stored = [(plan, stored_result(folder, plan)) for plan in planned_runs(name)]
    return [Run(name, plan, plan_folder(folder, plan), result) for plan, result in stored if result is not None]


def coverage(claim: Claim, table: pd.DataFrame) -> tuple[bool, str]:
    """Whether a table has all runs of the claim's sweeps, and which share of each in words."""
    parts, whole = [], True
    for name in claim.sweeps:
        planned = {plan.name for plan in planned_runs(name) if claim.wanted(plan)}
        there = planned & set(table.loc[table["sweep"] == name, "cell"])
        whole = whole and there == planned
        parts.append(f"{len(there)} of {len(planned)} runs of {name}" + ("" if there == planned else " (PARTIAL)"))
    return whole, ", ".join(parts)


def kept_analysis(run: Run, kept: Path, examples: int = 256, seed: int = 0) -> Analysis:
    """`analyze` of a run's last snapshot, kept below a folder by what it belongs to (`validation/kept.py`)."""
    last = last_snapshot(run)
    folder = kept / run.sweep / run.plan.name / key({"examples": examples, "seed": seed}, last)
    with suppress(CheckpointError):
        return Analysis.load(folder)
    import torch

    torch.set_num_threads(1)
    found = analyze(last, examples=examples, seed=seed, progress=False)
    found.save(folder)
    return found


def last_snapshot(run: Run) -> Path:
    """The folder of a run's last snapshot."""
    folders = snapshots(run.folder)
    return folders[max(folders)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; missing values are dashes."""
    lines = [header, ["---"] * len(header), *(["–" if pd.isna(value) else value for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def rate(successes: int, n: int, confidence: float = 0.95) -> str:
    """A share with Wilson's interval: "3 of 4, 75 % [30, 95]"."""
    low, high = wilson(successes, n, confidence)
    return f"{successes} of {n}, {successes / n:.0%} [{100 * low:.0f}, {100 * high:.0f}]".replace("%", " %")


def middle(values: Sequence[float | None]) -> float | None:
    """The median, where None (or nan) means later than all: None where half of the values or more are."""
    found = median([float("inf") if pd.isna(value) else value for value in values])
    return None if found == float("inf") else found


def number(value: float | None) -> str:
    """A count or a step, or a dash."""
    return "–" if value is None or pd.isna(value) else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share in percent with one decimal, without the sign; or a dash."""
    return "–" if share is None or pd.isna(share) else f"{100 * share:.1f}"


def span(values: pd.Series, written: Callable[[float | None], str] = number) -> str:
    """Least to largest of the values that are there; a dash if none is."""
    low, high = written(values.min()), written(values.max())
    return low if low == high else f"{low}–{high}"


def plain(axes: Any) -> None:
    """No frame above and to the right, thousands with commas."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
