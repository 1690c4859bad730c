"""Stability: would other examples have given the same labels?

`bootstrap_jaccard`  the labels are given again on bootstrap samples of the examples, from the same runs: a cell (head,
                     destination) is confirmed in a sample if its lead over the rival, its effect and its write reach their
                     thresholds there. Mean over 100 samples of |A and B| / |A or B|, A the confirmed cells on all examples, B
                     those on the sample. Cells whose pattern fails on all examples have no write evidence and are never
                     confirmed. No forward pass.
`kappa`              Cohen's kappa (1960) between whole analyses on other data seeds, mean over pairs; a cell's category is its
                     status with its role.
`same_multiset`      across training seeds head numbers mean nothing; what can be compared is the multiset of
                     (layer, destination, role) of the confirmed cells.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from stackheads.analysis.records import records
from stackheads.analysis.statistics import KEPT_DRAWS
from stackheads.analysis.thresholds import Thresholds
from stackheads.analysis.verdict import Evidence, status


def bootstrap_jaccard(evidence: Sequence[Evidence], thresholds: Thresholds) -> float | None:
    """Mean Jaccard index of the confirmed cells under resampling of the examples; None if nothing is ever confirmed."""
    whole = {number for number, item in enumerate(evidence) if status(item) == "confirmed"}
    indices = []
    for draw in range(KEPT_DRAWS):
        again = {number for number, item in enumerate(evidence) if confirmed_in(item, draw, thresholds)}
        if whole | again:
            indices.append(len(whole & again) / len(whole | again))
    return sum(indices) / len(indices) if indices else None


def kappa(analyses: Sequence[pd.DataFrame]) -> float:
    """Mean pairwise Cohen's kappa of label tables of one model. 1 where all give every cell the same single category.

    kappa = (observed - expected) / (1 - expected) agreement, expected from the two tables' own frequencies.
    """
    tables = [_categories(labels) for labels in analyses]
    values = [_kappa(one, other) for one, other in combinations(tables, 2)]
    return sum(values) / len(values)


def layer_roles(labels: pd.DataFrame) -> Counter[tuple[int, str, str]]:
    """The multiset of (layer, destination, role) of the confirmed cells."""
    return Counter(
        (row["layer"], row["destination"], row["role"] if row["hop"] is None else f"{row['role']} {row['hop']}")
        for row in records(labels)
        if row["status"] == "confirmed"
    )


def multiset_jaccard(one: Counter, other: Counter) -> float:
    """Σ min / Σ max of the counts; 1 for equal multisets, also two empty ones."""
    union = sum((one | other).values())
    return sum((one & other).values()) / union if union else 1.0


def confirmed_in(item: Evidence, draw: int, thresholds: Thresholds) -> bool:
    """Whether a cell is confirmed on one of the `KEPT_DRAWS` bootstrap samples."""
    if not item.pattern.passed or item.write is None or not (item.write.share.draws and item.cause.effect.draws):
        return False
    return (
        item.pattern.lead_draws[draw] >= thresholds.pattern_margin
        and item.cause.effect.low > 0
        and item.cause.effect.draws[draw] >= thresholds.min_effect
        and item.write.share.low > 0
        and item.write.share.draws[draw] >= thresholds.min_write
    )


def _categories(labels: pd.DataFrame) -> dict[tuple[str, str], str]:
    return {(row["head"], row["destination"]): f"{row['status']} {row['role']} {row['hop']}" for row in records(labels)}


def _kappa(one: dict[tuple[str, str], str], other: dict[tuple[str, str], str]) -> float:
    cells = sorted(one)
    n = len(cells)
    observed = sum(one[cell] == other[cell] for cell in cells) / n
    first, second = (Counter(table[cell] for cell in cells) for table in (one, other))
    expected = sum(first[name] * second[name] for name in first) / n**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)
