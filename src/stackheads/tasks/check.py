"""Does a task tell the truth? What an analysis takes on trust – find maps, targets, counterfactuals – checked on examples.

For tasks that users bring: a find map that is off by one would make every label wrong, silently. Each rule is checked on every
example; the first that breaks one is named. What a rule can't know, it leaves alone: answers need not be the tokens that stand
at their sources, but the same source token must always mean the same answer.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from stackheads.errors import StackheadsWarning, TaskError
from stackheads.seeds import Stream, stream
from stackheads.tasks.base import Batch, Task, gates
from stackheads.tasks.layout import at_end, layouts, one_layout, real
from stackheads.types import NOWHERE, Slot

LEAST_EACH = 16
"""Rows there must be, on average, for each value of a gate."""

Rule = Callable[[Task, Batch], Iterator[tuple[str, Bool[Tensor, "batch"], str]]]


def check(task: Task, examples: int = 256, seed: int = 0) -> None:
    """Raise `TaskError` naming the first example that breaks a rule, the rule and the cure; return quietly if there is none.

    Cost: sampling, and one counterfactual for each hop asked; no model is needed.
    """
    generator = stream(seed, Stream.CHECK)
    batch = task.sample(examples, generator)
    again = task.sample(examples, stream(seed, Stream.CHECK))
    same = all(_equal(getattr(batch, field.name), getattr(again, field.name)) for field in fields(batch))
    if not same:
        raise TaskError("the same generator state must give the same examples, it gave others: draw from the generator only")
    for rule in (_tokens, _slots, _pads, _gates, _sources, _composition, _answers, _readout):
        _raise_first(rule(task, batch))
    if not one_layout(batch):
        _tell_layouts(batch)
    asked = at_end(batch, batch.target_hop)[at_end(batch, batch.targets) >= 0]
    for hop in range(1, int(asked.max()) + 1 if len(asked) else 1):
        _raise_first(_counterfactual(task, batch, task.counterfactual(batch, hop, generator), hop))


def _tell_layouts(batch: Batch) -> None:
    """What is lost where layouts vary."""
    number = layouts(batch)
    alone = (number.bincount()[number] == 1).double().mean().item()
    warnings.warn(
        f"layouts vary, {len(number.unique())} in {len(batch)} examples: means are by slot and distance from the end; "
        f"{alone:.0%} of the examples are ablated from one of another layout, since theirs is the only one of its kind",
        StackheadsWarning,
        stacklevel=3,
    )


def check_gates(task: Task, batch: Batch, fitted: bool = True) -> None:
    """Raise `TaskError` for gates of another shape or kind than they must have.

    Where they are `fitted`, also for those with too many values for this batch.
    """
    _raise_first(_gates(task, batch, fitted))


def _raise_first(found: Iterator[tuple[str, Tensor, str]]) -> None:
    for rule, broken, cure in found:
        if bool(broken.any()):
            example = int(broken.nonzero()[0])
            raise TaskError(f"{rule}; example {example} breaks this ({int(broken.sum())} of {len(broken)} do): {cure}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(_equal(one[name], other[name]) for name in one)
    return one is other


def _tokens(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    n, n_pos = batch.tokens.shape
    everywhere = torch.full((n,), n_pos != task.n_ctx)
    yield f"tokens must fill the context, n_ctx = {task.n_ctx}", everywhere, f"they are {n_pos} long"
    outside = ((batch.tokens < 0) | (batch.tokens >= task.d_vocab)).any(dim=1)
    yield f"tokens must be in [0, d_vocab) = [0, {task.d_vocab})", outside, "raise d_vocab or correct the tokens"


def _slots(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    no_query = ~(batch.slots == Slot.QUERY).any(dim=1)
    yield "an example must have a query", no_query, "mark the position that is asked as Slot.QUERY"


def _pads(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    """Before or behind an example, and nothing is there."""
    if batch.pads is None:
        return
    n, n_pos = batch.tokens.shape
    kind = f"{str(batch.pads.dtype).removeprefix('torch.')} {list(batch.pads.shape)}"
    wrong = torch.full((n,), batch.pads.shape != batch.tokens.shape or batch.pads.dtype != torch.bool)
    yield f"pads must be bool of shape [batch, pos] = [{n}, {n_pos}]", wrong, f"they are {kind}"
    there = real(batch)
    inside = batch.pads & there.cumsum(dim=1).bool() & there.flip(1).cumsum(dim=1).flip(1).bool()
    yield "pads must stand before or behind an example", inside.any(dim=1), "move them to one end"
    yield "the slot of a pad must be OTHER", (batch.pads & (batch.slots != Slot.OTHER)).any(dim=1), "mark them so"
    asked = (batch.pads[..., None] & (batch.targets >= 0)).flatten(1).any(dim=1)
    yield "nothing must be asked at a pad", asked, "set its targets to -100"
    maps = batch.find if batch.operands is None else torch.cat([batch.find, batch.operands], dim=1)
    pads = batch.pads[:, None].expand_as(maps)
    named = (maps >= 0) & (pads | pads.gather(2, maps.clamp(min=0)))
    yield "find maps must not name pads, or name a source for one", named.flatten(1).any(dim=1), "use -1 there"


def _gates(task: Task, batch: Batch, fitted: bool = True) -> Iterator[tuple[str, Tensor, str]]:
    n, n_pos = batch.tokens.shape
    for name, values in gates(batch).items():
        wrong = torch.full((n,), values.shape != batch.tokens.shape)
        yield f"gate {name!r} must have shape [batch, pos] = [{n}, {n_pos}]", wrong, f"it has {list(values.shape)}"
        bad = (values < 0).any(dim=1) if not values.is_floating_point() else torch.ones(n, dtype=torch.bool)
        yield f"gate {name!r} must hold whole numbers from 0", bad, "number what a position may know"
        many = torch.full((n,), fitted and len(values.unique()) * LEAST_EACH > values.numel())
        yield f"gate {name!r} must be told apart by examples", many, f"it has {len(values.unique())} values: name fewer"


def _sources(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    n_pos = batch.tokens.shape[1]
    shape = (len(batch), len(task.hops), n_pos)
    wrong = torch.full((len(batch),), tuple(batch.find.shape) != shape)
    yield f"find must have shape [batch, hop, pos] = {list(shape)}", wrong, f"it has {list(batch.find.shape)}"
    outside = ((batch.find < NOWHERE) | (batch.find >= n_pos)).flatten(1).any(dim=1)
    yield "find maps must name positions, or -1", outside, "correct the maps"
    if task.attention_dir == "causal":
        ahead = (batch.find > torch.arange(n_pos)).flatten(1).any(dim=1)
        yield "where attention is causal find maps must not point ahead", ahead, "use -1 for sources that can't be seen"


def _composition(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    """find^(j+1)(i) = find^1(find^j(i)) wherever both sides exist, j ≥ 1."""
    offsets = list(task.hops)
    if 1 not in offsets:
        return
    once = batch.find[:, offsets.index(1)]
    for hop in offsets:
        if hop < 1 or hop + 1 not in offsets:
            continue
        here, further = batch.find[:, offsets.index(hop)], batch.find[:, offsets.index(hop + 1)]
        through = once.gather(1, here.clamp(min=0))
        broken = ((here >= 0) & (further >= 0) & (through >= 0) & (through != further)).any(dim=1)
        yield f"find^{hop + 1} must be find^1 of find^{hop}", broken, "correct the maps"


def _answers(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    """Where hop j is asked and its source is there, the answer is a function of the token at the source.

    Not the other way round: a token may hold more than the answer, such as a pair of key and value.
    """
    asked = batch.targets >= 0
    unnamed = (asked & (batch.target_hop == 0)).flatten(1).all(dim=1) & asked.flatten(1).any(dim=1)
    yield "every example must ask some hop", unnamed, "set target_hop where targets are"
    offsets = list(task.hops)
    tokens, answers, example = [], [], []
    for hop in set(batch.target_hop[asked].tolist()) & set(offsets):
        source = batch.find[:, offsets.index(hop)][:, :, None].expand_as(batch.targets)
        here = asked & (batch.target_hop == hop) & (source >= 0)
        if not here.any():  # no single position decides it, anywhere
            continue
        row = torch.arange(len(batch))[:, None, None].expand_as(here)[here]
        tokens.append(batch.tokens[row, source[here]])
        answers.append(batch.targets[here])
        example.append(row)
    if not tokens:
        return
    token, answer, row = torch.cat(tokens), torch.cat(answers), torch.cat(example)
    counts = torch.zeros(int(token.max()) + 1, int(answer.max()) + 1).index_put((token, answer), torch.tensor(1.0), True)
    broken = torch.zeros(len(batch), dtype=torch.bool)
    broken[row[counts.argmax(1)[token] != answer]] = True
    yield "the token at find^j must tell the answer of hop j", broken, "correct the maps or the targets"


def _readout(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    n, n_pos, slots = batch.targets.shape
    shape = tuple(task.readout(torch.zeros(n, n_pos, task.d_vocab_out), batch).shape)
    wrong = torch.full((n,), shape[:3] != (n, n_pos, slots) or len(shape) != 4)
    yield f"readout must give [batch, pos, readout, answers] = [{n}, {n_pos}, {slots}, …]", wrong, f"it gives {list(shape)}"
    outside = (batch.targets >= shape[-1]).flatten(1).any(dim=1)
    yield f"targets must be below the readout's {shape[-1]} answers", outside, "correct the targets or the readout"


def _counterfactual(task: Task, batch: Batch, other: Batch, hop: int) -> Iterator[tuple[str, Tensor, str]]:
    changed = (batch.tokens != other.tokens).sum(dim=1)
    what = f"the counterfactual at hop {hop}"
    yield f"{what} must change one token", changed > 1, "rewire only that link"
    yield f"{what} must change something in some example", (changed == 0).all().expand(len(batch)), "rewire that link"
    moved = (batch.slots != other.slots) | (real(batch) != real(other))
    yield f"{what} must keep the slots", moved.any(dim=1), "change a token, not the layout"
    before, after, asked = (at_end(batch, each) for each in (batch.targets, other.targets, batch.target_hop))
    differs = (before != after) & (changed > 0)[:, None]
    early = (differs & (asked < hop) & (asked > 0)).any(dim=1)
    yield f"{what} must leave the answers of earlier hops", early, "rewire a later link"
    same = (~differs & (asked >= hop) & (changed > 0)[:, None] & (before >= 0)).any(dim=1)
    yield f"{what} must change the answers from hop {hop} on", same, "choose another replacement"
