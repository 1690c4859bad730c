"""Longer chains: are D = 8 and D = 16 learned, and what does the recipe need?

    python analyses/longer_chains.py                  # table and figure from analyses/results/longer*.csv, seconds
    python analyses/longer_chains.py --from-scratch   # with the sweeps, 5 to 40 minutes a run, one core each

The sweeps `longer-d8` (a cycle of 10 symbols, D = 8) and `longer` (a cycle of 18, D = 16): both ways, dense supervision,
4 layers of 2 heads of width 64, d_model 128, 6,000 steps at most, stopped when every hop reaches 99.95 % on 1,024 examples. No
curriculum on the number of symbols. The furthest answer of D = 8 is 5 links away and needs 3 layers, that of D = 16 is 9 links
away and needs all 4 (`theory.layers_needed`). So the sweep `longer-l5` is `longer` with a fifth layer, added when two runs of
`longer` had not learned the hops furthest away. Columns of longer.csv, a row for each run:

`hop_J`      accuracy at the query on 4,096 fresh examples after the last step
`solved_at`  first evaluation (every 250 steps) at which every hop reaches 99 %
`bound`      least layers for the hop that needs most
`mechanism`  of the last snapshot's labels, with the confirmed heads (`analyze`, 256 examples, seed 0)

longer-curves.csv has the accuracy of each hop at each evaluation.
"""

import json
from typing import Any

import pandas as pd
from claims import KEPT, Claim, Run, Tables, kept_analysis, main, markdown, number, percent, plain

from stackheads.report.figures import hop_colours
from stackheads.tasks import Cycle
from stackheads.theory import layers_needed

DEPTHS = {"longer-d8": 8, "longer": 16, "longer-l5": 16}
LEARNT = 0.99


def measure(runs: list[Run], workers: int) -> Tables:
    """What the sweeps stored, with the labels of the last snapshots."""
    rows, curves = [], []
    for run in runs:
        task, depth = Cycle(**run.plan.settings["task"]), DEPTHS[run.sweep]
        shares = {f"hop_{hop}": run.result[f"accuracy_{hop}"] for hop in range(1, depth + 1)}
        found = kept_analysis(run, KEPT)
        heads = "; ".join(f"hop {hop}: {' '.join(heads)}" for hop, heads in found.hops.items())
        needed = max(layers_needed(hop, task.attention_dir, period=task.period) or 0 for hop in range(1, depth + 1))
        rows.append(
            {**run.names, "depth": depth, "steps": run.result["steps"], "solved_at": run.result["solved_at"], "bound": needed}
            | {"mechanism": found.mechanism, "heads": heads, **shares}
        )
        for line in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines()):
            for hop, share in line["accuracy"].items():
                curves.append({**run.names, "depth": depth, "step": line["step"], "hop": int(hop), "accuracy": round(share, 4)})
    return {"longer": pd.DataFrame(rows).astype({"solved_at": "Int64"}), "longer-curves": pd.DataFrame(curves)}


def tell(tables: Tables) -> str:
    """A row for each run, then the step at which each hop was learnt."""
    results, curves = tables["longer"], tables["longer-curves"]
    rows = []
    for row in results.to_dict("records"):
        shares = [row[f"hop_{hop}"] for hop in range(1, row["depth"] + 1)]
        least = f"{percent(min(shares))} (hop {shares.index(min(shares)) + 1})"
        known = [row["sweep"], row["depth"], row["seed"], number(row["steps"]), number(row["solved_at"]), row["bound"]]
        rows.append([*known, least, row["mechanism"], row["heads"]])
    header = ["sweep", "D", "seed", "steps", "all at 99 % by", "layers needed", "least accuracy (%)", "mechanism", "hop heads"]
    order = []
    for (sweep, seed), group in curves.groupby(["sweep", "seed"], sort=False):
        first = group[group["accuracy"] >= LEARNT].groupby("hop")["step"].min()
        by_step = {step: sorted(hops.index) for step, hops in first.groupby(first)}
        order.append([sweep, seed, "; ".join(f"{step:,}: {', '.join(map(str, hops))}" for step, hops in by_step.items())])
    return markdown(header, rows) + "\n\n" + markdown(["sweep", "seed", "hops that first reach 99 % at each step"], order)


def draw(tables: Tables) -> Any:
    """Accuracy of each hop over the steps, a panel for each sweep and a line for each run."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    curves = tables["longer-curves"]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, len(DEPTHS), sharey=True)
    colours = hop_colours(list(range(1, max(DEPTHS.values()) + 1)))
    for axes, (sweep, depth) in zip(panels, DEPTHS.items(), strict=True):
        group = curves[curves["sweep"] == sweep]
        for hop, lines in group.groupby("hop"):
            table = lines.pivot(index="step", columns="seed", values="accuracy")
            axes.plot(table.index, table, color=colours[int(hop)], linewidth=1.2)
        axes.set(title=f"{sweep}: D = {depth}, {group['seed'].nunique()} runs", xlabel="training step", ylim=(0, 1.03))
        plain(axes)
    handles = [Line2D([], [], color=colour, label=f"hop {hop}") for hop, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=7)
    panels[0].set_ylabel("accuracy at the query")
    return figure


CLAIM = Claim(__doc__, "longer", tuple(DEPTHS), measure, tell, draw, further=("longer-curves",))

if __name__ == "__main__":
    main(CLAIM)
