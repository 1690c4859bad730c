"""Do hops and heads emerge in the same order in every training run?

    python analyses/07_emergence.py                  # tables and figure from analyses/results/emergence.csv, seconds
    python analyses/07_emergence.py --from-scratch   # from the runs of the curriculum sweep; about 15 s a run and core

From scratch: every finished run below --runs with supervision `chain` or `dense` and at least two snapshots is labelled at each
of its snapshots (`stackheads.emergence`, 256 examples, seed 0). Each result is kept below --kept, and what is there is not
computed again, so an interrupted call goes on where it was. Runs that differ in more than seed and supervision are refused.

Writes analyses/results/emergence.csv, one row per run and hop or followed cell, and emergence.png. "Never" counts as later than
all steps: a median is over all runs, and missing where half of them or more never get there; the range is of those that do.
Heads of different seeds are matched by (layer, destination, role), not by number; the first of them counts, and such a row says
in how many runs it is there at the end. Tau-b and its interval as in `analysis/orders.py`.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from tqdm import tqdm

from stackheads import Emergence, emergence
from stackheads.analysis.orders import Agreement, agreement, hop_steps, role_steps
from stackheads.analysis.records import records
from stackheads.analysis.timeline import STEP_TYPES
from stackheads.errors import CheckpointError
from stackheads.models import snapshots
from stackheads.models.files import write_file
from stackheads.report.figures import hop_colours, save_figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "analyses" / "results"
SUPERVISIONS = ("chain", "dense")
SEED = 0
NEVER = float("inf")

Rows = list[dict[str, Any]]


def finished_runs(folder: Path) -> dict[Path, dict[str, Any]]:
    """The usable runs below a folder with their settings; what is left out is said on stderr."""
    usable, left_out = {}, {"other supervision": 0, "not finished": 0, "fewer than two snapshots": 0}
    for file in sorted(folder.rglob("run.json")):
        run, settings = file.parent, json.loads(file.read_text())
        if settings["task"]["supervision"] not in SUPERVISIONS:
            left_out["other supervision"] += 1
        elif not finished(run, settings["training"]):
            left_out["not finished"] += 1
        elif len(snapshots(run)) < 2:
            left_out["fewer than two snapshots"] += 1
        else:
            usable[run] = settings
    counts = ", ".join(f"{number} {why}" for why, number in left_out.items() if number)
    print(f"{len(usable)} runs below {folder}; left out: {counts or 'none'}", file=sys.stderr)
    return usable


def finished(run: Path, training: dict[str, Any]) -> bool:
    """Whether a run made all its steps, or stopped because it was solved."""
    if max(snapshots(run), default=0) >= training["steps"]:
        return True
    metrics = run / "metrics.jsonl"
    if training["stop_at"] is None or not metrics.exists():
        return False
    last = json.loads(metrics.read_text().splitlines()[-1])
    return min(last["accuracy"].values()) >= training["stop_at"]


def check_comparable(runs: dict[Path, dict[str, Any]]) -> None:
    """Exit unless the runs share everything but seed and supervision, each pair of which occurs once."""
    seen: dict[Any, Path] = {}
    common: dict[str, Any] = {}
    for run, settings in runs.items():
        task, training = dict(settings["task"]), dict(settings["training"])
        pair = task.pop("supervision"), training.pop("seed")
        if pair in seen:
            sys.exit(f"error: each supervision and seed may occur once, {seen[pair]} and {run} are both {pair}: narrow --runs")
        seen[pair] = run
        here = {"model": settings["model"], "task": task, "training": training}
        for part, values in here.items():
            if common.setdefault(part, values) != values:
                sys.exit(f"error: runs may differ in seed and supervision only, {run} has another {part}: narrow --runs")


def kept_or_made(run: Path, kept: Path, examples: int) -> Rows:
    """The steps of one run, from --kept if they are there for these examples and snapshots."""
    try:
        found = Emergence.load(kept)
        if (found.examples, found.seed, found.snapshots) == (examples, SEED, list(snapshots(run))):
            return records(found.steps)
    except CheckpointError:
        pass
    import torch

    torch.set_num_threads(1)
    found = emergence(run, examples, SEED, progress=False)
    found.save(kept)
    return records(found.steps)


def from_scratch(folder: Path, kept: Path, examples: int, jobs: int) -> pd.DataFrame:
    """One row per run and hop or followed cell."""
    runs = finished_runs(folder)
    if not runs:
        sys.exit(f"error: --runs needs finished runs with snapshots, {folder} has none: run the curriculum sweep first")
    check_comparable(runs)
    names = {run: run.relative_to(folder).as_posix() for run in runs}
    with ProcessPoolExecutor(jobs) as pool:
        made = pool.map(kept_or_made, runs, [kept / name for name in names.values()], [examples] * len(runs))
        rows = [
            {"run": names[run], "supervision": runs[run]["task"]["supervision"], "seed": runs[run]["training"]["seed"]} | row
            for run, found in zip(runs, tqdm(made, total=len(runs), desc="runs", disable=None), strict=True)
            for row in found
        ]
    return pd.DataFrame(rows).astype({name: kind for name, kind in STEP_TYPES.items() if kind != "object"})


def by_supervision(table: pd.DataFrame) -> Iterator[tuple[str, list[Rows]]]:
    """The rows of each run, grouped."""
    for supervision in SUPERVISIONS:
        group = table[table["supervision"] == supervision]
        if len(group):
            yield supervision, [records(rows) for _, rows in group.groupby("seed")]


def spread(steps: list[int | None]) -> tuple[float | None, int | None, int | None, int]:
    """Median over all (None if it is never), least and largest of those that have a step, and how many have none."""
    known = [step for step in steps if step is not None]
    middle = median([NEVER if step is None else step for step in steps])
    return (None if middle == NEVER else middle, min(known, default=None), max(known, default=None), len(steps) - len(known))


def print_tables(table: pd.DataFrame) -> None:
    for supervision, runs in by_supervision(table):
        print(f"\n## {supervision}: {len(runs)} runs\n")
        print("| what | runs | median step | range | never |\n| --- | --- | --- | --- | --- |")
        for maps in ([hop_steps(run) for run in runs], [role_steps(run) for run in runs]):
            for what in sorted({name for steps in maps for name in steps}, key=_natural):
                steps = [each[what] for each in maps if what in each]
                middle, low, high, never = spread(steps)
                limits = "–" if low is None else f"{low:,}–{high:,}"
                print(f"| {what} | {len(steps)} | {'–' if middle is None else f'{middle:,.0f}'} | {limits} | {never} |")
        if len(runs) > 1:
            print(f"\nhops: {sentence(agreement([hop_steps(run) for run in runs]))}")
            print(f"heads by (layer, destination, role): {sentence(agreement([role_steps(run) for run in runs]))}")


def sentence(found: Agreement) -> str:
    """An agreement in words."""
    if not found.modal and found.share == 1:
        return "nothing emerges in any run"
    order = " < ".join(" = ".join(names) for names in found.modal) or "nothing emerges"
    tau = "no two runs can be compared"
    if found.tau is not None:
        tau = f"tau-b {found.tau:.2f} [{found.tau_low:.2f}, {found.tau_high:.2f}] over {found.pairs} pairs of runs"
        tau += f" ({found.undefined} pairs undefined)" if found.undefined else ""
    share = f"{found.share:.0%} [{found.share_low:.0%}, {found.share_high:.0%}] of {found.runs} runs"
    return f"{tau}; modal order in {share}: {order}"


def _natural(name: str) -> tuple[int, str]:
    """Hops by number, the rest by name."""
    return (int(name.split()[1]), "") if name.startswith("hop ") else (0, name)


def draw(table: pd.DataFrame) -> Any:
    """One panel for each supervision, one row for each hop: runs as dots that grow with their number, median and range."""
    from matplotlib.figure import Figure

    groups = list(by_supervision(table))
    hops = sorted(int(hop) for hop in table.loc[table["kind"] == "hop", "hop"].unique())
    last = int(table["step"].max()) if table["step"].notna().any() else 1
    colours = hop_colours(hops)
    figure = Figure(figsize=(8, 1.0 + len(groups) * (0.9 + 0.4 * len(hops))), layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (supervision, runs) in zip(panels, groups, strict=True):
        steps = [hop_steps(run) for run in runs]
        for place, hop in enumerate(hops):
            _draw_hop(axes, place, [each[f"hop {hop}"] for each in steps if f"hop {hop}" in each], colours[hop])
        title = f"{supervision}: {len(runs)} runs"
        if len(runs) > 1:
            found = agreement(steps)
            share = f"the modal order in {found.share:.0%} [{found.share_low:.0%}, {found.share_high:.0%}]"
            title += f"; {share if found.modal or found.share < 1 else 'no hop emerges'}"
            title += "" if found.tau is None else f", tau-b {found.tau:.2f} [{found.tau_low:.2f}, {found.tau_high:.2f}]"
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_yticks(range(len(hops)), [f"hop {hop}" for hop in hops])
        axes.set_ylim(len(hops) - 0.5, -0.5)
        axes.set_xlim(0, last * 1.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    panels[-1].set_xlabel("training step from which the accuracy stays at 90 % or more (area: number of runs; black: median)")
    return figure


def _draw_hop(axes: Any, place: int, steps: list[int | None], colour: Any) -> None:
    middle, low, high, never = spread(steps)
    if low is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
    runs_at = Counter(step for step in steps if step is not None)
    for step, number in runs_at.items():
        axes.plot(step, place, "o", color=colour, markersize=5 * number**0.5, markeredgewidth=0)
    if middle is not None:
        axes.plot([middle, middle], [place - 0.42, place + 0.42], color="black", linewidth=1.5)
    if never:
        right = axes.get_yaxis_transform()
        axes.text(1.0, place, f"{never} of {len(steps)} never", transform=right, ha="right", va="center", fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="label the snapshots of the runs again")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "sweeps" / "curriculum", help="folder of run folders")
    parser.add_argument("--kept", type=Path, default=ROOT / "runs" / "emergence", help="where each run's result is kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the CSV and the figure are")
    parser.add_argument("--examples", type=int, default=256, help="examples for each snapshot")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    file = arguments.results / "emergence.csv"
    if arguments.from_scratch:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        made = from_scratch(arguments.runs, arguments.kept, arguments.examples, arguments.jobs)
        write_file(file, lambda temporary: made.to_csv(temporary, index=False))
    if not file.exists():
        sys.exit(f"error: the figure is made from {file}, which does not exist: add --from-scratch")
    table = pd.read_csv(file, dtype=STEP_TYPES)  # type: ignore[arg-type]
    print_tables(table)
    save_figure(draw(table), arguments.results / "emergence.png")


if __name__ == "__main__":
    main()
