"""What of a head's selectors goes again: what later kinds have made superfluous, and what the others can stand for.

By other examples than the weights are fitted on, in nats of cross-entropy at the rows where a selector names something: what is
told hardly worse without it, by less than `min_gain`, is not needed. A tie goes to the earlier kind: what told most of what it
and later kinds tell keeps its word, and its weight, if those tell the rest as well beside it. At a destination of one position
a table of places can say all that `previous` says, and more, and anywhere all that a slot says: then it says the rest. Cost: no
forward pass.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.explanation.attention_fit import fitted_to_attention
from stackheads.explanation.examples import Looks
from stackheads.explanation.judging import rank
from stackheads.explanation.sums import Part, Sum, cross_entropy, left
from stackheads.labelling.selectors import Rows, Selector
from stackheads.types import Destination

MOSTLY = 0.5
"""Of what is told by a selector and by later kinds together: what told as much of it keeps its word."""

Own = tuple[Destination, int, Selector]
"""A selector of a head at a destination."""


def without_superfluous(
    chosen: Sum, fit: Looks, judge: Looks, min_gain: float, cells: Collection[tuple[Destination, int]]
) -> Sum:
    """Without what the other selectors of these heads, at these destinations, make superfluous."""
    while True:
        parts = [part for part in chosen.taken() if part[:2] in cells]
        least = dict[tuple[Destination, int], tuple[float, Part]]()
        told = entropies(chosen, judge, {part[:2] for part in parts})
        for part in parts:
            place, head, selector = part
            rows = judge.rows[place]
            without = cross_entropy(judge.attention[place][head], rows.patterns(left(chosen, part), 1)[0])
            loss = told_worse(told[place, head], without, rows, selector)
            least[place, head] = min(least.get((place, head), (torch.inf, part)), (loss, part), key=lambda pair: pair[0])
        gone = [part for loss, part in least.values() if loss < min_gain]
        if not gone:
            return chosen
        cells = [part[:2] for part in gone]
        chosen = fitted_to_attention(chosen.without(gone), fit, cells)


def without_replaceable(chosen: Sum, fit: Looks, judge: Looks, min_gain: float) -> Sum:
    """Without what the other selectors of its head can stand for: each in turn is left out, and its head fitted again."""
    of_cell: dict[tuple[Destination, int], list[Own]] = {}
    for part in sorted(chosen.taken(), key=lambda part: -rank(part[2])):
        of_cell.setdefault(part[:2], []).append(part)
    held: set[Own] = set()
    for turn in range(max(map(len, of_cell.values()), default=0)):
        gone = [parts[turn] for parts in of_cell.values() if len(parts) > turn]
        tried = fitted_to_attention(chosen.without(gone), fit, [part[:2] for part in gone], held=held)
        lost = _lost(chosen, tried, gone, judge)
        needed = [part for part in gone if lost[part] >= min_gain]
        beside, ties = _first(chosen, [part for part in gone if part not in needed], fit, judge, min_gain, held)
        chosen = restored(restored(tried, chosen, [part[:2] for part in needed]), beside, [part[:2] for part in ties])
        held.update(ties)
    return chosen


def _first(
    chosen: Sum, parts: Iterable[Own], fit: Looks, judge: Looks, min_gain: float, held: Collection[Own]
) -> tuple[Sum, list[Own]]:
    """Those that told most of what they and later kinds tell before these came, if these tell the rest as well beside what they
    said then, at most one of a head; and the sum in which all of the parts say that.
    """
    later = {part: [one for one in chosen.taken() if one[:2] == part[:2] and rank(one[2]) > rank(part[2])] for part in parts}
    later = {part: others for part, others in later.items() if others}
    asked, cells = list(later), [part[:2] for part in later]
    if not asked:
        return chosen, []
    early = fitted_to_attention(chosen.without(one for others in later.values() for one in others), fit, cells, held=held)
    before = fitted_to_attention(early.without(asked), fit, cells, held=held)
    weights = {taken: weight.clone() for taken, weight in chosen.weights.items()}
    for place, head, selector in asked:
        weights[place, selector][head] = early.weights[place, selector][head]
    beside = fitted_to_attention(replace(chosen, weights=weights), fit, cells, held={*held, *asked})
    told, whole, apart = (_lost(*pair, asked, judge) for pair in ((early, before), (chosen, before), (chosen, beside)))
    return beside, [part for part in asked if apart[part] < min_gain and told[part] >= MOSTLY * whole[part]]


def _lost(more: Sum, less: Sum, parts: Iterable[Own], judge: Looks) -> dict[Own, float]:
    """By how many nats the attention of each part's head is told worse by one sum than by the other, where the part acts."""
    parts = list(parts)
    well, badly = (entropies(one, judge, {part[:2] for part in parts}) for one in (more, less))
    return {
        (place, head, selector): told_worse(well[place, head], badly[place, head], judge.rows[place], selector)
        for place, head, selector in parts
    }


def told_worse(less: Float[Tensor, "row"], more: Float[Tensor, "row"], rows: Rows, selector: Selector | None) -> float:
    """By how much, in nats, one tells attention worse than the other where a selector names something; 0 if it never does."""
    assert selector is not None
    acts = rows.names(selector)
    return float((more - less)[acts].mean()) if bool(acts.any()) else 0.0


def entropies(chosen: Sum, examples: Looks, cells: Iterable[tuple[Destination, int]]) -> dict[tuple[Destination, int], Tensor]:
    """How badly its selectors tell the attention of each of these heads at each row, in nats."""
    return {
        (place, head): cross_entropy(
            examples.attention[place][head], examples.rows[place].patterns(chosen.of(place, head), 1)[0]
        )
        for place, head in cells
    }


def restored(tried: Sum, before: Sum, cells: Iterable[tuple[Destination, int]]) -> Sum:
    """With some heads as they were before."""
    weights = {taken: weight.clone() for taken, weight in tried.weights.items()}
    has = {taken: marks.clone() for taken, marks in tried.has.items()}
    for place, head in cells:
        for taken in has:
            if taken[0] == place:
                has[taken][head] = bool(before.has[taken][head]) if taken in before.has else False
                weights[taken][head] = before.weights[taken][head] if taken in before.weights else 0.0
    return replace(tried, weights=weights, has=has)
