"""What selectors are asked about: which answers, and which heads – all, some that are named, or in a model of hundreds those
whose ablation matters.
"""

from collections.abc import Collection, Iterable

import pandas as pd

from stackheads.errors import ConfigError, InterventionError
from stackheads.explanation.measuring import FittedTo
from stackheads.labelling.readouts import Readout
from stackheads.labelling.thresholds import Thresholds
from stackheads.tables import records
from stackheads.types import Destination, HeadId, Status

Cell = tuple[HeadId, Destination]
Heads = Iterable[str | HeadId] | str | HeadId
MATTERING = (Status.CONFIRMED, Status.REDUNDANT, Status.OPPOSING, Status.CAUSAL_UNCLASSIFIED)
"""Statuses of heads that something is lost without."""


def asked_readouts(readouts: pd.DataFrame, thresholds: Thresholds) -> list[Readout]:
    """Of an analysis' readouts those that the model gives nearly always (`emerged_accuracy`), or, where there are none, better
    than by chance.
    """
    rows = [row for row in records(readouts) if row["open"]]
    there = [row for row in rows if row["accuracy"] >= thresholds.emerged_accuracy] or rows
    return [Readout(Destination(row["destination"]), int(row["hop"])) for row in there]


def asked_cells(labels: pd.DataFrame, heads: Heads | None, fitted_to: FittedTo) -> set[Cell] | None:
    """The heads and destinations that selectors are asked of, None for all: those that are named ("L2H0", "L2H0 @query"); of
    labels that were screened (`labelling/screening.py`) those that matter by exact interventions.

    Raises `InterventionError` for a head or destination that the labels do not have, `ConfigError` where selectors of some are
    to be fitted to the answer, which all heads give together, or where none of a screened model's matters.
    """
    there = [((HeadId.parse(row["head"]), Destination(row["destination"])), row) for row in records(labels)]
    screened = any(row["evidence"] == "screened" for _, row in there)
    if heads is None and not screened:
        return None
    if fitted_to != "attention":
        raise ConfigError(
            f"selectors of some heads are fitted to attention, got {fitted_to!r}: all heads give the answer together; say "
            "fitted_to='attention'"
        )
    if heads is None:
        found = {cell for cell, row in there if row["status"] in MATTERING and row["evidence"] == "exact"}
        if not found:
            raise ConfigError("selectors are asked of heads that matter, and of those tested none does: name some in heads=")
        return found
    named = list(heads) if isinstance(heads, Iterable) and not isinstance(heads, str) else [heads]
    if not named:
        raise ConfigError("selectors are asked of one head or more, got none: name some, or leave heads out for all")
    return {cell for name in named for cell in _named(name, [one for one, _ in there])}


def _named(name: str | HeadId, there: Collection[Cell]) -> set[Cell]:
    """The cells of "L2H0", or the one of "L2H0 @query"."""
    head, at, place = str(name).partition(" @")
    found = {cell for cell in there if cell[0] == HeadId.parse(head) and (not at or cell[1] == Destination(place))}
    if not found:
        raise InterventionError(f"selectors are asked of heads that have labels, got {name!r}: write L2H0 or L2H0 @query")
    return found
