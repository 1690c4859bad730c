"""Compiled circuits whose heads look by tables, of places, distances or symbols, and two looks that only seem to be a role.

n  places: from the query evenly at the values of the last three statements. Chains are stated in their order, so that the
   answer of hop 1 is often one of these: a guess by order, a part of the answer.
o  distance: at the value of the statement before. From value slots that is no role but often hop 1, a guess by order again;
   from the query it is *previous*.
p  a place that is hop 1 in nine examples of ten, in which the first statement is the one asked about: a part of the answer by
   order, and not hop 1, which stands elsewhere in the tenth.
q  symbols: from the query evenly at the key slots of those symbols that a table of its own symbol names. What these lead to
   cannot be the answer, and is ruled out: a part of the answer, by no role.
r  symbols, each at itself: the table is the role *duplicate*.
s  symbols, each at the next one, which is where it leads in nine examples of ten: a table, and not hop 1, which is another
   symbol in the tenth.

Labels have no word for n, o, p, q and s: causal-unclassified. Beside each head stands one that gives the answer, so that what
the table brings is never all of it.
"""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import torch
from jaxtyping import Int
from torch import Tensor

from stackheads.programs.heads import (
    POSITION,
    TOKEN,
    Content,
    Copy,
    HeadSpec,
    Look,
    Readouts,
    Table,
    plain_readouts,
    register,
)
from stackheads.programs.mechanisms import doubling, one_hop_per_layer
from stackheads.programs.program import lower, own_register
from stackheads.tasks import Cycle, Retrieval, StatementTask
from stackheads.tasks.links import read_links
from stackheads.types import Destination, Role, Slot
from stackheads.validation.specimens import Circuit

QUERY, VALUE, KEY = Destination.QUERY, Destination.VALUE, Destination.KEY
SYMBOLS = 8
OFTEN = 0.9
"""How often a table coincides with hop 1 where it seems to be that."""
UNNAMED = "causal-unclassified"
CHAINS = 6
LED_TO = own_register(1, KEY)
"""The register of key slots that holds what they lead to."""


class Leaning(Cycle):
    """A cycle of which not all examples are as likely: no list of its arrangements is known."""

    def arrangements(self) -> None:
        return None


class OftenFirst(Leaning):
    """A cycle of which mostly the first statement's own symbol is asked."""

    @property
    def name(self) -> str:
        return f"{super().name}, the first one's mostly"

    def _draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        tokens = super()._draw(n, generator)
        tokens[:, -1] = tokens[:, 0].where(_often(n, generator), tokens[:, -1])
        return tokens


