"""Models of one run are recorded without hooks, and only where that is seen to be what the model does."""

import pytest
import torch

from stackheads.interventions import recorded, replayable, rerun
from stackheads.interventions.ablation import ablation_edits
from stackheads.interventions.reweighted import FEW, is_fast, recorded_again
from stackheads.models import load
from stackheads.types import HeadId

FIELDS = ("logits", "pattern", "v", "z", "residual", "q", "k")


@pytest.fixture
def batch(random_model, generator):
    return random_model[0].sample(2 * FEW, generator)


def test_a_record_without_hooks_is_the_models(random_model, batch):
    _, model = random_model
    assert is_fast(model, batch)
    mine, its = recorded_again(model, batch, fast=True), recorded(model, batch)
    assert mine.hooked is None
    for name in FIELDS:
        torch.testing.assert_close(getattr(mine.run, name), getattr(its.run, name), atol=1e-5, rtol=1e-5)
    edits = ablation_edits(mine, [HeadId(0, 1)], "query")
    torch.testing.assert_close(rerun(model, mine, edits), rerun(model, its, edits), atol=1e-5, rtol=1e-5)


def test_what_the_model_does_otherwise_is_recorded_through_its_hooks(random_model, batch):
    _, model = random_model
    model.blocks[1].attn.hook_z.add_hook(lambda z, hook: 2 * z)
    assert not is_fast(model, batch)
    mine = recorded_again(model, batch, fast=True)  # as if it were built like one that is
    assert mine.hooked is not None
    assert torch.equal(mine.run.logits, recorded(model, batch).run.logits)


def test_weights_that_come_into_a_model_end_what_was_recorded_of_it(checkpoints):
    run = checkpoints / "cycle-d4-l4-run"
    first = load(run / "step-002000")
    batch = first.task.sample(2 * FEW, torch.Generator().manual_seed(1))
    clean = recorded(first.model, batch)
    assert replayable(first.model, clean)
    last = load(run, into=first)
    assert last.model is first.model
    assert torch.equal(last.model(batch.tokens), load(run).model(batch.tokens))
    with pytest.warns(match="it is not as it was when the run was recorded"):
        assert not replayable(first.model, clean)


def test_another_model_is_built_anew(checkpoints):
    first = load(checkpoints / "cycle-d4-l3")
    before = first.model.W_E.clone()
    assert load(checkpoints / "cycle-d4-l4-run", into=first).model is not first.model
    assert torch.equal(first.model.W_E, before)
