"""Record a batch, and prove on it whether runs may be taken up again without hooks.

Three things are compared with what the model itself does, the caller's hooks in place, on the batch that was recorded:

- what every head gives is its pattern times its values, so that a pattern can be put in its place;
- the run taken up again in layer 0 with nothing changed gives the recorded logits: all later layers are computed anew;
- the run taken up again with an edit of one head in every layer – its output and its pattern from the next example and the
  position before, in turns at the rows of the later half – gives the logits of the hooked run with the same edits.

They may differ by rounding (`models/trust.py`). One that differs more, a part or setting that is not known, or a hook of the
caller's, and every edited run on this batch goes through the model's own hooks: slower, and right by definition.

Where a record is condensed, patterns and values that are made again are compared with those that were recorded, too.

Cost: one forward pass for the record, one for the hooked run and about one for the two replays.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.errors import InterventionError, TaskMismatchError
from stackheads.interventions.activations import Recorded
from stackheads.interventions.engine import MEMORY, Engine, edit_of, fitting
from stackheads.models.condensed import Condensed
from stackheads.models.forwards.fused import supported
from stackheads.models.forwards.rows import Rows
from stackheads.models.hooks import Edit, HeadEdit, PatternEdit, analysing, record, run_edited
from stackheads.models.protocol import Model
from stackheads.models.runs import Recording
from stackheads.models.trust import MATTERS, differs, obstacle, state
from stackheads.tasks import Batch
from stackheads.types import HeadId

WHOLE = 2 * MEMORY
"""Bytes of a recording from which on it is condensed (`models/condensed.py`)."""


def recorded(model: Model, batch: Batch, like: Recorded | None = None) -> Recorded:
    """Run the model once on a batch and keep both, and how the run may be taken up again.

    A record of more than `WHOLE` bytes is condensed where that can be. `like`: a record of the same model, whose proof holds
    for this batch too (a counterfactual). Raises `InterventionError` if logits or weights are not finite, `TaskMismatchError`
    if the model looks at pads, `ConfigError` for what is no model. Cost: one forward pass, and two for the proof.
    """
    part = None if obstacle(model) else _part(model, batch)
    large = like is None and part is not None and is_large(model, batch)
    run, why = _condensed(model, batch) if large else (None, None)
    if run is None:
        run = record(model, batch.tokens, batch.pads, part)
        why = like.hooked if like is not None else why or why_hooked(model, batch, run)
    check_finite(model, run.logits)
    if isinstance(run, Recording):  # a condensed one has no pads
        _check_pads(run, batch)
    return Recorded(batch, run, why, state(model) if like is None else like.state)


def _check_pads(run: Recording, batch: Batch) -> None:
    """Raise `TaskMismatchError` if attention is on what is not there: a model that looks both ways may not heed its mask."""
    if batch.pads is None or not bool(batch.pads.any()):
        return
    there = ~batch.pads
    on_pads = run.pattern * (there[:, None, :, None] & batch.pads[:, None, None, :])  # layer batch head pos source
    if (most := on_pads.sum(dim=-1).max().item()) > MATTERS:
        raise TaskMismatchError(
            f"pads must be kept from attention, this model has up to {most:.2f} of a head's on them, whatever its mask says: "
            "give examples of one length, or a model with causal attention"
        )


def is_large(model: Model, batch: Batch) -> bool:
    """Whether a batch's recording takes much memory, and can do with less."""
    cfg, (n, n_pos) = model.cfg, batch.tokens.shape
    numbers = n_pos * (cfg.d_model + 4 * cfg.n_heads * cfg.d_head + cfg.n_heads * n_pos)  # of an example and a layer
    size = n * cfg.n_layers * numbers * next(model.parameters()).element_size()
    return size > WHOLE and supported(model) and (batch.pads is None or not bool(batch.pads.any()))


def _condensed(model: Model, batch: Batch) -> tuple[Condensed | None, str | None]:
    """Record and prove a part of the examples after the other. No record if that fails, and why, if a whole one fails too."""
    size, kept = _part(model, batch), None
    for start in range(0, len(batch), size):
        some = slice(start, start + size)
        run = record(model, batch.tokens[some])
        if reason := why_hooked(model, batch[some], run):
            return None, reason
        assert run.residual is not None
        if not _made_again(Condensed(model, run.logits, run.z, run.residual, state(model)), run):
            return None, None
        if kept is None:
            shapes = ((len(batch), *run.logits.shape[1:]), *((len(x), len(batch), *x.shape[2:]) for x in (run.z, run.residual)))
            kept = [run.logits.new_empty(shape) for shape in shapes]
        kept[0][some], kept[1][:, some], kept[2][:, some] = run.logits, run.z, run.residual
    assert kept is not None
    return Condensed(model, *kept, made_in=state(model)), None


