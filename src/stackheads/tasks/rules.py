"""What a batch must be before anything can be counted on it: its kinds, its shapes, and numbers that name what is there.

Whether it tells the truth is another question (`check.py`). A rule yields what it demands, in which examples it is broken, and
the cure; the next may take for granted what those before it demand.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stackheads.errors import TaskError
from stackheads.tasks.base import Batch, Task, gates, named_hop, operand_roles
from stackheads.tasks.layout import real
from stackheads.types import IGNORE, NOWHERE, Slot

LEAST_EACH = 16
"""Rows there must be, on average, for each value of a gate."""
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""What is taken for int64: whole numbers of other sizes are the same numbers."""
WHOLE = ("tokens", "slots", "targets", "target_hop", "find", "operands")
FEW = 2
"""Examples on which a readout is tried."""


def check_structure(task: Task, batch: object, source: str, n: int) -> Batch:
    """The batch of n examples that `source` ("sample", say) gave. Raises `TaskError` for what is none, or breaks a rule."""
    if not isinstance(batch, Batch):
        raise TaskError(f"a task's {source} must give a tasks.Batch, got {type(batch).__name__}: make one of its tensors")
    for name in WHOLE:
        value: object = getattr(batch, name)
        if (value is not None or name != "operands") and not (isinstance(value, Tensor) and value.dtype in INTEGERS):
            raise TaskError(f"a batch's {name} must be a tensor of int64, got {_kind(value)}: convert it")
    if batch.pads is not None and not isinstance(batch.pads, Tensor):
        raise TaskError(f"a batch's pads must be a tensor of bool, got {_kind(batch.pads)}: convert it")
    values = {name: getattr(batch, name) for name in WHOLE}
    if others := {name: value.long() for name, value in values.items() if value is not None and value.dtype != torch.long}:
        batch = replace(batch, **others)
    known: Any = batch.gates
    if known is not None and not (isinstance(known, Mapping) and all(isinstance(each, Tensor) for each in known.values())):
        raise TaskError(f"a batch's gates must be tensors by name, got {_kind(known)}: give a dictionary of tensors")
    if batch.tokens.is_meta:
        raise TaskError("a batch's tensors must hold numbers, got some on the meta device: draw them on a real one")
    _check_shapes(task, batch, source, n)
    for rule in (_tokens, _kinds_of_slots, _targets, _sources, _pads, partial(gate_values, fitted=False), _read_out):
        raise_first(rule(task, batch))
    return batch


def raise_first(found: Iterator[tuple[str, Tensor, str]]) -> None:
    """Raise `TaskError` for the first rule that an example breaks."""
    for rule, broken, cure in found:
        if bool(broken.any()):
            example = int(broken.nonzero()[0])
            raise TaskError(f"{rule}; example {example} breaks this ({int(broken.sum())} of {len(broken)} do): {cure}")


def _kind(value: object) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__


def _check_shapes(task: Task, batch: Batch, source: str, n: int) -> None:
    """As many examples as asked for, as long as the context, and all tensors of them."""
    tokens, shape = batch.tokens, list(batch.tokens.shape)
    if len(shape) != 2 or len(tokens) != n:
        raise TaskError(f"a task's {source} must give tokens of {n} examples, [{n}, {task.n_ctx}], got {shape}: give so many")
    if shape[1] != task.n_ctx:
        raise TaskError(f"tokens must fill the context, n_ctx = {task.n_ctx}, got {shape[1]}: correct n_ctx, or add pads")
    readouts = batch.targets.shape[-1] if batch.targets.ndim == 3 else 1
    wanted = {
        "slots": ("batch, pos", shape),
        "targets": ("batch, pos, readout", [*shape, readouts]),
        "target_hop": ("batch, pos, readout", [*shape, readouts]),
        "find": ("batch, hop, pos", [n, len(task.hops), shape[1]]),
        "operands": ("batch, operand, pos", [n, len(operand_roles(task)), shape[1]]),
    }
    for name, (axes, expected) in wanted.items():
        value: Tensor | None = getattr(batch, name)
        got = None if value is None else list(value.shape)
        if got != expected and (value is not None or operand_roles(task)):
            raise TaskError(f"{name} must have shape [{axes}] = {expected}, got {got}: give one for each")


