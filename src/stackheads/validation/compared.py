"""Ways of labelling heads compared: how often is each right about what a head looks at, where that is known?

A case is a model of which it is known what every head looks at, at every destination, so that it matters: compiled circuits as
they are (`clean`), with noise and attention blurred as far as they still answer (`blurred`), circuits whose heads look at
several things (`gated and mixed`), `decoys`, those among these four whose program was drawn at random (`of these drawn`,
`drawn.py`; the labeller was made before, and what is in doubt of them is left open), trained models with known circuits
(`known trained`), those among them that were made again from further seeds and had no part in making the labeller (`of these
unseen`), those that were taught to look at first (`of these guided`, `guided.py`; neither had they), all of them without the
heads that carry a step and do not look at its source (`of these looking`), and `nulls`, heads of which none does anything. A
way is right about a head and a role if the head looks there and the way says so.

Circuits have two halves, and all that are built on one circuit are in one half. Ways that need a threshold get the one with the
best F1 on the other half, of all compiled circuits together, and of trained models by themselves, since of one kind it may be
bad for the other; so every case is scored by a threshold that was chosen on other circuits, nulls by that of compiled ones.
Reported is F1 over all looks, and its mean over the kinds that are there – hop, previous, value slots, distance … –, where what
is said of other kinds costs nothing; of nulls, the share of heads of which anything is said. Intervals: bootstrap over what
circuits are built on. Guises of a circuit are not independent, nor are a circuit and decoys made from it, which hold the same
heads once more. Of nulls the interval is Wilson's. Known models that one recipe made from several seeds are guises of one
circuit.

Where a head looks at the start alone so that it matters, no way is judged. Everywhere else `start` is as wrong as what else is
not there. The field's ways are asked without it and with it among the roles that they may name (`peers.py`).

Not judged are heads about which two answers can be defended: diffuse ones, and those of layouts that tell two roles apart
nowhere. A compiled head that matches symbols is built to look at one kind of slot as well, so that it may be said to.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.labelling.statistics import wilson
from stackheads.seeds import Stream, stream
from stackheads.types import Status
from stackheads.validation.drawn import is_drawn
from stackheads.validation.known import SEED, is_guided
from stackheads.validation.peers import ALWAYS, OURS, Said

BLURRED, KNOWN, NULLS = "blurred", "known trained", "nulls"
DRAWN = "of these drawn"
UNSEEN, TAUGHT, LOOKING = "of these unseen", "of these guided", "of these looking"
COLUMNS = ("clean", BLURRED, "gated and mixed", "decoys", DRAWN, KNOWN, UNSEEN, TAUGHT, LOOKING, NULLS)
DRAWS, CONFIDENCE = 2000, 0.95
LooksOf = Mapping[Any, Iterable[str]]
"""What heads look at, by (head, destination)."""
DIGITS = 3
"""Of the numbers between which thresholds are tried: which are tried, and so which is the best, hangs on no last bit."""


@dataclass(frozen=True)
class Result:
    """What is so and what is said in one case, by cell ("L0H1 @query"): `truth` holds the cells that are judged and what each
    looks at so that it matters, `allowed` what is right to say as well and no mistake to leave out; `said` for each way what it
    says, with its number; `statuses` those of the labels; `model` which one of the circuit's it is; `base` what the circuit is
    built on; `doubt` the cells that are left open since what is said of them by construction is not clearly so.
    """

    column: str
    circuit: str
    base: str
    half: int
    truth: Mapping[str, Sequence[str]]
    allowed: Mapping[str, Sequence[str]]
    said: Mapping[str, Mapping[str, Mapping[str, float]]]
    statuses: Mapping[str, Sequence[str]]
    model: str = ""
    doubt: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what needs no threshold has no number."""
        said = {
            way: {cell: {what: None if x == ALWAYS else x for what, x in of.items()} for cell, of in cells.items()}
            for way, cells in self.said.items()
        }
        return vars(self) | {"said": said}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Result":
        """Read what `to_dict` gave."""
        said: Any = {
            way: {cell: {what: ALWAYS if x is None else x for what, x in of.items()} for cell, of in cells.items()}
            for way, cells in stored["said"].items()
        }
        return cls(**{**stored, "said": said})


