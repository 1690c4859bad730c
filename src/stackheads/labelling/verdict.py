"""From evidence to status (docs/method/evidence.md#status): the one place where thresholds meet the numbers of labels and
selectors. What a head carries, which changes no status, is told in `carrying.py`.

Each channel ends in one `Answer`. *Yes*: a share reaches the bar and its interval lies above zero. *No*: all intervals lie
inside the bar, by more than what the examples may not have shown (`statistics.unseen`), and nothing was left out that could
show more. All else is *not decided*; *not tested* is what no example could show. For patterns the bar is `pattern_margin`, and
*yes* also needs the null, and that no table is followed where it and the role name different sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool
from torch import Tensor

from stackheads.labelling.cause import CauseEvidence
from stackheads.labelling.patterns import PatternEvidence
from stackheads.labelling.readouts import Readout
from stackheads.labelling.rivals import Contrast
from stackheads.labelling.statistics import KEPT_DRAWS, Estimate, Shares, unseen
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.write import WriteEvidence
from stackheads.types import Destination, Gate, Gated, HeadId, Status, Where, destination_of


class Answer(StrEnum):
    """How a channel ends."""

    YES = "yes"
    AGAINST = "yes, below zero"
    NO = "no"
    UNDECIDED = "not decided"
    UNTESTED = "not tested"


@dataclass(frozen=True)
class JointEvidence:
    """A second head of the same role, and what the two do together; `sum_of_effects` that of each alone, per open readout."""

    partner: HeadId
    cause: CauseEvidence
    sum_of_effects: tuple[float, ...]
    write: WriteEvidence


@dataclass(frozen=True)
class Evidence:
    """All that was measured for one head at one destination, or at a part of it: numbers, no verdict.

    `write` exists only where the pattern passed.
    """

    head: HeadId
    where: Where
    pattern: PatternEvidence
    cause: CauseEvidence
    write: WriteEvidence | None
    joint: JointEvidence | None = None

    @property
    def destination(self) -> Destination:
        """The destination that this is about, wholly or in part."""
        return destination_of(self.where)

    @property
    def gate(self) -> Gate | None:
        """Which part of the destination; None for the whole."""
        return self.where.gate if isinstance(self.where, Gated) else None


@dataclass(frozen=True)
class SelectorEvidence:
    """All that was measured for one selector of one head at one destination, where it acts: numbers, no verdict.

    `gain`: nats by which the head's attention is told better with the selector than without it, of a table both with a simpler
    selector, `beside`; `beyond`: than with what the selector says in another example, None where it says the same in all.
    `settled`: whether both fits ended where nothing changes. `effects` of taking it out alone on each of `readouts`. `write`,
    what the head carries from where it points, exists only where the verdict asks for it (`asks_what_is_carried`). `of_head`
    are the effects of ablating the head there, where selectors are taken out of the model itself.
    """

    gain: Estimate
    beyond: Estimate | None
    settled: bool
    effects: Shares
    readouts: tuple[Readout, ...]
    write: WriteEvidence | None
    of_head: Shares | None = None
    beside: str | None = None


def status(evidence: Evidence, thresholds: Thresholds) -> Status:
    """The verdict on a head."""
    looks, matters = pattern_answer(evidence.pattern, thresholds), cause_answer(evidence.cause, thresholds)
    return _verdict(looks, matters, write_answer(evidence.write, thresholds), is_redundant(evidence, thresholds))


def selector_status(evidence: SelectorEvidence, thresholds: Thresholds) -> Status:
    """The verdict on a selector, by the same rules."""
    matters = selector_cause(evidence, thresholds)
    return _verdict(selector_answer(evidence, thresholds), matters, write_answer(evidence.write, thresholds))


def asks_what_is_carried(evidence: SelectorEvidence, thresholds: Thresholds) -> bool:
    """Whether a selector's status depends on what the head carries: it looks there, and that matters."""
    looks, matters = selector_answer(evidence, thresholds), selector_cause(evidence, thresholds)
    return looks == Answer.YES and matters in (Answer.YES, Answer.AGAINST)


def selector_cause(evidence: SelectorEvidence, thresholds: Thresholds) -> Answer:
    """Whether the answer needs the selector. Not where it does not need the head: a pattern without one of its selectors may be
    one that the model never sees, and disturb.
    """
    shown = [evidence.effects, *([] if evidence.of_head is None else [evidence.of_head])]
    own, *head = (shares_answer(effects, thresholds.min_effect, thresholds) for effects in shown)
    return Answer.NO if Answer.NO in head else own


