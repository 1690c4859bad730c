"""The same model without hooks: one fused forward over a `HookedTransformer`'s own parameters, for training.

Equal to the hooked forward up to rounding (tested to 1e-5), and used only where that has been seen on the model at hand
(`models/trust.py`). Query, key and value projections are one matrix product and
attention is torch's `scaled_dot_product_attention`, which never materialises the pattern for autograd. Models with parts
not covered here (rotary positions, gated MLPs, other normalisations) are run through the hooked forward.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from stackheads.models.native import is_native
from stackheads.models.protocol import Model

TensorMap = Callable[[Tensor], Tensor]
"""A forward as a function, from tokens to logits; an activation."""

ACTIVATIONS: MappingProxyType[str, TensorMap] = MappingProxyType(
    {"relu": functional.relu, "gelu": functional.gelu, "gelu_new": partial(functional.gelu, approximate="tanh")}
)
"""Activation functions under TransformerLens' names."""


PARTS: dict[str, tuple[str, ...]] = {"embed": ("Embed",), "pos_embed": ("PosEmbed",), "unembed": ("Unembed",)}
NORMS = ("LayerNorm", "LayerNormPre")
BLOCK: dict[str, tuple[str, ...]] = {"ln1": (*NORMS, "Identity"), "attn": ("Attention",)}
MLP: dict[str, tuple[str, ...]] = {"ln2": (*NORMS, "Identity"), "mlp": ("MLP",)}
"""The kinds of TransformerLens' parts that the fused forward reads the parameters of."""
NATIVE = {
    "Embed": "EmbeddingBridge",
    "PosEmbed": "PosEmbedBridge",
    "Unembed": "UnembeddingBridge",
    "Attention": "AttentionBridge",
    "LayerNorm": "NormalizationBridge",
    "Identity": "GeneralizedComponent",
    "MLP": "MLPBridge",
}
"""What these are in the bridges that take their place (`models/native.py`)."""

SIZES = "d_model d_head n_layers n_ctx n_heads d_mlp d_vocab d_vocab_out n_params dtype device"
READ = "eps attn_only act_fn normalization_type attention_dir use_attn_scale attn_scale"
ORIGIN = (
    "model_name tokenizer_name tokenizer_prepends_bos default_prepend_bos from_checkpoint checkpoint_index "
    "checkpoint_label_type checkpoint_value init_mode initializer_range init_weights seed original_architecture "
    "trust_remote_code tie_word_embeddings"
)
HOOKED_ONLY = "use_attn_result use_split_qkv_input use_attn_in use_hook_mlp_in use_hook_tokens"
UNDERSTOOD = frozenset(f"{SIZES} {READ} {ORIGIN} {HOOKED_ONLY}".split())
"""Settings that may have any value: sizes, what the fused forward reads, where a model comes from, and what only adds hooks.

Every other one must be what TransformerLens makes it when nothing is said: a setting that is not known here can't be trusted
to show itself on every batch (a clamp only acts on large values).
"""


def supported(model: Model) -> bool:
    """Whether a fused forward can be built: the parts that it reads are there, and no setting is that it has not heard of.

    That its numbers are the model's is another question (`models/trust.py`).
    """
    if type(model).__name__ != "HookedTransformer" and not is_native(model):
        return False
    cfg = model.cfg
    normed = cfg.normalization_type is not None
    parts = PARTS | ({"ln_final": NORMS} if normed else {})
    each = BLOCK | ({} if cfg.attn_only else MLP)
    return (
        _made_of(model, parts)
        and all(_made_of(block, each) for block in model.blocks)
        and cfg.normalization_type in ("LN", "LNPre", None)
        and (cfg.attn_only or cfg.act_fn in ACTIVATIONS)
        and all(getattr(cfg, name) == default for name, default in _other_settings(type(cfg)).items())
    )


def _made_of(whole: Any, parts: dict[str, tuple[str, ...]]) -> bool:
    kinds = {name: {*names, *map(NATIVE.get, names)} for name, names in parts.items()}
    return all(type(getattr(whole, name, None)).__name__ in kinds[name] for name in parts)


