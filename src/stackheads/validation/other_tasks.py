"""Compiled circuits for tasks whose steps depend on more than the chain: on how many hops are asked, on conditions.

v  k hops on a string (`tasks/induction.py`). Every character knows the one before it. The place of hop 1 is the last one before
   which one's own character stood: found by that character, later places counting for more. Each layer follows the places one
   or two hops further, and in the last one a head for each number of hops looks where that many lead when so many are asked,
   and else at the first token. The query votes for "does not exist", half as much as an answer would. The head of hop 1 brings
   *where* it looks, and what stands there is nothing to it: no counterfactual changes what it carries, another example does.
w  conditional retrieval (`tasks/conditional.py`), two hops. What is said about a symbol knows its symbol; the query looks at
   the condition of each step, and then where both symbol and kind are right.
x  as v, but the heads of each number of hops bring a place, and one more head looks there: at hop 1 when one is asked, hop
   2 when two are, hop 3 when three are.
"""

from collections.abc import Callable
from types import MappingProxyType

from stackheads.programs.heads import POSITION, TOKEN, Copy, HeadSpec, Layers, Table, plain_readouts, register
from stackheads.tasks import Conditional, KHopInduction
from stackheads.types import Destination, Gate, Role, Slot
from stackheads.validation.specimens import Circuit

QUERY, VALUE, CONDITION = Destination.QUERY, Destination.VALUE, Destination.CONDITION
ANYWHERE = frozenset({Slot.VALUE, Slot.OTHER})
ASKED, ANSWER = "asked", "answer"
LATER, SAME = 0.25, 0.5
"""Of a match: what a place counts more than the one before it, and by how much the same character outweighs all places."""


def k_hops() -> Circuit:
    """v"""
    task = _strings()
    answering = tuple(_when_asked(hop, Copy(TOKEN, ANSWER, table=_same(_characters(task)))) for hop in _hops(task))
    return Circuit((*_places_known(task), answering), task, {1: {ANSWER: 1.0}}, base="places known")


def hop_by_asked() -> Circuit:
    """x: the first place is no goal, so that heads that look there because they have nothing to do name none."""
    task = _strings()
    places = Copy(POSITION, "goal", table=_same(range(1, task.n_ctx)))
    choosing = tuple(_when_asked(hop, places) for hop in _hops(task))
    layers = (*_places_known(task), choosing, (_at_the_goal(task),))
    return Circuit(layers, task, {1: {ANSWER: 1.0}}, base="places known")


def _strings() -> KHopInduction:
    return KHopInduction(max_hops=3, symbols=4, context=16, supervision="final")


def _places_known(task: KHopInduction) -> Layers:
    """The query comes to know how many hops are asked, and the places of hops 1 to 3."""
    before = HeadSpec((), frozenset({VALUE}), (Copy(TOKEN, "before"),), {VALUE: Role("previous")}, offset=-1)
    return (
        (before, _reading_what_is_asked(task), _voting(task)),
        (_last_time(task),),
        (_following(1, "place 1", "place 2"),),
        (_following(2, "place 2", "place 3"),),
    )


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
        dict.fromkeys(both, Role("hop", 1)),
        sources=ANYWHERE,
        tables=(same, {**later, **nowhere}),
        jobs=dict.fromkeys(both, ((Role("hop", 1), None),)),
    )


def _following(hop: int, at: str, further: str) -> HeadSpec:
    """From the query at a place that it knows, for the place one hop further."""
    return HeadSpec(((at, POSITION),), frozenset({QUERY}), (Copy("place 1", further),), {QUERY: Role("hop", hop)}, ANYWHERE)


def _when_asked(hop: int, copy: Copy) -> HeadSpec:
    """At the place of a hop, when so many hops are asked."""
    return HeadSpec(
        ((f"place {hop}", POSITION),),
        frozenset({QUERY}),
        (copy,),
        {QUERY: Role("hop", hop)},
        sources=ANYWHERE,
        when=(ASKED, frozenset({hop})),
        jobs={QUERY: ((Role("hop", hop), Gate(ASKED, (hop,))),)},
    )


def _at_the_goal(task: KHopInduction) -> HeadSpec:
    """The character at the place that is the goal; at the first token, which is none, where there is no goal."""
    else_first: Table = {(task.n_ctx - 1, 0): 0.5}
    return HeadSpec(
        (("goal", POSITION), (POSITION, POSITION)),
        frozenset({QUERY}),
        (Copy(TOKEN, ANSWER, table=_same(_characters(task))),),
        {QUERY: Role("hop", 1)},
        sources=ANYWHERE,
        tables=(None, else_first),
        jobs={QUERY: tuple((Role("hop", hop), Gate(ASKED, (hop,))) for hop in _hops(task))},
    )


def _same(numbers: range) -> Table:
    return {(number, number): 1.0 for number in numbers}


def _hops(task: KHopInduction) -> range:
    return range(1, task.max_hops + 1)


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
    {"v: k hops": k_hops, "w: conditional": conditional, "x: hop by asked": hop_by_asked}
)
