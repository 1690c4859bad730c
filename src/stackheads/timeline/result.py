"""What `emergence()` returns: when what appears in a run, to be looked at, saved, loaded and compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, field_validator, model_validator

from stackheads.errors import CheckpointError
from stackheads.files import Stored, as_path, check_folder, checked, read_json, write_file, write_json
from stackheads.labelling.statistics import KEPT_DRAWS
from stackheads.labelling.thresholds import Thresholds
from stackheads.saved import (
    Count,
    Head,
    Named,
    OfHead,
    Portion,
    Seed,
    Share,
    Sized,
    Whole,
    check_heads,
    check_layer,
    check_role,
)
from stackheads.stored import known_thresholds
from stackheads.tables import natural, records
from stackheads.types import Destination, RoleName, Status

Steps = Mapping[str, int | None]
"""When each thing emerges in one run; None: never."""

FORMAT = 1
FILE = "emergence.json"
CURE = "save it again"
FILES = (FILE, "accuracy.csv", "heads.csv")
OTHER_ROLE = "other role"
"""Status of a cell at a snapshot where its head shows the pattern of another role."""

SYMBOLS = {**{status.value: status.symbol for status in Status}, OTHER_ROLE: "×"}
"""One character for each status of a cell at a snapshot, for tables."""

_OF_A_CELL = {"head": "object", "layer": "Int64", "destination": "object", "role": "object", "hop": "Int64"}
_STEPS = dict.fromkeys(("step", "low", "high", "first", "last", "boot_low", "boot_high"), "Int64")
HEAD_TYPES = (
    {"step": "Int64"} | _OF_A_CELL | {"status": "object", "pattern": "Float64", "effect": "Float64", "readout": "object"}
)
STEP_TYPES = {"what": "object", "kind": "object"} | _OF_A_CELL | _STEPS | {"boot_share": "Float64"}
"""The columns of the two long tables."""


class _HeadRow(OfHead):
    """A row of `Emergence.heads`."""

    step: Whole
    destination: Destination
    role: RoleName
    hop: Whole | None
    status: Status | Literal["other role"]
    pattern: Share
    effect: Share
    readout: str | None

    @model_validator(mode="after")
    def _of_its_role(self) -> "_HeadRow":
        check_role(self.role, self.hop)
        return self


class _StepRow(Stored):
    """A row of `Emergence.steps`."""

    what: str
    kind: Literal["hop", "head"]
    head: Head | None
    layer: Whole | None
    destination: Destination
    role: RoleName | None
    hop: Whole | None
    step: Whole | None
    low: Whole | None
    high: Whole | None
    first: Whole | None
    last: Whole | None
    boot_low: Whole | None
    boot_high: Whole | None
    boot_share: Portion | None

    @model_validator(mode="after")
    def _whole(self) -> "_StepRow":
        """Steps that belong together are there together."""
        given = self.high if self.step is None else self.low
        check_layer(self.head, self.layer)
        if self.kind == "head":
            check_role(self.role, self.hop)
        if (self.kind == "head") != (self.head is not None and self.role is not None):
            raise ValueError("a cell is a head with a role, and a hop is neither")
        if (self.step is None) != (given is None) or ((self.kind == "head" or self.step is not None) and self.first is None):
            raise ValueError("steps that belong together are missing")
        return self


class StoredEmergence(Stored):
    """What `Emergence.to_dict` gives: as many rows of heads at every snapshot as cells are followed."""

    model: Sized
    task: Named
    training: dict[str, Any]
    seed: Seed
    examples: Count
    bootstraps: Annotated[int, Field(ge=0, le=KEPT_DRAWS)]
    thresholds: Thresholds
    versions: dict[str, str]
    accuracy: dict[Whole, dict[Whole, Portion]] = Field(min_length=2)
    heads: list[_HeadRow]
    steps: list[_StepRow] = Field(min_length=1)

    @field_validator("thresholds", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        return known_thresholds(given)

    @model_validator(mode="after")
    def _fits(self) -> "StoredEmergence":
        hops, *others = self.accuracy.values()
        cells = [(row.head, row.destination, row.role, row.hop) for row in self.steps if row.kind == "head"]
        asked = [row.hop for row in self.steps if row.kind == "hop"]
        if any(other.keys() != hops.keys() for other in others) or sorted(hops) != sorted(hop or 0 for hop in asked):
            raise ValueError("accuracy must be given for the same hops at every snapshot")
        told = [(row.step, (row.head, row.destination, row.role, row.hop)) for row in self.heads]
        if told != [(step, cell) for step in self.accuracy for cell in cells]:
            raise ValueError("heads must be given for every snapshot and cell")
        check_heads(self.model, self.heads)
        if len({row.what for row in self.steps}) != len(self.steps):
            raise ValueError("each of the steps needs its own name")
        if any(row.step is not None and row.step not in self.accuracy for row in self.steps):
            raise ValueError("steps must be snapshots")
        return self


@dataclass(frozen=True, repr=False)
class Emergence:
    """When what appears in a run.

    `accuracy`  per step (index) and hop (columns): share of right answers at the query.
    `heads`     one row per (step, followed cell): step, head, layer, destination, role, hop, status there, pattern (attention
                mass on the role's source, whether or not the role is the best), effect (of ablation; missing where the model
                answers nothing) and the readout that it is measured at.
    `steps`     one row per hop and followed cell: what, kind (hop or head), head, layer, destination, role, hop, step, the
                interval (low, high] it emerged in, the first and last snapshot at which it holds at all, and over resampled
                examples the interval [boot_low, boot_high] of the step (missing: never) and the share of samples that have one.
    `model`, `task`, `training`  what was looked at, as settings; `seed`, `examples`, `bootstraps`, `thresholds`, `versions`
                how.
    """

    model: dict[str, Any]
    task: dict[str, Any]
    training: dict[str, Any]
    seed: int
    examples: int
    bootstraps: int
    thresholds: Thresholds
    versions: dict[str, str]
    accuracy: pd.DataFrame
    heads: pd.DataFrame
    steps: pd.DataFrame

    @property
    def snapshots(self) -> list[int]:
        """The steps that were looked at."""
        return [int(step) for step in self.accuracy.index]

    @property
    def table(self) -> pd.DataFrame:
        """Step × followed cell: the symbol of the status (`SYMBOLS`)."""
        names = [row["what"] for row in records(self.steps) if row["kind"] == "head"]
        rows = [SYMBOLS[name] for name in self.heads["status"]]
        grid = [rows[start : start + len(names)] for start in range(0, len(rows), len(names) or 1)]
        return pd.DataFrame(grid, index=self.accuracy.index, columns=pd.Index(names, dtype="object"))

    @property
    def order(self) -> list[set[str]]:
        """What emerges, in order; what emerges at one snapshot stands in one set."""
        return in_order({row["what"]: row["step"] for row in records(self.steps)})

    @property
    def passing(self) -> list[str]:
        """The cells that were confirmed for a while and are not at the end."""
        return [row["what"] for row in records(self.steps) if row["kind"] == "head" and row["step"] is None]

    def to_dict(self) -> dict[str, Any]:
        """One JSON object; missing values are null."""
        accuracy = self.accuracy.to_dict(orient="index")
        return {
            "format": FORMAT,
            "model": self.model,
            "task": self.task,
            "training": self.training,
            "seed": self.seed,
            "examples": self.examples,
            "bootstraps": self.bootstraps,
            "accuracy": {str(step): {str(hop): share for hop, share in row.items()} for step, row in accuracy.items()},
            "heads": records(self.heads),
            "steps": records(self.steps),
            "order": [sorted(names, key=natural) for names in self.order],
            "thresholds": asdict(self.thresholds),
            "versions": self.versions,
        }

    def save(self, folder: Path | str) -> None:
        """Write `emergence.json` (which `load` reads), `accuracy.csv` and `heads.csv`; other files there stay.

        Raises `ConfigError` if they can't be written.
        """
        check_folder(folder, files=FILES)
        path = Path(folder)
        write_file(path / "accuracy.csv", lambda temporary: self.accuracy.to_csv(temporary))
        write_file(path / "heads.csv", lambda temporary: self.heads.to_csv(temporary, index=False))
        write_json(path / FILE, self.to_dict())

    @classmethod
    def load(cls, folder: Path | str) -> "Emergence":
        """Read what `save` wrote. Raises `CheckpointError` if it is missing, damaged or of another format."""
        path = as_path(folder) / FILE
        if not path.exists():
            raise CheckpointError(f"a saved emergence is a folder with {FILE}, {folder} has none: check the path")
        content = read_json(path, CURE, FORMAT)
        checked(StoredEmergence, content, path, CURE)
        return cls(
            **{name: content[name] for name in ("model", "task", "training", "seed", "examples", "bootstraps", "versions")},
            thresholds=Thresholds(**content["thresholds"]),
            accuracy=accuracy_frame(
                {int(step): {int(h): share for h, share in row.items()} for step, row in content["accuracy"].items()}
            ),
            heads=heads_frame(content["heads"]),
            steps=steps_frame(content["steps"]),
        )

    def __repr__(self) -> str:
        lines = [f"{rank}. {', '.join(sorted(names, key=natural))}" for rank, names in enumerate(self.order, start=1)]
        return "\n".join([f"Emergence in {self.model.get('name')} on {self.task['name']}", *lines])


def accuracy_frame(accuracy: dict[int, dict[int, float]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(accuracy, orient="index").rename_axis(index="step", columns="hop")


def heads_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return _frame(rows, HEAD_TYPES)


def steps_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return _frame(rows, STEP_TYPES)


def _frame(rows: list[dict[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    """A table with these columns and types, also with no row."""
    columns = {name: pd.array([row.get(name) for row in rows], dtype=kind) for name, kind in types.items()}  # type: ignore[call-overload]
    return pd.DataFrame(columns)


def in_order(steps: Mapping[str, int | None]) -> list[set[str]]:
    """What has a step, in sets of equal steps, from early to late."""
    known = sorted({step for step in steps.values() if step is not None})
    return [{what for what, step in steps.items() if step == each} for each in known]
