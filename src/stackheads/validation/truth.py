"""Labels that are known by construction: what each head of a specification does, and whether anything depends on it.

A register is *live* at a destination after a layer if a readout or a later live head reads it there. A head is live at a
destination if it writes a live register there; its own reads are then live before it. Live heads are `confirmed`, heads with
a pattern but nothing that depends on them `pattern-only` (parked rows too, which look at the start), idle heads `none`.
"""

from dataclasses import dataclass

from stackheads.programs.heads import PLACES, TOKEN, HeadSpec, Layers, Readouts, Written, plain_readouts
from stackheads.seeds import Stream, stream
from stackheads.tasks import operand_roles
from stackheads.tasks.statements import OWN
from stackheads.types import Destination, Gate, HeadId, Role


@dataclass(frozen=True)
class Truth:
    """The right label of one (head, destination); with a `gate`, of the part of it where the head acts."""

    role: Role | None
    status: str
    gate: Gate | None = None


Live = dict[Destination, set[str]]


def labels_by_construction(
    layers: Layers, task: Written, readouts: Readouts | None = None
) -> dict[tuple[HeadId, Destination], Truth]:
    """The label of every (head, destination), from where it looks and what is read after it."""
    live = _readouts(task, readouts or plain_readouts(task))
    there = existing(task)
    labels: dict[tuple[HeadId, Destination], Truth] = {}
    for layer in range(len(layers) - 1, -1, -1):
        before: Live = {destination: set(registers) for destination, registers in live.items()}
        for index, head in enumerate(layers[layer]):
            for destination in places(layers):
                labels[HeadId(layer, index), destination] = _label(head, destination, live, there)
                if _is_live(head, destination, live):
                    _add_reads(head, destination, live, before)
        live = before
    return labels


def places(layers: Layers) -> tuple[Destination, ...]:
    """The destinations that there are, and others at which some head acts."""
    acting = {place for heads in layers for head in heads for place in head.rows}
    return PLACES + tuple(place for place in Destination if place in acting and place not in PLACES)


def existing(task: Written) -> set[tuple[Role, Destination]]:
    """The hops, and further sources that the task names, that exist at some row of a destination."""
    batch = task.sample(256, stream(0, Stream.TRUTH))
    maps = [(Role("hop", hop), batch.find[:, number]) for number, hop in enumerate(task.hops)]
    if batch.operands is not None:
        maps += list(zip(operand_roles(task), batch.operands.unbind(dim=1), strict=True))
    return {
        (role, destination)
        for role, source in maps
        for destination in Destination
        if bool((source[batch.slots == destination.slot] >= 0).any())
    }


def _readouts(task: Written, readouts: Readouts) -> Live:
    registers = {name for read in readouts.values() for name in read}
    asked_at_values = registers if task.supervision == "dense" else set()
    none: Live = {place: set() for place in Destination}
    return none | {Destination.QUERY: set(registers), Destination.VALUE: set(asked_at_values)}


def _is_live(head: HeadSpec, destination: Destination, live: Live) -> bool:
    return destination in head.rows and any(copy.target in live[destination] for copy in head.copies)


def _add_reads(head: HeadSpec, destination: Destination, after: Live, before: Live) -> None:
    if head.when is not None:
        before[destination].add(head.when[0])
    for row, source in head.matches:
        before[destination].add(row)
        for place in _source_destinations(head):
            before[place].add(source)
    for copy in head.copies:
        for place in _source_destinations(head):
            if copy.target in after[destination]:
                before[place].add(copy.source)


def _source_destinations(head: HeadSpec) -> list[Destination]:
    return [place for place in Destination if place.slot in head.sources]


def _label(head: HeadSpec, destination: Destination, live: Live, there: set[tuple[Role, Destination]]) -> Truth:
    if not head.rows:
        return Truth(None, "none")
    role = head.roles.get(destination, Role("start"))
    if destination not in head.rows:
        return Truth(role, "pattern-only")
    if role.hop is not None and (role, destination) not in there:
        return Truth(None, "none")
    natural = "confirmed" if _is_live(head, destination, live) else "pattern-only"
    status = head.status.get(destination, natural)
    return Truth(role if status not in ("none", "causal-unclassified") else None, status, _gate(head))


def _gate(head: HeadSpec) -> Gate | None:
    """When a head acts, by the name that tasks have for what the register holds."""
    if head.when is not None:
        register, numbers = head.when
        return Gate(OWN if register == TOKEN else register, tuple(sorted(numbers)))
    return Gate(OWN, tuple(sorted(head.on[0]))) if len(head.on) == 1 and head.on[0] is not None else None
