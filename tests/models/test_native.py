"""Models under either line of TransformerLens: a plain forward over their weights gives what they give, edited or not.

`HookedTransformer` up to 3.9, the bridge that takes its place from 4.0 on: the same names, shapes, first weights and logits.
"""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.models import ModelConfig, build, from_gpt2, load, parameters, save_checkpoint, to_gpt2
from stackheads.models.forwards.fused import FusedForward, supported
from stackheads.models.native import named_weights
from stackheads.models.nulls import permuted_heads
from stackheads.tasks import Cycle

TASK = Cycle(symbols=9, max_hops=4)
CONFIGS = {
    "attention": ModelConfig(layers=2, heads=2, dtype="float64"),
    "no norm": ModelConfig(layers=2, heads=3, normalization=None, dtype="float64"),
    "mlp": ModelConfig(layers=2, heads=2, attn_only=False, d_mlp=40, dtype="float64"),
    "rotary": ModelConfig(layers=2, heads=2, positions="rotary", dtype="float64"),
}
"""In double precision, so that nothing but the formulas decides."""
CLOSE = {"atol": 1e-6, "rtol": 1e-6}
PARTS = ("q", "k", "v", "z", "pattern")


def plain(model, tokens, silenced=None):
    """Logits by the formulas, head by head; with `silenced`, (part, layer, head), this part of the head is zero."""
    w, cfg = {name: value.detach() for name, value in named_weights(model).items()}, model.cfg
    x = w["embed.W_E"][tokens]
    if "pos_embed.W_pos" in w:
        x = x + w["pos_embed.W_pos"][: tokens.shape[1]]
    for layer in range(cfg.n_layers):
        of = {name.split(f"blocks.{layer}.")[1]: value for name, value in w.items() if name.startswith(f"blocks.{layer}.")}
        normed = norm(x, of.get("ln1.w"), of.get("ln1.b"))
        for head in range(cfg.n_heads):
            part = dict.fromkeys(PARTS, 1.0) | ({silenced[0]: 0.0} if silenced and silenced[1:] == (layer, head) else {})
            q, k, v = (
                part[name.lower()] * (normed @ of[f"attn.W_{name}"][head] + of[f"attn.b_{name}"][head]) for name in "QKV"
            )
            if "pos_embed.W_pos" not in w:
                q, k = turned(q), turned(k)
            scores = q @ k.mT / cfg.d_head**0.5
            if cfg.attention_dir == "causal":
                scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -torch.inf)
            z = part["z"] * (part["pattern"] * scores.softmax(dim=-1) @ v)
            x = x + z @ of["attn.W_O"][head]
        x = x + of["attn.b_O"]
        if "mlp.W_in" in of:
            hidden = norm(x, of.get("ln2.w"), of.get("ln2.b")) @ of["mlp.W_in"] + of["mlp.b_in"]
            x = x + hidden.relu() @ of["mlp.W_out"] + of["mlp.b_out"]
    return norm(x, w.get("ln_final.w"), w.get("ln_final.b")) @ w["unembed.W_U"] + w["unembed.b_U"]


@pytest.fixture
def bridge_of_ones_own():
    """Makes a bridge around TransformerLens' own transformer, as a user does."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "attn_only": True, "seed": 0}
    sizes |= {"n_ctx": TASK.n_ctx, "d_vocab": TASK.d_vocab, "d_vocab_out": TASK.d_vocab_out, "attention_dir": "bidirectional"}
    return lambda **changes: TransformerBridge.boot_native(
        TransformerBridgeConfig(**sizes | {"normalization_type": "LN"} | changes)
    )


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_key_value_heads": 1}, r"layers\.0\.attn\.k\.weight of shape \(8, 16\)"),
        ({"gated_mlp": True, "attn_only": False, "act_fn": "silu"}, r"layers\.0\.mlp\.gate\.weight"),
    ],
)
def test_bridges_with_other_parts_are_analysed_but_not_stored(bridge_of_ones_own, changes, named):
    model = bridge_of_ones_own(**changes)
    assert len(analyze(model, TASK, examples=32, explain=False, progress=False).labels) == 12
    for use in (parameters, to_gpt2, lambda it: permuted_heads(it, 0)):
        with pytest.raises(ConfigError, match=f"a model is stored and exported where .*, got {named}"):
            use(model)


def test_a_bridge_of_ones_own_is_exported_like_any_other(bridge_of_ones_own):
    """It has no bias at its outputs, and what it is not a GPT-2 in is said."""
    model = bridge_of_ones_own(attention_dir="causal")
    tokens = tokens_of(TASK)
    torch.testing.assert_close(from_gpt2(to_gpt2(model), n_heads=2)(tokens), model(tokens), atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="a GPT-2 has causal attention"):
        to_gpt2(bridge_of_ones_own())


def norm(x, weight, bias):
    return x if weight is None else layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


def turned(x):
    """Each pair (i, i + d_head / 2) turned by position × 10000^(-2 i / d_head)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)


def tokens_of(task):
    return torch.randint(task.d_vocab, (5, task.n_ctx), generator=torch.Generator().manual_seed(0))


