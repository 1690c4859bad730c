"""What `analyze()` returns: data, to be looked at, saved, loaded and compared.

The model it was made from stays with it as `subject` until it is saved, so that `trial()` can go on with it, and a digest of
its `weights` says whether it is still the same.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from stackheads.errors import CheckpointError
from stackheads.explanation.circuit import Circuit, no_circuit
from stackheads.explanation.reach import reach_frame, reach_records
from stackheads.files import as_path, check_file, check_folder, checked, read_json, write_folder, write_json
from stackheads.labelling.carrying import carried_table
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.trust import fingerprint
from stackheads.stored import StoredAnalysis
from stackheads.tables import label_frame, natural, place_of, records
from stackheads.tasks import Task
from stackheads.types import HeadId, Role, RoleName, Status

FORMAT = 3
FILE, TABLE = "analysis.json", "labels.csv"
FURTHER = ("trial.json", "selectors.json")
"""What the command line writes beside; of another analysis, so that saving over it takes them away."""
CURE = "save it again"
VERDICT_ORDER: tuple[RoleName, ...] = (
    "previous",
    "duplicate",
    "self",
    "start",
    "asked",
    "condition",
    "unchosen",
    "key",
    "hop",
)
"""In which order the verdict names roles: those without a number, then what is looked up, then the hops."""


NOT_AT_HAND = "This analysis was loaded without its model, or the model was trained on since"
"""Why `Record.at_hand` is None."""


@dataclass(frozen=True)
class Missing:
    """What was asked beside the labels and is not to be had of this model."""

    why: str

    def to_dict(self) -> dict[str, str]:
        """For JSON, as a circuit that is missing."""
        return {"missing": self.why}


@dataclass(frozen=True, repr=False)
class Record:
    """The labels of a model's heads with their evidence.

    `labels`      one row per (head, destination), or part of it: head, layer, destination, selector ("role", or none), role,
                  hop, gate (what the position knows where the row holds, "asked 1..4"; a head whose role depends on it has
                  several rows, `labelling/gating.py`), share (of its attention), status, pattern, rival, effect,
                  effect_low, effect_high, accuracy_effect, write, reason; then looks_like (the best role, passed or not),
                  null_p, readout (where the effect was measured), effect_mean, effect_zero (other ablations, same place);
                  evidence: exact, or screened where the effect is only guessed (`labelling/screening.py`); examples that the
                  row took, and would_decide: about how many would decide it.
    `readouts`    one row per question: destination, hop, accuracy, chance_accuracy, margin, gap, open, unclear
                  (neither known to be open nor to be closed), asked (examples).
    `effects`     one row per (head, destination, gate, ablation, readout): effect and accuracy_effect, on all examples; nothing
                  for a readout that the model does not answer if examples that ask for nothing else were not run.
    `carried`     one row for each causal-unclassified row whose ablation destroys: answer (yes, no, not decided, not tested),
                  carries (the role whose token the head carries, wherever it looks; `also` other names of the same token), kept
                  with its interval kept_low to kept_high, logits (kept of all answers' logits), attention (on that role's
                  source), readout, effect and control (there, of donors drawn regardless and of another token), rival and
                  rival_kept (the role that keeps most beside), rows, left_out, examples, reason; None where it was not asked
    `mechanism`   doubling, tripling, one hop per layer, shortcut, other or none (`explanation/mechanism.py`);
                  `mechanism_reason` why.
    `program`     the confirmed heads written out as a program (`explanation/program.py`); `program_agreement` the share of
                  fresh examples, per hop at the query, on which the program compiled and the model give the same answer.
    `reach`       one row per (layer, destination): the hops that a linear probe reads there (`explanation/reach.py`).
    `circuit`     a networkx graph of the confirmed heads (`explanation/circuit.py`); where there is none it is empty and
                  `circuit.missing` says why.
    `bootstrap_jaccard`  how far the confirmed labels stay the same under resampled examples (`labelling/stability.py`).
    `model`, `task`  what was analysed, as settings; `seed`, `examples`, `thresholds`, `versions`  how.
    """

    model: dict[str, Any]
    task: dict[str, Any]
    seed: int
    examples: int
    thresholds: Thresholds
    versions: dict[str, str]
    labels: pd.DataFrame
    readouts: pd.DataFrame
    effects: pd.DataFrame
    carried: pd.DataFrame | None = None
    mechanism: str | None = None
    mechanism_reason: str | None = None
    program: str | None = None
    program_agreement: dict[int, float] | None = None
    reach: pd.DataFrame | None = None
    circuit: Circuit = field(default_factory=no_circuit)
    bootstrap_jaccard: float | None = None
    subject: tuple[Any, Task] | None = field(default=None, compare=False)
    weights: str | None = field(default=None, compare=False)

    @property
    def at_hand(self) -> tuple[Any, Task] | None:
        """The model that this was made from, as it was then, and the task; None once loaded, or if it was trained on since."""
        return None if self.subject is None or self.changed else self.subject

    @property
    def changed(self) -> bool:
        """Whether the weights are others than those that this was made from."""
        return self.subject is not None and self.weights is not None and self.weights != fingerprint(self.subject[0])

    @property
    def measured_on(self) -> str:
        """How many examples the rows took, and how many of these are not decided, in words."""
        rows = records(self.labels)
        numbers = sorted({row.get("examples") or self.examples for row in rows}) or [self.examples]
        text = f"{numbers[0]:,} examples" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,} examples a row"
        undecided = sum(row["status"] == Status.UNDECIDED and row["evidence"] == "exact" for row in rows)
        return text + (f", {undecided} of {len(rows)} rows undecided" if undecided else "")

    @property
    def accuracy(self) -> dict[int, float]:
        """Share of right answers at the query, per readout hop."""
        rows = self.readouts[self.readouts["destination"] == "query"]
        return {int(hop): float(share) for hop, share in zip(rows["hop"], rows["accuracy"], strict=True)}

    @property
    def hops(self) -> dict[int, list[str]]:
        """The confirmed heads of each hop, at any destination: "L1H2", or "L2H0 when asked 1..3" of one under a gate."""
        return self._numbered("hop")

    @property
    def conditions(self) -> dict[int, list[str]]:
        """The confirmed heads that look up each step's condition, at any destination; none in a task without conditions."""
        return self._numbered("condition")

    @property
    def keys(self) -> dict[int, list[str]]:
        """The confirmed heads that look at each `key j`, at any destination; none in a task without keys."""
        return self._numbered("key")

    def _numbered(self, role: str) -> dict[int, list[str]]:
        rows = [row for row in records(self.labels) if row["status"] == "confirmed" and row["role"] == role]
        found: dict[int, list[str]] = {}
        for row in sorted(rows, key=lambda row: (row["hop"], natural(_head_in_words(row)))):
            found.setdefault(row["hop"], []).append(_head_in_words(row))
        return {hop: list(dict.fromkeys(heads)) for hop, heads in found.items()}

    def confirmed(self, role: str) -> list[str]:
        """The heads confirmed in a role ("hop", "previous", …), at any destination."""
        rows = self.labels[(self.labels["status"] == "confirmed") & (self.labels["role"] == role)]
        return sorted(set(rows["head"]), key=natural)

    @property
    def verdict(self) -> str:
        """Which heads implement which hop, in words."""
        rows = [row for row in records(self.labels) if row["status"] == "confirmed" and row["role"] is not None]
        if not rows:
            return "no head is confirmed in any role"
        places: dict[Role, dict[str, None]] = {}
        for row in sorted(rows, key=_verdict_order):
            where = _head_in_words(row) if row["hop"] is None else f"{row['head']} @{place_of(row)}"
            places.setdefault(Role(row["role"], row["hop"]), {})[where] = None
        return "\n".join(f"{role}: {_listed(list(found))}" for role, found in places.items())

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of docs/guides/reading.md; missing values are null."""
        agreement = self.program_agreement or {}
        return {
            "format": FORMAT,
            "model": self.model,
            "task": self.task,
            "seed": self.seed,
            "examples": self.examples,
            "accuracy": {str(hop): share for hop, share in self.accuracy.items()},
            "labels": records(self.labels),
            "carried": None if self.carried is None else records(self.carried),
            "hops": {str(hop): heads for hop, heads in self.hops.items()},
            "conditions": {str(hop): heads for hop, heads in self.conditions.items()},
            "keys": {str(hop): heads for hop, heads in self.keys.items()},
            "mechanism": self.mechanism,
            "mechanism_reason": self.mechanism_reason,
            "program": self.program,
            "program_agreement": {str(hop): share for hop, share in agreement.items()} or None,
            "reach": None if self.reach is None else reach_records(self.reach),
            "circuit": self.circuit.to_dict(),
            "bootstrap_jaccard": self.bootstrap_jaccard,
            "readouts": records(self.readouts),
            "effects": records(self.effects),
            "thresholds": asdict(self.thresholds),
            "versions": self.versions,
        }

    def to_json(self, path: Path | str | None = None) -> str:
        """The analysis as JSON text, also written to `path` if given. Raises `ConfigError` if `path` can't be written."""
        if path is not None:
            check_file(path)
            write_json(Path(path), self.to_dict())
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def save(self, folder: Path | str) -> None:
        """Write a folder that `Analysis.load` reads: `analysis.json`, and the labels as CSV to look at.

        An analysis that is there is replaced, other files stay. Raises `ConfigError` if it can't be written, or is a folder of
        another kind.
        """
        check_folder(folder, FILE, (TABLE, *FURTHER))

        def write(temporary: Path) -> None:
            write_json(temporary / FILE, self.to_dict())
            self.labels.to_csv(temporary / TABLE, index=False)

        write_folder(Path(folder), write, FILE, FURTHER)

    @classmethod
    def load(cls, folder: Path | str) -> "Record":
        """Read what `save` wrote. Raises `CheckpointError` if it is missing, damaged or of another format."""
        return cls(**read_record(folder))

    def __repr__(self) -> str:
        return f"Analysis of {self.model.get('name')} on {self.task['name']}\n{self.verdict}"


