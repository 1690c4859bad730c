"""What the calibration measures is measured right: rarely asked questions, rates, and that it can say no."""

import torch

from stackheads.labelling.verdict import Answer
from stackheads.tasks import check
from stackheads.validation.calibration import SIZES, Judged, RarelyAsked, calibration_points, judged, rates
from stackheads.validation.specimens import CIRCUITS


def test_each_example_asks_one_hop_and_the_last_one_rarely():
    task = RarelyAsked(CIRCUITS["doubling"]().task)
    batch = task.sample(4000, torch.Generator().manual_seed(0))
    asked = batch.target_hop[:, -1].amax(dim=1)
    assert ((batch.target_hop == 0) | (batch.target_hop == asked[:, None, None])).all()
    share = (asked == task.base.max_hops).double().mean().item()
    assert 0.005 < share < 0.015
    check(task, examples=128)


def test_rates_by_hand():
    rows = [
        Judged("few", 32, "cause", truth=True, answer=Answer.NO),
        Judged("few", 32, "cause", truth=True, answer=Answer.YES),
        Judged("few", 32, "cause", truth=False, answer=Answer.AGAINST),
        Judged("few", 32, "cause", truth=False, answer=Answer.UNDECIDED),
        Judged("few", 64, "pattern", truth=False, answer=Answer.NO),
    ]
    first, second = rates(rows)
    assert (first["channel"], first["cells"], first["false_yes"], first["false_no"]) == ("pattern", 1, 0, 0)
    assert (second["cells"], second["false_yes"], second["false_no"], second["undecided"]) == (4, 0.25, 0.25, 0.25)


def test_a_head_that_only_a_rare_question_needs_is_never_denied():
    """The last layer of the doubling circuit serves hops 3 and 4 alone, and hop 4 is asked in one example of a hundred."""
    for examples in (32, 256):
        answers = judged("many", "doubling", examples, seed=0)
        assert not [each for each in answers if each.false_no or each.false_yes]
    assert any(each.answer == Answer.UNDECIDED for each in answers)


def test_every_size_is_measured_with_few_and_many_readouts():
    points = calibration_points(quick=False, seed=0)
    assert {(readouts, size) for readouts, _, size, _ in points} == {(kind, size) for kind in ("few", "many") for size in SIZES}
