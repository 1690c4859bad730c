"""In how many layers is the paper's task learned, and how many hops in three of them, at its own scale?

    python analyses/scale_layers.py     # from analyses/results/scale-runs.csv: seconds (docs/results/paper.md#layers)

Causal retrieval with distractor chains, the implicit curriculum, up to 24,000 steps of batch 128, 2 heads a layer, one recipe
but for layers and hops. D = 3 by layers, the paper's Figure 4: the sweeps `scale-layers-d3-1`, `-2`, `-3` and `-5`, 8 seeds
each, and for 4 layers `scale-curriculum-d3-chain`. By D at fixed layers: `scale-layers-d2-3`, `-d3-3` and `-d4-3`, in 3; in 5
layers `scale-layers-d3-5` and `scale-curriculum-d4-chain`. They are trained by `train_in_turn.py` and gathered by
`collect_scale.py`.

The exact simulation (`theory.least_layers`) says for each hop from how many layers on it can be known at the query. The rule
was written down before the first run was finished: that depth suffices and is needed is *shown* for D and a number of layers
where in all its runs exactly those hops are answered (99 % of 4,096 fresh examples) that the simulation allows; *contradicted*
where in half of them or more a hop is answered that it forbids, or one is not that it allows; else *not shown*. A hop that is
forbidden may still be guessed: beside its accuracy stands the best guess of one who does not know the chain
(`theory.guesses`) or, where that is better, of one who knows how likely each order of definitions is
(`assumption.order_guesses`), and in how many runs it is beaten (Wilson's 99.9 % lower limit, as in `depth.py`). Prints Markdown
and draws scale-layers.png and scale-hops.png.
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
from stackheads.training.trainer import FRESH_EXAMPLES
from stackheads.types import Destination

ARM = re.compile(r"scale-layers-d(\d+)-(\d+)")
CURRICULUM = {"scale-curriculum-d3-chain": (3, 4), "scale-curriculum-d4-chain": (4, 5)}
"""D and layers of arms that are about the curriculum as well."""
EXAMPLES = FRESH_EXAMPLES
"""On which accuracy at the end of a run is measured."""
PAPERS = 3
"""D of the paper's Figure 4, by layers."""
FIXED = (3, 5)
"""Numbers of layers at which D varies."""

Groups = dict[tuple[int, int], pd.DataFrame]
"""Runs by D and number of layers."""


def size_of(arm: str) -> tuple[int, int] | None:
    """D and the number of layers of an arm; None of one that is about something else."""
    found = ARM.fullmatch(arm)
    return (int(found[1]), int(found[2])) if found else CURRICULUM.get(arm)


@cache
def task(hops: int) -> StatementTask:
    """The task of all arms of so many hops."""
    found = from_config(read_sweep(ROOT / "analyses" / "sweeps" / "scale-curriculum-d3-chain.yaml").task | {"max_hops": hops})
    assert isinstance(found, StatementTask)
    return found


@cache
def allowed(hops: int) -> dict[int, int]:
    """From how many layers on each hop can be known at the query."""
    return {
        least.hop: least.layers for least in least_layers(task(hops)) if least.destination == Destination.QUERY and least.layers
    }


def guess(hop: int, layers: int, hops: int) -> float:
    """The best guess of a hop that so many layers forbid."""
    key = Destination.QUERY, hop, layers
    return max(task(hops).chance(hop), best_guesses(task(hops)).get(key, 0.0), order_guesses(task(hops)).get(key, 0.0))


def verdict(runs: pd.DataFrame, layers: int, hops: int) -> str:
    """What the runs of one number of layers say; see the module."""
    as_said = pd.DataFrame(
        {hop: (runs[f"accuracy_{hop}"] >= ANSWERED) == (least <= layers) for hop, least in allowed(hops).items()}
    ).all(axis=1)
    if as_said.all():
        return "shown"
    return "contradicted" if 2 * as_said.sum() <= len(runs) else "not shown"


