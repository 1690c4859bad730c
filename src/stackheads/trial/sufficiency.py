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
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.roles import role_targets
from stackheads.errors import InterventionError
from stackheads.interventions import ABLATIONS, destination_rows
from stackheads.models.hooks import Edit, HeadEdit, PatternEdit

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
            frozen = bench.recovered(bench.scorer.score(bench.run(edits, frozen_norms=True)).margin).tolist()
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

    One row each: head, destination, adds (the largest gain in recovered share over open readouts), readout (where).
    """
    confirmed = [label for label in labels if label.status == "confirmed"]
    ideal = ideal_edits(bench, confirmed)

    def recovered(live: list[Label]) -> Tensor:
        return bench.recovered(bench.margin(silenced(bench, labels, live, "mean") + ideal)).cpu()

    before = recovered(confirmed)
    rows = []
    for label in labels:
        if label.status == "causal-unclassified" and bool(bench.baseline.open.any()):
            gain = (recovered([*confirmed, label]) - before).where(bench.baseline.open, -torch.inf)
            at = int(gain.argmax())
            readout = str(bench.baseline.readouts[at])
            rows.append(
                {
                    "head": str(label.head),
                    "destination": str(label.destination),
                    "adds": gain[at].item(),
                    "readout": readout,
                }
            )
    columns = ["head", "destination", "adds", "readout"]
    return pd.DataFrame(rows, columns=columns).sort_values("adds", ascending=False, ignore_index=True)


def silenced(bench: Bench, labels: Sequence[Label], live: Sequence[Label], method: str) -> list[Edit]:
    """Edits that give every (head, destination) not in `live` its ablated output."""
    kept = {(label.head, label.destination) for label in live}
    replaced: dict[object, tuple[Label, Bool[Tensor, "batch pos"]]] = {}
    for label in labels:
        if (label.head, label.destination) not in kept:
            rows = destination_rows(bench.clean.batch, label.destination)
            before = replaced.get(label.head)
            replaced[label.head] = (label, rows if before is None else rows | before[1])
    return [HeadEdit(label.head, rows, ABLATIONS[method](bench.clean, label.head)) for label, rows in replaced.values()]


def ideal_edits(bench: Bench, labels: Sequence[Label], silence: str = "mean") -> list[Edit]:
    """Edits that make heads look exactly where their labels say; where the label is silent, they give their mean over the
    examples in which it is ("mean"), or their output on another one of these ("resample").
    """
    edits: list[Edit] = []
    for label in labels:
        assert label.role is not None
        targets = role_targets(bench.task, bench.clean.batch, [label.role])[0]
        rows = destination_rows(bench.clean.batch, label.destination)
        named = targets.any(dim=-1)
        edits.append(PatternEdit(label.head, rows & named, evenly(targets, bench.clean.run.pattern.dtype)))
        silent = rows & ~named
        if bool(silent.any()):
            z = bench.clean.run.of(label.head)[2]
            edits.append(HeadEdit(label.head, silent, (_mean_where if silence == "mean" else _other_where)(z, silent)))
    return edits


def evenly(targets: Bool[Tensor, "batch pos source"], dtype: torch.dtype) -> Float[Tensor, "batch pos source"]:
    """All attention on the marked sources, in equal parts."""
    mass = targets.to(dtype)
    return mass / mass.sum(dim=-1, keepdim=True).clamp(min=1)


def _mean_where(z: Float[Tensor, "batch pos d_head"], rows: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_head"]:
    """The mean of z at each position over the examples whose row is marked."""
    weight = rows.to(z.dtype)
    mean = torch.einsum("bpd,bp->pd", z, weight) / weight.sum(dim=0).clamp(min=1)[:, None]
    return mean.expand_as(z)


def _other_where(z: Float[Tensor, "batch pos d_head"], rows: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_head"]:
    """z of the next example, in a circle, whose row at the same position is marked too."""
    n = len(rows)
    index = torch.arange(n, device=rows.device)[:, None].expand_as(rows)
    marked_first = torch.where(rows, index, index + n).argsort(dim=0)  # per position: the marked examples, in order
    number = rows.sum(dim=0)
    rank = (rows.cumsum(dim=0) - 1).clamp(min=0)
    following = marked_first.gather(0, (rank + 1) % number.clamp(min=1))
    return z.gather(0, following[..., None].expand_as(z))
