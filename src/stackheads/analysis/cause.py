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
class AblationEffects:
    """One ablation's result per readout: effect and lost accuracy on all examples, and effect on the estimating half."""

    effect: list[float]
    accuracy_effect: list[float]
    estimated: list[float]


@dataclass(frozen=True)
class CauseEvidence:
    """What ablating a head (or several together) at a destination does.

    `readout` is where it does most, `effect` how much there, with its interval; `accuracy_effect` the share of answers that
    are lost there; `other` the effect there of the other ablations; `ablations` everything, per method and readout.
    `readout` is None where the model answers nothing, so that there is nothing to destroy. Where `exact` is False nothing was
    ablated: `effect` is a guess (`screening.py`).
    """

    readout: Readout | None
    effect: Estimate
    accuracy_effect: float
    other: dict[str, float]
    needed: bool
    hinders: bool
    ablations: dict[str, AblationEffects]
    exact: bool = True


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
    main, ablations = None, {}
    for method in methods:
        score = scorer.score(ablate(model, clean, heads, destination, method, scorer.read))
        main = main or score
        ablations[method] = _effects(score, baseline)
    assert main is not None
    moved = baseline.clean.margin - main.margin
    chosen = choose(moved, baseline, thresholds)
    if chosen is None:
        return CauseEvidence(None, Estimate(0.0, 0.0, 0.0), 0.0, {}, False, False, ablations)
    estimated = halves(len(moved))[1]
    effect = boot.share(moved[estimated, chosen], baseline.gap[estimated, chosen])
    lost = (baseline.clean.right - main.right)[estimated, chosen].sum() / baseline.count[estimated, chosen].sum()
    return CauseEvidence(
        readout=baseline.readouts[chosen],
        effect=effect,
        accuracy_effect=lost.item(),
        other={method: ablations[method].estimated[chosen] for method in methods[1:]},
        needed=effect.above(thresholds.min_effect),
        hinders=effect.below(thresholds.min_effect),
        ablations=ablations,
    )


def _effects(score: Score, baseline: Baseline) -> AblationEffects:
    """Plain numbers: tensors kept from every cell would pin the memory between them."""
    moved, gap = baseline.clean.margin - score.margin, baseline.gap
    estimated = halves(len(moved))[1]
    lost = (baseline.clean.right - score.right).sum(dim=0) / baseline.count.sum(dim=0)
    return AblationEffects(shares(moved, gap).tolist(), lost.tolist(), shares(moved[estimated], gap[estimated]).tolist())


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
