"""What GPT-2 can express goes out as its state dict and comes back the same; transformers computes the same from it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from stackheads.errors import ConfigError
from stackheads.models import ModelConfig, build, from_gpt2, load, to_gpt2
from stackheads.models.config import hooked
from stackheads.tasks import Cycle


def model_like_gpt2(seed=0, **changes):
    settings = {
        "n_layers": 2, "n_heads": 2, "d_model": 16, "d_head": 8, "d_mlp": 64, "act_fn": "gelu_new", "n_ctx": 13, "d_vocab": 11,
        "normalization_type": "LN", "attention_dir": "causal", "device": "cpu",
    }  # fmt: skip
    model, generator = hooked(seed, **settings | changes), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


SHAPES = st.sampled_from([{"n_heads": 2, "d_head": 8}, {"n_heads": 4, "d_head": 4}, {"n_heads": 3, "d_head": 4}])
PARTS = st.sampled_from([{}, {"attn_only": True, "d_mlp": None}])


@settings(max_examples=12)
@given(st.integers(0, 1000), SHAPES, PARTS)
def test_transformers_and_the_way_back_compute_the_same(seed, shape, parts):
    ours = model_like_gpt2(seed, **shape, **parts)
    tokens = torch.randint(11, (3, 13), generator=torch.Generator().manual_seed(seed))
    state, heads = to_gpt2(ours), 16 // shape["d_head"]
    config = GPT2Config(vocab_size=11, n_positions=13, n_embd=16, n_layer=2, n_head=heads, tie_word_embeddings=False)
    theirs = GPT2LMHeadModel(config).eval()
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert (missing, unexpected) == ([], [])
    with torch.no_grad():
        expected = ours(tokens)
        torch.testing.assert_close(theirs(tokens).logits, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(from_gpt2(state, heads)(tokens), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"eps": 0.1}, {"use_attn_scale": False}, {"scale_attn_by_inverse_layer_idx": True}])
def test_what_the_way_back_does_not_give_is_refused(changes):
    """Settings that no rule of ours names: the logits tell."""
    with pytest.raises(ConfigError, match="a GPT-2 of the same weights gives logits that are off by"):
        to_gpt2(model_like_gpt2(**changes))


def test_a_trained_checkpoint_goes_out_and_comes_back(checkpoints):
    checkpoint = load(checkpoints / "chain-d4-l4")
    tokens = checkpoint.task.sample(16, torch.Generator().manual_seed(0)).tokens
    again = from_gpt2(to_gpt2(checkpoint.model), 4)
    torch.testing.assert_close(again(tokens), checkpoint.model(tokens), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (lambda: build(ModelConfig(layers=1, heads=2), Cycle(symbols=6, max_hops=2)), "causal attention"),
        (lambda: model_like_gpt2(normalization_type=None), "LayerNorm"),
        (lambda: model_like_gpt2(positional_embedding_type="rotary", rotary_dim=8), "learned positions"),
        (lambda: model_like_gpt2(act_fn="relu"), "gelu_new"),
        (lambda: model_like_gpt2(d_mlp=32), "4 × the width"),
        (lambda: model_like_gpt2(d_head=5), "width divides"),
        (lambda: model_like_gpt2(n_heads=3), "width divides"),
        (lambda: model_like_gpt2(d_vocab_out=20), "no output bias of its own"),
    ],
)
def test_other_models_are_refused(model, rule):
    with pytest.raises(ConfigError, match=rule):
        to_gpt2(model())
