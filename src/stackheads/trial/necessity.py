"""Necessity, both ways: ablating the heads of a hop breaks the answers that need the hop, and leaves the others.

All confirmed heads of one role (at every destination) are resample-ablated together. Which readouts need the role follows from
the labels alone: those that the program read off them no longer reaches without its steps. Beside the set stand random sets of
as many other (head, destination) cells, with as many at each destination. A set is necessary for a readout as far as it
destroys more of it than random sets do: p = (1 + random sets that destroy at least as much) / (1 + random sets).

Backups show as a joint effect above the sum of the single ones (`joint_over_sum` > 1), shared work as one below.
Cost: one forward pass for each role, each of its cells, and each random set.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.explanation.program import Extracted, answerable
from stackheads.interventions import ABLATIONS, destination_rows
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.statistics import brought
from stackheads.models.hooks import HeadEdit
from stackheads.programs.program import Program, possible_part
from stackheads.seeds import Stream, stream
from stackheads.tasks import StatementTask
from stackheads.types import Destination, Role

RANDOM_SETS = 100
COLUMNS = ["role", "hop", "cells", "readout", "needs", "destroyed", "random_median", "random_high", "p", "joint_over_sum"]


def necessity(bench: Bench, labels: Sequence[Label], extracted: Extracted | None, seed: int) -> pd.DataFrame:
    """One row per (role, readout that the model answers).

    `needs` whether the labels say that the readout needs the role (None where the program does not reach it at all, or the
    readout is not at the query); `destroyed` the share of its gap that goes; `random_median` and `random_high` (95th
    percentile) the same for the random sets; `p` as above.
    """
    generator = stream(seed, Stream.NECESSITY)
    rows = []
    for role in _roles(labels):
        mine = [label for label in labels if label.status == "confirmed" and label.role == role]
        destroyed, *alone = _destroyed(bench, [mine, *([label] for label in mine)])
        single = torch.stack(alone).clamp(min=0).sum(dim=0)
        random = torch.stack(_destroyed(bench, [_random_set(labels, mine, generator) for _ in range(RANDOM_SETS)]))
        needs = _needing(bench, extracted, role)
        for number, readout in enumerate(bench.baseline.readouts):
            if not bool(bench.baseline.open[number]):
                continue
            value, others = destroyed[number], random[:, number]
            rows.append(
                {
                    "role": role.name,
                    "hop": role.hop,
                    "cells": len(mine),
                    "readout": str(readout),
                    "needs": needs.get(readout.hop) if readout.destination == Destination.QUERY else None,
                    "destroyed": value.item(),
                    "random_median": others.median().item(),
                    "random_high": others.quantile(0.95).item(),
                    "p": (1 + int((others >= value).sum())) / (1 + RANDOM_SETS),
                    "joint_over_sum": (value / single[number]).item() if single[number] > 0 else None,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS).astype({"hop": "Int64"})


def _roles(labels: Sequence[Label]) -> list[Role]:
    confirmed = {label.role for label in labels if label.status == "confirmed" and label.role is not None}
    return sorted(confirmed, key=lambda role: (role.name, role.hop or 0))


def _destroyed(bench: Bench, sets: Sequence[Sequence[Label]]) -> list[Float[Tensor, "readout"]]:
    """What resample ablation of each set of cells destroys."""
    variants = [
        [
            HeadEdit(
                label.head,
                destination_rows(bench.clean.batch, label.where),
                ABLATIONS["resample"](bench.clean, label.head),
            )
            for label in cells
        ]
        for cells in sets
    ]
    return brought([1 - bench.recovered(margin) for margin in bench.margins(variants)])


def _random_set(labels: Sequence[Label], like: Sequence[Label], generator: torch.Generator) -> list[Label]:
    """As many cells at each destination as `like` has, others as far as there are enough."""
    chosen: list[Label] = []
    for destination in Destination:
        number = sum(label.destination == destination for label in like)
        cells = [label for label in labels if label.destination == destination]
        others = [label for label in cells if label not in like]
        pool = others if len(others) >= number else cells
        order = torch.randperm(len(pool), generator=generator).tolist()
        chosen += [pool[index] for index in order[:number]]
    return chosen


def _needing(bench: Bench, extracted: Extracted | None, role: Role) -> dict[int, bool]:
    """For each readout hop that the program reaches: whether it no longer does without the role's steps."""
    task = bench.task
    if extracted is None or not isinstance(task, StatementTask):
        return {}

    def reached(program: Program) -> set[int]:
        windows = possible_part(program, task.same_offset)[2]
        known = windows[-1][Destination.QUERY] if windows else frozenset()
        return {hop for hop in task.readout_hops if task.same_offset(hop) in answerable(known, task)}

    whole = reached(extracted.program)
    without = reached(Program(tuple(step for step in extracted.program.steps if step.role != role)))
    return {hop: hop not in without for hop in whole}
