"""What every head looks at, told by its attention alone: the fewest selectors that tell it, chosen forward.

Selectors that are fitted to the answer (`selected.py`) say by which looks it can be given. Here nothing is asked of the answer:
each head's attention at each destination is told by selectors in the order role, slot, position, the same under gates, content
(`judging.rank`), each later kind for what the earlier ones leave:

1. for every candidate its gain alone, beside what the head has: by how many nats its best weights tell the attention better,
   at the positions where it names something. With one number for each value of its gate that is a convex function of one number
   and found exactly, by Newton's method, from the attention on its sources; for tables of places and symbols generalised
   iterative scaling (Darroch & Ratcliff 1972) gives a bound from below in a few steps;
2. each head takes the candidate with the largest gain, all its weights are fitted again (convex), and it keeps the candidate if
   that tells the attention of *other* examples better by `min_gain` there: than without it, and if it is a table, than with the
   best of an earlier kind in its place, be that too little to be taken itself. Else a table of places would be taken for little
   more than the slot that they make up;
3. until none is left. A selector under a gate replaces the same one without;
4. after each kind what it has made superfluous goes: of each head the selector without which the attention of the other
   examples is told hardly worse, by less than `min_gain`, one at a time with a fit between; and at the end, tables first, also
   what the others can stand for once they are fitted without it; but a tie goes to the earlier kind
   (`superfluous.py`).

So heads that only tell later ones where to look get their selectors, too, and what the attention does not support is not
offered. Deterministic. Cost: no forward pass.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from operator import eq, lt

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from stackheads.explanation.attention_fit import LARGEST, fitted_to_attention
from stackheads.explanation.examples import Looks
from stackheads.explanation.judging import rank
from stackheads.explanation.selected import LEVELS, offered
from stackheads.explanation.sums import LEAST, Sum, Taken, cross_entropy
from stackheads.explanation.superfluous import (
    entropies,
    restored,
    told_worse,
    without_replaceable,
    without_superfluous,
)
from stackheads.labelling.selectors import Rows, Selector
from stackheads.types import Destination

MOST = 6
"""Selectors of one rank that a head takes at most at a destination."""
NEWTON = 25
"""Steps of Newton's method: more than a number of at most `LARGEST` needs."""
SETTLED = 1e-6
"""Where its steps end."""
AT_ONCE = 2**18
"""Numbers of candidates, heads and rows that gains are found of at once: few enough to stay in the cache."""
SCALINGS = 3
"""Steps of iterative scaling, each of which tells attention better."""
STRIDE = 2.0
"""The longest step: scores far from the best have next to no curvature."""
FLOOR = 1e-6
"""Attention that is told is at least this and at most one less, so that weights have an end."""

Cells = Collection[tuple[Destination, int]]
Shapes = Mapping[Taken, tuple[int, int]]
"""How many numbers each candidate has, and for how many values of its gate."""
Best = dict[tuple[Destination, int], tuple[Selector, Float[Tensor, "size value"]]]
"""The candidate that each head takes at each destination, with its weights."""


def attended(fit: Looks, judge: Looks, min_gain: float, cells: Cells | None = None, progress: bool = False) -> Sum:
    """The selectors of every head that tell its attention, fitted on `fit`; what is kept is decided on `judge`. A head of which
    no selector tells anything is silent.

    With `cells`, those of these heads at these destinations alone: all others look as they do.
    """
    if cells is None:
        return _attended(fit.everything(), fit, judge, min_gain, progress)
    heads = torch.tensor(sorted({head for _, head in cells}), device=fit.device)
    few = fit.of(heads)
    asked = {place: torch.isin(heads, heads.new_tensor([head for at, head in cells if at == place])) for place in fit.rows}
    found = _attended(replace(few.everything(), live=asked), few, judge.of(heads), min_gain, progress)
    return _among(found, heads, asked, fit.heads)


def _among(found: Sum, heads: Tensor, asked: Mapping[Destination, Bool[Tensor, "head"]], number: int) -> Sum:
    """A sum of some heads in one of all; where they are not asked, heads are their own."""

    def spread(values: Tensor, fill: bool) -> Tensor:
        return values.new_full((number, *values.shape[1:]), fill).index_copy(0, heads, values)

    return Sum(
        {taken: spread(weight, False) for taken, weight in found.weights.items()},
        {taken: spread(marks, False) for taken, marks in found.has.items()},
        {place: spread(found.live[place] | ~marks, True) for place, marks in asked.items()},
        {place: spread(~marks, True) for place, marks in asked.items()},
    )


