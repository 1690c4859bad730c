"""Which mechanism does each architecture find, and what share of it do the labels cover?

    python analyses/mechanisms.py                  # tables and figure from analyses/results/mechanisms.csv, seconds
    python analyses/mechanisms.py --from-scratch   # with the four sweeps, 82 runs; then half a minute a run and core

Or only the runs that the table says are solved, in the order of the sweeps' turns; they may be begun again at any moment:

    python analyses/train_in_turn.py curriculum depth-bidirectional depth-causal dropping \\
        --but-for analyses/results/mechanisms.csv --unsolved
    python analyses/mechanisms.py --from-scratch --finished --keep

Every run of the sweeps `curriculum`, `depth-bidirectional`, `depth-causal` and `dropping` that is solved (every hop at 99 % or
more at the query) is analysed at its last snapshot (`analyze`, 256 examples, seed 0); each analysis is kept below
runs/mechanisms and not made again. Its selectors are found as well, fitted to attention (`Analysis.selectors`, 256
examples). Training seeds as in the sweeps. The names of mechanisms are those of `explanation/mechanism.py`; by labels `other`
means that the confirmed heads alone do not bring the query every hop, by selectors that what heads look at does not. Columns of
mechanisms.csv, a row for each finished run, empty from `mechanism` on where it is not solved:

`cells`, `confirmed`, …   (head, destination) cells by status
`explained`               hops on which the compiled labels answer as the model does in 95 % of fresh examples or more
`roles`                   the confirmed cells as (layer, destination, role): what can be compared between seeds
`by_selectors`            the mechanism by selectors, with `reason` why
`kept`                    least recovered share of a hop at the query, all heads looking only where their selectors say, at the
                          last level: where attention alone leaves a gap, with weights that are fitted to the answer
`kept_by_attention`       the same before weights are fitted to the answer
`kept_by_roles`           the same as `kept` with selectors that are roles alone
`selectors`, `numbers`    how many selectors do something, and of how many numbers
`kept_swapped`            a null: the most that is recovered of a hop when each head has the next head's selectors
`kept_shuffled`           another: when each example looks where the selectors say for the next one

Writes analyses/results/mechanisms.csv and mechanisms.png.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from claims import GREY, KEPT, Claim, Run, Tables, kept_analysis, last_snapshot, main, markdown, number, percent, rate, span
from tqdm import tqdm

from stackheads import Analysis
from stackheads.explanation.carried import roles_alone
from stackheads.explanation.measuring import TO_ANSWER
from stackheads.labelling.stability import layer_roles
from stackheads.models import load
from stackheads.processes import worker_pool
from stackheads.validation.kept import kept, key

MECHANISMS = {
    "tripling": "#009E73",
    "doubling": "#0072B2",
    "one hop per layer": "#56B4E9",
    "shortcut": "#D55E00",
    "other": "#E69F00",
    "none": "#BBBBBB",
}
STATUSES = ("confirmed", "redundant", "opposing", "causal-unclassified", "pattern-only", "undecided", "none")
"""Every status; tables that are older than one of them have no column for it."""
IDLE = ("pattern-only", "none")
EXPLAINED = 0.95


def measure(runs: list[Run], workers: int) -> Tables:
    """A row for each run."""
    with worker_pool(workers) as pool:
        rows = list(tqdm(pool.map(mechanism_row, runs), total=len(runs), desc="runs", disable=None))
    return {"mechanisms": pd.DataFrame(rows)}


def mechanism_row(run: Run) -> dict[str, Any]:
    """What was found in one run; only its name and result where it is not solved."""
    row = {**run.names, "architecture": architecture(run), "solved": run.result["solved"]}
    if not run.result["solved"]:
        return row
    found = kept_analysis(run, KEPT)
    statuses = Counter(found.labels["status"])
    explained = sum(share >= EXPLAINED for share in (found.program_agreement or {}).values())
    roles = "; ".join(
        f"L{layer} {place} {role}" + (f" × {count}" if count > 1 else "")
        for (layer, place, role), count in sorted(layer_roles(found.labels).items())
    )
    row |= {"mechanism": found.mechanism, "cells": len(found.labels), **{name: statuses[name] for name in STATUSES}}
    return row | {"explained": explained, "roles": roles} | kept_selectors(run, found)


def kept_selectors(run: Run, found: Analysis) -> dict[str, Any]:
    """What the selectors of one run say, kept beside its analysis by what it belongs to."""
    last, settings = last_snapshot(run), {"examples": 256, "fitted_to": "attention"}
    part = f"selectors-{key(settings, last, Path(__file__))}"
    (row,) = kept(KEPT / run.sweep / run.plan.name, part, lambda: [selectors_row(last, found, settings)])
    return row


def selectors_row(folder: Path, found: Analysis, settings: dict[str, Any]) -> dict[str, Any]:
    """What the selectors of one checkpoint say."""
    checkpoint = load(folder)
    chosen = found.selectors(checkpoint.model, checkpoint.task, progress=False, **settings)
    last = chosen.curve[chosen.curve["level"] == chosen.levels[-1]]
    of_level = {level: chosen.recovered(level) for level in chosen.levels}
    least = {level: min(shares.values()) for level, shares in of_level.items()}
    row = {
        "by_selectors": chosen.mechanism,
        "reason": chosen.mechanism_reason,
        "kept": least[chosen.levels[-1]],
        "kept_by_attention": least[[level for level in chosen.levels if not level.endswith(TO_ANSWER)][-1]],
        "kept_by_roles": min(roles_alone(of_level).values()),
        "selectors": int(last["selectors"].iloc[0]),
        "numbers": int(last["numbers"].iloc[0]),
        "kept_swapped": most_at_query(chosen.swapped),
        "kept_shuffled": most_at_query(chosen.shuffled),
    }
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def most_at_query(null: pd.DataFrame) -> float:
    """The most that a null recovers of a hop at the query."""
    return float(null.loc[null["destination"] == "query", "recovered"].max())


def architecture(run: Run) -> str:
    """Task and model in words, without the seed."""
    task, model, training = (run.plan.settings[part] for part in ("task", "model", "training"))
    kind = "causal" if task.get("attention_dir") == "causal" else "both ways"
    dropped = f", heads dropped {training['drop_heads']}" if training.get("drop_heads") else ""
    heads = f"{model['layers']} × {model['heads']} heads of {model['d_head']}"
    return f"{kind}, {task.get('supervision', 'dense')}, {heads}{dropped}"


def groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs of each architecture, in the order of the table."""
    return [(name, group) for name, group in table.groupby("architecture", sort=False)]


