"""Does dropping whole heads in training make heads redundant?

    python analyses/dropping.py                  # tables and figure from analyses/results/dropping.csv, seconds
    python analyses/dropping.py --from-scratch   # with the sweep, 10 runs of about 2 minutes a core; then 20 s a run

The sweep `dropping`: a cycle of 8 symbols, hops 1 to 4, dense supervision, 3 layers of 4 heads, 4,000 steps, training seeds 0
to 4, without dropping and with each head of each example dropped with probability 0.1 (drop branch, Fan et al. 2020, arXiv
2006.10270; `training/dropping.py`). All is measured on the last snapshot with all heads in place. Columns of dropping.csv:

`confirmed`, `redundant`, …  cells (head, destination) by status (`analyze`, 256 examples, seed 0; kept below runs/mechanisms)
`cell_H`, `effect_H`         the one cell whose resample ablation destroys most of hop H's margin at the query, and the share it
                             destroys; `lost_H`: the accuracy that it costs
`left_H`                     least accuracy on hop H with one whole head set to zero everywhere (1,024 fresh examples)

If heads become each other's backup, `redundant` rises, `effect` and `lost` fall and `left` rises. p is that of an
exact permutation test on the difference of means, two-sided; five runs against five give 0.008 at the least. Seeds 3 and 4 were
added after the first three had been looked at, for a p that can be small; nothing else was changed.

Writes analyses/results/dropping.csv and dropping.png.
"""

from collections import Counter
from typing import Any

import pandas as pd
from claims import BLUE, KEPT, ORANGE, Claim, Run, Tables, kept_analysis, main, markdown, span

from stackheads import load
from stackheads.interventions import ablation_edits, destination_rows, recorded, rerun
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import all_heads, analysing
from stackheads.seeds import Reserved, bare
from stackheads.tasks.scoring import query_accuracy
from stackheads.types import Destination

HOPS = (1, 2, 3, 4)
STATUSES = ("confirmed", "redundant", "opposing", "causal-unclassified", "pattern-only", "undecided", "none")
"""Every status; tables that are older than one of them have no column for it."""
EXAMPLES = 1024
COLOURS = {0.0: BLUE, 0.1: ORANGE}


def measure(runs: list[Run], workers: int) -> Tables:
    """A row for each run."""
    return {"dropping": pd.DataFrame([dropping_row(run) for run in runs])}


def dropping_row(run: Run) -> dict[str, Any]:
    """Accuracy, statuses and what single cells and heads are worth in one run."""
    found = kept_analysis(run, KEPT)
    statuses = Counter(found.labels["status"])
    row = {**run.names, "drop_heads": run.plan.settings["training"]["drop_heads"]}
    row |= {f"accuracy_{hop}": run.result[f"accuracy_{hop}"] for hop in HOPS}
    row |= {name: statuses[name] for name in STATUSES}
    effects = found.effects[found.effects["ablation"] == "resample"]
    left = least_accuracy(run)
    for hop in HOPS:
        most = effects[effects["readout"] == f"hop {hop} @query"].nlargest(1, "effect").to_dict("records")[0]
        row |= {f"cell_{hop}": f"{most['head']} @{most['destination']}", f"effect_{hop}": round(most["effect"], 4)}
        row |= {f"lost_{hop}": round(most["accuracy_effect"], 4), f"left_{hop}": round(left[hop], 4)}
    return row


def least_accuracy(run: Run) -> dict[int, float]:
    """For each hop the least accuracy at the query with one head set to zero at all positions."""
    checkpoint = load(run.folder)
    model, task = checkpoint.model, checkpoint.task
    with analysing(model):
        clean = recorded(model, task.sample(EXAMPLES, bare(Reserved.FRESH)))
        there = [destination for destination in Destination if bool(destination_rows(clean.batch, destination).any())]
        shares = []
        for head in all_heads(model):
            edits = [edit for destination in there for edit in ablation_edits(clean, [head], destination, "zero")]
            shares.append(query_accuracy(task, rerun(model, clean, edits), clean.batch))
    return {hop: min(share[hop] for share in shares) for hop in HOPS}


