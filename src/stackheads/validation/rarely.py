"""Compiled circuits parts of which are needed rarely, or never, with the tasks that ask for them so.

t  never on: beside the head that gives the answer one that would take it off again, for symbols that are never asked about.
   For those that are it looks evenly at all value slots, which bring the same in every example: none, and nothing to be found.
u  sixteen hops, doubled up to, of which each example asks one: each answer in one example of sixteen.
"""

from collections.abc import Callable
from types import MappingProxyType

import torch
from jaxtyping import Int
from torch import Tensor

from stackheads.programs.heads import TOKEN, Copy, HeadSpec, plain_readouts, register
from stackheads.programs.mechanisms import doubling, one_hop_per_layer
from stackheads.programs.program import lower
from stackheads.tasks import Batch, Operand, Retrieval
from stackheads.types import IGNORE, Destination
from stackheads.validation.calibration import only
from stackheads.validation.specimens import Circuit
from stackheads.validation.tabled import SYMBOLS, Leaning

QUERY = Destination.QUERY
ASKED = frozenset(range(SYMBOLS // 2))
"""The symbols that are asked about where others never are."""
HOPS = 16


class SomeAsked(Leaning):
    """A cycle of which half of the symbols are never asked about."""

    @property
    def name(self) -> str:
        return f"{super().name}, some asked"

    def _draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        tokens = super()._draw(n, generator)
        tokens[:, -1] = torch.randint(len(ASKED), (n,), generator=generator, device=generator.device)
        return tokens


class OneAsked(Retrieval):
    """Chains of which each example asks one hop, all as often."""

    @property
    def name(self) -> str:
        return f"{super().name}, one asked"

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        batch = super().sample(n, generator)
        asked = torch.randint(1, self.max_hops + 1, (n, 1, 1), generator=generator, device=generator.device)
        return only(batch, batch.target_hop == asked)

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator, operand: Operand = "value") -> Batch:
        """The same question asked."""
        return only(super().counterfactual(batch, hop, generator, operand), batch.targets != IGNORE)


def never_on() -> Circuit:
    """t"""
    previous, hop_one = lower(one_hop_per_layer(1))
    head = HeadSpec(
        ((TOKEN, register(-1)),),
        frozenset({QUERY}),
        (Copy(TOKEN, "taken off"),),
        {},
        on=(frozenset(range(SYMBOLS)) - ASKED,),
        preference=14.0,
        status={QUERY: "none"},
    )
    task = SomeAsked(symbols=SYMBOLS, max_hops=1, supervision="chain")
    readouts = {1: {register(1): 1.0, "taken off": -2.0}}
    return Circuit((previous, (*hop_one, head)), task, readouts, decoy="t", base="one hop per layer")


def sixteen_hops() -> Circuit:
    """u"""
    task = OneAsked(chains=2, max_hops=HOPS, supervision="chain", attention_dir="causal")
    return Circuit(lower(doubling(HOPS)), task, plain_readouts(task), "doubling")


RARELY: MappingProxyType[str, Callable[[], Circuit]] = MappingProxyType(
    {"t: never on": never_on, "u: sixteen hops": sixteen_hops}
)
