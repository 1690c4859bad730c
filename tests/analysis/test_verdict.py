"""The table of statuses, cell by cell."""

import pytest

from stackheads.analysis.cause import CauseEvidence
from stackheads.analysis.patterns import PatternEvidence
from stackheads.analysis.readouts import Readout
from stackheads.analysis.statistics import Estimate
from stackheads.analysis.thresholds import Thresholds
from stackheads.analysis.verdict import Evidence, JointEvidence, label_row, reason, status
from stackheads.analysis.write import WriteEvidence
from stackheads.types import Destination, HeadId, Role

EFFECTS = {"needed": Estimate(0.4, 0.3, 0.5), "nothing": Estimate(0.001, -0.01, 0.01), "hinders": Estimate(-0.3, -0.4, -0.2)}
WRITES = {"for": Estimate(0.4, 0.3, 0.5), "nothing": Estimate(0.0, -0.1, 0.1), "against": Estimate(-0.4, -0.5, -0.3)}


def cause(kind):
    effect = EFFECTS[kind]
    other = {"mean": effect.value, "zero": effect.value}
    return CauseEvidence(Readout(Destination.QUERY, 2), effect, 0.1, other, effect.above(0.02), effect.below(0.02), {})


def write(kind):
    share = WRITES[kind]
    return WriteEvidence(share, share.above(0.02), share.below(0.02), "its source moves hop 2 @query")


def evidence(passed, effect, written=None, redundant=False, coinciding=()):
    pattern = PatternEvidence(Role("hop", 1), 0.8, "self", 0.1, 1e-9, 500, passed, coinciding)
    written = write(written) if written else None
    joint = JointEvidence(HeadId(1, 1), cause("needed"), 0.0, True) if redundant else None
    return Evidence(HeadId(1, 0), Destination.QUERY, pattern, cause(effect), written, joint)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (evidence(True, "needed", "for"), "confirmed"),
        (evidence(True, "needed", "nothing"), "causal-unclassified"),
        (evidence(True, "needed", "against"), "causal-unclassified"),
        (evidence(True, "nothing", "for", redundant=True), "redundant"),
        (evidence(True, "nothing", "for"), "pattern-only"),
        (evidence(True, "nothing", "nothing"), "pattern-only"),
        (evidence(True, "hinders", "against"), "opposing"),
        (evidence(True, "hinders", "for"), "causal-unclassified"),
        (evidence(False, "needed"), "causal-unclassified"),
        (evidence(False, "hinders"), "causal-unclassified"),
        (evidence(False, "nothing"), "none"),
    ],
)
def test_statuses(case, expected):
    assert status(case) == expected


def test_a_role_is_named_only_where_the_pattern_passed():
    assert (label_row(evidence(True, "needed", "for"), Thresholds())["hop"]) == 1
    row = label_row(evidence(False, "needed"), Thresholds())
    assert (row["role"], row["hop"], row["looks_like"]) == (None, None, "hop 1")


def test_reasons_name_what_decided():
    thresholds = Thresholds()
    assert "ambiguous" in reason(evidence(False, "needed", coinciding=(Role("previous"), Role("hop", 1))), thresholds)
    assert "what it carries does not matter" in reason(evidence(True, "needed", "nothing"), thresholds)
    assert "with L1H1" in reason(evidence(True, "nothing", "for", redundant=True), thresholds)
    flipping = evidence(True, "needed", "for")
    flipping.cause.other["zero"] = 0.0
    assert "flips with zero ablation" in reason(flipping, thresholds)
