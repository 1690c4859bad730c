"""Is the task learned only under the implicit curriculum, at the paper's own scale? (docs/results/paper.md#scale)

    python analyses/paper_scale.py     # from analyses/results/scale-runs.csv: seconds

The runs are those of the `scale-curriculum-…` sweeps, 32 planned in each: up to 24,000 steps of batch 128, one recipe, with
`chain` (the implicit curriculum) or with `final` alone. They take hours, a run of each in turn (`train_in_turn.py`), and are
gathered by `collect_scale.py`; how many are there is said first. Where nothing but the last hop is asked and no run learns it,
its accuracy stands beside three guesses, exact over all arrangements of the task: any of the symbols at which chains end; the
likeliest of them, given where they stand; and the likeliest, given all statements and not which chain is asked about
(`assumption.blind`); with each, in how many runs it is beaten (Wilson's 99.9 % lower limit, as in `depth.py`). Prints Markdown
and draws scale.png: the share of runs that were solved by each step.
"""

import argparse
from typing import Any

import pandas as pd
from assumption import all_statements, blind, ends_of
from claims import BLUE, GREY, ORANGE, RESULTS, markdown, middle, number, percent, planned_runs, planned_task, rate, span
from curriculum import solved_by
from scale_layers import beaten

from stackheads.report.figures import save_figure
from stackheads.report.figures.style import plain
from stackheads.tasks import Retrieval

TASKS = {"cycle": "cycle of 8, D = 4", "d3": "paper's task, D = 3", "d4": "paper's task, D = 4"}
ARMS = {"chain": BLUE, "final": ORANGE}
PLANS = [plan for task in TASKS for supervision in ARMS for plan in planned_runs(f"scale-curriculum-{task}-{supervision}")]
STEPS = PLANS[0].settings["training"]["steps"]


def arm(runs: pd.DataFrame, task: str, supervision: str) -> pd.DataFrame:
    """The runs of one arm."""
    return runs[runs["arm"] == f"scale-curriculum-{task}-{supervision}"]


def fisher(chain: pd.DataFrame, final: pd.DataFrame) -> float:
    """Two-sided p of the difference in success."""
    from scipy.stats import fisher_exact

    _, p = fisher_exact([[int(each["solved"].sum()), int((~each["solved"]).sum())] for each in (chain, final)])
    return float(p)


def tell(runs: pd.DataFrame) -> str:
    """Success with intervals, steps and tests."""
    whole = len(runs) == len(PLANS)
    lines = [f"{len(runs)} of {len(PLANS)} runs" + ("" if whole else " (PARTIAL)"), ""]
    rows = []
    for task, words in TASKS.items():
        for supervision in ARMS:
            group = arm(runs, task, supervision)
            solved = rate(int(group["solved"].sum()), len(group))
            rows.append(
                [words, supervision, len(group), solved, number(middle(group["solved_at"].tolist())), span(group["solved_at"])]
            )
    lines.append(markdown(["task", "supervision", "runs", "solved [95 %]", "median step (all runs)", "range (solved)"], rows))
    tests = (f"{words} p = {fisher(arm(runs, task, 'chain'), arm(runs, task, 'final')):.2g}" for task, words in TASKS.items())
    return "\n".join([*lines, "", f"chain against final, Fisher's exact test: {'; '.join(tests)}", "", guessed(runs)])


def guessed(runs: pd.DataFrame) -> str:
    """The last hop's accuracy without the curriculum beside guesses, for tasks whose chains end."""
    rows = []
    for name, words in TASKS.items():
        task = planned_task(f"scale-curriculum-{name}-final")
        if isinstance(task, Retrieval):
            accuracy = arm(runs, name, "final")[f"accuracy_{task.max_hops}"]
            best = 1 / task.chains, *(blind(task, known).right for known in (ends_of, all_statements))
            guesses = [f"{percent(share)}; {beaten(accuracy, share)}" for share in best]
            rows.append([words, len(accuracy), f"{percent(accuracy.median())} ({span(accuracy, percent)})", *guesses])
    headings = ["task, `final`", "runs", "last hop, median (range)", "any end", "the likeliest by place", "without the query"]
    return "A guess, and how many runs beat it:\n\n" + markdown(headings, rows)


def draw(runs: pd.DataFrame) -> Any:
    """A panel for each task: the share of runs solved by each step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.9), layout="constrained")
    steps = list(range(0, STEPS + 1, 50))
    panels = figure.subplots(1, len(TASKS), sharey=True)
    panels[0].set_ylabel("share of runs solved by then")
    for axes, (task, words) in zip(panels, TASKS.items(), strict=True):
        for supervision, colour in ARMS.items():
            group = arm(runs, task, supervision)
            shares = solved_by(group["solved_at"].tolist(), steps)
            axes.step(steps, shares, where="post", color=colour, linewidth=2, label=f"{supervision}, {len(group)} runs")
        axes.axhline(1, color=GREY, linewidth=0.6, linestyle=":")
        axes.set(title=words, xlabel="training step", ylim=(-0.03, 1.05))
        axes.title.set_fontsize(9)
        axes.legend(frameon=False, fontsize=8, loc="center right")
        plain(axes)
    if len(runs) < len(PLANS):
        figure.suptitle(f"NOT ALL RUNS: {len(runs)} of {len(PLANS)}", color=ORANGE, fontsize=9)
    return figure


def main() -> None:
    """Run the script from the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    runs = pd.read_csv(RESULTS / "scale-runs.csv")
    runs = runs[runs["arm"].str.startswith("scale-curriculum-")]  # the others are `scale_layers.py`'s
    print(tell(runs))
    save_figure(draw(runs), RESULTS / "scale.png")


if __name__ == "__main__":
    main()
