"""In how many layers is the paper's task learned, at its own scale? (docs/results/paper.md#layers; the paper's Figure 4)

    python analyses/scale_layers.py     # from analyses/results/scale-runs.csv: seconds

Causal retrieval with distractor chains, D = 3, the implicit curriculum, up to 24,000 steps of batch 128, 2 heads a layer: the
sweeps `scale-layers-d3-1`, `-2`, `-3` and `-5`, 8 seeds each, and for 4 layers `scale-curriculum-d3-chain`, one recipe but for
the number of layers. They are trained by `train_in_turn.py` and gathered by `collect_scale.py`.

The exact simulation (`theory.least_layers`) says for each hop from how many layers on it can be known at the query. The rule
was written down before the first run: that depth suffices and is needed is *shown* for a number of layers where in all its
runs exactly those hops are answered (99 % of 4,096 fresh examples) that the simulation allows; *contradicted* where in half of
them or more a hop is answered that it forbids, or one is not that it allows; else *not shown*. A hop that is forbidden may
still be guessed: beside its accuracy stands the best guess of one who does not know the chain (`theory.guesses`) or, where that
is better, of one who knows how likely each order of definitions is (`assumption.order_guesses`), and in how many runs it is
beaten (Wilson's 99.9 % lower limit, as in `depth.py`). Prints Markdown and draws scale-layers.png.
"""

import argparse
import re
import sys
from functools import cache
from typing import Any

import pandas as pd
from assumption import order_guesses
from claims import BLUE, GREY, ORANGE, RESULTS, ROOT, markdown, middle, number, percent, plain, rate, span
from depth import ANSWERED, CONFIDENCE, best_guesses

from stackheads.labelling.statistics import wilson
from stackheads.report.figures import save_figure
from stackheads.sweeps.plans import read_sweep
from stackheads.tasks import StatementTask, from_config
from stackheads.theory import least_layers
from stackheads.types import Destination

FOUR = "scale-curriculum-d3-chain"
ARM = re.compile(r"scale-layers-d3-(\d+)")
EXAMPLES = 4096
"""On which accuracy at the end of a run is measured."""
HOPS = (1, 2, 3)


def layers_of(arm: str) -> int | None:
    """The number of layers of an arm; None of one that is about something else."""
    found = ARM.fullmatch(arm)
    return int(found[1]) if found else 4 if arm == FOUR else None


@cache
def task() -> StatementTask:
    """The task of all arms."""
    found = from_config(read_sweep(ROOT / "analyses" / "sweeps" / f"{FOUR}.yaml").task)
    assert isinstance(found, StatementTask)
    return found


@cache
def allowed() -> dict[int, int]:
    """From how many layers on each hop can be known at the query."""
    return {
        least.hop: least.layers for least in least_layers(task()) if least.destination == Destination.QUERY and least.layers
    }


def guess(hop: int, layers: int) -> float:
    """The best guess of a hop that so many layers forbid."""
    key = Destination.QUERY, hop, layers
    return max(task().chance(hop), best_guesses(task()).get(key, 0.0), order_guesses(task()).get(key, 0.0))


def verdict(runs: pd.DataFrame, layers: int) -> str:
    """What the runs of one number of layers say; see the module."""
    right = {hop: int(((runs[f"accuracy_{hop}"] >= ANSWERED) == (allowed()[hop] <= layers)).sum()) for hop in HOPS}
    if all(count == len(runs) for count in right.values()):
        return "shown"
    return "contradicted" if any(2 * count <= len(runs) for count in right.values()) else "not shown"


def beaten(accuracy: "pd.Series[float]", best: float) -> int:
    """In how many runs a forbidden hop is answered better than by guessing."""
    return sum(wilson(round(share * EXAMPLES), EXAMPLES, CONFIDENCE)[0] > best for share in accuracy)


def of_hop(runs: pd.DataFrame, hop: int, layers: int) -> str:
    """Median accuracy and range; bold where depth suffices, else with the best guess and how often it is beaten."""
    accuracy = runs[f"accuracy_{hop}"]
    text = f"{percent(accuracy.median())} ({span(accuracy, percent)})"
    if allowed()[hop] <= layers:
        return f"**{text}**"
    best = guess(hop, layers)
    return f"{text}; guess {percent(best)}, beaten in {beaten(accuracy, best)}"


def tell(groups: dict[int, pd.DataFrame]) -> str:
    """A row for each number of layers."""
    rows = []
    for layers, runs in groups.items():
        can = ", ".join(str(hop) for hop in HOPS if allowed()[hop] <= layers) or "none"
        solved = rate(int(runs["solved"].sum()), len(runs)), number(middle(runs["solved_at"].tolist()))
        rows.append([layers, len(runs), can, *solved, *(of_hop(runs, hop, layers) for hop in HOPS), verdict(runs, layers)])
    header = ["layers", "runs", "hops that can be known", "solved [95 %]", "median step (all runs)"]
    return markdown([*header, *(f"hop {hop} (%)" for hop in HOPS), "as the simulation says"], rows)


def draw(groups: dict[int, pd.DataFrame]) -> Any:
    """A panel for each hop: accuracy of every run against layers, the best guess, and from where on it can be known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.9), layout="constrained")
    panels = figure.subplots(1, len(HOPS), sharey=True)
    panels[0].set_ylabel("accuracy at the query")
    for axes, hop in zip(panels, HOPS, strict=True):
        for layers, runs in groups.items():
            beside = [layers + 0.4 * (place / max(1, len(runs) - 1) - 0.5) for place in range(len(runs))]
            axes.plot(beside, sorted(runs[f"accuracy_{hop}"]), ".", color=BLUE, markersize=5)
            if allowed()[hop] > layers:
                axes.plot([layers - 0.3, layers + 0.3], [guess(hop, layers)] * 2, color=ORANGE, linewidth=1.5)
        axes.axvline(allowed()[hop] - 0.5, color=GREY, linewidth=0.8, linestyle="--")
        axes.set(title=f"hop {hop}", xlabel="layers", xticks=list(groups), ylim=(0, 1.04))
        axes.title.set_fontsize(9)
        plain(axes)
    panels[0].plot([], [], color=ORANGE, linewidth=1.5, label="best guess")
    panels[0].plot([], [], color=GREY, linewidth=0.8, linestyle="--", label="needed by the simulation")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def main() -> None:
    """Run the script from the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    runs = pd.read_csv(RESULTS / "scale-runs.csv")
    layers = runs["arm"].map(layers_of)
    groups = {int(number): group for number, group in runs.groupby(layers)}
    if not groups.keys() - {4}:
        sys.exit("error: runs of other numbers of layers are in scale-runs.csv, got none: train and gather them")
    print(tell(groups))
    save_figure(draw(groups), RESULTS / "scale-layers.png")


if __name__ == "__main__":
    main()
