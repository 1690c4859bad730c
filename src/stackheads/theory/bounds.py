"""Closed forms: how many layers a hop needs if heads use only what shares information with them.

Assumption (Musat, arXiv 2411.12118): in one layer, position i can use position k only if they share token or position
information. Join two positions if they hold the two slots of one statement or the same token. From a query or a value slot
holding s the chain runs key s, value f(s), key f(s), …: the value slot that answers hop j is 2 j edges away; from a key slot,
itself the first step, 2 j - 1.

Both ways: who knows all within r can use whoever's ball touches its own, up to 2 r + 1 away, and learns r more: r' = 3 r + 1.
Looking back only: the latest of 2^t slots in a row on the chain knows them all after t layers, since of two halves the later
one's latest slot sees the other's. So whoever stands after its chain, as the query does, knows it up to r' = 2 r + 1, and
whoever does not never learns the links after it; a key slot stands before its own value. With statements in the order of
their definition it is no more than that: a value slot knows nothing behind it but its own key. In other causal orders a lucky
example needs fewer layers, never fewer than the first form allows (`flow.py` counts them).

A cycle of n symbols is a ring of 2 n slots. Looking both ways all of it is known from radius n on, so no chain needs more
than n; so it is at the query where attention is causal, since the query stands after all of it. And hop j is also hop j - n:
its answer stands 2 (n - j) edges back from a query or key slot, one less from a value slot, whose own key is the first step
back.
"""

from math import log

from stackheads.errors import ConfigError
from stackheads.tasks.base import AttentionDir
from stackheads.types import Destination


def radius(layers: int, attention_dir: AttentionDir) -> int:
    """Edges within which all is known after `layers` ≥ 0: (3^t - 1) / 2, or 2^t - 1 along the chain where causal."""
    return (3**layers - 1) // 2 if attention_dir == "bidirectional" else 2**layers - 1


def distance(hop: int, destination: Destination) -> int:
    """Edges from a destination to the answer of hop j ≥ 1 along the chain: 2 j, from a key slot 2 j - 1."""
    return 2 * hop - (destination == Destination.KEY)


def distance_back(hop: int, destination: Destination, period: int) -> int:
    """Edges back to the answer of hop j the other way round a cycle of `period` symbols, as hop j - period."""
    return 2 * (period - hop) - (destination == Destination.VALUE)


def layers_for(edges: int, attention_dir: AttentionDir) -> int:
    """Least t with radius(t) ≥ edges, in whole numbers."""
    return next(layers for layers in range(edges + 1) if radius(layers, attention_dir) >= edges)


def layers_needed(
    hop: int, attention_dir: AttentionDir, destination: Destination = Destination.QUERY, period: int | None = None
) -> int | None:
    """Least layers to know the whole chain to the answer of hop j; None for a causal key slot, which cannot see its value.

    `period` is the number of symbols on the cycle, if it is one; where attention is causal it matters at the query alone.
    Raises `ConfigError` if hop < 1.
    """
    if hop < 1:
        raise ConfigError(f"a bound is for hop 1 or more, got {hop}: name a hop of the chain")
    if attention_dir == "causal" and destination == Destination.KEY:
        return None
    edges = distance(hop, destination)
    if period is not None and (attention_dir == "bidirectional" or destination == Destination.QUERY):
        edges = min(edges, period)
    return layers_for(edges, attention_dir)


def layers_around(hop: int, destination: Destination, period: int) -> int:
    """Least layers to reach the answer of hop j along the chain or, as hop j - period, the other way round; both ways only."""
    edges = min(distance(hop, destination), distance_back(hop, destination, period))
    return layers_for(edges, "bidirectional")


def log3_bound(hop: int) -> float:
    """log3(4 j + 1): t is at least this where attention looks both ways; rounded up it is `layers_needed` at the query."""
    return log(4 * hop + 1, 3)


def log2_bound(hop: int) -> float:
    """log2(2 j + 1): the same where attention is causal and statements stand in the order of their definition."""
    return log(2 * hop + 1, 2)


def paper_bound(hop: int) -> float:
    """log3(2 D), the form in the paper: weaker, it asks for a radius of D - 1/2 and not of 2 D."""
    return log(2 * hop, 3)
