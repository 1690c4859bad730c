"""Compiled circuits for tasks whose steps depend on more than the chain: on how many hops are asked, on conditions.

v  k hops on a string (`tasks/induction.py`). Every character knows the one before it. The place of hop 1 is the last one before
   which one's own character stood: found by that character, later places counting for more. Each layer follows the places one
   or two hops further, and in the last one a head for each number of hops looks where that many lead when so many are asked,
   and else at the first token. The query votes for "does not exist", half as much as an answer would. The head of hop 1 brings
   *where* it looks, and what stands there is nothing to it: no example can show that what it carries matters, so that its label
   is not decided.
w  conditional retrieval (`tasks/conditional.py`), two hops. What is said about a symbol knows its symbol; the query looks at
   the condition of each step, and then where both symbol and kind are right.
"""

from collections.abc import Callable
from types import MappingProxyType

from stackheads.programs.heads import POSITION, TOKEN, Copy, HeadSpec, Table, plain_readouts, register
from stackheads.tasks import Conditional, KHopInduction
from stackheads.types import Destination, Role, Slot
from stackheads.validation.specimens import Circuit

QUERY, VALUE, CONDITION = Destination.QUERY, Destination.VALUE, Destination.CONDITION
ANYWHERE = frozenset({Slot.VALUE, Slot.OTHER})
ASKED, ANSWER = "asked", "answer"
LATER, SAME = 0.25, 0.5
"""Of a match: what a place counts more than the one before it, and by how much the same character outweighs all places."""


def k_hops() -> Circuit:
    """v"""
    task = KHopInduction(max_hops=3, symbols=4, context=16, supervision="final")
    before = HeadSpec((), frozenset({VALUE}), (Copy(TOKEN, "before"),), {VALUE: Role("previous")}, offset=-1)
    layers = (
        (before, _reading_what_is_asked(task), _voting(task)),
        (_last_time(task),),
        (_following(1, "place 1", "place 2"),),
        (_following(2, "place 2", "place 3"),),
        tuple(_answering(hop, task) for hop in range(1, task.max_hops + 1)),
    )
    return Circuit(layers, task, {1: {ANSWER: 1.0}})


def _reading_what_is_asked(task: KHopInduction) -> HeadSpec:
    first: Table = {(task.n_ctx - 1, 0): 1.0}
    copies, known = (Copy(TOKEN, ASKED),), {QUERY: Role("start")}
    return HeadSpec(((POSITION, POSITION),), frozenset({QUERY}), copies, known, frozenset({Slot.OTHER}), tables=(first,))


def _voting(task: KHopInduction) -> HeadSpec:
    """The query's own character, whichever it is, for "does not exist": what all examples have, nothing depends on."""
    gone: Table = {(character, task.does_not_exist): 0.5 for character in _characters(task)}
    copies, known = (Copy(TOKEN, ANSWER, table=gone),), {QUERY: Role("self")}
    return HeadSpec((), frozenset({QUERY}), copies, known, frozenset(Slot), offset=0, status={QUERY: "pattern-only"})


def _last_time(task: KHopInduction) -> HeadSpec:
    """Hop 1; the first token, which stands for "nowhere", where there is no such place."""
    n = task.n_ctx
    same: Table = {(character, character): LATER * n + 2 * SAME for character in _characters(task)}
    later: Table = {(row, place): LATER * place for row in range(n) for place in range(1, n)}
    nowhere: Table = {(row, 0): LATER * n + SAME for row in range(n)}
    both = frozenset({QUERY, VALUE})
    return HeadSpec(
        ((TOKEN, "before"), (POSITION, POSITION)),
        both,
        (Copy(POSITION, "place 1"),),
        {},
        sources=ANYWHERE,
        tables=(same, {**later, **nowhere}),
        status=dict.fromkeys(both, "undecided"),
        jobs=dict.fromkeys(both, ((Role("hop", 1), None),)),
    )


def _following(hop: int, at: str, further: str) -> HeadSpec:
    """From the query at a place that it knows, for the place one hop further."""
    return HeadSpec(((at, POSITION),), frozenset({QUERY}), (Copy("place 1", further),), {QUERY: Role("hop", hop)}, ANYWHERE)


def _answering(hop: int, task: KHopInduction) -> HeadSpec:
    """The character there, when so many hops are asked."""
    characters: Table = {(character, character): 1.0 for character in _characters(task)}
    return HeadSpec(
        ((f"place {hop}", POSITION),),
        frozenset({QUERY}),
        (Copy(TOKEN, ANSWER, table=characters),),
        {QUERY: Role("hop", hop)},
        sources=ANYWHERE,
        when=(ASKED, frozenset({hop})),
    )


def _characters(task: KHopInduction) -> range:
    return range(task.max_hops + 1, task.max_hops + 1 + task.symbols)


def conditional() -> Circuit:
    """w"""
    task = Conditional(symbols=6, max_hops=2, supervision="chain")
    steps = [layer for hop in (1, 2) for layer in ((_deciding(hop),), (_stepping(hop, task),))]
    return Circuit(((_about(task),), *steps), task, plain_readouts(task))


def _about(task: Conditional) -> HeadSpec:
    """Conditions and values at the key of their record, one to `kinds` + 1 before them."""
    record = 2 + task.kinds
    keys: Table = {(place, place - place % record): 1.0 for place in range(task.n_ctx - 1) if place % record}
    return HeadSpec(
        ((POSITION, POSITION),),
        frozenset({CONDITION, VALUE}),
        (Copy(TOKEN, "about"),),
        {CONDITION: Role("previous")},
        sources=frozenset({Slot.KEY}),
        tables=(keys,),
        status={VALUE: "causal-unclassified"},
        jobs={VALUE: ((Slot.KEY, None), ("distance", None))},
    )


def _deciding(hop: int) -> HeadSpec:
    """From the query at the condition of a step."""
    copies, known = (Copy(TOKEN, f"kind {hop}"),), {QUERY: Role("condition", hop)}
    return HeadSpec(((_from(hop), "about"),), frozenset({QUERY}), copies, known, frozenset({Slot.CONDITION}))


def _stepping(hop: int, task: Conditional) -> HeadSpec:
    """From the query where both are right: whom it is about, and the place in its record, which is that of the kind."""
    record = 2 + task.kinds
    places: Table = {
        (task.symbols + kind, start + 2 + kind): 1.0 for kind in range(task.kinds) for start in range(0, task.n_ctx - 1, record)
    }
    matches = ((_from(hop), "about"), (f"kind {hop}", POSITION))
    copies, known = (Copy(TOKEN, register(hop)),), {QUERY: Role("hop", hop)}
    return HeadSpec(matches, frozenset({QUERY}), copies, known, tables=(None, places))


def _from(hop: int) -> str:
    return register(hop - 1)


OTHER_TASKS: MappingProxyType[str, Callable[[], Circuit]] = MappingProxyType(
    {"v: k hops": k_hops, "w: conditional": conditional}
)
