"""The circuit written out as a program, compiled and run again: what extracting an automaton is for recurrent networks.

Every confirmed head becomes a step (layer, role, destination). Steps that cannot find their source by what earlier confirmed
steps make known are dropped and named: there the labels do not explain the model. The rest is compiled without training and
answers fresh examples; its agreement with the model's answers says how much of the behaviour the labels alone reproduce.

Programs follow links that are there from the start. Where conditions decide which links there are (`tasks/conditional.py`) the
steps are listed but nothing is compiled.
"""

from dataclasses import dataclass

import pandas as pd

from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.programs.compiler import compile_layers
from stackheads.programs.program import Program, Step, Windows, lower, own_register, possible_part
from stackheads.seeds import Stream, stream
from stackheads.tables import natural, records
from stackheads.tasks import StatementTask
from stackheads.types import Destination, HeadId, Role

NO_WORDS = "a step needs a condition beside its value here, and condition heads are not part of programs"


@dataclass(frozen=True)
class Extracted:
    """A program read off the labels. `windows` are the offsets known after each layer; `dropped` the steps left out.

    `listed` are the steps of a task for which programs have no words; then the program is empty.
    """

    program: Program
    dropped: tuple[Step, ...]
    windows: tuple[Windows, ...]
    listed: tuple[Step, ...] = ()

    def __str__(self) -> str:
        if self.listed:
            return f"{Program(self.listed)}\nnot compiled: {NO_WORDS}"
        text = str(self.program)
        if self.dropped:
            names = [f"layer {step.layer} {step.role} @{step.destinations[0]}" for step in self.dropped]
            text += "\nleft out, since nothing confirmed lets it find its source: " + "; ".join(names)
        return text


def extract_program(labels: pd.DataFrame, task: StatementTask) -> Extracted | None:
    """The program of the confirmed heads; None if there are none.

    Left out are the roles `self` and `start`, which carry nothing, and roles under a gate: steps of a program know none.
    """
    carrying = ("hop", "previous", "duplicate", *(role.name for role in task.operands))
    steps = {
        Step(row["layer"], Role(row["role"], row["hop"]), (Destination(row["destination"]),))
        for row in records(labels)
        if row["status"] == "confirmed" and row["role"] in carrying and row.get("gate") is None
    }
    if not steps:
        return None
    ordered = tuple(sorted(steps, key=lambda step: (step.layer, natural(str(step.role)), step.destinations)))
    if task.operands:
        return Extracted(Program(()), (), (), listed=ordered)
    return Extracted(*possible_part(Program(ordered), task.same_offset))


@dataclass(frozen=True)
class Runnable:
    """A program compiled to a model, and which of its heads carry out each step (layer, role, destination)."""

    model: Model
    heads: dict[tuple[int, Role, Destination], tuple[HeadId, ...]]


def compiled(extracted: Extracted, task: StatementTask) -> Runnable:
    """The program as a model that answers the task's query readouts. The program must have a step."""
    by_layer = lower(extracted.program, task.same_offset, separate=True)
    used = [layer for layer, heads in enumerate(by_layer) if heads]
    layers = tuple(by_layer[layer] for layer in used)
    readouts = {hop: {own_register(task.same_offset(hop), Destination.QUERY): 1.0} for hop in task.readout_hops}
    model, _ = compile_layers(layers, task, normalization=None, readouts=readouts)
    heads: dict[tuple[int, Role, Destination], tuple[HeadId, ...]] = {}
    for number, layer in enumerate(used):
        for index, head in enumerate(layers[number]):
            for destination, role in head.roles.items():
                step = (layer, role, destination)
                heads[step] = (*heads.get(step, ()), HeadId(number, index))
    return Runnable(model, heads)


def agreement(extracted: Extracted, model: Model, task: StatementTask, examples: int = 512, seed: int = 0) -> dict[int, float]:
    """Per readout hop at the query, the share of fresh examples on which program and model give the same answer.

    Cost: one forward pass of each.
    """
    if not extracted.program.steps:
        return {}
    batch = task.sample(examples, stream(seed, Stream.AGREEMENT))
    device = next(model.parameters()).device
    with analysing(model):
        theirs = task.readout(model(batch.tokens.to(device)), batch)[:, -1].argmax(dim=-1).cpu()
        ours = task.readout(compiled(extracted, task).model(batch.tokens), batch)[:, -1].argmax(dim=-1)
    same = (theirs == ours).double().mean(dim=0).tolist()
    return dict(zip(task.readout_hops, same, strict=True))
