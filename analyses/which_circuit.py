"""Which circuit wins: is it decided by the first weights or by the data? (docs/results/paper.md#which-circuit)

    python analyses/which_circuit.py                  # table and figure from analyses/results/which-circuit.csv, seconds
    python analyses/which_circuit.py --from-scratch   # with the sweep, 32 runs of 20 seconds; then 5 seconds a run and core

The sweep `which-circuit`: 8 seeds of the first weights, each with 4 seeds of the data, on the recipe of
`scale-curriculum-d3-chain` (causal retrieval, 3 chains, 3 hops, 4 layers of 2 heads, until solved). Each run that is solved
is analysed at its last snapshot (`analyze`, 256 examples, seed 0). Its circuit is what is confirmed, in two ways: the set of
(head, destination, role), and the set of (layer, destination, role), which does not care how the heads of a layer are
numbered. Two circuits are as alike as their Jaccard index says, |A and B| / |A or B|; two empty ones are not compared. Pairs
of runs share the first weights, the data, or neither. Fixed before the first label was looked at:

- *weights matter*: pairs of the same weights are more alike than pairs that share neither. One-sided permutation test, 9,999
  draws: within each seed of the data the runs' weight seeds are exchanged. *Data matter*: the same with the two exchanged.
- *which matters more*: the mean of pairs of the same weights less that of pairs of the same data, with a 95 % percentile
  bootstrap over both seeds at once (a run counts as often as its two seeds were drawn, a seed is never paired with itself).
- the verdict is that of (layer, destination, role): `weights` or `data` where that one matters (p < 0.025 each, Bonferroni) and
  the interval of the difference is on its side of 0; `both` where both matter and it holds 0; else `not decided`. That weights
  decide is shown by the first, contradicted by `data`, else not shown. Heads by number are reported beside it: other weights
  number their heads anew, so that there data cannot but lose.

Columns of which-circuit.csv, a row for each finished run, empty from `mechanism` on where it is not solved: `stability`, the
Jaccard index of its confirmed cells on resampled examples, is how alike a run is to itself; `circuit`, its confirmed (head,
destination, role). Writes which-circuit.csv and which-circuit.png.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from claims import BLUE, GREY, ORANGE, ROOT, Claim, Run, Tables, kept_analysis, main, markdown, number, rate, span
from tqdm import tqdm

from stackheads.processes import worker_pool
from stackheads.seeds import Stream, stream
from stackheads.tables import records, role_of
from stackheads.types import HeadId

KEPT = ROOT / "runs" / "which-circuit"
WAYS = {"layer": "(layer, destination, role)", "head": "(head, destination, role)"}
"""The two ways to say what a circuit is; the first is the one that the verdict is about."""

KINDS = {"weights": "the same first weights", "data": "the same data", "neither": "neither"}
COLOURS = {"weights": BLUE, "data": ORANGE, "neither": GREY}
DRAWS, RESAMPLED, LEVEL, TAIL = 9999, 60_000, 0.025, 0.025
"""Of bootstraps so many that their own chance does not decide: with 2,000 the verdict by layer hung on the seed."""

Circuit = frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Alike:
    """How alike pairs of runs are: means by kind of pair, p that weights and data matter, the difference with its interval.

    `pairs` has a row for each pair of runs that can be compared: the runs' places, its kind, its Jaccard index. `intervals` are
    of the means, and of `weights - data`.
    """

    pairs: pd.DataFrame
    p: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def mean(self, kind: str) -> float:
        """Mean Jaccard index of the pairs of a kind."""
        return float(self.pairs.loc[self.pairs["kind"] == kind, "jaccard"].mean())

    @property
    def verdict(self) -> str:
        """What decides, by the rule that was fixed before."""
        low, high = self.intervals["weights - data"]
        if self.p["weights"] < LEVEL and low > 0:
            return "weights"
        if self.p["data"] < LEVEL and high < 0:
            return "data"
        return "both" if max(self.p.values()) < LEVEL and low <= 0 <= high else "not decided"


def measure(runs: list[Run], workers: int) -> Tables:
    """A row for each run."""
    with worker_pool(workers) as pool:
        rows = list(tqdm(pool.map(circuit_row, runs), total=len(runs), desc="runs", disable=None))
    return {"which-circuit": pd.DataFrame(rows).astype({"solved_at": "Int64"})}


def circuit_row(run: Run) -> dict[str, Any]:
    """What is confirmed in one run; only its name and result where it is not solved."""
    training = run.plan.settings["training"]
    row = {**run.names, "data_seed": training["data_seed"], **{name: run.result[name] for name in ("solved", "solved_at")}}
    if not run.result["solved"]:
        return row
    found = kept_analysis(run, KEPT)
    stability = None if found.bootstrap_jaccard is None else round(found.bootstrap_jaccard, 4)
    return row | {"mechanism": found.mechanism, "stability": stability, "circuit": written(found.labels)}


def written(labels: pd.DataFrame) -> str:
    """The confirmed (head, destination, role) as text, sorted, each once: "L0H1 value previous; L1H0 query hop 1"."""
    confirmed = (row for row in records(labels) if row["status"] == "confirmed")
    return "; ".join(sorted({f"{row['head']} {row['destination']} {role_of(row)}" for row in confirmed}))


def circuit(text: Any, way: str) -> Circuit:
    """A circuit read from its text, by head or by layer."""
    cells = [] if pd.isna(text) or not text else [cell.split(" ", 2) for cell in text.split("; ")]
    by = {"head": str, "layer": lambda head: str(HeadId.parse(head).layer)}[way]
    return frozenset((by(head), *rest) for head, *rest in cells)


def jaccard(one: Circuit, other: Circuit) -> float | None:
    """|A and B| / |A or B|; None for two empty circuits."""
    return len(one & other) / len(one | other) if one | other else None


def alike(runs: pd.DataFrame, way: str, seed: int = 0) -> Alike:
    """Compare all pairs of solved runs (columns seed, data_seed, circuit)."""
    rows, circuits = records(runs), [circuit(text, way) for text in runs["circuit"]]
    pairs = pd.DataFrame(
        [
            {
                "one": one,
                "other": other,
                "kind": kind(rows[one], rows[other]),
                "jaccard": jaccard(circuits[one], circuits[other]),
            }
            for one, other in combinations(range(len(rows)), 2)
        ]
    ).dropna(ignore_index=True)
    factors = {"weights": runs["seed"].to_numpy(), "data": runs["data_seed"].to_numpy()}
    p = {
        "weights": exchanged(pairs, factors["weights"], factors["data"], seed),
        "data": exchanged(pairs, factors["data"], factors["weights"], seed),
    }
    return Alike(pairs, p, resampled(pairs, factors, seed))


def kind(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What two different runs share."""
    if one["seed"] == other["seed"]:
        return "weights"
    return "data" if one["data_seed"] == other["data_seed"] else "neither"


