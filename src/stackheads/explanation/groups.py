"""Heads that share a job: the same role at the same destination.

One row for each job that several heads have: who takes which values of a gate, and what is lost of the answer without all of
their selectors against the sum of what is lost without each (`taken_out.py`). Cost: a forward pass for each job, and
for each of its selectors that was not taken out before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from stackheads.explanation.examples import Examples
from stackheads.explanation.judging import acting_values, peak
from stackheads.explanation.sums import Part, Sum
from stackheads.explanation.taken_out import TakenOut
from stackheads.labelling.cause import effects_on_open
from stackheads.labelling.statistics import Resampling, Shares
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import telling
from stackheads.types import Destination, Role

GROUPS = ["job", "destination", "heads", "parts", "joint", "sum", "readout"]


def groups_table(
    chosen: Sum,
    parts: Iterable[Part],
    trial: Examples,
    taken_out: TakenOut,
    known: Mapping[Part, Shares],
    draws: Resampling,
    thresholds: Thresholds,
) -> pd.DataFrame:
    """The jobs that are shared, of those selectors that count; `known` is what is lost without those that were taken out."""
    jobs: dict[tuple[Destination, Role], list[Part]] = {}
    for part in parts:
        place, head, selector = part
        if selector and isinstance(selector.what, Role) and peak(chosen.weights[place, selector][head]) > 0:
            jobs.setdefault((place, selector.what), []).append(part)
    rows: list[dict[str, Any]] = []
    for (place, role), shared in jobs.items():
        heads = list(dict.fromkeys(str(trial.head(head)) for _, head, _ in shared))
        if len(heads) > 1:
            named = {"job": str(role), "destination": str(place), "heads": ", ".join(heads)}
            lost = _lost(chosen, shared, trial, taken_out, known, draws, thresholds)
            rows.append(named | {"parts": _who_takes_what(chosen, shared, trial)} | lost)
    return pd.DataFrame(rows, columns=GROUPS)


def _lost(
    chosen: Sum,
    parts: Sequence[Part],
    trial: Examples,
    taken_out: TakenOut,
    known: Mapping[Part, Shares],
    draws: Resampling,
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Of the readout that shows best what goes without all of them."""
    baseline = trial.bench.baseline
    joint = effects_on_open(taken_out.together(chosen, parts), baseline, draws)
    number = telling(joint, thresholds.min_effect)
    rest = [part for part in parts if part not in known]
    further = [effects_on_open(moved, baseline, draws) for moved in taken_out.each(chosen, rest)]
    apart = sum(lost.at(number).value for lost in [*(known[part] for part in parts if part in known), *further])
    readout = baseline.readouts[trial.bench.open_readouts[number]]
    return {"joint": joint.at(number).value, "sum": apart, "readout": str(readout)}


def _who_takes_what(chosen: Sum, parts: Iterable[Part], trial: Examples) -> str | None:
    """The values of a gate that each head takes; None where nothing is gated."""
    said = []
    for place, head, selector in parts:
        assert selector is not None
        values = acting_values(trial.rows[place], selector, chosen.weights[place, selector][head])
        if values is not None:
            said.append(f"{trial.head(head)} {selector.gate} {values}")
    return "; ".join(said) or None
