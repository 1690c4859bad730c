"""Circuits drawn at random, a family for each seed: programs that nobody wrote, so that no labeller was made for them.

A seed draws a task – a cycle looked at both ways, or chains stated in order, two to four hops – and then a program: value slots
learn their keys, and layer by layer one to three steps are drawn from all that can find their source by what is known and bring
something that is not (`programs/program.py`), until the query knows every hop that is asked. Steps of which nothing depends are
left in. Each step is a head of its own, and what several heads of a layer bring they share.

The family of a program, all built on it:

- itself, as it is and with noise on its weights, which `cases.py` blurs as well (`blurred.py`);
- *and more*: one of its heads written as two halves; one of the query's that matches its token as two, each for half of the
  symbols; or, of chains, beside it a head that looks evenly at all values or at the last three;
- two decoys: a head once more that writes nothing, or where nobody reads; at the query one whose writing is read and then taken
  off again, or is read against the answer.

What is drawn is drawn again until what is said of it is so in the very guises that are judged (`upheld.py`): all readouts are
answered in 99 %, what carries nothing moves no answer by 2 %, and what carries something moves one by 4 % or more. No label is
asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import torch

from stackheads.labelling.thresholds import Thresholds
from stackheads.programs.heads import TOKEN, Copy, HeadSpec, Layers, ProgramError
from stackheads.programs.program import Program, Step, lower, own_register, possible_part
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle, Retrieval, StatementTask
from stackheads.types import Destination, HeadId, Role, Slot, Status
from stackheads.validation.blends import looking_at_all_values
from stackheads.validation.specimens import Circuit, Guise, halved, shared_by_symbol
from stackheads.validation.tabled import looking_at_the_last
from stackheads.validation.truth import labels_by_construction
from stackheads.validation.upheld import ANSWERED, answering, faintest, loudest

QUERY, VALUE = Destination.QUERY, Destination.VALUE
MAX_LAYERS, MAX_STEPS = 5, 3
NOISE = 0.1
HEARD = 2 * Thresholds().min_effect
ATTEMPTS = 200
PREFIX = "drawn "
FAMILY = ("itself", "noisy", "and more", "and a decoy", "and another decoy")
GUISE_SEEDS = 100_000
"""Above those of other circuits' guises."""

_T = TypeVar("_T")
Site = tuple[int, int]
"""Layer and number of a head."""
Change = Callable[[torch.Generator, Circuit], Circuit | None]
"""Something added to a circuit; None where it has no place for it."""


@dataclass(frozen=True)
class Drawn:
    """A member of a family with the guise in which it is judged, before any blur."""

    circuit: Circuit
    guise: Guise


def name_of(seed: int) -> str:
    """What a family is called, and what its members are built on."""
    return f"{PREFIX}{seed}"


def is_drawn(base: str) -> bool:
    """Whether what a circuit is built on is a drawn program."""
    return base.startswith(PREFIX)


@cache
def family(seed: int) -> dict[str, Drawn]:
    """All members, by what they are called after the family's name. Cost: some forward passes for each attempt.

    Raises `ProgramError` if nothing is so of what was drawn in `ATTEMPTS` attempts.
    """
    guises = guises_of(seed)
    plain = _first(seed, "program", lambda generator: _plain(generator, name_of(seed)), (guises["itself"], guises["noisy"]))
    found = {"itself": plain, "noisy": plain}

    def changed(member: str, changes: Sequence[Change]) -> Circuit:
        return _first(seed, member, lambda generator: _pick(changes, generator)(generator, plain), (guises[member],))

    found["and more"] = changed("and more", MORE)
    one = found["and a decoy"] = changed("and a decoy", tuple(DECOYS))
    found["and another decoy"] = changed("and another decoy", [of for of, letter in DECOYS.items() if letter != one.decoy])
    return {member: Drawn(circuit, guises[member]) for member, circuit in found.items()}


