"""Examples of which a rule keeps some: drawn again until there are enough, or it is seen that next to none is kept."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from stackheads.errors import ConfigError

ROWS = 2**16
"""So many drawn in a row of which none is kept, and it is said that there are none."""

Draw = Callable[[int], tuple[Int[Tensor, "kept pos"], int]]
"""For so many that are missing the ones that are kept, and how many were drawn."""


def redrawn(n: int, draw: Draw, none: str) -> Int[Tensor, "batch pos"]:
    """n rows that are kept. Raises `ConfigError`, with `none` for its words, if next to no row is."""
    found, missing, vain = [], n, 0
    while missing:
        kept, drawn = draw(missing)
        found.append(kept[:missing])
        missing -= len(found[-1])
        vain = 0 if len(kept) else vain + drawn
        if vain >= ROWS:
            raise ConfigError(none)
    return torch.cat(found)
