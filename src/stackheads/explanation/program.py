"""The circuit written out as a program, compiled and run again: what extracting an automaton is for recurrent networks.

Every confirmed head that carries something becomes a step (layer, role, destination). Steps that cannot find their source by
what earlier confirmed steps make known are dropped and named: there the labels do not explain the model. The rest is compiled
without training and answers fresh examples; its agreement with the model's answers says how much of the behaviour the labels
alone reproduce.

Rows under a gate that together hold at all values are one step: heads that share a job by symbol. Others are written down with
their gate ("hop 1 @value when asked 1..3") and not compiled.

Where every symbol comes once round a cycle, the last hop that is not known is answered by elimination: it is the one symbol
that none of the others is.

Programs are compiled for tasks made of statements and follow links that are there from the start. In other tasks, and where
conditions decide which links there are (`tasks/conditional.py`), the steps are listed but nothing is compiled.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.programs.compiler import compile_layers
from stackheads.programs.program import WALKED, Program, Step, Windows, lower, own_register, possible_part
from stackheads.seeds import Stream, stream
from stackheads.tables import natural, records
from stackheads.tasks import StatementTask, Task
from stackheads.types import Destination, Gate, HeadId, Role

NO_WORDS = "a step needs a condition beside its value here, and condition heads are not part of programs"
NO_STATEMENTS = "programs are compiled for tasks made of statements"
CARRYING = ("hop", "previous", "duplicate")
"""The roles that carry something in a program; `self` and `start` bring nothing that is not there."""


@dataclass(frozen=True)
class Extracted:
    """A program read off the labels. `windows` are the offsets known after each layer; `dropped` the steps left out.

    `listed` are the steps of a task for which programs have no words, `why` says which; then the program is empty.
    """

    program: Program
    dropped: tuple[Step, ...]
    windows: tuple[Windows, ...]
    listed: tuple[Step, ...] = ()
    why: str = NO_WORDS

    def __str__(self) -> str:
        if self.listed:
            return f"{Program(self.listed)}\nnot compiled: {self.why}"
        text = str(self.program)
        reasons = {
            "since nothing confirmed lets it find its source": [step for step in self.dropped if step.gate is None],
            "since it holds at times only": [step for step in self.dropped if step.gate is not None],
        }
        for reason, steps in reasons.items():
            if steps:
                text += f"\nleft out, {reason}: " + "; ".join(f"layer {step.layer} {step}" for step in steps)
        return text

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, compiled or not."""
        return (*self.program.steps, *self.dropped, *self.listed)


def extract_program(labels: pd.DataFrame, task: Task) -> Extracted | None:
    """The program of the confirmed heads; None if there are none.

    Of a task made of statements the roles `self` and `start` are left out, which carry nothing.
    """
    return program_of(*label_steps(labels), task)


def label_steps(labels: pd.DataFrame) -> tuple[list[Step], dict[str, set[int]]]:
    """The steps of confirmed heads, and the values of each gate: the rows of a divided cell are all of its positions."""
    steps, values = [], dict[str, set[int]]()
    for row in records(labels):
        gate = None if row.get("gate") is None else Gate.parse(row["gate"])
        if gate is not None:
            values.setdefault(gate.name, set()).update(gate.values)
        if row["status"] == "confirmed" and row["role"] is not None:
            steps.append(Step(row["layer"], Role(row["role"], row["hop"]), (Destination(row["destination"]),), gate))
    return steps, values


def program_of(steps: Iterable[Step], values: Mapping[str, Iterable[int]], task: Task) -> Extracted | None:
    """The program of these steps, each of one destination; None if none carries anything. `values` are those of each gate."""
    more = [role.name for role in task.operands] if isinstance(task, StatementTask) else ["start"]
    carrying = {*carried_names(task), *more}
    ordered = in_order(shared([step for step in steps if step.role.name in carrying], values))
    if not ordered:
        return None
    if not isinstance(task, StatementTask):
        return Extracted(Program(()), (), (), listed=ordered, why=NO_STATEMENTS)
    if not has_words(task):
        return Extracted(Program(()), (), (), listed=ordered)
    return Extracted(*possible_part(Program(ordered), task.same_offset))


