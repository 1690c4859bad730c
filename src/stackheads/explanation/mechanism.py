"""How the heads work together: the mechanism by which depth buys hops, from what heads do and the growth of reach.

The windows of a program say how far the query can follow the chain after each layer. Where the query walks and value slots
learn nothing the mechanism is `one hop per layer`; where value slots look ahead themselves, `doubling`; where their windows
grow both ways, by hops and by negative hops at value slots that later layers can read, `tripling`. Of tasks with `keys` the
same is said of key slots that look at keys: that a key looks at its own value is no look ahead. A model that answers while what
is known of its heads does not reach the deepest hop it answers is `other`, and so is one whose steps need conditions,
which programs do not have; one without hop heads `none`.

What heads do comes from either of two sources. By *labels* (`name_mechanism`) confirmed heads are the steps, and a step must
find its source by what earlier steps make known. By *selectors* (`name_carried`), which say where heads look to carry the
answer, a step finds its source however it does; they name a mechanism if its roles alone keep half of the weakest answer or
more. What only lets later heads find their source carries no answer: whether windows grow backward too is then asked of all
steps of the program, which confirmed heads are among. Where only a far hop is asked, the ones before it are not brought, and no
program finds it, the mechanism is `other`.

Reach (`explanation/reach.py`) is the check from outside, by probes. Following links, a position that knows all within radius r
knows all within 3r + 1 a layer later, or along the chain 2r + 1 where attention is causal, and hop j lies at radius 2j
(`theory/bounds.py`). If the query holds a hop that no model can have followed to by then, it was answered some other way: the
mechanism is `shortcut`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import pandas as pd

from stackheads.explanation.carried import Carried
from stackheads.explanation.program import NO_WORDS, Extracted, answerable, eliminated, has_words
from stackheads.labelling.thresholds import Thresholds
from stackheads.programs.program import START, WALKED, Program, Step, possible_part, would_find
from stackheads.tasks import KeyedTask, StatementTask, Task
from stackheads.theory import radius
from stackheads.types import Destination, Role


@dataclass(frozen=True)
class Mechanism:
    """A name and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Lack:
    """A step that would find its source if one of some offsets were known where it is, or where its source is."""

    step: Step
    ways: tuple[tuple[Destination, int], ...]

    @property
    def what(self) -> str:
        """The offsets and where: "hop 1 at the query"."""
        places = {place: "the query" if place is Destination.QUERY else f"{place} slots" for place, _ in self.ways}
        return " or ".join(f"hop {offset} at {places[place]}" for place, offset in self.ways)

    def __str__(self) -> str:
        return f"{self.what} ({self.step} in layer {self.step.layer})"


def name_mechanism(extracted: Extracted | None, task: StatementTask, reach: pd.DataFrame) -> Mechanism:
    """The mechanism of a model by its confirmed heads; `reach` as `explanation.reach.reach` gives it."""
    read = _read_at_query(reach, task)
    probes = f"probes read {_listed(read)} at the query after each layer"
    if too_far := _too_far(read, task):
        return Mechanism("shortcut", f"{probes}, but {too_far}")
    hint = _over_keys(reach, task)
    if extracted is None or not any(map(_follows, extracted.steps)):
        return Mechanism("none", f"no head is confirmed in a hop; {probes}{hint}")
    if extracted.listed:
        return Mechanism("other", f"{NO_WORDS}; {probes}")
    if not any(map(_follows, extracted.program.steps)):
        at_times = all(step.gate is not None for step in extracted.dropped if _follows(step))
        why = "they do so at times only" if at_times else "nothing confirmed lets them find their source"
        return Mechanism("other", f"heads are confirmed in hops, but {why}; {probes}{_lacked(extracted, task, reach)}{hint}")
    answered = [_read(answerable(windows[Destination.QUERY], task), task) for windows in extracted.windows]
    if missing := [hop for hop in task.readout_hops if hop not in answered[-1]]:
        there = [hop for hop in task.readout_hops if hop not in missing]
        brought = (
            f"confirmed heads bring the query hops {_listed(there)}" if there else "confirmed heads bring the query no hop"
        )
        unexplained = f"{brought}: the labels do not explain {_listed(missing)}; {probes}"
        return Mechanism("other", f"{unexplained}{_lacked(extracted, task, reach)}{hint}")
    last = eliminated(extracted.windows[-1][Destination.QUERY], task)
    by_elimination = frozenset() if last is None else frozenset({last}) & answered[-1]
    return _named(extracted.program.steps, answered, by_elimination, task.readout_hops, ("confirmed heads", probes))


