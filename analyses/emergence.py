"""Do hops and heads emerge in the same order in every training run?

    python analyses/emergence.py                  # tables and figure from analyses/results/emergence.csv, seconds
    python analyses/emergence.py --from-scratch   # from the runs of the curriculum sweep; about 15 s a run and core

From scratch: every run of the sweep `curriculum` with supervision `chain` or `dense` is labelled at each of its snapshots
(`stackheads.emergence`, 256 examples, seed 0). Each result is kept below runs/emergence, and what is there is not computed
again, so an interrupted call goes on where it was.

Writes analyses/results/emergence.csv, one row per run and hop or followed cell, and emergence.png. "Never" counts as later than
all steps: a median is over all runs, and missing where half of them or more never get there; the range is of those that do.
Heads of different seeds are matched by (layer, destination, role), not by number; the first of them counts, and such a row says
in how many runs it is there at the end. Tau-b and its interval as in `timeline/orders.py`.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pandas as pd
from claims import ROOT, Claim, Run, Tables, main, markdown, middle, number, span
from tqdm import tqdm

from stackheads import Emergence, emergence
from stackheads.errors import CheckpointError
from stackheads.models import snapshots
from stackheads.report.figures import hop_colours
from stackheads.sweeps.sweep import Plan
from stackheads.tables import records
from stackheads.timeline.orders import Agreement, agreement, hop_steps, role_steps
from stackheads.timeline.result import STEP_TYPES

KEPT = ROOT / "runs" / "emergence" / "cells"
SUPERVISIONS = ("chain", "dense")
EXAMPLES, SEED = 256, 0

Rows = list[dict[str, Any]]


def steps_of(run: Run) -> Rows:
    """The steps of one run, kept if they are there for these examples and snapshots."""
    kept = KEPT / run.plan.name
    try:
        found = Emergence.load(kept)
        if (found.examples, found.seed, found.snapshots) == (EXAMPLES, SEED, list(snapshots(run.folder))):
            return records(found.steps)
    except CheckpointError:
        pass
    import torch

    torch.set_num_threads(1)
    found = emergence(run.folder, EXAMPLES, SEED, progress=False)
    found.save(kept)
    return records(found.steps)


def wanted(plan: Plan) -> bool:
    """Whether a run is one of those that are followed: without a curriculum there is nothing to follow."""
    return plan.settings["task"]["supervision"] in SUPERVISIONS


def measure(runs: list[Run], workers: int) -> Tables:
    """One row per run and hop or followed cell."""
    with ProcessPoolExecutor(workers) as pool:
        rows = [
            {**run.names, "supervision": run.plan.settings["task"]["supervision"]} | row
            for run, found in zip(runs, tqdm(pool.map(steps_of, runs), total=len(runs), disable=None), strict=True)
            for row in found
        ]
    return {"emergence": pd.DataFrame(rows).astype({name: kind for name, kind in STEP_TYPES.items() if kind != "object"})}


def by_supervision(table: pd.DataFrame) -> Iterator[tuple[str, list[Rows]]]:
    """The rows of each run, grouped."""
    table = table.astype(STEP_TYPES)
    for supervision in SUPERVISIONS:
        group = table[table["supervision"] == supervision]
        if len(group):
            yield supervision, [records(rows) for _, rows in group.groupby("seed")]


def tell(tables: Tables) -> str:
    """For each supervision the step of every hop and head, and how far the orders agree."""
    text = []
    for supervision, runs in by_supervision(tables["emergence"]):
        rows, maps = [], ([hop_steps(run) for run in runs], [role_steps(run) for run in runs])
        for found in maps:
            for what in sorted({name for steps in found for name in steps}, key=_natural):
                steps = pd.Series([each[what] for each in found if what in each], dtype="Int64")
                rows.append([what, len(steps), number(middle(steps.tolist())), span(steps), steps.isna().sum()])
        text.append(f"## {supervision}: {len(runs)} runs")
        text.append(markdown(["what", "runs", "median step", "range", "never"], rows))
        if len(runs) > 1:
            text.append(f"hops: {sentence(agreement(maps[0]))}")
            text.append(f"heads by (layer, destination, role): {sentence(agreement(maps[1]))}")
    return "\n\n".join(text)


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


def draw(tables: Tables) -> Any:
    """One panel for each supervision, one row for each hop: runs as dots that grow with their number, median and range."""
    from matplotlib.figure import Figure

    table = tables["emergence"]
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
        axes.set_xlim(0, last * 1.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    panels[-1].set_xlabel("training step from which the accuracy stays at 90 % or more (area: number of runs; black: median)")
    return figure


def _draw_hop(axes: Any, place: int, steps: list[int | None], colour: Any) -> None:
    median, runs_at = middle(steps), Counter(step for step in steps if step is not None)
    if runs_at:
        axes.plot([min(runs_at), max(runs_at)], [place, place], color=colour, linewidth=1.2)
    for step, count in runs_at.items():
        axes.plot(step, place, "o", color=colour, markersize=5 * count**0.5, markeredgewidth=0)
    if median is not None:
        axes.plot([median, median], [place - 0.42, place + 0.42], color="black", linewidth=1.5)
    if never := len(steps) - runs_at.total():
        right = axes.get_yaxis_transform()
        axes.text(1.0, place, f"{never} of {len(steps)} never", transform=right, ha="right", va="center", fontsize=9)


if __name__ == "__main__":
    main(Claim(__doc__, "emergence", ("curriculum",), measure, tell, draw, wanted=wanted))