def _attended(chosen: Sum, fit: Looks, judge: Looks, min_gain: float, progress: bool) -> Sum:
    """The selectors of all heads that are not silent."""
    kinds, gated = list(LEVELS.values())[-1]
    every = offered(fit, kinds, gated)
    for number in tqdm(sorted({rank(taken[1]) for taken in every}), desc="selectors", disable=None if progress else True):
        here, earlier = (
            {taken: shape for taken, shape in every.items() if among(rank(taken[1]), number)} for among in (eq, lt)
        )
        more = _of_rank(chosen, here, earlier, fit, judge, min_gain)
        others = {part[:2] for part in set(more.taken()) ^ set(chosen.taken())}  # of all else the same would be found again
        chosen = without_superfluous(more, fit, judge, min_gain, others)
    return without_replaceable(chosen, fit, judge, min_gain).without_bare()


def _of_rank(chosen: Sum, here: Shapes, earlier: Shapes, fit: Looks, judge: Looks, min_gain: float) -> Sum:
    """With the selectors of one rank that heads take, for what those of `earlier` ones could not tell."""
    asking = {place: live.clone() for place, live in chosen.live.items()}
    for _ in range(MOST):
        best = _best(chosen, here, fit, asking, min_gain)
        if not best:
            break
        tried = fitted_to_attention(_with(chosen, best, here, fit.device), fit, list(best))
        failed = _told_by(chosen, tried, best, judge, min_gain)
        tables = {cell: one for cell, one in best.items() if cell not in failed and here[cell[0], one[0]][0] > 1}
        if tables:
            failed |= _told_by(_simpler(chosen, earlier, tables, fit), tried, tables, judge, min_gain)
        chosen = restored(tried, chosen, failed)
        asking = {place: torch.zeros_like(marks) for place, marks in asking.items()}
        for place, head in best.keys() - failed:  # what the others have, and so what each gains them, is as before
            asking[place][head] = True
    return chosen


def _told_by(less: Sum, tried: Sum, best: Best, judge: Looks, min_gain: float) -> set[tuple[Destination, int]]:
    """Where a candidate tells attention by less than `min_gain` better than another sum does."""
    before, after = (entropies(one, judge, best) for one in (less, tried))
    return {
        (place, head)
        for (place, head), (selector, _) in best.items()
        if told_worse(after[place, head], before[place, head], judge.rows[place], selector) < min_gain
    }


def _simpler(chosen: Sum, earlier: Shapes, best: Best, fit: Looks) -> Sum:
    """With the best candidate of an earlier kind in the place of each of these, however little it tells."""
    asking = {place: torch.zeros_like(live) for place, live in chosen.live.items()}
    for place, head in best:
        asking[place][head] = True
    found = _best(chosen, earlier, fit, asking, 0.0)
    return fitted_to_attention(_with(chosen, found, earlier, fit.device), fit, list(found)) if found else chosen


def _best(
    chosen: Sum,
    here: Shapes,
    fit: Looks,
    asking: dict[Destination, Bool[Tensor, "head"]],
    least: float,
) -> Best:
    """For each head that still asks, at each destination, the candidate with the largest gain and its weights."""
    found: Best = {}
    for place, marks in asking.items():
        heads, selectors = marks.nonzero().flatten(), [selector for at, selector in here if at == place]
        if not len(heads) or not selectors:
            continue
        rows, target = fit.rows[place], fit.attention[place][heads]
        pattern = rows.patterns({selector: weight[heads] for selector, weight in chosen.at(place).items()}, len(heads))
        single = [selector for selector in selectors if here[place, selector][0] == 1]
        found_of = _gains(single, rows, target, pattern)
        for selector in selectors:
            if selector not in found_of:
                found_of[selector] = _gain_of_table(selector, here[place, selector], rows, target, pattern)
        gains, weights = [], []
        for selector in selectors:
            gain, weight = found_of[selector]
            has = chosen.has.get((place, selector), torch.zeros_like(marks))
            gains.append(gain.masked_fill(has[heads], -torch.inf))
            weights.append(weight)
        best, at = torch.stack(gains).max(dim=0)
        for number in (best >= least).nonzero().flatten().tolist():
            which = int(at[number])
            found[place, int(heads[number])] = selectors[which], weights[which][number]
    return found


Gain = tuple[Float[Tensor, "head"], Float[Tensor, "head size value"]]
"""The gain of one candidate beside what each head has, and its best weights."""


