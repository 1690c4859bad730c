"""Do hops and heads emerge in the same order in every training run?

    python analyses/emergence.py                  # tables and figure from analyses/results/emergence.csv, seconds
    python analyses/emergence.py --from-scratch   # from the runs of the curriculum sweep; about 15 s a run and core

From scratch: every run of the sweep `curriculum` with supervision `chain` or `dense` is labelled at each of its snapshots
(`stackheads.emergence`, 256 examples, seed 0). Each result is kept below runs/emergence, and what is there is not computed
again, so an interrupted call goes on where it was.

Writes analyses/results/emergence.csv, one row per run and hop or followed cell, and emergence.png. "Never" counts as later than
all steps: a median is over all runs, and missing where half of them or more never get there; the range is of those that do.
Heads of different seeds are matched by (layer, destination, role), not by number; the first of them counts, and such a row says
in how many runs it is there at the end. Tau-b and its interval as in `timeline/orders.py`. One order in all runs is *shown*
where the whole interval is at 0.9 or above and the commonest order surely that of more than half of the runs (that it be was
added later: an interval of runs that agree has no width), *contradicted* where the interval is below 0.5, else *not
shown*; what is tied between two snapshots lowers tau-b, and so beside it stands how many of the pairs that both runs put in an
order are in opposite ones, with the bootstrap of runs as its interval. Fewer than four runs that can be compared have no
interval; where all pairs agree the bootstrap has no width, and how many runs may differ is told in its place.

`scale_emergence.py` asks the same of the runs at the paper's scale.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import combinations
from typing import Any

import pandas as pd
from claims import GREY, ROOT, Claim, Run, Tables, main, markdown, middle, number, span
from tqdm import tqdm

from stackheads import Emergence, emergence
from stackheads.errors import CheckpointError
from stackheads.models import snapshots
from stackheads.processes import worker_pool
from stackheads.report.figures import hop_colours
from stackheads.sweeps.plans import Plan
from stackheads.tables import records
from stackheads.timeline.orders import Agreement, agreement, has_width, hop_steps, may_differ, ratio_interval, role_steps
from stackheads.timeline.result import STEP_TYPES, Steps
from stackheads.validation.kept import key

KEPT = ROOT / "runs" / "emergence"
SUPERVISIONS = ("chain", "dense")
EXAMPLES, SEED = 256, 0
SAME, APART = 0.9, 0.5
"""One order in all runs is shown from this tau-b on, contradicted below the other."""

WORDS = {
    "scale-curriculum-d3-chain": "the paper's task, D = 3",
    "scale-curriculum-d4-chain": "the paper's task, D = 4",
    "scale-curriculum-cycle-chain": "a cycle of 8, D = 4",
}
"""What sweeps are called that are not told apart by their supervision."""

Rows = list[dict[str, Any]]


def steps_of(run: Run, keys: bool = False) -> Rows:
    """The steps of one run, kept by what they belong to (`validation/kept.py`); with `keys` key slots are sources, too."""
    folders = snapshots(run.folder)
    settings = {"examples": EXAMPLES, "seed": SEED, "snapshots": list(folders), **({"keys": True} if keys else {})}
    kept = KEPT / run.sweep / run.plan.name / key(settings, *folders.values())
    with suppress(CheckpointError):
        return records(Emergence.load(kept).steps)
    found = emergence(run.folder, EXAMPLES, SEED, progress=False, keys=keys)
    found.save(kept)
    return records(found.steps)


def wanted(plan: Plan) -> bool:
    """Whether a run is one of those that are followed: without a curriculum there is nothing to follow."""
    return plan.settings["task"]["supervision"] in SUPERVISIONS


def measure(runs: list[Run], workers: int, keys: bool = False) -> Tables:
    """One row per run and hop or followed cell."""
    with worker_pool(workers) as pool:
        each = pool.map(partial(steps_of, keys=keys), runs)
        rows = [
            {**run.names, "supervision": run.plan.settings["task"]["supervision"]} | row
            for run, found in zip(runs, tqdm(each, total=len(runs), disable=None), strict=True)
            for row in found
        ]
    return {"emergence": pd.DataFrame(rows).astype({name: kind for name, kind in STEP_TYPES.items() if kind != "object"})}


def by_group(table: pd.DataFrame) -> Iterator[tuple[str, list[Rows]]]:
    """The rows of each run, grouped by sweep and supervision, with the group's name in words."""
    for (sweep, supervision), group in table.astype(STEP_TYPES).groupby(["sweep", "supervision"]):
        yield WORDS.get(str(sweep), str(supervision)), [records(rows) for _, rows in group.groupby("seed")]


def tell(tables: Tables) -> str:
    """For each group of runs the step of every hop and head, and how far the orders agree."""
    text = []
    for words, runs in by_group(next(iter(tables.values()))):
        rows, maps = [], ([hop_steps(run) for run in runs], [role_steps(run) for run in runs])
        for found in maps:
            for what in sorted({name for steps in found for name in steps}, key=_natural):
                steps = pd.Series([each[what] for each in found if what in each], dtype="Int64")
                rows.append([what, len(steps), number(middle(steps.tolist())), span(steps), steps.isna().sum()])
        text.append(f"## {words}: {len(runs)} runs")
        text.append(markdown(["what", "runs", "median step", "range", "never"], rows))
        if len(runs) > 1:
            for what, found in zip(("hops", "heads by (layer, destination, role)"), maps, strict=True):
                text.append(f"{what}: {sentence(agreement(found))}; {against(found)}; one order: {verdict(agreement(found))}")
    return "\n\n".join(text)


