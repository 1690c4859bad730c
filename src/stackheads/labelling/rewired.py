"""Counterfactuals of the examples, and what the model gives on them: a part of the examples at a time, those that change.

An example that a counterfactual leaves as it is – it has no such link – can show nothing, and its run is the clean one. The
others stand in the order of the first token that changes, so that in each part most of what comes before it is the clean run's
(`models/forwards/other_tokens.py`). Where the fast forward is not proved, all examples are one part, in their own order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.interventions import Recorded, replayable
from stackheads.interventions.engine import fitting
from stackheads.labelling.bench import Bench
from stackheads.labelling.readouts import Scorer
from stackheads.models.forwards.other_tokens import values_on
from stackheads.models.hooks import record_values
from stackheads.models.trust import why_not_fused
from stackheads.tasks import Batch, Operand, rewired
from stackheads.types import HeadId

PARTS, WORTH = 4, 8
"""At least so many parts, so that the examples of one change at about the same place; but none that takes less than this part
of the memory, since a run of few examples is no cheaper.
"""


@dataclass(frozen=True)
class Part:
    """Some examples: which, what is recorded of them, their counterfactuals, the logits there (where something is asked) and
    the value vectors of the heads that are asked about.
    """

    some: Int[Tensor, "some"]
    clean: Recorded
    scorer: Scorer
    other: Batch
    logits: Float[Tensor, "some pos d_vocab_out"]
    v: dict[HeadId, Float[Tensor, "some pos d_head"]]


@dataclass(frozen=True)
class Counterfactual:
    """A counterfactual at one operand of one hop, in words, and the parts of the examples that it changes."""

    name: str
    parts: Iterator[Part]


def counterfactuals(
    bench: Bench, operand: Operand, deepest: int, heads: Iterable[HeadId], generator: torch.Generator
) -> Iterator[Counterfactual]:
    """One for each hop up to `deepest`, run when its turn comes. Cost: at most one forward pass each, and two on few examples
    to see whether the fast forward is the model's from the tokens on.
    """
    batch = bench.clean.batch
    fast = replayable(bench.model, bench.clean) and why_not_fused(bench.model, batch.tokens) is None
    for hop in range(1, deepest + 1):
        other = rewired(bench.task, batch, hop, generator, operand)
        name = f"hop {hop}" if operand == "value" else f"the {operand} of hop {hop}"
        yield Counterfactual(name, _parts(bench, other, sorted(set(heads)), fast))


def _parts(bench: Bench, other: Batch, heads: list[HeadId], fast: bool) -> Iterator[Part]:
    model, clean, scorer = bench.model, bench.clean, bench.scorer
    if not fast:
        logits, v = record_values(model, other.tokens, other.pads)
        yield Part(torch.arange(len(other), device=v.device), clean, scorer, other, logits, _of(v, heads))
        return
    changes = clean.batch.tokens != other.tokens
    first = changes.to(torch.uint8).argmax(dim=1).where(changes.any(dim=1), changes.shape[1])
    order = first.argsort(stable=True)
    order = order[: int(changes.any(dim=1).sum())]
    most = fitting(model, changes.shape[1], clean.run.logits.dtype)
    size = min(most, max(-(-len(order) // PARTS), most // WORTH, 1))
    for some in order.split(size) if len(order) else ():
        mine = replace(clean, batch=clean.batch[some], run=clean.run.part(some))
        own = scorer.part(some)
        logits, v = values_on(model, mine.run, other.tokens[some], int(first[some[0]]), own.read.nonzero().flatten())
        yield Part(some, mine, own, other[some], logits, _of(v, heads))


def _of(v: Float[Tensor, "layer some pos head d_head"], heads: list[HeadId]) -> dict[HeadId, Tensor]:
    """The value vectors of these heads, so that the others' need not be kept."""
    return {head: v[head.layer, :, :, head.index].clone() for head in heads}