def name_carried(
    found: Carried,
    task: Task,
    reach: pd.DataFrame | None,
    program: Sequence[Step] = (),
    thresholds: Thresholds | None = None,
) -> Mechanism:
    """The mechanism of a model by the selectors that carry its answers; `program` has the steps that find their source."""
    kept = f"where heads look to carry the answer keeps {found.kept:.2f} of the weakest hop"
    alone = f"roles alone {found.roles:.2f}"
    others = f"; the rest takes {', '.join(found.others)}" if found.others else ""
    others += f"; what is left out is brought by looks ({', '.join(found.away)})" if found.away else ""
    tail = f"{kept}, {alone}{others}"
    if isinstance(task, StatementTask) and reach is not None and (far := _too_far(_read_at_query(reach, task), task)):
        return Mechanism("shortcut", f"probes at the query read more hops than can be followed: {far}")
    if isinstance(task, StatementTask) and not has_words(task):
        return Mechanism("other", f"{NO_WORDS}; {tail}")
    if not any(map(_follows, found.steps)):
        return Mechanism("none", f"no head looks at a hop to carry the answer; {tail}")
    least = (thresholds or Thresholds()).min_by_roles
    if any(share < least for share in found.by_roles.values()):
        return Mechanism("other", f"{_unnamed(found, least)}; {tail}")
    if missing := [hop for hop in found.hops if hop not in found.answered[-1]]:
        unheld = f" without {', '.join(found.unheld)}, which a channel denies" if found.unheld else ""
        return Mechanism("other", f"roles bring no hop {_listed(missing)}{unheld}; {tail}")
    skipped = [hop for hop in range(1, max(found.hops)) if hop not in found.answered[-1]]
    if skipped and not (isinstance(task, StatementTask) and _finds(program, found.hops, task)):
        without = f"hop {_listed(list(found.hops))} without hop {_listed(skipped)}"
        return Mechanism("other", f"roles bring {without}, and do not say what its source is found by; {tail}")
    backward = [step for place in WALKED.values() for step in _ahead(program, place) if _back(step)]
    return _named([*found.steps, *backward], found.answered, found.eliminated, found.hops, ("selectors", tail), found.at)


def _finds(program: Sequence[Step], hops: Iterable[int], task: StatementTask) -> bool:
    """Whether steps bring the query these hops, each finding its source by what earlier ones make known."""
    _, _, windows = possible_part(Program(tuple(program)), task.same_offset)
    return bool(windows) and set(hops) <= _read(answerable(windows[-1][Destination.QUERY], task), task)


def _named(
    steps: Sequence[Step],
    answered: Sequence[frozenset[int]],
    eliminated: frozenset[int],
    asked: Sequence[int],
    words: tuple[str, str],
    at: Destination = Destination.QUERY,
) -> Mechanism:
    """The mechanism of steps that reach every hop asked, by how what can be answered grows; `words`: who they are and more."""
    who, tail = words
    every = range(1, max(asked) + 1)  # on the way to a far hop each counts, whatever is asked, but for those that are passed by
    reached = [_in_a_row(hops, every if answered[-1].issuperset(every) else asked) for hops in answered]
    place = "the query" if at is Destination.QUERY else f"{at} slots"
    depth = f"{who} let {place} follow {_listed(reached)} hops after layers 0 to {len(reached) - 1}"
    if eliminated:
        depth += f", hop {_listed(sorted(eliminated))} since all others are known"
    ahead = {place: _ahead(steps, place) for place in WALKED.values()}
    for place, its in ahead.items():
        back = next(filter(_back, its), None)
        if back is not None and not all(map(_back, its)):
            return Mechanism("tripling", f"{depth}, with windows that also grow backward ({back.role} @{place}); {tail}")
    growth = max(after - before for before, after in zip([0, *reached], reached, strict=False))
    if growth <= 1 or not any(ahead.values()):
        return Mechanism("one hop per layer", f"{depth}; {tail}")
    looking = [f"{place} slots that look {'back' if any(map(_back, its)) else 'ahead'}" for place, its in ahead.items() if its]
    return Mechanism("doubling", f"{depth}, with {' and '.join(looking)}; {tail}")


def _unnamed(found: Carried, least: float) -> str:
    """Of which hops roles alone keep too little, as other looks carry them or no selectors do, and what they keep of others."""
    parts: dict[str, list[int]] = {}
    for hop, share in found.by_roles.items():
        named, carried = share >= least, found.by_all[hop] >= least
        parts.setdefault("roles" if named else "others" if carried else "none", []).append(hop)
    words = {"others": "most of hop {} is carried by looks that follow no role", "none": "selectors keep little of hop {}"}
    said = [text.format(_listed(parts[kind])) for kind, text in words.items() if kind in parts]
    if kept := parts.get("roles"):
        weakest = min(found.by_roles[hop] for hop in kept)
        said.append(f"roles alone keep {weakest:.2f} or more of hop {_listed(kept)}")
    return "; ".join(said)


