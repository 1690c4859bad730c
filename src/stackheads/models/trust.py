"""When a forward without hooks may stand for a model: only where nothing stands in its way, and its numbers are the same.

*Nothing in its way* (`obstacle`): all parts are of kinds that the forward was written for, and no hook of the caller's is on
any of them. This is no proof, it only saves a vain attempt, and keeps out what may act on some inputs and not on others (a
clamp, a hook with a condition), which no comparison on one batch can see.

*The same numbers* (`differs`): logits are compared with those of the model's own forward, and may differ by rounding alone.
Both do the same sums in another order. A sum of d numbers that is added up in floating point is off by about √d roundings, each
of half a unit in the last place (ε / 2, relative to the terms; Higham, *Accuracy and Stability of Numerical Algorithms*, §4.5).
A layer has two such sums on the way of the residual stream (attention and MLP), each behind a projection; so does the
unembedding. With the two forwards' errors independent, and a reserve of two, logits of the size s may differ by

    4 √d_model · ε (layers + 1) s

where later layers pass errors on as large as they come. Where they enlarge them (sharp attention, large weights) this is too
little, and the enlargement is measured: the model's own run with every number of the stream before each layer off by one ε
gives logits that are off by δ, and δ takes the place of ε (layers + 1) s. What is taken for rounding must also be too small to
matter: never more than a thousandth of the spread of the logits. In half precision rounding itself is more than that, and
models are run through their hooks.
"""

import dataclasses
import hashlib
import math
import warnings
import zlib
from types import BuiltinFunctionType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from stackheads.errors import StackheadsWarning
from stackheads.models.forwards.fused import FusedForward, TensorMap, supported
from stackheads.models.forwards.rotary import forward_of
from stackheads.models.hooks import analysing, hook_name
from stackheads.models.protocol import Model

MATTERS = 1e-3
"""The share of the logits' spread from which on a difference is more than rounding, whatever the precision."""

PROBES = 8
"""Examples on which a forward for training is compared."""

KNOWN_CODE = ("torch", "transformer_lens", "transformers")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

PLAIN = (int, float, str, FunctionType, BuiltinFunctionType)
"""Kinds of settings that can be compared: numbers, names and activation functions."""

_told: "WeakKeyDictionary[Any, set[str]]" = WeakKeyDictionary()
"""What was said about which model, so that it is said once."""


def obstacle(model: Model) -> str | None:
    """Why no forward without hooks can be tried in the place of this model's own; None where one can."""
    for name, part in model.named_modules():
        if any(_is_callers(hook, part) for kind in HOOKS for hook in getattr(part, kind).values()):
            return f"there is a hook of yours on {name or 'the model'}"
        if type(part).__module__.split(".")[0] not in KNOWN_CODE or "forward" in vars(part):
            return f"{name or 'the model'} has a forward of its own ({type(part).__name__})"
    if any(getattr(torch_modules, f"_global{kind}", None) for kind in HOOKS):
        return "there is a hook of yours on all modules"
    return None if forward_of(model) else f"no other forward is known for its structure or settings ({type(model).__name__})"


def _is_callers(hook: Any, part: nn.Module) -> bool:
    """Whether the caller put a hook here: at a hook point all are; elsewhere a bridge has some of its own."""
    return type(part).__name__ == "HookPoint" or not str(getattr(hook, "__module__", "")).startswith("transformer_lens.")


def state(model: Model) -> tuple[Any, ...]:
    """What tells whether a model is still the one that it was: checksums of its weights and buffers, its settings and its
    parts'. Versions of tensors would not tell: `weight.data[0] = 0` leaves them as they are, inference mode has none.

    Cost: a second for three gigabytes on the CPU.
    """
    parts = [part for part in model.modules() if type(part).__name__ != "HookPoint"]  # which most are, and hold nothing
    tensors = [each for part in parts for each in (*part.parameters(recurse=False), *part.buffers(recurse=False))]
    held: list[Any] = [*(each.device for each in tensors), *_checksums(tensors)]
    for part in parts:
        if part is not model:  # whose own say how often it is in use
            plain = {name: value for name, value in vars(part).items() if isinstance(value, PLAIN)}
            held += [value for name, value in plain.items() if name != "training" and not name.startswith("_")]
    settings = model.cfg
    plain = [getattr(settings, each.name, None) for each in dataclasses.fields(settings)] if _is_record(settings) else []
    return (*held, *(value for value in plain if isinstance(value, PLAIN)))


def _checksums(tensors: list[Tensor]) -> list[Any]:
    """What each tensor holds, of its bytes; on a device by sums, so that only these are waited for, and once."""
    if all(each.device.type == "cpu" for each in tensors):
        return [zlib.crc32(_bytes(each)) for each in tensors]
    return torch.stack([_sums(each).to(tensors[0].device) for each in tensors]).tolist()


