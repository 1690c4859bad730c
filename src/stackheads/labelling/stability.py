"""Stability: would other examples have given the same labels?

`bootstrap_jaccard`  the labels are given again on bootstrap samples of the examples, from the same runs: every share becomes
                     that of the sample, its interval as wide as on all examples, and the verdict is given anew. Mean over 100
                     samples of |A and B| / |A or B|, A the cells (head, destination) confirmed on all examples, B those on the
                     sample. Cells whose pattern fails on all examples have no write evidence and are never confirmed. No
                     forward pass.
`kappa`              Cohen's kappa (1960) between whole analyses on other data seeds, mean over pairs; a cell's category is its
                     status with its role.
`same_multiset`      across training seeds head numbers mean nothing; what can be compared is the multiset of
                     (layer, destination, role) of the confirmed cells.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import torch

from stackheads.errors import ConfigError
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Evidence, confirmed_again, status
from stackheads.tables import place_of, records, role_of
from stackheads.types import Status


def bootstrap_jaccard(evidence: Sequence[Evidence], thresholds: Thresholds) -> float | None:
    """Mean Jaccard index of the confirmed cells under resampling of the examples; None if nothing is ever confirmed."""
    if not evidence:
        return None
    whole = torch.tensor([status(item, thresholds) == Status.CONFIRMED for item in evidence])
    again = torch.stack([confirmed_again(item, thresholds) for item in evidence], dim=1)  # [draw, row]
    both, either = ((again & whole).sum(dim=1), (again | whole).sum(dim=1))
    indices = (both / either)[either > 0].tolist()
    return sum(indices) / len(indices) if indices else None


def kappa(analyses: Sequence[pd.DataFrame]) -> float:
    """Mean pairwise Cohen's kappa of label tables of one model. 1 where all give every cell the same single category.

    kappa = (observed - expected) / (1 - expected) agreement, expected from the two tables' own frequencies. Raises
    `ConfigError` for fewer than two tables, or where a cell is in some of them only.
    """
    tables = [_categories(labels) for labels in analyses]
    if len(tables) < 2:
        raise ConfigError(f"kappa compares label tables, got {len(tables)}: give two or more")
    if some := sorted(set().union(*tables) - set(tables[0]).intersection(*tables)):
        raise ConfigError(f"kappa compares tables of the same cells, {' @'.join(some[0])} is in some only: analyse one task")
    values = [_kappa(one, other) for one, other in combinations(tables, 2)]
    return sum(values) / len(values)


def layer_roles(labels: pd.DataFrame) -> Counter[tuple[int, str, str]]:
    """The multiset of (layer, destination and gate, role) of the confirmed cells."""
    return Counter(
        (row["layer"], str(place_of(row)), str(role_of(row))) for row in records(labels) if row["status"] == "confirmed"
    )


def multiset_jaccard(one: Counter[tuple[int, str, str]], other: Counter[tuple[int, str, str]]) -> float:
    """Σ min / Σ max of the counts; 1 for equal multisets, also two empty ones."""
    union = sum((one | other).values())
    return sum((one & other).values()) / union if union else 1.0


def _categories(labels: pd.DataFrame) -> dict[tuple[str, str], str]:
    """What is said of each cell, in all its rows if it is divided by a gate."""
    found: dict[tuple[str, str], str] = {}
    for row in records(labels):
        cell = row["head"], row["destination"]
        found[cell] = f"{found.get(cell, '')} {row['status']} {role_of(row)} {row.get('gate') or ''}"
    return found


def _kappa(one: dict[tuple[str, str], str], other: dict[tuple[str, str], str]) -> float:
    cells = sorted(one)
    n = len(cells)
    observed = sum(one[cell] == other[cell] for cell in cells) / n
    first, second = (Counter(table[cell] for cell in cells) for table in (one, other))
    expected = sum(first[name] * second[name] for name in first) / n**2
    return 1.0 if expected == 1 else (observed - expected) / (1 - expected)
