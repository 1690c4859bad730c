"""The mechanisms by which depth can buy hops, each a few lines."""

from collections.abc import Callable
from types import MappingProxyType

from stackheads.programs.program import Program, Step
from stackheads.types import Destination, Role

QUERY, VALUE = Destination.QUERY, Destination.VALUE


def one_hop_per_layer(hops: int) -> Program:
    """The query walks the chain: one layer for own keys, then one layer for each hop; value slots learn nothing more."""
    walk = tuple(Step(hop, Role("hop", hop), (QUERY,)) for hop in range(1, hops + 1))
    return Program((Step(0, Role("previous"), (VALUE,)), *walk))


def doubling(hops: int) -> Program:
    """Value slots look back 1, 2, 4, … hops, the query with them: each layer doubles what is known (causal)."""
    steps, layer, hop = [Step(0, Role("previous"), (VALUE,))], 1, 1
    while hop <= hops:
        steps.append(Step(layer, Role("hop", hop), (QUERY, VALUE)))
        layer, hop = layer + 1, 2 * hop
    return Program(tuple(steps))


def tripling(hops: int) -> Program:
    """Windows grow both ways: hops +1 and -1, then +3 and -3, … (bidirectional): each layer triples what is known."""
    steps, layer, hop, reached = [Step(0, Role("previous"), (VALUE,))], 1, 1, 0
    while reached < hops:
        steps.append(Step(layer, Role("hop", hop), (QUERY, VALUE)))
        reached = (3 * hop - 1) // 2
        if reached < hops:
            steps.append(Step(layer, Role("hop", -hop), (VALUE,)))
        layer, hop = layer + 1, 3 * hop
    return Program(tuple(steps))


MECHANISMS: MappingProxyType[str, Callable[[int], Program]] = MappingProxyType(
    {"one hop per layer": one_hop_per_layer, "doubling": doubling, "tripling": tripling}
)
