"""Pretrained language models: a loaded `transformers` model becomes a `TransformerBridge`, whose hooks an analysis can use.

Nothing is downloaded: the bridge is built around the model that is given, with its own weights and its own configuration. Its
attention is set to `eager`, the only implementation whose patterns can be seen and changed. The weights are not processed
(no folded norms), so logits are those of `transformers`.

A language model has tens of thousands of output tokens, of which a task asks for a few. With `answers` the unembedding is cut
to these: the same logits for them, without the memory (64 prompts of 100 tokens × 49,152 floats are 1.3 GB) and the time.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.models.hooks import evaluating, precise
from stackheads.models.outside.language import LanguageModel
from stackheads.seeds import Stream, stream

TOKENS = 16
"""So many in a row are tried on a bridge."""


def bridge(hf_model: Any, tokenizer: Any = None, answers: Sequence[int] | None = None) -> Any:
    """A `TransformerBridge` in eval mode around a causal language model of `transformers`.

    `answers`: token ids; logits have one column for each, in this order (None: the whole vocabulary). The modules of
    `hf_model` are wrapped in place and its attention becomes the eager one: it goes on to compute what it computed. Raises
    `ConfigError` if TransformerLens knows no such architecture, or its bridge gives other logits than the model, or an answer
    is no token of the model, or what is given is no such model. Cost: two forward passes on a few tokens.
    """
    _check(hf_model)
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    config = hf_model.config
    architecture = type(hf_model).__name__
    name = (getattr(config, "name_or_path", "") or architecture).rstrip("/").split("/")[-1]
    if hasattr(hf_model, "set_attn_implementation"):
        hf_model.set_attn_implementation("eager")
    inner = hf_model if answers is None else _cut(hf_model, answers)
    try:
        tokens, before = _tried(inner)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = build_bridge_from_module(inner, architecture, hf_config=config, tokenizer=tokenizer, model_name=name)
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise ConfigError(
            f"a bridge needs a causal language model that TransformerLens knows, got {architecture}: {said}"
        ) from None
    if answers is not None:
        model.cfg.d_vocab_out = len(answers)
    _compare(model.eval(), tokens, before, architecture)
    return model


def _tried(hf_model: Any) -> tuple[Int[Tensor, "batch pos"], Float[Tensor, "batch pos d_vocab_out"]]:
    """A few tokens, and the model's own logits on them."""
    config = hf_model.config.get_text_config()
    length = min(TOKENS, getattr(config, "max_position_embeddings", TOKENS))
    tokens = torch.randint(config.vocab_size, (2, length), generator=stream(0, Stream.OUTSIDE))
    tokens = tokens.to(next(hf_model.parameters(), tokens).device)
    with evaluating(hf_model), torch.no_grad(), precise():
        return tokens, hf_model(tokens).logits


def _compare(model: Any, tokens: Tensor, expected: Tensor, architecture: str) -> None:
    """Raise `ConfigError` if a bridge gives other logits than what it was built around."""
    with torch.no_grad(), precise():
        off = (model(tokens) - expected).abs().max().item()
    spread = (expected.amax(dim=-1) - expected.amin(dim=-1)).max().item()
    rounding = max(1e-3, 4 * torch.finfo(expected.dtype).eps)
    if not off <= rounding * max(spread, 1e-6):
        raise ConfigError(
            f"a bridge must give the model's logits, that of TransformerLens around {architecture} is off by {off:.2g} where "
            f"they spread by {spread:.2g}: use a model of another architecture"
        )


def _check(hf_model: object) -> None:
    """Raise `ConfigError` with the cure for what is no model of transformers."""
    if isinstance(hf_model, (str, Path)):
        kind, cure = repr(str(hf_model)), "load it, load_language_model(path).model (a checkpoint of ours needs no bridge)"
    elif isinstance(hf_model, LanguageModel):
        kind, cure = "a LanguageModel", "give its .model"
    elif hasattr(hf_model, "cfg") or (hasattr(hf_model, "model") and hasattr(hf_model, "task")):
        kind, cure = type(hf_model).__name__, "it needs no bridge, analyse it as it is"
    elif isinstance(getattr(hf_model, "module", None), torch.nn.Module):
        kind, cure = type(hf_model).__name__, "give the model inside, .module"
    elif hasattr(hf_model, "_orig_mod"):
        kind, cure = type(hf_model).__name__, "give the model that was compiled, ._orig_mod"
    elif not (isinstance(hf_model, torch.nn.Module) and hasattr(hf_model, "config")):
        kind, cure = type(hf_model).__name__, "load one with AutoModelForCausalLM"
    else:
        return
    raise ConfigError(f"a bridge is built around a causal language model of transformers, got {kind}: {cure}")


def _cut(hf_model: Any, answers: Sequence[int]) -> Any:
    """The same model, sharing everything but its unembedding, which has the rows of `answers` only."""
    whole = hf_model.get_output_embeddings()
    rows = torch.as_tensor(list(answers), dtype=torch.long, device=whole.weight.device)
    if not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= whole.weight.shape[0]:
        raise ConfigError(
            f"answers must be tokens of the model, in [0, {whole.weight.shape[0]}), got {list(answers)[:5]}: use its tokenizer"
        )
    part = torch.nn.Linear(whole.weight.shape[1], len(rows), bias=whole.bias is not None, device="meta")
    part.weight = torch.nn.Parameter(whole.weight.detach()[rows], requires_grad=False)
    if whole.bias is not None:
        part.bias = torch.nn.Parameter(whole.bias.detach()[rows], requires_grad=False)
    view = copy.copy(hf_model)
    view._modules = dict(hf_model._modules)
    view.set_output_embeddings(part)
    return view
