"""What selectors do together, said of them: the mechanism and the program, with the labels' help.

A program must find its sources, and selectors leave out the heads that only tell later ones where to look (`selected.py`). So
the program has the steps of confirmed heads and those of selectors. The mechanism is that of the selectors, and of the program
where it matters how sources are found: windows that grow both ways.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from stackheads.explanation.away import Away
from stackheads.explanation.carried import Carried, carried, gate_values
from stackheads.explanation.explained import Explained
from stackheads.explanation.mechanism import name_carried
from stackheads.explanation.program import Extracted, agreement, label_steps, program_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.protocol import Model
from stackheads.programs.program import Step
from stackheads.seeds import Stream, stream
from stackheads.tasks import Task, draw

EXAMPLES = 512
"""Drawn to see which values gates have, and with which of them each hop is asked."""


def together(
    found: Explained, labels: pd.DataFrame, model: Model, task: Task, reach: pd.DataFrame | None, thresholds: Thresholds
) -> Explained:
    """Selectors with their mechanism and program; `reach` may be missing. Cost: two forward passes on 512 examples."""
    parts, extracted = of_selectors(found, label_steps(labels), model.cfg.n_layers, task, thresholds, found.away)
    mechanism = name_carried(parts, task, reach, () if extracted is None else extracted.program.steps, thresholds)
    return replace(
        found,
        mechanism=mechanism.name,
        mechanism_reason=mechanism.reason,
        program=None if extracted is None else str(extracted),
        program_agreement={} if extracted is None else agreement(extracted, model, task, seed=found.seed),
    )


def of_selectors(
    found: Explained,
    of_labels: tuple[list[Step], dict[str, set[int]]],
    layers: int,
    task: Task,
    thresholds: Thresholds,
    away: Sequence[Away],
) -> tuple[Carried, Extracted | None]:
    """What selectors do together, and the program of their steps and those of labels (`label_steps`); `away` are the heads that
    look at all sources of a kind but some.
    """
    batch = draw(task, EXAMPLES, stream(found.seed, Stream.SELECTORS_TRIED, "gates"))
    parts, (steps, values) = carried(found.table, found.curve, task, batch, layers, thresholds, away), of_labels
    return parts, program_of([*steps, *parts.steps], gate_values(batch) | values, task)
