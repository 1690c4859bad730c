"""Models in which some heads do nothing by construction."""

import pytest
import torch

from stackheads import load
from stackheads.errors import ConfigError
from stackheads.models import ModelConfig, build
from stackheads.models.native import named_weights
from stackheads.models.nulls import beside_untrained, permuted_heads
from stackheads.tasks import Cycle
from stackheads.validation.nulls import permuted_checkpoints


@pytest.mark.parametrize("name", ["cycle-d4-l3", "khop-k2-l3"])
def test_untrained_heads_stand_behind_the_model_s_own(checkpoints, name):
    """Which write nothing new where the others write nothing; with what they write they change all that comes after."""
    loaded = load(checkpoints / name)
    made = [
        beside_untrained(loaded.model, loaded.config, loaded.task, 3, seed, writes=writes)
        for seed, writes in ((0, 0.0), (0, 1.0), (1, 1.0))
    ]
    batch = loaded.task.sample(16, torch.Generator().manual_seed(0))
    plain, silent, loud, other = (model(batch.tokens) for model in (loaded.model, *made))
    assert torch.allclose(silent, plain, atol=1e-4)
    assert float((loud - plain).abs().max()) > 1e-2
    assert not torch.equal(loud, other)
    heads, own = loaded.config.heads, named_weights(loaded.model)
    for key, weight in named_weights(made[1]).items():
        inside = ".attn." in key and not key.endswith("b_O")
        assert torch.equal(weight[:heads] if inside else weight, own[key])
        assert not inside or len(weight) == heads + 3


@pytest.mark.parametrize("heads", [2, 3, 5])
def test_no_head_that_is_taken_apart_looks_or_brings_as_one_did(heads):
    """Whatever order heads are dealt in, queries meet other keys, and values are written by other heads."""
    task = Cycle(symbols=4, max_hops=1)
    for seed in range(6):
        model = build(ModelConfig(layers=2, heads=heads, d_model=16, d_head=4), task, seed)
        null = permuted_heads(model, seed)
        for block, other in zip(model.blocks, null.blocks, strict=True):
            of = {
                part: [
                    next(k for k, mine in enumerate(getattr(block.attn, part)) if torch.equal(mine, each))
                    for each in getattr(other.attn, part)
                ]
                for part in ("W_Q", "W_K", "W_V", "W_O")
            }
            assert all(sorted(dealt) == list(range(heads)) for dealt in of.values())
            for one, two in (("W_Q", "W_K"), ("W_V", "W_O"), *([("W_K", "W_V")] if heads > 2 else [])):
                assert all(first != second for first, second in zip(of[one], of[two], strict=True))


def test_a_model_of_one_head_a_layer_can_not_be_taken_apart(checkpoints):
    """It would be itself, and a null that is none."""
    loaded = load(checkpoints / "nearest-pairs-l1")
    assert loaded.config.heads == 1
    with pytest.raises(ConfigError, match="got 1: take another model"):
        permuted_heads(loaded.model, 0)
    made = permuted_checkpoints(checkpoints, 0)
    assert made
    assert all(model.cfg.n_heads > 1 for _, model, _ in made)


def test_their_scores_may_be_sharper(checkpoints):
    loaded = load(checkpoints / "cycle-d4-l3")
    batch = loaded.task.sample(16, torch.Generator().manual_seed(0))
    peaks = []
    for looks in (1.0, 16.0):
        model = beside_untrained(loaded.model, loaded.config, loaded.task, 4, 0, looks, writes=0.0)
        _, cache = model.run_with_cache(batch.tokens)
        peaks.append(float(cache["pattern", 0][:, loaded.config.heads :].amax(dim=-1).mean()))
    assert peaks[1] > 2 * peaks[0]
