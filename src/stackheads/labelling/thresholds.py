"""All thresholds (docs/method/evidence.md), each with its reason. Fixed before the data they are judged on."""

import math
from dataclasses import dataclass, fields
from typing import Any

from stackheads.errors import ConfigError

SHARES = ("null_p", "confidence")
"""Those that are probabilities: at 0 or 1 nothing could be said, or everything."""


ROUNDING = 1e-6
"""What a number of draws may be off by: 1 / (1 - 0.9975) is a little more than 400."""


@dataclass(frozen=True)
class Thresholds:
    """What counts as evidence.

    `pattern_margin`    attention mass by which a role must beat its best rival: a fifth of all attention, so that two
                        roles can't both win and a mixture has to lean clearly.
    `null_p`            p of the null after Bonferroni over (head, destination, role): one false pattern in a thousand runs.
    `min_rows`          rows that tell a role apart from all others, below which nothing is said about it.
    `min_effect`        share of the margin gap that ablation must destroy: below 2 % a head is of no use to a reader.
    `min_write`         share of the gap that the attended source alone must move; the same bar.
    `min_kept`          share of what resampling a head destroys that must stay where its donors have the same token, for it to
                        be said to carry that token: nine tenths, so that what it carries beside is a small part.
    `min_kept_low`      the least that the intervals of that share, and of the answers' logits, may hold: half, so that no two
                        tokens that are independent of each other can both be what is carried.
    `confidence`        coverage of the intervals, simultaneous over all that was tried for one question: with three channels
                        that must all say yes, less than one verdict in a hundred is wrong by chance.
    `resampling_draws`  sign flips behind an interval: ten of a thousand lie beyond it. Looks that share the `confidence` need
                        more than one alone: 99 for 0.99, 399 for four.
    `min_asked`         examples in which a readout, or a pattern's source, must stand before it is measured: below this an
                        interval rests on the shape of a distribution that nobody has seen.
    `rare_share`        share of examples below which a readout is left out, and no claim is made on it, once there are examples
                        enough to tell: less than one question in 200 is not what a model is for.
    `redundant_factor`  joint effect over the sum of single effects from which two heads count as each other's backup.
    `min_gain`          share of a head's attention at a destination that a division by a gate must add, and each of its parts
                        take, and nats by which a selector must tell attention better: less than 3 % of what a head looks at is
                        nothing to tell a reader.
    `min_step`          share of an answer that goes without a step, summed over the heads that share it, from which the step
                        says how the model works.
    `min_by_roles`      share of the weakest answer that selectors which are roles must keep alone for a mechanism to be named
                        by them: below half of it most is carried otherwise.
    `min_accuracy_gain` accuracy above that on unrelated answers which a readout needs before effects on it mean anything.
    `emerged_accuracy`  accuracy at the query from which a hop counts as there in training: far above the plateaus of a model
                        that guesses among a few symbols (1/2 and less), and reached before the last percents, which take long.
    """

    pattern_margin: float = 0.2
    null_p: float = 1e-3
    min_rows: int = 32
    min_effect: float = 0.02
    min_write: float = 0.02
    min_kept: float = 0.9
    min_kept_low: float = 0.5
    confidence: float = 0.99
    resampling_draws: int = 1000
    min_asked: int = 16
    rare_share: float = 0.005
    redundant_factor: float = 1.3
    min_gain: float = 0.03
    min_step: float = 0.1
    min_by_roles: float = 0.5
    min_accuracy_gain: float = 0.05
    emerged_accuracy: float = 0.9

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a number that is no bar: counts are 1 or more, all others finite and above 0; and for fewer
        draws than the confidence needs.
        """
        for field in fields(self):
            value, below = getattr(self, field.name), 1 if field.name in SHARES else math.inf
            whole = field.type is int
            number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not number or not (value >= 1 if whole else 0 < value < below):
                rule = (
                    "a whole number from 1 on" if whole else "a finite number above 0" + (" and below 1" if below == 1 else "")
                )
                raise ConfigError(
                    f"threshold {field.name} is {rule}, got {value!r}: correct it, or leave it out for {field.default}"
                )
        check_draws(self.resampling_draws, self.confidence)


def least_draws(confidence: float) -> int:
    """The fewest draws that bound the next one so surely: of n and the next it is the largest in one of n + 1 orders."""
    return math.ceil(1 / (1 - confidence) - 1 - ROUNDING)


def check_draws(draws: int, confidence: float) -> None:
    """Raise `ConfigError` for fewer draws than an interval of this confidence rests on."""
    if draws < (least := least_draws(confidence)):
        raise ConfigError(
            f"threshold resampling_draws is {least} or more for intervals at a confidence of {confidence:.6g}, got {draws}: "
            "draw more, or lower the confidence, or the budget of examples, whose looks share it"
        )


def default_or(thresholds: Any) -> Thresholds:
    """The thresholds given, or the default ones for None. Raises `ConfigError` for what are none."""
    if thresholds is None:
        return Thresholds()
    if not isinstance(thresholds, Thresholds):
        raise ConfigError(f"thresholds are a Thresholds(…), got {thresholds!r}: give one, or leave it out")
    return thresholds
