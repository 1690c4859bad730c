"""From evidence to status: the table of DESIGN §6, and a sentence for why."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from stackheads.analysis.cause import CauseEvidence
from stackheads.analysis.patterns import PatternEvidence
from stackheads.analysis.thresholds import Thresholds
from stackheads.analysis.write import WriteEvidence
from stackheads.types import Destination, HeadId

Status = Literal["confirmed", "redundant", "opposing", "pattern-only", "causal-unclassified", "none"]


@dataclass(frozen=True)
class JointEvidence:
    """A second head of the same role, and what the two do together."""

    partner: HeadId
    cause: CauseEvidence
    sum_of_effects: float
    redundant: bool


@dataclass(frozen=True)
class Evidence:
    """All that was measured for one head at one destination. `write` exists only where the pattern passed."""

    head: HeadId
    destination: Destination
    pattern: PatternEvidence
    cause: CauseEvidence
    write: WriteEvidence | None
    joint: JointEvidence | None = None


def status(evidence: Evidence) -> Status:
    """The verdict."""
    cause, write = evidence.cause, evidence.write
    if not cause.exact:
        return "pattern-only" if evidence.pattern.passed else "none"
    if not evidence.pattern.passed or write is None:
        return "causal-unclassified" if cause.needed or cause.hinders else "none"
    if cause.needed:
        return "confirmed" if write.passed else "causal-unclassified"
    if cause.hinders:
        return "opposing" if write.against else "causal-unclassified"
    if evidence.joint is not None and evidence.joint.redundant:
        return "redundant"
    return "pattern-only"


def judged_anew(evidence: Evidence, thresholds: Thresholds) -> Evidence:
    """The same measurements under other thresholds, for comparing them; measured under thresholds no stricter than these."""
    pattern, cause, write, joint = evidence.pattern, evidence.cause, evidence.write, evidence.joint
    lead = pattern.mass - pattern.rival_mass
    clear = lead >= thresholds.pattern_margin and pattern.p_value < thresholds.null_p and not pattern.coinciding
    return replace(
        evidence,
        pattern=replace(pattern, passed=pattern.role is not None and clear),
        cause=_cause_anew(cause, thresholds),
        write=write
        and replace(write, passed=write.share.above(thresholds.min_write), against=write.share.below(thresholds.min_write)),
        joint=joint
        and replace(
            joint,
            redundant=joint.redundant
            and joint.cause.effect.above(thresholds.min_effect)
            and joint.cause.effect.value > thresholds.redundant_factor * joint.sum_of_effects,
        ),
    )


def _cause_anew(cause: CauseEvidence, thresholds: Thresholds) -> CauseEvidence:
    if cause.readout is None:
        return cause
    return replace(cause, needed=cause.effect.above(thresholds.min_effect), hinders=cause.effect.below(thresholds.min_effect))


def reason(evidence: Evidence, thresholds: Thresholds) -> str:
    """Why, in one sentence with the numbers that decided."""
    return "; ".join(
        part
        for part in (
            _pattern_reason(evidence.pattern, thresholds),
            _cause_reason(evidence, thresholds),
            _write_reason(evidence),
        )
        if part
    )


def label_row(evidence: Evidence, thresholds: Thresholds) -> dict[str, Any]:
    """One row of `analysis.labels`. Role and hop are given only where the pattern passed."""
    pattern, cause, write = evidence.pattern, evidence.cause, evidence.write
    role = pattern.role if pattern.passed else None
    return {
        "head": str(evidence.head),
        "layer": evidence.head.layer,
        "destination": str(evidence.destination),
        "role": role.name if role else None,
        "hop": role.hop if role else None,
        "status": status(evidence),
        "pattern": pattern.mass,
        "rival": pattern.rival_mass,
        "effect": cause.effect.value,
        "effect_low": cause.effect.low if cause.exact else None,
        "effect_high": cause.effect.high if cause.exact else None,
        "accuracy_effect": cause.accuracy_effect if cause.exact else None,
        "write": write.share.value if write else None,
        "reason": reason(evidence, thresholds),
        "looks_like": str(pattern.role) if pattern.role else None,
        "null_p": pattern.p_value,
        "readout": str(cause.readout) if cause.readout else None,
        "effect_mean": cause.other.get("mean"),
        "effect_zero": cause.other.get("zero"),
        "evidence": "exact" if cause.exact else "screened",
    }


def _pattern_reason(pattern: PatternEvidence, thresholds: Thresholds) -> str:
    if pattern.coinciding:
        return f"ambiguous: no row tells {' and '.join(map(str, pattern.coinciding))} apart"
    if pattern.role is None:
        return "ambiguous: no row tells any role apart"
    looks = f"{pattern.mass:.2f} of attention on {pattern.role}, {pattern.rival_mass:.2f} on {pattern.rival}"
    if pattern.passed:
        return looks
    if pattern.mass - pattern.rival_mass < thresholds.pattern_margin:
        return f"no clear pattern ({looks})"
    return f"pattern not beyond the null (p = {pattern.p_value:.2g}, {looks})"


def _cause_reason(evidence: Evidence, thresholds: Thresholds) -> str:
    cause, joint = evidence.cause, evidence.joint
    if not cause.exact:
        return f"not ablated: by gradient it would take {cause.effect.value:.2f}"
    if cause.readout is None:
        return "the model answers nothing better than chance"
    verb = "ablation takes" if cause.effect.value >= 0 else "ablation adds"
    text = f"{verb} {abs(cause.effect.value):.2f} of {cause.readout}"
    if not (cause.needed or cause.hinders):
        text = f"no effect ({text})"
    flips = [name for name, effect in cause.other.items() if (effect >= thresholds.min_effect) != cause.needed]
    if flips:
        text += f", the verdict flips with {' and '.join(flips)} ablation"
    if joint is not None and joint.redundant:
        text += f", with {joint.partner} {joint.cause.effect.value:.2f} against {joint.sum_of_effects:.2f} for the sum"
    return text


def _write_reason(evidence: Evidence) -> str:
    write = evidence.write
    if write is None or not (evidence.cause.needed or evidence.cause.hinders):
        return ""
    verdict = "" if write.passed or write.against else "but what it carries does not matter: "
    return f"{verdict}{write.how} by {write.share.value:.2f}"
