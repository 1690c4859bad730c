"""Backups: heads of one role that only matter together. Pairs are ablated jointly wherever one of them does not matter alone.

A head is redundant if, with some other head of the same role at the same destination, the joint effect passes channel 2 and
exceeds `redundant_factor` times the sum of the two single effects at the same readout, and what the two carry together passes
channel 3. Cost: per pair, one forward pass for the ablation and those of channel 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from stackheads.analysis.cause import CauseEvidence
from stackheads.analysis.readouts import Baseline
from stackheads.analysis.thresholds import Thresholds
from stackheads.analysis.verdict import Evidence, JointEvidence
from stackheads.analysis.write import WriteEvidence
from stackheads.types import HeadId

JointTest = Callable[[Evidence, Evidence], tuple[CauseEvidence, WriteEvidence]]


def with_joint_evidence(
    evidence: Sequence[Evidence], baseline: Baseline, joint_test: JointTest, thresholds: Thresholds
) -> list[Evidence]:
    """Add joint evidence to the heads whose pattern passed but which do not matter alone."""
    done: dict[frozenset[HeadId], tuple[CauseEvidence, WriteEvidence]] = {}
    result = []
    for item in evidence:
        best = item
        if item.pattern.passed and not (item.cause.needed or item.cause.hinders) and bool(baseline.open.any()):
            for other in _same_role(item, evidence):
                pair = frozenset({item.head, other.head})
                if pair not in done:
                    done[pair] = joint_test(item, other)
                joint = _judge(item, other, *done[pair], baseline, thresholds)
                if joint.redundant:
                    best = replace(item, joint=joint)
                    break
        result.append(best)
    return result


def _same_role(item: Evidence, evidence: Sequence[Evidence]) -> list[Evidence]:
    return [
        other
        for other in evidence
        if other.head != item.head
        and other.destination == item.destination
        and other.pattern.passed
        and other.pattern.role == item.pattern.role
    ]


def _judge(
    item: Evidence,
    other: Evidence,
    cause: CauseEvidence,
    write: WriteEvidence,
    baseline: Baseline,
    thresholds: Thresholds,
) -> JointEvidence:
    total = 0.0
    if cause.readout is not None:
        readout = baseline.readouts.index(cause.readout)
        total = sum(max(0.0, each.cause.ablations["resample"].estimated[readout]) for each in (item, other))
    redundant = cause.needed and cause.effect.value > thresholds.redundant_factor * total and write.passed
    return JointEvidence(other.head, cause, total, write, redundant)