def guises_of(seed: int) -> dict[str, Guise]:
    """The guise of each member: LayerNorm in half of them, and none with several looks, as of circuits that were written; noise
    in the noisy one, and in half of those that have something more.
    """
    guises = {}
    for number, member in enumerate(FAMILY):
        normalized = (seed + number) % 2 and member != "and more"
        noisy = member == "noisy" or (number > 1 and (seed // 2 + number) % 2)
        of = Guise(seed=GUISE_SEEDS + 10 * seed + number, normalization="LN" if normalized else None)
        guises[member] = replace(of, noise=NOISE if noisy else 0.0)
    return guises


def _first(seed: int, use: str, draw: Callable[[torch.Generator], Circuit | None], guises: Sequence[Guise]) -> Circuit:
    """The first that is drawn of which all is so in these guises."""
    for attempt in range(ATTEMPTS):
        circuit = draw(stream(seed, Stream.DRAWN, use, attempt))
        if circuit is not None and all(_is_so(circuit, guise) for guise in guises):
            return circuit
    raise ProgramError(f"a drawn circuit must do what it says, none of {ATTEMPTS} drawn by seed {seed} does: take another seed")


def _is_so(circuit: Circuit, guise: Guise) -> bool:
    measured, accuracy = answering(str(circuit.base), circuit, guise, Stream.DRAWN)
    answers = bool((accuracy >= ANSWERED).all())
    return answers and loudest(*measured) < Thresholds().min_effect and faintest(*measured) >= HEARD


def _pick(some: Sequence[_T], generator: torch.Generator) -> _T:
    return some[int(torch.randint(len(some), (), generator=generator))]


def _plain(generator: torch.Generator, name: str) -> Circuit | None:
    task = _task(generator)
    program = _program(task, generator)
    if program is None:
        return None
    readouts = {hop: {own_register(task.same_offset(hop), QUERY): 1.0} for hop in task.readout_hops}
    return Circuit(lower(program, task.same_offset, separate=True), task, readouts, base=name)


def _task(generator: torch.Generator) -> StatementTask:
    hops = _pick((2, 3, 4), generator)
    if _pick((True, False), generator):
        return Cycle(symbols=hops + _pick((3, 4, 5), generator), max_hops=hops, supervision="chain")
    return Retrieval(chains=_pick((2, 3), generator), max_hops=hops, supervision="chain", attention_dir="causal")


def _program(task: StatementTask, generator: torch.Generator) -> Program | None:
    """None where five layers do not come to all hops, or a layer has nothing to add."""
    steps = [Step(0, Role("previous"), (VALUE,))]
    asked = {task.same_offset(hop) for hop in task.readout_hops}
    for layer in range(1, MAX_LAYERS + 1):
        if asked <= possible_part(Program(tuple(steps)), task.same_offset)[2][-1][QUERY]:
            return Program(tuple(steps))
        useful = _useful(task, steps, layer)
        if not useful or layer == MAX_LAYERS:
            return None
        order = torch.randperm(len(useful), generator=generator).tolist()
        steps += [useful[number] for number in order[: _pick(range(1, MAX_STEPS + 1), generator)]]
    return None


def _useful(task: StatementTask, steps: list[Step], layer: int) -> list[Step]:
    """The steps that find their source in this layer and bring hops of the task that are not known yet."""
    here = possible_part(Program(tuple(steps)), task.same_offset)[2][-1]
    found = []
    for place in (QUERY, VALUE):
        for hop in task.hops:
            step = Step(layer, Role("hop", hop), (place,))
            if hop and (hop > 0 or task.attention_dir == "bidirectional"):
                _, impossible, windows = possible_part(Program((*steps, step)), task.same_offset)
                if not impossible and (windows[-1][place] - here[place]) & set(task.hops):
                    found.append(step)
    return found


def _sites(circuit: Circuit, of: Callable[[HeadSpec], bool] = lambda head: True) -> list[Site]:
    """Heads that carry something, of some kind."""
    truth = labels_by_construction(circuit.layers, circuit.task, circuit.readouts)
    return [
        (layer, number)
        for layer, heads in enumerate(circuit.layers)
        for number, head in enumerate(heads)
        if of(head) and any(truth[HeadId(layer, number), place].status == Status.CONFIRMED for place in head.rows)
    ]


def _with_heads(layers: Layers, layer: int, *more: HeadSpec, without: int | None = None) -> Layers:
    """Some more heads in a layer, and one less."""
    kept = tuple(head for number, head in enumerate(layers[layer]) if number != without)
    return (*layers[:layer], kept + more, *layers[layer + 1 :])


def _at_the_query(head: HeadSpec) -> bool:
    return QUERY in head.rows


def _in_halves(generator: torch.Generator, circuit: Circuit) -> Circuit:
    layer, number = _pick(_sites(circuit), generator)
    return replace(circuit, layers=_with_heads(circuit.layers, layer, *halved(circuit.layers[layer][number]), without=number))


def _by_symbol(generator: torch.Generator, circuit: Circuit) -> Circuit | None:
    sites = _sites(circuit, lambda head: _at_the_query(head) and head.matches[0][0] == TOKEN)
    if not sites:
        return None
    layer, number = _pick(sites, generator)
    shared = shared_by_symbol(circuit.layers[layer][number], circuit.task.d_vocab)
    return replace(circuit, layers=_with_heads(circuit.layers, layer, *shared, without=number))


def _with_all_values(generator: torch.Generator, circuit: Circuit) -> Circuit | None:
    if not isinstance(circuit.task, Retrieval):
        return None
    layers = _with_heads(circuit.layers, _pick(range(len(circuit.layers)), generator), looking_at_all_values(circuit.task))
    return replace(circuit, layers=layers, readouts={hop: {**read, "bag": 1.2} for hop, read in circuit.readouts.items()})


def _with_the_last(generator: torch.Generator, circuit: Circuit) -> Circuit | None:
    if not isinstance(circuit.task, Retrieval):
        return None
    layers = _with_heads(circuit.layers, _pick(range(len(circuit.layers)), generator), looking_at_the_last(circuit.task))
    return replace(circuit, layers=layers, readouts={**circuit.readouts, 1: {**circuit.readouts[1], "late": 1.2}})


def _no_output(generator: torch.Generator, circuit: Circuit) -> Circuit:
    return _once_more(generator, circuit, "a", ())


def _unread(generator: torch.Generator, circuit: Circuit) -> Circuit:
    return _once_more(generator, circuit, "b", (Copy(TOKEN, "unread"),))


def _once_more(generator: torch.Generator, circuit: Circuit, decoy: str, copies: tuple[Copy, ...]) -> Circuit:
    layer, number = _pick(_sites(circuit), generator)
    more = replace(circuit.layers[layer][number], copies=copies)
    return replace(circuit, layers=_with_heads(circuit.layers, layer, more), decoy=decoy)


def _removed(generator: torch.Generator, circuit: Circuit) -> Circuit | None:
    """Not of heads in the last layer, after which nothing is taken off."""
    sites = [site for site in _asked_sites(circuit) if site[0] < len(circuit.layers) - 1]
    if not sites:
        return None
    layer, number = _pick(sites, generator)
    head = circuit.layers[layer][number]
    writer = replace(head, copies=(Copy(TOKEN, "extra", 0.3),), status={QUERY: "pattern-only"})
    remover = HeadSpec(
        (),
        frozenset({QUERY}),
        (Copy("extra", "extra", -1.0),),
        {QUERY: Role("self")},
        sources=frozenset({Slot.QUERY}),
        offset=0,
        status={QUERY: "opposing"},
    )
    layers = _with_heads(_with_heads(circuit.layers, layer, writer), len(circuit.layers) - 1, remover)
    return replace(circuit, layers=layers, readouts=_also_read(circuit, head, "extra", 2.0), decoy="c")


def _against(generator: torch.Generator, circuit: Circuit) -> Circuit | None:
    """In the last layer, where all that any head matches is known still."""
    sites = _asked_sites(circuit)
    if not sites:
        return None
    layer, number = _pick(sites, generator)
    head = circuit.layers[layer][number]
    writer = replace(head, copies=(Copy(TOKEN, "minus", 0.3),), status={QUERY: "opposing"})
    layers = _with_heads(circuit.layers, len(circuit.layers) - 1, writer)
    return replace(circuit, layers=layers, readouts=_also_read(circuit, head, "minus", -1.3), decoy="f")


def _asked_sites(circuit: Circuit) -> list[Site]:
    """Heads that look from the query at a hop that is asked."""
    return _sites(circuit, lambda head: _at_the_query(head) and head.roles[QUERY].hop in circuit.readouts)


def _also_read(circuit: Circuit, head: HeadSpec, register: str, weight: float) -> dict[int, dict[str, float]]:
    hop = head.roles[QUERY].hop
    assert hop is not None, "only heads that look at a hop"
    return {**circuit.readouts, hop: {**circuit.readouts[hop], register: weight}}


MORE: tuple[Change, ...] = (_in_halves, _by_symbol, _with_all_values, _with_the_last)
DECOYS: dict[Change, str] = {_no_output: "a", _unread: "b", _removed: "c", _against: "f"}
