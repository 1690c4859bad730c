"""From tokens to truth: follow the statements of a batch and say what every hop answers and where it stands.

A sequence is S statements (key slot, value slot) and then the query: 2 S + 1 tokens. Keys are unique, so each sequence
defines a partial function f(key) = value. Values are unique too in sampled examples; a counterfactual, which changes one
token, may repeat one, and then the backward step from it does not exist.

Everything is table look-up: tables have d_vocab + 1 columns, the last standing for "no symbol", which maps to itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.types import IGNORE, NOWHERE, Slot


@dataclass(frozen=True)
class Links:
    """The statements of a batch as look-up tables; the symbol d_vocab means "none".

    `forward`   f(symbol).
    `backward`  the symbol whose f is this one, if exactly one.
    `keyed`     position of the value slot of the statement with this key; -1 if none.
    `valued`    position where this symbol stands as a value, if exactly one; -1 otherwise.
    """

    forward: Int[Tensor, "batch symbol"]
    backward: Int[Tensor, "batch symbol"]
    keyed: Int[Tensor, "batch symbol"]
    valued: Int[Tensor, "batch symbol"]

    @property
    def none(self) -> int:
        """The index that stands for "no symbol"."""
        return self.forward.shape[1] - 1

    @property
    def needed(self) -> Int[Tensor, "batch symbol"]:
        """The last position that the step from a symbol needs."""
        return self.keyed


def read_links(tokens: Int[Tensor, "batch pos"], d_vocab: int) -> Links:
    """Read the statements of each example. Cost: a few scatters; no loop over examples or positions."""
    value_slots = torch.arange(1, tokens.shape[1], 2, device=tokens.device).expand(len(tokens), -1)
    return make_links(tokens[:, 0:-1:2], tokens[:, 1:-1:2], value_slots, d_vocab)


def make_links(
    keys: Int[Tensor, "batch link"], values: Int[Tensor, "batch link"], places: Int[Tensor, "batch link"], d_vocab: int
) -> Links:
    """The tables of f(key) = value, each value standing at its place."""

    def table(fill: int, index: Tensor, source: Tensor) -> Tensor:
        empty = torch.full((len(keys), d_vocab + 1), fill, dtype=torch.long, device=keys.device)
        return empty.scatter(1, index, source)

    times_valued = torch.zeros(len(keys), d_vocab + 1, dtype=torch.long, device=keys.device)
    times_valued = times_valued.scatter_add(1, values, torch.ones_like(values))
    unique = times_valued == 1
    return Links(
        forward=table(d_vocab, keys, values),
        backward=table(d_vocab, values, keys).where(unique, d_vocab),
        keyed=table(NOWHERE, keys, places),
        valued=table(NOWHERE, values, places).where(unique, NOWHERE),
    )


def statement_slots(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """KEY, VALUE, KEY, VALUE, …, QUERY for each example."""
    slots = torch.arange(tokens.shape[1], device=tokens.device) % 2
    slots[-1] = Slot.QUERY
    return slots.expand_as(tokens)


def find_maps(
    links: Links,
    tokens: Int[Tensor, "batch pos"],
    slots: Int[Tensor, "batch pos"],
    hops: tuple[int, ...],
    causal: bool,
) -> Int[Tensor, "batch hop pos"]:
    """find^j (i) for every offset j in `hops` (docs/method/words.md#find).

    -1 where it does not exist or, if causal, lies after i.

    j ≥ 1: the value slot of the statement keyed by f^(j-1)(s). j = 0: where s stands as a value, which for a value slot
    is itself. j < 0: where f^j(s) stands as a value.
    """
    position = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    maps = {0: torch.where(slots == Slot.VALUE, position, links.valued.gather(1, tokens))}
    symbol = tokens
    for j in range(1, max(max(hops), 0) + 1):
        maps[j] = links.keyed.gather(1, symbol)
        symbol = links.forward.gather(1, symbol)
    symbol = tokens
    for j in range(-1, min(min(hops), 0) - 1, -1):
        symbol = links.backward.gather(1, symbol)
        maps[j] = links.valued.gather(1, symbol)
    find = torch.stack([maps[j] for j in hops], dim=1)
    return find.where(find <= position[:, None], NOWHERE) if causal else find


def answers(
    links: Links,
    tokens: Int[Tensor, "batch pos"],
    asked: Bool[Tensor, "batch pos"],
    readout_hops: tuple[int, ...],
    causal: bool,
) -> tuple[Int[Tensor, "batch pos readout"], Int[Tensor, "batch pos readout"]]:
    """Targets and their hops at the asked positions.

    Hop h at position i is asked where f^h of its symbol exists and, if causal, where i can see every statement on the way.
    """
    position = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    symbol, visible, by_hop = tokens, asked, {}
    for hop in range(1, max(readout_hops) + 1):
        if causal:
            visible = visible & (links.needed.gather(1, symbol) <= position)
        symbol = links.forward.gather(1, symbol)
        by_hop[hop] = symbol.where(visible & (symbol != links.none), IGNORE)
    targets = torch.stack([by_hop[hop] for hop in readout_hops], dim=-1)
    hops = torch.tensor(readout_hops, device=tokens.device).expand_as(targets)
    return targets, hops.where(targets != IGNORE, 0)


def rerouted(links: Links, key: Int[Tensor, "batch"], steps: int) -> Bool[Tensor, "batch symbol"]:
    """Which symbols, in place of f(key), lead somewhere else than now at each of the next `steps` hops."""
    n = links.none
    candidate = torch.arange(n, device=key.device).expand(len(key), n)
    now, new = links.forward.gather(1, key[:, None]), candidate
    differs = (new != now) & (new != n)
    for _ in range(steps - 1):
        now = links.forward.gather(1, now)
        new = torch.where(new == key[:, None], candidate, links.forward.gather(1, new))
        differs = differs & (new != now) & (new != n)
    return differs
