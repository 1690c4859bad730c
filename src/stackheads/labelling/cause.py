"""Channel 2: does the answer need this head? Ablate it at one destination and see what share of the margin gap goes.

effect = Σ (clean margin - ablated margin) / Σ (clean margin - margin on unrelated answers), over examples, per readout.
Resample ablation carries the verdict; positional mean and zero ablation are measured beside it. The effects on all open
readouts are tried together, with simultaneous intervals (`statistics.py`). Only examples in which one of these is asked are
run, unless runs go through hooks: on others there is nothing to destroy. Cost: at most one forward pass per (head, destination,
ablation).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.interventions import ABLATIONS, Recorded, destination_rows
from stackheads.interventions.activations import acting_rows
from stackheads.labelling.bench import Bench
from stackheads.labelling.readouts import Baseline, Readout, Score
from stackheads.labelling.statistics import Resampling, Shares, brought, no_shares, shares
from stackheads.models.hooks import HeadEdit
from stackheads.types import HeadId, Where

Cell = tuple[HeadId, Where]
CARRYING = ("resample",)
"""The ablation that carries the verdict."""


@dataclass(frozen=True)
class AblationEffects:
    """One ablation's result per readout, on all examples: effect, and share of answers that are lost.

    None for a readout that the model does not answer, if examples in which it is asked were not run.
    """

    effect: list[float | None]
    accuracy_effect: list[float | None]


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
        """Whether this was seen, and is no guess: by an intervention, or because the model answers nothing."""
        return self.guess is None

    def other(self, number: int) -> dict[str, float]:
        """The effect of the other ablations on one of `readouts`."""
        at = self.every.index(self.readouts[number])
        others = {method: found.effect[at] for method, found in self.ablations.items() if method != "resample"}
        return {method: effect for method, effect in others.items() if effect is not None}


Group = tuple[Sequence[HeadId], Where]
"""Heads that are ablated together, and where."""


def cause_evidence(
    bench: Bench,
    heads: Sequence[HeadId],
    destination: Where,
    draws: Resampling,
    methods: Sequence[str] = tuple(ABLATIONS),
) -> CauseEvidence:
    """Ablate these heads together at a destination, with each method; resample ablation must be one of them."""
    (found,) = causes_of(bench, [(heads, destination)], draws, methods)
    return found


def causes_of(
    bench: Bench, groups: Sequence[Group], draws: Resampling, methods: Sequence[str] = tuple(ABLATIONS)
) -> list[CauseEvidence]:
    """The same of each group, run together: cheaper where those of a layer and a destination stand together. What is measured
    comes to the CPU for all of them at once.
    """
    for _, destination in groups:
        acting_rows(bench.clean.batch, destination)

    def edits(clean: Recorded) -> list[list[HeadEdit]]:
        rows = {destination: destination_rows(clean.batch, destination) for _, destination in groups}
        every = {(method, head) for heads, _ in groups for head in heads for method in methods}
        z = {(method, head): ABLATIONS[method](clean, head) for method, head in every}
        return [
            [HeadEdit(head, rows[destination], z[method, head]) for head in heads]
            for heads, destination in groups
            for method in methods
        ]

    baseline = bench.baseline.on_cpu
    scores, ran = bench.scores(edits, baseline.answered)
    scores = scores or [baseline.clean] * (len(groups) * len(methods))  # where the model answers nothing
    margins, right = (brought([getattr(score, name) for score in scores]) for name in ("margin", "right"))
    every = iter([Score(*each) for each in zip(margins, right, strict=True)])
    return [_told({method: next(every) for method in methods}, ran, baseline, draws) for _ in groups]


def resampled_causes(bench: Bench, cells: Sequence[Cell], draws: Resampling) -> dict[Cell, CauseEvidence]:
    """That of many cells by resample ablation alone. Cost: at most one forward pass each."""
    together = sorted(cells, key=lambda cell: (cell[0].layer, str(cell[1])))  # those that are taken up at the same rows
    return dict(zip(together, causes_of(bench, [([head], place) for head, place in together], draws, CARRYING), strict=True))


def _told(scores: Mapping[str, Score], ran: Bool[Tensor, "example"], baseline: Baseline, draws: Resampling) -> CauseEvidence:
    """What is known of one group, from its score under each ablation."""
    ablations = {method: _effects(score, ran, baseline) for method, score in scores.items()}
    moved = baseline.clean.margin - scores["resample"].margin
    lost = ablations["resample"].accuracy_effect
    return CauseEvidence(
        readouts=_marked(baseline, baseline.open),
        effects=effects_on_open(moved, baseline, draws),
        accuracy_effect=tuple(float(lost[number] or 0.0) for number in baseline.open.nonzero().flatten().tolist()),
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


def _effects(score: Score, ran: Bool[Tensor, "example"], baseline: Baseline) -> AblationEffects:
    """Plain numbers: tensors kept from every cell would pin the memory between them."""
    moved = baseline.clean.margin - score.margin
    lost = (baseline.clean.right - score.right).sum(dim=0) / baseline.count.sum(dim=0)
    known = (ran[:, None] | ~baseline.asked).all(dim=0).tolist()
    effect, accuracy_effect = (
        [value if is_known else None for value, is_known in zip(each.tolist(), known, strict=True)]
        for each in (shares(moved, baseline.gap), lost)
    )
    return AblationEffects(effect, accuracy_effect)
