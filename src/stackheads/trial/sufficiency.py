"""Sufficiency: what of the answer survives when heads do what their labels say and nothing else?

Four runs on fresh examples, each scored by the recovered share of the gap (`labelling/bench.py`), per readout:

(i)   `ideal`     every confirmed (head, destination) looks exactly where its label says; every other one gives its positional
                  mean. Where a label names no source (no such statement, or one that attention can't reach) the head gives
                  its mean over the examples in which there is none at that position: the label is silent there.
(ii)  `resample`  the same, every other one, and a head where its label is silent, giving its output on a matched example: in
                  distribution, but about another example.
(iii) `own`       confirmed heads keep their own patterns, as they come out in a run where all others give their means.
(iv)  `live`      (i) with the causal-unclassified heads left running: what this adds is what the labels do not explain.

Silenced heads leave the residual stream shorter, and LayerNorm then makes the rest larger: shares above 1 need not mean that
more than the clean run is there. `frozen` is the same share with every LayerNorm dividing by what it divides by in the clean
run.

Cost: eight forward passes, and one for each causal-unclassified (head, destination), which is named with what it adds alone.
"""

from collections.abc import Sequence
from contextlib import suppress

import pandas as pd
import torch
from torch import Tensor

from stackheads.errors import InterventionError
from stackheads.explanation.ideal import ideal_edits, silenced
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.statistics import brought

COLUMNS = ["variant", "destination", "hop", "recovered", "median", "tenth", "frozen", "accuracy"]
VARIANTS = {
    "ideal": "ideal patterns, positional means for all others",
    "resample": "ideal patterns, all others from a matched example",
    "own": "own patterns, positional means for all others",
    "live": "ideal patterns, causal-unclassified heads left running",
}


def sufficiency(bench: Bench, labels: Sequence[Label]) -> pd.DataFrame:
    """One row per (variant, readout that the model answers): the columns above; `tenth` is the 10th percentile over examples.

    `frozen` is None for models in which norms can't be frozen.
    """
    confirmed = [label for label in labels if label.status == "confirmed"]
    loose = [label for label in labels if label.status == "causal-unclassified"]
    ideal = ideal_edits(bench, confirmed)
    runs = {
        "ideal": silenced(bench, labels, confirmed, "mean") + ideal,
        "resample": silenced(bench, labels, confirmed, "resample") + ideal_edits(bench, confirmed, "resample"),
        "own": silenced(bench, labels, confirmed, "mean"),
        "live": silenced(bench, labels, confirmed + loose, "mean") + ideal,
    }
    rows = []
    for variant, edits in runs.items():
        score = bench.scorer.score(bench.run(edits))
        recovered = bench.recovered(score.margin).tolist()
        frozen: list[float | None] = [None] * len(recovered)
        with suppress(InterventionError):  # of a model whose norms can't be seen
            frozen = bench.recovered(bench.scorer.margin(bench.run(edits, frozen_norms=True))).tolist()
        medians, tenths = bench.single_examples(score.margin)
        accuracy = (score.right.sum(dim=0) / bench.baseline.count.sum(dim=0)).tolist()
        for number, readout in enumerate(bench.baseline.readouts):
            if not bool(bench.baseline.open[number]):
                continue
            rows.append(
                {
                    "variant": variant,
                    "destination": str(readout.destination),
                    "hop": readout.hop,
                    "recovered": recovered[number],
                    "median": medians[number],
                    "tenth": tenths[number],
                    "frozen": frozen[number],
                    "accuracy": accuracy[number],
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def unexplained(bench: Bench, labels: Sequence[Label]) -> pd.DataFrame:
    """What each causal-unclassified (head, destination) adds to (i) when it alone is left running.

    One row each: head, destination, gate, adds (the largest gain in recovered share over open readouts), readout (where).
    """
    confirmed = [label for label in labels if label.status == "confirmed"]
    ideal = ideal_edits(bench, confirmed)

    def recovered(live: list[Label]) -> Tensor:
        return bench.recovered(bench.margin(silenced(bench, labels, live, "mean") + ideal))

    asked = [label for label in labels if label.status == "causal-unclassified" and bool(bench.baseline.open.any())]
    before, *after = brought([recovered(confirmed), *(recovered([*confirmed, label]) for label in asked)])
    rows = []
    for label, share in zip(asked, after, strict=True):
        gain = (share - before).where(bench.baseline.open, -torch.inf)
        at = int(gain.argmax())
        rows.append(
            {
                "head": str(label.head),
                "destination": str(label.destination),
                "gate": None if label.gate is None else str(label.gate),
                "adds": gain[at].item(),
                "readout": str(bench.baseline.readouts[at]),
            }
        )
    columns = ["head", "destination", "gate", "adds", "readout"]
    return pd.DataFrame(rows, columns=columns).sort_values("adds", ascending=False, ignore_index=True)
