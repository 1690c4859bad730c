"""Specimens for judging a labeller: compiled circuits in many guises, and decoys, each with the labels it must get.

Guises: rotation of the residual basis, LayerNorm or none, sharper or softer attention, idle heads, heads in another order,
noise on the weights. Decoys (one for each way of being fooled):

a  ideal pattern, W_O = 0                                       pattern-only
b  ideal pattern, writes where nobody reads                     pattern-only
c  writes what the unembedding reads, but a later head removes  pattern-only; the remover, without which the answer would be
                                                                stronger, opposing
d  a hop split over two heads, each writing half                both confirmed
e  backups: three heads that feed one saturating match with weights 5, 5 and 3, any of which can be lost: all redundant.
   Two do not suffice: under resample ablation a head votes for a wrong source, so one remaining head would only tie with it.
f  a hop head that writes against the answer                    opposing
g  diffuse attention that still matters                         causal-unclassified
h  a fixed layout in which previous token and find^1 coincide   causal-unclassified, ambiguous
i  one head with hop 1 at the query and hop 2 at value slots    confirmed, the right hop at each
j  a hop shared by two heads, each for half of the symbols      both confirmed, each under its gate; the rest is not judged
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from stackheads.models.native import named_weights
from stackheads.models.protocol import Model
from stackheads.programs.compiler import compile_layers
from stackheads.programs.heads import TOKEN, Copy, HeadSpec, Layers, Readouts, Written, plain_readouts, register
from stackheads.programs.mechanisms import doubling, one_hop_per_layer, tripling
from stackheads.programs.program import lower
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle, Retrieval, StatementTask
from stackheads.types import Destination, HeadId, Role, Slot
from stackheads.validation.truth import Truth, labels_by_construction

QUERY, VALUE = Destination.QUERY, Destination.VALUE
IDLE = HeadSpec((), frozenset(), (), {})


@dataclass(frozen=True)
class Circuit:
    """A circuit before it is compiled. `mechanism` is its name where it is a plain one; `decoy` the letter of a decoy; `base`
    what it is built on, the name of a plain circuit or of a beginning that several share.
    """

    layers: Layers
    task: Written
    readouts: Readouts
    mechanism: str | None = None
    decoy: str | None = None
    base: str | None = None


@dataclass(frozen=True)
class Guise:
    """How a circuit is dressed up. `noise` is relative to the root mean square of each weight matrix."""

    seed: int = 0
    rotate: bool = True
    normalization: str | None = "LN"
    sharpness: float = 14.0
    idle: int = 0
    permute: bool = True
    noise: float = 0.0


@dataclass(frozen=True)
class Specimen:
    """A compiled model with its task and the labels it must get; `layers` as they are dressed up, head by head."""

    name: str
    model: Model
    task: Written
    truth: dict[tuple[HeadId, Destination], Truth]
    circuit: Circuit
    layers: Layers


def specimen(name: str, circuit: Circuit, guise: Guise) -> Specimen:
    """Dress a circuit up and compile it."""
    generator = stream(guise.seed, Stream.SPECIMENS)
    width = max(len(heads) for heads in circuit.layers) + guise.idle
    layers = []
    for heads in circuit.layers:
        padded = [*heads, *[IDLE] * (width - len(heads))]
        order = torch.randperm(width, generator=generator).tolist() if guise.permute else range(width)
        layers.append(tuple(padded[index] for index in order))
    dressed = tuple(layers)
    model, _ = compile_layers(
        dressed,
        circuit.task,
        guise.normalization,
        guise.sharpness,
        rotation_seed=guise.seed if guise.rotate else None,
        readouts=circuit.readouts,
    )
    for name_of, parameter in named_weights(model).items():
        if guise.noise and "ln" not in name_of:
            scale = guise.noise * parameter.square().mean().sqrt()
            parameter.data.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float))
    truth = labels_by_construction(dressed, circuit.task, circuit.readouts)
    return Specimen(name, model, circuit.task, truth, circuit, dressed)


def _plain(mechanism: str, layers: Layers, task: StatementTask) -> Circuit:
    return Circuit(layers, task, plain_readouts(task), mechanism)


def _causal(hops: int, chains: int = 3, supervision: str = "dense") -> Retrieval:
    return Retrieval(chains=chains, max_hops=hops, supervision=supervision, attention_dir="causal")  # type: ignore[arg-type]


def one_hop() -> Circuit:
    return _plain("one hop per layer", lower(one_hop_per_layer(3)), _causal(3, supervision="chain"))


def doubling_circuit(hops: int = 4) -> Circuit:
    return _plain("doubling", lower(doubling(hops)), _causal(hops))


def tripling_circuit() -> Circuit:
    return _plain("tripling", lower(tripling(4)), Cycle(symbols=10, max_hops=4))


def _with(circuit: Circuit, decoy: str, change: Callable[[list[list[HeadSpec]]], None], **fields: Any) -> Circuit:
    layers = [list(heads) for heads in circuit.layers]
    change(layers)
    return replace(circuit, layers=tuple(map(tuple, layers)), mechanism=None, decoy=decoy, base=circuit.mechanism, **fields)


def chained_doubling(hops: int = 4) -> Circuit:
    """The plain circuit for a task that asks all hops at the query alone."""
    return _plain("doubling", lower(doubling(hops)), _causal(hops, supervision="chain"))


def dead_output(base: Callable[[], Circuit] = doubling_circuit) -> Circuit:
    """a"""
    return _with(base(), "a", lambda layers: layers[2].append(replace(layers[2][0], copies=())))


def unread(base: Callable[[], Circuit] = doubling_circuit) -> Circuit:
    """b"""
    return _with(base(), "b", lambda layers: layers[2].append(replace(layers[2][0], copies=(Copy(TOKEN, "unread"),))))


def removed(base: Callable[[], Circuit] = chained_doubling) -> Circuit:
    """c"""
    writer = HeadSpec(
        ((TOKEN, register(-1)),),
        frozenset({QUERY}),
        (Copy(TOKEN, "extra", 0.3),),
        {QUERY: Role("hop", 1)},
        status={QUERY: "pattern-only"},
    )
    remover = HeadSpec(
        (),
        frozenset({QUERY}),
        (Copy("extra", "extra", -1.0),),
        {QUERY: Role("self")},
        sources=frozenset({Slot.QUERY}),
        offset=0,
        status={QUERY: "opposing"},
    )

    def change(layers: list[list[HeadSpec]]) -> None:
        layers[1].append(writer)
        layers[2].append(remover)

    plain = base()
    return _with(plain, "c", change, readouts={**plain.readouts, 1: {register(1): 1.0, "extra": 2.0}})


def split(base: Callable[[], Circuit] = doubling_circuit) -> Circuit:
    """d"""

    def change(layers: list[list[HeadSpec]]) -> None:
        layers[2] = [*halved(layers[2][0])]

    return _with(base(), "d", change)


def halved(head: HeadSpec) -> tuple[HeadSpec, HeadSpec]:
    """Two heads for one, each of which writes half."""
    half = replace(head, copies=tuple(replace(copy, gain=copy.gain / 2) for copy in head.copies))
    return half, half


def backups(base: Callable[[], Circuit] = doubling_circuit) -> Circuit:
    """e"""
    weights = {"vote0": 0.3, "vote1": 0.3, "vote2": 0.18}  # small, so that LayerNorm hardly sees them

    def change(layers: list[list[HeadSpec]]) -> None:
        hop_one = layers[1][0]
        redundant = dict.fromkeys(hop_one.roles, "redundant")
        for name, weight in weights.items():
            layers[1].append(replace(hop_one, copies=(Copy(TOKEN, name, weight),), status=redundant))
        matches = tuple((name, register(-1)) for name in weights)
        layers[2] = [replace(layers[2][0], matches=matches, sharpness=130.0, preference=14.0)]

    return _with(base(), "e", change)


def against(base: Callable[[], Circuit] = chained_doubling) -> Circuit:
    """f"""
    head = HeadSpec(
        ((TOKEN, register(-1)),),
        frozenset({QUERY}),
        (Copy(TOKEN, "minus", 0.3),),
        {QUERY: Role("hop", 1)},
        status={QUERY: "opposing"},
    )
    plain = base()
    readouts = {**plain.readouts, 1: {register(1): 1.0, "minus": -1.3}}
    return _with(plain, "f", lambda layers: layers[-1].append(head), readouts=readouts)


def diffuse() -> Circuit:
    """g: twice the attention of any other value slot, 2 / 11, and the excess, 1 / 11, amplified to a whole."""

    def change(layers: list[list[HeadSpec]]) -> None:
        head = layers[2][0]
        copies = tuple(replace(copy, gain=11.0) for copy in head.copies)
        status = dict.fromkeys(head.roles, "causal-unclassified")
        layers[2] = [replace(head, copies=copies, sharpness=0.7, preference=14.0, status=status)]

    return _with(tripling_circuit(), "g", change)


def ambiguous() -> Circuit:
    """h"""
    task = Cycle(symbols=8, max_hops=1, order="sorted", supervision="chain")
    head = HeadSpec(
        (),
        frozenset({QUERY}),
        (Copy(TOKEN, register(1)),),
        {QUERY: Role("hop", 1)},
        offset=-1,
        status={QUERY: "causal-unclassified"},
    )
    return Circuit(((head,),), task, plain_readouts(task), None, "h")


def by_symbol() -> Circuit:
    """j: one hop is answered, so that nothing reads what the two heads write where they are parked, both the same."""
    task = _causal(4)
    previous, (hop_one,) = lower(doubling(1))
    return Circuit((previous, shared_by_symbol(hop_one, task.d_vocab)), task, plain_readouts(task), None, "j", "doubling")


def shared_by_symbol(head: HeadSpec, d_vocab: int) -> tuple[HeadSpec, ...]:
    """Two heads for one, each for half of the symbols."""
    return tuple(replace(head, on=(frozenset(range(first, d_vocab, 2)),)) for first in (0, 1))


def two_hops() -> Circuit:
    """i: a register holds the token at the query and f at value slots, so one match is hop 1 here and hop 2 there."""
    task = _causal(6, chains=2, supervision="chain")
    previous = lower(doubling(1))[0][0]
    both, own = frozenset({QUERY, VALUE}), register(-1)
    first = HeadSpec(
        ((TOKEN, own),),
        both,
        (Copy(TOKEN, "r"),),
        {QUERY: Role("self"), VALUE: Role("hop", 1)},
        sources=frozenset({Slot.VALUE}),
        at_last=frozenset({QUERY}),
    )
    second = HeadSpec((("r", own),), both, (Copy(TOKEN, "a0"), Copy("r", "a1")), {QUERY: Role("hop", 1), VALUE: Role("hop", 2)})
    copies = (Copy(TOKEN, "b3"), Copy("r", "b4"), Copy("a0", "b5"), Copy("a1", "b6"))
    third = HeadSpec((("a1", own),), frozenset({QUERY}), copies, {QUERY: Role("hop", 3)})
    names = dict(enumerate(("a0", "a1", "b3", "b4", "b5", "b6"), start=1))
    readouts = {hop: {name: 1.0} for hop, name in names.items()}
    return Circuit(((previous,), (first,), (second,), (third,)), task, readouts, None, "i")


CIRCUITS: MappingProxyType[str, Callable[[], Circuit]] = MappingProxyType(
    {
        "one hop per layer": one_hop,
        "doubling": doubling_circuit,
        "tripling": tripling_circuit,
        "a: no output": dead_output,
        "b: unread": unread,
        "c: removed": removed,
        "d: split": split,
        "e: backups": backups,
        "f: against": against,
        "g: diffuse": diffuse,
        "h: ambiguous": ambiguous,
        "i: two hops": two_hops,
        "j: by symbol": by_symbol,
    }
)