def random_model(config, seed=1):
    """With no weight, bias or norm left as it was drawn."""
    model = build(config, TASK, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in named_weights(model).values():
            value += 0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_are_those_of_the_formulas(config):
    model, tokens = random_model(config), tokens_of(TASK)
    torch.testing.assert_close(model(tokens), plain(model, tokens), **CLOSE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("part", PARTS)
def test_what_is_silenced_by_a_hook_is_silent(config, part):
    """Queries, keys, values, patterns and outputs that a hook changes are what the rest of the model goes on with."""
    model, tokens = random_model(config), tokens_of(TASK)
    axis = 1 if part == "pattern" else 2

    def silence(value, hook):
        return value.index_fill(axis, torch.tensor([1]), 0.0)

    with model.hooks(fwd_hooks=[(f"blocks.0.attn.hook_{part}", silence)]):
        found = model(tokens)
    assert (found - model(tokens)).abs().max() > 1e-3
    torch.testing.assert_close(found, plain(model, tokens, (part, 0, 1)), **CLOSE)


@pytest.mark.parametrize("name", ["cycle-d4-l3", "khop-k2-l3", "chain-d4-l4"])
def test_checkpoints_answer_by_the_formulas(checkpoints, name):
    loaded = load(checkpoints / name)
    tokens = loaded.task.sample(8, torch.Generator().manual_seed(0)).tokens
    torch.testing.assert_close(loaded.model(tokens), plain(loaded.model, tokens), atol=1e-3, rtol=1e-4)


def test_the_same_seed_gives_the_same_first_weights():
    """Sums of a model's first weights, weighted by their places, as `HookedTransformer` of TransformerLens 3.9 drew them."""
    model = build(ModelConfig(layers=2, heads=2, attn_only=False, d_mlp=40), TASK, seed=3)
    assert list(named_weights(model))[:4] == ["embed.W_E", "pos_embed.W_pos", "blocks.0.ln1.w", "blocks.0.ln1.b"]
    found = {name: weighed(value) for name, value in parameters(model).items()}
    for name, expected in FIRST.items():
        assert found[name] == pytest.approx(expected, abs=1e-4), name


def weighed(value: Tensor) -> float:
    flat = value.double().flatten()
    return float(flat @ torch.linspace(-1, 1, len(flat), dtype=torch.double))


FIRST = {
    "embed.W_E": 0.67217,
    "pos_embed.W_pos": -0.37337,
    "blocks.0.attn.W_Q": 1.07482,
    "blocks.0.attn.W_O": -1.6006,
    "blocks.1.attn.W_K": -2.37805,
    "blocks.1.mlp.W_out": 3.28249,
    "unembed.W_U": 1.35085,
}


def test_what_is_written_into_the_names_is_written_into_the_model():
    model, other, tokens = random_model(CONFIGS["mlp"], 1), random_model(CONFIGS["mlp"], 2), tokens_of(TASK)
    for name, value in named_weights(model).items():
        value.copy_(named_weights(other)[name])
    torch.testing.assert_close(model(tokens), other(tokens), atol=0, rtol=0)
    assert all(torch.equal(value, parameters(other)[name]) for name, value in parameters(model).items())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_checkpoints_of_either_line_have_the_same_names(config, tmp_path):
    """Written and read again: every tensor, under the names that are in the files of both."""
    model = random_model(config)
    save_checkpoint(tmp_path / "model", model, TASK, config)
    again = load(tmp_path / "model").model
    assert {name: value.shape for name, value in parameters(again).items()} == expected_shapes(config)
    assert all(torch.equal(value, parameters(model)[name]) for name, value in parameters(again).items())


def expected_shapes(config):
    """What a checkpoint holds, as written since its first format."""
    heads, width, d = config.heads, config.d_head, config.d_model
    block = {f"attn.W_{part}": (heads, d, width) for part in "QKV"} | {f"attn.b_{part}": (heads, width) for part in "QKV"}
    block |= {"attn.W_O": (heads, width, d), "attn.b_O": (d,)}
    norms = ["ln1"] if config.attn_only else ["ln1", "ln2"]
    if config.normalization:
        block |= {f"{place}.{part}": (d,) for place in norms for part in "wb"}
    if not config.attn_only:
        block |= {"mlp.W_in": (d, config.d_mlp), "mlp.b_in": (config.d_mlp,)}
        block |= {"mlp.W_out": (config.d_mlp, d), "mlp.b_out": (d,)}
    whole = {"embed.W_E": (TASK.d_vocab, d), "unembed.W_U": (d, TASK.d_vocab_out), "unembed.b_U": (TASK.d_vocab_out,)}
    whole |= {"pos_embed.W_pos": (TASK.n_ctx, d)} if config.positions == "standard" else {}
    whole |= {f"ln_final.{part}": (d,) for part in "wb"} if config.normalization else {}
    shapes = whole | {f"blocks.{layer}.{name}": shape for layer in range(config.layers) for name, shape in block.items()}
    return {name: torch.Size(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", ["attention", "no norm", "mlp"])
def test_gradients_of_the_fused_forward_are_the_models(name):
    """In training both give every parameter the same gradient."""
    model, tokens = random_model(CONFIGS[name]).requires_grad_(True), tokens_of(TASK)
    assert supported(model)
    other = copy.deepcopy(model)
    for forward, of in ((FusedForward(model), model), (other, other)):
        forward(tokens).square().mean().backward()
        assert all(parameter.grad is not None for parameter in of.parameters())
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, **CLOSE)