def _sums(tensor: Tensor) -> Float[Tensor, "3"]:
    """Numbers, their squares, and numbers by their places, summed; what is not finite, as the mask's -inf that an attention of
    TransformerLens holds, as some number, since the sums would not equal themselves.
    """
    numbers = tensor.detach().flatten().double().nan_to_num(nan=math.pi, posinf=math.e, neginf=-math.e)
    places = torch.arange(len(numbers), dtype=torch.double, device=numbers.device)
    return torch.stack([numbers.sum(), numbers.square().sum(), numbers @ places])


def fingerprint(model: Model) -> str:
    """A digest of a model's weights. Cost: a second for a gigabyte."""
    total = hashlib.blake2b(digest_size=16)
    for name, weight in model.named_parameters():
        total.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        total.update(_bytes(weight))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def differs(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    found: Float[Tensor, "batch pos d_vocab_out"],
    expected: Float[Tensor, "batch pos d_vocab_out"],
) -> str | None:
    """By how much logits differ, in words, if it is more than rounding explains; None where it is not.

    Cost: nothing where they differ by little, else one forward pass.
    """
    difference, epsilon = (found - expected).abs().max().item(), torch.finfo(expected.dtype).eps
    size, terms = expected.abs().max().item(), _terms(model)
    matters = MATTERS * max((expected.amax(dim=-1) - expected.amin(dim=-1)).max().item(), terms)
    bound = _rounding(model, epsilon * (model.cfg.n_layers + 1) * max(size, terms))
    if bound < difference <= matters:
        bound = max(bound, _rounding(model, _disturbed(model, tokens, epsilon)))
    bound = min(bound, matters)
    return None if difference <= bound else f"logits differ by up to {difference:.1g}, rounding explains {bound:.1g}"


def _terms(model: Model) -> float:
    """How large a logit's terms are, for a stream of length 1: where logits are all but zero they cancel, rounding does not."""
    weight = getattr(getattr(model, "unembed", None), "W_U", None)
    return weight.detach().norm(dim=0).max().item() if isinstance(weight, Tensor) else 0.0


def _rounding(model: Model, of_one: float) -> float:
    """The largest difference that is rounding, as derived above, where one ε in each layer makes one of `of_one`."""
    return 4 * model.cfg.d_model**0.5 * of_one


def _disturbed(model: Model, tokens: Int[Tensor, "batch pos"], epsilon: float) -> float:
    """How much logits change if the stream before every layer is off by one ε, up or down as a sine has it."""

    def disturb(value: Tensor, hook: Any) -> Tensor:
        place = torch.arange(value.numel(), device=value.device, dtype=torch.double).reshape(value.shape)
        return value * (1 + epsilon * torch.sin(13 * place + hook.layer()).sign().to(value.dtype))

    places = [hook_name(layer, "resid_pre") for layer in range(model.cfg.n_layers)]
    with analysing(model):
        plain = model(tokens)
        with model.hooks(fwd_hooks=[(place, disturb) for place in places]):
            return (model(tokens) - plain).abs().max().item()


def forward_for_training(model: Model, tokens: Int[Tensor, "batch pos"] | None = None) -> TensorMap:
    """The fastest forward that is seen to compute what `model(tokens)` computes; `model` itself where no fused one does.

    Cost: two forward passes on at most `PROBES` of the tokens, or as many made up.
    """
    why = why_not_fused(model, tokens)
    if why is None:
        return FusedForward(model)
    tell(model, why)
    return model


def why_not_fused(model: Model, tokens: Int[Tensor, "batch pos"] | None = None) -> str | None:
    """Why the fused forward can't stand for the model in training; None where its logits are seen to be the same."""
    reason = obstacle(model)
    if reason or not supported(model):
        return reason or f"no fused forward is known for its structure ({type(model).__name__})"
    probes = _made_up(model) if tokens is None else tokens[:PROBES]
    try:
        with torch.no_grad():
            reason = differs(model, probes, FusedForward(model)(probes), model(probes))
    except (AttributeError, RuntimeError, TypeError, ValueError, LookupError) as error:  # parts that are not as expected
        return f"the fused forward can't compute it ({type(error).__name__}: {' '.join(str(error).split())[:80]})"
    return reason and f"the fused forward is not the model's ({reason})"


def _made_up(model: Model) -> Int[Tensor, "batch pos"]:
    """Every token at some place, as far as there is room."""
    device = next(model.parameters()).device
    steps = torch.arange(model.cfg.n_ctx, device=device) + model.cfg.n_ctx * torch.arange(PROBES, device=device)[:, None]
    return steps % model.cfg.d_vocab


def tell(model: Model, why: str) -> None:
    """Say once of a model that it is run through its hooks, and why; what stands in brackets at the end is detail."""
    told = _told.setdefault(model, set())
    if (fact := why.split(" (")[0]) not in told:
        told.add(fact)
        warnings.warn(f"running the model through its own hooks, which is slower: {why}", StackheadsWarning, stacklevel=3)


def _is_record(settings: Any) -> bool:
    return dataclasses.is_dataclass(settings) and not isinstance(settings, type)
