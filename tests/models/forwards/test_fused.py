"""The fused training forward equals the hooked one, values and gradients, over random architectures."""

import pytest
import torch
from hypothesis import given, settings
from random_models import DIRECTIONS, READS, SEEDS, configs, marks

from stackheads.models import ModelConfig, build
from stackheads.models.forwards.fused import FusedForward
from stackheads.models.trust import forward_for_training
from stackheads.tasks import Cycle


@settings(max_examples=30)
@given(configs(dtypes=("float64",)), DIRECTIONS, SEEDS, READS)
def test_fused_equals_hooked(config, direction, seed, read):
    task = Cycle(symbols=6, max_hops=2, attention_dir=direction)
    model = build(config, task, seed=seed)
    tokens = task.sample(3, torch.Generator().manual_seed(seed)).tokens
    fused = forward_for_training(model)
    assert isinstance(fused, FusedForward)
    wanted = marks(read, task.n_ctx)
    positions = None if wanted is None else wanted.nonzero().squeeze(1)
    plain, fast = model(tokens), fused(tokens, positions)
    plain = plain if positions is None else plain[:, positions]
    torch.testing.assert_close(fast, plain, atol=1e-10, rtol=1e-9)
    for one, other in zip(
        torch.autograd.grad(plain.square().sum(), list(model.parameters()), allow_unused=True),
        torch.autograd.grad(fast.square().sum(), list(model.parameters()), allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(other, one, atol=1e-9, rtol=1e-7)


def test_what_is_not_covered_falls_back_to_the_model_itself():
    model = build(ModelConfig(layers=1, heads=2, d_head=8, positions="rotary"), Cycle(symbols=6, max_hops=2))
    assert forward_for_training(model) is model


@pytest.mark.parametrize("seed", [0, 7])
def test_building_is_seeded_and_leaves_the_global_random_state_alone(seed):
    task, config = Cycle(symbols=6, max_hops=2), ModelConfig(layers=1, heads=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = build(config, task, seed=seed)
    assert torch.equal(torch.rand(3), expected)
    other = build(config, task, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