def carried_names(task: Task) -> tuple[str, ...]:
    """The roles that carry something along a chain: where a task is made of statements over keys, too."""
    return (*CARRYING, "key") if isinstance(task, StatementTask) else CARRYING


def has_words(task: StatementTask) -> bool:
    """Whether programs have words for what a task's steps need."""
    return {role.name for role in task.operands} <= set(WALKED)


def in_order(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Steps by layer, role, destination and gate."""
    return tuple(sorted(steps, key=lambda step: (step.layer, natural(str(step.role)), step.destinations, str(step.gate or ""))))


def shared(steps: Iterable[Step], values: Mapping[str, Iterable[int]]) -> set[Step]:
    """Each step once; what several hold at some values of a gate each, and at all of them together, is one without a gate."""
    jobs: dict[tuple[int, Role, tuple[Destination, ...]], set[Gate | None]] = {}
    for step in steps:
        jobs.setdefault((step.layer, step.role, step.destinations), set()).add(step.gate)
    found: set[Step] = set()
    for job, every in jobs.items():
        of_names: dict[str, set[int]] = {}
        for gate in every - {None}:
            assert gate is not None
            of_names.setdefault(gate.name, set()).update(gate.values)
        always = None in every or any(set(values.get(name, ())) <= there for name, there in of_names.items())
        found |= {Step(*job)} if always else {Step(*job, Gate(name, tuple(sorted(all_)))) for name, all_ in of_names.items()}
    return found


def eliminated(window: frozenset[int], task: StatementTask) -> int | None:
    """The offset that is known because all others are, where hops come round to where they began; None if there is none."""
    if task.period is None:
        return None
    left = {task.same_offset(offset) for offset in range(task.period)} - window
    return left.pop() if len(left) == 1 else None


def answerable(window: frozenset[int], task: StatementTask) -> frozenset[int]:
    """The offsets that a query with this window can answer."""
    last = eliminated(window, task)
    return window if last is None else window | {last}


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
    window = extracted.windows[-1][Destination.QUERY]
    readouts = {hop: _registers(task.same_offset(hop), window, task) for hop in task.readout_hops}
    model, _ = compile_layers(layers, task, normalization=None, readouts=readouts)
    heads: dict[tuple[int, Role, Destination], tuple[HeadId, ...]] = {}
    for number, layer in enumerate(used):
        for index, head in enumerate(layers[number]):
            for destination, role in head.roles.items():
                step = (layer, role, destination)
                heads[step] = (*heads.get(step, ()), HeadId(number, index))
    return Runnable(model, heads)


def _registers(offset: int, window: frozenset[int], task: StatementTask) -> dict[str, float]:
    """Where the query reads an offset: in its register, or as what all others are not."""
    if offset not in window and offset == eliminated(window, task):
        return {own_register(other, Destination.QUERY): -1.0 for other in window}
    return {own_register(offset, Destination.QUERY): 1.0}


def agreement(extracted: Extracted, model: Model, task: Task, examples: int = 512, seed: int = 0) -> dict[int, float]:
    """Per readout hop at the query, the share of fresh examples on which program and model give the same answer.

    Nothing where no program is compiled. Cost: one forward pass of each.
    """
    if not extracted.program.steps or not isinstance(task, StatementTask):
        return {}
    batch = task.sample(examples, stream(seed, Stream.AGREEMENT))
    device = next(model.parameters()).device
    with analysing(model):
        theirs = task.readout(model(batch.tokens.to(device)), batch)[:, -1].argmax(dim=-1).cpu()
        ours = task.readout(compiled(extracted, task).model(batch.tokens), batch)[:, -1].argmax(dim=-1)
    same = (theirs == ours).double().mean(dim=0).tolist()
    return dict(zip(task.readout_hops, same, strict=True))