def beaten(accuracy: "pd.Series[float]", best: float) -> int:
    """In how many runs a forbidden hop is answered better than by guessing."""
    return sum(wilson(round(share * EXAMPLES), EXAMPLES, CONFIDENCE)[0] > best for share in accuracy)


def of_hop(runs: pd.DataFrame, hop: int, layers: int, hops: int) -> str:
    """Median accuracy and range; bold where depth suffices, else with the best guess and how often it is beaten."""
    if hop > hops:
        return "–"
    accuracy = runs[f"accuracy_{hop}"]
    text = f"{percent(accuracy.median())} ({span(accuracy, percent)})"
    if allowed(hops)[hop] <= layers:
        return f"**{text}**"
    best = guess(hop, layers, hops)
    return f"{text}; guess {percent(best)}, beaten in {beaten(accuracy, best)}"


def tell(groups: Groups) -> str:
    """A row for each D and number of layers."""
    rows, every = [], range(1, max(hops for hops, _ in groups) + 1)
    for (hops, layers), runs in groups.items():
        can = ", ".join(str(hop) for hop, least in allowed(hops).items() if least <= layers) or "none"
        solved = rate(int(runs["solved"].sum()), len(runs)), number(middle(runs["solved_at"].tolist()))
        accuracies = [of_hop(runs, hop, layers, hops) for hop in every]
        rows.append([hops, layers, len(runs), can, *solved, *accuracies, verdict(runs, layers, hops)])
    header = ["D", "layers", "runs", "hops that can be known", "solved [95 %]", "median step (all runs)"]
    return markdown([*header, *(f"hop {hop} (%)" for hop in every), "as the simulation says"], rows)


def draw(groups: Groups, along: str) -> Any:
    """A panel for each hop: accuracy of every run against layers or D, the best guess, and where it can be known."""
    from matplotlib.figure import Figure

    every = range(1, max(hops for hops, _ in groups) + 1)
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    panels = figure.subplots(1, len(every), sharey=True)
    panels[0].set_ylabel("accuracy at the query")
    for axes, hop in zip(panels, every, strict=True):
        for (hops, layers), runs in groups.items():
            x = layers if along == "layers" else hops
            if hop > hops:
                continue
            beside = [x + 0.4 * (place / max(1, len(runs) - 1) - 0.5) for place in range(len(runs))]
            can = allowed(hops)[hop] <= layers
            axes.plot(beside, sorted(runs[f"accuracy_{hop}"]), ".", color=BLUE if can else GREY, markersize=5)
            if not can:
                axes.plot([x - 0.3, x + 0.3], [guess(hop, layers, hops)] * 2, color=ORANGE, linewidth=1.5)
        ticks = sorted({layers if along == "layers" else hops for hops, layers in groups})
        axes.set(title=f"hop {hop}", xlabel=along, xticks=ticks, xlim=(ticks[0] - 0.5, ticks[-1] + 0.5), ylim=(0, 1.04))
        axes.title.set_fontsize(9)
        plain(axes)
    panels[0].plot([], [], ".", color=BLUE, label="can be known, by the simulation")
    panels[0].plot([], [], ".", color=GREY, label="can't")
    panels[0].plot([], [], color=ORANGE, linewidth=1.5, label="best guess")
    panels[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def main() -> None:
    """Run the script from the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    runs = pd.read_csv(RESULTS / "scale-runs.csv")
    sizes = runs["arm"].map(size_of)
    groups = {size: runs[sizes == size] for size in sorted(set(sizes.dropna()))}
    by_layers = {size: group for size, group in groups.items() if size[0] == PAPERS}
    if not by_layers.keys() - {CURRICULUM["scale-curriculum-d3-chain"]}:
        sys.exit("error: runs of other numbers of layers are in scale-runs.csv, got none: train and gather them")
    print(tell(by_layers))
    save_figure(draw(by_layers, "layers"), RESULTS / "scale-layers.png")
    for layers in FIXED:
        at = {size: group for size, group in groups.items() if size[1] == layers}
        print("", tell(at), sep="\n")
        if layers == FIXED[0]:
            save_figure(draw(at, "D"), RESULTS / "scale-hops.png")


if __name__ == "__main__":
    main()
