"""The numbers of selectors that have more than one: hop against what is asked, places, symbol against symbol.

One row for each number of a selector that a head has: `value` is what its gate says (None without a gate), `at` what the number
stands for: a place, a distance (p - s) or the source's symbol (None for roles and slots). Only values and symbols that the
examples hold. Weights add to the score of a source: twice the attention is a weight of 0.69.
"""

from typing import Any

import pandas as pd
import torch

from stackheads.explanation.examples import Examples
from stackheads.explanation.sums import Sum
from stackheads.labelling.selectors import Rows, Selector

WEIGHTS = ["head", "destination", "what", "gate", "value", "at", "weight"]


def weights_table(chosen: Sum, examples: Examples) -> pd.DataFrame:
    """The table. Cost: no forward pass."""
    found: list[dict[str, Any]] = []
    for place, head, selector in chosen.taken():
        rows, weight = examples.rows[place], chosen.weights[place, selector][head]
        if weight.numel() == 1 or not bool(rows.names(selector).any()):
            continue
        named = {"head": str(examples.head(head)), "destination": str(place), "what": str(selector), "gate": selector.gate}
        for number, at in _numbers(rows, selector):
            for value in _values(rows, selector, weight.shape[1]):
                found.append(named | {"value": value, "at": at, "weight": float(weight[number, value or 0])})
    return pd.DataFrame(found, columns=WEIGHTS).astype({"value": "Int64", "at": "Int64"})


def _values(rows: Rows, selector: Selector, known: int) -> list[int | None]:
    """The values of its gate that there are, of those that it was fitted on."""
    if selector.gate is None:
        return [None]
    return [value for value in rows.gates[selector.gate].unique().tolist() if value < known]


def _numbers(rows: Rows, selector: Selector) -> list[tuple[int, int | None]]:
    """Which numbers a selector has for each value, and what they stand for."""
    if selector.kind == "content":
        there = rows.tokens[(rows.slots == selector.what) & (rows.hidden == 0)].unique()
        return [(symbol, symbol) for symbol in there.tolist()]
    if selector.kind != "position":
        return [(0, None)]
    size = rows.size(selector)
    first = 0 if selector.what == "place" else -(size // 2)
    seen = torch.zeros(size, dtype=torch.bool)
    row, source = (rows.hidden == 0).nonzero().unbind(dim=1)
    position = source if selector.what == "place" else (rows.at[row, 1] - source).clamp(-(size // 2), size // 2) + size // 2
    seen[position.cpu()] = True
    return [(number, number + first) for number in seen.nonzero().flatten().tolist()]