def _made_again(condensed: Condensed, run: Recording) -> bool:
    """Whether patterns and values made from what is kept are those that were recorded."""
    again = condensed.whole()
    off = max((again.pattern - run.pattern).abs().max().item(), (again.v - run.v).abs().max().item() / run.v.abs().max().item())
    return off <= MATTERS


def why_hooked(model: Model, batch: Batch, run: Recording) -> str | None:
    """Why edited runs must go through the model's hooks; None where the fast forward is proved on this batch."""
    if batch.pads is not None and bool(batch.pads.any()):
        return "some positions are pads"
    if reason := obstacle(model):
        return reason
    try:
        with analysing(model):
            return _mixing(run) or _replays(model, batch, run)
    except (
        AttributeError,
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
        KeyError,
    ) as error:  # parts that are not as expected
        return f"the fast forward can't compute it ({type(error).__name__}: {' '.join(str(error).split())[:80]})"


def _mixing(run: Recording) -> str | None:
    """Whether heads give their pattern times their values."""
    mixed = (torch.einsum("bhps,bshd->bphd", pattern, v) - z for pattern, v, z in zip(run.pattern, run.v, run.z, strict=True))
    difference, bound = torch.stack([off.abs().max() for off in mixed]).max().item(), MATTERS * run.v.abs().max().item()
    return None if difference <= bound else f"its heads do not give pattern · value (off by up to {difference:.1g})"


def _replays(model: Model, batch: Batch, run: Recording) -> str | None:
    n_pos = batch.tokens.shape[1]
    everywhere, later = Rows.of(range(n_pos)), Rows.of(range(n_pos // 2, n_pos))
    engine = Engine(model, run, everywhere, MEMORY)
    same = HeadEdit(HeadId(0, 0), torch.ones_like(batch.slots, dtype=torch.bool), run.of(HeadId(0, 0))[2])
    (again,) = engine.run(everywhere, [[same]])
    if reason := differs(model, batch.tokens, again, run.logits):
        return f"the fast forward is not the model's ({reason})"
    edits = _in_every_layer(run)
    (edited,) = engine.run(later, [edits])
    parts = [slice(start, start + _part(model, batch)) for start in range(0, len(batch), _part(model, batch))]
    hooked = [run_edited(model, batch.tokens[part], [edit_of(edit, part) for edit in edits]) for part in parts]
    if reason := differs(model, batch.tokens, edited, torch.cat(hooked)):
        return f"the fast forward does not follow edits as the model does ({reason})"
    return None


def _in_every_layer(run: Recording) -> list[Edit]:
    """One head of each layer edited in the later half: its output at every other row, its pattern at the rows between."""
    layers, n, heads, n_pos = run.pattern.shape[:4]
    position = torch.arange(n_pos, device=run.z.device).expand(n, -1)
    later = position >= n_pos // 2
    edits: list[Edit] = []
    for layer in range(layers):
        head = HeadId(layer, layer % heads)
        pattern, _, z = run.of(head)
        edits.append(HeadEdit(head, later & (position % 2 == layer % 2), z.roll((1, 1), (0, 1))))
        edits.append(PatternEdit(head, later & (position % 2 != layer % 2), pattern.roll((1, 1), (0, 1))))
    return edits


def _part(model: Model, batch: Batch) -> int:
    """How many examples go through the hooked model at once: what it makes on the way takes more than what is kept."""
    return fitting(model, batch.tokens.shape[1], next(model.parameters()).dtype, MEMORY // 4)


def check_finite(model: Model, logits: Float[Tensor, "batch pos d_vocab_out"]) -> None:
    """Nothing can be said of a model that answers with NaN, nor of one whose attention drops the NaN that its weights make."""
    weights = dict(model.named_parameters())
    finite = torch.stack([weight.isfinite().all() for weight in weights.values()]).tolist()
    if bad := [name for name, fine in zip(weights, finite, strict=True) if not fine]:
        raise InterventionError(f"a model's weights must be finite, {bad[0]} is not: train or load it again")
    if not bool(logits.isfinite().all()):
        count = int((~logits.isfinite()).sum())
        raise InterventionError(
            f"a model's logits must be finite, {count} of {logits.numel()} are not, though its weights are: "
            "compute in float32 or float64"
        )
