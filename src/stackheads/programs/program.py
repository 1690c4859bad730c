"""Retrieval circuits as programs of select/aggregate steps (the idea of RASP, Weiss et al., arXiv 2106.06981).

A position holding symbol s knows a *window* of offsets o: the symbols f^o(s), each in a register of its own. At the start
every position knows {0}, its own token. A step makes positions of one kind attend to one source and copy the source's
window, shifted:

- `previous` at value: the key slot of the own statement, whose token is f^-1(s): offset -1 becomes known.
- `hop j` at a destination: the value slot find^j, which holds f^j(s): the window j + (window of value slots) becomes known.
  To find it, a register of the row must equal one of the source: f^a(s) = f^-b(f^j(s)) with a + b = j, so j is possible
  exactly if some a is in the row's window and -b in the value slots' window.
- `key j` at a destination, the same over key slots: the one that holds f^j(s), and its window. A key slot knows {0, 1} once it
  has looked at its own value, `hop 1`, which stands behind it.
- `duplicate`: a slot with the same token: its window, unshifted. The key slot, or the value slot (which is find^0) where that
  knows more. Where a task tells them apart these are `key 0` and `hop 0`.

So what a program can do follows from its steps alone, and `lower` turns it into head specifications or says which step is
impossible. One hop per layer, doubling and tripling are a few lines each (`mechanisms.py`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from stackheads.programs.heads import PLACES, TOKEN, Copy, HeadSpec, Layers, ProgramError, register
from stackheads.types import Destination, Gate, Role, Slot


@dataclass(frozen=True)
class Step:
    """In `layer` (from 0), the positions of `destinations` look where `role` says and copy what stands there.

    With a `gate` they do so only where it has its values. Such a step is written down, and is not compiled.
    """

    layer: int
    role: Role
    destinations: tuple[Destination, ...]
    gate: Gate | None = None

    def __str__(self) -> str:
        return f"{self.role} @{'+'.join(map(str, self.destinations))}" + ("" if self.gate is None else f" when {self.gate}")


@dataclass(frozen=True)
class Program:
    """Steps in any order; those of one layer act at once."""

    steps: tuple[Step, ...]

    @property
    def n_layers(self) -> int:
        return 1 + max((step.layer for step in self.steps), default=-1)

    def __str__(self) -> str:
        lines = []
        for layer in range(self.n_layers):
            here = [str(step) for step in self.steps if step.layer == layer]
            lines.append(f"layer {layer}: " + ", ".join(here or ["nothing"]))
        return "\n".join(lines)


WALKED: Mapping[str, Destination] = MappingProxyType({"hop": Destination.VALUE, "key": Destination.KEY})
"""The roles that follow links, and what they look at."""

Windows = dict[Destination, frozenset[int]]
START: Mapping[Destination, frozenset[int]] = MappingProxyType(dict.fromkeys(PLACES, frozenset({0})))
"""The windows before the first layer."""
NOTHING: Mapping[int, Mapping[Destination, Collection[int]]] = MappingProxyType({})
Naming = Callable[[int], int]
"""What an offset is called: a task's `same_offset`; by default itself."""


def own_register(offset: int, destination: Destination) -> str:
    """A register of one kind of position only; the token is everyone's."""
    return TOKEN if offset == 0 else f"{register(offset)}@{destination}"


def lower(program: Program, same: Naming = int, separate: bool = False) -> Layers:
    """Head specifications of a program, layer by layer. Raises `ProgramError` for a step that can't find its source.

    A step whose destinations need different registers becomes several heads. Offsets that are known already are not copied
    again; an offset that several heads of a layer bring is shared between them in equal parts. Offsets that are the `same` are
    one, as on a cycle those that differ by its length. `separate` gives query, value and key slots registers of their own, so
    that what a head writes where it is parked cannot be mistaken for what another head writes there.
    """
    if gated := [step for step in program.steps if step.gate is not None]:
        raise ProgramError(f"steps that are compiled hold at all values of a gate, {gated[0]} does not: leave it out")
    windows: Windows = dict(START)
    layers = []
    for layer in range(program.n_layers):
        drafts = [
            (step, (destination,), *_lower_one(step, destination, windows, same))
            for step in program.steps
            if step.layer == layer
            for destination in step.destinations
        ]
        merged = _merge(drafts)
        heads = [_head(draft, merged, windows) for draft in merged]
        layers.append(tuple(map(_with_own_registers, heads) if separate else heads))
        windows = _widened(windows, merged)
    return tuple(layers)


def possible_part(
    program: Program, same: Naming = int, given: Mapping[int, Mapping[Destination, Collection[int]]] = NOTHING
) -> tuple[Program, tuple[Step, ...], tuple[Windows, ...]]:
    """The steps that can find their sources, those that can't or hold at times only, and the windows after each layer.

    `given` are offsets that are known from a layer on though no step brings them, at each place.
    """
    windows: Windows = dict(START)
    kept, dropped, after = [], [], []
    for layer in range(program.n_layers):
        known = given.get(layer, {})
        windows = {place: window | frozenset(known.get(place, ())) for place, window in windows.items()}
        drafts: list[_Draft] = []
        for step in program.steps:
            for destination in step.destinations if step.layer == layer else ():
                one = Step(layer, step.role, (destination,), step.gate)
                if one.gate is not None:
                    dropped.append(one)
                    continue
                try:
                    drafts.append((one, (destination,), *_lower_one(one, destination, windows, same)))
                    kept.append(one)
                except ProgramError:
                    dropped.append(one)
        windows = _widened(windows, drafts)
        after.append(windows)
    return Program(tuple(kept)), tuple(dropped), tuple(after)


