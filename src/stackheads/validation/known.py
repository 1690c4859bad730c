"""Trained models whose circuit is known: steps of a program were given to chosen heads, and training saw to it (`strict.py`).

A folder is a checkpoint with `known.json` beside it: the steps, which heads have them, and the accuracy of interchanges
(`exchanged.py`), which is the proof that the model is what it is said to be. A model in which one of them is below `BAR` is not
used.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo, field_validator

from stackheads.errors import CheckpointError
from stackheads.files import Stored, checked, read_json, write_json
from stackheads.models import load
from stackheads.models.protocol import Model
from stackheads.programs.heads import PLACES, POSITION, TOKEN, Copy, HeadSpec
from stackheads.tasks import KHopInduction, StatementTask
from stackheads.types import Destination, HeadId, Role, RoleName, Slot
from stackheads.validation.assigned import Assigned, KnownTask, Step
from stackheads.validation.truth import Truth

BAR = 0.99
RECORD, FORMAT = "known.json", 1
SEED = "-seed-"
"""Between the name of a recipe and the seed of a model that was trained by it again."""
GUIDED = "-guided"
"""What the names of recipes with a guided beginning end with (`guided.py`)."""
CURE = "train it again, analyses/train_known.py"


class StoredStep(Stored):
    """One step as stored: a role, where it acts, how it finds its source, which registers it copies, whose it is."""

    layer: int
    heads: tuple[int, ...]
    role: tuple[RoleName, int | None]
    destinations: tuple[str, ...]
    matches: tuple[tuple[str, str], ...]
    copies: tuple[tuple[str, str], ...]
    sources: tuple[str, ...]
    offset: int | None

    @field_validator("destinations", "sources")
    @classmethod
    def _places(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = set(Slot.__members__) if info.field_name == "sources" else set(PLACES)
        if not names or not set(names) <= known:
            raise ValueError(f"must be of {', '.join(sorted(known))}")
        return names


class StoredKnown(Stored):
    """`known.json`."""

    steps: tuple[StoredStep, ...]
    choosing: bool
    examples: int
    accuracy: dict[str, float]
    moved_by_the_rest: float


@dataclass(frozen=True)
class Known:
    """A trained model, its task, the label that every (head, destination) must get, and what proves it (`exchanged.py`)."""

    name: str
    model: Model
    task: KnownTask
    truth: dict[tuple[HeadId, Destination], Truth]
    assigned: Assigned
    accuracy: dict[str, float]
    moved_by_the_rest: float


def write_record(folder: Path, known: Assigned, accuracy: dict[str, float], moved: float, examples: int) -> None:
    """Write `known.json` into a checkpoint's folder."""
    steps = [_stored(step) for step in known.steps]
    content = {"format": FORMAT, "steps": steps, "choosing": known.choosing, "examples": examples}
    write_json(folder / RECORD, {**content, "accuracy": accuracy, "moved_by_the_rest": moved})


def recipe_of(name: str) -> str:
    """The recipe of a known model, from the name of its folder."""
    return name.partition(SEED)[0]


def is_guided(name: str) -> bool:
    """Whether a known model had a guided beginning, from the name of its folder."""
    return recipe_of(name).endswith(GUIDED)


def known_folders(folder: Path | str) -> list[Path]:
    """The folders of known models in a folder, by name. Raises `CheckpointError` where there is none."""
    paths = sorted(path for path in Path(folder).glob("*") if path.is_dir())
    if not paths:
        raise CheckpointError(f"known models lie in a folder of checkpoints, {folder} holds none: check the path")
    return paths


def known_models(folder: Path | str) -> list[Known]:
    """Every known model in a folder, by name. Raises `CheckpointError` as `known_folders` and `load_known` do."""
    return [load_known(path) for path in known_folders(folder)]


def load_known(path: Path | str) -> Known:
    """Load one. Raises `CheckpointError` if its record is missing, damaged, about another model, or below the bar."""
    checkpoint, file = load(path), Path(path) / RECORD
    record = checked(StoredKnown, read_json(file, CURE, FORMAT), file, CURE)
    low = {name: share for name, share in record.accuracy.items() if not BAR <= share <= 1}
    if low or not record.accuracy:
        name, share = min(low.items(), key=lambda each: each[1], default=("none at all", 0.0))
        raise CheckpointError(f"{file}: every interchange must be right in {BAR:.0%} of answers, {name}: {share}: {CURE}")
    task, config = checkpoint.task, checkpoint.config
    if not isinstance(task, (StatementTask, KHopInduction)):
        raise CheckpointError(f"{file}: known models are of statements or k-hop induction, got {task.name}: {CURE}")
    for step in record.steps:
        if not (0 <= step.layer < config.layers and step.heads and all(0 <= head < config.heads for head in step.heads)):
            rule = f"{file}: steps belong to heads of the model, {config.layers} layers of {config.heads}"
            raise CheckpointError(f"{rule}, got layer {step.layer}, heads {step.heads}: {CURE}")
    _check_registers(record.steps, file)
    steps = tuple(map(_step, record.steps))
    assigned = Assigned(task, steps, config.layers, config.heads, record.choosing)
    moved = record.moved_by_the_rest
    return Known(checkpoint.name, checkpoint.model, task, assigned.truth(), assigned, record.accuracy, moved)


def _check_registers(steps: Iterable[StoredStep], file: Path) -> None:
    """Raise `CheckpointError` for a step that reads what no earlier layer has written."""
    written: dict[str, int] = dict.fromkeys((TOKEN, POSITION), -1)
    for step in sorted(steps, key=lambda step: step.layer):
        read = {name for pair in step.matches for name in pair} | {source for source, _ in step.copies}
        missing = sorted(name for name in read if written.get(name, step.layer) >= step.layer)
        if missing:
            known = ", ".join(sorted(name for name, layer in written.items() if layer < step.layer))
            rule = f"{file}: a step of layer {step.layer} reads what earlier layers write, {known}"
            raise CheckpointError(f"{rule}, got {', '.join(missing)}: {CURE}")
        for _, target in step.copies:
            written.setdefault(target, step.layer)


def _stored(step: Step) -> dict[str, Any]:
    spec = step.spec
    (role,) = {spec.roles[place] for place in spec.rows}
    return {
        "layer": step.layer,
        "heads": [head.index for head in step.heads],
        "role": [role.name, role.hop],
        "destinations": sorted(spec.rows),
        "matches": spec.matches,
        "copies": [(copy.source, copy.target) for copy in spec.copies],
        "sources": sorted(slot.name for slot in spec.sources),
        "offset": spec.offset,
    }


def _step(stored: StoredStep) -> Step:
    rows = frozenset(map(Destination, stored.destinations))
    spec = HeadSpec(
        stored.matches,
        rows,
        tuple(Copy(source, target) for source, target in stored.copies),
        dict.fromkeys(rows, Role(*stored.role)),
        frozenset(Slot[name] for name in stored.sources),
        stored.offset,
    )
    return Step(stored.layer, spec, tuple(HeadId(stored.layer, index) for index in stored.heads))
