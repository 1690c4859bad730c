"""Circuits drawn at random, a family for each seed: programs that nobody wrote down.

A seed draws a task – a cycle looked at both ways, or chains stated in order, three to five hops – and then a program: value
slots learn their keys, and layer by layer one to three steps are drawn from all that can find a source that is there by what is
known, and bring something that is not (`programs/program.py`), until the query knows every hop that is asked. Steps of which
nothing depends are left in. Each step is a head of its own, and what several heads of a layer bring they share. Programs
*over keys* are of a cycle with `keys`: key slots learn their values, in every second one value slots their keys as well, and
steps are drawn from looks at keys and at values, from all of them.

The family of a program:

- itself;
- *in parts*: one of its heads is written as two halves, or one of the query's that matches its token as two, each for half of
  the symbols;
- two decoys of three: one of its heads once more that writes nothing (a), or where nobody reads (b), or, at the query where
  one looks at a hop that is asked, something that is read against the answer (f).

What is drawn follows from the seed and from what programs are, and from no model's behaviour. Small programs recur: what a
circuit is built on is its *live part*, all steps on which an answer depends, so that a program that differs from another in
what is idle is no further case; where that is a mechanism that was written (`programs/mechanisms.py`) it is built on that.
Of a cell that is in doubt in the model that is made of it (`upheld.py`) no way of labelling is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import torch

from stackheads.programs.heads import TOKEN, Copy, HeadSpec, Layers, Readouts, plain_readouts
from stackheads.programs.mechanisms import MECHANISMS
from stackheads.programs.program import Program, Step, lower, own_register, possible_part
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle, Retrieval, StatementTask
from stackheads.types import Destination, HeadId, Role, Status
from stackheads.validation.specimens import Circuit, Guise, halved, shared_by_symbol
from stackheads.validation.truth import existing, labels_by_construction

QUERY, VALUE, KEY = Destination.QUERY, Destination.VALUE, Destination.KEY
MAX_LAYERS, MAX_STEPS = 5, 3
HOPS = (3, 4, 5)
PREFIX = "drawn "
FAMILY = ("itself", "in parts", "a decoy", "another decoy")
GUISE_SEEDS = 100_000
"""Above those of other circuits' guises."""

_T = TypeVar("_T")
Site = tuple[int, int]
"""Layer and number of a head."""


def name_of(seed: int, member: str) -> str:
    """What a member of a family is called."""
    return f"{PREFIX}{seed} {member}"


def is_drawn(name: str) -> bool:
    """Whether a circuit of this name was drawn."""
    return name.startswith(PREFIX)


def guise_of(seed: int, member: str) -> Guise:
    """The guise of a member, with LayerNorm or without, as a coin falls."""
    normalized = _pick((True, False), stream(seed, Stream.DRAWN, "guise", member))
    number = GUISE_SEEDS + len(FAMILY) * seed + FAMILY.index(member)
    return Guise(seed=number, normalization="LN" if normalized else None)


@cache
def family(seed: int, over_keys: bool = False) -> dict[str, Circuit]:
    """All members, by name. Cost: seconds."""
    plain, of = None, ("over keys",) if over_keys else ()
    generator = stream(seed, Stream.DRAWN, "program", *of)
    while plain is None:
        plain = _plain(generator, over_keys)
    generator = stream(seed, Stream.DRAWN, "members", *of)
    parts = _pick((_in_halves, _by_symbol), generator)(plain, generator)
    decoys = [_no_output, _unread, *([_against] if _asked_sites(plain) else [])]
    one, another = torch.randperm(len(decoys), generator=generator)[:2].tolist()
    members = (plain, parts, decoys[one](plain, generator), decoys[another](plain, generator))
    return dict(zip(FAMILY, members, strict=True))


def live_part(layers: Layers, task: StatementTask, readouts: Readouts) -> str:
    """The steps of each layer on which an answer depends, as text."""
    steps: list[set[str]] = [set() for _ in layers]
    for (head, place), truth in labels_by_construction(layers, task, readouts).items():
        if truth.status == Status.CONFIRMED:
            steps[head.layer].add(f"{truth.role} @{place}")
    return "; ".join(", ".join(sorted(of_layer)) for of_layer in steps if of_layer)


@cache
def _written() -> dict[str, str]:
    """The live parts of the mechanisms that were written, with their names."""
    found = {}
    for name, mechanism in MECHANISMS.items():
        for hops in HOPS:
            task = Cycle(symbols=2 * hops + 2, max_hops=hops, supervision="chain")
            found[live_part(lower(mechanism(hops), task.same_offset), task, plain_readouts(task))] = name
    return found


def _pick(some: Sequence[_T], generator: torch.Generator) -> _T:
    return some[int(torch.randint(len(some), (), generator=generator))]


def _plain(generator: torch.Generator, over_keys: bool) -> Circuit | None:
    task = _task(generator, over_keys)
    program = _program(task, generator)
    if program is None:
        return None
    made = separately(program, task)
    part = live_part(made.layers, task, made.readouts)
    return replace(made, base=_written().get(part, part))


