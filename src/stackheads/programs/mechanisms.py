"""The mechanisms by which depth can buy hops, each a few lines."""

from collections.abc import Callable
from types import MappingProxyType

from stackheads.programs.program import Program, Step
from stackheads.types import Destination, Role

QUERY, VALUE, KEY = Destination.QUERY, Destination.VALUE, Destination.KEY


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


def one_hop_per_layer_over_keys(hops: int) -> Program:
    """The same walk over key slots, which know their value: it begins at the query's own key (bidirectional)."""
    walk = tuple(Step(1 + hop, Role("key", hop), (QUERY,)) for hop in range(1, hops))
    return Program((Step(0, Role("hop", 1), (KEY,)), Step(1, Role("key", 0), (QUERY,)), *walk))


def doubling_over_keys(hops: int) -> Program:
    """Key slots look ahead 1, 2, 4, … hops, so that what they know doubles; the query follows a layer later (bidirectional)."""
    steps, layer, hop, reached = [Step(0, Role("hop", 1), (KEY,)), Step(1, Role("key", 0), (QUERY,))], 1, 1, 1
    while reached < hops:
        if reached + hop < hops:
            steps.append(Step(layer, Role("key", hop), (KEY,)))
        steps.append(Step(layer + 1, Role("key", reached), (QUERY,)))
        layer, hop, reached = layer + 1, 2 * hop, 2 * reached + 1
    return Program(tuple(steps))


MECHANISMS: MappingProxyType[str, Callable[[int], Program]] = MappingProxyType(
    {"one hop per layer": one_hop_per_layer, "doubling": doubling, "tripling": tripling}
)
OVER_KEYS: MappingProxyType[str, Callable[[int], Program]] = MappingProxyType(
    {"one hop per layer": one_hop_per_layer_over_keys, "doubling": doubling_over_keys}
)
"""The same for tasks with `keys`."""
