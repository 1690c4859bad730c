"""Counterfactuals of the examples, and what the model gives on them: a part of the examples at a time, those that change.

An example that a counterfactual leaves as it is – it has no such link – can show nothing, and its run is the clean one. The
others stand in the order of the first token that changes, so that in each part most of what comes before it is the clean run's
(`models/forwards/other_tokens.py`). Where the fast forward is not proved, all examples are one part, in their own order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.interventions import Recorded, replayable
from stackheads.interventions.engine import fitting
from stackheads.labelling.bench import Bench, at_once
from stackheads.labelling.readouts import Scorer
from stackheads.models.forwards.other_tokens import values_on
from stackheads.models.hooks import record_values
from stackheads.models.trust import why_not_fused
from stackheads.tasks import Batch, Operand, rewired
from stackheads.tasks.base import joined
from stackheads.types import HeadId

PARTS, WORTH = 4, 8
"""At least so many parts, so that the examples of one change at about the same place; but none that takes less than this part
of the memory, since a run of few examples is no cheaper.
"""
TOGETHER = 4
"""Counterfactuals that are held at once: pairs of more of them are more alike in what changes, and what a condensed run does
not keep is made once for all.
"""


@dataclass(frozen=True)
class Part:
    """Some pairs of counterfactual and example, by their numbers: what is recorded of the examples, their counterfactuals, the
    logits there (where something is asked) and the value vectors of the heads that are asked about. `fast`: runs can be taken
    up again.
    """

    number: Int[Tensor, "pair"]
    example: Int[Tensor, "pair"]
    clean: Recorded
    scorer: Scorer
    other: Batch
    logits: Float[Tensor, "pair pos d_vocab_out"]
    v: dict[HeadId, Float[Tensor, "pair pos d_head"]]
    fast: bool


def counterfactuals(
    bench: Bench, operand: Operand, deepest: int, heads: Iterable[HeadId], generator: torch.Generator
) -> Iterator[Part]:
    """One for each hop up to `deepest`, numbered from 0: all pairs of one and an example that it changes, a part at a time.

    Cost: at most one forward pass each, and two on few examples to see whether the fast forward is the model's from the tokens
    on; where the run is condensed, a third of one for every `TOGETHER` of them.
    """
    batch, asked = bench.clean.batch, sorted(set(heads))
    fast = replayable(bench.model, bench.clean) and why_not_fused(bench.model, batch.tokens) is None

    def some(numbers: range) -> dict[int, Batch]:
        return {number: rewired(bench.task, batch, number + 1, generator, operand) for number in numbers}

    for start in range(0, deepest, TOGETHER):
        numbers = range(start, min(start + TOGETHER, deepest))  # nothing here holds these while the next are drawn
        yield from _fast(bench, some(numbers), asked) if fast else _hooked(bench, some(numbers), asked)


def _hooked(bench: Bench, others: Mapping[int, Batch], heads: Sequence[HeadId]) -> Iterator[Part]:
    """All examples of a counterfactual at once, through the model's hooks."""
    for number, other in others.items():
        logits, v = record_values(bench.model, other.tokens, other.pads)
        every = torch.arange(len(other), device=v.device)
        one = torch.full_like(every, number)
        yield Part(one, every, bench.clean, bench.scorer, other, logits, _of(v, heads), fast=False)


def _fast(bench: Bench, others: Mapping[int, Batch], heads: Sequence[HeadId]) -> Iterator[Part]:
    """As many examples as fit in memory after the other, with all counterfactuals, in the order of what these change."""
    model, tokens = bench.model, bench.clean.batch.tokens
    changes = torch.stack([other.tokens != tokens for other in others.values()])  # [counterfactual, example, pos]
    first = changes.to(torch.uint8).argmax(dim=2).where(changes.any(dim=2), tokens.shape[1])
    examples, numbers = torch.arange(len(tokens), device=tokens.device), torch.tensor([*others], device=tokens.device)
    # Keys and values of all layers stand beside the run of a part: half of what is kept of a layer while it is run.
    most = max(1, 2 * fitting(model, tokens.shape[1], bench.clean.run.logits.dtype) // (2 + model.cfg.n_layers))
    for chunk in at_once(model, bench.clean, changes.any(dim=2).any(dim=0)):
        clean, scorer, at = bench.clean.part(chunk), bench.scorer.part(chunk), examples[chunk]
        begin = first[:, at].flatten()  # [counterfactual and example]
        order = begin.argsort(stable=True)[: int((begin < tokens.shape[1]).sum())]
        every = joined([other[at] for other in others.values()])
        for pairs in order.split(min(most, max(-(-len(order) // PARTS), most // WORTH, 1))) if len(order) else ():
            local, other = pairs % len(at), every[pairs]
            mine, own = clean.part(local), scorer.part(local)
            read = own.read.nonzero().flatten()
            logits, v = values_on(model, mine.run.part(slice(None)), other.tokens, int(begin[pairs[0]]), read)
            yield Part(numbers[pairs // len(at)], at[local], mine, own, other, logits, _of(v, heads), fast=True)


def _of(v: Float[Tensor, "layer some pos head d_head"], heads: Sequence[HeadId]) -> dict[HeadId, Tensor]:
    """The value vectors of these heads, so that the others' need not be kept."""
    return {head: v[head.layer, :, :, head.index].clone() for head in heads}
