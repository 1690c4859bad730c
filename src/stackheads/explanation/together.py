"""What selectors do together, said of them: the mechanism and the program, with the labels' help.

A program must find its sources, and selectors leave out the heads that only tell later ones where to look (`selected.py`). So
the program has the steps of confirmed heads and those of selectors. The mechanism is that of the selectors, and of the program
where it matters how sources are found: windows that grow both ways.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from stackheads.explanation.away import Away, looking_away, may_look_away
from stackheads.explanation.carried import Carried, carried, gate_values
from stackheads.explanation.explained import Explained
from stackheads.explanation.mechanism import name_carried
from stackheads.explanation.program import Extracted, agreement, label_steps, program_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import analysing, record
from stackheads.models.protocol import Model
from stackheads.programs.program import Step
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch, Task, draw

EXAMPLES = 512
"""Drawn to see which values gates have, and with which of them each hop is asked."""
LOOKED_AT = 256
"""Of these, on which heads are asked whether they look at all sources of a kind but some."""


def together(
    found: Explained, labels: pd.DataFrame, model: Model, task: Task, reach: pd.DataFrame | None, thresholds: Thresholds
) -> Explained:
    """Selectors with their mechanism and program; `reach` may be missing. Cost: two forward passes on 512 examples, and one on
    256.
    """
    batch = among(task, found)
    away = heads_looking_away(model, task, batch)
    parts, extracted = of_selectors(found, label_steps(labels), model, task, batch, thresholds, away)
    mechanism = name_carried(parts, task, reach, () if extracted is None else extracted.program.steps, thresholds)
    return replace(
        found,
        mechanism=mechanism.name,
        mechanism_reason=mechanism.reason,
        program=None if extracted is None else str(extracted),
        program_agreement={} if extracted is None else agreement(extracted, model, task, seed=found.seed),
    )


def among(task: Task, found: Explained) -> Batch:
    """Examples to see which values gates have, and where heads look."""
    return draw(task, EXAMPLES, stream(found.seed, Stream.SELECTORS_TRIED, "gates"))


def heads_looking_away(model: Model, task: Task, batch: Batch) -> list[Away]:
    """The heads that look at all sources of a kind but some. Cost: one forward pass on `LOOKED_AT` of the examples."""
    if not may_look_away(task):
        return []
    some = batch[:LOOKED_AT].to(next(model.parameters()).device)
    with analysing(model):
        return looking_away(record(model, some.tokens, some.pads).pattern, some, task)


def of_selectors(
    found: Explained,
    steps: tuple[list[Step], dict[str, set[int]]],
    model: Model,
    task: Task,
    batch: Batch,
    thresholds: Thresholds,
    away: Sequence[Away],
) -> tuple[Carried, Extracted | None]:
    """What selectors do together, and the program of their steps and those of labels (`label_steps`)."""
    parts = carried(found.table, found.curve, task, batch, model.cfg.n_layers, thresholds, away)
    of_labels, values = steps
    return parts, program_of([*of_labels, *parts.steps], gate_values(batch) | values, task)
