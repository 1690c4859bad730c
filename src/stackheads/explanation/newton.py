"""The weights of one head's selectors that tell its attention with the least cross-entropy, by Newton's method.

Scores are sums of weights, one for each selector at each source (`Rows.columns` says which), so with p the pattern, t the
attention and [s, k] whether weight k is in the score of source s,

    slope_k    = mean over rows of  Σ_s (p_s - t_s) [s, k],
    curve_kl   = mean over rows of  Σ_s p_s [s, k] [s, l]  -  (Σ_s p_s [s, k]) (Σ_s p_s [s, l]),

each with the price of the weights. That is convex, and the curve is known: a few steps are enough, where L-BFGS takes dozens.
A step that does not make the loss less is halved. Where no selector has a table, the sources of a row that the same selectors
say something about are one, with the attention of all, and rows of which these are as many are one, too: the loss hangs on
nothing else. Cost: no forward pass; a step sums over the sources that each selector, and each pair of them, says something
about, and takes a product of rows × weights².
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

import torch
from jaxtyping import Bool, Float, Int
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
    `own` is the weight of each row, -1 where it has none; None where a row may have several, which is a table.
    """

    dense: Int[Tensor, "place"]
    at: Int[Tensor, "entry"]
    of: Int[Tensor, "entry"]
    used: Int[Tensor, "weight"]
    own: Int[Tensor, "row"] | None


def make_columns(numbers: Int[Tensor, "row source"], size: int) -> Columns:
    """Of numbers below `size`, -1 where a selector says nothing, those that are there."""
    flat = numbers.flatten()
    seen = torch.zeros(size + 1, dtype=torch.bool, device=flat.device)
    seen[flat] = True  # the last is that of all that is none
    used = seen[:size].nonzero().flatten()
    again = torch.full((size + 1,), -1, device=flat.device)
    again[used] = torch.arange(len(used), device=flat.device)
    dense = again[flat]
    at = (dense >= 0).nonzero().flatten()
    of, row = dense[at], at.div(numbers.shape[1], rounding_mode="floor")
    own = torch.full_like(numbers[:, 0], -1).index_copy(0, row, of)
    return Columns(dense, at, of, used, own if bool((own[row] == of).all()) else None)


@dataclass(frozen=True)
class Alike:
    """Attention that is asked about, scores without selectors and their columns, each row for `times` of them, all summed."""

    target: Float[Tensor, "row source"]
    base: Float[Tensor, "row source"]
    columns: Sequence[Columns]
    times: Float[Tensor, "row"]


def alike(target: Float[Tensor, "row source"], base: Float[Tensor, "row source"], columns: Sequence[Columns]) -> Alike:
    """One source for all of a row that the same selectors say something about, one row for all that have as many of each kind.

    As it is where a selector has a table, whose every source is of a kind of its own.
    """
    owns = [each.own for each in columns if each.own is not None]
    if len(owns) < len(columns):
        return Alike(target, base, columns, base.new_ones(len(base)))
    kind = torch.zeros(base.numel(), dtype=torch.long, device=base.device)
    for number, each in enumerate(columns):
        kind[each.at] += 2**number
    there = torch.bincount(kind, minlength=2 ** len(columns)).nonzero().flatten()  # kinds that any source is of
    again = torch.zeros(2 ** len(columns), dtype=torch.long, device=base.device)
    again[there] = torch.arange(len(there), device=base.device)
    place = again[kind] + torch.arange(len(base), device=base.device).repeat_interleave(base.shape[1]) * len(there)
    empty = torch.zeros(len(base) * len(there), dtype=torch.double, device=base.device)
    wanted, size = (  # [row, kind]
        empty.index_add(0, place, each.flatten().double()).view(len(base), len(there)) for each in (target, base.exp())
    )
    first, row, times = _same_rows(owns, size)
    wanted = wanted.new_zeros(len(first), len(there)).index_add(0, row, wanted)
    found = [
        _of_kinds(each.own[first], (there & 2**number) > 0, each.used)
        for number, each in enumerate(columns)
        if each.own is not None
    ]
    return Alike(wanted, size[first].log(), found, times)


