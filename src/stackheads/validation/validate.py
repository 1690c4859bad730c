"""Score the labeller on circuits whose labels are known by construction, and on models that must get none.

The grid: every circuit of `validation/specimens.py` in several guises, without and with noise on the weights. One half
of it, chosen by position, is the *choosing* half: the default thresholds are compared there with looser and stricter ones, on
evidence that is measured once, under the loosest, and judged under each. All figures reported are from the other half. Nulls
are untrained models, models trained on shuffled answers, and models that solve the task with Q, K and V permuted between heads.

Every part is work for a pool of processes: cases, nulls – those that are to be trained are trained there –, calibration and
uniformity.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stackheads.labelling.cause import CARRYING
from stackheads.labelling.measure import BUDGET, Look, measure, measure_until_decided
from stackheads.labelling.rows import label_row
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Evidence, status
from stackheads.models.protocol import Model
from stackheads.processes import worker_pool
from stackheads.tasks import Task
from stackheads.types import Gate, Status
from stackheads.validation.calibration import QUICK_SAMPLES, UNIFORM_SAMPLES, calibration_points, judged, rates, uniformity
from stackheads.validation.calibration import Judged as Answered
from stackheads.validation.further import SMALL
from stackheads.validation.kept import Rows, keeping, kept
from stackheads.validation.nulls import (
    ANSWERLESS,
    QUICK_STEPS,
    STEPS,
    TAKEN_APART,
    permuted_circuit,
    trained_on_shuffled_answers,
    untrained,
)
from stackheads.validation.scores import NOISE, Judged, NullHead, Validation, score
from stackheads.validation.specimens import CIRCUITS, Guise, Specimen, specimen
from stackheads.validation.truth import Truth

EXAMPLES = 512
NULL_EXAMPLES, QUICK_NULL_EXAMPLES = 512, 256
ALTERNATIVES: dict[str, Thresholds] = {
    "default": Thresholds(),
    "pattern_margin 0.1": Thresholds(pattern_margin=0.1),
    "pattern_margin 0.3": Thresholds(pattern_margin=0.3),
    "min_effect and min_write 0.01": Thresholds(min_effect=0.01, min_write=0.01),
    "min_effect and min_write 0.05": Thresholds(min_effect=0.05, min_write=0.05),
}

LOOSEST = Thresholds(
    pattern_margin=min(each.pattern_margin for each in ALTERNATIVES.values()),
    min_effect=min(each.min_effect for each in ALTERNATIVES.values()),
    min_write=min(each.min_write for each in ALTERNATIVES.values()),
)


@dataclass(frozen=True)
class Case:
    """One specimen of the grid; `small`: with fewer hops where there is such a one."""

    circuit: str
    guise: Guise
    small: bool = False


def validate(
    quick: bool = False,
    seed: int = 0,
    nulls: Sequence[tuple[str, Any, Task]] = (),
    workers: int = 2,
    progress: bool = True,
    folder: Path | None = None,
    about: Path | None = None,
) -> Validation:
    """Run the grid. `nulls` are further (kind, model, task) that must get no confirmed label.

    `quick` uses one guise for each circuit, clean and noisy in turns and with three hops for four (`SMALL`), fewer nulls, on
    256 examples, and less calibration; the thresholds are then not compared. In `folder` each part is kept as it is done, and
    not made again (`kept.py`); `about` is the folder that some of `nulls` come from.
    """
    start = time.monotonic()
    if folder is not None:
        keeping(
            folder, {"quick": quick, "seed": seed, "nulls": [kind for kind, _, _ in nulls]}, *([] if about is None else [about])
        )
    choosing, reporting = _grid(quick, seed)
    null_jobs = [
        *(untrained(task, seed + number) for task in ANSWERLESS for number in range(1 if quick else 10)),
        *(permuted_circuit(name, seed + number) for name in TAKEN_APART for number in range(1 if quick else 6)),
        *nulls,
    ]
    number, points = QUICK_NULL_EXAMPLES if quick else NULL_EXAMPLES, calibration_points(quick, seed)
    trainings = [(QUICK_STEPS if quick else STEPS, seed + at, number) for at in range(1 if quick else 4)]
    with worker_pool(workers) as pool:

        def rows(what: str, make: Callable[..., Rows], parts: Sequence[tuple[Any, ...]]) -> Iterable[dict[str, Any]]:
            """Of all parts, made by the pool at once and handed over in their order."""
            ones = [pool.submit(kept, folder, f"{what}-{at:04}", make, *part) for at, part in enumerate(parts)]
            return (row for one in _shown(ones, len(parts), what, progress) for row in one.result())

        uniform = pool.submit(uniformity, QUICK_SAMPLES if quick else UNIFORM_SAMPLES, seed)
        trained = rows("shuffled answers", _label_trained, trainings)
        cells = rows("grid", _label_case, [(case,) for case in reporting])
        null_rows = rows("nulls", _label_null, [(*null, number) for null in null_jobs])
        compared = rows("thresholds", _compare_thresholds, [(case,) for case in choosing])
        answers = rows("calibration", _calibrated, points)
        found, null_heads = [Judged(**row) for row in cells], [NullHead(**row) for row in (*null_rows, *trained)]
        under = [(row.pop("thresholds"), Judged(**row)) for row in compared]
        asked, uniform_p = [Answered.of(row) for row in answers], uniform.result()
    chosen = {name: score([cell for other, cell in under if other == name])["macro_f1"] for name in ALTERNATIVES if under}
    seconds = time.monotonic() - start
    return Validation(tuple(found), chosen, tuple(null_heads), seconds, tuple(rates(asked)), uniform_p)


def _grid(quick: bool, seed: int) -> tuple[list[Case], list[Case]]:
    """The choosing half and the reporting half; guises alternate between them. Quick: one of each, every second noisy."""
    sides: tuple[list[Case], list[Case]] = ([], [])
    for number, circuit in enumerate(CIRCUITS):
        for noise in ((0.0, NOISE)[number % 2],) if quick else (0.0, NOISE):
            for variant in range(1 if quick else 4):
                guise = Guise(
                    seed=seed + 1000 * number + 10 * variant + int(noise > 0),
                    rotate=variant != 1,
                    normalization=None if variant % 2 else "LN",
                    sharpness=(14.0, 12.0, 20.0, 16.0)[variant],
                    idle=variant // 2,
                    noise=noise,
                )
                sides[1 if quick else (number + variant // 2 + variant) % 2].append(Case(circuit, guise, small=quick))
    return sides


def _label_case(case: Case) -> Rows:
    """Truth and verdict of every (head, destination) of one specimen, `Judged` as rows."""
    made = _made(case)
    found = measure_until_decided(made.model, made.task, case.guise.seed, Thresholds(), BUDGET, methods=CARRYING)
    return [vars(cell) for cell in _cells(case, made, found.evidence, found.thresholds)]


def _compare_thresholds(case: Case) -> Rows:
    """The same under each alternative set of thresholds, from one measurement."""
    made = _made(case)
    evidence, _ = measure(made.model, made.task, Look(EXAMPLES, case.guise.seed, methods=CARRYING), LOOSEST)
    return [
        {"thresholds": name, **vars(cell)}
        for name, thresholds in ALTERNATIVES.items()
        for cell in _cells(case, made, evidence, thresholds)
    ]


def _calibrated(readouts: str, circuit: str, examples: int, seed: int) -> Rows:
    """Every channel's answers on one circuit at one size, as rows."""
    return [vars(one) for one in judged(readouts, circuit, examples, seed)]


