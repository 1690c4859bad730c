"""How does the time to the first hop grow with the number of symbols?

    python analyses/context.py                  # table and figure from analyses/results/context.csv, seconds
    python analyses/context.py --from-scratch   # with the sweep, 15 runs of up to five minutes on one core each

The sweep `context`: cycles of 4 to 12 symbols (context 2 n + 1), hop 1 alone, asked at the query, 2 layers of 2 heads; training
seeds 0 to 2, at most 8,000 steps. `time` is the first evaluation (every 50 steps, 512 examples) at which hop 1 reaches 99 %. A
run that does not get there is censored: all that is known of its time is that it is more than 8,000.

Power law: log time = a + b log n + noise, normal, by maximum likelihood; a censored run counts with the probability of a time
beyond its last step. The interval of b: 500 bootstrap samples of the runs of each n (seed 0), 2.5 to 97.5 %; with three runs
for each n it is rough. Beside it the same with n in place of log n (exponential growth), and the difference in log likelihood.

Writes analyses/results/context.csv (a row for each run) and context.png.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from claims import BLUE, GREY, ORANGE, Claim, Run, Tables, main, markdown, middle, number, percent, plain, span

DRAWS, SEED = 500, 0
CLEAR = 2.0
"""Difference in log likelihood, with as many parameters, from which one curve is called better."""
TICKS = (250, 500, 1000, 2000, 4000, 8000)


@dataclass(frozen=True)
class Fit:
    """log time = intercept + slope · x, with normal noise of this spread; and the log likelihood."""

    intercept: float
    slope: float
    spread: float
    likelihood: float


def measure(runs: list[Run], workers: int) -> Tables:
    """When each run got there."""
    rows = [
        {
            **run.names,
            "symbols": run.plan.settings["task"]["symbols"],
            "steps": run.result["steps"],
            "time": run.result["solved_at"],
            "accuracy": round(run.result["accuracy_1"], 4),
        }
        for run in runs
    ]
    return {"context": pd.DataFrame(rows).astype({"time": "Int64"})}


def fit(x: np.ndarray, steps: np.ndarray, reached: np.ndarray, start: Fit | None = None) -> Fit:
    """The likeliest line through log steps, where runs that have not `reached` took longer than `steps`.

    Without censored runs it is the least-squares line. `x` must have two values or more among the runs.
    """
    from scipy.optimize import minimize
    from scipy.stats import norm

    y = np.log(steps.astype(float))
    if start is None:
        slope, intercept = np.polyfit(x, y, 1)
        start = Fit(intercept, slope, max(np.std(y - intercept - slope * x), 0.05), 0.0)

    def loss(values: np.ndarray) -> float:
        intercept, slope, log_spread = values
        z = (y - intercept - slope * x) / np.exp(log_spread)
        return -np.where(reached, norm.logpdf(z) - log_spread, norm.logsf(z)).sum()

    bounds = [(None, None), (None, None), (np.log(0.01), np.log(10))]
    found = minimize(loss, [start.intercept, start.slope, np.log(start.spread)], bounds=bounds, method="L-BFGS-B")
    return Fit(found.x[0], found.x[1], float(np.exp(found.x[2])), -found.fun)


def fit_table(table: pd.DataFrame, scale: Any = np.log, start: Fit | None = None) -> Fit:
    """The fit over the runs of the table, in `scale` of the number of symbols."""
    reached = table["time"].notna().to_numpy()
    steps = table["time"].where(table["time"].notna(), table["steps"]).to_numpy(dtype=float)
    return fit(scale(table["symbols"].to_numpy(dtype=float)), steps, reached, start)


def slope_interval(table: pd.DataFrame, draws: int = DRAWS) -> tuple[float, float]:
    """Bootstrap over the runs of each number of symbols: 2.5 and 97.5 % of the exponents."""
    generator, whole = np.random.default_rng(SEED), fit_table(table)
    groups = [group.index.to_numpy() for _, group in table.groupby("symbols")]
    slopes = []
    for _ in range(draws):
        rows = np.concatenate([generator.choice(group, len(group)) for group in groups])
        slopes.append(fit_table(table.loc[rows], start=whole).slope)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return float(low), float(high)


def tell(tables: Tables) -> str:
    """Median and range for each number of symbols, and the fits."""
    table, rows = tables["context"], []
    for symbols, group in table.groupby("symbols"):
        known, censored = group["time"].dropna(), group.loc[group["time"].isna(), "accuracy"]
        beside = f"{len(censored)} (hop 1 at {span(censored, percent)} %)" if len(censored) else "0"
        rows.append([symbols, 2 * symbols + 1, len(group), number(middle(group["time"].tolist())), span(known), beside])
    header = ["symbols", "context", "runs", "median time (steps)", "range (those that got there)", "censored"]
    text = markdown(header, rows)
    if table["symbols"].nunique() < 3:
        return f"{text}\n\nno fit: fewer than three numbers of symbols"
    power, growth, (low, high) = fit_table(table), fit_table(table, lambda n: n), slope_interval(table)
    difference = power.likelihood - growth.likelihood
    better = "the power law" if difference > 0 else "exponential growth"
    decided = "" if abs(difference) >= CLEAR else " – too little to choose between them"
    return (
        f"{text}\n\ntime ∝ symbols^{power.slope:.2f} [{low:.2f}, {high:.2f}] over {len(table)} runs, "
        f"{int(table['time'].isna().sum())} of them censored; noise: a factor of {np.exp(power.spread):.2f}. "
        f"Exponential growth instead: a factor of {np.exp(growth.slope):.2f} for each symbol; "
        f"{better} is likelier, by {abs(difference):.1f} in log likelihood{decided}."
    )


def draw(tables: Tables) -> Any:
    """Every run, medians, and the fitted line, on logarithmic axes."""
    from matplotlib.figure import Figure

    table = tables["context"]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    got = table[table["time"].notna()]
    axes.plot(got["symbols"], got["time"], "o", color=BLUE, alpha=0.6, markeredgewidth=0, label="a run")
    censored = table[table["time"].isna()]
    if len(censored):
        counts = censored.groupby("symbols").size()
        axes.plot(counts.index, [censored["steps"].max()] * len(counts), "^", color=ORANGE, markersize=9, label="not by then")
        for symbols, count in counts.items():
            axes.annotate(f"{count}", (symbols, censored["steps"].max()), (0, 8), textcoords="offset points", ha="center")
    medians = {symbols: middle(group["time"].tolist()) for symbols, group in table.groupby("symbols")}
    known = {symbols: step for symbols, step in medians.items() if step is not None}
    axes.plot(list(known), list(known.values()), "_", color="black", markersize=22, markeredgewidth=2, label="median")
    if table["symbols"].nunique() >= 3:
        found, x = fit_table(table), np.geomspace(table["symbols"].min(), table["symbols"].max())
        label = f"∝ symbols^{found.slope:.1f}"
        axes.plot(x, np.exp(found.intercept) * x**found.slope, "--", color=GREY, label=label, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="symbols on the cycle", ylabel="training steps until hop 1 is at 99 %")
    plain(axes)
    axes.yaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set_xticks(sorted(table["symbols"].unique()))
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in TICKS if low <= tick <= high])
    axes.minorticks_off()
    axes.legend(frameon=False, loc="lower right")
    return figure


CLAIM = Claim(__doc__, "context", ("context",), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
