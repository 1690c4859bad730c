"""Is the task learned only under the implicit curriculum (Musat, arXiv 2411.12118)?

    python analyses/curriculum.py                  # tables and figure from analyses/results/curriculum*.csv, seconds
    python analyses/curriculum.py --from-scratch   # with the sweep, 48 runs of 1.5 to 3 minutes on one core each

The sweep `curriculum`: a cycle of 8 symbols, hops 1 to 4, 4 layers of 2 heads, 4,000 steps; training seeds 0 to 15 for each
supervision: `final` (hop 4 at the query, no curriculum), `chain` (hops 1 to 4 at the query, the paper's) and `dense` (hops 1 to
4 at the query and at all value slots). Nothing but the supervision differs. Definitions:

solved    after the last step every hop that is asked is answered in 99 % of 4,096 fresh examples or more
time      the first evaluation (every 250 steps, 1,024 examples) at which every hop reaches 99 %

The curves are Kaplan and Meier's: as no run stops before the last step, the share solved by a step is the share of runs. Writes
analyses/results/curriculum.csv (a row for each run), curriculum-curves.csv (a row for each evaluation) and curriculum.png.
"""

import json
from itertools import combinations
from typing import Any

import pandas as pd
from claims import BLUE, GREEN, GREY, ORANGE, Claim, Run, Tables, main, markdown, middle, number, percent, plain, rate, span

from stackheads.labelling.statistics import wilson
from stackheads.report.figures import hop_colours

SUPERVISIONS = {"dense": GREEN, "chain": BLUE, "final": ORANGE}
HOPS = (1, 2, 3, 4)
LEARNT = 0.9


def measure(runs: list[Run], workers: int) -> Tables:
    """What the sweep stored: results and evaluations."""
    rows, curves = [], []
    for run in runs:
        names = {**run.names, "supervision": run.plan.settings["task"]["supervision"]}
        shares = {f"hop_{hop}": run.result.get(f"accuracy_{hop}") for hop in HOPS}
        rows.append({**names, "solved": run.result["solved"], "solved_at": run.result["solved_at"], **shares})
        for line in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines()):
            shares = {f"hop_{hop}": line["accuracy"].get(str(hop)) for hop in HOPS}
            curves.append({**names, "step": line["step"], **shares})
    return {"curriculum": pd.DataFrame(rows).astype({"solved_at": "Int64"}), "curriculum-curves": pd.DataFrame(curves).round(4)}


def solved_by(times: list[float | None], steps: list[int]) -> list[float]:
    """Share of runs whose time is at most each step; None is never. All runs are watched to the last step."""
    return [sum(not pd.isna(time) and time <= step for time in times) / len(times) for step in steps]


def fisher_p(results: pd.DataFrame, one: str, other: str) -> float:
    """Two-sided p of the difference between two supervisions' success."""
    from scipy.stats import fisher_exact

    groups = (results.loc[results["supervision"] == name, "solved"] for name in (one, other))
    _, p = fisher_exact([[int(solved.sum()), int((~solved).sum())] for solved in groups])
    return float(p)


def tell(tables: Tables) -> str:
    """Rates and times, then how far the hops got where the whole was not learned."""
    results, text = tables["curriculum"], []
    rows = []
    for supervision in SUPERVISIONS:
        group = results[results["supervision"] == supervision]
        if len(group):
            times = group["solved_at"].tolist()
            solved = rate(int(group["solved"].sum()), len(group))
            rows.append([supervision, solved, number(middle(times)), span(group["solved_at"])])
    text.append(markdown(["supervision", "solved [95 %]", "median step (all runs)", "range (solved)"], rows))
    pairs = combinations([name for name in SUPERVISIONS if (results["supervision"] == name).any()], 2)
    tests = (f"{one} against {other} p = {fisher_p(results, one, other):.2g}" for one, other in pairs)
    text.append(f"solved or not, Fisher's exact test: {', '.join(tests)}")
    rows = []
    for supervision in SUPERVISIONS:
        group = results[results["supervision"] == supervision]
        for hop in HOPS:
            shares = group[f"hop_{hop}"].dropna()
            if len(shares):
                row = [supervision, hop, rate(int((shares >= LEARNT).sum()), len(shares)), percent(shares.median())]
                rows.append([*row, span(shares, percent)])
    text.append(markdown(["supervision", "hop", f"runs at {LEARNT} or more [95 %]", "median accuracy (%)", "range (%)"], rows))
    return "\n\n".join(text)


def draw(tables: Tables) -> Any:
    """Above: share solved by each step, and rates with intervals; below: accuracy per hop over the steps, every run."""
    from matplotlib.figure import Figure

    results, curves = tables["curriculum"], tables["curriculum-curves"]
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    _draw_solved(figure.add_subplot(grid[0, :4]), results, sorted(curves["step"].unique()))
    _draw_rates(figure.add_subplot(grid[0, 4:]), results)
    first = None
    for place, supervision in enumerate(SUPERVISIONS):
        axes = figure.add_subplot(grid[1, 2 * place : 2 * place + 2], sharey=first)
        first = first or axes
        _draw_hops(axes, curves[curves["supervision"] == supervision], supervision)
    first.set_ylabel("accuracy at the query")
    return figure


def _draw_solved(axes: Any, results: pd.DataFrame, steps: list[int]) -> None:
    for supervision, colour in SUPERVISIONS.items():
        times = results.loc[results["supervision"] == supervision, "solved_at"].tolist()
        if times:
            shares = solved_by(times, [0, *steps])
            axes.step([0, *steps], shares, where="post", color=colour, linewidth=2)
            axes.text(steps[-1] * 1.01, shares[-1], f"{supervision}, {len(times)} runs", color=colour, va="center")
    axes.set(xlim=(0, steps[-1] * 1.18), ylim=(-0.03, 1.05), xlabel="training step", ylabel="share of runs solved by then")
    plain(axes)


def _draw_rates(axes: Any, results: pd.DataFrame) -> None:
    for place, (supervision, colour) in enumerate(SUPERVISIONS.items()):
        solved = results.loc[results["supervision"] == supervision, "solved"]
        if len(solved):
            low, high = wilson(int(solved.sum()), len(solved), 0.95)
            axes.plot([place, place], [low, high], color=colour, linewidth=2)
            axes.plot(place, solved.mean(), "o", color=colour, markersize=8)
    axes.set(xlim=(-0.5, len(SUPERVISIONS) - 0.5), ylim=(-0.03, 1.05), ylabel="solved at the end (95 %)")
    plain(axes)
    axes.set_xticks(range(len(SUPERVISIONS)), list(SUPERVISIONS))


def _draw_hops(axes: Any, curves: pd.DataFrame, supervision: str) -> None:
    colours = hop_colours(list(HOPS))
    for hop in HOPS:
        lines = curves.dropna(subset=[f"hop_{hop}"]).pivot(index="step", columns="seed", values=f"hop_{hop}")
        if lines.size:
            axes.plot(lines.index, lines, color=colours[hop], linewidth=0.6, alpha=0.5)
            axes.plot(lines.index, lines.median(axis=1), color=colours[hop], linewidth=2, label=f"hop {hop}")
    axes.axhline(1 / 7, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(title=f"{supervision}: median over runs (thin: each run)", ylim=(0, 1.03), xlabel="training step")
    axes.title.set_fontsize(9)
    axes.legend(frameon=False, fontsize=8)
    plain(axes)


CLAIM = Claim(__doc__, "curriculum", ("curriculum",), measure, tell, draw, further=("curriculum-curves",))

if __name__ == "__main__":
    main(CLAIM)
