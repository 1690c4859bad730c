"""Runs that differ by little from a run that is edited itself: taken up from that one, not from the clean run.

A set of heads that are silenced together, and the same set with one head more or less, are the same run up to that head. So the
edited run is recorded like a clean one (`edited_run`), and `onward` says which edits make another run of it: the head's own,
and those of the recorded run's edits that have to be made again, since what they replace is computed anew: in later layers, at
rows that can see the change.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from stackheads.interventions.activations import Recorded
from stackheads.models.hooks import HeadEdit, edited, record
from stackheads.models.protocol import Model


def edited_run(model: Model, clean: Recorded, edits: Sequence[HeadEdit]) -> Recorded:
    """The recorded run with these edits in place, as a run to take up; only where `replayable(model, clean)`.

    Cost: one forward pass; none without edits.
    """
    if not edits:
        return clean
    with edited(model, edits):
        return replace(clean, run=record(model, clean.batch.tokens, clean.batch.pads), edited=True)


def onward(model: Model, change: HeadEdit, made: Sequence[HeadEdit]) -> list[HeadEdit]:
    """The edits that make the run with `change` of one in which `made` are in place already."""
    rows = change.rows.any(dim=0)
    seeing = rows.cumsum(dim=0) > 0 if model.cfg.attention_dir == "causal" else torch.ones_like(rows)
    again = [replace(edit, rows=edit.rows & seeing) for edit in made if edit.head.layer > change.head.layer]
    return [change, *again]
