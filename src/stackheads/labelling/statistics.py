"""Shares of a gap with intervals that hold for all that was tried at once.

A share is a ratio of sums over examples, Σ moved / Σ gap, because single examples have gaps near zero. Its standard error is
that of the ratio estimator: with residuals e = moved - share · gap, which sum to zero, se² = n / (n - 1) · Σ e² / (Σ gap)²,
over the n examples in which it is asked.

Several shares are tried for one question (does some readout need this head?), so their intervals hold simultaneously, by
max-t (Westfall & Young 1993, Chernozhukov, Chetverikov & Kato 2013, arXiv 1212.6906): the signs of the residuals of all shares
are flipped together, example by example; each flipped t is put on the scale of a standard normal through its own Student
distribution, so that a share asked in 16 examples is not judged like one asked in 512; and the quantile of the largest absolute
value over shares is what all intervals are made of. Max-t and not cross-fitting (choosing on one half of the examples,
estimating on the other), because all examples count for everything, no half decides which share is looked at, and shares that
are much alike cost hardly more than one. Flipping signs and not drawing examples again, because it is exact at any size where
residuals are symmetric, and keeps a share that is asked rarely as rare as it is.

An interval does not know what no example showed: if an effect is in one of m examples and there were n, all miss it with
probability (1 - 1/m)^n. `unseen(n)` is the share of examples that may hide so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from scipy import special
from torch import Tensor

from stackheads.labelling.thresholds import ROUNDING, check_draws

KEPT_DRAWS = 100
"""Bootstrap samples on which labels are given again (`stability.py`)."""


@dataclass(frozen=True)
class Estimate:
    """A share, or a mean, with its interval, the number of examples it was measured on, and the most that one can show."""

    value: float
    low: float
    high: float
    examples: int = 0
    most: float = 1.0


@dataclass(frozen=True)
class Shares:
    """Several shares tried for one question, with simultaneous intervals, each [tried], in double precision on the CPU.

    `se` are standard errors, `examples` those in which a share is asked, `p_value` that of all shares being zero, by max-t,
    `draws` the shares on bootstrap samples, for stability.
    """

    value: Float[Tensor, "tried"]
    low: Float[Tensor, "tried"]
    high: Float[Tensor, "tried"]
    se: Float[Tensor, "tried"]
    examples: Int[Tensor, "tried"]
    p_value: float = 1.0
    draws: Float[Tensor, "draw tried"] | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.value)

    def at(self, number: int) -> Estimate:
        """One of them as plain numbers."""
        return Estimate(
            self.value[number].item(), self.low[number].item(), self.high[number].item(), int(self.examples[number])
        )


def no_shares() -> Shares:
    """Where nothing could be tried."""
    nothing = torch.zeros(0, dtype=torch.double)
    return Shares(nothing, nothing, nothing, nothing, nothing.long(), draws=torch.zeros(KEPT_DRAWS, 0, dtype=torch.double))


@dataclass(frozen=True)
class Resampling:
    """How examples are resampled, the same for all questions: signs for max-t, counts of bootstrap samples for stability. On
    the CPU: what is measured comes there, for many questions at once (`brought`), and not one number at a time.
    """

    signs: Float[Tensor, "draw example"]
    counts: Float[Tensor, "kept example"]
    confidence: float

    def shares(
        self,
        moved: Float[Tensor, "example tried"],
        gap: Float[Tensor, "example tried"],
        asked: Bool[Tensor, "example tried"],
    ) -> Shares:
        """Σ moved / Σ gap of each column over the examples in which it is asked, with simultaneous intervals.

        Every column must be asked in two examples or more, and have a gap.
        """
        if not moved.shape[1]:
            return no_shares()
        moved, gap, asked = moved.cpu(), gap.cpu(), asked.cpu()
        moved, gap = (torch.where(asked, part.double(), 0.0) for part in (moved, gap))
        total, n = gap.sum(dim=0), asked.sum(dim=0)
        value = moved.sum(dim=0) / total
        residual = moved - value * gap  # [example, tried]; sums to zero over examples
        square = residual.square().sum(dim=0)
        se = (n / (n - 1) * square).sqrt() / total.abs()
        largest = self._largest(residual, square, n)
        bound = student(self.quantile(largest), n - 1)
        observed = normal(torch.where(se > 0, value.abs() / se.clamp(min=1e-300), 0.0), n - 1)
        p_value = (1 + int((largest >= observed.max()).sum())) / (1 + len(largest))
        draws = (self.counts @ moved) / (self.counts @ gap)
        low, high = value - bound * se, value + bound * se
        return Shares(value, low, high, se, n, p_value, draws.where(draws.isfinite(), 0.0))

    def quantile(self, largest: Float[Tensor, "draw"]) -> Float[Tensor, ""]:
        """What the next draw exceeds as rarely as is said: of that many it is one more, so that there is no interpolation.

        Raises `ConfigError` where none of them is exceeded so rarely.
        """
        check_draws(len(largest), self.confidence)
        return largest.kthvalue(math.ceil((len(largest) + 1) * self.confidence - ROUNDING)).values

    def _largest(self, residual: Tensor, square: Tensor, n: Tensor) -> Float[Tensor, "draw"]:
        """The largest |t| over columns, as a standard normal's, of residuals whose signs are flipped."""
        flipped = self.signs @ residual  # [draw, tried]: their sum
        spread = (square - flipped.square() / n).clamp(min=0) * n / (n - 1)  # … and n² times its squared standard error
        floor = 1e-12 * square.clamp(min=1e-300)
        t = flipped.abs() / torch.maximum(spread, floor).sqrt()
        return normal(t.where(square > 0, 0.0), n - 1).amax(dim=1)


