"""What may be given as a model: a `HookedTransformer` or a `TransformerBridge`, known by structure; all else by its cure."""

from pathlib import Path

from torch import nn

from stackheads.errors import ConfigError


def check_model(model: object) -> None:
    """Raise `ConfigError` with the cure for anything whose heads can't be looked into."""
    if not _is_hooked(model):
        raise ConfigError(f"a model is a HookedTransformer or a TransformerBridge, got {_kind(model)}: {_cure(model)}")


def _is_hooked(model: object) -> bool:
    if not isinstance(model, nn.Module) or hasattr(model, "_orig_mod"):
        return False
    cfg = getattr(model, "cfg", None)
    return all(hasattr(cfg, name) for name in ("n_layers", "n_heads", "d_head")) and callable(getattr(model, "hooks", None))


def _kind(model: object) -> str:
    return (
        repr(str(model)) if isinstance(model, (str, Path)) else "a class" if isinstance(model, type) else type(model).__name__
    )


def _cure(model: object) -> str:
    if isinstance(model, (str, Path)):
        return "load it, load(path).model"
    if isinstance(model, type):
        return "make an instance of it"
    if hasattr(model, "_orig_mod"):
        return "give the model that was compiled, ._orig_mod"
    if isinstance(getattr(model, "model", None), nn.Module) and hasattr(model, "task"):
        return "give its .model"
    if isinstance(getattr(model, "model", None), nn.Module) and hasattr(model, "tokenizer"):
        return "give models.bridge(….model)"
    if isinstance(model, nn.Module) and isinstance(getattr(model, "module", None), nn.Module):
        return "give the model inside, .module"
    if any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__):
        return "wrap it, models.bridge(model)"
    if isinstance(model, dict):
        return "make a model of the weights, models.from_gpt2(weights, n_heads)"
    return "write it as one, with transformer_lens"
