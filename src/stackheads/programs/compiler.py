"""From head specifications to the weights of a `HookedTransformer`, without training.

The residual stream is an orthogonal sum of registers, each one-hot: token, position, the kind of slot, and one for every
offset that some head writes. A basis of orthonormal columns, all orthogonal to the vector of ones, embeds the registers in
d_model dimensions, so that LayerNorm only scales; a random basis is the rotation. With LayerNorm the scale depends on how
many registers are filled, so gains are calibrated layer by layer on a sample: a head's scores and what it writes then have
the size that the specification says, up to the spread of norms within a kind of slot.

W_Q and W_K share dimensions for the matched registers, one for the kind of source, and one that sends rows where the head
does nothing to the first token. W_V and W_O share one block of d_vocab dimensions for each copied register. Readout h reads
the register f^h.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.models.config import ModelConfig, build
from stackheads.models.native import named_weights
from stackheads.models.protocol import Wired
from stackheads.programs.heads import PLACES, POSITION, TOKEN, HeadSpec, Layers, ProgramError, Readouts, plain_readouts
from stackheads.seeds import Stream, stream
from stackheads.tasks import StatementTask
from stackheads.tasks.links import statement_slots
from stackheads.types import Destination, Slot

KINDS = "kinds"
LOGIT = 12.0
"""Logit of a right answer above the others, about."""
PARKING = 3.0
"""Score of parked rows, in units of a match: more than match and source together."""
CALIBRATION_EXAMPLES = 64


@dataclass(frozen=True)
class Layout:
    """Where each register lies in the basis."""

    dims: dict[str, slice]
    basis: Float[Tensor, "d_model width"]

    def of(self, name: str) -> Float[Tensor, "d_model size"]:
        """The basis vectors of a register."""
        return self.basis[:, self.dims[name]]


def compile_layers(
    layers: Layers,
    task: StatementTask,
    normalization: str | None = "LN",
    sharpness: float = 14.0,
    rotation_seed: int | None = None,
    readouts: Readouts | None = None,
) -> tuple[Any, ModelConfig]:
    """A model that computes what the specifications say, and its configuration.

    `sharpness` is the score of a match in nats where a head does not set its own; `rotation_seed` None leaves the basis plain;
    `readouts` says which registers each readout hop reads, with weights (default: hop h reads f^h).
    """
    readouts = readouts or plain_readouts(task)
    layout = _layout(layers, task, readouts, rotation_seed)
    n_heads = max(len(heads) for heads in layers)
    config = ModelConfig(
        layers=len(layers),
        heads=n_heads,
        d_model=layout.basis.shape[0],
        d_head=max(_head_width(head, task) for heads in layers for head in heads),
        normalization="LN" if normalization == "LN" else None,
    )
    model = build(config, task)
    with torch.no_grad():
        _embed(model, layout, task)
        tokens = task.sample(CALIBRATION_EXAMPLES, stream(0, Stream.GAINS)).tokens
        for layer, heads in enumerate(layers):
            scales = _scales(model, tokens, f"blocks.{layer}.ln1.hook_scale")
            for index, head in enumerate(heads):
                _write_head(model, layer, index, head, layout, scales, head.sharpness or sharpness)
        _unembed(model, layout, task, _scales(model, tokens, "ln_final.hook_scale"), readouts)
    return model.eval().requires_grad_(False), config


def _layout(layers: Layers, task: StatementTask, readouts: Readouts, rotation_seed: int | None) -> Layout:
    written = {copy.target for heads in layers for head in heads for copy in head.copies}
    read = {name for heads in layers for head in heads for pair in head.matches for name in pair}
    read |= {copy.source for heads in layers for head in heads for copy in head.copies}
    read |= {name for registers in readouts.values() for name in registers}
    sizes = {TOKEN: task.d_vocab, POSITION: task.n_ctx, KINDS: len(PLACES)}
    sizes |= dict.fromkeys(sorted((written | read) - sizes.keys()), task.d_vocab)
    dims, start = {}, 0
    for name, size in sizes.items():
        dims[name] = slice(start, start + size)
        start += size
    return Layout(dims, _basis(start, rotation_seed))


def _basis(width: int, rotation_seed: int | None) -> Float[Tensor, "d_model width"]:
    """Orthonormal columns, all orthogonal to the vector of ones."""
    d_model = width + 1
    if rotation_seed is None:
        rest = torch.eye(d_model, dtype=torch.double)[:, :width]
    else:
        generator = stream(rotation_seed, Stream.ROTATION)
        rest = torch.randn(d_model, width, generator=generator, dtype=torch.double)
    columns = torch.cat([torch.ones(d_model, 1, dtype=torch.double), rest], dim=1)
    return torch.linalg.qr(columns)[0][:, 1:].float()


def _head_width(head: HeadSpec, task: StatementTask) -> int:
    matched = task.n_ctx if head.offset is not None else len(head.matches) * task.d_vocab
    return max(matched + 3, len(head.copies) * task.d_vocab, 1)


def _zero(model: Wired) -> None:
    for name, parameter in named_weights(model).items():
        if "ln" not in name:
            parameter.zero_()


def _embed(model: Wired, layout: Layout, task: StatementTask) -> None:
    _zero(model)
    weights, kinds = named_weights(model), _kinds(task)
    weights["embed.W_E"].copy_(layout.of(TOKEN).T)
    weights["pos_embed.W_pos"].copy_(layout.of(POSITION).T + layout.of(KINDS).T[kinds])


def _kinds(task: StatementTask) -> Tensor:
    """Index into `PLACES` for each position."""
    slots = statement_slots(torch.zeros(1, task.n_ctx, dtype=torch.long))[0].tolist()
    order = [destination.slot for destination in PLACES]
    return torch.tensor([order.index(Slot(slot)) for slot in slots])


Scales = dict[Slot, float]


def _scales(model: Wired, tokens: Tensor, hook: str) -> Scales:
    """What LayerNorm multiplies by at each kind of slot, on average; 1 without LayerNorm."""
    if model.cfg.normalization_type is None:
        return dict.fromkeys(Slot, 1.0)
    kept: dict[str, Tensor] = {}
    model.run_with_hooks(tokens, fwd_hooks=[(hook, lambda value, hook: kept.update(scale=value))])
    slots = statement_slots(tokens)
    return {slot: (1 / kept["scale"][slots == slot]).mean().item() for slot in map(Slot, slots.unique().tolist())}


def _write_head(model: Wired, layer: int, index: int, head: HeadSpec, layout: Layout, scales: Scales, sharpness: float) -> None:
    named = named_weights(model)
    weights = {name: named[f"blocks.{layer}.attn.{name}"][index] for name in ("W_Q", "W_K", "b_Q", "W_V", "W_O")}
    row_scale = _mean([scales[destination.slot] for destination in head.rows]) if head.rows else 1.0
    source_scale = _mean([scales[slot] for slot in head.sources if slot in scales])
    strength = sharpness * model.cfg.attn_scale / (row_scale * source_scale)
    w_q, w_k, b_q = weights["W_Q"], weights["W_K"], weights["b_Q"]
    size = layout.of(TOKEN).shape[1]
    used = 0
    if head.offset is not None:
        positions = layout.of(POSITION)
        used = positions.shape[1]
        w_q[:, :used] = strength * torch.roll(positions, head.offset, dims=1)  # row i asks for position i + offset
        w_k[:, :used] = positions
    for number, (row, source) in enumerate(head.matches):
        block = slice(number * size, (number + 1) * size)
        lean = 1 + (head.leans[number] / sharpness if head.leans else 0.0)
        w_q[:, block], w_k[:, block] = strength * lean * layout.of(row) * _acting(head, number, size), layout.of(source)
        used = (number + 1) * size
    kinds, order = layout.of(KINDS), PLACES
    if head.matches or head.preference:
        b_q[used] = (head.preference or sharpness) * model.cfg.attn_scale / source_scale
        w_k[:, used] = sum(kinds[:, order.index(Destination[slot.name])] for slot in head.sources)
    if head.rows:
        parking = PARKING * strength * max(1.0, (head.preference or 0.0) / sharpness)
        for dim, place in ((used + 1, 0), (used + 2, -1)):
            rows = head.at_last if place else frozenset(order) - head.rows
            fixed = [kinds[:, order.index(destination)] for destination in rows]
            if fixed:
                w_q[:, dim] = parking * torch.stack(fixed).sum(dim=0)
                w_k[:, dim] = layout.of(POSITION)[:, place]
    for number, copy in enumerate(head.copies):
        block = slice(number * size, (number + 1) * size)
        weights["W_V"][:, block] = layout.of(copy.source) * (copy.gain / source_scale)
        weights["W_O"][block] = layout.of(copy.target).T


def _acting(head: HeadSpec, number: int, size: int) -> Float[Tensor, "size"]:
    """1 for the tokens at which one match of a head acts, 0 for the others."""
    symbols = head.on[number] if head.on else None
    if symbols is None:
        return torch.ones(size)
    if head.matches[number][0] != TOKEN:
        raise ProgramError(f"a head of some symbols matches the token alone, got {head.matches}: leave the symbols out")
    return torch.tensor([float(token in symbols) for token in range(size)])


def _unembed(model: Wired, layout: Layout, task: StatementTask, scales: Scales, readouts: Readouts) -> None:
    asked = [Slot.QUERY, Slot.VALUE] if task.supervision == "dense" else [Slot.QUERY]
    gain = LOGIT / _mean([scales[slot] for slot in asked])
    for number, hop in enumerate(task.readout_hops):
        block = slice(number * task.d_vocab, (number + 1) * task.d_vocab)
        for name, weight in readouts[hop].items():
            named_weights(model)["unembed.W_U"][:, block] += gain * weight * layout.of(name)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
