"""Everything that the engine and path patching do, through the model's own hooks: slower, and right for every model.

Norms are frozen by holding their scales: those of a run without edits are put in at each norm's `hook_scale`, in the order in
which it computes them. Paths are followed in whole runs. For each sender, (1) with its output replaced, what its layer writes
(`hook_attn_out`) minus what it writes otherwise is the change that it sends; (2) with this added before the receiver's layer
(`hook_resid_pre`), the receiver's query, key or value is read; (3) with that alone put in, its output is read. The direct path
is the change added after the last layer. The caller's hooks act in all of these. A model that lacks a hook is refused by its
name.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.models.hooks import Edit, HeadEdit, Pads, analysing, edited, hook_name, logits_of, run_edited
from stackheads.models.protocol import Model
from stackheads.types import HeadId

Change = tuple[str, Callable[..., Tensor]]


def hooked_logits(
    model: Model, tokens: Int[Tensor, "batch pos"], variants: Sequence[Sequence[Edit]], frozen_norms: bool, pads: Pads = None
) -> Iterator[Float[Tensor, "batch pos d_vocab_out"]]:
    """Logits with each list of edits in place. Cost: a forward pass each, and one more where norms are frozen."""
    scales = norm_scales(model, tokens, pads) if frozen_norms else {}
    for edits in variants:
        with _held(model, scales):
            yield run_edited(model, tokens, edits, pads)


def norm_scales(model: Model, tokens: Int[Tensor, "batch pos"], pads: Pads = None) -> dict[str, list[Tensor]]:
    """What each norm of the residual stream divides by, in the order of its calls. Cost: one forward pass.

    Raises `InterventionError` if a norm has no `hook_scale`.
    """
    names = [name for name in model.hook_dict if name.endswith("hook_scale") and ".attn." not in name]
    holders = {name.removesuffix("hook_scale") for name in names}
    for path, part in model.named_modules():
        name = path.replace("._original_component", "")  # a bridge's parts hang on what it wraps, its hooks do not
        if "Norm" in type(part).__name__ and ".attn." not in name and not any((name + ".").startswith(it) for it in holders):
            raise InterventionError(
                f"frozen norms need the hook {name}.hook_scale, {type(model).__name__} has none: leave them live"
            )
    scales: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(value: Tensor, hook: Any, *, name: str) -> None:
        scales[name].append(value.clone())

    with analysing(model), model.hooks(fwd_hooks=[(name, partial(keep, name=name)) for name in names]):
        logits_of(model, tokens, pads)
    return scales


@contextmanager
def _held(model: Model, scales: dict[str, list[Tensor]]) -> Generator[None]:
    """Inside, for one run, every norm divides by these scales."""
    left = {name: iter(values) for name, values in scales.items()}

    def hold(value: Tensor, hook: Any, *, name: str) -> Tensor:
        return next(left[name])

    with model.hooks(fwd_hooks=[(name, partial(hold, name=name)) for name in scales]):
        yield


def hooked_change(
    model: Model, tokens: Int[Tensor, "batch pos"], edit: HeadEdit, pads: Pads = None
) -> Float[Tensor, "batch pos d_model"]:
    """What the layer of a head writes with the edit in place, minus what it writes without. Cost: two forward passes."""
    place = hook_name(edit.head.layer, "attn_out")
    with edited(model, [edit]):
        after = _read(model, tokens, pads, place)
    return after - _read(model, tokens, pads, place)


def hooked_output(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    receiver: HeadId,
    part: str,
    change: Float[Tensor, "batch pos d_model"],
    pads: Pads = None,
) -> Float[Tensor, "batch pos d_head"]:
    """The receiver's z where `change` enters one of its inputs alone. Cost: two forward passes."""
    place = hook_name(receiver.layer, part)
    new = _read(model, tokens, pads, place, [_adding(hook_name(receiver.layer, "resid_pre"), change)])
    index = receiver.index * new.shape[2] // model.cfg.n_heads  # of its own query, or of the keys and values of its group

    def put(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, :, index] = new[:, :, index]
        return value

    return _read(model, tokens, pads, hook_name(receiver.layer, "z"), [(place, put)])[:, :, receiver.index]


def hooked_direct(
    model: Model, tokens: Int[Tensor, "batch pos"], change: Float[Tensor, "batch pos d_model"], pads: Pads = None
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits with `change` entering after the last layer. Cost: one forward pass."""
    name, add = _adding(hook_name(model.cfg.n_layers - 1, "resid_post"), change)
    ran: list[bool] = []

    def once(value: Tensor, hook: Any) -> Tensor:
        ran.append(True)
        return add(value, hook)

    _check_hooks(model, [name])
    with analysing(model), model.hooks(fwd_hooks=[(name, once)]):
        logits = logits_of(model, tokens, pads)
    if not ran:
        raise _missing(model, name)
    return logits


def _read(model: Model, tokens: Tensor, pads: Pads, place: str, changes: Sequence[Change] = ()) -> Tensor:
    """What stands at a hook in a run with these changes."""
    kept: list[Tensor] = []

    def keep(value: Tensor, hook: Any) -> None:
        kept.append(value.clone())

    _check_hooks(model, [place, *(name for name, _ in changes)])
    with analysing(model), model.hooks(fwd_hooks=[*changes, (place, keep)]):
        logits_of(model, tokens, pads)
    if not kept:
        raise _missing(model, place)
    return kept[-1]


def _adding(name: str, change: Tensor) -> Change:
    def add(value: Tensor, hook: Any) -> Tensor:
        return value + change

    return name, add


def _check_hooks(model: Model, names: Sequence[str]) -> None:
    for name in names:
        if name not in model.hook_dict:
            raise _missing(model, name)


def _missing(model: Model, name: str) -> InterventionError:
    return InterventionError(
        f"path patching needs the hook {name}, {type(model).__name__} does not run it: patch whole heads instead"
    )