def _same_rows(
    owns: Sequence[Int[Tensor, "row"]], size: Float[Tensor, "row kind"]
) -> tuple[Int[Tensor, "some"], Int[Tensor, "row"], Float[Tensor, "some"]]:
    """Of rows that have the same weights and sizes one, which of these each is, and how many are as it is. Every row is alone
    where sizes are no numbers of sources, or all of them together no number that a word holds.
    """
    every, digits = torch.arange(len(size), device=size.device), torch.stack([*owns, *size.long().T]) + 1
    bases = (digits.amax(dim=1) + 1).tolist()
    if prod(bases) >= 2**63 or not bool((size == size.round()).all()):
        return every, every, size.new_ones(len(size))
    scale = [prod(bases[:number]) for number in range(len(bases))]
    code = (digits * digits.new_tensor(scale)[:, None]).sum(dim=0)
    _, row, times = code.unique(return_inverse=True, return_counts=True)
    return torch.zeros_like(times).index_copy(0, row, every), row, times.to(size.dtype)


def _of_kinds(own: Int[Tensor, "row"], there: Bool[Tensor, "kind"], used: Int[Tensor, "weight"]) -> Columns:
    """The columns of a selector with these weights of rows, at the kinds of sources that it says something about."""
    dense = own[:, None].where(there, -1).flatten()
    at = (dense >= 0).nonzero().flatten()
    return Columns(dense, at, dense[at], used, own)


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
    problem = _Problem(alike(target, base, columns), len(target), ridge)
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
    """One head's attention at so many rows and what is said of it."""

    def __init__(self, asked: Alike, rows: int, ridge: float):
        self.target, self.base, self.times, self.rows, self.ridge = asked.target, asked.base, asked.times, rows, ridge
        self.columns = columns = asked.columns
        sizes = [len(each.used) for each in columns]
        self.first = [sum(sizes[:number]) for number in range(len(sizes))]
        self.number = sum(sizes)
        self.cells = [
            torch.div(each.at, self.base.shape[1], rounding_mode="floor") * self.number + first + each.of
            for first, each in zip(self.first, columns, strict=True)
        ]  # where each entry stands among rows × weights
        self.pairs = [
            self._pair(*sorted(pair, key=lambda one: len(columns[one].at))) for pair in combinations(range(len(sizes)), 2)
        ]
        self.wanted = self._each(self.target).sum(dim=0)

    def _pair(self, few: int, many: int) -> tuple[Int[Tensor, "entry"], Int[Tensor, "entry"]]:
        """The sources that two selectors say something about, and where their weights meet in the curve."""
        one, other = self.columns[few], self.columns[many].dense[self.columns[few].at]
        there = other >= 0
        return one.at[there], ((self.first[few] + one.of) * self.number + self.first[many] + other)[there]

    def told(self, weights: Float[Tensor, "weight"]) -> tuple[Float[Tensor, "row source"], float]:
        """The pattern of some weights, and its loss."""
        single, scores = weights.to(self.base.dtype), self.base.flatten().clone()
        for first, each in zip(self.first, self.columns, strict=True):
            scores.index_add_(0, each.at, single[first + each.of])
        log = scores.view_as(self.base).log_softmax(dim=-1)
        entropy = -(self.target * log.clamp(min=torch.finfo(log.dtype).min)).sum(dim=-1).double().sum() / self.rows
        return log.exp(), float(entropy + self.ridge * weights.square().sum())

    def slope_and_curve(
        self, told: Float[Tensor, "row source"], weights: Float[Tensor, "weight"]
    ) -> tuple[Float[Tensor, "weight"], Float[Tensor, "weight weight"]]:
        """Of the loss."""
        each, flat = self._each(told), (told * self.times[:, None]).flatten()
        often = each * self.times[:, None]
        both = each.new_zeros(self.number**2)
        for at, pairs in self.pairs:
            both.index_add_(0, pairs, flat[at])
        both = both.view(self.number, self.number)
        curve = (both + both.T + torch.diag(often.sum(dim=0)) - each.T @ often).double() / self.rows
        priced = (2 * self.ridge + DAMPING) * torch.eye(self.number, dtype=curve.dtype, device=curve.device)
        return (often.sum(dim=0) - self.wanted).double() / self.rows + 2 * self.ridge * weights, curve + priced

    def _each(self, pattern: Float[Tensor, "row source"]) -> Float[Tensor, "row weight"]:
        """What of each row's pattern is where a weight is."""
        found, flat = pattern.new_zeros(len(pattern) * self.number), pattern.flatten()
        for cells, each in zip(self.cells, self.columns, strict=True):
            found.index_add_(0, cells, flat[each.at])
        return found.view(len(pattern), self.number)
