"""Shares of a gap with bootstrap intervals, honest about having looked: chosen on one half, estimated on the other.

A share is a ratio of sums over examples, Σ moved / Σ gap, because single examples have gaps near zero. Where the largest of
several shares is wanted (which readout does this head matter for?), it is chosen on the first half of the examples and its
value and interval come from the second half, so that choosing does not inflate them.
"""

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

KEPT_DRAWS = 100
"""Bootstrap samples on which labels are given again (`stability.py`)."""


@dataclass(frozen=True)
class Estimate:
    """A share with its bootstrap interval; `draws` are the shares of single bootstrap samples, for stability."""

    value: float
    low: float
    high: float
    draws: tuple[float, ...] = field(default=(), compare=False, repr=False)

    def above(self, threshold: float) -> bool:
        """At least the threshold, with the interval above zero."""
        return self.value >= threshold and self.low > 0

    def below(self, threshold: float) -> bool:
        """At most minus the threshold, with the interval below zero."""
        return self.value <= -threshold and self.high < 0


@dataclass(frozen=True)
class Bootstrap:
    """How many times each example stands in each bootstrap sample."""

    counts: Float[Tensor, "draw example"]
    confidence: float

    def share(self, moved: Float[Tensor, "example"], gap: Float[Tensor, "example"]) -> Estimate:
        """Σ moved / Σ gap with its percentile interval; zero with an unbounded interval where the gap is empty."""
        total = gap.double().sum()
        if total == 0:
            return Estimate(0.0, -torch.inf, torch.inf)
        draws = (self.counts @ moved.double()) / (self.counts @ gap.double())
        tail = (1 - self.confidence) / 2
        low, high = torch.quantile(draws, torch.tensor([tail, 1 - tail], dtype=draws.dtype, device=draws.device)).tolist()
        return Estimate((moved.double().sum() / total).item(), low, high, tuple(draws[:KEPT_DRAWS].tolist()))


def bootstrap(n: int, draws: int, confidence: float, generator: torch.Generator, device: torch.device) -> Bootstrap:
    """`draws` bootstrap samples of n examples."""
    picks = torch.randint(n, (draws, n), generator=generator)
    counts = torch.zeros(draws, n, dtype=torch.double)
    counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.double))
    return Bootstrap(counts.to(device), confidence)


def halves(n: int) -> tuple[slice, slice]:
    """The examples to choose on and the examples to estimate on."""
    return slice(0, n // 2), slice(n // 2, n)


def shares(moved: Float[Tensor, "example *rest"], gap: Float[Tensor, "example *rest"]) -> Float[Tensor, "*rest"]:
    """Σ moved / Σ gap over examples, 0 where the gap is empty or closed."""
    total = gap.double().sum(dim=0)
    return torch.where(total > 0, moved.double().sum(dim=0) / total.where(total > 0, 1.0), 0.0)


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval (1927) for a share of n: not empty where all or none succeed. (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre, spread = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
