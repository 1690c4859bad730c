"""Circuits of `specimens.py` on other mechanisms, and smaller.

FURTHER: the same ways of being fooled on another task, depth and mask, circuits of their own for an interval over circuits,
which more guises of one circuit hardly narrow:

y  ideal pattern and W_O = 0, writes where nobody reads, a hop split over two heads: on tripling, a cycle looked at both ways
z  the first two, and a head that writes against the answer: on one hop per layer, chains that are stated in order. A hop split
   over two heads is none there: through LayerNorm what they give at parked rows matters, 3 % of an answer.

SMALL: doubling and what is built on it with three hops instead of four, a fifth of the work (`validate --quick`).
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

from stackheads.validation.specimens import (
    CIRCUITS,
    Circuit,
    against,
    backups,
    chained_doubling,
    dead_output,
    doubling_circuit,
    one_hop,
    removed,
    split,
    tripling_circuit,
    unread,
)

FURTHER: MappingProxyType[str, Callable[[], Circuit]] = MappingProxyType(
    {
        "ya: no output": partial(dead_output, tripling_circuit),
        "yb: unread": partial(unread, tripling_circuit),
        "yd: split": partial(split, tripling_circuit),
        "za: no output": partial(dead_output, one_hop),
        "zb: unread": partial(unread, one_hop),
        "zf: against": partial(against, one_hop),
    }
)
THREE_HOPS, THREE_CHAINED = partial(doubling_circuit, 3), partial(chained_doubling, 3)
SMALL: MappingProxyType[str, Callable[[], Circuit]] = MappingProxyType(
    {
        **CIRCUITS,
        "doubling": THREE_HOPS,
        "a: no output": partial(dead_output, THREE_HOPS),
        "b: unread": partial(unread, THREE_HOPS),
        "c: removed": partial(removed, THREE_CHAINED),
        "d: split": partial(split, THREE_HOPS),
        "e: backups": partial(backups, THREE_HOPS),
        "f: against": partial(against, THREE_CHAINED),
    }
)
"""All circuits."""
