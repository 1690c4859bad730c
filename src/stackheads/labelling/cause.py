"""Channel 2: does the answer need this head? Ablate it at one destination and see what share of the margin gap goes.

effect = Σ (clean margin - ablated margin) / Σ (clean margin - margin on unrelated answers), over examples, per readout.
Resample ablation carries the verdict; positional mean and zero ablation are measured beside it. The effects on all open
readouts are tried together, with simultaneous intervals (`statistics.py`). Cost: one forward pass per (head, destination,
ablation).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.interventions import ABLATIONS, ablate, ablation_edits, run_variants
from stackheads.labelling.bench import Bench
from stackheads.labelling.readouts import Baseline, Readout, Score
from stackheads.labelling.statistics import Resampling, Shares, brought, no_shares, shares
from stackheads.types import HeadId, Where

Cell = tuple[HeadId, Where]
CARRYING = ("resample",)
"""The ablation that carries the verdict."""


@dataclass(frozen=True)
class AblationEffects:
    """One ablation's result per readout, on all examples: effect, and share of answers that are lost."""

    effect: list[float]
    accuracy_effect: list[float]


@dataclass(frozen=True)
class CauseEvidence:
    """What ablating a head (or several together) at a destination does.

    `effects` are those on `readouts`, the open ones, under resample ablation; `accuracy_effect` the share of answers that are
    lost there; `unclear` are readouts that these `examples` examples do not tell about. `ablations` holds everything, per
    method and readout of the baseline, and `every` these readouts. Where `guess` is not None nothing was ablated
    (`screening.py`).
    """

    readouts: tuple[Readout, ...]
    effects: Shares
    accuracy_effect: tuple[float, ...]
    unclear: tuple[Readout, ...]
    examples: int
    every: tuple[Readout, ...]
    ablations: dict[str, AblationEffects]
    guess: float | None = None

    @property
    def exact(self) -> bool:
        """Whether an intervention was made."""
        return self.guess is None

    def other(self, number: int) -> dict[str, float]:
        """The effect of the other ablations on one of `readouts`."""
        at = self.every.index(self.readouts[number])
        return {method: found.effect[at] for method, found in self.ablations.items() if method != "resample"}


def cause_evidence(
    bench: Bench,
    heads: Sequence[HeadId],
    destination: Where,
    draws: Resampling,
    methods: Sequence[str] = tuple(ABLATIONS),
) -> CauseEvidence:
    """Ablate these heads together at a destination, with each method; resample ablation must be one of them."""
    (found,) = causes_of_each(bench, [(heads, destination)], draws, methods)
    return found


def causes_of_each(
    bench: Bench,
    cells: Iterable[tuple[Sequence[HeadId], Where]],
    draws: Resampling,
    methods: Sequence[str] = tuple(ABLATIONS),
) -> list[CauseEvidence]:
    """The same of each of several; what is measured comes to the CPU for all of them at once."""
    scores = [_ablated(bench, heads, destination, methods) for heads, destination in cells]
    return [_told(dict(zip(methods, each, strict=True)), bench.baseline.on_cpu, draws) for each in brought(scores)]


def resampled_causes(bench: Bench, cells: Sequence[Cell], draws: Resampling) -> dict[Cell, CauseEvidence]:
    """That of many cells by resample ablation alone, in one batch. Cost: at most one forward pass each."""
    together = sorted(cells, key=lambda cell: (cell[0].layer, str(cell[1])))  # those that are taken up at the same rows
    variants = [ablation_edits(bench.clean, [head], place) for head, place in together]
    scores = map(bench.scorer.score, run_variants(bench.model, bench.clean, variants, read=bench.scorer.read))
    each = brought([torch.stack([score.margin, score.right]) for score in scores])
    return {cell: _told({"resample": one}, bench.baseline.on_cpu, draws) for cell, one in zip(together, each, strict=True)}


def _ablated(
    bench: Bench, heads: Sequence[HeadId], destination: Where, methods: Sequence[str]
) -> Float[Tensor, "method 2 example readout"]:
    """Margins and right answers."""
    model, clean, scorer = bench.model, bench.clean, bench.scorer
    scores = [scorer.score(ablate(model, clean, heads, destination, method, scorer.read)) for method in methods]
    return torch.stack([torch.stack([score.margin, score.right]) for score in scores])


def _told(scores: Mapping[str, Float[Tensor, "2 example readout"]], baseline: Baseline, draws: Resampling) -> CauseEvidence:
    ablations = {method: _effects(Score(*score), baseline) for method, score in scores.items()}
    moved = baseline.clean.margin - scores["resample"][0]
    lost = ablations["resample"].accuracy_effect
    return CauseEvidence(
        readouts=_marked(baseline, baseline.open),
        effects=effects_on_open(moved, baseline, draws),
        accuracy_effect=tuple(share for share, is_open in zip(lost, baseline.open.tolist(), strict=True) if is_open),
        unclear=_marked(baseline, baseline.unclear),
        examples=len(moved),
        every=baseline.readouts,
        ablations=ablations,
    )


def effects_on_open(moved: Float[Tensor, "example readout"], baseline: Baseline, draws: Resampling) -> Shares:
    """The share of each open readout's gap that these lost margins are."""
    at, baseline = baseline.open, baseline.on_cpu
    return draws.shares(moved.cpu()[:, at], baseline.gap[:, at], baseline.asked[:, at])


def screened_cause(guess: float | None, baseline: Baseline) -> CauseEvidence:
    """What is known of a cell that no intervention was made on; without a guess: where the model answers nothing, none is
    needed to know that it destroys nothing.
    """
    unclear = _marked(baseline, baseline.unclear)
    return CauseEvidence((), no_shares(), (), unclear, len(baseline.count), baseline.readouts, {}, guess)


def _marked(baseline: Baseline, marks: Tensor) -> tuple[Readout, ...]:
    return tuple(readout for readout, marked in zip(baseline.readouts, marks.tolist(), strict=True) if marked)


def _effects(score: Score, baseline: Baseline) -> AblationEffects:
    """Plain numbers: tensors kept from every cell would pin the memory between them."""
    moved = baseline.clean.margin - score.margin
    lost = (baseline.clean.right - score.right).sum(dim=0) / baseline.count.sum(dim=0)
    return AblationEffects(shares(moved, baseline.gap).tolist(), lost.tolist())