def _tokens(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    outside = ((batch.tokens < 0) | (batch.tokens >= task.d_vocab)).any(dim=1)
    yield f"tokens must be in [0, d_vocab) = [0, {task.d_vocab})", outside, "raise d_vocab or correct the tokens"


def _kinds_of_slots(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    unknown = ~torch.isin(batch.slots, torch.tensor([*Slot], device=batch.slots.device))
    yield "slots must be of types.Slot", unknown.any(dim=1), f"name them {', '.join(f'Slot.{slot.name}' for slot in Slot)}"


def _targets(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    below = ((batch.targets < 0) & (batch.targets != IGNORE)).flatten(1).any(dim=1)
    yield f"targets must be answers, or {IGNORE} where nothing is asked", below, f"write {IGNORE} there"
    backward = ((batch.targets >= 0) & (batch.target_hop < 0)).flatten(1).any(dim=1)
    yield "what is asked must be a hop from 1 on, or 0 for what is no hop", backward, "number what is asked from 1"
    asked = batch.targets >= 0
    mapped = [hop for hop in batch.target_hop[asked].unique().tolist() if hop == 0 or named_hop(task, hop) in task.hops]
    stray = asked & ~torch.isin(batch.target_hop, torch.tensor(mapped, device=batch.target_hop.device))
    rule = f"a hop that is asked must be one of the task's hops {tuple(task.hops)}"
    rule += f", got hop {int(batch.target_hop[stray][0])}" if stray.any() else ""
    yield rule, stray.flatten(1).any(dim=1), "name it there and give its find map, of -1 where no single position decides it"


def _sources(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    """Find maps and operands name positions, or nowhere; what can't be attended to is no source, whatever they name."""
    n_pos = batch.tokens.shape[1]
    maps = batch.find if batch.operands is None else torch.cat([batch.find, batch.operands], dim=1)
    outside = ((maps < NOWHERE) | (maps >= n_pos)).flatten(1).any(dim=1)
    yield "find maps must name positions, or -1", outside, "correct the maps"


def _pads(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    """Before or behind an example, and nothing is there."""
    if batch.pads is None:
        return
    n, n_pos = batch.tokens.shape
    kind = f"{_kind(batch.pads)} {list(batch.pads.shape)}"
    wrong = torch.full((n,), batch.pads.shape != batch.tokens.shape or batch.pads.dtype != torch.bool)
    yield f"pads must be bool of shape [batch, pos] = [{n}, {n_pos}]", wrong, f"they are {kind}"
    there = real(batch)
    inside = batch.pads & there.cumsum(dim=1).bool() & there.flip(1).cumsum(dim=1).flip(1).bool()
    yield "pads must stand before or behind an example", inside.any(dim=1), "move them to one end"
    yield "the slot of a pad must be OTHER", (batch.pads & (batch.slots != Slot.OTHER)).any(dim=1), "mark them so"
    asked = (batch.pads[..., None] & (batch.targets >= 0)).flatten(1).any(dim=1)
    yield "nothing must be asked at a pad", asked, "set its targets to -100"
    maps = batch.find if batch.operands is None else torch.cat([batch.find, batch.operands], dim=1)
    every = batch.pads[:, None].expand_as(maps)
    named = (maps >= 0) & (every | every.gather(2, maps.clamp(min=0)))
    yield "find maps must not name pads, or name a source for one", named.flatten(1).any(dim=1), "use -1 there"


def gate_values(task: Task, batch: Batch, fitted: bool = True) -> Iterator[tuple[str, Tensor, str]]:
    """Whole numbers from 0; where they are `fitted`, not too many for this batch."""
    n, n_pos = batch.tokens.shape
    for name, values in gates(batch).items():
        wrong = torch.full((n,), values.shape != batch.tokens.shape)
        yield f"gate {name!r} must have shape [batch, pos] = [{n}, {n_pos}]", wrong, f"it has {list(values.shape)}"
        bad = (values < 0).any(dim=1) if not values.is_floating_point() else torch.ones(n, dtype=torch.bool)
        yield f"gate {name!r} must hold whole numbers from 0", bad, "number what a position may know"
        many = torch.full((n,), fitted and len(values.unique()) * LEAST_EACH > values.numel())
        yield f"gate {name!r} must be told apart by examples", many, f"it has {len(values.unique())} values: name fewer"


def one_change(batch: Batch, other: Batch, what: str) -> Iterator[tuple[str, Tensor, str]]:
    """A counterfactual is the same examples but for a token each."""
    moved = (batch.slots != other.slots) | (real(batch) != real(other))
    yield f"{what} must keep the slots", moved.any(dim=1), "change a token, not the layout"
    changed = (batch.tokens != other.tokens).sum(dim=1)
    yield f"{what} must change one token", changed > 1, "rewire only that link"


def _read_out(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    """The readout gives two answers or more to choose from at every readout, the targets among them."""
    few = batch[:FEW]
    n, n_pos, readouts = few.targets.shape
    answers: object = task.readout(torch.zeros(n, n_pos, task.d_vocab_out, device=batch.tokens.device), few)
    shape = list(answers.shape) if isinstance(answers, Tensor) else [type(answers).__name__]
    wrong = torch.full((len(batch),), shape[:3] != [n, n_pos, readouts] or len(shape) != 4)
    yield f"readout must give [batch, pos, readout, answers] = [{n}, {n_pos}, {readouts}, …]", wrong, f"it gives {shape}"
    single = torch.full((len(batch),), int(shape[-1]) < 2)
    yield "a readout must have two answers or more to choose from", single, f"it has {shape[-1]}"
    outside = (batch.targets >= int(shape[-1])).flatten(1).any(dim=1)
    yield f"targets must be below the readout's {shape[-1]} answers", outside, "correct the targets or the readout"
