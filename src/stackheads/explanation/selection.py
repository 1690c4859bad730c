"""Learned head selection: which K heads does a trained model need most? (Li, Cotterell & Sachan 2021, arXiv 2108.04657.)

Differentiable subset pruning: every head has a logit; a gate vector that sums to K is drawn from them by K relaxed draws
without replacement (Gumbel top-K, Xie & Ermon 2019), and multiplies what the heads write beyond their positional mean over the
batch, so that a closed gate leaves the mean and not a hole. Only the logits are trained, on the task's own loss, while the
temperature falls; then the K largest are kept. The model's weights stay as they are.

A search, with a seed: it may miss a better set. What it gives is an upper bound on how many heads the behaviour needs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.limits import check_number
from stackheads.models.forwards.fused import FusedForward, TensorMap
from stackheads.models.hooks import all_heads, evaluating, hook_name, precise
from stackheads.models.kinds import check_model
from stackheads.models.protocol import Model
from stackheads.models.trust import tell, why_not_fused
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch, Task, draw
from stackheads.tasks.layout import check_no_pads, check_one_layout
from stackheads.tasks.scoring import loss, query_accuracy
from stackheads.types import HeadId

LEARNING_RATE = 0.1
HOT, COLD = 2.0, 0.1
"""Temperature of the relaxed draws at the first and the last step."""


Gated = Callable[[Any, Tensor], TensorMap]


@dataclass(frozen=True)
class Selection:
    """The heads that are kept, and the accuracy per hop with all others at their positional mean, on fresh examples."""

    heads: tuple[HeadId, ...]
    accuracy: dict[int, float]


@precise()
def select_heads(model: Model, task: Task, keep: int, steps: int = 300, batch: int = 128, seed: int = 0) -> Selection:
    """Learn which `keep` heads to keep. Raises `ConfigError` for an impossible number or seed, or what is no model, `TaskError`
    where layouts vary or there are pads.

    Gates act in the fused forward where its logits are seen to be the model's, else in the model's own, by hooks.
    Cost: `steps` forward and backward passes on `batch` examples, and one on 1,024.
    """
    check_model(model)
    heads = all_heads(model)
    keep = check_number("keep", keep, 0, len(heads), ", the heads of the model", "choose one of these")
    generator = stream(seed, Stream.HEADS_SOUGHT)
    device = next(model.parameters()).device
    logits = torch.zeros(len(heads), requires_grad=True, device=device)
    optimiser = torch.optim.Adam([logits], lr=LEARNING_RATE)
    forward: Gated | None = None
    for step in range(steps if 0 < keep < len(heads) else 0):
        examples_now = draw(task, batch, generator).to(device)
        _check(examples_now)
        temperature = HOT * (COLD / HOT) ** (step / max(steps - 1, 1))
        gates = relaxed_subset(logits, keep, temperature, generator)
        forward = forward or gated_forward(model, examples_now.tokens)
        value = loss(task, forward(model, gates)(examples_now.tokens), examples_now)
        optimiser.zero_grad()
        (logits.grad,) = torch.autograd.grad(value, [logits])
        optimiser.step()
    chosen = sorted(logits.detach().topk(keep).indices.tolist())
    kept = tuple(heads[index] for index in chosen)
    return Selection(kept, kept_accuracy(model, task, kept, seed=seed))


def _check(batch: Batch) -> None:
    """Raise `TaskError` where layouts vary or there are pads, which no mask keeps out here."""
    check_one_layout(batch, "heads are selected beyond positional means")
    check_no_pads(batch, "heads are selected")


def kept_accuracy(model: Model, task: Task, heads: Sequence[HeadId], examples: int = 1024, seed: int = 0) -> dict[int, float]:
    """Accuracy per hop at the query with all heads but these at their positional mean, on fresh examples. Cost: one forward
    pass.
    """
    check_model(model)
    device = next(model.parameters()).device
    fresh = draw(task, examples, stream(seed, Stream.HEADS_KEPT)).to(device)
    _check(fresh)
    gates = torch.tensor([float(head in heads) for head in all_heads(model)], device=device)
    with torch.no_grad(), precise():
        return query_accuracy(task, gated_forward(model, fresh.tokens)(model, gates)(fresh.tokens), fresh)


def selection_curve(model: Model, task: Task, sizes: Sequence[int] | None = None, **settings: Any) -> dict[int, Selection]:
    """`select_heads` for several sizes (all by default); `settings` as there."""
    sizes = range(len(all_heads(model)) + 1) if sizes is None else sizes
    return {size: select_heads(model, task, size, **settings) for size in sizes}


def smallest(curve: dict[int, Selection], accuracy: float = 0.99) -> Selection | None:
    """The smallest selection that answers every hop at least this well; None if none does."""
    good = [selection for _, selection in sorted(curve.items()) if min(selection.accuracy.values()) >= accuracy]
    return good[0] if good else None


def relaxed_subset(
    logits: Float[Tensor, "head"], keep: int, temperature: float, generator: torch.Generator
) -> Float[Tensor, "head"]:
    """Gates in [0, 1] that sum to `keep`: relaxed draws without replacement; near a hard subset at low temperature."""
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float).clamp(min=1e-9).to(logits.device)
    keys = logits - torch.log(-torch.log(uniform))
    gates = torch.zeros_like(logits)
    drawn = torch.zeros_like(logits)
    for _ in range(keep):
        keys = keys + torch.log((1 - drawn).clamp(min=1e-9))
        drawn = (keys / temperature).softmax(dim=0)
        gates = gates + drawn
    return gates.clamp(max=1.0)


def gated_forward(model: Model, tokens: Int[Tensor, "batch pos"]) -> Gated:
    """How gates are put into this model, from a model and gates to a forward. Cost: two forward passes on few examples."""
    why = why_not_fused(model, tokens)
    if why is None:
        return GatedForward
    tell(model, why)
    return partial(partial, hooked_gates)


def hooked_gates(
    model: Model, gates: Float[Tensor, "head"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """What a `GatedForward` computes, by hooks on the model's own forward."""
    of_layers = gates.unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))

    def gate(value: Tensor, hook: Any) -> Tensor:
        mean = value.mean(dim=0)
        return mean + of_layers[hook.layer()][:, None] * (value - mean)

    places = [hook_name(layer, "z") for layer in range(model.cfg.n_layers)]
    with evaluating(model), model.hooks(fwd_hooks=[(place, gate) for place in places]):
        return model(tokens)


class GatedForward(FusedForward):
    """A fused forward in which every head's output beyond its positional mean over the batch is multiplied by a gate."""

    def __init__(self, model: Model, gates: Float[Tensor, "head"]):
        super().__init__(model)
        self._gates = gates.unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))
        self._layer = {id(block.attn): layer for layer, block in enumerate(model.blocks)}

    def project(self, attn: Any, z: Float[Tensor, "*rows head_by_d_head"]) -> Float[Tensor, "*rows d_model"]:
        heads = rearrange(z, "b p (h d) -> b p h d", h=self.model.cfg.n_heads)
        mean = heads.mean(dim=0)
        gated = mean + self._gates[self._layer[id(attn)]][:, None] * (heads - mean)
        return super().project(attn, rearrange(gated, "b p h d -> b p (h d)"))
