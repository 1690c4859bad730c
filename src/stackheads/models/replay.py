"""Run a recorded model again with edits, computing only what the edits can change.

A run with edits is the recorded run up to the first edited layer. There the residual stream changes by the edited heads'
change in z times W_O; from the next layer on everything is computed anew, with query, key and value in one matrix product and
torch's fused attention. A head whose pattern is edited computes its z from the new pattern explicitly. Where attention is
causal and only the last position changes (edits at the query), only that row is computed: no other row can see it.

Exact: the same numbers as the hooked forward up to rounding (tested to 1e-5 in float32, 1e-10 in float64). Models that the
fused forward does not cover take the hooked forward (`hooks.run_edited`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.models.fused import FusedForward, supported
from stackheads.models.hooks import Edit, HeadEdit, PatternEdit, Recording, check_head, run_edited


def replay(
    model: Any, tokens: Int[Tensor, "batch pos"], run: Recording, edits: Sequence[Edit], frozen_norms: bool = False
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits of the recorded run with edits in place.

    Several edits of one head at one row apply in the order given, patterns before outputs. `frozen_norms`: every LayerNorm
    divides by what it divides by in the recorded run, so that an edit acts by what it writes and not by how long it leaves the
    residual stream. Raises `InterventionError` for a head that does not exist, and if norms are to be frozen in a model that
    the fused forward does not cover. Cost: at most one forward pass, on average about half of one.
    """
    if run.residual is None or not supported(model):
        if frozen_norms:
            raise InterventionError("frozen norms need a model that models/fused.py covers, got another: leave them live")
        return run_edited(model, tokens, edits)
    for edit in edits:
        check_head(model, edit.head)
    with torch.no_grad():
        return _replay(FusedForward(model), run, edits, frozen_norms)


def _replay(
    forward: FusedForward, run: Recording, edits: Sequence[Edit], frozen: bool
) -> Float[Tensor, "batch pos d_vocab_out"]:
    model, residuals = forward.model, run.residual
    assert residuals is not None

    def like(layer: int, middle: bool = False) -> Tensor | None:
        """The recorded stream before a layer, after its heads (middle), or, one past the last layer, at the end."""
        if not frozen:
            return None
        if not middle and layer < len(residuals):
            return residuals[layer][:, rows]
        before = layer if middle else layer - 1
        attn = model.blocks[before].attn
        after = residuals[before] + forward.project(attn, rearrange(run.z[before], "b p h d -> b p (h d)"))
        return (after if middle else forward.mlp(model.blocks[before], after))[:, rows]

    if not edits:
        return run.logits
    first = min(edit.head.layer for edit in edits)
    n_pos = residuals.shape[2]
    last_row_only = forward.causal and not any(bool(edit.rows[:, :-1].any()) for edit in edits)
    rows = slice(n_pos - 1, n_pos) if last_row_only else slice(0, n_pos)
    here = [edit for edit in edits if edit.head.layer == first]
    attn = model.blocks[first].attn
    residual = residuals[first][:, rows]
    z = _edited_z(run.z[first], here, run.v[first], rows)
    residual = residual + forward.project(attn, rearrange(z, "b p h d -> b p (h d)"))
    residual = forward.mlp(model.blocks[first], residual, None if forward.model.cfg.attn_only else like(first, middle=True))
    for layer in range(first + 1, model.cfg.n_layers):
        block = model.blocks[layer]
        here = [edit for edit in edits if edit.head.layer == layer]
        q, k, v = forward.qkv(block.attn, forward.norm(getattr(block, "ln1", None), residual, like(layer)))
        if last_row_only:  # earlier rows' keys and values are those of the recorded run
            before = forward.norm(getattr(block, "ln1", None), residuals[layer][:, : n_pos - 1])
            _, k_before, v_before = forward.qkv(block.attn, before)
            k, v = torch.cat([k_before, k], dim=2), torch.cat([v_before, v], dim=2)
        z = forward.attend(q, k, v, causal=forward.causal and not last_row_only)
        z = rearrange(z, "b h p d -> b p h d")
        if here:
            z = _edited_z(z, here, rearrange(v, "b h p d -> b p h d"), rows, already_cut=True)
        residual = residual + forward.project(block.attn, rearrange(z, "b p h d -> b p (h d)"))
        residual = forward.mlp(block, residual, None if forward.model.cfg.attn_only else like(layer, middle=True))
    logits = forward.unembed(residual, like(model.cfg.n_layers))
    if not last_row_only:
        return logits
    return torch.cat([run.logits[:, : n_pos - 1], logits], dim=1)


def _edited_z(
    z: Float[Tensor, "batch pos head d_head"],
    edits: Sequence[Edit],
    v: Float[Tensor, "batch source head d_head"],
    rows: slice,
    already_cut: bool = False,
) -> Float[Tensor, "batch row head d_head"]:
    """z with the edits of one layer; `rows` are the positions computed, to which z is cut unless it is already."""
    z = (z if already_cut else z[:, rows]).clone()
    for edit in sorted(edits, key=lambda edit: isinstance(edit, HeadEdit)):  # an output is what comes after its pattern
        index = edit.head.index
        match edit:
            case HeadEdit():
                new = edit.z[:, rows]
            case PatternEdit():
                new = torch.einsum("bps,bsd->bpd", edit.pattern[:, rows], v[:, :, index])
        z[:, :, index] = torch.where(edit.rows[:, rows, None], new, z[:, :, index])
    return z
