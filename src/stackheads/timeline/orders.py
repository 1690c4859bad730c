"""Do things emerge in the same order in every run?

Between two runs the order of emergence is compared by Kendall's tau-b (Kendall 1945) over what both runs know: concordant minus
discordant pairs, corrected for ties, since what emerges between the same two snapshots is tied. What never emerges is tied
last. Tau is undefined, and such pairs of runs are counted apart, where one of the two runs orders nothing: all tied, or fewer
than two things shared. Beside it stands the share of runs that have the modal order, the most frequent one, ties and all; it is
the mode of these very runs, so a share of a few runs is high by chance.

Head numbers mean nothing across training seeds: **heads of different runs are matched by (layer, destination, role)**, never by
their number; where several heads of a run share these, the first to emerge counts. Heads that are gone at the end are left out.

Intervals: of tau a percentile bootstrap over runs (a resampled run is never paired with itself), of the share Wilson's, because
a bootstrap of a share of all runs has no width. Tau has none below four runs that can be compared: of two a bootstrap draws one
pair alone, and of three it holds the truth three times of four, not 95 times of a hundred; from four on it does. Where all
pairs agree it has no width either, which is no certainty: how many runs may differ, Wilson's bound says (`may_differ`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch

from stackheads.errors import ConfigError
from stackheads.labelling.statistics import wilson
from stackheads.seeds import Stream, stream
from stackheads.tables import natural, records, role_of
from stackheads.timeline.result import Emergence, Steps, in_order

DRAWS = 1000
CONFIDENCE = 0.95
LEAST_RUNS = 4
"""Runs that must stand in pairs for an interval over runs."""
ROUNDING = 1e-9
"""The width of an interval that has none."""


@dataclass(frozen=True)
class Agreement:
    """How far runs agree on an order.

    `tau` is the mean over the `pairs` of runs that have one, -1 to 1, with its interval; `undefined` counts the others,
    `compared` the runs that stand in a pair that has one. There is no interval below four of these; one without width is of
    pairs that all agree, and says nothing of runs that were not made (`may_differ`).
    `modal` is the most frequent order, sets of things from early to late (things that never emerge left out), `share` the
    share of the `runs` that have it, with its interval. `shared`: mean number of things that two runs both know.
    """

    runs: int
    pairs: int
    undefined: int
    tau: float | None
    tau_low: float | None
    tau_high: float | None
    compared: int
    modal: tuple[tuple[str, ...], ...]
    share: float
    share_low: float
    share_high: float
    shared: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "modal": [list(names) for names in self.modal]}


def orders_agree(runs: Sequence[Emergence], seed: int = 0) -> dict[str, Agreement]:
    """Compare the order in which hops emerge (`hops`), and labelled heads by (layer, destination, role) (`roles`).

    Raises `ConfigError` for fewer than two runs, or what is none.
    """
    given: Any = runs
    runs = list(given) if isinstance(given, Iterable) else [given]
    if others := [type(run).__name__ for run in runs if not isinstance(run, Emergence)]:
        raise ConfigError(f"orders are compared between runs that were followed, got {others[0]}: give emergence(run) of each")
    rows = [records(run.steps) for run in runs]
    return {
        "hops": agreement([hop_steps(each) for each in rows], seed),
        "roles": agreement([role_steps(each) for each in rows], seed),
    }


def hop_steps(rows: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """When each hop emerges, from rows of `Emergence.steps`."""
    return {row["what"]: row["step"] for row in rows if row["kind"] == "hop"}


def role_steps(rows: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """When the first head of each (layer, destination, role) emerges, from rows of `Emergence.steps`."""
    steps: dict[str, int | None] = {}
    for row in sorted((row for row in rows if row["kind"] == "head" and row["step"] is not None), key=lambda row: row["step"]):
        steps.setdefault(f"layer {row['layer']} @{row['destination']} {role_of(row)}", row["step"])
    return steps


def agreement(runs: Sequence[Steps], seed: int = 0) -> Agreement:
    """Compare orders of emergence, one for each run. Raises `ConfigError` for fewer than two."""
    if len(runs) < 2:
        raise ConfigError(f"orders are compared between at least 2 runs, got {len(runs)}: give more runs")
    orders = [tuple(tuple(sorted(names, key=natural)) for names in in_order(run)) for run in runs]
    modal, count = Counter(orders).most_common(1)[0]
    share_low, share_high = wilson(count, len(runs), CONFIDENCE)
    taus = {pair: tau_b(runs[pair[0]], runs[pair[1]]) for pair in combinations(range(len(runs)), 2)}
    defined = {pair: tau for pair, tau in taus.items() if tau is not None}
    tau_low, tau_high = _interval(defined, len(runs), seed)
    return Agreement(
        runs=len(runs),
        pairs=len(defined),
        undefined=len(taus) - len(defined),
        tau=sum(defined.values()) / len(defined) if defined else None,
        tau_low=tau_low,
        tau_high=tau_high,
        compared=len({run for pair in defined for run in pair}),
        modal=modal,
        share=count / len(runs),
        share_low=share_low,
        share_high=share_high,
        shared=sum(len(one.keys() & other.keys()) for one, other in combinations(runs, 2)) / len(taus),
    )


def tau_b(one: Steps, other: Steps) -> float | None:
    """Kendall's tau-b over the things that both runs know; None where it is undefined."""
    from scipy.stats import kendalltau

    shared = sorted(one.keys() & other.keys())
    ranks = [[float("inf") if run[what] is None else run[what] for what in shared] for run in (one, other)]
    if any(len(set(rank)) < 2 for rank in ranks):
        return None
    result: Any = kendalltau(*ranks)
    return float(result.statistic)


def _interval(taus: Mapping[tuple[int, int], float], runs: int, seed: int) -> tuple[float | None, float | None]:
    """Percentiles of the mean over resampled runs."""
    return ratio_interval({pair: (tau, 1.0) for pair, tau in taus.items()}, runs, seed)


def ratio_interval(
    pairs: Mapping[tuple[int, int], tuple[float, float]], runs: int, seed: int = 0
) -> tuple[float | None, float | None]:
    """Percentiles of a sum over pairs of runs divided by another, over resampled runs; None where fewer than `LEAST_RUNS` runs
    add to the other.

    `pairs` holds what each pair of runs adds to both; it counts as often as both its runs were drawn together.
    """
    if len({run for pair, (_, under) in pairs.items() if under for run in pair}) < LEAST_RUNS:
        return None, None
    picks = torch.randint(runs, (DRAWS, runs), generator=stream(seed, Stream.ORDERS))
    counts = torch.zeros(DRAWS, runs, dtype=torch.double).scatter_add_(1, picks, torch.ones(DRAWS, runs, dtype=torch.double))
    first, second = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    over, under = ((counts[:, first] * counts[:, second]) @ torch.tensor(list(pairs.values()), dtype=torch.double)).unbind(
        dim=1
    )
    tail = (1 - CONFIDENCE) / 2
    ratios = over[under > 0] / under[under > 0]
    low, high = torch.quantile(ratios, torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
    return low, high


def has_width(low: float, high: float) -> bool:
    """Whether an interval is one: where all pairs agree, those of all samples do."""
    return high - low > ROUNDING


def may_differ(runs: int) -> float:
    """The share of all runs that may be unlike these, which agree (Wilson)."""
    return 1 - wilson(runs, runs, CONFIDENCE)[0]
