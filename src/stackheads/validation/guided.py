"""A guided beginning of interchange training (`strict.py`): at first the loss draws heads to where their steps look.

A circuit of many steps is seldom found by interchanges alone: training stays on a plateau, where the task is solved in another
way or not at all. So each head of a step gets, at its own rows, the cross-entropy of its attention with the step's source, of a
weight that falls linearly to 0. From there on interchanges alone hold up what was begun.

What is known of a guided model is what interchanges prove of it, as of any other. But it has been taught to *look* at its
sources, and most likely still does: it is easier for whoever labels heads by their attention, and says nothing about heads that
know by elimination. Where a row has no source, or the program does not say it, nothing is asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks import Batch
from stackheads.validation.assigned import Assigned
from stackheads.validation.interpreter import Meant

LEAST = 1e-6
"""Attention on a source below which a row is left alone, since the logarithm has no end."""


@dataclass(frozen=True)
class Guide:
    """The weight of `looking_loss`: `weight` at the first step, falling linearly to 0 at step `until`."""

    until: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Raises `ConfigError` for a guide that ends before it begins, or that draws heads away."""
        if self.until < 1 or self.weight <= 0:
            rule = "a guide draws heads to their sources for a number of steps, by a weight above 0"
            raise ConfigError(f"{rule}, got {self.until} steps, weight {self.weight}: leave it out, or give both")

    def at(self, step: int) -> float:
        """The weight at a step, counted from 0."""
        return self.weight * max(0.0, 1 - step / self.until)


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
            for place in sorted(step.spec.rows):
                rows = (batch.slots == place.slot) & (whose == number) & (source >= 0)
                if bool(rows.any()):
                    total = total - torch.log(mass[rows].clamp(min=LEAST)).mean()
    return total
