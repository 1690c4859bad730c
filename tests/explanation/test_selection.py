"""Learned head selection: gates are subsets, open gates are the model, and the heads that a known circuit needs are found."""

import pytest
import torch

from stackheads import analyze, load
from stackheads.errors import ConfigError
from stackheads.explanation.selection import GatedForward, relaxed_subset, select_heads, selection_curve, smallest
from stackheads.models import ModelConfig, build
from stackheads.tasks import Cycle


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_gates_sum_to_the_number_kept_and_harden(keep):
    logits, generator = torch.linspace(-1, 1, 6), torch.Generator().manual_seed(0)
    for temperature in (2.0, 0.5):
        gates = relaxed_subset(logits, keep, temperature, generator)
        assert gates.sum().item() == pytest.approx(keep, abs=0.3)
    cold = relaxed_subset(logits, keep, 0.01, generator)
    assert ((cold < 0.05) | (cold > 0.95)).all()


def test_open_gates_are_the_model_and_closed_ones_the_positional_means(random_model, generator):
    task, model = random_model
    tokens = task.sample(6, generator).tokens
    heads = model.cfg.n_layers * model.cfg.n_heads
    torch.testing.assert_close(GatedForward(model, torch.ones(heads))(tokens), model(tokens), atol=1e-5, rtol=1e-4)
    closed = GatedForward(model, torch.zeros(heads))(tokens)
    same_token = tokens[:, -1] == tokens[0, -1]
    torch.testing.assert_close(closed[same_token, -1], closed[:1, -1].expand(int(same_token.sum()), -1), atol=1e-5, rtol=1e-4)


def test_the_smallest_selection_of_a_clean_model_is_its_confirmed_heads(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    analysis = analyze(checkpoint.model, checkpoint.task, examples=128, progress=False, explain=False)
    confirmed = set(analysis.labels.query("status == 'confirmed'")["head"])
    curve = selection_curve(checkpoint.model, checkpoint.task, (4, 5, 6), steps=100)
    found = smallest(curve)
    assert found is not None
    assert {str(head) for head in found.heads} == confirmed
    assert min(curve[4].accuracy.values()) < 0.9


def test_mistakes():
    task = Cycle(symbols=5, max_hops=2)
    model = build(ModelConfig(layers=1, heads=2, d_model=8, d_head=4), task)
    with pytest.raises(ConfigError, match=r"keep must be a whole number between 0 and 2, the heads of the model, got 3"):
        select_heads(model, task, 3)
