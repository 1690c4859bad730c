"""Backups: heads of one role that only matter together. Pairs are ablated jointly wherever one of them does not matter alone.

A head is redundant if, with some other head of the same role at the same destination, the joint effect passes channel 2 and
exceeds `redundant_factor` times the sum of the two single effects at the same readout, and what the two carry together passes
channel 3. Heads of a role that together have no effect at all are screened out first: a group's joint ablation comes before
its pairs. Cost: one forward pass per group, and per pair one for the ablation and those of channel 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from stackheads.analysis.cause import CauseEvidence
from stackheads.analysis.readouts import Baseline
from stackheads.analysis.thresholds import Thresholds
from stackheads.analysis.verdict import Evidence, JointEvidence
from stackheads.analysis.write import WriteEvidence

JointCause = Callable[[Sequence[Evidence]], CauseEvidence]
JointWrite = Callable[[Sequence[Evidence]], WriteEvidence]


def with_joint_evidence(
    evidence: Sequence[Evidence], baseline: Baseline, cause: JointCause, write: JointWrite, thresholds: Thresholds
) -> list[Evidence]:
    """Add joint evidence to the heads whose pattern passed but which do not matter alone."""
    result = {(item.head, item.destination): item for item in evidence}
    for group in _groups(evidence):
        alone = [item for item in group if not (item.cause.needed or item.cause.hinders)]
        if len(group) < 2 or not alone or not cause(group).needed:
            continue
        for item in alone:
            for other in group:
                if other is not item:
                    joint = _judge(item, other, cause([item, other]), write, baseline, thresholds)
                    if joint.redundant:
                        result[item.head, item.destination] = replace(item, joint=joint)
                        break
    return list(result.values())


def _groups(evidence: Sequence[Evidence]) -> list[list[Evidence]]:
    """Heads whose patterns passed for one role at one destination."""
    groups: dict[tuple[str, str], list[Evidence]] = {}
    for item in evidence:
        if item.pattern.passed and item.cause.exact:
            groups.setdefault((str(item.pattern.role), str(item.destination)), []).append(item)
    return list(groups.values())


def _judge(
    item: Evidence,
    other: Evidence,
    cause: CauseEvidence,
    write: JointWrite,
    baseline: Baseline,
    thresholds: Thresholds,
) -> JointEvidence:
    total = 0.0
    if cause.readout is not None:
        readout = baseline.readouts.index(cause.readout)
        total = sum(max(0.0, each.cause.ablations["resample"].estimated[readout]) for each in (item, other))
    more_than_single = cause.needed and cause.effect.value > thresholds.redundant_factor * total
    redundant = more_than_single and write([item, other]).passed
    return JointEvidence(other.head, cause, total, redundant)
