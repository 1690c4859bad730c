"""A guided beginning of interchange training (`strict.py`): at first the loss draws heads to their steps.

A circuit of many steps is seldom found by interchanges alone: training stays on a plateau, where the task is solved in another
way or not at all. So each head of a step is helped at first, at its own rows, by a weight that falls linearly to 0. From there
on interchanges alone hold up what was begun. There are two kinds of help:

- *look*: the cross-entropy of the head's attention with the step's source;
- *carry*: the cross-entropy of a linear probe of the head's output with the symbol that the step brings. Probes start at 0, are
  learnt beside the model and thrown away.

What is known of a guided model is what interchanges prove of it, as of any other. But one that was helped to look most likely
still does: it is easier for whoever labels heads by their attention, and says nothing about heads that know by elimination. One
that was helped to carry was told nothing about where to look. Where a row has no source or brings no symbol, or the program
does not say, nothing is asked.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from stackheads.errors import ConfigError
from stackheads.models.forwards.patched import Outputs
from stackheads.models.protocol import Model
from stackheads.tasks import Batch
from stackheads.types import Destination
from stackheads.validation.assigned import Assigned
from stackheads.validation.interpreter import Meant

Kind = Literal["look", "carry"]
LEAST = 1e-6
"""Attention on a source below which a row is left alone, since the logarithm has no end."""


@dataclass(frozen=True)
class Guide:
    """What heads are helped to do, by a weight that is `weight` at the first step and falls linearly to 0 at step `until`."""

    until: int
    weight: float = 1.0
    kind: Kind = "look"

    def __post_init__(self) -> None:
        """Raises `ConfigError` for a guide that ends before it begins, that draws heads away, or of another kind."""
        if self.kind not in get_args(Kind):
            raise ConfigError(f"a guide is one to {' or '.join(get_args(Kind))}, got {self.kind!r}: give one of these")
        if self.until < 1 or not 0 < self.weight < math.inf:
            rule = "a guide draws heads to their steps for a number of training steps, by a weight above 0"
            raise ConfigError(f"{rule}, got {self.until} steps, weight {self.weight}: leave it out, or give both")

    def at(self, step: int) -> float:
        """The weight at a step of training, counted from 0."""
        return self.weight * max(0.0, 1 - step / self.until)


class Guidance:
    """A guide at work on a model; `parameters` are those of its probes, to be learnt beside the model's."""

    def __init__(self, guide: Guide, known: Assigned, model: Model):
        self.guide, self.known = guide, known
        count = sum(len(step.heads) * len(step.spec.copies) for step in known.steps) if guide.kind == "carry" else 0
        self.parameters = [nn.Parameter(torch.zeros(known.task.d_vocab, model.cfg.d_head)) for _ in range(count)]

    def loss(self, step: int, batch: Batch, meant: Meant, outputs: Outputs) -> Float[Tensor, ""]:
        """What this step of training adds to the loss."""
        if self.guide.kind == "look":
            return self.guide.at(step) * looking_loss(self.known, batch, meant, outputs.patterns)
        return self.guide.at(step) * carrying_loss(self.known, batch, meant, outputs.z, self.parameters)


def looking_loss(
    known: Assigned, batch: Batch, meant: Meant, patterns: Sequence[Float[Tensor, "batch head pos source"]]
) -> Float[Tensor, ""]:
    """Cross-entropy, nats, of attention with the step's source: the mean over a head's own rows at a destination, summed over
    heads and destinations. 0 where every head looks at its source alone. `patterns`: one for each layer.
    """
    total = patterns[0].new_zeros(())
    for step, whose, source in zip(known.steps, meant.whose, meant.sources, strict=True):
        for number, head in enumerate(step.heads):
            mass = patterns[step.layer][:, head.index].gather(-1, source.clamp(min=0)[..., None]).squeeze(-1)  # [batch, pos]
            cost = -mass.clamp(min=LEAST).log()
            total = total + sum(_means(cost, batch, step.spec.rows, (whose == number) & (source >= 0)))
    return total


def carrying_loss(
    known: Assigned,
    batch: Batch,
    meant: Meant,
    z: Sequence[Float[Tensor, "batch pos head d_head"]],
    probes: Sequence[Float[Tensor, "symbol d_head"]],
) -> Float[Tensor, ""]:
    """Cross-entropy, nats, of probes of heads' outputs with the symbols that their steps bring, averaged and summed as in
    `looking_loss`. `z`: one for each layer; `probes`: one for each copy of each head of each step.
    """
    total, each = z[0].new_zeros(()), iter(probes)
    for step, carried in zip(known.steps, meant.carried, strict=True):
        for head, brought in zip(step.heads, carried, strict=True):
            for symbol in brought:  # [batch, pos]
                logits = functional.linear(z[step.layer][:, :, head.index], next(each))
                cost = functional.cross_entropy(logits.flatten(0, 1), symbol.clamp(min=0).flatten(), reduction="none")
                total = total + sum(_means(cost.view(symbol.shape), batch, step.spec.rows, symbol >= 0))
    return total


def _means(
    cost: Float[Tensor, "batch pos"], batch: Batch, places: frozenset[Destination], own: Bool[Tensor, "batch pos"]
) -> Iterator[Float[Tensor, ""]]:
    """The mean over the own rows at each destination where there are any."""
    for place in sorted(places):
        rows = own & (batch.slots == place.slot)
        if bool(rows.any()):
            yield cost[rows].mean()
