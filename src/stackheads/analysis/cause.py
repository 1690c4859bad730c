"""Channel 2: does the answer need this head? Ablate it at one destination and see what share of the margin gap goes.

effect = Σ (clean margin - ablated margin) / Σ (clean margin - margin on unrelated answers), over examples, per readout.
Resample ablation carries the verdict; positional mean and zero ablation are measured beside it. The readout is chosen on one
half of the examples and the effect estimated on the other. Cost: one forward pass per (head, destination, ablation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.analysis.readouts import Baseline, Readout, Score, Scorer
from stackheads.analysis.statistics import Bootstrap, Estimate, halves, shares
from stackheads.analysis.thresholds import Thresholds
from stackheads.interventions import ABLATIONS, Recorded, ablate
from stackheads.types import Destination, HeadId


@dataclass(frozen=True)
class CauseEvidence:
    """What ablating a head (or several together) at a destination does.

    `readout` is where it does most, `effect` how much there, with its interval; `accuracy_effect` the share of answers that
    are lost there; `other` the effect there of the other ablations; `scores` the full result per ablation.
    `readout` is None where the model answers nothing, so that there is nothing to destroy.
    """

    readout: Readout | None
    effect: Estimate
    accuracy_effect: float
    other: dict[str, float]
    needed: bool
    hinders: bool
    scores: dict[str, Score]


def cause_evidence(
    model: Any,
    clean: Recorded,
    scorer: Scorer,
    baseline: Baseline,
    heads: Sequence[HeadId],
    destination: Destination,
    boot: Bootstrap,
    thresholds: Thresholds,
    methods: Sequence[str] = tuple(ABLATIONS),
) -> CauseEvidence:
    """Ablate these heads together at a destination, with each method; the first method carries the verdict."""
    scores = {method: scorer.score(ablate(model, clean, heads, destination, method)) for method in methods}
    main = scores[methods[0]]
    moved = baseline.clean.margin - main.margin
    chosen = choose(moved, baseline, thresholds)
    if chosen is None:
        return CauseEvidence(None, Estimate(0.0, 0.0, 0.0), 0.0, {}, False, False, scores)
    estimated = halves(len(moved))[1]
    effect = boot.share(moved[estimated, chosen], baseline.gap[estimated, chosen])
    lost = (baseline.clean.right - main.right)[estimated, chosen].sum() / baseline.count[estimated, chosen].sum()
    other = {method: effect_at(baseline, score, chosen, estimated) for method, score in scores.items() if method != methods[0]}
    return CauseEvidence(
        readout=baseline.readouts[chosen],
        effect=effect,
        accuracy_effect=lost.item(),
        other=other,
        needed=effect.above(thresholds.min_effect),
        hinders=effect.below(thresholds.min_effect),
        scores=scores,
    )


def choose(moved: Float[Tensor, "example readout"], baseline: Baseline, thresholds: Thresholds) -> int | None:
    """The open readout with the largest effect on the choosing half; the most negative one if none reaches the bar."""
    if not bool(baseline.open.any()):
        return None
    chosen_on = halves(len(moved))[0]
    effects = shares(moved[chosen_on], baseline.gap[chosen_on]).cpu()
    largest = int(effects.where(baseline.open, -torch.inf).argmax())
    smallest = int(effects.where(baseline.open, torch.inf).argmin())
    helps = effects[largest] >= thresholds.min_effect or effects[smallest] > -thresholds.min_effect
    return largest if helps else smallest


def effect_at(baseline: Baseline, score: Score, readout: int, examples: slice) -> float:
    """The effect at one readout on some of the examples."""
    moved = (baseline.clean.margin - score.margin)[examples, readout]
    return shares(moved, baseline.gap[examples, readout]).item()
