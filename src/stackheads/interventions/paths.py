"""Path patching (Wang et al. 2023, arXiv 2211.00593, §3.1): one head's output reaches one input of another, and nothing else.

The sender's output z at its rows is replaced; the change z' - z, through the head's output matrix, is added to the residual
stream before the receiver's layer and nowhere else, so all that lies between is frozen, MLPs included. LayerNorm and the
receiver's query, key *or* value projection see it; the receiver's output is computed anew, and patched into the run at the
receiver's rows, after which everything reacts. The direct path to the logits is the same with the last LayerNorm and the
unembedding as receiver.

All senders of a receiver are computed in one batch. Where the fused forward is not proved on the recorded run, or is not of the
kind that path patching needs, each is computed by runs through the model's own hooks (`models/forwards/hooked.py`): the same
numbers, up to rounding (tested to 1e-5 in float32, 1e-10 in float64).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded, check_rows
from stackheads.interventions.engine import replayable
from stackheads.models.forwards.fused import FusedForward, supported
from stackheads.models.forwards.hooked import hooked_change, hooked_direct, hooked_output
from stackheads.models.hooks import HeadEdit, analysing, check_head
from stackheads.models.kinds import check_model
from stackheads.models.protocol import Model
from stackheads.types import HeadId

Input = Literal["q", "k", "v"]
INPUTS: tuple[Input, ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Sender:
    """A head whose output is replaced by `z` at `rows`. `head` may be given by its name."""

    head: HeadId
    rows: Bool[Tensor, "batch pos"]
    z: Float[Tensor, "batch pos d_head"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", HeadId.of(self.head))


def receiver_outputs(
    model: Model, clean: Recorded, receiver: HeadId | str, senders: Sequence[Sender], part: Input
) -> Float[Tensor, "sender batch pos d_head"]:
    """The receiver's z with each sender's change entering one of its inputs.

    Raises `InterventionError` for an unknown head or input, no senders, a sender that is not in an earlier layer or is changed
    at no row, and for a model that lacks a hook where hooks are needed.
    Cost: one head's attention for each sender; no forward pass. Through hooks: four forward passes for each sender.
    """
    receiver = HeadId.of(receiver)
    _check(model, receiver, senders, part)
    if not _fast(model, clean):
        tokens, pads = clean.batch.tokens, clean.batch.pads
        changes = [hooked_change(model, tokens, _edit(sender), pads) for sender in senders]
        return torch.stack([hooked_output(model, tokens, receiver, part, change, pads) for change in changes])
    with analysing(model):
        forward, block = FusedForward(model), model.blocks[receiver.layer]
        residual = _residuals(clean)[receiver.layer]
        changed = torch.stack([residual + _written(model, clean, sender) for sender in senders])
        parts = _recorded_inputs(clean, receiver)
        parts[part] = forward.reads(block.attn, receiver.index, part, forward.norm(getattr(block, "ln1", None), changed))
        return forward.attend(*(parts[name].expand(len(senders), -1, -1, -1) for name in INPUTS), causal=forward.causal)


def path_edits(
    model: Model,
    clean: Recorded,
    receiver: HeadId | str,
    rows: Bool[Tensor, "batch pos"],
    senders: Sequence[Sender],
    part: Input,
) -> list[HeadEdit]:
    """For each sender, the edit that puts the receiver's new output into the run at the receiver's rows.

    Raises `InterventionError` as `receiver_outputs` does, and if no row is marked. Cost: that of `receiver_outputs`.
    """
    check_rows(rows)
    return [HeadEdit(HeadId.of(receiver), rows, z) for z in receiver_outputs(model, clean, receiver, senders, part)]


def direct_logits(model: Model, clean: Recorded, sender: Sender) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits with the sender's change entering the last LayerNorm and the unembedding only.

    Raises `InterventionError` for an unknown head, a sender that is changed at no row, and a model that lacks a hook where
    hooks are needed. Cost: the unembedding; through hooks three forward passes.
    """
    _check_sender(model, sender)
    if not _fast(model, clean):
        tokens, pads = clean.batch.tokens, clean.batch.pads
        return hooked_direct(model, tokens, hooked_change(model, tokens, _edit(sender), pads), pads)
    with analysing(model):
        forward, last = FusedForward(model), model.cfg.n_layers - 1
        block = model.blocks[last]
        z = clean.run.z[last].flatten(2)
        residual = forward.mlp(block, _residuals(clean)[last] + forward.project(block.attn, z))
        return forward.unembed(residual + _written(model, clean, sender))


def _fast(model: Model, clean: Recorded) -> bool:
    return replayable(model, clean) and supported(model)


def _edit(sender: Sender) -> HeadEdit:
    return HeadEdit(sender.head, sender.rows, sender.z)


def _check(model: Model, receiver: HeadId, senders: Sequence[Sender], part: Input) -> None:
    check_model(model)
    check_head(model, receiver)
    if part not in INPUTS:
        raise InterventionError(f"a path enters a head's q, k or v, got {part!r}: name one of these")
    if not senders:
        raise InterventionError(f"a path to {receiver} has a sender, got none: give at least one")
    for sender in senders:
        _check_sender(model, sender)
        if sender.head.layer >= receiver.layer:
            raise InterventionError(f"a path runs to a later layer, got {sender.head} to {receiver}: swap them")


def _check_sender(model: Model, sender: Sender) -> None:
    check_model(model)
    check_head(model, sender.head)
    check_rows(sender.rows)


def _residuals(clean: Recorded) -> Float[Tensor, "layer batch pos d_model"]:
    if clean.run.residual is None:
        raise InterventionError("path patching needs a run with its residual stream, this one has none: record it again")
    return clean.run.residual


def _written(model: Model, clean: Recorded, sender: Sender) -> Float[Tensor, "batch pos d_model"]:
    """What the sender's change writes."""
    change = (sender.z - clean.run.output(sender.head)) * sender.rows[..., None]
    return FusedForward(model).writes(model.blocks[sender.head.layer].attn, sender.head.index, change)


def _recorded_inputs(clean: Recorded, receiver: HeadId) -> dict[Input, Tensor]:
    """The receiver's queries, keys and values in the recorded run, each [1, batch, pos, d_head]."""
    run, layer, index = clean.run.whole(), receiver.layer, receiver.index
    assert run.q is not None
    assert run.k is not None
    return {"q": run.q[layer][None, :, index], "k": run.k[layer][None, :, index], "v": run.v[layer][None, :, :, index]}