def would_find(
    step: Step, windows: Mapping[Destination, frozenset[int]], same: Naming = int
) -> frozenset[tuple[Destination, int]]:
    """The places and offsets of which each, if it were known there, would let a step of one destination find its source.

    None for a step that is not found by offsets. `windows` are those before its layer.
    """
    there, hop, (place,) = WALKED.get(step.role.name), step.role.hop, step.destinations
    if there is None or hop is None:
        return frozenset()
    here = frozenset((place, same(hop + offset)) for offset in windows[there])
    return here | frozenset((there, same(offset - hop)) for offset in windows[place])


def followed(program: Program, same: Naming = int) -> tuple[Windows, ...]:
    """The windows after each layer, of a model in which every step finds its source, however it does."""
    windows: Windows = dict.fromkeys(Destination, frozenset({0}))
    after = []
    for layer in range(program.n_layers):
        known = dict(windows)
        for step in program.steps:
            for destination in step.destinations if step.layer == layer else ():
                offsets = frozenset(offset for _, offset in _brought(step.role, destination, windows, same))
                known[destination] = known[destination] | offsets
        windows = known
        after.append(windows)
    return tuple(after)


def _widened(windows: Windows, drafts: "list[_Draft]") -> Windows:
    known = dict(windows)
    for _, destinations, _, brought in drafts:
        for destination in destinations:
            known[destination] = known[destination] | frozenset(offset for _, offset in brought)
    return known


_Find = tuple[tuple[tuple[str, str], ...], frozenset[Slot], int | None]
_Brought = frozenset[tuple[int, int]]
_Draft = tuple[Step, tuple[Destination, ...], _Find, _Brought]


def _lower_one(step: Step, destination: Destination, windows: Windows, same: Naming = int) -> tuple[_Find, _Brought]:
    """How the source is found, and what it brings."""
    return _find(step, destination, windows, same), _brought(step.role, destination, windows, same)


def _find(step: Step, destination: Destination, windows: Windows, same: Naming) -> _Find:
    """Which registers must be equal, the kinds of source, and how far away it stands where that is known."""
    role = step.role
    if role.name == "previous" and destination == Destination.VALUE:
        return (), frozenset({Slot.KEY}), -1
    if role.name == "self":
        return (), frozenset(Slot), 0
    if role.name == "duplicate":
        return ((TOKEN, TOKEN),), frozenset({_twin(destination, windows).slot}), None
    there = WALKED.get(role.name, Destination.VALUE)
    if role.name in WALKED and role.hop is not None:
        back = {a: same(a - role.hop) for a in windows[destination]}
        ways = sorted((abs(b), a) for a, b in back.items() if b in windows[there])
        if ways:
            a = ways[0][1]
            return ((register(a), register(back[a])),), frozenset({there.slot}), None
        if destination == Destination.KEY and role == Role("hop", 1):
            return (), frozenset({Slot.VALUE}), 1
    raise ProgramError(
        f"layer {step.layer}: {role} @{destination} must find its source by what is known, rows know offsets "
        f"{sorted(windows[destination])} and {there} slots {sorted(windows[there])}: add earlier steps"
    )


def _brought(role: Role, destination: Destination, windows: Windows, same: Naming) -> _Brought:
    """Which (source offset, row offset) pairs the source of a role brings, however it is found."""

    def shifted(by: int, window: Iterable[int]) -> _Brought:
        return frozenset((offset, same(by + offset)) for offset in window)

    if role.name == "previous" and destination == Destination.VALUE:
        return shifted(-1, windows[Destination.KEY])
    if role.name == "duplicate":
        return shifted(0, windows[_twin(destination, windows)])
    if role.name in WALKED and role.hop is not None:
        return shifted(role.hop, windows[WALKED[role.name]])
    return frozenset()


def _twin(destination: Destination, windows: Windows) -> Destination:
    """Where the same token stands: for a value slot a key slot; else the value slot too, if it knows more."""
    more = destination != Destination.VALUE and not windows[Destination.VALUE] <= windows[destination]
    return Destination.VALUE if more or destination == Destination.KEY else Destination.KEY


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


def _with_own_registers(head: HeadSpec) -> HeadSpec:
    """The same head, each register renamed to that of the kind of position it is read or written at."""
    (row,), (slot,) = head.rows, head.sources
    source = Destination[slot.name]

    def at(name: str, place: Destination) -> str:
        return name if name == TOKEN else f"{name}@{place}"

    return replace(
        head,
        matches=tuple((at(mine, row), at(theirs, source)) for mine, theirs in head.matches),
        copies=tuple(Copy(at(copy.source, source), at(copy.target, row), copy.gain) for copy in head.copies),
    )