def result(
    column: str,
    circuit: str,
    half: int,
    truth: LooksOf,
    allowed: LooksOf,
    said: Said,
    model: str = "",
    base: str = "",
    doubt: Iterable[Any] = (),
) -> Result:
    """The result of a case, of cells that are judged; its circuit is built on itself unless `base` says on what."""
    named = {cell: f"{cell[0]} @{cell[1]}" for cell in truth}
    return Result(
        column,
        circuit,
        base or circuit,
        half,
        {named[cell]: sorted(looks) for cell, looks in truth.items()},
        {named[cell]: sorted(looks) for cell, looks in allowed.items() if truth.get(cell) and looks},
        {way: {named[cell]: of for cell, of in cells.items() if cell in truth} for way, cells in said.of.items()},
        {named[cell]: tuple(map(str, some)) for cell, some in said.statuses.items() if cell in truth},
        model,
        sorted(f"{cell[0]} @{cell[1]}" for cell in doubt),
    )


def thresholds(results: Sequence[Result], way: str) -> tuple[float, float]:
    """The threshold with which each half is scored: the one with the best F1 on the other half, halfway to the next number."""
    if way.startswith(OURS) or way.startswith("labels"):
        return 0.0, 0.0
    first, second = (_best([one for one in results if one.half != half and one.column != NULLS], way) for half in (0, 1))
    return first, second


def _best(results: Sequence[Result], way: str) -> float:
    claims = [(x, what in looks) for one in results for cell, looks in one.truth.items() for what, x in _claims(one, way, cell)]
    there = sum(len(looks) for one in results for looks in one.truth.values())
    numbers = sorted({round(x, DIGITS) for one in results for of in one.said[way].values() for x in of.values()})
    tried = [min(numbers, default=0.0) - 0.5 * 0.1**DIGITS, *((low + high) / 2 for low, high in pairwise(numbers))]
    claims.sort()
    above = [len(claims) - bisect_left(claims, (bar, False)) for bar in tried]
    right = [0, *accumulate(is_so for _, is_so in reversed(claims))]
    return max(zip(tried, above, strict=True), key=lambda pair: 2 * right[pair[1]] / max(1, pair[1] + there))[0]


def kind(what: str) -> str:
    """The kind of a look: hops, conditions and keys of any number are one."""
    return what.rstrip("-0123456789").rstrip()


def kinds(results: Iterable[Result]) -> list[str]:
    """All kinds of looks that are there, or that anybody says are."""
    there = {kind(what) for one in results for looks in one.truth.values() for what in looks}
    said = {kind(what) for one in results for cells in one.said.values() for of in cells.values() for what in of}
    return sorted(there | said)


def _counts(results: Sequence[Result], way: str, threshold: tuple[float, float]) -> Float[Tensor, "case kind 3"]:
    """For each case and kind of look: how many are right, said, and there."""
    every = {name: number for number, name in enumerate(kinds(results))}
    found = torch.zeros(len(results), len(every), 3, dtype=torch.double)
    for number, one in enumerate(results):
        for cell, looks in one.truth.items():
            said = _judged(one, way, cell, threshold[one.half])
            for at, some in enumerate((said & set(looks), said, looks)):
                for what in some:
                    found[number, every[kind(what)], at] += 1
    return found


def _judged(one: Result, way: str, cell: str, threshold: float) -> set[str]:
    """What a way says of a cell, without what may be said as well."""
    return {what for what, x in _claims(one, way, cell) if x >= threshold}


def _claims(one: Result, way: str, cell: str) -> list[tuple[str, float]]:
    """What a way may say of a cell that counts, with its number."""
    left_out = set(one.allowed.get(cell, ())) - set(one.truth[cell])
    return [(what, x) for what, x in one.said[way].get(cell, {}).items() if what not in left_out]


def _f1(counts: Float[Tensor, "*some 3"]) -> Float[Tensor, "*some"]:
    """2 right / (said + there); nan where nothing is either."""
    return 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def _macro(counts: Float[Tensor, "*some kind 3"]) -> Float[Tensor, "*some"]:
    """The mean F1 of the kinds that are there; nan where none is."""
    there = counts[..., 2] > 0
    return _f1(counts).where(there, 0.0).sum(dim=-1) / there.sum(dim=-1)


