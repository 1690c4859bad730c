"""A random cyclic permutation of n symbols, one statement for each symbol in random order, and a random query.

No chain ends, so nothing but following the links tells the answer. On a cycle of n symbols hop j is also hop j - n; find
maps, and with them labels, use the name with the smaller absolute value (for n even, n / 2 and not -n / 2). Keep
n > 2 D + 1 where the sign of a readout's hop matters.
"""

from itertools import permutations
from math import factorial
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.keyed import KeyedTask
from stackheads.tasks.links import Links
from stackheads.tasks.orders import shuffled_order
from stackheads.tasks.statements import MAX_ARRANGEMENTS, Arrangements


class Cycle(KeyedTask):
    """`symbols` symbols on a random cycle; context 2 × symbols + 1.

    `order`  `shuffled`: statements in random order. `sorted`: against the direction of the cycle, the query's own last, so that
             the token before the query is always the answer of hop 1 – a layout that cannot tell the two roles apart.

    Raises `ConfigError` if symbols < max_hops + 2 (a hop would come back to the query, or no link could be rewired).
    """

    kind: Literal["cycle"] = "cycle"
    symbols: int
    order: Literal["shuffled", "sorted"] = "shuffled"

    def model_post_init(self, context: object) -> None:
        super().model_post_init(context)
        if self.symbols < self.max_hops + 2:
            raise ConfigError(
                f"a cycle for {self.max_hops} hops needs at least {self.max_hops + 2} symbols, got {self.symbols}: "
                "raise symbols or lower max_hops"
            )

    @property
    def name(self) -> str:
        layout = "" if self.order == "shuffled" else f"{self.order}, "
        return f"cycle of {self.symbols}, {layout}D = {self.max_hops}, {self.attention_dir}, {self.supervision}{self._keyed}"

    @property
    def n_statements(self) -> int:
        return self.symbols

    @property
    def d_vocab(self) -> int:
        return self.symbols

    @property
    def period(self) -> int | None:
        return self.symbols

    @property
    def hops(self) -> tuple[int, ...]:
        return tuple(range(-((self.symbols - 1) // 2), self.symbols // 2 + 1))

    def chance(self, hop: int) -> float:
        """1 / (symbols - 1): any symbol but the query is as likely."""
        return 1 / (self.symbols - 1)

    def _draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        ring = shuffled_order(n, self.symbols, generator)
        if self.order == "sorted":
            order = torch.arange(self.symbols - 1, -1, -1, device=generator.device).expand(n, -1)
            query = ring[:, :1]
        else:
            order = shuffled_order(n, self.symbols, generator)
            query = torch.randint(self.symbols, (n, 1), generator=generator, device=generator.device)
        return _tokens(ring, order, query)

    def arrangements(self) -> Arrangements | None:
        """Up to a renaming the cycle is 0, 1, 2, … and the query 0; what is left is the order of the statements."""
        if self.order == "sorted":
            order = torch.arange(self.symbols - 1, -1, -1)[None]
        elif factorial(self.symbols) <= MAX_ARRANGEMENTS:
            order = torch.tensor(list(permutations(range(self.symbols))))
        else:
            return None
        ring = torch.arange(self.symbols).expand_as(order)
        return Arrangements(_tokens(ring, order, ring[:, :1]), torch.full((len(order),), 1 / len(order), dtype=torch.float64))

    def _replacements(self, links: Links, key: Int[Tensor, "batch"], steps: int) -> Bool[Tensor, "batch symbol"]:
        """Any symbol but the key itself; on a cycle every symbol has a statement."""
        return torch.arange(self.symbols, device=key.device) != key[:, None]


def _tokens(
    ring: Int[Tensor, "batch symbol"], order: Int[Tensor, "batch symbol"], query: Int[Tensor, "batch 1"]
) -> Int[Tensor, "batch pos"]:
    """The statements of the cycle `ring` in this order, then the query."""
    keys, values = ring.gather(1, order), ring.roll(-1, dims=1).gather(1, order)
    return torch.cat([torch.stack([keys, values], dim=2).flatten(1), query], dim=1)
