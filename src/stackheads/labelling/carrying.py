"""What a head carries, from what scrubbing found (`scrubbed.py`): the verdict, in one sentence, as rows of `analysis.carried`.

A token is carried (*yes*) if donors that hold it keep `min_kept` of what donors drawn regardless change, in margins lost and
moved, on every readout of which these destroy `min_effect`, and that is known to within its half; if no interval of that, nor
of the answers' logits, goes below `min_kept_low`; and if donors of another token destroy `min_effect` of some readout. Of
several such tokens the one that all others determine, and that determines none of them, is named. *No* – no one role's token is
what the head carries – is said where each keeps less on some readout by some measure, with its interval, and no role was left
untested. *Not tested* is what no role could be asked about; all else is *not decided*. Asked are heads whose ablation destroys
and that get no other word (causal-unclassified).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stackheads.labelling.bench import Bench, bench_of
from stackheads.labelling.scrubbed import MEASURES, ScrubEvidence, scrubs
from stackheads.labelling.statistics import Estimate, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, cause_answer, known_below, status, telling
from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tables import records
from stackheads.tasks import Task, labelling_batch
from stackheads.types import Status

COLUMNS = ["head", "layer", "destination", "gate", "answer", "carries", "also", "kept", "kept_low", "kept_high", "logits"]
COLUMNS.extend(("attention", "readout", "effect", "control", "rival", "rival_kept", "rows", "left_out", "examples", "reason"))
"""Columns of `analysis.carried`."""
MARGINS, LOGITS = slice(2), slice(2, None)
"""The measures of which most must be kept, and that of which half must: training says little of wrong answers' logits."""


@dataclass(frozen=True)
class Carried:
    """What one head carries: the answer, and the number of the hypothesis where it is *yes*.

    `order` are all hypotheses, those that keep most first; `least` is what each keeps on the readout on which it keeps least,
    of margins and of the answers' `logits`, and `passing` those that the answer is chosen from.
    """

    answer: Answer
    which: int | None
    order: tuple[int, ...] = ()
    least: tuple[Estimate, ...] = ()
    logits: tuple[Estimate, ...] = ()
    passing: tuple[int, ...] = ()


def unexplained(evidence: Iterable[Evidence], thresholds: Thresholds) -> list[Evidence]:
    """The rows that are asked what they carry: their ablation destroys, and no label says why."""
    found = (item for item in evidence if status(item, thresholds) == Status.CAUSAL_UNCLASSIFIED)
    return [item for item in found if cause_answer(item.cause, thresholds) == Answer.YES]


def carries(found: ScrubEvidence, thresholds: Thresholds) -> Carried:
    """The verdict on one head."""
    mattering = [number for number, share in enumerate(found.destroyed.value.tolist()) if share >= thresholds.min_effect]
    every = range(len(found.roles))
    if not found.roles:
        return Carried(Answer.UNTESTED, None)
    if not mattering:
        return Carried(Answer.UNDECIDED, None)
    kept = [[_kept(found, one, readout) for readout in mattering] for one in every]
    least, logits = (tuple(_least(mine, at) for mine in kept) for at in (MARGINS, LOGITS))
    order = tuple(sorted(every, key=lambda one: -min(least[one].value, logits[one].value)))
    passing = tuple(one for one in order if all(_keeps(shares, thresholds) for shares in kept[one]))
    if passing:
        named = [one for one in passing if set(passing) - {one} <= found.finer[one] and _destroys_else(found, one, thresholds)]
        return Carried(Answer.YES if named else Answer.UNDECIDED, named[0] if named else None, order, least, logits, passing)
    denied = not found.untested and all(any(_loses(shares, thresholds) for shares in mine) for mine in kept)
    return Carried(Answer.NO if denied else Answer.UNDECIDED, None, order, least, logits)


def _least(kept: Iterable[Sequence[Estimate]], measures: slice) -> Estimate:
    """What is kept least over readouts, by some measures."""
    return min((share for shares in kept for share in shares[measures]), key=lambda share: share.value)


def _kept(found: ScrubEvidence, one: int, readout: int) -> list[Estimate]:
    """What a hypothesis keeps on a readout, by each measure."""
    return [found.kept_of(measure, one, readout) for measure in range(len(MEASURES))]


def _keeps(shares: Sequence[Estimate], thresholds: Thresholds) -> bool:
    enough = all(share.value >= thresholds.min_kept for share in shares[MARGINS])
    return enough and all(share.low >= thresholds.min_kept_low for share in shares)


def _loses(shares: Sequence[Estimate], thresholds: Thresholds) -> bool:
    """Whether it is known that a measure keeps too little, even if what its examples may not have shown is added."""
    little = any(known_below(share, thresholds.min_kept, thresholds) for share in shares[MARGINS])
    return little or any(known_below(share, thresholds.min_kept_low, thresholds) for share in shares[LOGITS])


def _destroys_else(found: ScrubEvidence, one: int, thresholds: Thresholds) -> bool:
    """Whether donors of another token destroy: that the answer needs this token, and not only that it does not need more."""
    shares = (found.control_of(one, readout) for readout in range(len(found.readouts)))
    return any(share is not None and share.value >= thresholds.min_effect and share.low > 0 for share in shares)


