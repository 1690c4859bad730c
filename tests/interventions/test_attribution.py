"""The gradient guess: exact where the metric is linear in a head's output, and close on a trained model."""

import pytest
import torch

from stackheads import load
from stackheads.errors import ConfigError, InterventionError
from stackheads.interventions import recorded
from stackheads.interventions.attribution import attribution, guess_by_gradient
from stackheads.models import ModelConfig, build
from stackheads.tasks import Cycle
from stackheads.tasks.scoring import margins


def pair(task, model, n=16):
    generator = torch.Generator().manual_seed(1)
    batch = task.sample(n, generator)
    into, source = recorded(model, batch), recorded(model, task.counterfactual(batch, 1, generator))
    return into, source, lambda logits: margins(task.readout(logits[:, -1:], batch), batch.targets[:, -1:]).mean()


@pytest.mark.parametrize("steps", [1, 4])
def test_it_is_exact_for_one_layer_without_norms(steps):
    """Logits are linear in the last layer's outputs, so the first order is everything."""
    task = Cycle(symbols=5, max_hops=2)
    model = build(
        ModelConfig(layers=1, heads=3, d_model=16, d_head=4, normalization=None, dtype="float64"), task, seed=3
    ).eval()
    into, source, metric = pair(task, model)
    found = attribution(model, into, source, metric, steps)
    torch.testing.assert_close(found.guess, found.exact, atol=1e-10, rtol=1e-8)
    assert found.correlation == pytest.approx(1)


def test_integrating_brings_it_near_the_exact_effects_of_a_trained_model(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    into, source, metric = pair(checkpoint.task, checkpoint.model, 32)
    plain, integrated = (attribution(checkpoint.model, into, source, metric, steps) for steps in (1, 8))
    assert integrated.correlation > 0.9
    assert integrated.correlation > plain.correlation


def test_a_run_on_itself_has_no_effect(random_model, generator):
    task, model = random_model
    into = recorded(model, task.sample(4, generator))
    found = attribution(model, into, into, lambda logits: logits.mean())
    assert found.guess.abs().max() == 0
    assert found.exact.abs().max() < 1e-6
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_mistakes(random_model, generator):
    task, model = random_model
    into, other = recorded(model, task.sample(4, generator)), recorded(model, task.sample(3, generator))
    with pytest.raises(ConfigError, match="steps must be a whole number, at least 1, got 0"):
        guess_by_gradient(model, into, into, lambda logits: logits.mean(), steps=0)
    with pytest.raises(InterventionError, match="one shape"):
        guess_by_gradient(model, into, other, lambda logits: logits.mean())
