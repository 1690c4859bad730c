"""Retrieval circuits as programs of select/aggregate steps (the idea of RASP, Weiss et al., arXiv 2106.06981).

A position holding symbol s knows a *window* of offsets o: the symbols f^o(s), each in a register of its own. At the start
every position knows {0}, its own token. A step makes positions of one kind attend to one source and copy the source's
window, shifted:

- `previous` at value: the key slot of the own statement, whose token is f^-1(s): offset -1 becomes known.
- `hop j` at a destination: the value slot find^j, which holds f^j(s): the window j + (window of value slots) becomes known.
  To find it, a register of the row must equal one of the source: f^a(s) = f^-b(f^j(s)) with a + b = j, so j is possible
  exactly if some a is in the row's window and -b in the value slots' window.
- `duplicate`: the key slot with the same token: its window, unshifted.

So what a program can do follows from its steps alone, and `lower` turns it into head specifications or says which step is
impossible. One hop per layer, doubling and tripling are a few lines each (`mechanisms.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from stackheads.errors import StackheadsError
from stackheads.tasks import StatementTask
from stackheads.types import Destination, Role, Slot

TOKEN = "f0"
"""The register that the embedding fills: the token itself, offset 0."""

POSITION = "position"
"""The register of the position, one-hot."""


class ProgramError(StackheadsError):
    """A step asks for a source that its rows cannot find with what is known at that layer."""


def register(offset: int) -> str:
    """The register that holds f^offset of a position's symbol."""
    return f"f{offset}"


@dataclass(frozen=True)
class Step:
    """In `layer` (from 0), the positions of `destinations` look where `role` says and copy what stands there."""

    layer: int
    role: Role
    destinations: tuple[Destination, ...]


@dataclass(frozen=True)
class Program:
    """Steps in any order; those of one layer act at once."""

    steps: tuple[Step, ...]

    @property
    def n_layers(self) -> int:
        return 1 + max(step.layer for step in self.steps)

    def __str__(self) -> str:
        lines = []
        for layer in range(self.n_layers):
            here = [f"{step.role} @{'+'.join(step.destinations)}" for step in self.steps if step.layer == layer]
            lines.append(f"layer {layer}: " + ", ".join(here or ["nothing"]))
        return "\n".join(lines)


@dataclass(frozen=True)
class Copy:
    """Write a source's register into the row's register, times a gain."""

    source: str
    target: str
    gain: float = 1.0


@dataclass(frozen=True)
class HeadSpec:
    """One attention head in terms of registers.

    A row in `rows` scores each source by the registers that `matches` pairs up (row register, source register) being equal,
    and by the source being one of `sources`; with `offset` by standing that many places away instead. Rows in `at_last` look
    at the last token, which for the query is itself. Other rows are parked: they look at the first token, as trained heads
    do that have nothing to do (an attention sink). `sharpness` is the score of a match in nats, `preference` that of a right
    kind of source. `roles` says per destination where the head looks; `status` overrides the status that follows from what is
    read later.
    """

    matches: tuple[tuple[str, str], ...]
    rows: frozenset[Destination]
    copies: tuple[Copy, ...]
    roles: dict[Destination, Role]
    sources: frozenset[Slot] = frozenset({Slot.VALUE})
    offset: int | None = None
    at_last: frozenset[Destination] = frozenset()
    sharpness: float | None = None
    preference: float | None = None
    status: dict[Destination, str] = field(default_factory=dict)


Layers = tuple[tuple[HeadSpec, ...], ...]
Readouts = dict[int, dict[str, float]]
"""Which registers each readout hop reads, with weights."""
Windows = dict[Destination, frozenset[int]]


def plain_readouts(task: StatementTask) -> Readouts:
    """Readout hop h reads f^h."""
    return {hop: {register(hop): 1.0} for hop in task.readout_hops}


def lower(program: Program) -> Layers:
    """Head specifications of a program, layer by layer. Raises `ProgramError` for a step that can't find its source.

    A step whose destinations need different registers becomes several heads. Offsets that are known already are not copied
    again; an offset that several heads of a layer bring is shared between them in equal parts.
    """
    windows: Windows = dict.fromkeys(Destination, frozenset({0}))
    layers = []
    for layer in range(program.n_layers):
        drafts = [
            (step, (destination,), *_lower_one(step, destination, windows))
            for step in program.steps
            if step.layer == layer
            for destination in step.destinations
        ]
        merged = _merge(drafts)
        known = dict(windows)
        for _, destinations, _, brought in merged:
            for destination in destinations:
                known[destination] = known[destination] | frozenset(offset for _, offset in brought)
        layers.append(tuple(_head(draft, merged, windows) for draft in merged))
        windows = known
    return tuple(layers)


_Find = tuple[tuple[tuple[str, str], ...], frozenset[Slot], int | None]
_Brought = frozenset[tuple[int, int]]
_Draft = tuple[Step, tuple[Destination, ...], _Find, _Brought]


def _lower_one(step: Step, destination: Destination, windows: Windows) -> tuple[_Find, _Brought]:
    """How the source is found, and which (source offset, row offset) pairs it brings."""
    role = step.role
    if role.name == "previous" and destination == Destination.VALUE:
        return ((), frozenset({Slot.KEY}), -1), _shifted(-1, windows[Destination.KEY])
    if role.name == "self":
        return ((), frozenset(Slot), 0), frozenset()
    if role.name == "duplicate":
        return (((TOKEN, TOKEN),), frozenset({Slot.KEY}), None), _shifted(0, windows[Destination.KEY])
    if role.name == "hop" and role.hop:
        known = windows[destination]
        source = windows[Destination.VALUE]
        ways = sorted((abs(role.hop - a), a) for a in known if a - role.hop in source)
        if ways:
            a = ways[0][1]
            return (((register(a), register(a - role.hop)),), frozenset({Slot.VALUE}), None), _shifted(role.hop, source)
        if destination == Destination.KEY and role.hop == 1:
            return ((), frozenset({Slot.VALUE}), 1), _shifted(1, source)
    raise ProgramError(
        f"layer {step.layer}: {role} @{destination} must find its source by what is known, rows know offsets "
        f"{sorted(windows[destination])} and value slots {sorted(windows[Destination.VALUE])}: add earlier steps"
    )


def _shifted(by: int, window: Iterable[int]) -> _Brought:
    return frozenset((offset, by + offset) for offset in window)


def _merge(drafts: list[_Draft]) -> list[_Draft]:
    """Destinations of one step that find and bring the same share a head."""
    merged: list[_Draft] = []
    for step, destinations, find, brought in drafts:
        for number, (other, places, other_find, other_brought) in enumerate(merged):
            if other is step and other_find == find and other_brought == brought:
                merged[number] = (step, places + destinations, find, brought)
                break
        else:
            merged.append((step, destinations, find, brought))
    return merged


def _head(draft: _Draft, all_drafts: list[_Draft], windows: Windows) -> HeadSpec:
    step, destinations, (matches, sources, offset), brought = draft
    copies = []
    for source, target in sorted(brought):
        if any(target not in windows[destination] for destination in destinations):
            providers = [
                other
                for _, places, _, other in all_drafts
                if set(places) & set(destinations) and any(offset == target for _, offset in other)
            ]
            copies.append(Copy(register(source), register(target), 1 / len(providers)))
    return HeadSpec(matches, frozenset(destinations), tuple(copies), dict.fromkeys(destinations, step.role), sources, offset)
