"""Activation patching: put what heads compute on one batch into the run on another.

`patch_heads` and `patch_heads_by_position` compute what `transformer_lens.patching` computes with
`get_act_patch_attn_head_out_all_pos` and `get_act_patch_attn_head_out_by_pos`, with a metric of the logits.
`source_edit` is the finer one that the write test needs: only what a head carries from one attended source changes.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded, acting_rows, check_rows, the_heads
from stackheads.interventions.engine import Read, rerun, run_variants, sweep_positions
from stackheads.interventions.metric import Metric, measured
from stackheads.models.hooks import CarryEdit, HeadEdit, all_heads, precise
from stackheads.models.protocol import Model
from stackheads.types import Destination, HeadId


def patch(
    model: Model,
    into: Recorded,
    source: Recorded,
    heads: Sequence[HeadId | str],
    destination: Destination | str | None = None,
    read: Read = None,
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits of the run on `into` with these heads' outputs taken from `source`, at a destination or (None) everywhere.

    `read` as in `run_variants`. Raises `InterventionError` as `patch_edits` does. Cost: one forward pass.
    """
    return rerun(model, into, patch_edits(into, source, heads, destination), read=read)


def patch_edits(
    into: Recorded, source: Recorded, heads: Sequence[HeadId | str], destination: Destination | str | None = None
) -> list[HeadEdit]:
    """The edits that patch these heads together.

    Raises `InterventionError` if the two batches differ in shape, for no heads or unknown ones, and for a destination that does
    not exist or that the batch does not have.
    """
    if into.batch.tokens.shape != source.batch.tokens.shape:
        raise InterventionError(
            f"patching needs two batches of one shape, got {tuple(into.batch.tokens.shape)} and "
            f"{tuple(source.batch.tokens.shape)}: take the counterfactual of the same batch"
        )
    everywhere = torch.ones_like(into.batch.slots, dtype=torch.bool)
    rows = everywhere if destination is None else acting_rows(into.batch, destination)
    return [HeadEdit(head, rows, source.run.output(head)) for head in the_heads(heads)]


def patch_heads(
    model: Model,
    into: Recorded,
    source: Recorded,
    metric: Metric,
    destination: Destination | str | None = None,
    read: Read = None,
) -> Float[Tensor, "layer head"]:
    """`metric(logits)`, a scalar, after patching each head in turn.

    `read` marks the positions whose logits the metric looks at (None: all); the others hold the logits of `into`. Raises
    `InterventionError` as `patch_edits` does, and if the metric gives no scalar tensor. Cost: less than a forward pass for
    each head (`interventions/engine.py`).
    """
    variants = [patch_edits(into, source, [head], destination) for head in all_heads(model)]
    values = [measured(metric, logits) for logits in run_variants(model, into, variants, read=read)]
    return torch.stack(values).unflatten(0, (model.cfg.n_layers, model.cfg.n_heads))


def patch_heads_by_position(
    model: Model, into: Recorded, source: Recorded, metric: Metric, read: Read = None
) -> Float[Tensor, "layer pos head"]:
    """`metric(logits)` after patching each head at each position in turn; `read` as in `patch_heads`.

    Raises `InterventionError` if the two batches differ in shape. Cost: far less than a forward pass for each cell.
    """
    n_pos = into.batch.tokens.shape[1]
    values = [measured(metric, cell.logits) for cell in sweep_positions(model, into, source.run.z, read)]
    return torch.stack(values).unflatten(0, (model.cfg.n_layers, n_pos, model.cfg.n_heads))


@precise()
def source_edit(
    into: Recorded,
    v: Float[Tensor, "batch pos d_head"],
    head: HeadId | str,
    rows: Bool[Tensor, "batch pos"],
    sources: Bool[Tensor, "batch pos source"] | Float[Tensor, "batch pos source"],
) -> CarryEdit:
    """Change what a head carries from the marked sources to the marked rows, its pattern held as it is.

    z' = z + sum over sources s of marks[s] · pattern[s] · (v[s] - v_clean[s]); `v` are the head's value vectors in another run
    at the same positions, marks true and false or shares of what is read there. Raises `InterventionError` for an unknown head
    and if no row is marked.
    """
    check_rows(rows)
    pattern, v_clean, z = into.run.of(head)
    change = torch.einsum("bps,bsd->bpd", pattern * sources, v - v_clean)
    return CarryEdit(HeadId.of(head), rows, z + change, change)


def source_mask(source: Int[Tensor, "batch pos"], n_pos: int) -> Bool[Tensor, "batch pos source"]:
    """One marked source for each row, none where `source` is negative."""
    return source[:, :, None] == torch.arange(n_pos, device=source.device)
