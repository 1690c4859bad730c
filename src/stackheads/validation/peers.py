"""The field's other ways of labelling a head, on circuits whose labels are known, beside ours and ours without a channel.

A peer gives every (head, destination) a role and a number; it says that the head carries this role where the number reaches
its threshold. None of the authors states one for tasks like these, so each gets the threshold with the largest F1 on the
choosing half of the grid (`validate.py`), and is scored on the other half. What is right: the head is confirmed, redundant or
opposing by construction, and the role is its role.

    cosine          largest cosine of the head's attention with a role's map (Sanford, Hsu & Telgarsky 2024, arXiv 2402.09268)
    head detector   attention on the role's map over all attention, TransformerLens' `head_detector` with `mul`
    attention mass  mean attention on the role's source where it has one
    ablation        share of the answer that zero ablation takes, role by attention mass
    attribution     the same by a gradient (Nanda 2023; Syed et al. 2023, arXiv 2310.10348), role by attention mass
    ours            all three channels; and without one of them

Three levels: circuits as they are compiled, with a tenth of noise on their weights, and *hard*, with the noise and attention
blurred as far as the circuit still gives 99 % of its answers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Bench, bench_of
from stackheads.labelling.measure import Look, measure
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.labelling.screening import guessed_effects
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, cause_answer, pattern_answer, status, write_answer
from stackheads.seeds import Stream, stream
from stackheads.tasks import labelling_batch
from stackheads.types import Destination, HeadId, Role, Status
from stackheads.validation.specimens import CIRCUITS, Guise, Specimen, specimen

EXAMPLES = 512
OURS = "ours"
"""Whose verdicts need no threshold."""
RESTING = Role("start")
"""Where compiled heads look that have nothing to do; no peer is asked about it."""
CARRIES = (Status.CONFIRMED, Status.REDUNDANT, Status.OPPOSING)
NEVER = float("-inf")
TRIED = 200
"""Thresholds that are compared, at most."""
SHARPNESSES = (4.0, 5.0, 6.0, 8.0, 10.0)
ANSWERED = 0.99
LEVELS = ("clean", "noisy", "hard")
NOISE = {"clean": 0.0, "noisy": 0.1, "hard": 0.1}


Cell = tuple[HeadId, Destination]
OfCells = dict[Cell, tuple[str | None, float]]


@dataclass(frozen=True)
class Said:
    """What one peer says of one (head, destination) of one circuit, and what is so."""

    peer: str
    level: str
    circuit: str
    cell: Cell
    role: str | None
    score: float
    true_role: str | None
    true_status: str

    @property
    def carries(self) -> bool:
        """Whether the head carries its role, by construction."""
        return self.true_status in CARRIES and self.true_role is not None


def cases(seed: int, guises: int) -> list[tuple[str, str, Guise]]:
    """Level, circuit and guise of all specimens; those at even places are for choosing thresholds."""
    return [
        (
            level,
            circuit,
            Guise(
                seed=seed + 1000 * number + variant,
                normalization=None if variant % 2 else "LN",
                idle=variant // 2,
                noise=NOISE[level],
            ),
        )
        for number, circuit in enumerate(CIRCUITS)
        for level in LEVELS
        for variant in range(2 * guises)
    ]


def said_of(level: str, circuit: str, guise: Guise, examples: int = EXAMPLES) -> list[Said]:
    """What every peer says of every (head, destination) of one specimen. Cost: that of labelling it, and gradients."""
    guise = blurred(circuit, guise) if level == "hard" else guise
    made, thresholds = specimen(circuit, CIRCUITS[circuit](), guise), Thresholds()
    bench = bench_of(made.model, made.task, labelling_batch(made.task, examples, guise.seed), thresholds)
    evidence, _ = measure(made.model, made.task, Look(examples, guise.seed), thresholds)
    said = _ours(evidence, thresholds) | _by_attention(bench)
    by_mass = {cell: role for cell, (role, _) in said["attention mass"].items()}
    zero = {cell: _largest(item, "zero") for item in evidence for cell in [(item.head, item.destination)]}
    places = [place for place in Destination if bool(destination_rows(bench.clean.batch, place).any())]
    guesses = guessed_effects(made.model, bench.clean, bench.scorer, bench.baseline, places, 64)
    said["ablation"] = {cell: (by_mass[cell], abs(effect)) for cell, effect in zero.items()}
    said["attribution"] = {(head, place): (by_mass[head, place], abs(guesses[head, place])) for head, place in by_mass}
    return [
        Said(peer, level, circuit, cell, role, score, *_truth(made, cell))
        for peer, of_cells in said.items()
        for cell, (role, score) in of_cells.items()
    ]


def scored(said: Sequence[Said], chosen: Sequence[Said]) -> pd.DataFrame:
    """One row per peer and level: threshold, precision, recall and F1 on `said`, thresholds chosen on `chosen`.

    `fooled` counts heads that carry nothing and are said to, by their true status; `missed` those that carry their role.
    """
    rows = []
    for peer in dict.fromkeys(each.peer for each in said):
        threshold = 1.0 if peer.startswith(OURS) else _threshold([each for each in chosen if each.peer == peer])
        for level in LEVELS:
            mine = [each for each in said if each.peer == peer and each.level == level]
            rows.append({"peer": peer, "level": level, "threshold": threshold, **_rates(mine, threshold)})
    return pd.DataFrame(rows)


def _ours(evidence: Sequence[Evidence], thresholds: Thresholds) -> dict[str, OfCells]:
    """Ours, and ours without a channel; of a cell that is divided, the part that says most."""
    yes = (Answer.YES, Answer.AGAINST)

    def looks(item: Evidence) -> bool:
        return pattern_answer(item.pattern, thresholds) == Answer.YES

    rules: dict[str, Callable[[Evidence], bool]] = {
        OURS: lambda item: status(item, thresholds) in CARRIES,
        f"{OURS} without pattern": lambda item: cause_answer(item.cause, thresholds) in yes,
        f"{OURS} without cause": lambda item: looks(item) and write_answer(item.write, thresholds) in yes,
        f"{OURS} without write": lambda item: looks(item) and cause_answer(item.cause, thresholds) in yes,
    }
    found: dict[str, OfCells] = {name: {} for name in rules}
    for name, rule in rules.items():
        for item in evidence:
            said = rule(item) and item.pattern.role not in (None, RESTING)
            answer = (str(item.pattern.role), 1.0) if said else (None, NEVER)
            cell = item.head, item.destination
            found[name][cell] = max(found[name].get(cell, (None, NEVER)), answer, key=lambda one: one[1])
    return found


def _by_attention(bench: Bench) -> dict[str, OfCells]:
    """The peers that look at attention alone."""
    roles, pattern = [role for role in candidate_roles(bench.task) if role != RESTING], bench.clean.run.pattern
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
                        found[name][HeadId(layer, head), place] = str(role), float(best[layer, head])
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
    return max((effects[readout] for readout in item.cause.readouts), key=abs, default=0.0)


def _truth(made: Specimen, cell: Cell) -> tuple[str | None, str]:
    truth = made.truth[cell]
    return None if truth.role is None else str(truth.role), truth.status


def blurred(circuit: str, guise: Guise) -> Guise:
    """The guise with the least sharp attention with which the circuit still gives its answers."""
    wanted = _accuracy(circuit, guise)
    for sharpness in SHARPNESSES:
        less = replace(guise, sharpness=sharpness)
        if bool((_accuracy(circuit, less) >= ANSWERED * wanted).all()):
            return less
    return guise


def _accuracy(circuit: str, guise: Guise) -> Float[Tensor, "readout"]:
    made = specimen(circuit, CIRCUITS[circuit](), guise)
    batch = made.task.sample(EXAMPLES // 2, stream(guise.seed, Stream.BLURRED))
    return bench_of(made.model, made.task, batch, Thresholds()).baseline.accuracy


def _threshold(said: Sequence[Said]) -> float:
    """The threshold with the largest F1, halfway to the next number below."""
    numbers = sorted({each.score for each in said if each.score > NEVER})
    if len(numbers) < 2:
        return min(numbers, default=0.0)
    tried = [(low + high) / 2 for low, high in pairwise(numbers)]
    tried = tried[:: max(1, len(tried) // TRIED)]
    return max(tried, key=lambda threshold: _rates(said, threshold)["f1"])


def _rates(said: Iterable[Said], threshold: float) -> dict[str, Any]:
    said = list(said)
    positive = [each for each in said if each.score >= threshold]
    hits = sum(each.carries and each.role == each.true_role for each in positive)
    precision, recall = hits / max(len(positive), 1), hits / max(sum(each.carries for each in said), 1)
    fooled = [each.true_status for each in positive if not each.carries]
    return {
        "cells": len(said),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "wrong_role": sum(each.carries and each.role != each.true_role for each in positive),
        "missed": sum(each.carries and each.score < threshold for each in said),
        **{f"fooled_{name.replace('-', '_')}": fooled.count(name) for name in ("pattern-only", "causal-unclassified", "none")},
    }
