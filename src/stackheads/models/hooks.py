"""The only file that knows hook names: what a model computes inside its heads, and how to change it on the way.

`record` runs a model once and returns its heads' patterns, values and outputs; `edited` is a context manager inside which
chosen heads give other outputs or patterns. Everything else takes a model by structure (`cfg`, `hooks`, call), so a
`HookedTransformer` and a `TransformerBridge` serve alike. The caller's own hooks stay in place, also when something raises.

Where queries are grouped (several heads share keys and values), every head is recorded with the values that it reads, so that
patterns, values and outputs are those of single heads, and so are edits.
"""

from collections.abc import Callable, Container, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.models.forwards.rotary import input_hooks
from stackheads.models.kinds import check_model
from stackheads.models.memory import kept_memory
from stackheads.models.protocol import Model
from stackheads.models.runs import Recording
from stackheads.types import HeadId


@dataclass(frozen=True)
class HeadEdit:
    """Replace a head's output z (before W_O) by `z` at the rows where `rows` is True. `head` may be given by its name."""

    head: HeadId
    rows: Bool[Tensor, "batch pos"]
    z: Float[Tensor, "batch pos d_head"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", HeadId.of(self.head))


@dataclass(frozen=True)
class CarryEdit(HeadEdit):
    """Change what a head carries by `change`, `z` being what comes of it where nothing stands between pattern · v and z.

    Where hooks of the caller's do, they act on the changed output, as they would if the values themselves had changed.
    """

    change: Float[Tensor, "batch pos d_head"]


@dataclass(frozen=True)
class PatternEdit:
    """Replace a head's attention pattern by `pattern` at the rows where `rows` is True."""

    head: HeadId
    rows: Bool[Tensor, "batch pos"]
    pattern: Float[Tensor, "batch pos source"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", HeadId.of(self.head))


Edit = HeadEdit | PatternEdit
Pads = Bool[Tensor, "batch pos"] | None
"""Positions that are not there (`Batch.pads`)."""


def hook_name(layer: int, what: str) -> str:
    """The hook point of "pattern", "v", "z", "q", "k", "rot_q", "rot_k" (in attention), "resid_pre", "resid_post" or "attn_out"
    in a layer.
    """
    outside = ("resid_pre", "resid_post", "attn_out")
    return f"blocks.{layer}.hook_{what}" if what in outside else f"blocks.{layer}.attn.hook_{what}"


@contextmanager
def precise() -> Generator[None]:
    """Numbers as precise as the model's own inside, whatever autocast the caller is in."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def evaluating(model: Model) -> Generator[None]:
    """Eval mode inside; afterwards every part is in the mode that it was in."""
    training = [part for part in model.modules() if part.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def analysing(model: Model) -> Generator[None]:
    """No gradients, no autocast, eval mode and kept memory inside; the model's modes as they were afterwards."""
    check_model(model)
    with evaluating(model), torch.no_grad(), precise(), kept_memory():
        yield


def check_apart(model: Model) -> None:
    """Raise `InterventionError` if two layers share one attention: its hooks don't say for which of them they run."""
    first: dict[int, int] = {}
    for layer, block in enumerate(model.blocks):
        one = first.setdefault(id(getattr(block, "attn", block)), layer)
        if one != layer:
            raise InterventionError(
                f"each layer must have heads of its own, layers {one} and {layer} share theirs, which can't be told apart: "
                f"give layer {layer} a copy.deepcopy of them, and call model.setup()"
            )


def all_heads(model: Model) -> list[HeadId]:
    """Every head of the model, layer by layer. Raises `InterventionError` if two layers share theirs."""
    check_apart(model)
    return [HeadId(layer, index) for layer in range(model.cfg.n_layers) for index in range(model.cfg.n_heads)]


def logits_of(model: Model, tokens: Int[Tensor, "batch pos"], pads: Pads = None) -> Float[Tensor, "batch pos d_vocab_out"]:
    """The model's logits, pads kept from attention by the model's own mask. Cost: one forward pass."""
    return model(tokens) if pads is None else model(tokens, attention_mask=(~pads).long())


def record(model: Model, tokens: Int[Tensor, "batch pos"], pads: Pads = None, part: int | None = None) -> Recording:
    """Run the model once and keep what its heads do. Cost: one forward pass. Raises `ConfigError` for what is no such model,
    `InterventionError` if two layers share their heads or one does not run its hooks.

    `part`: so many examples at a time, which takes less memory; None: all at once, as hooks of the caller's may expect.
    """
    check_model(model)
    inputs = input_hooks(model) or ()
    logits, kept = _run_keeping(model, tokens, pads, ("pattern", "v", "z", "resid_pre", *inputs), part)
    q, k = (kept.pop(name).transpose(2, 3).contiguous() for name in inputs) if inputs else (None, None)
    return Recording(logits, kept["pattern"], kept["v"], kept["z"], kept["resid_pre"], q, k)


def record_values(
    model: Model, tokens: Int[Tensor, "batch pos"], pads: Pads = None
) -> tuple[Float[Tensor, "batch pos d_vocab_out"], Float[Tensor, "layer batch pos head d_head"]]:
    """Logits and value vectors of one run: all that a counterfactual is needed for. Cost: one forward pass."""
    logits, kept = _run_keeping(model, tokens, pads, ("v",))
    return logits, kept["v"]


def _run_keeping(
    model: Model, tokens: Int[Tensor, "batch pos"], pads: Pads, what: tuple[str, ...], part: int | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of one run, and for each kind of hook its values, stacked over layers."""
    layers, heads, n = range(model.cfg.n_layers), model.cfg.n_heads, len(tokens)
    parts = [slice(start, start + (part or n)) for start in range(0, n, part or n)] if n else [slice(0)]
    kept: dict[str, Tensor] = {}
    ran: set[str] = set()
    here = parts[0]

    def keep(value: Tensor, hook: Any, *, layer: int, kind: str) -> None:
        ran.add(hook_name(layer, kind))
        if kind in ("rot_k", "v") and value.shape[2] < heads:
            value = value.repeat_interleave(heads // value.shape[2], dim=2)
        if kind not in kept:
            kept[kind] = value.new_empty((len(layers), n, *value.shape[1:]))
        kept[kind][layer, here] = value

    hooks = [(hook_name(layer, kind), partial(keep, layer=layer, kind=kind)) for layer in layers for kind in what]
    check_apart(model)
    _check_ran(model, [name for name, _ in hooks], model.hook_dict)
    with analysing(model), model.hooks(fwd_hooks=hooks):
        logits = []
        for here in parts:
            logits.append(logits_of(model, tokens[here], None if pads is None else pads[here]))
    _check_ran(model, [name for name, _ in hooks], ran)
    return logits[0] if len(logits) == 1 else torch.cat(logits), kept


def _check_ran(model: Model, names: Sequence[str], ran: Container[str]) -> None:
    """Raise `InterventionError` for the first of these hooks that is not among those that ran."""
    if missing := [name for name in names if name not in ran]:
        cure = "use a HookedTransformer, or a language model whose attention TransformerLens can see"
        if len(missing) < len(names):
            cure = "give every layer attention of its own, and call model.setup() once its parts are in place"
        raise InterventionError(f"a model must run {missing[0]} to be looked into, {type(model).__name__} does not: {cure}")


@contextmanager
def edited(model: Model, edits: Sequence[Edit]) -> Generator[None]:
    """Inside, the model's heads are edited. Edits of one head at overlapping rows apply in the order given, those of
    patterns before those of outputs.

    Raises `InterventionError` on entry if a head does not exist, on leaving (without another error) if an edit's hook
    never ran, so that an intervention can't be silently without effect.
    """
    pending = [False] * len(edits)
    check_model(model)
    hooks = [_hook(model, edit, partial(pending.__setitem__, number, True)) for number, edit in enumerate(edits)]
    carried = [isinstance(edit, CarryEdit) for edit in edits]
    first = [hook for hook, early in zip(hooks, carried, strict=True) if early]
    last = [hook for hook, early in zip(hooks, carried, strict=True) if not early]
    with analysing(model), model.hooks(fwd_hooks=last), _before_others(model, first):
        yield
    if not all(pending):
        missed = edits[pending.index(False)].head
        raise InterventionError(f"every edit must act, the one on {missed} did not: run the model inside the context")


def run_edited(
    model: Model, tokens: Int[Tensor, "batch pos"], edits: Sequence[Edit], pads: Pads = None
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits of one run with the edits in place. Cost: one forward pass."""
    with edited(model, edits):
        return logits_of(model, tokens, pads)


def check_head(model: Model, head: HeadId) -> None:
    """Raise `InterventionError` if the model has no such head, or if two layers share theirs."""
    check_apart(model)
    HeadId.of(head).check(model.cfg.n_layers, model.cfg.n_heads)


@contextmanager
def _before_others(model: Model, hooks: Sequence[tuple[str, Callable[..., Tensor]]]) -> Generator[None]:
    """Inside, these hooks run before all others at their points."""
    added = []
    try:
        for name, hook in reversed(hooks):
            point = model.hook_dict[name]
            point.add_hook(hook, prepend=True)
            added.append((point, point.fwd_hooks[0]))
        yield
    finally:
        for point, handle in added:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


def _hook(model: Model, edit: Edit, fired: Callable[[], None]) -> tuple[str, Callable[..., Tensor]]:
    head = edit.head
    check_head(model, head)

    def replace(value: Tensor, hook: Any) -> Tensor:
        fired()
        value = value.clone()
        if isinstance(edit, CarryEdit):
            value[:, :, head.index] += torch.where(edit.rows[..., None], edit.change, 0.0)
        elif isinstance(edit, HeadEdit):
            value[:, :, head.index] = torch.where(edit.rows[..., None], edit.z, value[:, :, head.index])
        else:
            value[:, head.index] = torch.where(edit.rows[..., None], edit.pattern, value[:, head.index])
        return value

    return hook_name(head.layer, "z" if isinstance(edit, HeadEdit) else "pattern"), replace
