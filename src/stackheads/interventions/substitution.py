"""Substitute attention patterns: make a head look where a label says it looks, and see whether the answer survives."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded, acting_rows
from stackheads.interventions.engine import rerun
from stackheads.models.hooks import PatternEdit
from stackheads.models.protocol import Model
from stackheads.types import Destination, HeadId


def pattern_edit(
    clean: Recorded, head: HeadId | str, destination: Destination | str, source: Int[Tensor, "batch pos"]
) -> PatternEdit:
    """All attention on `source` at the destination's rows; rows whose source is negative keep their own pattern.

    Raises `InterventionError` for an unknown head or destination, a source past the last position, and where nothing could be
    substituted: the batch has no such destination, or none of its rows a source.
    """
    head, n_pos = HeadId.of(head).check(*clean.run.z.shape[0:4:3]), source.shape[1]
    rows = acting_rows(clean.batch, destination) & (source >= 0)
    if not bool(rows.any()) or int(source[rows].max()) >= n_pos:
        found = f"{int(source[rows].max())}" if bool(rows.any()) else "none at any row"
        raise InterventionError(
            f"a pattern is put on sources in 0..{n_pos - 1}, got {found} @{destination}: give their positions"
        )
    pattern = torch.nn.functional.one_hot(source.clamp(0, n_pos - 1), n_pos).to(clean.run.z.dtype)
    return PatternEdit(head, rows, pattern)


def substitute_patterns(
    model: Model, clean: Recorded, sources: Mapping[tuple[HeadId | str, Destination | str], Int[Tensor, "batch pos"]]
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits with several heads pointed at given sources at once.

    Raises `InterventionError` as `pattern_edit` does, and for no heads. Cost: one forward pass.
    """
    if not sources:
        raise InterventionError("an intervention acts on heads, got none: name at least one with its destination")
    edits = [pattern_edit(clean, head, destination, source) for (head, destination), source in sources.items()]
    return rerun(model, clean, edits)