def exchanged(pairs: pd.DataFrame, factor: np.ndarray, within: np.ndarray, seed: int) -> float:
    """One-sided p that runs of one level of a factor are more alike, its levels exchanged within each level of the other.

    Only pairs of different levels of the other are counted: those of the same are the same pairs in every draw.
    """
    one, other = (pairs[side].to_numpy(dtype=int) for side in ("one", "other"))
    across = within[one] != within[other]
    one, other, values = one[across], other[across], pairs["jaccard"].to_numpy()[across]
    generator = stream(seed, Stream.ALIKE, "exchanged")
    levels = np.tile(factor, (DRAWS + 1, 1))  # [draw, run]; the first draw is what was found
    for level in np.unique(within):
        places = np.flatnonzero(within == level)
        orders = torch.rand(DRAWS, len(places), generator=generator, dtype=torch.float).argsort(dim=1).numpy()
        levels[1:, places] = factor[places][orders]
    same = levels[:, one] == levels[:, other]  # [draw, pair]
    total, count = (same * values).sum(axis=1), same.sum(axis=1)
    gap = total / np.maximum(count, 1) - (values.sum() - total) / np.maximum((~same).sum(axis=1), 1)
    return float((gap >= gap[0] - 1e-12).mean())


def resampled(pairs: pd.DataFrame, factors: dict[str, np.ndarray], seed: int) -> dict[str, tuple[float, float]]:
    """Intervals of the mean of each kind of pair, and of the difference, over resampled seeds of weights and data."""
    one, other = (pairs[side].to_numpy(dtype=int) for side in ("one", "other"))
    counts = {}
    for name, levels in factors.items():
        known, places = np.unique(levels, return_inverse=True)
        picks = torch.randint(len(known), (RESAMPLED, len(known)), generator=stream(seed, Stream.ALIKE, name))
        drawn = torch.zeros(RESAMPLED, len(known)).scatter_add_(1, picks, torch.ones(picks.shape)).numpy()
        counts[name] = drawn[:, places[one]], drawn[:, places[other]]  # [draw, pair], of either run
    means = {}
    for name in KINDS:
        mine = (pairs["kind"] == name).to_numpy()
        weights = np.ones((RESAMPLED, mine.sum()))
        for factor, (first, second) in counts.items():
            # the seed that a pair shares was drawn so often; two seeds that differ were drawn together so often
            weights *= first[:, mine] if name == factor else first[:, mine] * second[:, mine]
        with np.errstate(invalid="ignore"):
            means[name] = weights @ pairs.loc[mine, "jaccard"].to_numpy() / weights.sum(axis=1)
    means["weights - data"] = means["weights"] - means["data"]
    return {name: tuple(np.nanquantile(values, [TAIL, 1 - TAIL]).tolist()) for name, values in means.items()}


