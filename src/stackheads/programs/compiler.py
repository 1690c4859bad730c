"""From head specifications to the weights of a `HookedTransformer`, without training.

The residual stream is an orthogonal sum of registers, each one-hot: token, position, the kind of slot, and one for every
offset that some head writes; what is copied from the position holds positions. A basis of orthonormal columns, all orthogonal
to the vector of ones, embeds the registers in d_model dimensions, so that LayerNorm only scales; a random basis is the
rotation. With LayerNorm the scale depends on how many registers are filled, so gains are calibrated layer by layer on a
sample: a head's scores and what it writes then have the size that the specification says, up to the spread of norms within a
kind of slot.

W_Q and W_K share dimensions for the matched registers, W_Q by way of the table where a match has one, one for the kind of
source, and one that sends rows where the head does nothing to the first token. W_V and W_O share one block of dimensions for
each copied register. Readout h reads the register f^h.

Assumes one layout: every example has the same slots.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.models.config import ModelConfig, build
from stackheads.models.native import named_weights
from stackheads.models.protocol import Wired
from stackheads.programs.heads import (
    PLACES,
    POSITION,
    TOKEN,
    HeadSpec,
    Layers,
    ProgramError,
    Readouts,
    Table,
    Written,
    plain_readouts,
)
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch
from stackheads.tasks.layout import check_one_layout
from stackheads.types import IGNORE, Destination, Slot

KINDS = "kinds"
LOGIT = 12.0
"""Logit of a right answer above the others, about."""
PARKING = 3.0
"""Score of parked rows, in units of a match: more than match and source together."""
CALIBRATION_EXAMPLES = 64


@dataclass(frozen=True)
class Layout:
    """Where each register lies in the basis, and the slot of each position."""

    dims: dict[str, slice]
    basis: Float[Tensor, "d_model width"]
    slots: Int[Tensor, "pos"]

    def of(self, name: str) -> Float[Tensor, "d_model size"]:
        """The basis vectors of a register."""
        return self.basis[:, self.dims[name]]

    def size(self, name: str) -> int:
        """How many numbers a register tells apart."""
        return self.dims[name].stop - self.dims[name].start

    @property
    def kinds(self) -> list[Slot]:
        """The kinds of slots, in the order of their register: first those of all statements."""
        return _kinds(self.slots)

    def of_kind(self, slot: Slot) -> Float[Tensor, "d_model"]:
        """The basis vector of a kind of slot."""
        return self.of(KINDS)[:, self.kinds.index(slot)]


def compile_layers(
    layers: Layers,
    task: Written,
    normalization: str | None = "LN",
    sharpness: float = 14.0,
    rotation_seed: int | None = None,
    readouts: Readouts | None = None,
) -> tuple[Any, ModelConfig]:
    """A model that computes what the specifications say, and its configuration.

    `sharpness` is the score of a match in nats where a head does not set its own; `rotation_seed` None leaves the basis plain;
    `readouts` says which registers each readout hop reads, with weights (default for statements: hop h reads f^h).
    """
    readouts = plain_readouts(task) if readouts is None else readouts
    batch = task.sample(CALIBRATION_EXAMPLES, stream(0, Stream.GAINS))
    check_one_layout(batch, "a compiled circuit knows slots by their positions")
    layout = _layout(layers, task, batch.slots[0], readouts, rotation_seed)
    n_heads = max(len(heads) for heads in layers)
    config = ModelConfig(
        layers=len(layers),
        heads=n_heads,
        d_model=layout.basis.shape[0],
        d_head=max(_head_width(head, layout) for heads in layers for head in heads),
        normalization="LN" if normalization == "LN" else None,
    )
    model = build(config, task)
    with torch.no_grad():
        _embed(model, layout)
        for layer, heads in enumerate(layers):
            scales = _scales(model, batch.tokens, layout, f"blocks.{layer}.ln1.hook_scale")
            for index, head in enumerate(heads):
                _write_head(model, layer, index, head, layout, scales, head.sharpness or sharpness)
        _unembed(model, layout, batch, _scales(model, batch.tokens, layout, "ln_final.hook_scale"), readouts)
    return model.eval().requires_grad_(False), config


def _layout(layers: Layers, task: Written, slots: Int[Tensor, "pos"], readouts: Readouts, rotation_seed: int | None) -> Layout:
    written = {copy.target for heads in layers for head in heads for copy in head.copies}
    read = {name for heads in layers for head in heads for pair in head.matches for name in pair}
    read |= {copy.source for heads in layers for head in heads for copy in head.copies}
    read |= {name for registers in readouts.values() for name in registers}
    sizes = {TOKEN: task.d_vocab, POSITION: task.n_ctx, KINDS: len(_kinds(slots))}
    places = _of_places(layers)
    for name in sorted((written | read) - sizes.keys()):
        sizes[name] = task.n_ctx if name in places else task.d_vocab
    dims, start = {}, 0
    for name, size in sizes.items():
        dims[name] = slice(start, start + size)
        start += size
    return Layout(dims, _basis(start, rotation_seed), slots)


def _of_places(layers: Layers) -> set[str]:
    """The registers that hold positions: what is copied from one."""
    places = {POSITION}
    for heads in layers:
        places |= {copy.target for head in heads for copy in head.copies if copy.source in places}
    return places


def _kinds(slots: Int[Tensor, "pos"]) -> list[Slot]:
    known = [place.slot for place in PLACES]
    return known + [slot for slot in map(Slot, slots.unique().tolist()) if slot not in known]


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


def _head_width(head: HeadSpec, layout: Layout) -> int:
    matched = sum(layout.size(source) for _, source in head.matches)
    if head.offset is not None:
        matched += layout.size(POSITION)
    return max(matched + 3, sum(layout.size(copy.source) for copy in head.copies), 1)


def _zero(model: Wired) -> None:
    for name, parameter in named_weights(model).items():
        if "ln" not in name:
            parameter.zero_()


def _embed(model: Wired, layout: Layout) -> None:
    _zero(model)
    weights = named_weights(model)
    weights["embed.W_E"].copy_(layout.of(TOKEN).T)
    own = torch.stack([layout.of_kind(Slot(slot)) for slot in layout.slots.tolist()])
    weights["pos_embed.W_pos"].copy_(layout.of(POSITION).T + own)


Scales = dict[Slot, float]


def _scales(model: Wired, tokens: Tensor, layout: Layout, hook: str) -> Scales:
    """What LayerNorm multiplies by at each kind of slot, on average; 1 without LayerNorm."""
    if model.cfg.normalization_type is None:
        return dict.fromkeys(Slot, 1.0)
    kept: dict[str, Tensor] = {}
    model.run_with_hooks(tokens, fwd_hooks=[(hook, lambda value, hook: kept.update(scale=value))])
    there = map(Slot, layout.slots.unique().tolist())
    return {slot: (1 / kept["scale"][:, layout.slots == slot]).mean().item() for slot in there}


def _write_head(model: Wired, layer: int, index: int, head: HeadSpec, layout: Layout, scales: Scales, sharpness: float) -> None:
    named = named_weights(model)
    weights = {name: named[f"blocks.{layer}.attn.{name}"][index] for name in ("W_Q", "W_K", "b_Q", "W_V", "W_O")}
    row_scale = _mean([scales[destination.slot] for destination in head.rows]) if head.rows else 1.0
    source_scale = _mean([scales[slot] for slot in head.sources if slot in scales])
    strength = sharpness * model.cfg.attn_scale / (row_scale * source_scale)
    used = _write_matches(weights, head, layout, strength, sharpness)
    if head.matches or head.preference:
        weights["b_Q"][used] = (head.preference or sharpness) * model.cfg.attn_scale / source_scale
        weights["W_K"][:, used] = sum(layout.of_kind(slot) for slot in head.sources)
    if head.rows:
        _write_parking(weights, head, layout, used + 1, strength * _strongest(head, sharpness))
    used = 0
    for copy in head.copies:
        block = slice(used, used + layout.size(copy.source))
        weights["W_V"][:, block] = layout.of(copy.source) * (copy.gain / source_scale)
        weights["W_O"][block] = _against(copy.table, layout, copy.source, copy.target)
        used = block.stop


def _write_matches(weights: dict[str, Tensor], head: HeadSpec, layout: Layout, strength: float, sharpness: float) -> int:
    """Where the head looks by what it knows; how many dimensions that takes."""
    w_q, w_k, used = weights["W_Q"], weights["W_K"], 0
    if head.offset is not None:
        positions = layout.of(POSITION)
        used = positions.shape[1]
        w_q[:, :used] = strength * torch.roll(positions, head.offset, dims=1)  # row i asks for position i + offset
        w_k[:, :used] = positions
    for number, (_, source) in enumerate(head.matches):
        block = slice(used, used + layout.size(source))
        lean = 1 + (head.leans[number] / sharpness if head.leans else 0.0)
        w_q[:, block] = strength * lean * _wanted(head, number, layout)
        w_k[:, block] = layout.of(source)
        used = block.stop
    return used


def _wanted(head: HeadSpec, number: int, layout: Layout) -> Float[Tensor, "d_model size"]:
    """For each number of a match's source the row vectors that want it: those of the same number, or those of its table."""
    row, source = head.matches[number]
    table = head.tables[number] if head.tables else None
    if table is None:
        return layout.of(row) * _acting(head, number, layout.size(row))
    return _against({(theirs, mine): much for (mine, theirs), much in table.items()}, layout, source, row).T


