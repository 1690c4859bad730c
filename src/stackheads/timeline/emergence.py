"""When does each hop's accuracy, and each labelled head, appear in training?

Every snapshot of a run is labelled by the rules of evidence, on the same examples each time, so that snapshots differ by
training alone, and as far as the run needs it (`measuring.py`). Then, for a condition that holds or does not hold at each
snapshot –

- of a hop: accuracy at the query of at least `Thresholds.emerged_accuracy`;
- of a cell (head, destination, role): confirmed there, in this role –

the *emergence step* is the first snapshot from which on it holds at every later snapshot up to the end; None where it does not
hold at the end. Training was looked at only there, so it emerged in (last snapshot before, that snapshot].

Followed are the cells confirmed at the last snapshot, and those confirmed at two snapshots in a row at any time: heads come and
go, and a cell that is gone at the end has no emergence step, but a first and a last snapshot. A single confirmed snapshot is
taken for chance: at a fixed level, the more snapshots, the more chances.

Beside the step stands its bootstrap interval over examples: the condition is judged again on resampled examples, the same
resampling at all snapshots. Cells whose pattern fails on all examples are not confirmed on any resampling (`stability.py`), so
for heads the interval says rather how much later than how much earlier. Nor does it say what more examples would: the more
there are, the weaker a pattern or effect can be confirmed, and the earlier. Compare runs on the same number of them.

Of what is followed already all later snapshots are told; at the end those before are, of what they were not asked for.

Cost: that of `measuring.tell` once for each snapshot, and once more for these, of the cells that are followed alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stackheads.errors import CheckpointError, ConfigError
from stackheads.files import as_path
from stackheads.interventions.reweighted import is_fast
from stackheads.labelling.measure import MIN_EXAMPLES, Cell
from stackheads.labelling.readouts import Baseline
from stackheads.labelling.sample import Sample, draw_sample
from stackheads.labelling.statistics import KEPT_DRAWS, bootstrap_counts
from stackheads.labelling.thresholds import Thresholds, default_or, least_draws
from stackheads.labelling.verdict import Answer, confirmed_again, pattern_answer, status, telling
from stackheads.limits import check_number
from stackheads.models import Checkpoint, load, parse_device, snapshots
from stackheads.models.memory import kept_memory
from stackheads.seeds import Stream, check_seed, stream
from stackheads.tasks import with_keys
from stackheads.timeline.measuring import Told, tell
from stackheads.timeline.result import OTHER_ROLE, Emergence, accuracy_frame, heads_frame, steps_frame
from stackheads.types import Destination, HeadId, Role, Status

CONFIDENCE = 0.95
"""Coverage of the bootstrap intervals of emergence steps: a hundred samples tell no more."""


@dataclass(frozen=True)
class Followed:
    """A head at a destination in a role: what is followed through training."""

    head: HeadId
    destination: Destination
    role: Role

    @property
    def cell(self) -> Cell:
        """Where it is."""
        return self.head, self.destination

    def __str__(self) -> str:
        return f"{self.head} @{self.destination} {self.role}"


@dataclass(frozen=True)
class _Snapshot:
    """One snapshot, measured."""

    step: int
    told: Told
    thresholds: Thresholds

    def confirms(self, cell: Followed) -> bool:
        return self.status(cell) == Status.CONFIRMED

    def status(self, cell: Followed) -> str:
        item = self.told.evidence[cell.cell]
        passed = pattern_answer(item.pattern, self.thresholds) == Answer.YES
        return OTHER_ROLE if passed and item.pattern.role != cell.role else status(item, self.thresholds)

    @property
    def confirmed(self) -> set[Followed]:
        return {
            Followed(*place, item.pattern.role)
            for place, item in self.told.evidence.items()
            if item.pattern.role is not None and status(item, self.thresholds) == Status.CONFIRMED
        }


def emergence(
    run: Path | str,
    examples: int = 512,
    seed: int = 0,
    device: torch.device | str | int | None = None,
    progress: bool = True,
    bootstraps: int = KEPT_DRAWS,
    thresholds: Thresholds | None = None,
    keys: bool = False,
) -> Emergence:
    """Follow hops and heads through the snapshots of a run folder; with `keys` those that look at key slots, too.

    `bootstraps`: resamplings of the examples behind the bootstrap intervals, 39 to 100; 0 for none. Raises `ConfigError`
    (examples, bootstraps, device, keys of a task that has none), `CheckpointError` (no run folder, fewer than two snapshots,
    damaged or unlike snapshots).
    """
    thresholds = default_or(thresholds)
    examples, seed = check_number("examples", examples, MIN_EXAMPLES, words=" for an interval"), check_seed(seed)
    bootstraps = check_number("bootstraps", bootstraps, 0, KEPT_DRAWS, cure="give another number")
    if 0 < bootstraps < (least := least_draws((1 + CONFIDENCE) / 2)):
        raise ConfigError(
            f"bootstraps must be 0, or {least} or more for intervals at a confidence of {CONFIDENCE}, got {bootstraps}: "
            "draw more"
        )
    folders, place = run_snapshots(as_path(run)), parse_device(device)
    last = load(folders[max(folders)], place)
    task = with_keys(last.task) if keys else last.task
    sample = draw_sample(task, examples, seed, thresholds, place)
    with kept_memory():
        measured, cells = _measured(folders, last, sample, thresholds, progress)
    return Emergence(
        model={"name": Path(run).resolve().name, **last.config.model_dump()},
        task={"name": task.name, **task.model_dump()},
        training=last.training,
        seed=seed,
        examples=examples,
        bootstraps=bootstraps,
        thresholds=thresholds,
        versions={name: version(name) for name in ("stackheads", "torch", "transformer-lens")},
        accuracy=accuracy_frame({snapshot.step: _accuracy(snapshot.told.baseline) for snapshot in measured}),
        heads=heads_frame([_head_row(snapshot, cell) for snapshot in measured for cell in cells]),
        steps=steps_frame(
            _hop_steps(measured, seed, bootstraps, thresholds) + _head_steps(measured, cells, bootstraps, thresholds)
        ),
    )


def _measured(
    folders: Mapping[int, Path], last: Checkpoint, sample: Sample, thresholds: Thresholds, progress: bool
) -> tuple[list[_Snapshot], list[Followed]]:
    """All snapshots in order, each told of what is followed, and what that is."""
    fast, steps, found = is_fast(last.model, sample.batch), list(folders), dict[int, _Snapshot]()

    def told(step: int, asked: set[Cell], alone: bool = False) -> Told:
        checkpoint = _alike(load(folders[step], into=last), last, folders[step])
        return tell(checkpoint.model, sample, fast, asked, thresholds, alone)

    confirmed: list[set[Followed]] = []
    for step in tqdm(steps, desc="emerge", unit="snapshot", disable=None if progress else True, leave=False):
        asked = {cell.cell for cell in followed([*confirmed, set()])}
        found[step] = _Snapshot(step, told(step, asked), thresholds)
        confirmed.append(found[step].confirmed)
    cells = followed(confirmed)
    for step, snapshot in found.items():
        if missing := {cell.cell for cell in cells} - snapshot.told.evidence.keys():
            more = told(step, missing, alone=snapshot.told.passing.isdisjoint(missing)).evidence
            found[step] = replace(snapshot, told=replace(snapshot.told, evidence=snapshot.told.evidence | more))
    return [found[step] for step in steps], cells


def run_snapshots(run: Path) -> dict[int, Path]:
    """The snapshots of a run folder by step. Raises `CheckpointError` where there are fewer than two, with the cure."""
    if not run.is_dir():
        what = "a file" if run.exists() else "nothing"
        raise CheckpointError(f"a run is a folder with step-* snapshots, {run} is {what}: check the path")
    found = snapshots(run)
    if len(found) >= 2:
        return found
    cure = "train with --snapshot-every 250"
    if found:
        raise CheckpointError(f"emergence needs at least 2 snapshots, {run} has 1: {cure}")
    if (run / "config.json").exists():
        whole = run.resolve().parent
        cure = f"give its run folder {whole}" if len(snapshots(whole)) >= 2 else f"give a run folder, {cure} for one"
        raise CheckpointError(f"emergence needs a run folder with step-* snapshots, {run} is a single checkpoint: {cure}")
    kind = "a run without any" if (run / "run.json").exists() else "no run folder"
    raise CheckpointError(f"emergence needs a run folder with step-* snapshots, {run} is {kind}: {cure}")


def emergence_step(holds: Sequence[bool], steps: Sequence[int]) -> int | None:
    """The first step from which on `holds` is True to the end; None if it is not True at the end."""
    found = None
    for held, step in zip(reversed(holds), reversed(steps), strict=True):
        if not held:
            break
        found = step
    return found


def followed(confirmed: Sequence[set[Followed]]) -> list[Followed]:
    """The cells confirmed at the last snapshot, or at two in a row at any time; sorted."""
    twice = [one & other for one, other in pairwise(confirmed)]
    places = list(Destination)
    return sorted(
        set().union(confirmed[-1], *twice),
        key=lambda cell: (cell.head, places.index(cell.destination), cell.role.name, cell.role.hop or 0),
    )


def _alike(checkpoint: Checkpoint, last: Checkpoint, folder: Path) -> Checkpoint:
    if (checkpoint.config, checkpoint.task) != (last.config, last.task):
        raise CheckpointError(f"the snapshots of a run share model and task, {folder} has others: keep each run in a folder")
    return checkpoint


def _accuracy(baseline: Baseline) -> dict[int, float]:
    shares = zip(baseline.readouts, baseline.accuracy.tolist(), strict=True)
    return {readout.hop: share for readout, share in shares if readout.destination == Destination.QUERY}


def _head_row(snapshot: _Snapshot, cell: Followed) -> dict[str, Any]:
    item = snapshot.told.evidence[cell.cell]
    effects, bar = item.cause.effects, snapshot.thresholds.min_effect
    number = telling(effects, bar) if len(effects) else None
    return {
        "step": snapshot.step,
        **_named(cell),
        "status": snapshot.status(cell),
        "pattern": item.pattern.masses.get(cell.role),
        "effect": None if number is None else effects.at(number).value,
        "readout": None if number is None else str(item.cause.readouts[number]),
    }


def _named(cell: Followed) -> dict[str, Any]:
    role = cell.role
    return {
        "head": str(cell.head),
        "layer": cell.head.layer,
        "destination": str(cell.destination),
        "role": role.name,
        "hop": role.hop,
    }


def _hop_steps(measured: Sequence[_Snapshot], seed: int, bootstraps: int, thresholds: Thresholds) -> list[dict[str, Any]]:
    """One row per hop asked at the query. Resampling: the same `bootstraps` samples of the examples at all snapshots."""
    first = measured[0].told.baseline
    at_query = [number for number, readout in enumerate(first.readouts) if readout.destination == Destination.QUERY]
    right = torch.stack([snapshot.told.baseline.clean.right[:, at_query] for snapshot in measured]).double()
    count = first.count[:, at_query].double()
    counts = bootstrap_counts(len(count), bootstraps, stream(seed, Stream.EMERGENCE)).to(count.device)
    shares = torch.einsum("de,ser->rds", counts, right) / torch.einsum("de,er->rd", counts, count)[..., None]
    rows = []
    for number, readout in enumerate(at_query):
        hop = first.readouts[readout].hop
        holds = [_accuracy(snapshot.told.baseline)[hop] >= thresholds.emerged_accuracy for snapshot in measured]
        named = {"what": f"hop {hop}", "kind": "hop", "destination": str(Destination.QUERY), "hop": hop}
        drawn = (shares[number] >= thresholds.emerged_accuracy).tolist()
        rows.append(named | step_row(holds, drawn, [snapshot.step for snapshot in measured], CONFIDENCE))
    return rows


def _head_steps(
    measured: Sequence[_Snapshot], cells: Sequence[Followed], bootstraps: int, thresholds: Thresholds
) -> list[dict[str, Any]]:
    rows, steps = [], [snapshot.step for snapshot in measured]
    for cell in cells:
        items = [snapshot.told.evidence[cell.cell] for snapshot in measured]
        again = [confirmed_again(item, thresholds)[:bootstraps] & (item.pattern.role == cell.role) for item in items]
        drawn = torch.stack(again, dim=1).tolist()
        holds = [snapshot.confirms(cell) for snapshot in measured]
        rows.append({"what": str(cell), "kind": "head"} | _named(cell) | step_row(holds, drawn, steps, CONFIDENCE))
    return rows


def step_row(holds: Sequence[bool], drawn: Sequence[Sequence[bool]], steps: Sequence[int], confidence: float) -> dict[str, Any]:
    """Step, interval, first and last snapshot of a condition, and its bootstrap: `drawn` is the condition on each resampling.

    Before the first snapshot stands step 0. Samples in which it never emerges count as later than all others.
    """
    step = emergence_step(holds, steps)
    held = [at for at, is_held in zip(steps, holds, strict=True) if is_held]
    found = [emergence_step(sample, steps) for sample in drawn]
    ranked = sorted(math.inf if each is None else each for each in found)
    tail = (1 - confidence) / 2
    low, high = math.floor(tail * len(ranked)), math.ceil((1 - tail) * len(ranked)) - 1
    return {
        "step": step,
        "low": None if step is None else max((each for each in steps if each < step), default=0),
        "high": step,
        "first": min(held, default=None),
        "last": max(held, default=None),
        "boot_low": _finite(ranked[low]) if ranked else None,
        "boot_high": _finite(ranked[high]) if ranked else None,
        "boot_share": sum(each is not None for each in found) / len(found) if found else None,
    }


def _finite(step: float) -> int | None:
    return int(step) if math.isfinite(step) else None
