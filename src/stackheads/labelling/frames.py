"""The tables that stand beside the labels: what was asked and answered, and what each ablation destroys of it."""

from collections.abc import Iterable

import pandas as pd

from stackheads.labelling.readouts import Baseline
from stackheads.labelling.verdict import Evidence


def readout_frame(baseline: Baseline) -> pd.DataFrame:
    """One row for each question: `analysis.readouts`."""
    count = baseline.count.sum(dim=0)
    return pd.DataFrame(
        {
            "destination": [str(readout.destination) for readout in baseline.readouts],
            "hop": [readout.hop for readout in baseline.readouts],
            "accuracy": baseline.accuracy.tolist(),
            "chance_accuracy": baseline.chance_accuracy.tolist(),
            "margin": (baseline.clean.margin.sum(dim=0) / count).tolist(),
            "gap": (baseline.gap.sum(dim=0) / count).tolist(),
            "open": baseline.open.tolist(),
            "unclear": baseline.unclear.tolist(),
            "asked": baseline.asked.sum(dim=0).tolist(),
        }
    )


def effect_frame(evidence: Iterable[Evidence]) -> pd.DataFrame:
    """One row for each row of the labels, ablation and readout: `analysis.effects`."""
    rows = [
        {
            "head": str(item.head),
            "destination": str(item.destination),
            "gate": None if item.gate is None else str(item.gate),
            "ablation": method,
            "readout": str(readout),
            "effect": effects.effect[number],
            "accuracy_effect": effects.accuracy_effect[number],
        }
        for item in evidence
        for method, effects in item.cause.ablations.items()
        for number, readout in enumerate(item.cause.every)
    ]
    return pd.DataFrame(rows)
