"""Orders drawn at random."""

import torch
from jaxtyping import Int
from torch import Tensor


def shuffled_order(n: int, items: int, generator: torch.Generator) -> Int[Tensor, "n items"]:
    """n independent uniform permutations of range(items), on the generator's device."""
    return torch.rand(n, items, generator=generator, device=generator.device, dtype=torch.float).argsort(dim=1)
