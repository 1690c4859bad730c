"""Fixed attention patterns (Raganato et al. 2020, arXiv 2002.10260), made exact: which heads need to look at their input?

Each (head, destination) in turn gets its mean pattern over examples, the same for every input (`constant`), and the map of the
role that it resembles most (`map`; rows where the role names no source keep their own pattern). `loss` is the largest share of
an answered readout's gap that this destroys. What can be replaced at no loss (at most `min_effect`) needs no query-key circuit
of its own; `replacement` names the simplest, constant before map. Cost: two forward passes for each (head, destination).
"""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch

from stackheads.explanation.ideal import evenly
from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.roles import candidate_roles, role_targets, visible
from stackheads.labelling.statistics import brought
from stackheads.models.forwards.patterned import mean_where
from stackheads.models.hooks import Edit, PatternEdit
from stackheads.tasks.layout import from_end

COLUMNS = ["head", "destination", "gate", "constant_loss", "map", "map_loss", "replacement"]


def fixed_patterns(
    bench: Bench, labels: Sequence[Label], looks_like: Sequence[str | None], min_effect: float
) -> tuple[pd.DataFrame, float | None]:
    """One row per (head, destination), and the least recovered share of a readout with all replacements at once."""
    if not bool(bench.baseline.open.any()):
        return pd.DataFrame(columns=COLUMNS), None
    cells = list(zip(labels, looks_like, strict=True))
    ways = [[None] if name is None else [None, name] for _, name in cells]  # None: a constant pattern
    edits = ([_edit(bench, label, way)] for (label, _), some in zip(cells, ways, strict=True) for way in some)
    lost = iter(_losses(bench, edits))
    rows, replaced = [], []
    for (label, name), some in zip(cells, ways, strict=True):
        losses = {"constant" if way is None else "map": next(lost) for way in some}
        free = [way for way, loss in zip(some, losses.values(), strict=True) if loss <= min_effect]
        replaced += [_edit(bench, label, way) for way in free[:1]]
        rows.append(
            {
                "head": str(label.head),
                "destination": str(label.destination),
                "gate": None if label.gate is None else str(label.gate),
                "constant_loss": losses["constant"],
                "map": name,
                "map_loss": losses.get("map"),
                "replacement": None if not free else ("constant" if free[0] is None else name),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS), 1 - _losses(bench, [replaced])[0]


def constant_edit(bench: Bench, label: Label) -> Edit:
    """The head's mean pattern over the examples in which a row is its destination's; where layouts vary, over the positions of
    one place, by the distance of sources from the end, of what is no pad here.
    """
    clean = bench.clean
    pattern, rows = clean.run.of(label.head)[0], destination_rows(clean.batch, label.where)
    if clean.places is None:
        return PatternEdit(label.head, rows, mean_where(pattern, rows).expand_as(pattern))
    n_pos = pattern.shape[2]
    source = (from_end(clean.batch) % n_pos)[:, None].expand_as(pattern)  # by distance: what lies behind the end comes first
    by_distance = torch.zeros_like(pattern).scatter(2, source, pattern)
    mean = mean_where(by_distance, rows, clean.places).expand_as(pattern).gather(2, source)
    seen = mean * visible(bench.task, clean.batch)
    return PatternEdit(label.head, rows, seen / seen.sum(dim=-1, keepdim=True).clamp(min=1e-9))


def map_edit(bench: Bench, label: Label, name: str) -> Edit:
    """The map of the role of this name, at the head's destination."""
    role = next(role for role in candidate_roles(bench.task) if str(role) == name)
    targets = role_targets(bench.task, bench.clean.batch, [role])[0]
    rows = destination_rows(bench.clean.batch, label.where) & targets.any(dim=-1)
    return PatternEdit(label.head, rows, evenly(targets, bench.clean.run.z.dtype))


def _edit(bench: Bench, label: Label, way: str | None) -> Edit:
    """A constant pattern, or the map of a role."""
    return constant_edit(bench, label) if way is None else map_edit(bench, label, way)


def _losses(bench: Bench, variants: Iterable[list[Edit]]) -> list[float]:
    """For each list of edits the largest share of an answered readout's gap that they destroy."""
    destroyed = brought([1 - bench.recovered(bench.margin(edits)) for edits in variants])
    return [each.where(bench.baseline.open, -torch.inf).max().item() for each in destroyed]
