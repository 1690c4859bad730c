"""Scores are sums over examples, whatever number format the model has."""

import pytest
import torch

from stackheads import analyze, load
from stackheads.errors import TaskError
from stackheads.labelling.readouts import make_scorer
from stackheads.tasks import Cycle, labelling_batch


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_half_precision_logits_are_those_of_the_same_logits_in_double(checkpoints, dtype):
    """512 margins of some hundreds are more than half precision holds; of 509 right answers bfloat16 counts 508 or 510."""
    checkpoint = load(checkpoints / "cycle-d4-l3")
    task, batch = checkpoint.task, labelling_batch(checkpoint.task, 509, 0)
    scorer, other = make_scorer(task, batch), labelling_batch(task, 509, 1).targets
    with torch.no_grad():
        logits = (20 * checkpoint.model(batch.tokens)).to(dtype)
    found, exact = scorer.score(logits), scorer.score(logits.double())
    assert torch.equal(found.right.sum(dim=0).double(), exact.right.sum(dim=0))
    for half, double in (
        (found.margin, exact.margin),
        (scorer.margin(logits), scorer.margin(logits.double())),
        (scorer.towards(logits, other), scorer.towards(logits.double(), other)),
    ):
        torch.testing.assert_close(half.sum(dim=0).double(), double.sum(dim=0), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("fill", [-torch.inf, torch.nan, torch.finfo(torch.float32).min, -1e9])
def test_answers_that_no_margin_can_be_told_of_are_refused(checkpoints, fill):
    """A mask of what is impossible, of which a model that answers everything would be said to answer nothing."""

    class Masked(Cycle):
        def readout(self, logits, batch):
            answers = super().readout(logits, batch)
            return torch.cat([answers[..., :-1], torch.full_like(answers[..., -1:], fill)], dim=-1)

    checkpoint = load(checkpoints / "cycle-d4-l3")
    with pytest.raises(TaskError, match=r"at most 1,000,000 in size, got .*: leave those that are impossible"):
        analyze(checkpoint.model, Masked(**checkpoint.task.model_dump()), examples=64, explain=False, progress=False)
