"""What every head looks at, told by its attention alone: the fewest selectors that tell it, chosen forward.

Selectors that are fitted to the answer (`selected.py`) say by which looks it can be given. Here nothing is asked of the answer:
each head's attention at each destination is told by selectors in the order role, slot, position, the same under gates, content
(`judging.rank`), each later kind for what the earlier ones leave:

1. for every candidate its gain alone, beside what the head has: by how many nats its best weights tell the attention better,
   at the positions where it names something (`gains.py`);
2. each head takes the candidate with the largest gain, all its weights are fitted again (convex), and it keeps the candidate if
   that tells the attention of *other* examples better by `min_gain` there;
3. until none is left. A selector under a gate replaces the same one without;
4. after each kind what it has made superfluous goes: of each head the selector without which the attention of the other
   examples is told hardly worse, by less than `min_gain`, one at a time with a fit between; and at the end, tables first, also
   what the others can stand for once they are fitted without it; but a tie goes to the earlier kind
   (`superfluous.py`).

So heads that only tell later ones where to look get their selectors, too, and what the attention does not support is not
offered. Deterministic. Cost: no forward pass.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor
from tqdm import tqdm

from stackheads.explanation.attention_fit import fitted_to_attention
from stackheads.explanation.examples import Looks
from stackheads.explanation.gains import Shapes, best_candidates, with_candidates
from stackheads.explanation.judging import rank
from stackheads.explanation.selected import EVERY, offered
from stackheads.explanation.sums import Sum
from stackheads.explanation.superfluous import (
    entropies,
    restored,
    told_worse,
    without_replaceable,
    without_superfluous,
)
from stackheads.types import Destination

MOST = 6
"""Selectors of one rank that a head takes at most at a destination."""
Cells = Collection[tuple[Destination, int]]


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
    every = offered(fit, *EVERY)
    for number in tqdm(sorted({rank(taken[1]) for taken in every}), desc="selectors", disable=None if progress else True):
        here = {taken: shape for taken, shape in every.items() if rank(taken[1]) == number}
        more = _of_rank(chosen, here, fit, judge, min_gain)
        others = {part[:2] for part in set(more.taken()) ^ set(chosen.taken())}  # of all else the same would be found again
        chosen = without_superfluous(more, fit, judge, min_gain, others)
    return without_replaceable(chosen, fit, judge, min_gain).without_bare()


def _of_rank(chosen: Sum, here: Shapes, fit: Looks, judge: Looks, min_gain: float) -> Sum:
    """With the selectors of one rank that heads take."""
    asking = {place: live.clone() for place, live in chosen.live.items()}
    for _ in range(MOST):
        best = best_candidates(chosen, here, fit, asking, min_gain)
        if not best:
            break
        tried = fitted_to_attention(with_candidates(chosen, best, here, fit.device), fit, list(best))
        before, after = (entropies(one, judge, best) for one in (chosen, tried))
        failed = [
            (place, head)
            for (place, head), (selector, _) in best.items()
            if told_worse(after[place, head], before[place, head], judge.rows[place], selector) < min_gain
        ]
        chosen = restored(tried, chosen, failed)
        asking = {place: torch.zeros_like(marks) for place, marks in asking.items()}
        for place, head in best.keys() - failed:  # what the others have, and so what each gains them, is as before
            asking[place][head] = True
    return chosen
