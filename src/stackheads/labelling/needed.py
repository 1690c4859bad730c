"""How many examples would decide what is not decided: intervals narrow with the root of their number, estimates stay."""

import math

from stackheads.labelling.statistics import Estimate, Shares, rounded_up, unseen
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, cause_answer, pattern_answer, status, write_answer
from stackheads.types import Status

FARTHEST = 2**20
"""More examples than this are said to be too many to tell: the effect lies at the bar."""


def examples_needed(evidence: Evidence, thresholds: Thresholds) -> int | None:
    """About how many examples would decide an undecided row, a power of two, or the least (`is_least`); None for a decided one.

    Also None where no number of examples can: nothing that they show could decide it, or it lies at the bar.
    """
    if status(evidence, thresholds) != Status.UNDECIDED:
        return None
    need, _ = _need(evidence, thresholds)
    return need if need is not None and need <= FARTHEST else None


def is_least(evidence: Evidence, thresholds: Thresholds) -> bool:
    """Whether that number is only the least: what is asked or stands in too few examples must first be seen more often."""
    return _need(evidence, thresholds)[1]


def _need(evidence: Evidence, thresholds: Thresholds) -> tuple[int | None, bool]:
    """What the first channel that is not decided needs, and whether that is only twice what too few examples asked for."""
    pattern, cause, write = evidence.pattern, evidence.cause, evidence.write
    if pattern_answer(pattern, thresholds) == Answer.UNDECIDED:
        examples = max(pattern.drawn, pattern.examples)
        if pattern.rare:
            return 2 * examples, True
        wide = pattern.beyond if pattern.lead.value >= thresholds.pattern_margin else pattern.furthest
        if not math.isfinite(wide.high - wide.low):  # one example, or none, has shown it yet
            return 2 * examples, True
        return _needed(wide, thresholds.pattern_margin, examples, thresholds), False
    matters = cause_answer(cause, thresholds)
    if matters == Answer.UNDECIDED:
        if cause.unclear:
            return 2 * cause.examples, True
        return _needed_of_all(cause.effects, thresholds.min_effect, cause.examples, thresholds), False
    if matters != Answer.UNTESTED and write is not None and write_answer(write, thresholds) == Answer.UNDECIDED:
        if not len(write.moved) or write.left_out:
            return 2 * write.examples, True
        return _needed_of_all(write.moved, thresholds.min_write, write.examples, thresholds), False
    return None, False


def _needed_of_all(shares: Shares, bar: float, examples: int, thresholds: Thresholds) -> int | None:
    """The fewest examples for which one share that reaches the bar is told from zero, or else the most that any other needs."""
    each = [_needed(shares.at(number), bar, examples, thresholds) for number in range(len(shares))]
    reaching = [need for number, need in enumerate(each) if need and float(shares.value[number]) >= bar]
    if reaching:
        return min(reaching)
    return None if None in each else max(need for need in each if need is not None)


def _needed(estimate: Estimate, bar: float, examples: int, thresholds: Thresholds) -> int | None:
    """How many examples until an estimate that stays as it is, with a narrower interval, leaves zero or lies inside the bar;
    it was measured on those of `examples` that ask it.
    """
    size, half, asking = abs(estimate.value), (estimate.high - estimate.low) / 2, estimate.examples / max(examples, 1)
    if size >= bar:
        return rounded_up(examples * max(1.0, (half / size) ** 2) * 1.01)
    more = 2 * examples
    while more <= FARTHEST:
        if size + half * (examples / more) ** 0.5 + unseen(int(more * asking), thresholds.confidence) < bar:
            return rounded_up(more)
        more *= 2
    return None