def permutation_p(one: list[float], other: list[float]) -> float:
    """Two-sided p of the difference of means, over all ways to divide the runs into two groups of these sizes."""
    import numpy as np
    from scipy.stats import permutation_test

    def difference(a: Any, b: Any, axis: int) -> Any:
        return np.mean(a, axis=axis) - np.mean(b, axis=axis)

    return float(permutation_test((one, other), difference, vectorized=True, n_resamples=100_000).pvalue)


def rows_of(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The quantities that are compared, one value for each run."""
    cells = table[[name for name in STATUSES if name in table]].sum(axis=1)
    quantities = {f"accuracy, hop {hop} (%)": 100 * table[f"accuracy_{hop}"] for hop in HOPS}
    quantities |= {f"{status} cells, of {cells.max():.0f}": table[status] for status in STATUSES if status in table}
    quantities |= {f"effect of the most important cell, hop {hop} (% of margin)": 100 * table[f"effect_{hop}"] for hop in HOPS}
    quantities |= {f"accuracy it costs, hop {hop} (points)": 100 * table[f"lost_{hop}"] for hop in HOPS}
    return quantities | {
        f"accuracy left without the most important head, hop {hop} (%)": 100 * table[f"left_{hop}"] for hop in HOPS
    }


def tell(tables: Tables) -> str:
    """Each quantity without and with dropping: median and range over seeds, and p."""
    table = tables["dropping"]
    parts = dict(list(table.groupby("drop_heads")))
    rows = []
    for name, values in rows_of(table).items():
        row: list[Any] = [name]
        for group in parts.values():
            mine = values.loc[group.index]
            row.append(f"{mine.median():.1f} ({span(mine, lambda value: f'{value:.1f}')})")
        enough = len(parts) == 2 and min(map(len, parts.values())) > 1
        one, other = ([values.loc[group.index].tolist() for group in parts.values()] * 2)[:2]
        rows.append([*row, f"{permutation_p(one, other):.3f}" if enough and values.nunique() > 1 else "–"])
    columns = [f"drop {rate}: median (range), {len(group)} runs" for rate, group in parts.items()]
    single = "; ".join(f"drop {rate}: {_cells(group)}" for rate, group in parts.items())
    bar = Thresholds().redundant_factor
    note = (
        f"A cell is redundant where only the pair matters (joint effect > {bar} × the sum).\n\nMost important cells: {single}"
    )
    return f"{markdown(['', *columns, 'p'], rows)}\n\n{note}"


def _cells(group: pd.DataFrame) -> str:
    counts = Counter(cell for hop in HOPS for cell in group[f"cell_{hop}"])
    return ", ".join(f"{cell} ({count})" for cell, count in counts.most_common(4))


def draw(tables: Tables) -> Any:
    """Statuses; the effect of the most important cell; what is left without the most important head. Every run a dot."""
    from matplotlib.figure import Figure

    table = tables["dropping"]
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    statuses = [status for status in STATUSES if status in table and (status == "redundant" or table[status].any())]
    for place, (rate, group) in enumerate(table.groupby("drop_heads")):
        style = {"color": COLOURS[rate], "shift": 0.16 * (2 * place - 1), "label": f"drop {rate}, {len(group)} runs"}
        _dots(panels[0], [group[status] for status in statuses], **style)
        _dots(panels[1], [group[f"effect_{hop}"] for hop in HOPS], **style)
        _dots(panels[2], [group[f"left_{hop}"] for hop in HOPS], **style)
    panels[0].set_xticks(range(len(statuses)), [status.replace("-", "-\n") for status in statuses], fontsize=8)
    panels[0].set(title="cells (head, destination) by status", ylabel="cells", ylim=(0, None))
    panels[1].set(title="most important cell ablated", ylabel="share of the margin destroyed", ylim=(0, 1.1))
    panels[2].set(title="most important head set to zero", ylabel="accuracy left", ylim=(0, 1.03))
    for axes in panels[1:]:
        axes.set_xticks(range(len(HOPS)), [f"hop {hop}" for hop in HOPS])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _dots(axes: Any, columns: list[pd.Series], color: str, shift: float, label: str) -> None:
    for place, values in enumerate(columns):
        name = label if place == 0 else None
        axes.plot([place + shift] * len(values), values, "o", color=color, alpha=0.55, markeredgewidth=0, label=name)
        axes.plot(place + shift, values.median(), "_", color=color, markersize=18, markeredgewidth=2.5)


CLAIM = Claim(__doc__, "dropping", ("dropping",), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