def read_record(folder: Path | str) -> dict[str, Any]:
    """The members of a saved record. Raises `CheckpointError` if it is missing, damaged or of another format."""
    path = as_path(folder) / FILE
    if not path.exists():
        raise CheckpointError(f"a saved analysis is a folder with {FILE}, {folder} has none: check the path")
    content = read_json(path, CURE, FORMAT)
    checked(StoredAnalysis, content, path, CURE)
    agreement, reached, drawn = content["program_agreement"] or {}, content["reach"], content["circuit"]
    carried = content.get("carried")  # analyses that were saved before it was asked have none
    as_they_are = (
        "model",
        "task",
        "seed",
        "examples",
        "versions",
        "mechanism",
        "mechanism_reason",
        "program",
        "bootstrap_jaccard",
    )
    members: dict[str, Any] = {name: content[name] for name in as_they_are} | {
        "thresholds": Thresholds(**content["thresholds"]),
        "labels": label_frame(content["labels"]),
        "readouts": pd.DataFrame(content["readouts"]),
        "effects": pd.DataFrame(content["effects"]),
        "carried": None if carried is None else carried_table(carried),
        "program_agreement": {int(hop): share for hop, share in agreement.items()} or None,
        "reach": None if reached is None else reach_frame(reached),
        "circuit": no_circuit() if drawn is None else Circuit.from_dict(drawn),
    }
    again = Record(**members).to_dict()
    for name in ("accuracy", "hops", "conditions", "keys"):  # repeated there to be read by others
        if content.get(name, again[name]) != again[name]:
            raise CheckpointError(f"{path} is damaged at {name}: it must be as the tables say, got {content[name]!r}: {CURE}")
    return members


def _head_in_words(row: dict[str, Any]) -> str:
    """A head, and when it has the role that its row names."""
    return row["head"] if row.get("gate") is None else f"{row['head']} when {row['gate']}"


def _listed(places: list[str]) -> str:
    """With commas, or with semicolons where a gate has commas itself."""
    return ("; " if any("," in place for place in places) else ", ").join(places)


def _verdict_order(row: dict[str, Any]) -> tuple[bool, int, int, HeadId]:
    return row["hop"] is not None, VERDICT_ORDER.index(row["role"]), row["hop"] or 0, HeadId.parse(row["head"])