def _made(case: Case) -> Specimen:
    return specimen(case.circuit, (SMALL if case.small else CIRCUITS)[case.circuit](), case.guise)


def _cells(case: Case, made: Specimen, evidence: Sequence[Evidence], thresholds: Thresholds) -> list[Judged]:
    cells = []
    for item in evidence:
        row, truth = label_row(item, thresholds), made.truth[item.head, item.destination]
        if is_rest(item.gate, truth):
            continue
        right = truth.role is None or (truth.role.name, truth.role.hop, truth.gate) == (row["role"], row["hop"], item.gate)
        true_role = truth.role.name if truth.role else None
        cells.append(Judged(case.circuit, case.guise.noise > 0, row["status"], truth.status, row["role"], true_role, right))
    return cells


def is_rest(gate: Gate | None, truth: Truth) -> bool:
    """Whether a row is about positions at which a head with a gate does not act: there is no right label there."""
    return truth.gate is not None and gate is not None and not set(gate.values) & set(truth.gate.values)


def _label_trained(steps: int, seed: int, examples: int) -> Rows:
    """The same of a model that is first trained on shuffled answers."""
    (null,) = trained_on_shuffled_answers(1, seed, steps)
    return _label_null(*null, examples)


def _label_null(kind: str, model: Model, task: Task, examples: int) -> Rows:
    """Which heads of a null model are confirmed, `NullHead` as rows."""
    evidence, _ = measure(model, task, Look(examples, 0, methods=CARRYING), Thresholds())
    confirmed = {item.head for item in evidence if status(item, Thresholds()) == Status.CONFIRMED}
    return [vars(NullHead(kind, str(head), head in confirmed)) for head in sorted({item.head for item in evidence})]


def _shown(items: Iterable[Any], total: int, what: str, progress: bool) -> Iterable[Any]:
    return tqdm(items, total=total, desc=what, disable=None if progress else True, leave=False)
