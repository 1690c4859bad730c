"""How many layers hop j needs: the closed forms, their logarithms, the paper's bound, and the simulated flow of information.

    python analyses/05_theory.py                  # the figure, from analyses/results/theory.csv; a few seconds
    python analyses/05_theory.py --from-scratch   # the CSV too; a few seconds on one core

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

import argparse
from pathlib import Path

import pandas as pd

from stackheads.models.files import write_file
from stackheads.tasks import Cycle, Retrieval
from stackheads.theory import layers_needed, least_layers, log2_bound, log3_bound, paper_bound
from stackheads.types import Destination

RESULTS = Path(__file__).resolve().parent / "results"
HOPS, EXAMPLES, SEED = 32, 64, 0
TASKS = {
    "both ways": Cycle(symbols=2 * HOPS + 2, max_hops=HOPS),
    "causal, definitions first": Retrieval(chains=2, max_hops=HOPS, attention_dir="causal"),
    "causal, shuffled": Retrieval(chains=2, max_hops=HOPS, attention_dir="causal", order="shuffled"),
}
INK, BLUE, ORANGE, GREY = "#000000", "#0072B2", "#D55E00", "#7F7F7F"  # Okabe and Ito: safe for the colour-blind


def simulate() -> pd.DataFrame:
    """One row per task, destination and hop."""
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
    return pd.DataFrame(rows).astype({"first": "Int64", "simulated": "Int64"})


def draw(table: pd.DataFrame, path: Path) -> None:
    """Two panels: both ways and causal, at the query; value slots are the same where they see their chain."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    at_query = table[table["destination"] == "query"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
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
        panel.plot(hop, rows["simulated"], "o", color=INK, markersize=3.5, label="simulated")
        panel.set(title=title, xlabel="hop j")
        panel.spines[["top", "right"]].set_visible(False)
    lucky = shuffled[shuffled["first"] < shuffled["simulated"]]
    panels[1].vlines(lucky["hop"], lucky["first"], lucky["simulated"], color=ORANGE, linewidth=0.9)
    panels[1].plot(lucky["hop"], lucky["first"], "^", color=ORANGE, markersize=4.5, label="shuffled: best to worst example")
    panels[0].set(ylabel="layers needed at the query", ylim=(0, 7.5), yticks=range(8), xlim=(0, HOPS + 1))
    panels[1].set(xlim=(0, HOPS + 1))
    for panel in panels:
        panel.legend(frameon=False, fontsize=8, loc="lower right")
    write_file(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png", metadata={"Software": None}))
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from-scratch", action="store_true", help="simulate again, and write the CSV too")
    arguments = parser.parse_args()
    csv = RESULTS / "theory.csv"
    if arguments.from_scratch:
        write_file(csv, lambda temporary: simulate().to_csv(temporary, index=False))
    table = pd.read_csv(csv)
    draw(table, RESULTS / "theory.png")
    print(f"{csv.relative_to(RESULTS.parent.parent)}: {len(table)} rows; theory.png beside it")


if __name__ == "__main__":
    main()
