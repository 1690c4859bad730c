"""Necessity, both ways: ablating the heads of a hop breaks the answers that need the hop, and leaves the others.

All confirmed heads of one role (at every destination) are resample-ablated together. Which readouts need the role follows from
the labels alone: those that the program read off them no longer reaches without its steps. Beside the set stand random sets of
as many (head, destination) cells, with as many at each destination, of others as far as there are; no set twice, and where
there are not more than `RANDOM_SETS`, all of them. A set is necessary for a readout as far as it destroys more of it than
random sets do: p = (1 + random sets that destroy at least as much) / (1 + random sets).

Backups show as a joint effect above the sum of the single ones (`joint_over_sum` > 1), shared work as one below.
Cost: one forward pass for each role, each of its cells, and each random set.
"""

import math
from collections.abc import Sequence
from itertools import chain, combinations, product

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
SHARES = ["destroyed", "random_median", "random_high", "p"]
COLUMNS = ["role", "hop", "cells", "readout", "needs", *SHARES, "sets", "joint_over_sum"]


def necessity(bench: Bench, labels: Sequence[Label], extracted: Extracted | None, seed: int) -> pd.DataFrame:
    """One row per (role, readout that the model answers).

    `needs` whether the labels say that the readout needs the role (None where the program does not reach it at all, or the
    readout is not at the query); `destroyed` the share of its gap that goes; `random_median` and `random_high` (95th
    percentile) the same for the random sets, of which there are `sets`; `p` as above.
    """
    generator = stream(seed, Stream.NECESSITY)
    rows = []
    for role in _roles(labels):
        mine = [label for label in labels if label.status == "confirmed" and label.role == role]
        destroyed, *alone = _destroyed(bench, [mine, *([label] for label in mine)])
        single = torch.stack(alone).clamp(min=0).sum(dim=0)
        sets = _random_sets(labels, mine, generator)
        random = torch.stack(_destroyed(bench, sets))
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
                    "p": (1 + int((others >= value).sum())) / (1 + len(sets)),
                    "sets": len(sets),
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


def _random_sets(labels: Sequence[Label], like: Sequence[Label], generator: torch.Generator) -> list[list[Label]]:
    """Sets of as many cells at each destination as `like` has, each of others first and of its own where these are too few."""
    pools: list[tuple[list[Label], list[Label], int]] = []  # those that are in every set, those that are drawn, how many
    for destination in Destination:
        number = sum(label.destination == destination for label in like)
        cells = [label for label in labels if label.destination == destination]
        others = [label for label in cells if label not in like]
        enough = len(others) >= number
        always, pool = ([], others) if enough else (others, [label for label in cells if label in like])
        pools.append((always, pool, number - len(always)))
    if math.prod(math.comb(len(pool), number) for _, pool, number in pools) <= RANDOM_SETS:
        every = product(*(combinations(pool, number) for _, pool, number in pools))
        return [[*chain.from_iterable(always for always, _, _ in pools), *chain.from_iterable(parts)] for parts in every]
    found: dict[frozenset[Label], list[Label]] = {}
    while len(found) < RANDOM_SETS:
        chosen: list[Label] = []
        for always, pool, number in pools:
            order = torch.randperm(len(pool), generator=generator).tolist()
            chosen += [*always, *(pool[index] for index in order[:number])]
        found.setdefault(frozenset(chosen), chosen)
    return list(found.values())


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
