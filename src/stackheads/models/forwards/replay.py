"""Run a recorded model again with edits, many variants in one pass, computing only what the edits can change.

A run with edits is the recorded run up to the first edited layer. There the residual stream changes at the edited rows; those
rows are *live*, at all others the recorded queries, keys, values and residual stream hold. In each later layer the rows that
can see a live one are computed (where attention is causal those from the first live row on, else all), in the last layer only
those of them that are read. A layer is computed in one of three ways:

one row      one position p is live: its query, key and value. For another row, let rest be the attention output over all
             sources but p, and l the log of the sum of exp(score) over them: both are the same in all variants. Then
             z' = rest + σ(score'_p - l) (v'_p - rest), σ the logistic function: no softmax, no matrix of patterns.
few rows     in the last layer few rows are read: their queries go through W_K and their patterns through the normed stream,
             score = x · (W_K q), z = (Σ pattern x) W_V, so that keys and values are never computed.
all rows     queries, keys and values of the live rows, torch's fused attention.

Exact: the same numbers as the hooked forward up to rounding (tested to 1e-5 in float32, 1e-10 in float64).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stackheads.models.forwards.rotary import forward_of
from stackheads.models.forwards.rows import Rows, edited_rows
from stackheads.models.hooks import CarryEdit, Edit, HeadEdit, PatternEdit
from stackheads.models.protocol import Model
from stackheads.models.runs import Layers


class Replay:
    """A recorded run, taken apart as far as runs from its middle need it. Needs a model that has a forward.

    `frozen_norms`: every LayerNorm divides by what it divides by in the recorded run, so that an edit acts by what it writes
    and not by how long it leaves the residual stream.
    """

    def __init__(self, model: Model, run: Layers, frozen_norms: bool = False):
        self.model, self.run, self.frozen = model, run, frozen_norms
        forward = forward_of(model)
        assert forward is not None
        self.forward = forward
        self.layers, self.n_pos = model.cfg.n_layers, run.logits.shape[1]
        self.rest: dict[tuple[int, int, Rows], tuple[Tensor, Tensor]] = {}

    def variants(
        self, edits: Sequence[Sequence[Edit]], live: Rows, read: Rows
    ) -> Float[Tensor, "variant batch row d_vocab_out"]:
        """Logits at the rows `read` of one run for each list of edits.

        All lists must begin in the same layer, and touch no rows there but `live`.
        """
        layer = min(edit.head.layer for edit in edits[0])
        if layer == self.layers - 1:
            live = live & read
        if not live or not read:
            return self.run.logits[:, read.index].expand(len(edits), -1, -1, -1)
        here = [[edit for edit in some if edit.head.layer == layer] for some in edits]
        later = [[edit for edit in some if edit.head.layer > layer] for some in edits]
        return self.from_z(layer, live, self._begun(layer, live, here), read, later)

    def _begun(self, layer: int, live: Rows, here: Sequence[Sequence[Edit]]) -> Float[Tensor, "variant batch row head d_head"]:
        """What the first edited layer's heads give at the rows `live`."""
        z = self.run.layer("z", layer)[:, live.index].expand(len(here), -1, -1, -1, -1).clone()
        _put(z, here, self.run.layer("v", layer).expand(len(here), -1, -1, -1, -1), live)
        return z

    def from_z(
        self,
        layer: int,
        live: Rows,
        z: Float[Tensor, "variant batch row head d_head"],
        read: Rows,
        later: Sequence[Sequence[Edit]] = (),
    ) -> Float[Tensor, "variant batch read d_vocab_out"]:
        """Logits at the rows `read`, where the layer's heads give `z` at the rows `live`; `later`: edits in later layers."""
        stream = self.forward.project(self.model.blocks[layer].attn, rearrange(z, "n b r h d -> n b r (h d)"))
        del z  # what a batch holds at once is memory to fault in
        stream += self.run.layer("residual", layer)[:, live.index]
        stream = self._mlp(layer, stream, live)
        for number in range(layer + 1, self.layers):
            here = [[edit for edit in some if edit.head.layer == number] for some in later]
            out = self._seeing(live, here)
            if number == self.layers - 1:
                out = out & read
            if not out:
                return self._logits(stream[:, :, :0], out, read)
            stream = self._layer(number, stream, live, out, here)
            live = out
        return self._logits(stream, live, read)

    def _seeing(self, live: Rows, here: Sequence[Sequence[Edit]]) -> Rows:
        """The rows that can change in a layer."""
        rows = Rows(tuple(range(live.positions[0] if self.forward.causal else 0, self.n_pos)))
        for some in here:
            for edit in some:
                rows = rows | edited_rows(edit)
        return rows

    def _layer(self, layer: int, stream: Tensor, live: Rows, out: Rows, here: Sequence[Sequence[Edit]]) -> Tensor:
        """The stream [variant, batch, row, d_model] at the rows `out` after a layer, from that at `live` before it."""
        if not any(here):
            if len(live) == 1 and self.n_pos > 1:
                return self._one_row(layer, stream, live, out)
            if self.forward.foldable and layer == self.layers - 1 and 4 * len(out) <= self.model.cfg.d_head:
                return self._few_rows(layer, stream, live, out)
        return self._all_rows(layer, stream, live, out, here)

    def _one_row(self, layer: int, stream: Tensor, live: Rows, out: Rows) -> Tensor:
        (p,), scale = live.positions, self.forward.scale
        q, k, v = (part[:, :, :, 0] for part in self._qkv(layer, stream, live))
        z = None
        if out != live:
            rest, log_sum = self._rest(layer, p, out)
            score = torch.einsum("bhod,nbhd->nboh", self.run.layer("q", layer)[:, :, out.index], k) * scale
            weight = torch.sigmoid(score - log_sum)[..., None]
            z = torch.lerp(rest.expand(len(stream), -1, -1, -1, -1), v[:, :, None], weight)
        if live & out:
            score = torch.einsum("nbhd,bhsd->nbhs", q, self.run.layer("k", layer)) * scale
            score[..., p] = (q * k).sum(dim=-1) * scale
            if self.forward.causal:
                score[..., p + 1 :] = -torch.inf
            pattern, known = score.softmax(dim=-1), self._v(layer)
            own = torch.einsum("nbhs,bhsd->nbhd", pattern, known) + pattern[..., p, None] * (v - known[:, :, p])
            if z is None:
                z = own[:, :, None]
            else:
                z[:, :, out.positions.index(p)] = own
        assert z is not None
        return self._written(layer, stream, z, live, out)

    def _rest(self, layer: int, p: int, rows: Rows) -> tuple[Tensor, Tensor]:
        """Attention over all sources but p: output [batch, row, head, d_head], and the log of its sum [batch, row, head].

        Row p itself, which `_one_row` computes otherwise, keeps source p, so that it has one.
        """
        if (layer, p, rows) not in self.rest:
            self.rest.clear()  # a sweep comes to each place once
            q, k = self.run.layer("q", layer)[:, :, rows.index], self.run.layer("k", layer)
            hidden = self._hidden(rows, q.dtype)
            hidden[:, p] = torch.tensor([0.0 if row == p else -torch.inf for row in rows.positions], device=hidden.device)
            score = torch.baddbmm(hidden, q.flatten(0, 1), k.flatten(0, 1).transpose(-1, -2), alpha=self.forward.scale)
            pattern = score.softmax(dim=-1)
            log_sum = score.amax(dim=-1) - pattern.amax(dim=-1).log()  # the largest weight is exp(its score) / the sum
            rest = pattern @ self._v(layer).flatten(0, 1)
            self.rest[layer, p, rows] = (
                rearrange(rest, "(b h) o d -> b o h d", h=q.shape[1]).contiguous(),
                rearrange(log_sum, "(b h) o -> b o h", h=q.shape[1]),
            )
        return self.rest[layer, p, rows]

    def _few_rows(self, layer: int, stream: Tensor, live: Rows, out: Rows) -> Tensor:
        attn, scale, heads = self.model.blocks[layer].attn, self.forward.scale, self.model.cfg.n_heads
        x = self._norm(layer, stream, live)
        inside = out & live
        q = self.run.layer("q", layer)[:, :, out.index].expand(len(x), -1, -1, -1, -1)
        if inside:
            rows = x[:, :, inside.within(live)]
            new = torch.einsum("nbom,hmd->nbhod", rows, attn.W_Q) + attn.b_Q[:, None]
            q = new if inside == out else _replaced(q, new, inside.within(out), dim=3)
        through = rearrange(torch.einsum("nbhod,hmd->nbhom", q, attn.W_K), "n b h o m -> n b m (h o)")
        score = rearrange(x @ through, "n b s (h o) -> n b h o s", h=heads)
        still = Rows.of(set(range(self.n_pos)) - set(live.positions))
        if still:  # sources in the order still, live: these are as recorded
            known = torch.einsum("nbhod,bhsd->nbhos", q, self.run.layer("k", layer)[:, :, still.index])
            score = torch.cat([known, score + (q * attn.b_K[:, None]).sum(dim=-1, keepdim=True)], dim=-1)
        if self.forward.causal and out.positions[0] < self.n_pos - 1:
            score = score.masked_fill(~self._visible(out)[:, [*still.positions, *live.positions]], -torch.inf)
        pattern = (score * scale).softmax(dim=-1)
        new = pattern[..., len(still) :]
        mixed = rearrange(rearrange(new, "n b h o s -> n b (h o) s") @ x, "n b (h o) m -> n b h o m", h=heads)
        z = torch.einsum("nbhom,hmd->nbhod", mixed, attn.W_V) + new.sum(dim=-1, keepdim=True) * attn.b_V[:, None]
        if still:
            known = self._v(layer)[:, :, still.index]
            z += torch.einsum("nbhos,bhsd->nbhod", pattern[..., : len(still)], known)
        return self._written(layer, stream, rearrange(z, "n b h o d -> n b o h d"), live, out)

    def _all_rows(self, layer: int, stream: Tensor, live: Rows, out: Rows, here: Sequence[Sequence[Edit]]) -> Tensor:
        q, k, v = self._qkv(layer, stream, live)
        k = self._whole(self.run.layer("k", layer), k, live)
        v = self._whole(self._v(layer), v, live)
        if out != live:
            inside = out & live == out
            q = q[:, :, :, out.within(live)] if inside else self._whole(self.run.layer("q", layer), q, live)[:, :, :, out.index]
        mask = None if not self.forward.causal or len(out) == self.n_pos else self._visible(out)
        flat = (rearrange(part, "n b h s d -> (n b) h s d") for part in (q, k, v))
        causal = self.forward.causal and len(out) == self.n_pos
        z = functional.scaled_dot_product_attention(*flat, attn_mask=mask, is_causal=causal, scale=self.forward.scale)
        z = rearrange(z, "(n b) h o d -> n b o h d", n=len(stream))
        if any(here):
            _put(z, here, rearrange(v, "n b h s d -> n b s h d"), out)
        return self._written(layer, stream, z, live, out)

    def _whole(self, known: Tensor, new: Tensor, live: Rows) -> Tensor:
        """The recorded keys, values or queries [batch, head, pos, d_head] with those of the live rows put in."""
        if len(live) == self.n_pos:
            return new
        return _replaced(known.expand(len(new), *known.shape), new, live.index, dim=3)

    def _written(self, layer: int, stream: Tensor, z: Tensor, live: Rows, out: Rows) -> Tensor:
        """The stream at the rows `out` after heads that give z [variant, batch, row, head, d_head] there, and the MLP."""
        new = self.forward.project(self.model.blocks[layer].attn, rearrange(z, "n b o h d -> n b o (h d)"))
        inside = out & live
        if inside == out:
            new += stream if out == live else stream[:, :, out.within(live)]
        else:
            new += self.run.layer("residual", layer)[:, out.index]
            if inside:
                changed = stream if inside == live else stream[:, :, inside.within(live)]
                new[:, :, inside.within(out)] += changed - self.run.layer("residual", layer)[:, inside.index]
        return self._mlp(layer, new, out)

    def _logits(self, stream: Tensor, live: Rows, read: Rows) -> Tensor:
        """Logits at the rows `read`, those that are not live as recorded."""
        wanted = live & read
        known = self.run.logits[:, read.index].expand(len(stream), -1, -1, -1)
        if not wanted:
            return known
        rows = stream if wanted == live else stream[:, :, wanted.within(live)]
        new = self.forward.unembed(rows, self._final[:, wanted.index] if self.frozen else None)
        return new if wanted == read else _replaced(known, new, wanted.within(read), dim=2)

    def _norm(self, layer: int, stream: Tensor, live: Rows) -> Tensor:
        like = self.run.layer("residual", layer)[:, live.index] if self.frozen else None
        return self.forward.norm(getattr(self.model.blocks[layer], "ln1", None), stream, like)

    def _qkv(self, layer: int, stream: Tensor, live: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the live rows, each [variant, batch, head, row, d_head]."""
        x = rearrange(self._norm(layer, stream, live), "n b r m -> (n b) r m")
        positions = torch.tensor(live.positions, device=x.device)
        parts = self.forward.qkv(self.model.blocks[layer].attn, x, positions)
        q, k, v = (rearrange(part, "(n b) h r d -> n b h r d", n=len(stream)) for part in parts)
        return q, k, v

    def _mlp(self, layer: int, stream: Tensor, rows: Rows) -> Tensor:
        if self.model.cfg.attn_only:
            return stream
        like = self._middle(layer)[:, rows.index] if self.frozen else None
        return self.forward.mlp(self.model.blocks[layer], stream, like)

    def _middle(self, layer: int) -> Tensor:
        """The recorded stream after a layer's heads, before its MLP."""
        z = rearrange(self.run.layer("z", layer), "b p h d -> b p (h d)")
        return self.run.layer("residual", layer) + self.forward.project(self.model.blocks[layer].attn, z)

    @cached_property
    def _final(self) -> Tensor:
        """The recorded stream at the end."""
        return self.forward.mlp(self.model.blocks[self.layers - 1], self._middle(self.layers - 1))

    def _v(self, layer: int) -> Tensor:
        return rearrange(self.run.layer("v", layer), "b s h d -> b h s d")

    def _hidden(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        """What is added to scores [row, source]: -inf where a row does not see a source, else 0."""
        hidden = torch.zeros(len(rows), self.n_pos, dtype=dtype, device=self.run.logits.device)
        return hidden.masked_fill_(~self._visible(rows), -torch.inf) if self.forward.causal else hidden

    def _visible(self, rows: Rows) -> Tensor:
        """Which sources these rows see where attention is causal [row, source]."""
        everything = torch.ones(self.n_pos, self.n_pos, dtype=torch.bool, device=self.run.logits.device).tril()
        return everything[rows.index].clone()


def _replaced(known: Tensor, new: Tensor, index: Any, dim: int = -1) -> Tensor:
    """A copy of `known` with `new` at `index` of a dimension."""
    known = known.clone()
    known[(*(slice(None),) * (dim % known.ndim), index)] = new
    return known


def _put(
    z: Float[Tensor, "variant batch row head d_head"],
    edits: Sequence[Sequence[Edit]],
    v: Float[Tensor, "variant batch source head d_head"],
    rows: Rows,
) -> None:
    """Write the edits of one layer into z, which holds the rows `rows`; an output is what comes after its pattern."""
    for number, some in enumerate(edits):
        for edit in sorted(some, key=lambda edit: isinstance(edit, HeadEdit) + (type(edit) is HeadEdit)):  # as through hooks
            head = edit.head.index
            match edit:
                case CarryEdit():
                    new = z[number, :, :, head] + edit.change[:, rows.index]
                case HeadEdit():
                    new = edit.z[:, rows.index]
                case PatternEdit():
                    new = torch.einsum("bps,bsd->bpd", edit.pattern[:, rows.index], v[number, :, :, head])
            z[number, :, :, head] = torch.where(edit.rows[:, rows.index, None], new, z[number, :, :, head])
