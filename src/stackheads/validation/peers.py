"""The field's other ways of labelling a head, beside ours and ours without a part of it.

A way says of every (head, destination) what it looks at, a role, with a number; it is taken to say so where the number reaches
its threshold. None of the authors states one for tasks like these (`compared.py` chooses the best). Ours needs none.

    cosine          largest cosine of the head's attention with a role's map (Sanford, Hsu & Telgarsky 2024, arXiv 2402.09268)
    head detector   attention on the role's map over all attention, TransformerLens' `head_detector` with `mul`
    attention mass  mean attention on the role's source where it has one
    ablation        share of the answer that zero ablation takes, role by attention mass
    attribution     a gradient's guess of resample ablation (Nanda 2023; Syed et al. 2023, arXiv 2310.10348), role as before
    …, start too    each of these with `start`, where heads rest, among the roles it may name: without, it is never wrong so
    ours            what labels say, by all three channels, and confirmed selectors of attention: several things where a head
                    looks at several; where neither says anything of a head that matters, what it carries, by scrubbing
                    (`labelling/scrubbed.py`); and without scrubbing, without selectors, without both, without labels; and with
                    what is carried also where selectors speak; labels alone without pattern, cause or write

Cost: that of labels, selectors and scrubbing, and a forward and a backward pass for each readout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.explanation.explained import Explained, looks_away
from stackheads.explanation.measuring import explain_heads
from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Bench, bench_of
from stackheads.labelling.carrying import carried_of, carries, unexplained
from stackheads.labelling.measure import Look, measure
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.labelling.screening import guessed_effects
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, cause_answer, pattern_answer, status, write_answer
from stackheads.models.protocol import Model
from stackheads.tables import records
from stackheads.tasks import Task, labelling_batch
from stackheads.types import Destination, HeadId, Role, Status

EXAMPLES, SELECTORS = 512, 256
"""Examples for labels and for selectors."""
OURS = "ours"
UNSCRUBBED, LABELS, LOOKS = f"{OURS} without scrubbing", f"{OURS} without selectors", f"{OURS} without labels"
ALONE, BESIDE = f"{OURS} without selectors and scrubbing", f"{OURS} and what is carried beside selectors"
PEERS = ("cosine", "head detector", "attention mass", "ablation", "attribution")
RESTING = Role("start")
"""Where heads look that have nothing to do. Of the field's ways each is asked twice, without it and with it."""
TOO = f", {RESTING} too"
"""Of the names of peers that may say it."""
CARRIES = (Status.CONFIRMED, Status.REDUNDANT, Status.OPPOSING)
ALWAYS = float("inf")
"""The number of what ours says, which reaches every threshold."""

Cell = tuple[HeadId, Destination]
OfCells = dict[Cell, dict[str, float]]
"""What a way says that each head looks at, each with its number."""


@dataclass(frozen=True)
class Said:
    """What every way says of a model's heads, by its name, and the statuses that labels give."""

    of: Mapping[str, OfCells]
    statuses: Mapping[Cell, tuple[Status, ...]]


def said_of(model: Model, task: Task, seed: int, examples: int = EXAMPLES, selectors: int = SELECTORS) -> Said:
    """What every way says of every (head, destination) of a model, on examples of this seed."""
    thresholds = Thresholds()
    # Before the bench, so that only one record of the model is kept at a time.
    evidence, _ = measure(model, task, Look(examples, seed, methods=("resample", "zero")), thresholds)
    bench = bench_of(model, task, labelling_batch(task, examples, seed), thresholds)
    found = _labels(evidence, thresholds) | _peers(bench, evidence)
    found[LOOKS] = _looks(bench, selectors, seed, thresholds)
    carried = _carried(bench, evidence, seed, thresholds)
    found[UNSCRUBBED] = {cell: said | found[LOOKS].get(cell, {}) for cell, said in found[ALONE].items()}
    found[OURS] = {cell: said or carried.get(cell, {}) for cell, said in found[UNSCRUBBED].items()}
    found[LABELS] = {cell: said or carried.get(cell, {}) for cell, said in found[ALONE].items()}
    found[BESIDE] = {cell: said | found[LOOKS].get(cell, {}) for cell, said in found[LABELS].items()}
    statuses: dict[Cell, tuple[Status, ...]] = {}
    for item in evidence:
        cell = item.head, item.destination
        statuses[cell] = (*statuses.get(cell, ()), status(item, thresholds))
    return Said(found, statuses)


def _peers(bench: Bench, evidence: Sequence[Evidence]) -> dict[str, OfCells]:
    """What the field's ways say, without `start` among their roles and with it."""
    places = [place for place in Destination if bool(destination_rows(bench.clean.batch, place).any())]
    guesses = guessed_effects(bench.model, bench.clean, bench.scorer, bench.baseline, places, 64)
    zero: dict[Cell, float] = {}
    for item in evidence:
        cell = item.head, item.destination
        zero[cell] = max(zero.get(cell, 0.0), abs(_largest(item, "zero")))
    roles, found = candidate_roles(bench.task), dict[str, OfCells]()
    for more, mine in (("", [role for role in roles if role != RESTING]), (TOO, roles)):
        looking = _by_attention(bench, mine)
        by_mass = {cell: next(iter(said)) for cell, said in looking["attention mass"].items()}
        acting = {
            "ablation": {cell: {what: zero[cell]} for cell, what in by_mass.items()},
            "attribution": {cell: {what: abs(guesses[cell])} for cell, what in by_mass.items()},
        }
        found |= {way + more: cells for way, cells in (looking | acting).items()}
    return found