def _gains(
    selectors: Sequence[Selector],
    rows: Rows,
    target: Float[Tensor, "head row source"],
    pattern: Float[Tensor, "head row source"],
) -> dict[Selector, Gain]:
    """The gain of each candidate of one number; `target` is the attention of these heads, `pattern` what is said of it."""
    of_gate: dict[str | None, list[Selector]] = {}
    for selector in selectors:
        of_gate.setdefault(selector.gate, []).append(selector)
    on = {plain: (rows.on(plain, target), rows.on(plain, pattern)) for plain in dict.fromkeys(map(_plain, selectors))}
    found: dict[Selector, Gain] = {}
    for name, some in of_gate.items():
        gate = torch.zeros_like(rows.at[:, 0]) if name is None else rows.gates[name]
        for part in _parts(some, max(1, AT_ONCE // max(1, target[..., 0].numel()))):
            wanted, told = (torch.cat(each) for each in zip(*(on[_plain(selector)] for selector in part), strict=True))
            best, gain_of = best_weights(wanted, told, gate, rows.values(name))
            weights, gains = best.split(len(target)), gain_of.split(len(target))
            for selector, weight, gain in zip(part, weights, gains, strict=True):
                named = rows.names(selector)
                found[selector] = gain[:, named].sum(dim=1) / named.sum().clamp(min=1), weight[:, None]
    return found


def _plain(selector: Selector) -> Selector:
    """The same without a gate: it names the same sources."""
    return replace(selector, gate=None)


def _parts(selectors: Sequence[Selector], size: int) -> list[Sequence[Selector]]:
    return [selectors[start : start + size] for start in range(0, len(selectors), size)]


def _gain_of_table(
    selector: Selector,
    shape: tuple[int, int],
    rows: Rows,
    target: Float[Tensor, "head row source"],
    pattern: Float[Tensor, "head row source"],
) -> Gain:
    """That of a candidate with several numbers for each value of its gate, from below."""
    named, weight, told = rows.names(selector), target.new_zeros(len(target), *shape), pattern
    wanted = rows.on_each(selector, target, shape[1])
    for _ in range(SCALINGS):
        step = (wanted.clamp(min=FLOOR) / rows.on_each(selector, told, shape[1]).clamp(min=FLOOR)).log()
        weight = (weight + step).clamp(-LARGEST, LARGEST)
        told = (pattern.clamp(min=LEAST).log() + rows.hidden + rows.score(selector, weight)).softmax(dim=-1)
    return (cross_entropy(target, pattern) - cross_entropy(target, told))[:, named].mean(dim=1), weight


def best_weights(
    target: Float[Tensor, "head row"], pattern: Float[Tensor, "head row"], gate: Tensor, values: int
) -> tuple[Float[Tensor, "head value"], Float[Tensor, "head row"]]:
    """The weight of some sources, for each value of the gate, that tells attention best, and its gain at every row, in nats.

    `target` and `pattern` are the attention on these sources, as it is and as it is told without them; with a weight w on them
    the cross-entropy changes by log(1 + pattern (e^w - 1)) - w target, which is convex in w.
    """
    there = pattern.clamp(FLOOR, 1 - FLOOR)
    weight = target.new_zeros(len(target), values)
    of_value = torch.nn.functional.one_hot(gate, values).to(target.dtype)  # [row, value]
    wanted, going = target @ of_value, torch.arange(len(target), device=target.device)
    for _ in range(NEWTON):
        mine, before = there if len(going) == len(there) else there[going], weight[going]
        odds = mine * before.exp()[:, gate]
        now = odds / (1 - mine + odds)
        slope, curve = now @ of_value - wanted[going], (now * (1 - now)) @ of_value
        after = (before - (slope / curve.clamp(min=FLOOR)).clamp(-STRIDE, STRIDE)).clamp(-LARGEST, LARGEST)
        weight[going] = after
        going = going[(after - before).abs().amax(dim=1) >= SETTLED]
        if not len(going):
            break
    at = weight[:, gate]
    return weight, at * target - torch.log1p(there * torch.expm1(at))


def _with(chosen: Sum, best: Best, shapes: Shapes, device: torch.device) -> Sum:
    """With the candidates, each at its weights; one under a gate in the place of the same without."""
    weights = dict(chosen.weights)
    has = {taken: marks.clone() for taken, marks in chosen.has.items()}
    for (place, head), (selector, weight) in best.items():
        taken = place, selector
        if taken not in has:
            weights[taken] = torch.zeros(chosen.heads, *shapes[taken], device=device)
            has[taken] = torch.zeros(chosen.heads, dtype=torch.bool, device=device)
        plain = place, _plain(selector)
        if plain != taken and plain in has and bool(has[plain][head]):
            weight = weight + weights[plain][head]
            has[plain][head] = False
        weights[taken] = weights[taken].clone()
        weights[taken][head], has[taken][head] = weight, True
    return replace(chosen, weights=weights, has=has)
