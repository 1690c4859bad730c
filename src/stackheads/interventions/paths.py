"""Path patching (Wang et al. 2023, arXiv 2211.00593, §3.1): one head's output reaches one input of another, and nothing else.

The sender's output z at its rows is replaced; the change z' - z, through W_O, is added to the residual stream before the
receiver's layer and nowhere else, so all that lies between is frozen, MLPs included. LayerNorm and the receiver's query, key
*or* value projection see it; the receiver's output is computed anew, and patched into the run at the receiver's rows, after
which everything reacts. The direct path to the logits is the same with the last LayerNorm and the unembedding as receiver.

All senders of a receiver are computed in one batch. Exact; needs a model that the fused forward covers (`models/fused.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded
from stackheads.models.fused import FusedForward, supported
from stackheads.models.hooks import HeadEdit
from stackheads.types import HeadId

Input = Literal["q", "k", "v"]
INPUTS: tuple[Input, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Sender:
    """A head whose output is replaced by `z` at `rows`."""

    head: HeadId
    rows: Bool[Tensor, "batch pos"]
    z: Float[Tensor, "batch pos d_head"]


def check_paths(model: Any) -> None:
    """Raise `InterventionError` if paths can't be patched in this model."""
    if not supported(model):
        raise InterventionError(
            f"path patching needs a model that models/fused.py covers, {type(model).__name__} has parts that it does not: "
            "patch whole heads instead"
        )


def receiver_outputs(
    model: Any, clean: Recorded, receiver: HeadId, senders: Sequence[Sender], part: Input
) -> Float[Tensor, "sender batch pos d_head"]:
    """The receiver's z with each sender's change entering one of its inputs.

    Raises `InterventionError` if a sender is not in an earlier layer, or the model has parts that paths don't cover.
    Cost: one head's attention for each sender; no forward pass.
    """
    check_paths(model)
    for sender in senders:
        if sender.head.layer >= receiver.layer:
            raise InterventionError(f"a path runs to a later layer, got {sender.head} to {receiver}: swap them")
    with torch.no_grad():
        forward, block = FusedForward(model), model.blocks[receiver.layer]
        residual = _residuals(clean)[receiver.layer]
        changed = torch.stack([residual + _written(model, clean, sender) for sender in senders])
        parts = _recorded_inputs(clean, receiver)
        parts[part] = _project(block.attn, receiver.index, part, forward.norm(getattr(block, "ln1", None), changed))
        return forward.attend(*(parts[name].expand(len(senders), -1, -1, -1) for name in INPUTS), causal=forward.causal)


def path_edits(
    model: Any, clean: Recorded, receiver: HeadId, rows: Bool[Tensor, "batch pos"], senders: Sequence[Sender], part: Input
) -> list[HeadEdit]:
    """For each sender, the edit that puts the receiver's new output into the run at the receiver's rows."""
    return [HeadEdit(receiver, rows, z) for z in receiver_outputs(model, clean, receiver, senders, part)]


def direct_logits(model: Any, clean: Recorded, sender: Sender) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits with the sender's change entering the last LayerNorm and the unembedding only. Cost: the unembedding."""
    check_paths(model)
    with torch.no_grad():
        forward, last = FusedForward(model), model.cfg.n_layers - 1
        block = model.blocks[last]
        z = clean.run.z[last].flatten(2)
        residual = forward.mlp(block, _residuals(clean)[last] + forward.project(block.attn, z))
        return forward.unembed(residual + _written(model, clean, sender))


def _residuals(clean: Recorded) -> Float[Tensor, "layer batch pos d_model"]:
    if clean.run.residual is None:
        raise InterventionError("path patching needs a run with its residual stream, this one has none: record it again")
    return clean.run.residual


def _written(model: Any, clean: Recorded, sender: Sender) -> Float[Tensor, "batch pos d_model"]:
    """What the sender's change writes."""
    change = (sender.z - clean.run.of(sender.head)[2]) * sender.rows[..., None]
    return change @ model.blocks[sender.head.layer].attn.W_O[sender.head.index]


def _project(attn: Any, index: int, part: Input, x: Float[Tensor, "sender batch pos d_model"]) -> Tensor:
    weight, bias = getattr(attn, f"W_{part.upper()}")[index], getattr(attn, f"b_{part.upper()}")[index]
    return x @ weight + bias


def _recorded_inputs(clean: Recorded, receiver: HeadId) -> dict[Input, Tensor]:
    """The receiver's queries, keys and values in the recorded run, each [1, batch, pos, d_head]."""
    run, layer, index = clean.run, receiver.layer, receiver.index
    assert run.q is not None
    assert run.k is not None
    return {"q": run.q[layer][None, :, index], "k": run.k[layer][None, :, index], "v": run.v[layer][None, :, :, index]}
