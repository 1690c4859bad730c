"""Substitute attention patterns: make a head look where a label says it looks, and see whether the answer survives."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.interventions.activations import Recorded, destination_rows
from stackheads.interventions.engine import rerun
from stackheads.models.hooks import PatternEdit
from stackheads.types import Destination, HeadId


def pattern_edit(
    clean: Recorded, head: HeadId, destination: Destination | str, source: Int[Tensor, "batch pos"]
) -> PatternEdit:
    """All attention on `source` at the destination's rows; rows whose source is negative keep their own pattern."""
    rows = destination_rows(clean.batch, destination) & (source >= 0)
    pattern = torch.nn.functional.one_hot(source.clamp(min=0), source.shape[1]).to(clean.run.pattern.dtype)
    return PatternEdit(head, rows, pattern)


def substitute_patterns(
    model: Any, clean: Recorded, sources: Mapping[tuple[HeadId, Destination], Int[Tensor, "batch pos"]]
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits with several heads pointed at given sources at once. Cost: one forward pass."""
    edits = [pattern_edit(clean, head, destination, source) for (head, destination), source in sources.items()]
    return rerun(model, clean, edits)
