"""Whole sweeps of one-head interventions: each cell computes only what its edit can change, many cells in one pass.

A cell replaces one head's output z at some rows. What the model did without the edit is known (`Recorded`), so a cell costs:

- before and at the edited layer nothing: the change in z times W_O is added to the recorded residual stream;
- in the next layer, where the change sits at one position p: query, key and value of p alone; the score matrix changes in row
  and column p only, and z' = pattern' V + pattern'[:, p] (v'_p - v_p);
- in later layers everything, but where attention is causal only rows ≥ p, earlier rows' keys and values being those of the
  recorded run;
- the unembedding at the rows that changed and are read out, which in the last layer is one row, or none.

All heads of one (layer, position) run as one batch, cut into chunks of at most `memory` bytes. Exact: the numbers of the hooked
forward up to rounding (tested to 1e-5 in float32, 1e-10 in float64). Models that the fused forward does not cover take one
hooked run for each cell, with the same results.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.interventions.activations import Recorded, rerun
from stackheads.models.fused import FusedForward, supported
from stackheads.models.hooks import HeadEdit, analysing
from stackheads.types import HeadId

MEMORY = 256 * 1024**2
"""Bytes that one batch of cells may take, about; the default suits a laptop's caches better than its RAM would."""


@dataclass(frozen=True)
class Cell:
    """One intervention of a sweep: this head at this position, and the logits that come of it."""

    head: HeadId
    position: int
    logits: Float[Tensor, "batch pos d_vocab_out"]


def sweep_positions(
    model: Any,
    clean: Recorded,
    z: Float[Tensor, "layer batch pos head d_head"],
    read: Bool[Tensor, "pos"] | None = None,
    memory: int = MEMORY,
) -> Iterator[Cell]:
    """Give every head at every position in turn the output it has in `z`: layers × positions × heads cells, in this order.

    `read` marks the positions whose logits are wanted (None: all); elsewhere a cell holds the clean logits. `z` has the shape
    of `Recording.z`, from another run at the same positions. Raises `InterventionError` if it has not. Cost: see the module.
    """
    if z.shape != clean.run.z.shape:
        want, got = tuple(clean.run.z.shape), tuple(z.shape)
        raise InterventionError(f"a sweep takes outputs shaped like the run's, {want}, got {got}: record a batch of one size")
    with analysing(model):
        if clean.run.residual is None or not supported(model):
            yield from _one_by_one(model, clean, z)
        else:
            yield from _Sweep(model, clean, read).cells(z, memory)


def _one_by_one(model: Any, clean: Recorded, z: Tensor) -> Iterator[Cell]:
    layers, _, n_pos, heads = z.shape[:4]
    for layer in range(layers):
        for position in range(n_pos):
            rows = torch.zeros_like(clean.batch.slots, dtype=torch.bool)
            rows[:, position] = True
            for index in range(heads):
                head = HeadId(layer, index)
                yield Cell(head, position, rerun(model, clean, [HeadEdit(head, rows, z[layer, :, :, index])]))


@dataclass(frozen=True)
class _Layer:
    """What the recorded run holds of a layer: queries, keys, values [batch, head, pos, d_head] and scores, masked."""

    k: Tensor
    v: Tensor
    q: Tensor
    scores: Float[Tensor, "batch head pos source"]


