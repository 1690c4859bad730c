"""Compiled circuits whose heads look at several things, for judging selectors: each with what its heads were built to look at.

k  mixed: one head looks at hop 1 and hop 2, at two to one. Hop 1 is read from it, and hop 2 from what is left when another
   head's hop 1 is taken off: both selectors are needed.
l  gated: one head looks at hop 1 where its own symbol is even and at hop 2 where it is odd, beside a head for each hop.
m  bag: one head looks evenly at all value slots. What it brings tells symbols that something leads to from those that nothing
   does, the beginnings of chains, and so is a part of every answer.

Labels have one role for a head: mixed heads get none, and are not asked about here. `jobs_by_construction` gives the jobs of
any specimen (`specimens.py`): those that its heads say they have, of other heads their role where they are confirmed. Without
LayerNorm, through which what one head writes changes a little what all others do.
"""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from stackheads.programs.heads import TOKEN, Copy, HeadSpec, Job, Readouts, plain_readouts, register
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.tasks import Retrieval
from stackheads.tasks.statements import OWN
from stackheads.types import Destination, Gate, HeadId, Role, Slot, Status
from stackheads.validation.specimens import Circuit, Specimen

QUERY = Destination.QUERY
ONE, TWO = Role("hop", 1), Role("hop", 2)


def _two_hops(blend: HeadSpec, *beside: HeadSpec, readouts: Readouts) -> Circuit:
    """Two hops: value slots know what leads to them, then the query knows hop 1, then the blend looks. All value slots know as
    much, so that LayerNorm makes none of them louder.
    """
    previous = lower(doubling(1))[0]
    once = (_looking(ONE, TOKEN, register(1)),)
    task = Retrieval(chains=3, max_hops=2, supervision="chain", attention_dir="causal")
    return Circuit((previous, once, (blend, *beside)), task, readouts, base="two hops")


def _looking(role: Role, row: str, target: str) -> HeadSpec:
    """A head that looks from the query at what a register of the query leads to, and writes that."""
    return HeadSpec(((row, register(-1)),), frozenset({QUERY}), (Copy(TOKEN, target),), {QUERY: role})


BOTH = ((TOKEN, register(-1)), (register(1), register(-1)))
"""Matches of hop 1 and of hop 2, where the query knows hop 1."""


def mixed() -> Circuit:
    """k"""
    blend = HeadSpec(
        BOTH,
        frozenset({QUERY}),
        (Copy(TOKEN, "mixture"),),
        {QUERY: ONE},
        leans=(0.6, 0.0),
        sharpness=4.0,
        preference=14.0,
        jobs={QUERY: ((ONE, None), (TWO, None))},
    )
    taken_off = replace(_looking(ONE, TOKEN, "once"), status={QUERY: "causal-unclassified"})  # moves no answer to another
    return _two_hops(blend, taken_off, readouts={1: {"mixture": 2.5}, 2: {"mixture": 5.0, "once": -3.0}})


def gated() -> Circuit:
    """l"""
    symbols = Retrieval(chains=3, max_hops=2, supervision="chain", attention_dir="causal").d_vocab
    even, odd = (frozenset(range(first, symbols, 2)) for first in (0, 1))
    blend = HeadSpec(
        BOTH,
        frozenset({QUERY}),
        (Copy(TOKEN, "either"),),
        {QUERY: ONE},
        leans=(7.0, 0.0),
        on=(even, None),
        jobs={QUERY: ((ONE, Gate(OWN, tuple(sorted(even)))), (TWO, Gate(OWN, tuple(sorted(odd)))))},
    )
    beside = _looking(ONE, TOKEN, "once"), _looking(TWO, register(1), "twice")
    readouts = {1: {"either": 0.5, "once": 0.8}, 2: {"either": 0.5, "twice": 0.8}}
    return _two_hops(blend, *beside, readouts=readouts)


def bag() -> Circuit:
    """m"""
    task = Retrieval(chains=3, max_hops=4, supervision="chain", attention_dir="causal")
    layers = [list(heads) for heads in lower(doubling(4))]
    values = task.chains * task.max_hops
    head = HeadSpec(
        (),
        frozenset({QUERY}),
        (Copy(TOKEN, "bag", values / 3),),
        {},
        preference=14.0,
        jobs={QUERY: ((Slot.VALUE, None),)},
    )
    layers[1].append(head)
    readouts = {hop: {**read, "bag": 1.2} for hop, read in plain_readouts(task).items()}
    return Circuit(tuple(map(tuple, layers)), task, readouts, base="doubling")


BLENDS: MappingProxyType[str, Callable[[], Circuit]] = MappingProxyType({"k: mixed": mixed, "l: gated": gated, "m: bag": bag})


def jobs_by_construction(made: Specimen) -> dict[tuple[HeadId, Destination], tuple[Job, ...]]:
    """What each head looks at by construction, at each destination where that matters."""
    jobs: dict[tuple[HeadId, Destination], tuple[Job, ...]] = {}
    for layer, heads in enumerate(made.layers):
        for index, head in enumerate(heads):
            for place in head.rows:
                cell, truth = (HeadId(layer, index), place), made.truth[HeadId(layer, index), place]
                if place in head.jobs:
                    jobs[cell] = head.jobs[place]
                elif truth.status == Status.CONFIRMED and truth.role is not None:
                    jobs[cell] = ((truth.role, truth.gate),)
    return jobs
