"""How the heads work together: the mechanism by which depth buys hops, from confirmed heads alone.

The windows of the extracted program say how far the query can follow the chain after each layer. Growth by one hop a layer
is `one hop per layer`; growth by more, from value slots that look ahead, is `doubling`; windows that grow backward too, by
confirmed heads with negative hops at value slots, make `tripling`. A model that answers while its confirmed heads do not
reach the deepest hop it answers is `other`; one without confirmed hop heads `none`.
"""

from dataclasses import dataclass

from stackheads.analysis.program import Extracted
from stackheads.models.compiled.program import same_offset
from stackheads.tasks import StatementTask
from stackheads.types import Destination


@dataclass(frozen=True)
class Mechanism:
    """A name and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def name_mechanism(extracted: Extracted | None, task: StatementTask) -> Mechanism:
    """The mechanism of a model's confirmed heads."""
    if extracted is None or not any(step.role.name == "hop" for step in extracted.program.steps):
        return Mechanism("none", "no head is confirmed in a hop")
    reached = [_reached(windows[Destination.QUERY], task) for windows in extracted.windows]
    depth = f"confirmed heads let the query follow {', '.join(map(str, reached))} hops after layers 0 to {len(reached) - 1}"
    if reached[-1] < max(task.readout_hops):
        return Mechanism("other", f"{depth}, of {max(task.readout_hops)}: the labels do not explain the rest")
    steps = extracted.program.steps
    backward = [
        step for step in steps if step.role.hop is not None and step.role.hop < 0 and Destination.VALUE in step.destinations
    ]
    if backward:
        return Mechanism("tripling", f"{depth}, with windows that also grow backward ({backward[0].role} @value)")
    growth = [after - before for before, after in zip([0, *reached], reached, strict=False)]
    if max(growth) <= 1:
        return Mechanism("one hop per layer", depth)
    return Mechanism("doubling", f"{depth}, with value slots that look ahead")


def _reached(window: frozenset[int], task: StatementTask) -> int:
    """How many hops in a row, from 1, the window holds."""
    hop = 0
    while hop < max(task.readout_hops) and same_offset(hop + 1, task.period) in window:
        hop += 1
    return hop