def sentence(found: Agreement) -> str:
    """An agreement in words."""
    if not found.modal and found.share == 1:
        return "nothing emerges in any run"
    order = " < ".join(" = ".join(names) for names in found.modal) or "nothing emerges"
    tau = "no two runs can be compared"
    if found.tau is not None:
        tau = f"{tau_words(found)} over {found.pairs} pairs of runs"
        tau += f" ({found.undefined} pairs undefined)" if found.undefined else ""
    share = f"{found.share:.0%} [{found.share_low:.0%}, {found.share_high:.0%}] of {found.runs} runs"
    return f"{tau}; modal order in {share}: {order}"


def tau_words(found: Agreement) -> str:
    """Tau-b and how sure it is."""
    return f"tau-b {found.tau:.2f} {interval(found.tau_low, found.tau_high, found.compared, '.2f')}"


def interval(low: float | None, high: float | None, runs: int, form: str) -> str:
    """An interval over runs; that there is none of a few, and what these say of others where all are alike."""
    if low is None or high is None:
        return f"(no interval of {runs} runs)"
    if not has_width(low, high):
        return f"(all alike; up to {may_differ(runs):.0%} of runs may differ)"
    return f"[{low:{form}}, {high:{form}}]"


def verdict(found: Agreement) -> str:
    """Whether there is one order in all runs, by the interval of tau-b."""
    if found.tau_low is None or found.tau_high is None:
        return "not shown"
    if found.tau_low >= SAME and found.share_low > 0.5:
        return "shown"
    return "contradicted" if found.tau_high < APART else "not shown"


def opposite(one: Steps, other: Steps) -> tuple[int, int]:
    """The pairs of things that two runs both put in an order: how many in opposite ones, and all."""
    counts = Counter[bool]()
    for first, second in combinations(sorted(one.keys() & other.keys()), 2):
        signs = [_sign(run[first], run[second]) for run in (one, other)]
        if all(signs):
            counts[signs[0] != signs[1]] += 1
    return counts[True], counts.total()


def _sign(first: int | None, second: int | None) -> int:
    """Whether the first is earlier, -1, or later, 1; 0 at the same time. What never emerges is later than all that does."""
    one, other = (float("inf") if step is None else step for step in (first, second))
    return (one > other) - (one < other)


def against(runs: Sequence[Steps]) -> str:
    """How many pairs are in opposite orders, in words."""
    of = {(one, other): opposite(runs[one], runs[other]) for one, other in combinations(range(len(runs)), 2)}
    reverse, pairs = map(sum, zip(*of.values(), strict=True))
    if not pairs:
        return "no order"
    compared = {run for pair, (_, both) in of.items() if both for run in pair}
    share = f"{reverse / pairs:.0%} {interval(*ratio_interval(of, len(runs)), len(compared), '.0%')}"
    return f"of {pairs} pairs that two runs put in an order {share} are in opposite ones"


def _natural(name: str) -> tuple[int, str]:
    """Hops by number, the rest by name."""
    return (int(name.split()[1]), "") if name.startswith("hop ") else (0, name)


def draw(tables: Tables, heads: bool = False) -> Any:
    """One panel for each group of runs, one row for each hop: runs as dots that grow with their number, median and range.

    With `heads` below them a row for each (layer, destination, role) that half of the runs or more have at the end.
    """
    from matplotlib.figure import Figure

    table = next(iter(tables.values()))
    hops = sorted(int(hop) for hop in table.loc[table["kind"] == "hop", "hop"].unique())
    colours = {f"hop {hop}": colour for hop, colour in hop_colours(hops).items()}
    groups = [(words, hop_steps_of(runs) | (role_steps_of(runs) if heads else {}), runs) for words, runs in by_group(table)]
    heights = [0.9 + (0.3 if heads else 0.4) * len(rows) for _, rows, _ in groups]
    figure = Figure(figsize=(11 if heads else 8, 1.0 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (words, rows, runs) in zip(panels, groups, strict=True):
        for place, (what, steps) in enumerate(rows.items()):
            _draw_row(axes, place, steps, colours.get(what, GREY))
        title = f"{words}: {len(runs)} runs"
        if len(runs) > 1:
            found = agreement([hop_steps(run) for run in runs])
            share = f"the modal order in {found.share:.0%} [{found.share_low:.0%}, {found.share_high:.0%}]"
            title += f"; {'hops: ' if heads else ''}{share if found.modal or found.share < 1 else 'no hop emerges'}"
            title += "" if found.tau is None else f", {tau_words(found)}"
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1.3 * max([step for steps in rows.values() for step in steps if step is not None], default=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    stays = "the accuracy stays at 90 % or more" + (", or a head confirmed" if heads else "")
    panels[-1].set_xlabel(f"training step from which {stays} (area: number of runs; black: median)")
    return figure


def hop_steps_of(runs: list[Rows]) -> dict[str, list[int | None]]:
    """The step of every hop in each run."""
    found = [hop_steps(run) for run in runs]
    names = sorted({name for steps in found for name in steps}, key=_natural)
    return {name: [steps[name] for steps in found if name in steps] for name in names}


def role_steps_of(runs: list[Rows]) -> dict[str, list[int | None]]:
    """The step of each (layer, destination, role) that half of the runs or more have at the end, by its median."""
    found = [role_steps(run) for run in runs]
    there = {name: [steps[name] for steps in found if name in steps] for name in {name for steps in found for name in steps}}
    often = {name: steps for name, steps in there.items() if 2 * len(steps) >= len(runs)}
    return dict(sorted(often.items(), key=lambda item: (middle(item[1]), item[0])))


def _draw_row(axes: Any, place: int, steps: list[int | None], colour: Any) -> None:
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
