"""Looks at more and more examples: what an early one could not try is tried, and what it has seen is not forgotten."""

from dataclasses import replace

import pytest
from subjects import CHECKPOINTS

from stackheads import load
from stackheads.labelling.measure import Look, corrected, measure, measure_until_decided, worth_another_look
from stackheads.labelling.screening import Screen
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, cause_answer
from stackheads.validation.further import SMALL
from stackheads.validation.specimens import Guise, specimen

FIRST, BUDGET = 512, 1024


def opened(baseline):
    return {readout for readout, is_open in zip(baseline.readouts, baseline.open.tolist(), strict=True) if is_open}


def test_a_head_is_not_denied_on_readouts_that_open_later():
    """The bar lies between what the first look and the second see of a readout."""
    made = specimen("one hop per layer", SMALL["one hop per layer"](), Guise(seed=0, noise=0.5, idle=2))
    each = corrected(Thresholds(), 2)
    looks = [measure(made.model, made.task, Look(n, 0, (), ()), each)[1] for n in (FIRST, BUDGET)]
    first, second = ((seen.clean.right - seen.chance.right).sum(dim=0) / seen.count.sum(dim=0) for seen in looks)
    late = int((second - first).argmax())
    thresholds = replace(Thresholds(), min_accuracy_gain=float(first[late] + second[late]) / 2)
    found = measure_until_decided(made.model, made.task, 0, thresholds, BUDGET, methods=("resample",))
    early, _ = measure(made.model, made.task, Look(FIRST, 0, methods=("resample",)), found.thresholds)
    readout = found.baseline.readouts[late]
    assert readout in opened(found.baseline)
    assert any(cause_answer(item.cause, found.thresholds) == Answer.NO and readout not in item.cause.readouts for item in early)
    for item in found.evidence:
        tried = opened(found.baseline) <= {*item.cause.readouts}
        assert tried or cause_answer(item.cause, found.thresholds) in (Answer.YES, Answer.AGAINST)


@pytest.mark.parametrize("top", [1, 4])
def test_no_guess_comes_after_what_was_seen(top):
    checkpoint, each = load(CHECKPOINTS / "conditional-d2-l4"), corrected(Thresholds(), 2)
    screen = Screen(top=top, chunk=64)
    first, _ = measure(checkpoint.model, checkpoint.task, Look(64, 0, methods=("resample",)), each, screen=screen)
    again = worth_another_look(first, each, 4096)
    look = Look(128, 0, first, again, methods=("resample",))
    second, _ = measure(checkpoint.model, checkpoint.task, look, each, screen=screen)
    seen = {(item.head, item.where) for item in first if item.cause.exact}
    assert seen & {(head, place) for head, place in again}
    assert seen <= {(item.head, item.where) for item in second if item.cause.exact}