@cache
def _other_settings(kind: type) -> dict[str, Any]:
    """What TransformerLens makes the settings that are not understood, by name."""
    return {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(kind)
        if field.name not in UNDERSTOOD
    }


def attention(
    q: Float[Tensor, "batch head pos d_head"], k: Float[Tensor, "batch head pos d_head"], scale: float, causal: bool
) -> Float[Tensor, "batch head pos source"]:
    """Attention patterns, where they are needed themselves."""
    scores = (q @ k.transpose(-1, -2)) * scale
    if causal:
        n_pos = scores.shape[-1]
        future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(dim=-1)


class FusedForward:
    """Callable on tokens [batch, pos]; gives logits [batch, pos, d_vocab_out]; gradients reach the model's parameters.

    Its parts are there for those who run a model from the middle (`replay.py`). Heads stand before positions in q, k, v.
    `foldable`: nothing but linear maps stands between the normed stream and queries and keys.
    `fixed`: the parameters will not change while this object is used, so that joined weights are kept.
    """

    foldable = True

    def __init__(self, model: Model, fixed: bool = False):
        self.model: Any = model  # its parts go by TransformerLens' names
        self.joined: dict[Any, tuple[Tensor, Tensor]] | None = {} if fixed else None
        self.causal = model.cfg.attention_dir == "causal"
        cfg = model.cfg
        divisor = cfg.attn_scale if cfg.attn_scale > 0 else cfg.d_head**0.5  # below 0: as usual
        self.scale = 1 / divisor if cfg.use_attn_scale else 1.0

    def __call__(
        self, tokens: Int[Tensor, "batch pos"], read: Int[Tensor, "read"] | None = None
    ) -> Float[Tensor, "batch read d_vocab_out"]:
        """Logits at the positions `read` (ascending), or at all; the last layer computes no other rows."""
        residual = self.embed(tokens)
        for block in self.model.blocks[: None if read is None else -1]:
            residual = self._after(block, residual)
        return self.unembed(residual if read is None else self._last_layer(residual, read))

    def streams(
        self, tokens: Int[Tensor, "batch pos"], read: Int[Tensor, "read"]
    ) -> Iterator[Float[Tensor, "batch read d_model"]]:
        """The residual stream before the first layer and after each, at the positions `read`; the last computes no other."""
        residual = self.embed(tokens)
        for block in self.model.blocks[:-1]:
            yield residual[:, read]
            residual = self._after(block, residual)
        yield residual[:, read]
        yield self._last_layer(residual, read)

    def _after(self, block: Any, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after a layer."""
        q, k, v = self.qkv(block.attn, self.norm(getattr(block, "ln1", None), residual))
        z = rearrange(self.attend(q, k, v, self.causal), "batch head pos d_head -> batch pos (head d_head)")
        return self.mlp(block, residual + self.project(block.attn, z))

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before the first layer."""
        return functional.embedding(tokens, self.model.embed.W_E) + self.model.pos_embed.W_pos[: tokens.shape[1]]

    def _last_layer(self, residual: Tensor, read: Tensor) -> Float[Tensor, "batch read d_model"]:
        """The residual stream after the last layer, at the positions `read`."""
        block, heads = self.model.blocks[-1], self.model.cfg.n_heads
        x = self.norm(getattr(block, "ln1", None), residual)
        weight, bias = self._joined(block.attn)
        size = len(bias) // 3
        q = functional.linear(x[:, read], weight[:size], bias[:size])
        kv = functional.linear(x, weight[size:], bias[size:])
        q = rearrange(q, "batch pos (head d_head) -> batch head pos d_head", head=heads)
        k, v = rearrange(kv, "batch pos (part head d_head) -> part batch head pos d_head", part=2, head=heads).unbind()
        sources = torch.arange(x.shape[1], device=x.device)
        visible = sources <= read[:, None] if self.causal else None
        z = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=self.scale)
        z = rearrange(z, "batch head pos d_head -> batch pos (head d_head)")
        return self.mlp(block, residual[:, read] + self.project(block.attn, z))

    def norm(self, norm: Any, x: Float[Tensor, "*rows d_model"], like: Tensor | None = None) -> Float[Tensor, "*rows d_model"]:
        """LayerNorm, one without weights where they are folded ("LNPre"), or nothing where the model has none. With `like`,
        the scale is that of `like`.
        """
        kind, eps = self.model.cfg.normalization_type, self.model.cfg.eps
        if kind is None:
            return x
        weight, bias = (norm.w, norm.b) if kind == "LN" else (None, None)
        if like is None:
            return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)
        scale = (like.var(dim=-1, unbiased=False, keepdim=True) + eps).sqrt()
        normed = (x - x.mean(dim=-1, keepdim=True)) / scale
        return normed if weight is None else normed * weight + bias

    def qkv(
        self, attn: Any, x: Float[Tensor, "batch pos d_model"], positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [batch, head, pos, d_head], in one matrix product; the same at all positions."""
        weight, bias = self._joined(attn)
        qkv = functional.linear(x, weight, bias)
        q, k, v = rearrange(
            qkv, "batch pos (part head d_head) -> part batch head pos d_head", part=3, head=attn.W_Q.shape[0]
        ).unbind()
        return q, k, v

    def values(self, attn: Any, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch head pos d_head"]:
        """Values alone, for patterns that are given."""
        weight, bias = self._joined(attn)
        first = len(bias) // 3 * 2
        v = functional.linear(x, weight[first:], bias[first:])
        return rearrange(v, "batch pos (head d_head) -> batch head pos d_head", head=attn.W_V.shape[0])

    def _joined(self, attn: Any) -> tuple[Tensor, Tensor]:
        """The weights and biases of query, key and value as one linear map."""
        if self.joined is not None and attn in self.joined:
            return self.joined[attn]
        weight = rearrange([attn.W_Q, attn.W_K, attn.W_V], "part head d_model d_head -> (part head d_head) d_model")
        bias = torch.cat([attn.b_Q, attn.b_K, attn.b_V]).flatten()
        if self.joined is not None:
            self.joined[attn] = weight, bias
        return weight, bias

    def attend(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Float[Tensor, "batch head pos d_head"]:
        """Softmax attention."""
        return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=self.scale)

    def project(self, attn: Any, z: Float[Tensor, "*rows head_by_d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What the heads write to the residual stream."""
        return functional.linear(z, rearrange(attn.W_O, "head d_head d_model -> (head d_head) d_model").T, attn.b_O)

    def reads(self, attn: Any, index: int, part: str, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_head"]:
        """One head's "q", "k" or "v" of the normed stream."""
        return x @ getattr(attn, f"W_{part.upper()}")[index] + getattr(attn, f"b_{part.upper()}")[index]

    def writes(self, attn: Any, index: int, z: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_model"]:
        """What one head's z adds to the residual stream, without the bias that all heads share."""
        return z @ attn.W_O[index]

    def output_weights(self, attn: Any) -> Float[Tensor, "head d_head d_model"]:
        """The output matrices of a layer's heads."""
        return attn.W_O

    def mlp(
        self, block: Any, residual: Float[Tensor, "*rows d_model"], like: Tensor | None = None
    ) -> Float[Tensor, "*rows d_model"]:
        """The residual stream after the block's MLP, if it has one; `like` as in `norm`."""
        if self.model.cfg.attn_only:
            return residual
        normed = self.norm(getattr(block, "ln2", None), residual, like)
        hidden = ACTIVATIONS[self.model.cfg.act_fn](functional.linear(normed, block.mlp.W_in.T, block.mlp.b_in))
        return residual + functional.linear(hidden, block.mlp.W_out.T, block.mlp.b_out)

    def unembed(
        self, residual: Float[Tensor, "*rows d_model"], like: Tensor | None = None
    ) -> Float[Tensor, "*rows d_vocab_out"]:
        """Logits from the last residual stream; `like` as in `norm`."""
        normed, unembed = self.norm(getattr(self.model, "ln_final", None), residual, like), self.model.unembed
        return functional.linear(normed, unembed.W_U.T, unembed.b_U)