class OftenNext(Leaning):
    """A cycle of which the symbol asked about mostly leads to the next one."""

    @property
    def name(self) -> str:
        return f"{super().name}, to the next one mostly"

    def _draw(self, n: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        tokens = super()._draw(n, generator)
        query = tokens[:, -1:]
        answer, following = read_links(tokens, self.symbols).forward.gather(1, query), (query + 1) % self.symbols
        renamed = following.where(tokens == answer, answer.where(tokens == following, tokens))
        return renamed.where(_often(n, generator)[:, None], tokens)


def _often(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float) < OFTEN


def _head(
    row: str, table: Table, copy: Copy, what: Look, rows: tuple[Destination, ...] = (QUERY,), sources: Slot = Slot.VALUE
) -> HeadSpec:
    """A head that looks by a table of row and source, for which labels have no word."""
    return HeadSpec(
        ((row, row),),
        frozenset(rows),
        (copy,),
        {},
        sources=frozenset({sources}),
        tables=(table,),
        status=dict.fromkeys(rows, UNNAMED),
        jobs=dict.fromkeys(rows, ((what, None),)),
    )


def places() -> Circuit:
    """n"""
    task = Retrieval(chains=3, max_hops=4, supervision="chain", attention_dir="causal")
    query = task.n_ctx - 1
    late = {(query, query - 1 - 2 * statement): 1.0 for statement in range(3)}
    return _beside_doubling(task, _head(POSITION, late, Copy(TOKEN, "late"), "place"), {"late": 1.2})


def distance() -> Circuit:
    """o"""
    task = Retrieval(chains=2, max_hops=4, supervision="dense", attention_dir="causal")
    before = {(place, place - 2): 1.0 for place in range(3, task.n_ctx, 2)} | {(task.n_ctx - 1, task.n_ctx - 2): 1.0}
    known = {QUERY: Role("previous")}
    head = HeadSpec(
        ((POSITION, POSITION),),
        frozenset({QUERY, VALUE}),
        (Copy(TOKEN, "before"),),
        known,
        tables=(before,),
        status={VALUE: UNNAMED},
        jobs={VALUE: (("distance", None),)},
    )
    return _beside_doubling(task, head, {"before": 0.5})


def _beside_doubling(task: Retrieval, head: HeadSpec, read: dict[str, float]) -> Circuit:
    """A head in the layer after the first of a doubling circuit, of which hop 1 is read as well."""
    layers = [list(heads) for heads in lower(doubling(task.max_hops))]
    layers[1].append(head)
    readouts = plain_readouts(task)
    return Circuit(tuple(map(tuple, layers)), task, {**readouts, 1: readouts[1] | read}, base="doubling")


def often_hop_one() -> Circuit:
    """p"""
    head = _head(POSITION, {(2 * SYMBOLS, 1): 1.0}, Copy(TOKEN, "first"), "place")
    return _beside_hop_one(OftenFirst(symbols=SYMBOLS, max_hops=1, supervision="chain"), head, {"first": 0.5}, "p")


def often_next() -> Circuit:
    """s"""
    following = {(symbol, (symbol + 1) % SYMBOLS): 1.0 for symbol in range(SYMBOLS)}
    head = _head(TOKEN, following, Copy(TOKEN, "next"), Content(Slot.VALUE))
    return _beside_hop_one(OftenNext(symbols=SYMBOLS, max_hops=1, supervision="chain"), head, {"next": 0.5}, "s")


def _beside_hop_one(task: StatementTask, head: HeadSpec, read: dict[str, float], decoy: str) -> Circuit:
    """A head beside one of hop 1, both read."""
    previous, hop_one = lower(one_hop_per_layer(1))
    return Circuit((previous, (*hop_one, head)), task, {1: {register(1): 1.0} | read}, decoy=decoy, base="one hop per layer")


def symbols() -> Circuit:
    """q: each symbol looks at every second one of the others."""
    task = _pairs()
    others = {(own, (own + far) % task.d_vocab): 1.0 for own in range(task.d_vocab) for far in range(1, task.d_vocab, 2)}
    head = _head(TOKEN, others, Copy(LED_TO, "ruled out"), Content(Slot.KEY), sources=Slot.KEY)
    return _by_keys(task, (_itself(()), head), {1: {register(1): 1.0, "ruled out": -4.0}})


def duplicate() -> Circuit:
    """r"""
    task = _pairs()
    circuit = _by_keys(task, (_itself(({(own, own): 1.0 for own in range(task.d_vocab)},)),), plain_readouts(task))
    return replace(circuit, decoy="r")


def _pairs() -> Retrieval:
    """One hop between symbols that stand once each, but for the query."""
    return Retrieval(chains=CHAINS, max_hops=1, order="shuffled", supervision="chain", attention_dir="bidirectional")


def _by_keys(task: StatementTask, heads: tuple[HeadSpec, ...], readouts: Readouts) -> Circuit:
    """Key slots know what they lead to, which stands one further on in every example; then the heads look at them."""
    led_to = HeadSpec(
        (),
        frozenset({KEY}),
        (Copy(TOKEN, LED_TO),),
        {},
        offset=1,
        status={KEY: UNNAMED},
        jobs={KEY: ((Role("hop", 1), None),)},
    )
    return Circuit(((led_to,), heads), task, readouts, base="by keys")


def _itself(tables: tuple[Table, ...]) -> HeadSpec:
    """From the query at the key slot of its own symbol."""
    copies, known = (Copy(LED_TO, register(1)),), {QUERY: Role("duplicate")}
    return HeadSpec(((TOKEN, TOKEN),), frozenset({QUERY}), copies, known, sources=frozenset({Slot.KEY}), tables=tables)


TABLED: MappingProxyType[str, Callable[[], Circuit]] = MappingProxyType(
    {
        "n: places": places,
        "o: distance": distance,
        "p: often hop 1": often_hop_one,
        "q: symbols": symbols,
        "r: duplicate": duplicate,
        "s: often next": often_next,
    }
)
