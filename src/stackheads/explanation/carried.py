"""How the answer is carried: what the selectors of all heads do together, as steps and the windows that they give.

Selectors (`selected.py`) say where heads look to carry the answer, with all patterns given. So a step here finds its source
however it does; what it brings is what the source knows (`programs/program.py`). A head that looks *away* from a source is a
step, too: where all symbols are seen, what all sources but one bring is what that one lacks. So a head that looks at all
sources of a kind but some brings what it leaves out, and not each of the others (`away.py`).

A selector under a gate is a step at the values at which it acts. Steps of several heads that together hold at all values are
one. What a whole example knows, the hops asked for, decides which steps act in it; a step at some other values only, a few
symbols, brings nothing. A step counts if the answer needs it: if what is lost without it, of the readout that shows it best,
summed over the heads of its layer that share it, is enough (`Thresholds.min_step`; no answer loses more than this sum); and if
the head has it: selectors fitted to the answer may say where a head does not look, or where what it reads does not matter
(`judging.py`), and such say nothing of how the model works.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from stackheads.explanation.away import Away, is_about
from stackheads.explanation.judging import IDLE, UNHELD
from stackheads.explanation.program import answerable, carried_names, in_order, shared
from stackheads.labelling.thresholds import Thresholds
from stackheads.programs.program import Program, Step, followed
from stackheads.tables import records
from stackheads.tasks import Batch, StatementTask, Task, gates
from stackheads.tasks.base import named_hop
from stackheads.tasks.layout import real
from stackheads.types import Destination, Gate, Role, parse_ranges

OTHERS = {"slot": "slots", "position": "tables of places", "content": "tables of symbols"}
"""The kinds of selectors that are no roles, in words."""


@dataclass(frozen=True)
class Carried:
    """What selectors carry to `at`, the destination whose answers are meant, where the model answers `hops`.

    `answered` are, after each layer, the hops that the steps' windows can answer when they are asked for, `eliminated` those
    of the last layer that they answer because all others are known. Of each hop `by_all` is what all selectors keep, `by_roles`
    what roles alone keep; `others` are the selectors that are no roles and do something, `unheld` those by which the answer can
    be given and that are no head's, `away` the heads that bring what they do not look at.
    """

    steps: tuple[Step, ...]
    answered: tuple[frozenset[int], ...]
    eliminated: frozenset[int]
    at: Destination
    hops: tuple[int, ...]
    by_all: Mapping[int, float]
    by_roles: Mapping[int, float]
    others: tuple[str, ...]
    unheld: tuple[str, ...] = ()
    away: tuple[str, ...] = ()

    @property
    def kept(self) -> float:
        """What all selectors keep of the weakest answer."""
        return min(self.by_all.values())

    @property
    def roles(self) -> float:
        """What roles alone keep of the weakest answer."""
        return min(self.by_roles.values())


def carried(
    table: pd.DataFrame,
    curve: pd.DataFrame,
    task: Task,
    batch: Batch,
    layers: int,
    thresholds: Thresholds | None = None,
    away: Sequence[Away] = (),
) -> Carried:
    """What a model's selectors do together; `table` and `curve` as in `Explained`, `batch` any examples of the task, `away` the
    heads that look at all sources of a kind but some.
    """
    rows, least = records(table), (thresholds or Thresholds()).min_step
    held = list(filter(_is_held, rows))
    names = carried_names(task)
    whole = [[row for row in rows if _is_part(row, one)] for one in away]
    apart = {id(row) for some in whole for row in some}
    looks = [(step, _lost(row)) for row in held if id(row) not in apart and (step := _step(row, names)) is not None]
    looks += [(step, _lost_of_all(some)) for one, some in zip(away, whole, strict=True) for step in one.steps]
    steps = in_order(shared(_needed(looks, least), gate_values(batch)))
    levels, places = list(dict.fromkeys(curve["level"])), list(curve["destination"])
    at = Destination.QUERY if "query" in places else Destination(places[0])
    there = [row for row in records(curve) if row["destination"] == at]
    of_level = {level: {int(row["hop"]): row["recovered"] for row in there if row["level"] == level} for level in levels}
    hops = tuple(sorted(of_level[levels[-1]]))
    known = {  # of each hop, for each kind of example that asks it: the window after each layer
        hop: [_windows(steps, at, knows, task, layers) for knows in _known_where(batch, hop)] for hop in range(1, max(hops) + 1)
    }
    answered = [
        frozenset(hop for hop, every in known.items() if all(_is_in(hop, _answerable(of[layer], task), task) for of in every))
        for layer in range(layers)
    ]
    return Carried(
        steps=steps,
        answered=tuple(answered),
        eliminated=frozenset(hop for hop in answered[-1] if not all(_is_in(hop, of[-1], task) for of in known[hop])),
        at=at,
        hops=hops,
        by_all=of_level[levels[-1]],
        by_roles=roles_alone(of_level),
        others=_others([row for row in rows if row.get("status") not in IDLE]),
        unheld=tuple(
            f"{row['what']} ({row['head']} @{row['destination']})"
            for row in rows
            if id(row) not in apart and _is_unheld(row, least, names)
        ),
        away=tuple(str(one) for one in away if set(one.steps) & set(steps)),
    )


def roles_alone(of_level: Mapping[str, Mapping[int, float]]) -> Mapping[int, float]:
    """What roles alone keep of each hop, with the weights that keep most of the weakest, from the levels of a curve in order.

    Roles are alone on the first level, and on those that differ from it in what weights are fitted to.
    """
    first = next(iter(of_level))
    return max(
        (shares for level, shares in of_level.items() if level.startswith(first)), key=lambda shares: min(shares.values())
    )


def gate_values(batch: Batch) -> dict[str, set[int]]:
    """The values that each gate has in these examples; pads know nothing, whatever number they hold."""
    return {name: set(values[real(batch)].unique().tolist()) for name, values in gates(batch).items()}


def _windows(steps: Sequence[Step], at: Destination, knows: Mapping[str, int], task: Task, layers: int) -> list[frozenset[int]]:
    """What is known at the destination after each layer, by the steps that act where this is known."""
    acting = tuple(step for step in steps if step.gate is None or knows.get(step.gate.name) in step.gate.values)
    if isinstance(task, StatementTask):
        after = followed(Program(acting), task.same_offset)
    else:  # what stands before or looks the same is no step along the chain
        after = followed(Program(tuple(step for step in acting if step.role.name == "hop")))
    windows = [window[at] for window in after] or [frozenset({0})]
    return windows + [windows[-1]] * (layers - len(windows))


def _answerable(window: frozenset[int], task: Task) -> frozenset[int]:
    return answerable(window, task) if isinstance(task, StatementTask) else window


def _is_in(hop: int, offsets: frozenset[int], task: Task) -> bool:
    return named_hop(task, hop) in offsets


def _known_where(batch: Batch, hop: int) -> list[dict[str, int]]:
    """What is known in a whole example but for its pads, as a value for each such gate, wherever a hop is asked; once where
    nothing is.
    """
    there = real(batch)
    some = there.to(torch.uint8).argmax(dim=1, keepdim=True)
    own = {name: (values, values.gather(1, some)) for name, values in gates(batch).items()}
    whole = {name: known[:, 0] for name, (values, known) in own.items() if bool(((values == known) | ~there).all())}
    asked = (batch.target_hop == hop).flatten(1).any(dim=1)
    seen = {tuple(int(values[example]) for values in whole.values()) for example in asked.nonzero().flatten().tolist()}
    return [dict(zip(whole, values, strict=True)) for values in sorted(seen)] or [{}]


def _is_held(row: Mapping[str, Any]) -> bool:
    return row.get("status") not in UNHELD


def _is_part(row: Mapping[str, Any], away: Away) -> bool:
    """Whether a selector is part of a look at all sources of a kind but some: it is about one of them, or all."""
    here = (row["head"], row["destination"]) == (str(away.head), str(away.at))
    return here and is_about(row["selector"], row["what"], away.kind, away.at)


def _lost(row: Mapping[str, Any]) -> float:
    """What is lost without a selector; that it disturbs is no loss."""
    return max(row["effect"] or 0.0, 0.0)


def _lost_of_all(rows: Sequence[Mapping[str, Any]]) -> float:
    """What is lost without a look that several selectors say together, of which each adds little beside the others: with one of
    them that is held, what is lost without the head.
    """
    held = list(filter(_is_held, rows))
    return max(sum(map(_lost, held)), *((row.get("head_effect") or 0.0) for row in held), 0.0)


def _is_unheld(row: Mapping[str, Any], least: float, names: Collection[str]) -> bool:
    return not _is_held(row) and _lost(row) >= least and _step(row, names) is not None


def _needed(found: Sequence[tuple[Step, float]], least: float) -> list[Step]:
    """The steps without which a good part of some answer is lost, of steps and what is lost without each."""
    lost: dict[Step, float] = {}
    for step, effect in found:
        job = replace(step, gate=None)
        lost[job] = lost.get(job, 0.0) + effect
    return [step for step, _ in found if lost[replace(step, gate=None)] >= least]


def _step(row: Mapping[str, Any], names: Collection[str]) -> Step | None:
    """The step that a row of the selectors is, if it carries something, by the names of roles that do."""
    if row["selector"] != "role" or row["role"] not in names:
        return None
    gate = None if row["values"] is None else Gate(row["gate"], parse_ranges(row["values"]))
    return Step(row["layer"], Role(row["role"], row["hop"]), (Destination(row["destination"]),), gate)


def _others(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The selectors that are no roles: "tables of symbols (L0H0 @value, L0H1 @value)"."""
    cells: dict[str, dict[str, None]] = {kind: {} for kind in OTHERS}
    for row in rows:
        if row["selector"] in OTHERS and row["what"] != "uniform":
            cells[row["selector"]][f"{row['head']} @{row['destination']}"] = None
    return tuple(f"{OTHERS[kind]} ({', '.join(names)})" for kind, names in cells.items() if names)
