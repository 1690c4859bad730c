"""How many layers hop j needs: the closed forms, their logarithms, the paper's bound, and the simulated flow of information.

    python analyses/theory_of_depth.py                  # the figure, from analyses/results/theory.csv; a few seconds
    python analyses/theory_of_depth.py --from-scratch   # the CSV too; a few seconds on one core

Hops 1 to 32 on three tasks: both ways on a cycle of 66 symbols (more than twice the hops, so that the way round is no help);
causal with definitions first, and causal in shuffled order, on two chains of 32. 64 examples each, seed 0. Columns:

`bound`      the closed form at this destination and for this attention (`theory/bounds.py`)
`log`        log3(4 j + 1) both ways, log2(2 j + 1) causal: the closed form at the query before it is rounded up
`paper`      log3(2 j), the bound of Musat (arXiv 2411.12118), which makes no difference between the two
`first`      least layers in which the simulation knows the whole chain in some row
`simulated`  in every row; empty if never, since value slots do not see what stands after them
`share`      share of rows in which it ever does, of `rows`

Writes analyses/results/theory.csv and analyses/results/theory.png.
"""

from typing import Any

import pandas as pd
from claims import BLUE, GREY, ORANGE, Claim, Run, Tables, main, markdown, number

from stackheads.tasks import Cycle, Retrieval
from stackheads.theory import layers_needed, least_layers, log2_bound, log3_bound, paper_bound
from stackheads.types import Destination

HOPS, EXAMPLES, SEED = 32, 64, 0
TASKS = {
    "both ways": Cycle(symbols=2 * HOPS + 2, max_hops=HOPS),
    "causal, definitions first": Retrieval(chains=2, max_hops=HOPS, attention_dir="causal"),
    "causal, shuffled": Retrieval(chains=2, max_hops=HOPS, attention_dir="causal", order="shuffled"),
}


def measure(runs: list[Run], workers: int) -> Tables:
    """One row per task, destination and hop. No runs are needed."""
    rows = []
    for name, task in TASKS.items():
        log = log3_bound if task.attention_dir == "bidirectional" else log2_bound
        for least in least_layers(task, EXAMPLES, SEED):
            if least.destination == Destination.KEY or not least.rows:
                continue
            row = {"task": name, "destination": least.destination.value, "hop": least.hop}
            row["bound"] = layers_needed(least.hop, task.attention_dir, least.destination)
            row |= {"log": round(log(least.hop), 4), "paper": round(paper_bound(least.hop), 4)}
            row |= {"first": least.first, "simulated": least.layers, "share": round(least.shares[-1], 4), "rows": least.rows}
            rows.append(row)
    return {"theory": pd.DataFrame(rows).astype({"first": "Int64", "simulated": "Int64"})}


def tell(tables: Tables) -> str:
    """Layers at the query for some hops: closed form and simulation."""
    table = tables["theory"]
    at_query, rows = table[table["destination"] == "query"], []
    for hop in (1, 2, 3, 4, 8, 16, 32):
        row: list[Any] = [hop, f"{at_query.loc[at_query['hop'] == hop, 'paper'].iloc[0]:.2f}"]
        for name in TASKS:
            found = at_query[(at_query["task"] == name) & (at_query["hop"] == hop)].iloc[0]
            lucky = "" if found["first"] == found["simulated"] else f" (from {number(found['first'])})"
            row.append(f"{number(found['bound'])}, {number(found['simulated'])}{lucky}")
        rows.append(row)
    return markdown(["hop", "paper", *(f"{name}: closed form, simulated" for name in TASKS)], rows)


def draw(tables: Tables) -> Any:
    """Two panels: both ways and causal, at the query; value slots are the same where they see their chain."""
    from matplotlib.figure import Figure

    table = tables["theory"]
    at_query = table[table["destination"] == "query"]
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    both, causal = (at_query[at_query["task"] == name] for name in ("both ways", "causal, definitions first"))
    shuffled = at_query[at_query["task"] == "causal, shuffled"]
    for panel, rows, title, log in (
        (panels[0], both, "attention looks both ways", "log$_3$(4j + 1)"),
        (panels[1], causal, "causal attention", "log$_2$(2j + 1)"),
    ):
        hop = rows["hop"]
        panel.step(hop, rows["bound"], where="mid", color=BLUE, label="closed form")
        panel.plot(hop, rows["log"], color=BLUE, linewidth=0.9, linestyle="--", label=log)
        panel.plot(hop, rows["paper"], color=GREY, linewidth=0.9, linestyle=":", label="paper: log$_3$(2j)")
        panel.plot(hop, rows["simulated"], "o", color="black", markersize=3.5, label="simulated")
        panel.set(title=title, xlabel="hop j")
        panel.spines[["top", "right"]].set_visible(False)
    lucky = shuffled[shuffled["first"] < shuffled["simulated"]]
    panels[1].vlines(lucky["hop"], lucky["first"], lucky["simulated"], color=ORANGE, linewidth=0.9)
    panels[1].plot(lucky["hop"], lucky["first"], "^", color=ORANGE, markersize=4.5, label="shuffled: best to worst example")
    panels[0].set(ylabel="layers needed at the query", ylim=(0, 7.5), yticks=range(8), xlim=(0, HOPS + 1))
    panels[1].set(xlim=(0, HOPS + 1))
    for panel in panels:
        panel.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


if __name__ == "__main__":
    main(Claim(__doc__, "theory", (), measure, tell, draw))
