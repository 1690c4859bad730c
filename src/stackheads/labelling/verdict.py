"""From evidence to status (docs/method/evidence.md#status), the one place where thresholds meet numbers, and why, in words.

Each channel ends in one `Answer`. *Yes*: a share reaches the bar and its interval lies above zero. *No*: all intervals lie
inside the bar, by more than what the examples may not have shown (`statistics.unseen`), and nothing was left out that could
show more. All else is *not decided*; *not tested* is what no example could show. For patterns the bar is `pattern_margin`, and
*yes* also needs the null.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from torch import Tensor

from stackheads.labelling.cause import CauseEvidence
from stackheads.labelling.patterns import PatternEvidence
from stackheads.labelling.statistics import Estimate, Shares, rounded_up, unseen
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.write import WriteEvidence
from stackheads.types import Destination, Gate, Gated, HeadId, Status, Where, destination_of

FARTHEST = 2**20
"""More examples than this are said to be too many to tell: the effect lies at the bar."""


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


def status(evidence: Evidence, thresholds: Thresholds) -> Status:
    """The verdict."""
    looks, matters = pattern_answer(evidence.pattern, thresholds), cause_answer(evidence.cause, thresholds)
    if looks == Answer.UNDECIDED or matters == Answer.UNTESTED:
        return Status.UNDECIDED
    if looks != Answer.YES:
        unnamed = {Answer.NO: Status.NONE, Answer.UNDECIDED: Status.UNDECIDED}
        return unnamed.get(matters, Status.CAUSAL_UNCLASSIFIED)
    if matters in (Answer.YES, Answer.AGAINST):
        return _carrying(matters, write_answer(evidence.write, thresholds))
    if is_redundant(evidence, thresholds):
        return Status.REDUNDANT
    return Status.PATTERN_ONLY if matters == Answer.NO else Status.UNDECIDED


def _carrying(matters: Answer, carries: Answer) -> Status:
    """The status of a head whose pattern is clear and which matters, by what it carries."""
    if carries in (Answer.UNDECIDED, Answer.UNTESTED):
        return Status.UNDECIDED
    if carries != matters:
        return Status.CAUSAL_UNCLASSIFIED
    return Status.CONFIRMED if matters == Answer.YES else Status.OPPOSING


def pattern_answer(pattern: PatternEvidence, thresholds: Thresholds) -> Answer:
    """Whether the head has a role. Not tested: the roles it may have cannot be told apart or from a place in the layout."""
    if pattern.coinciding or pattern.fixed:
        return Answer.UNTESTED
    if pattern.rare:
        return Answer.UNDECIDED
    if pattern.role is None:
        return Answer.UNTESTED
    bar, hidden = thresholds.pattern_margin, unseen(pattern.examples, thresholds.confidence)
    leads = pattern.lead.value >= bar and pattern.lead.low > 0
    if leads and pattern.p_value < thresholds.null_p:
        return Answer.YES
    if pattern.furthest.high + hidden < bar or (leads and pattern.beyond.high + hidden < bar):
        return Answer.NO
    return Answer.UNDECIDED


def cause_answer(cause: CauseEvidence, thresholds: Thresholds) -> Answer:
    """Whether the answer needs the head at this destination. An answer that the model does not give needs none."""
    if not cause.exact:
        return Answer.UNTESTED
    if not len(cause.effects):
        return Answer.UNDECIDED if cause.unclear else Answer.NO
    found = shares_answer(cause.effects, thresholds.min_effect, cause.examples, thresholds)
    return Answer.UNDECIDED if found == Answer.NO and cause.unclear else found


def write_answer(write: WriteEvidence | None, thresholds: Thresholds) -> Answer:
    """Whether what the head carries from its source matters."""
    if write is None or (not len(write.moved) and not write.acting):
        return Answer.UNTESTED
    if not len(write.moved):
        return Answer.UNDECIDED
    found = shares_answer(write.moved, thresholds.min_write, write.examples, thresholds)
    return Answer.UNDECIDED if found == Answer.NO and write.left_out else found


def shares_answer(shares: Shares, bar: float, examples: int, thresholds: Thresholds) -> Answer:
    """What shares say that were tried together on so many examples."""
    if bool(_above(shares, bar).any()):
        return Answer.YES
    hidden = unseen(examples, thresholds.confidence)
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


def examples_needed(evidence: Evidence, thresholds: Thresholds) -> int | None:
    """About how many examples would decide an undecided row, a power of two; None for a decided one.

    Also None where no number of examples can: nothing that they show could decide it, or it lies at the bar.
    """
    if status(evidence, thresholds) != Status.UNDECIDED:
        return None
    wanted = [need for need in _needs(evidence, thresholds) if need is not None]
    return min(wanted) if wanted and min(wanted) <= FARTHEST else None


def _needs(evidence: Evidence, thresholds: Thresholds) -> list[int | None]:
    """What the first channel that is not decided needs."""
    pattern, cause, write = evidence.pattern, evidence.cause, evidence.write
    if pattern_answer(pattern, thresholds) == Answer.UNDECIDED:
        if pattern.rare:
            return [2 * max(pattern.drawn, pattern.examples)]
        wide = pattern.beyond if pattern.lead.value >= thresholds.pattern_margin else pattern.furthest
        need = _needed(wide, thresholds.pattern_margin, pattern.examples, thresholds)
        return [need and rounded_up(need * max(pattern.drawn / max(pattern.examples, 1), 1.0))]
    matters = cause_answer(cause, thresholds)
    if matters == Answer.UNDECIDED:
        if cause.unclear:
            return [2 * cause.examples]
        return [_needed_of_all(cause.effects, thresholds.min_effect, cause.examples, thresholds)]
    if matters != Answer.UNTESTED and write is not None and write_answer(write, thresholds) == Answer.UNDECIDED:
        if not len(write.moved) or write.left_out:
            return [2 * write.examples]
        return [_needed_of_all(write.moved, thresholds.min_write, write.examples, thresholds)]
    return []


def _needed_of_all(shares: Shares, bar: float, examples: int, thresholds: Thresholds) -> int | None:
    """The fewest examples for which one share that reaches the bar is told from zero, or else the most that any other needs."""
    each = [_needed(shares.at(number), bar, examples, thresholds) for number in range(len(shares))]
    reaching = [need for number, need in enumerate(each) if need and float(shares.value[number]) >= bar]
    if reaching:
        return min(reaching)
    return None if None in each else max(need for need in each if need is not None)


def _needed(estimate: Estimate, bar: float, examples: int, thresholds: Thresholds) -> int | None:
    """How many examples until an estimate that stays as it is, with a narrower interval, leaves zero or lies inside the bar."""
    size, half = abs(estimate.value), (estimate.high - estimate.low) / 2
    if size >= bar:
        return rounded_up(examples * max(1.0, (half / size) ** 2) * 1.01)
    more = 2 * examples
    while more <= FARTHEST:
        if size + half * (examples / more) ** 0.5 + unseen(more, thresholds.confidence) < bar:
            return rounded_up(more)
        more *= 2
    return None


def reason(evidence: Evidence, thresholds: Thresholds) -> str:
    """Why, in one sentence with the numbers that decided, or that did not."""
    parts = [_pattern_reason(evidence.pattern, thresholds), _cause_reason(evidence, thresholds)]
    parts.append(_write_reason(evidence, thresholds))
    if status(evidence, thresholds) == Status.UNDECIDED and evidence.cause.exact:
        needed = examples_needed(evidence, thresholds)
        parts.append(f"about {needed:,} examples would decide" if needed else _undecidable(evidence, thresholds))
    return "; ".join(part for part in parts if part)


def _undecidable(evidence: Evidence, thresholds: Thresholds) -> str:
    if evidence.write is not None and write_answer(evidence.write, thresholds) == Answer.UNTESTED:
        return "a counterfactual that changes what it reads would test it"
    return "it lies so near to the bar that no number of examples may decide"


def label_row(evidence: Evidence, thresholds: Thresholds) -> dict[str, Any]:
    """One row of `analysis.labels`. Role and hop are given only where the pattern passed."""
    pattern, cause, write = evidence.pattern, evidence.cause, evidence.write
    role = pattern.role if pattern_answer(pattern, thresholds) == Answer.YES else None
    return {
        "head": str(evidence.head),
        "layer": evidence.head.layer,
        "destination": str(evidence.destination),
        "selector": "role" if role else None,
        "role": role.name if role else None,
        "hop": role.hop if role else None,
        "gate": None if evidence.gate is None else str(evidence.gate),
        "share": pattern.share if role else None,
        "status": str(status(evidence, thresholds)),
        "pattern": pattern.mass,
        "rival": pattern.rival_mass,
        **_cause_columns(cause, thresholds),
        "write": float(write.moved.value[telling(write.moved, thresholds.min_write)]) if write and len(write.moved) else None,
        "reason": reason(evidence, thresholds),
        "looks_like": str(pattern.role) if pattern.role else None,
        "null_p": pattern.p_value,
        **_cause_details(cause, thresholds),
        "evidence": "exact" if cause.exact else "screened",
        "examples": cause.examples,
        "would_decide": examples_needed(evidence, thresholds),
    }


def _cause_columns(cause: CauseEvidence, thresholds: Thresholds) -> dict[str, Any]:
    names = ("effect", "effect_low", "effect_high", "accuracy_effect")
    if not len(cause.effects):
        return dict(zip(names, (cause.guess or 0.0, None, None, None if cause.guess else 0.0), strict=True))
    number = telling(cause.effects, thresholds.min_effect)
    told = cause.effects.at(number)
    return dict(zip(names, (told.value, told.low, told.high, cause.accuracy_effect[number]), strict=True))


def _cause_details(cause: CauseEvidence, thresholds: Thresholds) -> dict[str, Any]:
    if not len(cause.effects):
        return {"readout": None, "effect_mean": None, "effect_zero": None}
    number = telling(cause.effects, thresholds.min_effect)
    other = cause.other(number)
    return {"readout": str(cause.readouts[number]), "effect_mean": other.get("mean"), "effect_zero": other.get("zero")}


def _pattern_reason(pattern: PatternEvidence, thresholds: Thresholds) -> str:
    if pattern.coinciding:
        return f"ambiguous: no row tells {_listed(pattern.coinciding)} apart; vary the layout"
    if pattern.fixed:
        return f"ambiguous: the source of {_listed(pattern.fixed)} is always in the same place; vary the layout"
    if pattern.rare:
        return f"undecided: it looks at {_listed(pattern.rare)}, whose source stands in too few examples"
    if pattern.role is None:
        return "ambiguous: no row tells any role apart"
    looks = f"{pattern.mass:.2f} of attention on {pattern.role}, {pattern.rival_mass:.2f} on {pattern.rival}"
    answer, leads = pattern_answer(pattern, thresholds), pattern.lead.value >= thresholds.pattern_margin
    if answer == Answer.YES:
        return looks
    if answer == Answer.UNDECIDED:
        return f"undecided whether it has a role ({looks}, p = {pattern.p_value:.2g})"
    return f"pattern not beyond the null (p = {pattern.p_value:.2g}, {looks})" if leads else f"no clear pattern ({looks})"


def _listed(roles: Iterable[Any]) -> str:
    return " and ".join(map(str, roles))


def _cause_reason(evidence: Evidence, thresholds: Thresholds) -> str:
    cause, joint = evidence.cause, evidence.joint
    if cause.guess is not None:
        return f"not ablated: by gradient it would take {cause.guess:.2f}"
    if not len(cause.effects):
        if cause.unclear:
            return f"not decided whether the model answers {_few(cause.unclear)}"
        return "the model answers nothing better than chance"
    number = telling(cause.effects, thresholds.min_effect)
    told, answer = cause.effects.at(number), cause_answer(cause, thresholds)
    verb = "takes" if told.value >= 0 else "adds"
    text = f"ablation {verb} {abs(told.value):.2f} of {cause.readouts[number]}"
    if answer == Answer.NO:
        text = f"no effect ({text})"
    elif answer == Answer.UNDECIDED:
        text = f"undecided whether it matters ({text} [{told.low:.2f}, {told.high:.2f}]"
        text += f"; {_few(cause.unclear)} asked in too few examples)" if cause.unclear else ")"
    needed = answer == Answer.YES
    flips = [name for name, effect in cause.other(number).items() if (effect >= thresholds.min_effect) != needed]
    if flips and answer != Answer.UNDECIDED:
        text += f", the verdict flips with {' and '.join(flips)} ablation"
    if joint is not None and is_redundant(evidence, thresholds):
        number = telling(joint.cause.effects, thresholds.min_effect)
        together, apart = float(joint.cause.effects.value[number]), joint.sum_of_effects[number]
        text += f", with {joint.partner} {together:.2f} of {joint.cause.readouts[number]} against {apart:.2f} for the sum"
    return text


def _few(readouts: tuple[Any, ...], shown: int = 3) -> str:
    names = ", ".join(map(str, readouts[:shown]))
    return names if len(readouts) <= shown else f"{names} and {len(readouts) - shown} more"


def _write_reason(evidence: Evidence, thresholds: Thresholds) -> str:
    write, matters = evidence.write, cause_answer(evidence.cause, thresholds)
    if write is None or matters not in (Answer.YES, Answer.AGAINST):
        return ""
    answer = write_answer(write, thresholds)
    if answer == Answer.UNTESTED:
        return "not tested whether what it carries matters: no example changes it"
    if not len(write.moved):
        return f"not tested yet whether what it carries matters: {write.acting} examples change it"
    number = telling(write.moved, thresholds.min_write)
    told = write.moved.at(number)
    text = f"{write.tried[number]} by {told.value:.2f}"
    if answer == Answer.UNDECIDED:
        few = f"; {_few(write.left_out)} asked in too few examples" if write.left_out else ""
        return f"undecided whether what it carries matters: {text} [{told.low:.2f}, {told.high:.2f}]{few}"
    return f"but what it carries does not matter: {text}" if answer == Answer.NO else text
