"""The weights of one head's selectors that tell its attention with the least cross-entropy, by Newton's method.

Scores are sums of weights, one for each selector at each source (`Rows.columns` says which), so with p the pattern, t the
attention and [s, k] whether weight k is in the score of source s,

    slope_k    = mean over rows of  Σ_s (p_s - t_s) [s, k],
    curve_kl   = mean over rows of  Σ_s p_s [s, k] [s, l]  -  (Σ_s p_s [s, k]) (Σ_s p_s [s, l]),

each with the price of the weights. That is convex, and the curve is known: a few steps are enough, where L-BFGS takes dozens.
A step that does not make the loss less is halved. Cost: no forward pass; a step sums over the sources that each selector, and
each pair of them, says something about, and takes a product of rows × weights².
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor

STEPS = 40
"""More than is needed: about 10."""
LONGEST = 4.0
"""The longest step of any weight: far from the best there is next to no curve."""
HALVINGS = 12
DONE = 1e-7
"""Nats that a step can still gain, of which there is rounding in a sum over rows."""
DAMPING = 1e-9
"""Added to the curve: it is flat along what changes no pattern."""


@dataclass(frozen=True)
class Columns:
    """Which weight of one selector is in the score of each source: `dense` for all rows and sources as one axis, -1 where none
    is, and the same as a list: `at` those where one is, `of` their weights. Weights are numbered as they come, `used` of all.
    """

    dense: Int[Tensor, "place"]
    at: Int[Tensor, "entry"]
    of: Int[Tensor, "entry"]
    used: Int[Tensor, "weight"]


def make_columns(numbers: Int[Tensor, "row source"], size: int) -> Columns:
    """Of numbers below `size`, -1 where a selector says nothing, those that are there."""
    flat = numbers.flatten()
    at = (flat >= 0).nonzero().flatten()
    there = flat.index_select(0, at)
    seen = torch.zeros(size, dtype=torch.bool, device=flat.device).index_fill_(0, there, True)
    used = seen.nonzero().flatten()
    again = torch.zeros(size, dtype=torch.long, device=flat.device)
    again[used] = torch.arange(len(used), device=flat.device)
    of = again.index_select(0, there)
    return Columns(torch.full_like(flat, -1).index_copy_(0, at, of), at, of, used)


def newton(
    target: Float[Tensor, "row source"],
    base: Float[Tensor, "row source"],
    columns: Sequence[Columns],
    start: Float[Tensor, "weight"],
    ridge: float,
) -> Float[Tensor, "weight"]:
    """The best weights of several selectors, one behind the other. `base` are the scores without them, -inf at sources that may
    not be seen.
    """
    problem = _Problem(target, base, columns, ridge)
    weights = start.double()
    told, loss = problem.told(weights)
    for _ in range(STEPS):
        slope, curve = problem.slope_and_curve(told, weights)
        step = torch.linalg.solve(curve, slope)
        if float(slope @ step) < 2 * DONE:
            break
        step = step * (LONGEST / step.abs().max()).clamp(max=1.0)
        for _ in range(HALVINGS):
            further, less = problem.told(weights - step)
            if less < loss:
                break
            step = step / 2
        else:
            break
        weights, told, loss = weights - step, further, less
    return weights.to(start.dtype)


class _Problem:
    """One head's attention and what is said of it."""

    def __init__(self, target: Tensor, base: Tensor, columns: Sequence[Columns], ridge: float):
        self.target, self.base, self.columns, self.ridge = target, base, columns, ridge
        sizes = [len(each.used) for each in columns]
        self.first = [sum(sizes[:number]) for number in range(len(sizes))]
        self.number = sum(sizes)
        self.weights = [first + each.of for first, each in zip(self.first, columns, strict=True)]  # that of each entry
        self.cells = [
            torch.div(each.at, base.shape[1], rounding_mode="floor") * self.number + weight
            for weight, each in zip(self.weights, columns, strict=True)
        ]  # where each entry stands among rows × weights
        self.pairs = [
            self._pair(*sorted(pair, key=lambda one: len(columns[one].at))) for pair in combinations(range(len(sizes)), 2)
        ]
        self.wanted = self._each(target).sum(dim=0)

    def _pair(self, few: int, many: int) -> tuple[Int[Tensor, "entry"], Int[Tensor, "entry"]]:
        """The sources that two selectors say something about, and where their weights meet in the curve."""
        one = self.columns[few]
        other = self.columns[many].dense.index_select(0, one.at)
        there = (other >= 0).nonzero().flatten()
        meet = self.weights[few] * self.number + self.first[many] + other
        return one.at.index_select(0, there), meet.index_select(0, there)

    def told(self, weights: Float[Tensor, "weight"]) -> tuple[Float[Tensor, "row source"], float]:
        """The pattern of some weights, and its loss."""
        single, scores = weights.to(self.base.dtype), self.base.flatten().clone()
        for weight, each in zip(self.weights, self.columns, strict=True):
            scores.index_add_(0, each.at, single.index_select(0, weight))
        log = scores.view_as(self.base).log_softmax(dim=-1)
        entropy = -(self.target * log.clamp(min=torch.finfo(log.dtype).min)).sum(dim=-1).double().mean()
        return log.exp(), float(entropy + self.ridge * weights.square().sum())

    def slope_and_curve(
        self, told: Float[Tensor, "row source"], weights: Float[Tensor, "weight"]
    ) -> tuple[Float[Tensor, "weight"], Float[Tensor, "weight weight"]]:
        """Of the loss."""
        each, flat = self._each(told), told.flatten()
        both = each.new_zeros(self.number**2)
        for at, pairs in self.pairs:
            both.index_add_(0, pairs, flat.index_select(0, at))
        both = both.view(self.number, self.number)
        curve = (both + both.T + torch.diag(each.sum(dim=0)) - each.T @ each).double() / len(told)
        priced = (2 * self.ridge + DAMPING) * torch.eye(self.number, dtype=curve.dtype, device=curve.device)
        return (each.sum(dim=0) - self.wanted).double() / len(told) + 2 * self.ridge * weights, curve + priced

    def _each(self, pattern: Float[Tensor, "row source"]) -> Float[Tensor, "row weight"]:
        """What of each row's pattern is where a weight is."""
        found, flat = pattern.new_zeros(len(pattern) * self.number), pattern.flatten()
        for cells, each in zip(self.cells, self.columns, strict=True):
            found.index_add_(0, cells, flat.index_select(0, each.at))
        return found.view(len(pattern), self.number)