def scores(results: Sequence[Result], away: Collection[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """A row for every way and column: F1 and its mean over kinds with their intervals, precision and recall, both halves'
    thresholds, of ours the share of cells whose label is undecided; of nulls the share of heads of which anything is said.
    `away` are the models and cells of known trained models that do not look at their step's source.
    """
    rows, columns = [], {column: [one for one in results if one.column == column] for column in COLUMNS}
    columns[DRAWN] = [one for one in results if is_drawn(one.circuit)]
    columns[UNSEEN] = [one for one in columns[KNOWN] if SEED in one.model]
    columns[TAUGHT] = [one for one in columns[KNOWN] if is_guided(one.model)]
    columns[LOOKING] = [_but_for(one, away) for one in columns[KNOWN]] if away else []
    trained = [one for one in results if one.column == KNOWN]
    others = [one for one in results if one.column != KNOWN]
    for way in results[0].said:
        of_trained, of_others = thresholds(trained, way), thresholds(others, way)
        for column, mine in columns.items():
            if not mine:
                continue
            bars = of_trained if mine[0].column == KNOWN else of_others
            row = _of_nulls(mine, way, bars) if column == NULLS else _of_known(mine, way, bars)
            rows.append({"way": way, "column": column, "cases": len(mine), "first": bars[0], "second": bars[1], **row})
    return rows


def _but_for(one: Result, away: Collection[tuple[str, str]]) -> Result:
    """Some cells not judged."""
    truth = {cell: looks for cell, looks in one.truth.items() if (one.model, cell) not in away}
    return replace(one, truth=truth, statuses={cell: some for cell, some in one.statuses.items() if cell in truth})


def _of_known(every: Sequence[Result], way: str, bars: tuple[float, float]) -> dict[str, Any]:
    """Of cases in which something is judged: others are no units to draw."""
    results = [one for one in every if one.truth]
    counts = _counts(results, way, bars)
    total = counts.sum(dim=(0, 1))
    of_base = _by_base(results, counts)
    drawn = of_base[_draws(len(of_base))].sum(dim=1)  # [draw, kind, 3]
    (low, high), (macro_low, macro_high) = _interval(_f1(drawn.sum(dim=1))), _interval(_macro(drawn))
    cells = [statuses for one in results for statuses in one.statuses.values()]
    undecided = sum(Status.UNDECIDED in statuses for statuses in cells) / max(1, len(cells))
    return {
        "score": float(_f1(total)),
        "low": low,
        "high": high,
        "macro": float(_macro(counts.sum(dim=0))),
        "macro_low": macro_low,
        "macro_high": macro_high,
        "precision": float(total[0] / total[1]) if total[1] else None,
        "recall": float(total[0] / total[2]),
        "undecided": undecided if way.startswith(OURS) else None,
        "cells": sum(len(one.truth) for one in results),
        "doubt": sum(len(one.doubt) for one in results),
    }


def _of_nulls(results: Sequence[Result], way: str, bars: tuple[float, float]) -> dict[str, Any]:
    """Heads of which something is said at any destination."""
    said = n = 0
    for one in results:
        named = {cell.split(" @")[0] for cell, of in one.said[way].items() if any(x >= bars[one.half] for x in of.values())}
        said, n = said + len(named), n + len({cell.split(" @")[0] for cell in one.truth})
    low, high = wilson(said, n, CONFIDENCE)
    return {"score": said / n, "low": low, "high": high, "cells": n}


def _by_base(results: Sequence[Result], counts: Float[Tensor, "case kind 3"]) -> Float[Tensor, "base kind 3"]:
    """The counts of all cases together whose circuits are built on the same: guises and decoys are no independent cases."""
    every = list(dict.fromkeys(one.base for one in results))
    at = torch.tensor([every.index(one.base) for one in results])
    return counts.new_zeros(len(every), *counts.shape[1:]).index_add(0, at, counts)


def _draws(n: int) -> Tensor:
    return torch.randint(n, (DRAWS, n), generator=stream(0, Stream.BOOTSTRAP, "compared"))


def _interval(drawn: Float[Tensor, "draw"]) -> tuple[float, float]:
    ends = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=drawn.dtype)
    low, high = drawn[~drawn.isnan()].quantile(ends).tolist()
    return low, high


def wrong(results: Iterable[Result], way: str = OURS) -> list[dict[str, Any]]:
    """Every cell about which a way that needs no threshold is wrong: what is so, what it says, its labels' statuses."""
    return [
        {
            "column": one.column,
            "circuit": one.circuit,
            "model": one.model,
            "cell": cell,
            "so": ", ".join(looks),
            "said": ", ".join(said),
            "statuses": ", ".join(one.statuses.get(cell, ())),
        }
        for one in results
        for cell, looks in one.truth.items()
        if (said := sorted(_judged(one, way, cell, 0.0))) != sorted(looks)
    ]