def carried_of(bench: Bench, evidence: Sequence[Evidence], seed: int, thresholds: Thresholds) -> list[ScrubEvidence]:
    """What scrubbing finds of the rows of `unexplained`, on these examples."""
    numbers = stream(seed, Stream.BOOTSTRAP)
    draws = resampling(len(bench.clean.batch), thresholds.resampling_draws, thresholds.confidence, numbers)
    return scrubs(bench, [(item.head, item.where) for item in evidence], draws, seed, thresholds.min_kept_low)


def carried_frame(model: Model, task: Task, evidence: Iterable[Evidence], seed: int, thresholds: Thresholds) -> pd.DataFrame:
    """One row for each row of the labels that is asked what it carries, on as many of its examples as the one with most.

    Cost: none where there is no such row, else as `scrubbed.py` says.
    """
    asked = unexplained(evidence, thresholds)
    if not asked:
        return carried_table([])
    examples = max(item.cause.examples for item in asked)
    batch = labelling_batch(task, examples, seed).to(next(model.parameters()).device)
    with analysing(model):
        found = carried_of(bench_of(model, task, batch, thresholds), asked, seed, thresholds)
    return carried_table([carried_row(item, scrubbed, thresholds) for item, scrubbed in zip(asked, found, strict=True)])


def carried_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Such rows as a table with stable column types."""
    numbers = ("kept", "kept_low", "kept_high", "logits", "attention", "effect", "control", "rival_kept")
    types = dict.fromkeys(numbers, "Float64") | dict.fromkeys(("layer", "rows", "left_out", "examples"), "int64")
    return pd.DataFrame(rows, columns=COLUMNS).astype(types)


def carried_row(item: Evidence, found: ScrubEvidence, thresholds: Thresholds) -> dict[str, Any]:
    """One row of `analysis.carried`: the verdict, the numbers of the hypothesis that keeps most or is named, and why."""
    verdict = carries(found, thresholds)
    shown = verdict.order[0] if verdict.which is None and verdict.order else verdict.which
    rest = [one for one in verdict.order if one != shown]
    share = None if shown is None else verdict.least[shown]
    named = None if verdict.which is None else found.roles[verdict.which]
    told: int | None = telling(found.destroyed, thresholds.min_effect) if len(found.destroyed) else None
    other = None if told is None or shown is None else found.control_of(shown, told)
    return {
        "head": str(item.head),
        "layer": item.head.layer,
        "destination": str(item.destination),
        "gate": None if item.gate is None else str(item.gate),
        "answer": str(verdict.answer),
        "carries": named and str(named[0]),
        "also": (named and ", ".join(map(str, named[1:]))) or None,
        "kept": share and share.value,
        "kept_low": share and share.low,
        "kept_high": share and share.high,
        "logits": None if shown is None else verdict.logits[shown].value,
        "attention": named and item.pattern.masses.get(named[0]),
        "readout": None if told is None else str(found.readouts[told]),
        "effect": None if told is None else found.destroyed.at(told).value,
        "control": other and other.value,
        "rival": str(found.roles[rest[0]][0]) if rest else None,
        "rival_kept": verdict.least[rest[0]].value if rest else None,
        "rows": found.rows,
        "left_out": found.left_out,
        "examples": found.examples,
        "reason": _reason(item, found, verdict),
    }


def _reason(item: Evidence, found: ScrubEvidence, verdict: Carried) -> str:
    """Why, in one sentence with the numbers that decided, or that did not."""
    if not found.roles:
        return "not tested what it carries: no role's token stands in enough other examples"
    if not verdict.order:
        return "not decided what it carries: what it gives at other rows like these destroys nothing for certain"
    best = verdict.order[0]
    share = verdict.least[best]
    text = f"{found.roles[best][0]} keeps most, {share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
    text += f", and {verdict.logits[best].value:.2f} of the answers' logits"
    if verdict.which is not None:
        role, *others = found.roles[verdict.which]
        least = verdict.least[verdict.which]
        also = f" (which is that of {' and '.join(map(str, others))})" if others else ""
        looks = item.pattern.masses.get(role)
        where = "" if looks is None else f", with {looks:.2f} of its attention on it"
        return f"carries the token of {role}{also}: {least.value:.2f} is kept where only that stays{where}"
    if len(verdict.passing) > 1:
        several = " and ".join(str(found.roles[one][0]) for one in verdict.passing)
        return f"not decided what it carries: nothing tells the tokens of {several} apart"
    if verdict.answer == Answer.NO:
        return f"carries no one role's token: that of {text}"
    if verdict.passing:
        return f"not decided what it carries: the token of {text}, but it is not known that another one would destroy"
    untested = f"; not tested: {', '.join(map(str, found.untested))}" if found.untested else ""
    return f"not decided what it carries: the token of {text}{untested}"


def with_carried(labels: pd.DataFrame, carried: pd.DataFrame) -> pd.DataFrame:
    """The labels, saying in their reasons what is carried where that is known."""

    def cell(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["head"], row["destination"], row["gate"]

    said = {cell(row): row["reason"] for row in records(carried) if row["answer"] == Answer.YES}
    rows = [(row["reason"], said.get(cell(row))) for row in records(labels)]
    return labels.assign(reason=[why if more is None else f"{why}; {more}" for why, more in rows])
