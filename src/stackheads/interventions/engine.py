"""The engine under every intervention: many lists of edits on one recorded run, batched, within a memory bound.

Ablation, patching by head, by head × position and by attended source, path patching and pattern substitution are all lists of
edits (`models/hooks.py`). Lists that begin in one layer at the same rows run as one batch, in chunks of at most `memory` bytes;
one that is too large alone runs on a part of the examples at a time. Freed memory is kept from the first batch to the last
(`models/memory.py`): to map it anew for each took a third of the time. What a run costs, and why it is exact, is in
`models/forwards/replay.py`. Where the fast forward is not proved on the recorded run (`interventions/proof.py`), or the model
has changed since, every list takes one run through the model's own hooks (`models/forwards/hooked.py`), and a
`StackheadsWarning` says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded
from stackheads.models.condensed import Run
from stackheads.models.forwards.hooked import hooked_logits
from stackheads.models.forwards.replay import Replay
from stackheads.models.forwards.rows import Rows, edited_rows, look_through, marked
from stackheads.models.hooks import CarryEdit, Edit, HeadEdit, PatternEdit, analysing, check_head, run_edited
from stackheads.models.kinds import check_model
from stackheads.models.memory import kept_memory
from stackheads.models.protocol import Model
from stackheads.models.trust import obstacle, state, tell
from stackheads.types import HeadId

MEMORY = 64 * 1024**2
"""Bytes that one batch of variants may take, about."""

Read = Bool[Tensor, "pos"] | None


def rerun(
    model: Model, clean: Recorded, edits: Sequence[Edit], frozen_norms: bool = False, read: Read = None
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Logits of a recorded run with these edits in place; see `run_variants`. Cost: at most one forward pass."""
    (logits,) = run_variants(model, clean, [edits], frozen_norms, read)
    return logits


def run_variants(
    model: Model,
    clean: Recorded,
    variants: Sequence[Sequence[Edit]],
    frozen_norms: bool = False,
    read: Read = None,
    memory: int = MEMORY,
) -> Iterator[Float[Tensor, "batch pos d_vocab_out"]]:
    """Logits of a recorded run with each list of edits in place, one after the other, in the order given.

    Several edits of one head at one row apply in their order, patterns before outputs. `read` marks the positions whose logits
    are wanted (None: all); elsewhere they are the clean run's. `frozen_norms`: every LayerNorm divides by what it divides by in
    the clean run. Raises `InterventionError` for a head that does not exist, for an edited run that could only go through
    hooks, and if norms are to be frozen in a model whose norms can't be seen. Cost: at most one forward pass for each list, on
    average about a third of one.
    """
    check_model(model)
    for edit in (edit for edits in variants for edit in edits):
        check_head(model, edit.head)
    if not replayable(model, clean):
        if clean.edited:
            raise InterventionError("an edited run is taken up without hooks, and this one can't be any more: record it anew")
        for logits in hooked_logits(model, clean.batch.tokens, variants, frozen_norms, clean.batch.pads):
            yield _where_read(logits, clean, read)
        return
    engine = Engine(model, clean.run, _rows(read, clean), memory, frozen_norms)
    look_through(edit.rows for edits in variants for edit in edits)
    acting = ([(edit, edited_rows(edit)) for edit in edits] for edits in variants)
    with kept_memory():  # from one batch to the next
        for place, group in groupby(([pair for pair in pairs if pair[1]] for pairs in acting), key=_beginning):
            lists = [[edit for edit, _ in pairs] for pairs in group]
            if place is None:
                yield from (clean.run.logits for _ in lists)
            else:
                yield from engine.run(place[1], lists)


def _where_read(logits: Tensor, clean: Recorded, read: Read) -> Tensor:
    """These logits where they are wanted, elsewhere those of the clean run."""
    return logits if read is None else torch.where(read[None, :, None], logits, clean.run.logits)


def replayable(model: Model, clean: Recorded) -> bool:
    """Whether the run can be taken up again without hooks: that was proved, and the model is still what it was.

    Where it can't, a `StackheadsWarning` says why, once for each model and reason.
    """
    reason = clean.hooked
    if reason is None and not clean.run.resumable:
        reason = "the run was recorded without its residual stream"
    if reason is None:
        reason = obstacle(model)
    if reason is None and state(model) != clean.state:
        reason = "it is not as it was when the run was recorded"
    if reason is not None:
        tell(model, reason)
    return reason is None


def _beginning(pairs: Sequence[tuple[Edit, Rows]]) -> tuple[int, Rows] | None:
    """The first layer in which a list of edits acts, and at which rows it does there."""
    if not pairs:
        return None
    first = min(edit.head.layer for edit, _ in pairs)
    live = {position for edit, rows in pairs if edit.head.layer == first for position in rows.positions}
    return first, Rows.of(live)


def _rows(read: Tensor | None, clean: Recorded) -> Rows:
    n_pos = clean.batch.tokens.shape[1]
    return Rows.of(range(n_pos)) if read is None else marked(read)


@dataclass(frozen=True)
class Swept:
    """One intervention of a sweep: this head at this position, and the logits that come of it."""

    head: HeadId
    position: int
    logits: Float[Tensor, "batch pos d_vocab_out"]


