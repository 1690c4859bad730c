"""One row of `analysis.labels`: the verdict on its evidence, the numbers that decided, and why, in a sentence."""

from collections.abc import Iterable
from typing import Any

from stackheads.labelling.cause import CauseEvidence
from stackheads.labelling.needed import examples_needed, is_least
from stackheads.labelling.patterns import PatternEvidence
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import (
    Answer,
    Evidence,
    SelectorEvidence,
    cause_answer,
    followed_instead,
    is_redundant,
    may_add,
    pattern_answer,
    selector_answer,
    selector_cause,
    status,
    telling,
    write_answer,
)
from stackheads.labelling.write import WriteEvidence
from stackheads.types import Status


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
        "write": carried_share(write, thresholds),
        "reason": reason(evidence, thresholds),
        "looks_like": str(pattern.role) if pattern.role else None,
        "null_p": pattern.p_value,
        **_cause_details(cause, thresholds),
        "evidence": "exact" if cause.exact else "screened",
        "examples": cause.examples,
        "would_decide": examples_needed(evidence, thresholds),
    }


def carried_share(write: WriteEvidence | None, thresholds: Thresholds) -> float | None:
    """What the attended source moves, on the pair that tells; None where nothing was tried."""
    return float(write.moved.value[telling(write.moved, thresholds.min_write)]) if write and len(write.moved) else None


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


def reason(evidence: Evidence, thresholds: Thresholds) -> str:
    """Why, in one sentence with the numbers that decided, or that did not."""
    parts = [_pattern_reason(evidence.pattern, thresholds), _cause_reason(evidence, thresholds)]
    parts.append(_write_reason(evidence, thresholds))
    if status(evidence, thresholds) == Status.UNDECIDED and evidence.cause.exact:
        parts.append(_how_many(evidence, thresholds))
    return "; ".join(part for part in parts if part)


def _how_many(evidence: Evidence, thresholds: Thresholds) -> str:
    needed = examples_needed(evidence, thresholds)
    if not needed:
        return _undecidable(evidence, thresholds)
    return (
        f"at least {needed:,} examples are needed"
        if is_least(evidence, thresholds)
        else f"about {needed:,} examples would decide"
    )


def _undecidable(evidence: Evidence, thresholds: Thresholds) -> str:
    if evidence.write is not None and write_answer(evidence.write, thresholds) == Answer.UNTESTED:
        return "a counterfactual that changes what it reads would test it"
    return "it lies so near to the bar that no number of examples may decide"


def _pattern_reason(pattern: PatternEvidence, thresholds: Thresholds) -> str:
    if pattern.coinciding:
        return f"ambiguous: no row tells {_listed(pattern.coinciding)} apart; vary the layout so that their sources part"
    if pattern.fixed:
        return (
            f"ambiguous: the source of {_listed(pattern.fixed)} is always in the same place; vary the layout so that it moves"
        )
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
    table = followed_instead(pattern, thresholds)
    if leads and table is not None:
        apart = f"where {pattern.role} names another source, in {table.lead.examples:,} examples"
        instead = f"{table.on_role:.2f} of attention on the role's, {table.on_table:.2f} on the table's"
        return f"no role but a table of {table.table}: {apart}, {instead} ({looks} in all)"
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
    bar = thresholds.min_effect
    side = {Answer.YES: 1, Answer.AGAINST: -1}.get(answer, 0)
    flips = [name for name, effect in cause.other(number).items() if (effect >= bar) - (effect <= -bar) != side]
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
    matters = cause_answer(evidence.cause, thresholds)
    return "" if evidence.write is None or matters not in (Answer.YES, Answer.AGAINST) else _carried(evidence.write, thresholds)


def selector_reason(evidence: SelectorEvidence, thresholds: Thresholds) -> str:
    """Why a selector has its status, in one sentence with the numbers that decided, or that did not."""
    matters = selector_cause(evidence, thresholds)
    idle = matters == Answer.NO and evidence.of_head is not None
    effects = evidence.of_head if idle and evidence.of_head is not None else evidence.effects
    number = telling(effects, thresholds.min_effect)
    told = effects.at(number)
    verb = "goes" if told.value >= 0 else "is added"
    lost = f"without {'the head' if idle else 'it'} {abs(told.value):.2f} of {evidence.readouts[number]} {verb}"
    if matters == Answer.UNDECIDED:
        lost = f"undecided whether it matters: {lost} [{told.low:.2f}, {told.high:.2f}]"
    elif matters == Answer.NO:
        lost = f"no effect: {lost}"
    carried = "" if evidence.write is None else _carried(evidence.write, thresholds)
    return "; ".join(part for part in (_gain_reason(evidence, thresholds), lost, carried) if part)


def _gain_reason(evidence: SelectorEvidence, thresholds: Thresholds) -> str:
    """What a selector says about its head's attention."""
    gain, beyond, answer = evidence.gain, evidence.beyond, selector_answer(evidence, thresholds)
    text = f"tells its attention better by {gain.value:.2f} nats"
    if evidence.beside is not None:
        text += f" than {evidence.beside} would"
    if beyond is not None:
        text += f", than another example's by {beyond.value:.2f}"
    if not evidence.settled:
        return f"undecided whether it looks there: the fit did not end ({text})"
    if answer == Answer.UNDECIDED:
        least = gain if beyond is None or gain.low < beyond.low else beyond
        hidden = f"unseen examples may add {may_add(least, thresholds):.2f}"
        return f"undecided whether it looks there: {text} [{least.low:.2f}, {least.high:.2f}], {hidden}"
    return text if answer == Answer.YES else f"does not look there: {text}"


def _carried(write: WriteEvidence, thresholds: Thresholds) -> str:
    """What the attended source moves."""
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