def separately(program: Program, task: StatementTask) -> Circuit:
    """A program whose query, value and key slots have registers of their own."""
    layers = lower(program, task.same_offset, separate=True)
    return Circuit(layers, task, {hop: {own_register(task.same_offset(hop), QUERY): 1.0} for hop in task.readout_hops})


def _task(generator: torch.Generator, over_keys: bool) -> StatementTask:
    """A cycle is so long that no hop that is asked is one backward as well."""
    hops = _pick(HOPS, generator)
    if over_keys or _pick((True, False), generator):
        symbols = 2 * hops + _pick((2, 3, 4), generator)
        return Cycle(symbols=symbols, max_hops=hops, supervision="chain", keys=over_keys)
    return Retrieval(chains=_pick((2, 3), generator), max_hops=hops, supervision="chain", attention_dir="causal")


def _program(task: StatementTask, generator: torch.Generator) -> Program | None:
    """None where five layers do not come to all hops, or a layer has nothing to add."""
    steps, there = _beginning(task, generator), existing(task)
    asked = {task.same_offset(hop) for hop in task.readout_hops}
    for layer in range(1, MAX_LAYERS):
        useful = _useful(task, there, steps, layer)
        if not useful:
            return None
        order = torch.randperm(len(useful), generator=generator).tolist()
        steps += [useful[number] for number in order[: _pick(range(1, MAX_STEPS + 1), generator)]]
        if asked <= possible_part(Program(tuple(steps)), task.same_offset)[2][-1][QUERY]:
            return Program(tuple(steps))
    return None


def _beginning(task: StatementTask, generator: torch.Generator) -> list[Step]:
    """What slots learn of their own statement."""
    values, keys = Step(0, Role("previous"), (VALUE,)), Step(0, Role("hop", 1), (KEY,))
    if not task.operands:
        return [values]
    return [keys, values] if _pick((True, False), generator) else [keys]


def _useful(task: StatementTask, there: set[tuple[Role, Destination]], steps: list[Step], layer: int) -> list[Step]:
    """The steps that find a source that is there, in this layer, and bring hops of the task that are not known yet."""
    here = possible_part(Program(tuple(steps)), task.same_offset)[2][-1]
    looks, found = [*(Role("hop", hop) for hop in task.hops if hop), *task.operands], []
    for place in (QUERY, VALUE, KEY) if task.operands else (QUERY, VALUE):
        for role in looks:
            step, hop = Step(layer, role, (place,)), role.hop or 0
            if (role, place) in there and (hop > 0 or task.attention_dir == "bidirectional"):
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


def _in_halves(circuit: Circuit, generator: torch.Generator) -> Circuit:
    layer, number = _pick(_sites(circuit), generator)
    return replace(circuit, layers=_with_heads(circuit.layers, layer, *halved(circuit.layers[layer][number]), without=number))


def _by_symbol(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """There is one: what the query learns first it finds by its token."""
    sites = _sites(circuit, lambda head: QUERY in head.rows and head.matches[0][0] == TOKEN)
    layer, number = _pick(sites, generator)
    shared = shared_by_symbol(circuit.layers[layer][number], circuit.task.d_vocab)
    return replace(circuit, layers=_with_heads(circuit.layers, layer, *shared, without=number))


def _no_output(circuit: Circuit, generator: torch.Generator) -> Circuit:
    return _once_more(circuit, generator, "a", ())


def _unread(circuit: Circuit, generator: torch.Generator) -> Circuit:
    return _once_more(circuit, generator, "b", (Copy(TOKEN, "unread"),))


def _once_more(circuit: Circuit, generator: torch.Generator, decoy: str, copies: tuple[Copy, ...]) -> Circuit:
    layer, number = _pick(_sites(circuit), generator)
    more = replace(circuit.layers[layer][number], copies=copies)
    return replace(circuit, layers=_with_heads(circuit.layers, layer, more), decoy=decoy)


def _against(circuit: Circuit, generator: torch.Generator) -> Circuit:
    """In the last layer, where all that any head matches is known still."""
    layer, number = _pick(_asked_sites(circuit), generator)
    head = circuit.layers[layer][number]
    hop = head.roles[QUERY].hop
    assert hop is not None, "only heads that look at a hop"
    writer = replace(head, copies=(Copy(TOKEN, "minus", 0.3),), status={QUERY: "opposing"})
    readouts = {**circuit.readouts, hop: {**circuit.readouts[hop], "minus": -1.3}}
    return replace(circuit, layers=_with_heads(circuit.layers, len(circuit.layers) - 1, writer), readouts=readouts, decoy="f")


def _asked_sites(circuit: Circuit) -> list[Site]:
    """Heads that look from the query at a hop that is asked."""
    return _sites(circuit, lambda head: QUERY in head.rows and head.roles[QUERY].hop in circuit.readouts)