def sweep_positions(
    model: Model,
    clean: Recorded,
    z: Float[Tensor, "layer batch pos head d_head"],
    read: Read = None,
    memory: int = MEMORY,
) -> Iterator[Swept]:
    """Give every head at every position in turn the output it has in `z`: layers × positions × heads of them, in this order.

    `read` as in `run_variants`. `z` has the shape of `Recording.z`, from another run at the same positions. Raises
    `InterventionError` if it has not. Cost: see the module.
    """
    if z.shape != clean.run.z.shape:
        want, got = tuple(clean.run.z.shape), tuple(z.shape)
        raise InterventionError(f"a sweep takes outputs shaped like the run's, {want}, got {got}: record a batch of one size")
    layers, _, n_pos, heads = z.shape[:4]
    check_model(model)
    engine = Engine(model, clean.run, _rows(read, clean), memory) if replayable(model, clean) else None
    with kept_memory():  # from one batch to the next
        for layer, position in product(range(layers), range(n_pos)):
            if engine is not None:
                found = engine.heads(layer, position, z[layer, :, position])
            else:
                found = (_where_read(each, clean, read) for each in _hooked_heads(model, clean, layer, position, z[layer]))
            for index, logits in zip(range(heads), found, strict=True):
                yield Swept(HeadId(layer, index), position, logits)


def _hooked_heads(model: Model, clean: Recorded, layer: int, position: int, z: Tensor) -> Iterator[Tensor]:
    rows = torch.zeros_like(clean.batch.slots, dtype=torch.bool)
    rows[:, position] = True
    for index in range(z.shape[2]):
        edits = [HeadEdit(HeadId(layer, index), rows, z[:, :, index])]
        yield run_edited(model, clean.batch.tokens, edits, clean.batch.pads)


def fitting(model: Model, n_pos: int, dtype: torch.dtype, memory: int = MEMORY) -> int:
    """How many examples may be run at once, so that they take this memory, about; at least one."""
    cfg = model.cfg
    numbers = n_pos * (4 * cfg.d_model + 8 * cfg.n_heads * cfg.d_head + 2 * cfg.n_heads * n_pos + cfg.d_vocab_out)
    return max(1, memory // (numbers * dtype.itemsize))


class Engine:
    """A run ready to be taken up again, and how much of it fits in memory at once. For runs on which that is proved."""

    def __init__(self, model: Model, run: Run, read: Rows, memory: int, frozen_norms: bool = False):
        self.model, self.logits, self.read = model, run.logits, read
        batch, size = len(run.logits), fitting(model, run.logits.shape[1], run.logits.dtype, memory)
        self.variants = max(1, size // batch)
        self.parts = [slice(start, start + size) for start in range(0, batch, size)]
        self.replays = [Replay(model, run.part(part), frozen_norms) for part in self.parts]

    def run(self, live: Rows, variants: Sequence[Sequence[Edit]]) -> Iterator[Tensor]:
        """Logits for lists of edits that begin in one layer at the rows `live`."""
        for start in range(0, len(variants), self.variants):
            chunk = variants[start : start + self.variants]
            found = []
            with analysing(self.model):
                for replayed, part in zip(self.replays, self.parts, strict=True):
                    some = chunk if len(self.parts) == 1 else [[edit_of(edit, part) for edit in edits] for edits in chunk]
                    look_through(edit.rows for edits in some for edit in edits)
                    found.append(replayed.variants(some, live, self.read))
            yield from self._whole(found)

    def heads(self, layer: int, position: int, z: Float[Tensor, "batch head d_head"]) -> Iterator[Tensor]:
        """Logits with each head of a layer in turn giving its `z` at one position."""
        live = Rows((position,))
        if not self.read or (layer == self.model.cfg.n_layers - 1 and not live & self.read):
            yield from (self.logits for _ in range(z.shape[1]))
            return
        for start in range(0, z.shape[1], self.variants):
            which = torch.arange(start, min(z.shape[1], start + self.variants))
            found = []
            with analysing(self.model):
                for replayed, part in zip(self.replays, self.parts, strict=True):
                    new = replayed.run.layer("z", layer)[:, None, position].unsqueeze(0).repeat(len(which), 1, 1, 1, 1)
                    new[torch.arange(len(which)), :, 0, which] = z[part, which].transpose(0, 1)
                    found.append(replayed.from_z(layer, live, new, self.read))
            yield from self._whole(found)

    def _whole(self, parts: list[Tensor]) -> Iterator[Tensor]:
        """Logits at all positions, from those at the read rows of each part of the examples."""
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        for logits in rows:
            if len(self.read) < self.logits.shape[1]:
                whole = self.logits.clone()
                if self.read:
                    whole[:, self.read.index] = logits
                logits = whole
            yield logits


def edit_of(edit: Edit, part: "slice | Int[Tensor, 'some']") -> Edit:
    """The edit on some examples."""
    match edit:
        case CarryEdit():
            return replace(edit, rows=edit.rows[part], z=edit.z[part], change=edit.change[part])
        case HeadEdit():
            return HeadEdit(edit.head, edit.rows[part], edit.z[part])
        case PatternEdit():
            return replace(edit, rows=edit.rows[part], pattern=edit.pattern[part])