def _verdict(looks: Answer, matters: Answer, carries: Answer, redundant: bool = False) -> Status:
    """Where the three channels meet."""
    if looks == Answer.UNDECIDED or matters == Answer.UNTESTED:
        return Status.UNDECIDED
    if looks != Answer.YES:
        unnamed = {Answer.NO: Status.NONE, Answer.UNDECIDED: Status.UNDECIDED}
        return unnamed.get(matters, Status.CAUSAL_UNCLASSIFIED)
    if matters in (Answer.YES, Answer.AGAINST):
        return _carrying(matters, carries)
    if redundant:
        return Status.REDUNDANT
    return Status.PATTERN_ONLY if matters == Answer.NO else Status.UNDECIDED


def _carrying(matters: Answer, carries: Answer) -> Status:
    """The status of a head whose pattern is clear and which matters, by what it carries."""
    if carries in (Answer.UNDECIDED, Answer.UNTESTED):
        return Status.UNDECIDED
    if carries != matters:
        return Status.CAUSAL_UNCLASSIFIED
    return Status.CONFIRMED if matters == Answer.YES else Status.OPPOSING


def confirmed_again(evidence: Evidence, thresholds: Thresholds) -> Bool[Tensor, "draw"]:
    """Whether the status is *confirmed* on each bootstrap sample: leads, effects and moves become those of the sample, their
    intervals as wide as on all examples. It is where all three channels end in *yes*.
    """
    pattern, cause, write = evidence.pattern, evidence.cause, evidence.write
    nameless = pattern.role is None or pattern.coinciding or pattern.fixed or pattern.rare
    nameless = nameless or followed_instead(pattern, thresholds) is not None or _as_null(pattern, thresholds)
    if write is None or nameless or not cause.exact or pattern.p_value >= thresholds.null_p:
        return torch.zeros(KEPT_DRAWS, dtype=torch.bool)
    lead = torch.tensor(pattern.lead_draws or [pattern.lead.value] * KEPT_DRAWS, dtype=torch.double)
    looks = (lead >= thresholds.pattern_margin) & (pattern.lead.low + (lead - pattern.lead.value) > 0)
    return looks & _above_again(cause.effects, thresholds.min_effect) & _above_again(write.moved, thresholds.min_write)


def pattern_answer(pattern: PatternEvidence, thresholds: Thresholds) -> Answer:
    """Whether the head has a role. Not tested: the roles it may have cannot be told apart or from a place in the layout."""
    if pattern.coinciding or pattern.fixed:
        return Answer.UNTESTED
    if pattern.rare:
        return Answer.UNDECIDED
    if pattern.role is None:
        return Answer.UNTESTED
    leads = pattern.lead.value >= thresholds.pattern_margin and pattern.lead.low > 0
    if leads and (followed_instead(pattern, thresholds) is not None or _as_null(pattern, thresholds)):
        return Answer.NO
    if leads and pattern.p_value < thresholds.null_p:
        return Answer.YES
    return Answer.NO if known_below(pattern.furthest, thresholds.pattern_margin, thresholds) else Answer.UNDECIDED


def _as_null(pattern: PatternEvidence, thresholds: Thresholds) -> bool:
    """Whether it is known that the head looks at its role's sources hardly more than at those of another example."""
    return known_below(pattern.beyond, thresholds.pattern_margin, thresholds)


def known_below(estimate: Estimate, bar: float, thresholds: Thresholds) -> bool:
    """Whether it is below the bar even if what its examples may not have shown is added."""
    return estimate.high + may_add(estimate, thresholds) < bar


def may_add(estimate: Estimate, thresholds: Thresholds) -> float:
    """What examples of a kind of which none was seen may add: the share that these may be, times the most that one can show, or
    times how far that lies above what the seen ones show, where this is below zero.
    """
    return unseen(estimate.examples, thresholds.confidence) * (estimate.most - min(estimate.high, 0.0))


def followed_instead(pattern: PatternEvidence, thresholds: Thresholds) -> Contrast | None:
    """The table that attention follows, and not the role, where the two name different sources: it takes more by the bar. None
    where no such table is known: roles come first, and are denied only for what enough examples show.
    """
    known = [each for each in pattern.contrasts if each.lead.examples >= thresholds.min_asked]
    leading = [each for each in known if -each.lead.value >= thresholds.pattern_margin]
    sure = [each for each in leading if each.lead.high + unseen(each.lead.examples, thresholds.confidence) < 0]
    return min(sure, key=lambda each: each.lead.high, default=None)


