"""Edits that make heads do what their labels say, and nothing else.

`ideal_edits`: heads look exactly where their labels say. `silenced`: all others give what they give on average, or on another
example.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import ABLATIONS, destination_rows
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.roles import role_targets
from stackheads.models.forwards.patterned import mean_where
from stackheads.models.forwards.rows import look_through, marked
from stackheads.models.hooks import Edit, HeadEdit, PatternEdit
from stackheads.types import HeadId, Where


def silenced(bench: Bench, labels: Sequence[Label], live: Sequence[Label], method: str) -> list[Edit]:
    """Edits that give every (head, destination) not in `live` its ablated output."""
    rows = {label.where: destination_rows(bench.clean.batch, label.where) for label in labels}
    silent = silent_rows(labels, live, rows)
    return [HeadEdit(head, at, ABLATIONS[method](bench.clean, head)) for head, at in silent.items()]


def silent_rows(
    labels: Iterable[Label], live: Iterable[Label], rows: Mapping[Where, Bool[Tensor, "batch pos"]]
) -> dict[HeadId, Bool[Tensor, "batch pos"]]:
    """The rows at which each head is silenced where some are live; `rows` are those of each destination."""
    kept = {(label.head, label.where) for label in live}
    found: dict[HeadId, Tensor] = {}
    for label in labels:
        if (label.head, label.where) not in kept:
            own = rows[label.where]
            found[label.head] = found[label.head] | own if label.head in found else own
    return found


def ideal_edits(bench: Bench, labels: Sequence[Label], silence: str = "mean") -> list[Edit]:
    """Edits that make heads look exactly where their labels say; where the label is silent, they give their mean over the
    examples in which it is ("mean"), or their output on another one of these ("resample").
    """
    edits: list[Edit] = []
    sources = [role_targets(bench.task, bench.clean.batch, [label.role])[0] for label in labels if label.role is not None]
    at = [destination_rows(bench.clean.batch, label.where) for label in labels]
    unnamed = [rows & ~targets.any(dim=-1) for rows, targets in zip(at, sources, strict=True)]
    look_through(unnamed)
    for label, rows, targets, silent in zip(labels, at, sources, unnamed, strict=True):
        edits.append(PatternEdit(label.head, rows & ~silent, evenly(targets, bench.clean.run.z.dtype)))
        if marked(silent):
            z = bench.clean.run.output(label.head)
            place = bench.clean.places
            quiet = mean_where(z, silent, place).expand_as(z) if silence == "mean" else _other_where(z, silent, place)
            edits.append(HeadEdit(label.head, silent, quiet))
    return edits


def evenly(targets: Bool[Tensor, "batch pos source"], dtype: torch.dtype) -> Float[Tensor, "batch pos source"]:
    """All attention on the marked sources, in equal parts."""
    mass = targets.to(dtype)
    return mass / mass.sum(dim=-1, keepdim=True).clamp(min=1)


def _other_where(
    z: Float[Tensor, "batch pos d_head"], rows: Bool[Tensor, "batch pos"], place: Int[Tensor, "batch pos"] | None
) -> Float[Tensor, "batch pos d_head"]:
    """z of the next example, in a circle, whose row at the same position, or the same place, is marked too."""
    at = torch.arange(rows.shape[1], device=rows.device).expand_as(rows) if place is None else place
    found = z.clone()
    for number in at[rows].unique():
        here = rows & (at == number)
        found[here] = z[here].roll(-1, dims=0)
    return found
