"""The paper's retrieval problem: `chains` chains of D statements each, one of them asked about, the others distractors.

Chain c reads x_1 = x_0, x_2 = x_1, …, x_D = x_(D-1); the query is the last key x_D of one chain, so hop j of the query is
x_(D-j) and hop D is the chain's terminal symbol (Musat, arXiv 2411.12118, §2: "A = 7, B = A, C = B; what is C?").

Order `definition-first` interleaves the chains at random, each statement after the one it needs; `shuffled` puts all
statements in random order. With definition-first the queried chain is drawn among those of which every link could be
re-routed to another chain's symbol of the same level that is already defined at that place, and interleavings without
such a chain are redrawn: otherwise a counterfactual would have to break the order the model was trained on.
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

Order = Literal["definition-first", "shuffled"]


class Retrieval(KeyedTask):
    """`chains` chains of `max_hops` statements; context 2 × chains × max_hops + 1.

    `symbols` is the vocabulary, at least chains × (max_hops + 1), which is the default (0). Raises `ConfigError` if
    chains < 2 or symbols are too few.
    """

    kind: Literal["retrieval"] = "retrieval"
    chains: int = 3
    order: Order = "definition-first"
    symbols: int = 0

    def model_post_init(self, context: object) -> None:
        super().model_post_init(context)
        if self.chains < 2:
            raise ConfigError(f"retrieval needs distractors, at least 2 chains, got {self.chains}: raise chains")
        needed = self.chains * (self.max_hops + 1)
        if self.symbols and self.symbols < needed:
            raise ConfigError(
                f"{self.chains} chains of {self.max_hops} statements need {needed} symbols, got {self.symbols}: "
                "raise symbols or leave it out"
            )

    @property
    def name(self) -> str:
        asks = f"{self.attention_dir}, {self.supervision}{self._keyed}"
        return f"retrieval, {self.chains} chains, D = {self.max_hops}, {self.order}, {asks}"

    @property
    def n_statements(self) -> int:
        return self.chains * self.max_hops

    @property
    def d_vocab(self) -> int:
        return self.symbols or self.chains * (self.max_hops + 1)

    @property
    def hops(self) -> tuple[int, ...]:
        return tuple(range(-self.max_hops, self.max_hops + 1))

    def chance(self, hop: int) -> float:
        """1 / chains: a guesser who can tell each symbol's level but not its chain."""
        return 1 / self.chains

    def _draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        chain_of, asked = self._layouts(n, generator)
        used = shuffled_order(n, self.d_vocab, generator)[:, : self.chains * (self.max_hops + 1)]
        order = shuffled_order(n, self.n_statements, generator) if self.order == "shuffled" else None
        return self._tokens(chain_of, asked, used, order)

    def arrangements(self) -> Arrangements | None:
        """Up to a renaming, chain 0 is asked about and the others begin in order; what is left is the statements' order."""
        shuffled = self.order == "shuffled"
        n_layouts = factorial(self.n_statements) // (factorial(self.max_hops) ** self.chains * factorial(self.chains - 1))
        if (factorial(self.n_statements) if shuffled else n_layouts) > MAX_ARRANGEMENTS:
            return None
        if shuffled:
            order = torch.tensor(list(permutations(range(self.n_statements))))
            chain_of = torch.arange(self.n_statements).expand_as(order) // self.max_hops
            weight = torch.ones(len(order), dtype=torch.float64)
        else:
            order, chain_of = None, self._interleavings()
            eligible = self._eligible(chain_of)
            chain_of, weight = chain_of[eligible[:, 0]], 1 / eligible[eligible[:, 0]].double().sum(dim=1)
        used = torch.arange(self.chains * (self.max_hops + 1)).expand(len(chain_of), -1)
        tokens = self._tokens(chain_of, torch.zeros_like(chain_of[:, 0]), used, order)
        return Arrangements(tokens, weight / weight.sum())

    def _interleavings(self) -> Int[Tensor, "batch statement"]:
        """All orders of the chains' statements in which chains 1, 2, … begin in this order; grown statement by statement."""
        grown = torch.zeros(1, 0, dtype=torch.long)
        for _ in range(self.n_statements):
            longer = [torch.nn.functional.pad(grown, (0, 1), value=chain) for chain in range(self.chains)]
            stated = [(grown == chain).sum(dim=1) for chain in range(self.chains)]
            may = [
                (stated[chain] < self.max_hops) & ((stated[chain - 1] > 0) if chain > 1 else True)
                for chain in range(self.chains)
            ]
            grown = torch.cat([rows[allowed] for rows, allowed in zip(longer, may, strict=True)])
        return grown

    def _tokens(
        self,
        chain_of: Int[Tensor, "batch statement"],
        asked: Int[Tensor, "batch"],
        used: Int[Tensor, "batch symbol"],
        order: Int[Tensor, "batch statement"] | None,
    ) -> Int[Tensor, "batch pos"]:
        """The statements of `used`, chain after chain, interleaved as `chain_of` says and then put in `order`."""
        start = chain_of * (self.max_hops + 1) + _occurrence(chain_of, self.chains)
        values, keys = used.gather(1, start), used.gather(1, start + 1)
        if order is not None:
            keys, values = keys.gather(1, order), values.gather(1, order)
        query = used.gather(1, (asked * (self.max_hops + 1) + self.max_hops)[:, None])
        return torch.cat([torch.stack([keys, values], dim=2).flatten(1), query], dim=1)

    def _layouts(self, n: int, generator: torch.Generator) -> tuple[Int[Tensor, "batch statement"], Int[Tensor, "batch"]]:
        """Which chain each statement belongs to, and which chain is asked about."""
        kept_layouts, kept_chains, kept = [], [], 0
        while kept < n:
            draws = 2 * (n - kept) + 8
            chain_of = shuffled_order(draws, self.n_statements, generator) // self.max_hops
            eligible = self._eligible(chain_of)
            some = eligible.any(dim=1)
            asked = torch.multinomial(eligible[some].float(), 1, generator=generator).squeeze(1)
            kept_layouts.append(chain_of[some])
            kept_chains.append(asked)
            kept += len(asked)
        return torch.cat(kept_layouts)[:n], torch.cat(kept_chains)[:n]

    def _eligible(self, chain_of: Int[Tensor, "batch statement"]) -> Bool[Tensor, "batch chain"]:
        """Chains of which each statement comes after another chain's statement of one level less."""
        own = torch.nn.functional.one_hot(chain_of, self.chains)
        if self.order == "shuffled":
            return torch.ones_like(own[:, 0], dtype=torch.bool)
        stated = own.cumsum(dim=1) - own
        others = stated.masked_fill(own.bool(), -1).amax(dim=2)
        too_early = others < _occurrence(chain_of, self.chains)
        return ~(own.bool() & too_early[:, :, None]).any(dim=1)

    def _replacements(self, links: Links, key: Int[Tensor, "batch"], steps: int) -> Bool[Tensor, "batch symbol"]:
        """Other chains' symbols of the same level, defined before this statement where the order demands it."""
        symbols = torch.arange(self.d_vocab, device=key.device).expand(len(key), -1)
        walk, level = symbols, torch.full_like(symbols, -1)
        for _ in range(self.max_hops + 1):
            level = level + (walk != links.none)
            walk = links.forward.gather(1, walk)
        value = links.forward.gather(1, key[:, None])
        stands = links.valued[:, :-1] >= 0
        same_level = level == level.gather(1, value)
        place = links.keyed[:, :-1]
        defined = (place < links.keyed.gather(1, key[:, None])) | (self.order == "shuffled")
        return same_level & defined & stands & (symbols != value)


def _occurrence(chain_of: Int[Tensor, "batch statement"], chains: int) -> Int[Tensor, "batch statement"]:
    """For each statement, how many of its chain come before it."""
    own = torch.nn.functional.one_hot(chain_of, chains)
    return (own.cumsum(dim=1) - own).gather(2, chain_of[:, :, None]).squeeze(2)