def _labels(evidence: Sequence[Evidence], thresholds: Thresholds) -> dict[str, OfCells]:
    """What labels say, and labels without a channel; of a cell that is divided, of each part."""
    yes = (Answer.YES, Answer.AGAINST)

    def looks(item: Evidence) -> bool:
        return pattern_answer(item.pattern, thresholds) == Answer.YES

    rules: dict[str, Callable[[Evidence], bool]] = {
        ALONE: lambda item: status(item, thresholds) in CARRIES,
        "labels without pattern": lambda item: cause_answer(item.cause, thresholds) in yes,
        "labels without cause": lambda item: looks(item) and write_answer(item.write, thresholds) in yes,
        "labels without write": lambda item: looks(item) and cause_answer(item.cause, thresholds) in yes,
    }
    found: dict[str, OfCells] = {name: {} for name in rules}
    for name, rule in rules.items():
        for item in evidence:
            said = found[name].setdefault((item.head, item.destination), {})
            if rule(item) and item.pattern.role is not None:
                said[str(item.pattern.role)] = ALWAYS
    return found


def _carried(bench: Bench, evidence: Sequence[Evidence], seed: int, thresholds: Thresholds) -> OfCells:
    """What heads carry of which labels only say that they matter, by the simplest name of its token."""
    asked, found = unexplained(evidence, thresholds), dict[Cell, dict[str, float]]()
    for item, scrubbed in zip(asked, carried_of(bench, asked, seed, thresholds), strict=True):
        which = carries(scrubbed, thresholds).which
        if which is not None:
            found.setdefault((item.head, item.destination), {})[str(scrubbed.roles[which][0])] = ALWAYS
    return found


def _looks(bench: Bench, examples: int, seed: int, thresholds: Thresholds) -> OfCells:
    """What selectors of attention say, those that are confirmed or opposing; nothing where none can be asked."""
    asked = [bench.baseline.readouts[number] for number in bench.open_readouts]
    if not asked:
        return {}
    try:
        explained = explain_heads(bench.model, bench.task, asked, examples, seed, thresholds, fitted_to="attention")
    except ConfigError:  # too few places ask any of them
        return {}
    return said_by_selectors(explained)


def said_by_selectors(explained: Explained) -> OfCells:
    """What confirmed and opposing selectors say that heads look at."""
    found: OfCells = {}
    for row in records(explained.table):
        if row["status"] in CARRIES and not looks_away(row):
            cell = HeadId.parse(row["head"]), Destination(row["destination"])
            found.setdefault(cell, {})[looked_at(row)] = ALWAYS
    return found


def looked_at(row: Mapping[str, object]) -> str:
    """What a selector says that its head looks at: a role, a slot, places, distances, or the symbols of a slot."""
    what = str(row["what"])
    return f"symbols of {what.rpartition(' ')[2]} slots" if row["selector"] == "content" else what


def _by_attention(bench: Bench, roles: list[Role]) -> dict[str, OfCells]:
    """The peers that look at attention alone, which name one of these roles."""
    pattern = bench.clean.run.pattern
    targets = role_targets(bench.task, bench.clean.batch, roles)
    found: dict[str, OfCells] = {name: {} for name in ("cosine", "head detector", "attention mass")}
    for place in Destination:
        rows = destination_rows(bench.clean.batch, place)
        if bool(rows.any()):
            for name, score in _maps_scores(pattern, targets, rows).items():
                best, at = score.max(dim=0)
                for layer in range(pattern.shape[0]):
                    for head in range(pattern.shape[2]):
                        role = roles[int(at[layer, head])]
                        found[name][HeadId(layer, head), place] = {str(role): float(best[layer, head])}
    return found


def _maps_scores(
    pattern: Float[Tensor, "layer batch head pos source"],
    targets: Bool[Tensor, "role batch pos source"],
    rows: Bool[Tensor, "batch pos"],
) -> dict[str, Float[Tensor, "role layer head"]]:
    """Each peer's number for every role and head at these rows."""
    attended = pattern.movedim(2, 0)[:, :, rows].double()  # [head, layer, row, source]
    there = targets[:, rows].double()  # [role, row, source]
    together = torch.einsum("hlns,rns->rlh", attended, there)
    norms = torch.einsum("hlns,hlns->lh", attended, attended).sqrt() * there.sum(dim=(1, 2)).sqrt()[:, None, None]
    exists = there.any(dim=-1).sum(dim=1).clamp(min=1)[:, None, None]
    return {
        "cosine": together / norms.clamp(min=1e-12),
        "head detector": together / attended.sum(dim=(2, 3)).T,
        "attention mass": together / exists,
    }


def _largest(item: Evidence, method: str) -> float:
    """The largest effect of an ablation on a readout that the model answers."""
    effects = dict(zip(item.cause.every, item.cause.ablations[method].effect, strict=True))
    return max((effects[readout] or 0.0 for readout in item.cause.readouts), key=abs, default=0.0)