def selector_answer(evidence: SelectorEvidence, thresholds: Thresholds) -> Answer:
    """Whether the head looks where the selector says, in this example and not only in the mean of all. Nats are no share: what
    unseen examples may add is their share times the most that a row can show (`sums.most_nats`).
    """
    shown = [evidence.gain] if evidence.beyond is None else [evidence.gain, evidence.beyond]
    if not evidence.settled:
        return Answer.UNDECIDED
    if all(each.value >= thresholds.min_gain and each.low > 0 for each in shown):
        return Answer.YES
    return Answer.NO if any(known_below(each, thresholds.min_gain, thresholds) for each in shown) else Answer.UNDECIDED


def cause_answer(cause: CauseEvidence, thresholds: Thresholds) -> Answer:
    """Whether the answer needs the head at this destination. An answer that the model does not give needs none."""
    if not cause.exact:
        return Answer.UNTESTED
    if not len(cause.effects):
        return Answer.UNDECIDED if cause.unclear else Answer.NO
    found = shares_answer(cause.effects, thresholds.min_effect, thresholds)
    return Answer.UNDECIDED if found == Answer.NO and cause.unclear else found


def write_answer(write: WriteEvidence | None, thresholds: Thresholds) -> Answer:
    """Whether what the head carries from its source matters."""
    if write is None or (not len(write.moved) and not write.acting):
        return Answer.UNTESTED
    if not len(write.moved):
        return Answer.UNDECIDED
    found = shares_answer(write.moved, thresholds.min_write, thresholds)
    return Answer.UNDECIDED if found == Answer.NO and write.left_out else found


def shares_answer(shares: Shares, bar: float, thresholds: Thresholds) -> Answer:
    """What shares say that were tried together, each on the examples that ask it: others can't show what it hides."""
    if bool(_above(shares, bar).any()):
        return Answer.YES
    hidden = shares.high.new_tensor([unseen(examples, thresholds.confidence) for examples in shares.examples.tolist()])
    inside = (shares.high + hidden < bar) & (shares.low - hidden > -bar)
    if bool(inside.all()):
        return Answer.NO
    if bool(_below(shares, bar).any()) and not bool((shares.high >= bar).any()):
        return Answer.AGAINST
    return Answer.UNDECIDED


def is_redundant(evidence: Evidence, thresholds: Thresholds) -> bool:
    """Whether the head matters together with another of its role, by far more than the two do alone, and so what they carry."""
    return evidence.joint is not None and joint_answer(evidence.joint, thresholds) == Answer.YES


def joint_answer(joint: JointEvidence, thresholds: Thresholds) -> Answer:
    """Yes: the joint effect on some readout passes channel 2 and exceeds `redundant_factor` times the sum, and write passes."""
    if not exceeds_sum(joint.cause, joint.sum_of_effects, thresholds):
        return Answer.NO
    return write_answer(joint.write, thresholds)


def exceeds_sum(cause: CauseEvidence, sum_of_effects: Iterable[float], thresholds: Thresholds) -> bool:
    """Whether heads ablated together take much more of some readout than one by one."""
    total = cause.effects.value.new_tensor(list(sum_of_effects))
    return bool(
        (_above(cause.effects, thresholds.min_effect) & (cause.effects.value > thresholds.redundant_factor * total)).any()
    )


def _above(shares: Shares, bar: float) -> Tensor:
    return (shares.value >= bar) & (shares.low > 0)


def _above_again(shares: Shares, bar: float) -> Bool[Tensor, "draw"]:
    """Whether some share is above on each bootstrap sample."""
    assert shares.draws is not None
    low = shares.low + (shares.draws - shares.value)
    return ((shares.draws >= bar) & (low > 0)).any(dim=1)


def _below(shares: Shares, bar: float) -> Tensor:
    return (shares.value <= -bar) & (shares.high < 0)


def decisive(shares: Shares, bar: float) -> bool:
    """Whether some share reaches the bar on one side of zero, with its interval on that side."""
    return bool((_above(shares, bar) | _below(shares, bar)).any())


def telling(shares: Shares, bar: float) -> int:
    """The share that is reported: of those that decide, or else of all, the one with the largest effect over its error.

    A tenth of the bar is added to the error, so that of shares that are all but zero none is chosen by rounding.
    """
    weight = shares.value.abs() / (shares.se + bar / 10)
    for decides in (_above(shares, bar), _below(shares, bar)):
        if bool(decides.any()):
            return int(weight.where(decides, -1.0).argmax())
    return int(weight.argmax())
