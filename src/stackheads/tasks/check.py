"""Does a task tell the truth? What an analysis takes on trust – find maps, targets, counterfactuals – checked on examples.

For tasks that users bring: a find map that is off by one would make every label wrong, silently. Each rule is checked on every
example; the first that breaks one is named. What a rule can't know, it leaves alone: answers need not be the tokens that stand
at their sources, but the same source token must always mean the same answer.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from stackheads.errors import StackheadsWarning, TaskError
from stackheads.seeds import Stream, stream
from stackheads.tasks.base import Batch, Task, named_hop
from stackheads.tasks.drawn import check_task, draw, rewired
from stackheads.tasks.layout import at_end, layouts, one_layout
from stackheads.tasks.rules import gate_values, raise_first
from stackheads.types import Slot


def check(task: Task, examples: int = 256, seed: int = 0) -> None:
    """Raise `TaskError` naming the first example that breaks a rule, the rule and the cure; return quietly if there is none.

    Cost: sampling, and one counterfactual for each hop asked; no model is needed. Raises `ConfigError` for what is no task.
    """
    check_task(task)
    generator = stream(seed, Stream.CHECK)
    batch, again = draw(task, examples, generator), draw(task, examples, stream(seed, Stream.CHECK))
    same = all(_equal(getattr(batch, field.name), getattr(again, field.name)) for field in fields(batch))
    if not same:
        raise TaskError("the same generator state must give the same examples, it gave others: draw from the generator only")
    for rule in (_query, gate_values, _ahead, _composition, _answers):
        raise_first(rule(task, batch))
    if not one_layout(batch):
        _tell_layouts(batch)
    asked = at_end(batch, batch.target_hop)[at_end(batch, batch.targets) >= 0]
    for hop in range(1, int(asked.max()) + 1 if len(asked) else 1):
        raise_first(_counterfactual(task, batch, rewired(task, batch, hop, generator), hop))


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
    raise_first(gate_values(task, batch, fitted))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(_equal(one[name], other[name]) for name in one)
    return one is other


def _query(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    no_query = ~(batch.slots == Slot.QUERY).any(dim=1)
    yield "an example must have a query", no_query, "mark the position that is asked as Slot.QUERY"
    nothing = (batch.targets < 0).all().expand(len(batch))
    yield "something must be asked in some example", nothing, "set targets, and the hop that each is"


def _ahead(task: Task, batch: Batch) -> Iterator[tuple[str, Tensor, str]]:
    maps = batch.find if batch.operands is None else torch.cat([batch.find, batch.operands], dim=1)
    ahead = (maps > torch.arange(maps.shape[2], device=maps.device)).flatten(1).any(dim=1) & (task.attention_dir == "causal")
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
    for hop in sorted(set(batch.target_hop[asked].tolist()) - {0}):
        source = batch.find[:, offsets.index(named_hop(task, hop))][:, :, None].expand_as(batch.targets)
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


def _counterfactual(task: Task, batch: Batch, other: Batch, hop: int) -> Iterator[tuple[str, Tensor, str]]:
    changed = (batch.tokens != other.tokens).sum(dim=1)
    what = f"the counterfactual at hop {hop}"
    yield f"{what} must change something in some example", (changed == 0).all().expand(len(batch)), "rewire that link"
    before, after, asked = (at_end(batch, each) for each in (batch.targets, other.targets, batch.target_hop))
    differs = (before != after) & (changed > 0)[:, None]
    early = (differs & (asked < hop) & (asked > 0)).any(dim=1)
    yield f"{what} must leave the answers of earlier hops", early, "rewire a later link"
    same = (~differs & (asked >= hop) & (changed > 0)[:, None] & (before >= 0)).any(dim=1)
    yield f"{what} must change the answers from hop {hop} on", same, "choose another replacement"
