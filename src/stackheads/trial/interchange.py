"""Interchange: where two heads have the same label, each may look where the other does, and the answer stays.

For every pair of confirmed or redundant heads of one layer at the same positions, each is given the other's attention in the
same example, values and outputs its own. With the same role the answer must stay; with different roles, the null, it must not.
Heads of different layers are not compared: what they can find differs. `kept` is the least recovered share of an answered
readout.

Cost: one forward pass for each pair.
"""

from collections.abc import Sequence
from itertools import combinations

import pandas as pd

from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.statistics import brought
from stackheads.models.hooks import Edit, PatternEdit
from stackheads.types import Status

COLUMNS = ["layer", "destination", "gate", "heads", "roles", "same", "kept", "readout"]
LABELLED = (Status.CONFIRMED, Status.REDUNDANT)


def interchange(bench: Bench, labels: Sequence[Label]) -> pd.DataFrame:
    """One row per pair: its heads, their roles, whether these are the same, what is kept, and of which readout that is."""
    rows = []
    known = [label for label in labels if label.status in LABELLED and label.role is not None]
    pairs = [pair for pair in combinations(known, 2) if _comparable(*pair)]
    numbers = bench.open_readouts
    margins = bench.margins([_swapped(bench, *pair) for pair in pairs]) if numbers else iter(())
    shares = brought([bench.recovered(margin) for margin in margins])
    for (one, two), share in zip(pairs if numbers else (), shares, strict=True):
        kept = share[numbers]
        rows.append(
            {
                "layer": one.head.layer,
                "destination": str(one.destination),
                "gate": None if one.gate is None else str(one.gate),
                "heads": f"{one.head}, {two.head}",
                "roles": str(one.role) if one.role == two.role else f"{one.role}, {two.role}",
                "same": one.role == two.role,
                "kept": float(kept.min()),
                "readout": str(bench.baseline.readouts[numbers[int(kept.argmin())]]),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _comparable(one: Label, two: Label) -> bool:
    return one.head.layer == two.head.layer and one.head != two.head and one.where == two.where


def _swapped(bench: Bench, one: Label, two: Label) -> list[Edit]:
    """Each head looks where the other does."""
    rows, run = destination_rows(bench.clean.batch, one.where), bench.clean.run
    return [PatternEdit(a.head, rows, run.of(b.head)[0]) for a, b in ((one, two), (two, one))]