def shares(solved: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """For each run the share of its cells that are confirmed, of all and of those that do something."""
    active = solved["cells"] - solved[list(IDLE)].sum(axis=1)
    return solved["confirmed"] / solved["cells"], solved["confirmed"] / active.where(active > 0)


def tell(tables: Tables) -> str:
    """Mechanism × architecture, then what the labels cover."""
    table, counts, cover = tables["mechanisms"], [], []
    for name, group in groups(table):
        solved = group[group["solved"]]
        found = Counter(solved["mechanism"].fillna("none"))
        counts.append([name, len(group), len(solved), *(found[mechanism] or "" for mechanism in MECHANISMS)])
        if len(solved):
            of_all, of_active = shares(solved)
            row = [name, len(solved), percent(of_all.median()), span(of_all, percent), percent(of_active.median())]
            cover.append([*row, span(of_active, percent), number(solved["explained"].median()), solved["roles"].nunique()])
    text = [markdown(["architecture", "runs", "solved", *MECHANISMS], counts)]
    header = ["architecture", "solved runs", "cells confirmed (%)", "range", "of cells that matter (%)", "range"]
    text.append(markdown([*header, "hops explained (median)", "different circuits"], cover))
    if "by_selectors" in table:  # not in tables that are older than selectors
        text += tell_selectors(table[table["solved"] & table["by_selectors"].notna()])
    total = table[table["solved"]][[name for name in STATUSES if name in table]].sum()
    cells = ", ".join(f"{number(total[name])} {name}" for name in total.index)
    text.append(f"cells of all solved runs by status: {cells}")
    return "\n\n".join(text)


def tell_selectors(there: pd.DataFrame) -> list[str]:
    """Mechanism by selectors × architecture, and how often either names none."""
    header = ["architecture", "solved runs", *(f"{name} by selectors" for name in MECHANISMS if name != "none")]
    header += ["answer kept (least hop, median)", "by attention alone", "by roles", "selectors (median)", "swapped", "shuffled"]
    text = [markdown(header, [by_selectors(name, group) for name, group in groups(there)])]
    for words, column in (("labels", "mechanism"), ("selectors", "by_selectors")):
        text.append(f"other by {words}: {rate(int((there[column] == 'other').sum()), len(there))}")
    return [*text, f"answer kept, least hop, all runs: median {there['kept'].median():.2f}, least {there['kept'].min():.2f}"]


def by_selectors(name: str, there: pd.DataFrame) -> list[Any]:
    """How many runs of an architecture have each mechanism by selectors, and what these keep."""
    found = Counter(there["by_selectors"])
    counts = [found[mechanism] or "" for mechanism in MECHANISMS if mechanism != "none"]
    columns = ["kept", "kept_by_attention", "kept_by_roles", "kept_swapped", "kept_shuffled"]
    kept, by_attention, by_roles, swapped, shuffled = (f"{there[column].median():.2f}" for column in columns)
    selectors = number(there["selectors"].median())
    return [name, len(there), *counts, kept, by_attention, by_roles, selectors, swapped, shuffled]


def draw(tables: Tables) -> Any:
    """Left: mechanisms of the solved runs; right: share of the cells that matter which are confirmed, every run."""
    from matplotlib.figure import Figure

    table = tables["mechanisms"]
    named = groups(table)
    figure = Figure(figsize=(10.5, 1.6 + 0.4 * len(named)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    most = max(len(group) for _, group in named)
    for place, (_, group) in enumerate(named):
        solved, start = group[group["solved"]], 0
        found = Counter(solved["mechanism"].fillna("none"))
        for mechanism, colour in MECHANISMS.items():
            if found[mechanism]:
                left.barh(place, found[mechanism], left=start, color=colour, height=0.7)
                left.text(start + found[mechanism] / 2, place, found[mechanism], ha="center", va="center", fontsize=8)
                start += found[mechanism]
        left.barh(place, len(group) - start, left=start, color="none", edgecolor=GREY, height=0.7, linewidth=0.8)
        if len(solved):
            _, of_active = shares(solved)
            right.plot(of_active, [place] * len(solved), "o", color="#0072B2", alpha=0.5, markeredgewidth=0)
            right.plot(of_active.median(), place, "|", color="black", markersize=16, markeredgewidth=2)
    left.set_yticks(range(len(named)), [name for name, _ in named], fontsize=8)
    left.set(ylim=(len(named) - 0.5, -0.5), xlim=(0, most), xlabel="runs (outlined: not solved)")
    right.set(xlim=(-0.03, 1.03), xlabel="confirmed share of the cells that matter")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles=_handles(), loc="outside lower center", ncols=len(MECHANISMS), frameon=False, fontsize=8)
    return figure


def _handles() -> list[Any]:
    from matplotlib.patches import Patch

    return [Patch(color=colour, label=mechanism) for mechanism, colour in MECHANISMS.items()]


SWEEPS = ("curriculum", "depth-bidirectional", "depth-causal", "dropping")
CLAIM = Claim(__doc__, "mechanisms", SWEEPS, measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