class _Sweep:
    """The recorded run, taken apart once, and the cells computed from it."""

    def __init__(self, model: Any, clean: Recorded, read: Tensor | None):
        assert clean.run.residual is not None
        self.model, self.clean = model, clean
        self.forward = FusedForward(model)
        self.n_layers, self.n_pos = model.cfg.n_layers, clean.batch.tokens.shape[1]
        self.residual = clean.run.residual
        last = model.blocks[self.n_layers - 1]
        z = rearrange(clean.run.z[-1], "b p h d -> b p (h d)")
        self.final = self.forward.mlp(last, self.residual[-1] + self.forward.project(last.attn, z))
        self.read = torch.ones(self.n_pos, dtype=torch.bool) if read is None else read.cpu()
        self.layers: dict[int, _Layer] = {}

    def cells(self, z: Tensor, memory: int) -> Iterator[Cell]:
        """All cells, layer by layer and position by position."""
        change = z - self.clean.run.z
        for layer in range(self.n_layers):
            self.layers = {later: self._layer(later) for later in range(layer + 1, self.n_layers)}
            written = torch.einsum("bphd,hdm->hbpm", change[layer], self.model.blocks[layer].attn.W_O)
            for position in range(self.n_pos):
                yield from self._at(layer, position, written[:, :, position], memory)

    def _layer(self, layer: int) -> _Layer:
        block = self.model.blocks[layer]
        q, k, v = self.forward.qkv(block.attn, self.forward.norm(getattr(block, "ln1", None), self.residual[layer]))
        scores = (q @ k.transpose(-1, -2)) * self.forward.scale
        return _Layer(k, v, q, self._masked(scores))

    def _masked(self, scores: Tensor) -> Tensor:
        if not self.forward.causal:
            return scores
        future = torch.ones(self.n_pos, self.n_pos, dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, -torch.inf)

    def _at(self, layer: int, position: int, written: Float[Tensor, "head batch d_model"], memory: int) -> Iterator[Cell]:
        """The cells of one position: all heads of a layer, in chunks."""
        size = max(1, memory // self._bytes_per_head())
        for start in range(0, len(written), size):
            chunk = written[start : start + size]
            logits = self._run(layer, position, chunk)
            for number in range(len(chunk)):
                yield Cell(HeadId(layer, start + number), position, logits[number])

    def _bytes_per_head(self) -> int:
        """What one head's cell takes at its largest: a few residual streams, queries, keys and values, and the scores."""
        cfg, batch = self.model.cfg, len(self.clean.batch)
        numbers = self.n_pos * (4 * cfg.d_model + 6 * cfg.n_heads * cfg.d_head + 2 * cfg.n_heads * self.n_pos)
        return batch * numbers * self.residual.element_size()

    def _run(self, layer: int, position: int, written: Float[Tensor, "head batch d_model"]) -> Tensor:
        """Logits [head, batch, pos, d_vocab_out] of this chunk."""
        n = len(written)
        if layer + 1 == self.n_layers:  # nothing but this row sees it
            logits = self.clean.run.logits.expand(n, *self.clean.run.logits.shape)
            if not bool(self.read[position]):
                return logits
            row = self._after_heads(layer, position, written)
            logits = logits.clone()
            logits[:, :, position] = self.forward.unembed(row)
            return logits
        row = self._after_heads(layer, position, written)
        first = position if self.forward.causal else 0
        only_last = self._only_last_row(first)
        stream = self._next_layer(layer + 1, position, first, row, last_only=only_last and layer + 2 == self.n_layers)
        for later in range(layer + 2, self.n_layers):
            stream = self._later_layer(later, first, stream, last_only=only_last and later + 1 == self.n_layers)
        return self._logits(stream, n)

    def _only_last_row(self, first: int) -> bool:
        """Whether the last position is the only one that is read."""
        return bool(self.read[-1]) and not bool(self.read[first:-1].any())

    def _after_heads(self, layer: int, position: int, written: Tensor) -> Float[Tensor, "head batch d_model"]:
        """The residual stream at the edited position after the edited layer."""
        block = self.model.blocks[layer]
        after = self.residual[layer + 1] if layer + 1 < self.n_layers else self.final
        if self.model.cfg.attn_only:
            return after[:, position] + written
        z = self.clean.run.z[layer][:, position].flatten(1)
        middle = self.residual[layer][:, position] + self.forward.project(block.attn, z)
        return self.forward.mlp(block, middle + written)

    def _next_layer(self, layer: int, position: int, first: int, row: Tensor, last_only: bool) -> Tensor:
        """The stream [head, batch, row, d_model] after the layer that first sees the change, at rows from `first` on."""
        block, known = self.model.blocks[layer], self.layers[layer]
        q, k, v = self._row_qkv(block, row)
        rows = slice(self.n_pos - 1, None) if last_only else slice(first, None)
        start = self.n_pos - 1 if last_only else first
        scores = known.scores[:, :, rows].expand(len(row), *known.scores[:, :, rows].shape).clone()
        column = torch.einsum("bhpd,nbhd->nbhp", known.q[:, :, rows], k) * self.forward.scale
        scores[..., position] = column
        if position >= start:
            scores[..., position - start, :] = torch.einsum("nbhd,bhsd->nbhs", q, known.k) * self.forward.scale
            scores[..., position - start, position] = (q * k).sum(dim=-1) * self.forward.scale
            if self.forward.causal:
                scores[..., position - start, position + 1 :] = -torch.inf
        pattern = scores.softmax(dim=-1)
        z = pattern @ known.v + pattern[..., position, None] * (v - known.v[:, :, position])[..., None, :]
        stream = self.residual[layer][:, rows].expand(len(row), -1, -1, -1)
        if position >= start:
            stream = stream.clone()
            stream[:, :, position - start] = row
        stream = stream + self.forward.project(block.attn, rearrange(z, "n b h p d -> n b p (h d)"))
        return self.forward.mlp(block, stream)

    def _row_qkv(self, block: Any, row: Float[Tensor, "head batch d_model"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.forward.qkv(block.attn, self.forward.norm(getattr(block, "ln1", None), row))
        return tuple(rearrange(part, "n h b d -> n b h d") for part in (q, k, v))  # type: ignore[return-value]

    def _later_layer(self, layer: int, first: int, stream: Tensor, last_only: bool) -> Tensor:
        """One more layer at rows from `first` on, or at the last row."""
        block, known = self.model.blocks[layer], self.layers[layer]
        n = len(stream)
        x = rearrange(stream, "n b p m -> (n b) p m")
        q, k, v = self.forward.qkv(block.attn, self.forward.norm(getattr(block, "ln1", None), x))
        if first > 0:  # earlier rows' keys and values are those of the recorded run
            before = [part[:, :, :first].repeat(n, 1, 1, 1) for part in (known.k, known.v)]
            k, v = torch.cat([before[0], k], dim=2), torch.cat([before[1], v], dim=2)
        if last_only:
            z, x = self.forward.attend(q[:, :, -1:], k, v, causal=False), x[:, -1:]
        elif first == 0:
            z = self.forward.attend(q, k, v, causal=self.forward.causal)
        else:
            visible = torch.ones(x.shape[1], self.n_pos, dtype=torch.bool, device=x.device).tril(first)
            z = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=self.forward.scale)
        x = self.forward.mlp(block, x + self.forward.project(block.attn, rearrange(z, "b h p d -> b p (h d)")))
        return rearrange(x, "(n b) p m -> n b p m", n=n)

    def _logits(self, stream: Tensor, n: int) -> Tensor:
        """Clean logits, with those of the computed rows that are read put in."""
        start = self.n_pos - stream.shape[2]
        wanted = self.read[start:].to(stream.device)
        logits = self.clean.run.logits.expand(n, *self.clean.run.logits.shape)
        if not bool(wanted.any()):
            return logits
        new = self.forward.unembed(stream if bool(wanted.all()) else stream[:, :, wanted])
        if start == 0 and bool(wanted.all()):
            return new
        logits = logits.clone()
        where = torch.nonzero(wanted).squeeze(1) + start
        logits[:, :, where] = new
        return logits
