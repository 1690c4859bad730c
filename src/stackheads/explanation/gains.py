"""What one more selector would tell of each head's attention, beside those that it has, and which would tell most.

The gain of a candidate is by how many nats its best weights tell the attention better, all other weights as they are, at the
positions where it names something. With one number for each value of its gate that is a convex function of one number and
found exactly, by Newton's method, from the attention on its sources; for tables of places and symbols generalised iterative
scaling (Darroch & Ratcliff 1972) gives a bound from below in a few steps. Cost: no forward pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.explanation.attention_fit import LARGEST
from stackheads.explanation.examples import Looks
from stackheads.explanation.sums import LEAST, Sum, Taken, cross_entropy
from stackheads.labelling.selectors import Rows, Selector
from stackheads.types import Destination

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

Shapes = Mapping[Taken, tuple[int, int]]
"""How many numbers each candidate has, and for how many values of its gate."""
Best = dict[tuple[Destination, int], tuple[Selector, Float[Tensor, "size value"]]]
"""The candidate that each head takes at each destination, with its weights."""


def best_candidates(
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
        odds = mine * before.exp().index_select(1, gate)
        now = odds / (1 - mine + odds)
        slope, curve = now @ of_value - wanted[going], (now * (1 - now)) @ of_value
        after = (before - (slope / curve.clamp(min=FLOOR)).clamp(-STRIDE, STRIDE)).clamp(-LARGEST, LARGEST)
        weight[going] = after
        going = going[(after - before).abs().amax(dim=1) >= SETTLED]
        if not len(going):
            break
    at = weight.index_select(1, gate)
    return weight, at * target - torch.log1p(there * torch.expm1(at))


def with_candidates(chosen: Sum, best: Best, shapes: Shapes, device: torch.device) -> Sum:
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
