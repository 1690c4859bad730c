"""Backups: heads of one role that only matter together. Pairs are ablated jointly wherever one of them does not matter alone.

A head is redundant if, with some other head of the same role at the same destination, the joint effect passes channel 2 and
exceeds `redundant_factor` times the sum of the two single effects at the same readout, and what the two carry together passes
channel 3. Heads of a role that together have no effect at all are screened out first: a group's joint ablation comes before
its pairs. Cost: one forward pass per group, and per pair one for the ablation and those of channel 3.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from stackheads.labelling.cause import CauseEvidence
from stackheads.labelling.patched import Question
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import (
    Answer,
    Evidence,
    JointEvidence,
    cause_answer,
    exceeds_sum,
    joint_answer,
    pattern_answer,
)
from stackheads.labelling.write import WriteEvidence
from stackheads.types import HeadId, Where

JointCause = Callable[[Sequence[Sequence[Evidence]]], list[CauseEvidence]]
"""What ablating the heads of each group together does."""
Answers = Callable[[Sequence[Question]], list[WriteEvidence]]
Place = tuple[HeadId, Where]


def with_joint_evidence(
    evidence: Sequence[Evidence], cause: JointCause, answers: Answers, thresholds: Thresholds, places: Collection[Place]
) -> list[Evidence]:
    """Add joint evidence to heads whose pattern passed but which do not matter alone: those at `places`, and their partners."""
    pairs = list(_pairs(_groups(evidence, thresholds), cause, thresholds, places))
    written = answers([_question(one, other) for one, other, _, _ in pairs])
    found: dict[Place, JointEvidence] = {}
    for (one, other, together, total), write in zip(pairs, written, strict=True):
        for item, partner in ((one, other), (other, one)):
            joint = JointEvidence(partner.head, together, total, write)
            if joint_answer(joint, thresholds) == Answer.YES and not _matters(item, thresholds):
                found.setdefault((item.head, item.where), joint)
    return [replace(item, joint=found.get((item.head, item.where), item.joint)) for item in evidence]


def _groups(evidence: Sequence[Evidence], thresholds: Thresholds) -> list[list[Evidence]]:
    """Heads whose patterns passed for one role at one destination."""
    groups: dict[tuple[str, str], list[Evidence]] = {}
    for item in evidence:
        if item.cause.exact and pattern_answer(item.pattern, thresholds) == Answer.YES:
            groups.setdefault((str(item.pattern.role), str(item.where)), []).append(item)
    return list(groups.values())


def _pairs(
    groups: list[list[Evidence]], cause: JointCause, thresholds: Thresholds, places: Collection[Place]
) -> Iterator[tuple[Evidence, Evidence, CauseEvidence, tuple[float, ...]]]:
    """The pairs, one of which does not matter alone, that together take much more than the sum; with joint evidence and sum."""
    several = [group for group in groups if len(group) > 1 and any(_alone(item, thresholds, places) for item in group)]
    acting = [
        group for group, found in zip(several, cause(several), strict=True) if cause_answer(found, thresholds) == Answer.YES
    ]
    every = [pair for group in acting for pair in combinations(group, 2)]
    pairs = [pair for pair in every if any(_alone(item, thresholds, places) for item in pair)]
    for (one, other), together in zip(pairs, cause(pairs), strict=True):
        total = tuple(map(sum, zip(_single(one, together), _single(other, together), strict=True)))
        if exceeds_sum(together, total, thresholds):
            yield one, other, together, total


def _alone(item: Evidence, thresholds: Thresholds, places: Collection[Place]) -> bool:
    """Whether this is one of the heads in question and was not seen to matter alone."""
    return (item.head, item.where) in places and not _matters(item, thresholds)


def _matters(item: Evidence, thresholds: Thresholds) -> bool:
    return cause_answer(item.cause, thresholds) in (Answer.YES, Answer.AGAINST)


def _single(item: Evidence, together: CauseEvidence) -> list[float]:
    """Its own effect on the readouts of a joint ablation, none below zero; one that was not measured, by a look at fewer
    examples on which the readout was not open, is no 0: no joint effect exceeds it.
    """
    own = dict(zip(item.cause.every, item.cause.ablations["resample"].effect, strict=True))
    found = (own.get(readout) for readout in together.readouts)
    return [math.inf if effect is None else max(0.0, effect) for effect in found]


def _question(one: Evidence, other: Evidence) -> Question:
    assert one.pattern.role is not None
    return Question((one.head, other.head), one.where, one.pattern.role)