def tell(tables: Tables) -> str:
    """What is there, how alike the pairs of each kind are, and the verdict."""
    table = tables["which-circuit"]
    solved = table[table["solved"]].reset_index(drop=True)
    circuits = [circuit(text, "head") for text in solved["circuit"]]
    sizes = pd.Series([len(each) for each in circuits])
    text = [
        f"solved: {rate(len(solved), len(table))}; steps {span(solved['solved_at'])}; confirmed in a run {span(sizes)}, median "
        f"{number(sizes.median())}; {int((sizes == 0).sum())} runs with none; alike to itself on resampled examples: median "
        f"{solved['stability'].median():.2f}; different circuits by head {len(set(circuits))}, by layer "
        f"{len({circuit(text, 'layer') for text in solved['circuit']})} of {len(solved)}"
    ]
    found = {way: alike(solved, way) for way in WAYS}
    rows = [
        [KINDS[name], int((each.pairs["kind"] == name).sum()), WAYS[way], interval(each.mean(name), each.intervals[name])]
        for way, each in found.items()
        for name in KINDS
    ]
    text.append(markdown(["pairs of runs that share", "pairs", "circuit by", "Jaccard index, mean [95 %]"], rows))
    for way, each in found.items():
        difference = interval(each.mean("weights") - each.mean("data"), each.intervals["weights - data"])
        text.append(
            f"by {WAYS[way]}: weights matter p = {each.p['weights']:.2g}, data matter p = {each.p['data']:.2g}; "
            f"same weights less same data {difference}: {each.verdict}"
        )
    return "\n\n".join([*text, by_mechanism(solved)])


def interval(value: float, ends: tuple[float, float]) -> str:
    """A mean with its interval."""
    return f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


def by_mechanism(solved: pd.DataFrame) -> str:
    """How many runs have each mechanism."""
    return "mechanisms: " + ", ".join(f"{count} {name}" for name, count in solved["mechanism"].value_counts().items())


def draw(tables: Tables) -> Any:
    """A panel for each way to say what a circuit is: pairs as grey dots, their number by area, means with intervals."""
    from matplotlib.figure import Figure

    table = tables["which-circuit"]
    solved = table[table["solved"]].reset_index(drop=True)
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, way in zip(figure.subplots(1, len(WAYS), sharey=True, sharex=True), WAYS, strict=True):
        found = alike(solved, way)
        for place, name in enumerate(KINDS):
            there = found.pairs.loc[found.pairs["kind"] == name, "jaccard"].round(2).value_counts(normalize=True)
            axes.scatter(there.index, [place] * len(there), s=500 * there, color=COLOURS[name], alpha=0.35, linewidth=0)
            axes.plot(found.intervals[name], [place + 0.32] * 2, color=COLOURS[name], linewidth=2)
            axes.plot(found.mean(name), place + 0.32, "|", color="black", markersize=10, markeredgewidth=2)
        axes.set(title=f"circuit by {WAYS[way]}", xlabel="how alike (Jaccard index; area: share of pairs)", xlim=(-0.05, 1.05))
        axes.title.set_fontsize(9)
        axes.set_yticks(range(len(KINDS)), [f"share {words}" for words in KINDS.values()])
        axes.set_ylim(len(KINDS) - 0.4, -0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


CLAIM = Claim(__doc__, "which-circuit", ("which-circuit",), measure, tell, draw)

if __name__ == "__main__":
    main(CLAIM)