def _too_far(read: Sequence[int], task: StatementTask) -> str | None:
    """Which hop is read where no model can have followed it to; None if none is."""
    for layer, hop in enumerate(read):
        if hop > (most := furthest(layer + 1, task)):
            return f"following links reaches hop {most} at most after layer {layer}"
    return None


def furthest(layers: int, task: StatementTask) -> int:
    """How many hops in a row following links can bring to the query in so many layers.

    On a cycle a hop may be known the other way round, or because all others are. Backward the wider bound is taken even where
    attention is causal: there it depends on the order of statements how far a query can look back.
    """
    ahead, back = (radius(layers, direction) // 2 for direction in (task.attention_dir, "bidirectional"))
    most = task.n_statements  # more hops there are not
    known = frozenset(map(task.same_offset, range(-min(back, most), min(ahead, most) + 1)))
    return _in_a_row(_read(answerable(known, task), task))


def _read_at_query(reach: pd.DataFrame, task: StatementTask) -> list[int]:
    """How many hops in a row, from 1, probes read at the query after each layer."""
    rows = reach[(reach["destination"] == "query") & (reach["layer"] >= 0)]
    return [_in_a_row(_read(hops, task)) for hops in rows["hops"]]


def lacking(extracted: Extracted, task: StatementTask, reach: pd.DataFrame) -> tuple[Lack, ...]:
    """Which steps that nothing confirmed lets find their source would find it by what probes read there before.

    Layer by layer: what an earlier step lacks is taken as known, with all that this lets others bring. Steps that hold at times
    only are not asked.
    """
    steps = [step for step in extracted.steps if step.gate is None]
    given: dict[int, dict[Destination, set[int]]] = {}
    lacks = []
    for step in sorted(filter(_follows, steps), key=lambda step: step.layer):
        _, dropped, windows = possible_part(Program(tuple(steps)), task.same_offset, given)
        if step not in dropped:
            continue
        before = START if step.layer == 0 else windows[step.layer - 1]
        heard = reach[reach["layer"] == step.layer - 1]
        read = {place: set[int]().union(*heard.loc[heard["destination"] == place, "hops"]) for place in before}
        ways = tuple(
            (place, offset) for place, offset in sorted(would_find(step, before, task.same_offset)) if offset in read[place]
        )
        for place, offset in ways:
            given.setdefault(step.layer, {}).setdefault(place, set()).add(offset)
        lacks += [Lack(step, ways)] if ways else []
    return tuple(lacks)


def _lacked(extracted: Extracted, task: StatementTask, reach: pd.DataFrame) -> str:
    """What steps lack, in words; nothing where they lack nothing that probes read."""
    found = lacking(extracted, task, reach)
    return (
        f"; what they read, no step brings, and heads could find their source by: {'; '.join(map(str, found))}" if found else ""
    )


def _over_keys(reach: pd.DataFrame, task: StatementTask) -> str:
    """That a model may walk over keys, where these are no sources: hops are read at key slots, and none at value slots."""
    if not isinstance(task, KeyedTask) or task.keys or task.attention_dir == "causal":
        return ""
    heard = reach[reach["layer"].between(0, reach["layer"].max() - 1)]  # after the last layer no head looks there
    of = {place: heard.loc[heard["destination"] == place, "hops"] for place in ("value", "key")}
    at_values, at_keys = (set[int]().union(*hops) - {0} for hops in of.values())
    if at_values or not (there := sorted(at_keys)):
        return ""
    return f"; they read {_listed(there)} at key slots and none at value slots: with keys as sources labels may say more"


def _read(hops: Iterable[int], task: StatementTask) -> frozenset[int]:
    """The hops asked that are among these offsets."""
    offsets = set(hops)
    return frozenset(hop for hop in range(1, max(task.readout_hops) + 1) if task.same_offset(hop) in offsets)


def _follows(step: Step) -> bool:
    return step.role.name in WALKED and step.role.hop != 0


def _ahead(steps: Sequence[Step], place: Destination) -> list[Step]:
    """The links that slots of a kind follow before the last layer; that a key looks at its own value is none."""
    last = max((step.layer for step in steps), default=0)
    own = Role("hop", 1) if place is Destination.KEY else None
    return [step for step in steps if _follows(step) and place in step.destinations and step.layer < last and step.role != own]


def _back(step: Step) -> bool:
    return (step.role.hop or 0) < 0


def _listed(hops: list[int]) -> str:
    return ", ".join(map(str, hops))


def _in_a_row(hops: frozenset[int], asked: Iterable[int] | None = None) -> int:
    """Up to which hop all are there, or all that are asked."""
    reached = 0
    for hop in sorted(asked) if asked is not None else count(1):
        if hop not in hops:
            break
        reached = hop
    return reached
