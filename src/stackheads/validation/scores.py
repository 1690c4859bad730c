"""What a validation found, scored: cells with truth beside verdict, null heads, and the bars that must be reached.

A (head, destination) counts as right in its status if the status is the constructed one, and in its role if role and hop are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stackheads.types import Status

NOISE = 0.1
BARS = {
    "macro F1 without noise": 0.98,
    "macro F1 with noise": 0.95,
    "precision of confirmed": 0.98,
    "each decoy": 0.95,
    "null heads confirmed": 0.01,
    "false yes": 0.01,
    "false no": 0.01,
    "uniform p": 1e-3,
}
"""What the labeller must reach; the last is a most, the others are leasts. A decoy a, b or c is never confirmed at all."""


@dataclass(frozen=True)
class Judged:
    """One (case, head, destination): truth beside verdict. `role_right` is True where no role is asked for."""

    circuit: str
    noisy: bool
    status: str
    true_status: str
    role: str | None
    true_role: str | None
    role_right: bool

    @property
    def right(self) -> bool:
        """Whether status and role are as constructed."""
        return self.status == self.true_status and self.role_right


@dataclass(frozen=True)
class NullHead:
    """One head of a null model, and whether it got a confirmed label at any destination."""

    kind: str
    head: str
    confirmed: bool


@dataclass(frozen=True)
class Validation:
    """The result: the cells of the reporting half, and the null heads.

    `choosing` gives macro F1 on the choosing half for each alternative set of thresholds; `calibration` the rates of each
    channel's errors at every size, and `uniform` for each channel how likely its p under the null is uniform
    (`calibration.py`).
    """

    cells: tuple[Judged, ...]
    choosing: dict[str, float]
    nulls: tuple[NullHead, ...]
    seconds: float
    calibration: tuple[dict[str, Any], ...] = ()
    uniform: dict[str, float] = field(default_factory=dict)

    def scores(self, noisy: bool) -> dict[str, Any]:
        """Macro F1, precision of `confirmed`, and precision, recall and F1 per status and per role."""
        return score([cell for cell in self.cells if cell.noisy == noisy])

    @property
    def decoys(self) -> dict[str, float]:
        """Per decoy: the share of its (head, destination) cells that get status and role as they must."""
        names = sorted({cell.circuit for cell in self.cells if cell.circuit[1] == ":"})
        return {name: _mean([cell.right for cell in self.cells if cell.circuit == name]) for name in names}

    @property
    def null_false_positive_rate(self) -> float:
        """Share of null heads with a confirmed label at any destination."""
        return _mean([head.confirmed for head in self.nulls])

    @property
    def confusion(self) -> dict[str, dict[str, int]]:
        """True status against verdict, counts."""
        counts = Counter((cell.true_status, cell.status) for cell in self.cells)
        return {truth: {found: counts[truth, found] for found in Status} for truth in Status}

    @property
    def missed(self) -> list[str]:
        """The bars that are not reached, each with its figure."""
        clean, noisy = self.scores(noisy=False), self.scores(noisy=True)
        figures = {
            "macro F1 without noise": clean["macro_f1"],
            "macro F1 with noise": noisy["macro_f1"],
            "precision of confirmed": min(clean["precision_confirmed"], noisy["precision_confirmed"]),
            "each decoy": min(self.decoys.values(), default=1.0),
        }
        missed = [f"{name} {value:.3f}, at least {BARS[name]}" for name, value in figures.items() if value < BARS[name]]
        if self.null_false_positive_rate > BARS["null heads confirmed"]:
            rate = self.null_false_positive_rate
            missed.append(f"null heads confirmed {rate:.3f}, at most {BARS['null heads confirmed']}")
        for kind in ("false_yes", "false_no"):
            name = kind.replace("_", " ")
            worst = max((row[kind] for row in self.calibration), default=0.0)
            if worst > BARS[name]:
                missed.append(f"{name} {worst:.3f} at some size, at most {BARS[name]}")
        for channel, value in self.uniform.items():
            if value < BARS["uniform p"]:
                missed.append(f"p of {channel} under the null is not uniform, {value:.2g}, at least {BARS['uniform p']}")
        fooled = [cell for cell in self.cells if cell.circuit[:2] in ("a:", "b:", "c:") and _false_alarm(cell)]
        return missed + ([f"heads of decoys a, b, c falsely confirmed: {len(fooled)}, none allowed"] if fooled else [])

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of docs/api/commands.md."""
        kinds = sorted({head.kind for head in self.nulls})
        of_kind = {kind: [head.confirmed for head in self.nulls if head.kind == kind] for kind in kinds}
        return {
            "clean": self.scores(noisy=False),
            "noisy": self.scores(noisy=True),
            "decoys": self.decoys,
            "null_false_positive_rate": self.null_false_positive_rate,
            "null_heads": len(self.nulls),
            "nulls": {kind: {"heads": len(found), "confirmed": sum(found)} for kind, found in of_kind.items()},
            "choosing": self.choosing,
            "calibration": list(self.calibration),
            "uniform": self.uniform,
            "confusion": self.confusion,
            "cells": len(self.cells),
            "noise": NOISE,
            "missed": self.missed,
            "seconds": self.seconds,
        }


def _false_alarm(cell: Judged) -> bool:
    return cell.status == "confirmed" and cell.true_status != "confirmed"


def score(cells: Sequence[Judged]) -> dict[str, Any]:
    """Precision, recall and F1 of each status and each role; macro F1 over all that occur."""
    statuses = {
        name: _f1(
            true=[cell.true_status == name for cell in cells],
            found=[cell.status == name for cell in cells],
            right=[cell.right for cell in cells],
        )
        for name in Status
        if any(cell.true_status == name for cell in cells)
    }
    roles = {
        name: _f1(
            true=[cell.true_role == name for cell in cells],
            found=[cell.role == name for cell in cells],
            right=[cell.role_right for cell in cells],
        )
        for name in sorted({cell.true_role for cell in cells if cell.true_role})
    }
    every = [*statuses.values(), *roles.values()]
    return {
        "macro_f1": _mean([entry["f1"] for entry in every]),
        "precision_confirmed": statuses[Status.CONFIRMED]["precision"],
        "statuses": statuses,
        "roles": roles,
    }


def _f1(true: list[bool], found: list[bool], right: list[bool]) -> dict[str, float]:
    hits = sum(t and f and r for t, f, r in zip(true, found, right, strict=True))
    precision = hits / max(sum(found), 1)
    recall = hits / max(sum(true), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "support": sum(true)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