def _against(table: Table | None, layout: Layout, register: str, other: str) -> Float[Tensor, "size d_model"]:
    """For each number of a register the vector of those that another one has for it; the same number's without a table."""
    if table is None:
        return layout.of(other).T
    pairs = torch.zeros(layout.size(register), layout.size(other))
    for (one, another), much in table.items():
        pairs[one, another] = much
    return pairs @ layout.of(other).T


def _acting(head: HeadSpec, number: int, size: int) -> Float[Tensor, "size"]:
    """1 for the tokens at which one match of a head acts, 0 for the others."""
    symbols = head.on[number] if head.on else None
    if symbols is None:
        return torch.ones(size)
    if head.matches[number][0] != TOKEN:
        raise ProgramError(f"a head of some symbols matches the token alone, got {head.matches}: leave the symbols out")
    return torch.tensor([float(token in symbols) for token in range(size)])


def _strongest(head: HeadSpec, sharpness: float) -> float:
    """The largest score that a head gives, in units of a match."""
    tables = [max(table.values()) for table in head.tables if table]
    return max(1.0, (head.preference or 0.0) / sharpness, *tables)


def _write_parking(weights: dict[str, Tensor], head: HeadSpec, layout: Layout, first: int, match: float) -> None:
    """Rows where the head does nothing look at the first token, those in `at_last` at the last one."""
    idle = [layout.of_kind(slot) for slot in layout.kinds if Destination.__members__.get(slot.name) not in head.rows]
    if head.when is not None:
        register, numbers = head.when
        idle += [layout.of(register)[:, number] for number in range(layout.size(register)) if number not in numbers]
    last = [layout.of_kind(destination.slot) for destination in head.at_last]
    for dim, place, fixed in ((first, 0, idle), (first + 1, -1, last)):
        if fixed:
            weights["W_Q"][:, dim] = PARKING * match * torch.stack(fixed).sum(dim=0)
            weights["W_K"][:, dim] = layout.of(POSITION)[:, place]


def _unembed(model: Wired, layout: Layout, batch: Batch, scales: Scales, readouts: Readouts) -> None:
    weights = named_weights(model)["unembed.W_U"]
    asked = map(Slot, batch.slots[(batch.targets != IGNORE).any(dim=-1)].unique().tolist())
    gain = LOGIT / _mean([scales[slot] for slot in asked])
    size = weights.shape[1] // len(readouts)  # symbols that can be answers are the first tokens
    for number, hop in enumerate(sorted(readouts)):
        for name, weight in readouts[hop].items():
            weights[:, number * size : (number + 1) * size] += gain * weight * layout.of(name)[:, :size]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