def brought(values: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one shape and type on the CPU, by one copy: each alone would have the processor wait for its device. Those
    that are there are not copied.
    """
    every = list(values)
    return every if not every or every[0].device.type == "cpu" else list(torch.stack(every).cpu())


def resampling(n: int, draws: int, confidence: float, generator: torch.Generator) -> Resampling:
    """`draws` sign flips and `KEPT_DRAWS` bootstrap samples of n examples. Raises `ConfigError` for too few draws."""
    check_draws(draws, confidence)
    signs = torch.randint(2, (draws, n), generator=generator).double() * 2 - 1
    return Resampling(signs, bootstrap_counts(n, KEPT_DRAWS, generator), confidence)


def bootstrap_counts(n: int, draws: int, generator: torch.Generator) -> Float[Tensor, "draw example"]:
    """How many times each of n examples stands in each of `draws` bootstrap samples."""
    picks = torch.randint(n, (draws, n), generator=generator)
    counts = torch.zeros(draws, n, dtype=torch.double)
    return counts.scatter_add_(1, picks, torch.ones_like(picks, dtype=torch.double))


def normal(t: Float[Tensor, "*tried"], df: Int[Tensor, "tried"]) -> Float[Tensor, "*tried"]:
    """|t| of Student's distribution as the |z| that a standard normal exceeds as rarely, to about 1e-2 (Wallace 1959)."""
    return (8 * df + 1) / (8 * df + 3) * (df * torch.log1p(t.square() / df)).sqrt()


def student(z: Float[Tensor, ""], df: Int[Tensor, "tried"]) -> Float[Tensor, "tried"]:
    """The inverse of `normal`."""
    scaled = z * (8 * df + 3) / (8 * df + 1)
    return (df * torch.expm1(scaled.square() / df)).sqrt()


def exceeding(t: Float[Tensor, "*tried"], df: Int[Tensor, "*#tried"]) -> Float[Tensor, "*tried"]:
    """How often Student's t with so many degrees of freedom exceeds `t`. Like its inverse by `scipy.special`: to import
    `scipy.stats` for these two takes half a second.
    """
    return torch.from_numpy(special.stdtr(df.cpu().numpy(), -t.cpu().numpy())).to(t.device)


def exceeded(share: float, df: Int[Tensor, "*tried"]) -> Float[Tensor, "*tried"]:
    """What Student's t exceeds in this share of cases, in double precision; the inverse of `exceeding`."""
    return torch.from_numpy(-special.stdtrit(df.cpu().numpy(), share)).to(df.device)


def mean_interval(
    value: Float[Tensor, "example tried"], weight: Float[Tensor, "example tried"], confidence: float, tests: int
) -> tuple[Float[Tensor, "tried"], Float[Tensor, "tried"], Float[Tensor, "tried"]]:
    """Σ value / Σ weight over examples with its interval by Student's t, Bonferroni-corrected for `tests` of them.

    `value` are sums over what an example holds, `weight` how many that are. 0 with an unbounded interval where fewer than two
    examples have any.
    """
    value, weight = value.double(), weight.double()
    total, n = weight.sum(dim=0), (weight > 0).sum(dim=0)
    mean = value.sum(dim=0) / total.clamp(min=1)
    residual = value - mean * weight
    se = (n / (n - 1).clamp(min=1) * residual.square().sum(dim=0)).sqrt() / total.clamp(min=1)
    half = exceeded((1 - confidence) / 2 / tests, (n - 1).clamp(min=1)) * se
    half = half.where(n >= 2, torch.inf)
    return mean, mean - half, mean + half


def unseen(examples: int, confidence: float) -> float:
    """The share of examples that may be of a kind of which none was among these: (1 - share)^examples = 1 - confidence."""
    return 1 - (1 - confidence) ** (1 / max(examples, 1))


def shares(moved: Float[Tensor, "example *rest"], gap: Float[Tensor, "example *rest"]) -> Float[Tensor, "*rest"]:
    """Σ moved / Σ gap over examples, 0 where the gap is empty or closed."""
    total = gap.double().sum(dim=0)
    return torch.where(total > 0, moved.double().sum(dim=0) / total.where(total > 0, 1.0), 0.0)


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval (1927) for a share of n: not empty where all or none succeed. (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z, share = float(special.ndtri(0.5 + confidence / 2)), successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half) if successes else 0.0, min(1.0, middle + half) if successes < n else 1.0


def rounded_up(examples: float) -> int:
    """To a power of two."""
    return 2 ** math.ceil(math.log2(max(examples, 1)))
