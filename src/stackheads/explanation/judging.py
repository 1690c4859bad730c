"""The three channels for every selector of a model's heads, on examples that the selectors were not fitted on.

1. *Pattern.* Selectors are fitted to the answer (`selected.py`), so that their weights say what is needed and not how sharply a
   head looks. Here they are fitted to the head's attention alone: those of the same head and destination up to the selector's
   rank – roles, slots, places, the same under gates, content –, with and without it. By how many nats does it tell the
   attention better than what comes before it, at the positions where it acts? A table can say all that simpler selectors
   say, so it counts for what it adds to the best one of an earlier rank, which is fitted beside it: or places would be named
   for the slot that they make up. And by how many better than the same selector reading another example, where it does not
   say the same in all? Where layouts vary that one's sources are read by position and by distance, and what tells the
   attention better counts. Intervals by Student's t over examples, Bonferroni-corrected over selectors. A fit that does not
   end where nothing changes decides nothing.
2. *Cause.* What is lost of the answer when the selector alone is taken out (`taken_out.py`).
3. *Write*, where a selector looks there and that matters, since only then its status asks for it. In the model itself, its
   patterns as they are: does what the head carries from where the selector points matter? For a role that it looks at, as for
   labels (`labelling/write.py`). For all else the value vectors of a matched example, at each source for the share of its
   attention that is there because of the selector.

Cost: fits without a forward pass, as many as a head has selectors and ranks at most; for write one forward pass for each
selector that is asked about, or one for each that is a hop and each hop that the model answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.explanation.attention_fit import fitted_to_attention, steepest
from stackheads.explanation.examples import Examples
from stackheads.explanation.gains import Best, best_candidates, with_candidates
from stackheads.explanation.selected import EVERY, offered
from stackheads.explanation.sums import LEAST, Part, Sum, Taken, cross_entropy, left, most_nats, varies
from stackheads.labelling.patched import Question
from stackheads.labelling.selectors import Kind, Rows, Selector, make_rows
from stackheads.labelling.statistics import Estimate, Resampling, Shares, mean_interval
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import SelectorEvidence, asks_what_is_carried
from stackheads.labelling.write import WriteEvidence, Writes
from stackheads.seeds import Stream, stream
from stackheads.types import Destination, Gate, Role, Status, Where, ranges, where

ACTS = 0.5
"""A gated selector acts at the values at which its weight is this part of its largest one, or more."""
UNHELD = (Status.CAUSAL_UNCLASSIFIED, Status.NONE)
"""Statuses of selectors by which the answer can be given, but is not: one of the other channels says no."""
IDLE = (Status.PATTERN_ONLY, Status.NONE)
"""Statuses of selectors that do nothing."""
FLAT = 3e-3
"""Nats by which the cross-entropy of a head still changes with a weight, below which a fit has ended: a tenth of `min_gain`."""
ORDER: tuple[Kind, ...] = ("role", "slot", "position", "content")
TABLES = ("position", "content")
"""Kinds of which one selector has many numbers."""

Cell = tuple[Destination, int, Selector]


@dataclass(frozen=True)
class _Fits:
    """For each selector two fits to attention, of its cell's selectors up to its rank, of a table's with a simpler one besides:
    all and all others; did both end, and which is that?
    """

    whole: dict[Cell, Sum]
    without: dict[Cell, Sum]
    ended: dict[Cell, bool]
    beside: dict[Cell, str]


def judged(
    chosen: Sum,
    fit: Examples,
    trial: Examples,
    effects: Mapping[Part, Shares],
    draws: Resampling,
    thresholds: Thresholds,
    seed: int,
    of_heads: Mapping[Part, Shares] = MappingProxyType({}),
) -> dict[Part, SelectorEvidence]:
    """The evidence for each selector, measured on `trial`; `effects` are those of channel 2, `of_heads` those of the heads
    where selectors are taken out of the model itself.
    """
    fits = _fits(chosen, fit)
    told = _told(chosen, fits, trial, thresholds)
    readouts = tuple(trial.bench.baseline.readouts[number] for number in trial.bench.open_readouts)
    found = {
        cell: SelectorEvidence(
            *told[cell],
            fits.ended[cell],
            effects[cell],
            readouts,
            None,
            of_heads.get((*cell[:2], None)),
            fits.beside.get(cell),
        )
        for cell in chosen.taken()
    }
    asked = [cell for cell, evidence in found.items() if asks_what_is_carried(evidence, thresholds)]
    writes = _writes(chosen, trial, asked, draws, thresholds, seed) if asked else {}
    return {cell: replace(evidence, write=writes.get(cell)) for cell, evidence in found.items()}


def gate_of(rows: Rows, selector: Selector, weight: Float[Tensor, "size value"]) -> Gate | None:
    """The gate of a selector with the values at which it acts; None where it has none, it acts at all, more here and less
    there, or every value has its own symbols.
    """
    if selector.gate is None or selector.kind == "content":
        return None
    seen = rows.gates[selector.gate].unique()
    seen = seen[seen < weight.shape[1]]  # of others it knows nothing
    there = weight[0, seen]
    largest = peak(there)
    acting = largest.sign() * there >= ACTS * largest.abs()
    return None if bool(acting.all()) else Gate(selector.gate, tuple(seen[acting].tolist()))


def acting_values(rows: Rows, selector: Selector, weight: Float[Tensor, "size value"]) -> str | None:
    """The values of its gate at which a selector acts, as ranges."""
    gate = gate_of(rows, selector, weight)
    return None if gate is None else ranges(gate.values)


def rank(selector: Selector) -> int:
    """Roles come before slots, places, what is gated, and content: a later one counts for what earlier ones do not tell."""
    return ORDER.index(selector.kind) + (len(ORDER) if selector.gate is not None else 0)


def _fits(chosen: Sum, fit: Examples) -> _Fits:
    """For each rank a fit of all up to it, then one for every first, second, … of the rank: cells do not touch each other."""
    fits = _Fits({}, {}, {}, {})
    whole = chosen
    for number in sorted({rank(selector) for _, _, selector in chosen.taken()}):
        later = [cell for cell in chosen.taken() if rank(cell[2]) > number]
        of_cell: dict[tuple[Destination, int], list[Cell]] = {}
        for cell in chosen.taken():
            if rank(cell[2]) == number:
                of_cell.setdefault(cell[:2], []).append(cell)
        whole = fitted_to_attention(replace(chosen, weights=whole.weights).without(later), fit, list(of_cell))
        flat = steepest(whole, fit, of_cell)
        for turn in range(max(map(len, of_cell.values()))):
            gone = [cells[turn] for cells in of_cell.values() if len(cells) > turn]
            every, rest, simple = _with_and_without(whole, gone, fit)
            slopes = [(flat, whole)] if every is whole else [(steepest(every, fit, {cell[:2] for cell in gone}), every)]
            slopes.append((steepest(rest, fit, {cell[:2] for cell in gone}), rest))
            for cell in gone:
                slope = max(_of_cell(steep, one, cell) for steep, one in slopes)
                fits.whole[cell], fits.without[cell], fits.ended[cell] = every, rest, slope < FLAT
            fits.beside.update({cell: str(simple[cell[:2]][0]) for cell in gone if cell[:2] in simple})
    return fits


def _with_and_without(whole: Sum, gone: Sequence[Cell], fit: Examples) -> tuple[Sum, Sum, Best]:
    """Fits with these selectors, all of one rank and of different cells, and without: where they are tables both with the best
    candidate of an earlier rank besides, so that a table counts for what it adds to that; and these candidates.
    """
    rest, cells = whole.without(gone), [cell[:2] for cell in gone]
    tables = [cell[:2] for cell in gone if cell[2].kind in TABLES]
    if not tables:
        return whole, fitted_to_attention(rest, fit, cells), {}
    asking = {place: torch.zeros_like(live) for place, live in whole.live.items()}
    for place, head in tables:
        asking[place][head] = True
    earlier = {taken: shape for taken, shape in offered(fit, *EVERY).items() if rank(taken[1]) < rank(gone[0][2])}
    simple = best_candidates(rest, earlier, fit, asking, 0.0)
    every, rest = (with_candidates(one, simple, earlier, fit.device) for one in (whole, rest))
    return fitted_to_attention(every, fit, tables), fitted_to_attention(rest, fit, cells), simple


def _of_cell(slopes: Mapping[Taken, Float[Tensor, "head"]], fit: Sum, cell: Cell) -> float:
    """The largest slope of the selectors that the cell of a selector has in a fit."""
    place, head, _ = cell
    return max(
        (float(slopes[taken][head]) for taken in slopes if taken[0] == place and bool(fit.has[taken][head])), default=0.0
    )


def _told(chosen: Sum, fits: _Fits, trial: Examples, thresholds: Thresholds) -> dict[Cell, tuple[Estimate, Estimate | None]]:
    """By how much each selector tells its head's attention better than the others alone, and than another example's."""
    cells, batch = chosen.taken(), trial.bench.clean.batch
    matched = trial.bench.clean.matched
    readings = (False,) if matched.position is None else (False, True)  # another's sources by position, and by distance
    others = {
        place: [(make_rows(trial.bench.task, batch, place, matched, distances).to("cpu"), distances) for distances in readings]
        for place in trial.rows
    }
    found: dict[Cell, tuple[Estimate, Estimate | None]] = {}
    for cell in cells:
        place, head, selector = cell
        rows, target = trial.rows[place], trial.attention[place][head]
        acts = _acting(rows, selector, chosen.weights[place, selector][head])
        whole = fits.whole[cell]
        every, others_alone = whole.of(place, head), fits.without[cell].of(place, head)
        entropy = cross_entropy(target, rows.patterns(every, 1)[0])
        without = cross_entropy(target, rows.patterns(others_alone, 1)[0])
        gain = _interval(rows, acts, without - entropy, most_nats(every, others_alone), len(cells), thresholds)
        most = 2 * varies(selector, every[selector])  # of both examples' scores
        elsewhere = [_elsewhere(rows, other, whole, cell, distances) for other, distances in others[place]]
        told = [
            _interval(rows, acts, cross_entropy(target, pattern) - entropy, most, len(cells), thresholds)
            for pattern in elsewhere
            if pattern is not None
        ]
        found[cell] = gain, min(told, key=lambda each: each.value) if len(told) == len(elsewhere) else None
    return found


def _acting(rows: Rows, selector: Selector, weight: Float[Tensor, "size value"]) -> Bool[Tensor, "row"]:
    """The rows at which a selector acts: its gate has such a value, and there is something that it names."""
    gate, named = gate_of(rows, selector, weight), rows.names(selector)
    if gate is None:
        return named
    return named & torch.isin(rows.gates[gate.name], torch.tensor(gate.values, device=named.device))


def _elsewhere(rows: Rows, others: Rows, whole: Sum, cell: Cell, distances: bool = False) -> Float[Tensor, "row source"] | None:
    """The pattern of a head with one selector reading another example; None where it says the same there, by distances
    wherever it says anything: what stands before a row stands before none that is the first.
    """
    place, head, selector = cell
    weight = whole.weights[place, selector][head : head + 1]
    own, other = (one.score(selector, weight)[0].expand(len(rows), rows.n_pos) for one in (rows, others))
    same = (own == other).all(dim=-1)
    if bool((same | ~others.names(selector) if distances else same).all()):
        return None
    return (rows.patterns(left(whole, cell), 1)[0].log() + other).softmax(dim=-1)


def _interval(
    rows: Rows, acts: Bool[Tensor, "row"], nats: Float[Tensor, "row"], most: float, tests: int, thresholds: Thresholds
) -> Estimate:
    """The mean over the rows at which a selector acts, examples drawn; `most` is what a row can show."""
    n = int(rows.at[:, 0].max()) + 1
    total, weight = (torch.zeros(n, 1, dtype=torch.double, device=nats.device) for _ in range(2))
    total.index_add_(0, rows.at[acts, 0], nats[acts, None].double())
    weight.index_add_(0, rows.at[acts, 0], torch.ones_like(nats[acts, None], dtype=torch.double))
    mean, low, high = mean_interval(total, weight, 1 - thresholds.null_p, tests)
    return Estimate(mean.item(), low.item(), high.item(), int((weight > 0).sum()), most)


def _writes(
    chosen: Sum, trial: Examples, cells: Iterable[Cell], draws: Resampling, thresholds: Thresholds, seed: int
) -> dict[Cell, WriteEvidence]:
    """Whether what heads carry from where these selectors point matters, in the model as it is."""
    readouts, patterns = trial.bench.baseline.readouts, trial.patterns(chosen)
    deepest = max(readouts[number].hop for number in trial.bench.open_readouts)
    numbers = stream(seed, Stream.SELECTORS_REWIRED)
    writes = Writes(trial.bench, draws, thresholds, numbers, deepest)
    questions: dict[Cell, Question] = {}
    others: dict[Cell, Where] = {}
    for cell in cells:
        place, head, selector = cell
        weight = chosen.weights[place, selector][head]
        at = where(place, gate_of(trial.rows[place], selector, weight))
        if isinstance(selector.what, Role) and selector.kind == "role" and float(peak(weight)) > 0:
            questions[cell] = Question((trial.head(head),), at, selector.what)
        else:
            others[cell] = at
    read = ((trial.head(cell[1]), at, _drawn(chosen, trial, cell, patterns[cell[0]][cell[1]])) for cell, at in others.items())
    found = dict(zip(others, writes.matched(read), strict=True))
    return found | dict(zip(questions, writes.answer(list(questions.values())), strict=True))


def peak(weight: Tensor) -> Tensor:
    """The weight that is furthest from zero."""
    return weight.flatten()[weight.abs().argmax()]


def _drawn(chosen: Sum, trial: Examples, cell: Cell, pattern: Tensor) -> Float[Tensor, "batch pos source"]:
    """The share of what a head reads at each source that it reads because of one selector."""
    rows = trial.rows[cell[0]]
    without = rows.patterns(left(chosen, cell), 1)[0]
    share = ((pattern - without).clamp(min=0) / pattern.clamp(min=LEAST)).clamp(max=1)
    found = pattern.new_zeros(*trial.run.rows.shape, rows.n_pos)
    return found.index_put((rows.at[:, 0], rows.at[:, 1]), share).to(trial.answers.device)
