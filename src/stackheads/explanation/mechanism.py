"""How the heads work together: the mechanism by which depth buys hops, from confirmed heads and the growth of reach.

The windows of the extracted program say how far the query can follow the chain after each layer by what confirmed heads do.
Growth by one hop a layer is `one hop per layer`; growth by more, from value slots that look ahead, is `doubling`; windows that
grow backward too, by confirmed heads with negative hops at value slots, make `tripling`. A model that answers while its
confirmed heads do not reach the deepest hop it answers is `other`, and so is one whose steps need conditions, which programs do
not have; one without confirmed hop heads `none`.

Reach (`explanation/reach.py`) is the check from outside, by probes. Following links, a position that knows all within radius r
knows all within 3r + 1 a layer later, or 2r + 1 where attention is causal, and hop j lies at radius 2j
(docs/method/theory.md). If the query holds a hop that no model can have followed to by then, it was answered some other way:
the mechanism is `shortcut`.
"""

from dataclasses import dataclass

import pandas as pd

from stackheads.explanation.program import NO_WORDS, Extracted
from stackheads.programs.program import Step
from stackheads.tasks import StatementTask
from stackheads.types import Destination


@dataclass(frozen=True)
class Mechanism:
    """A name and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def name_mechanism(extracted: Extracted | None, task: StatementTask, reach: pd.DataFrame) -> Mechanism:
    """The mechanism of a model; `reach` as `explanation.reach.reach` gives it."""
    read = _read_at_query(reach, task)
    probes = f"probes read {_listed(read)} at the query after each layer"
    for layer, hop in enumerate(read):
        if hop > (most := furthest(layer + 1, task)):
            return Mechanism("shortcut", f"{probes}, but following links reaches hop {most} at most after layer {layer}")
    if extracted is None or not any(map(_follows, (*extracted.program.steps, *extracted.dropped, *extracted.listed))):
        return Mechanism("none", f"no head is confirmed in a hop; {probes}")
    if extracted.listed:
        return Mechanism("other", f"{NO_WORDS}; {probes}")
    if not any(map(_follows, extracted.program.steps)):
        return Mechanism("other", f"heads are confirmed in hops, but nothing confirmed lets them find their source; {probes}")
    reached = [_reached(windows[Destination.QUERY], task) for windows in extracted.windows]
    depth = f"confirmed heads let the query follow {_listed(reached)} hops after layers 0 to {len(reached) - 1}"
    window = extracted.windows[-1][Destination.QUERY]
    if missing := [hop for hop in task.readout_hops if task.same_offset(hop) not in window]:
        there = [hop for hop in task.readout_hops if hop not in missing]
        brought = (
            f"confirmed heads bring the query hops {_listed(there)}" if there else "confirmed heads bring the query no hop"
        )
        return Mechanism("other", f"{brought}: the labels do not explain {_listed(missing)}; {probes}")
    backward = [
        step
        for step in extracted.program.steps
        if step.role.hop is not None and step.role.hop < 0 and Destination.VALUE in step.destinations
    ]
    if backward:
        return Mechanism("tripling", f"{depth}, with windows that also grow backward ({backward[0].role} @value); {probes}")
    growth = [after - before for before, after in zip([0, *reached], reached, strict=False)]
    if max(growth) <= 1:
        return Mechanism("one hop per layer", f"{depth}; {probes}")
    return Mechanism("doubling", f"{depth}, with value slots that look ahead; {probes}")


def furthest(layers: int, task: StatementTask) -> int:
    """The furthest hop that following links can bring to a position in so many layers."""
    radius = 0
    for _ in range(layers):
        radius = (2 if task.attention_dir == "causal" else 3) * radius + 1
    return radius // 2


def _read_at_query(reach: pd.DataFrame, task: StatementTask) -> list[int]:
    """How many hops in a row, from 1, probes read at the query after each layer."""
    rows = reach[(reach["destination"] == "query") & (reach["layer"] >= 0)]
    return [_reached(frozenset(hops), task) for hops in rows["hops"]]


def _follows(step: Step) -> bool:
    return step.role.name == "hop"


def _listed(hops: list[int]) -> str:
    return ", ".join(map(str, hops))


def _reached(window: frozenset[int], task: StatementTask) -> int:
    """How many hops in a row, from 1, the window holds."""
    hop = 0
    while hop < max(task.readout_hops) and task.same_offset(hop + 1) in window:
        hop += 1
    return hop
