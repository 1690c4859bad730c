"""What an analysis keeps of its runs, so that no run is made twice: the clean run, and one for each counterfactual."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.models.hooks import Recording, record
from stackheads.tasks import Batch
from stackheads.types import Destination


@dataclass(frozen=True)
class Recorded:
    """A batch and what the model did on it."""

    batch: Batch
    run: Recording

    @cached_property
    def partner(self) -> Int[Tensor, "batch"]:
        """A matched example for each example: another one with the same slots (the next; examples are independent)."""
        n = len(self.batch)
        return torch.arange(1, n + 1, device=self.batch.tokens.device) % n


def recorded(model: Any, batch: Batch) -> Recorded:
    """Run the model once on a batch and keep both. Cost: one forward pass."""
    return Recorded(batch, record(model, batch.tokens))


def destination_rows(batch: Batch, destination: Destination | str) -> Bool[Tensor, "batch pos"]:
    """The positions of a destination."""
    return batch.slots == Destination(destination).slot
