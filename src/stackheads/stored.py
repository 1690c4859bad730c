"""The shape of a saved analysis: what `Analysis.load` checks before it takes a file for one.

Columns may be added to the tables; those named here are the ones that reports read. Heads are the model's and in their layers,
a row stands once, and a share of something is between 0 and 1.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stackheads.errors import ConfigError
from stackheads.files import Stored
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer
from stackheads.saved import (
    Count,
    Gated,
    Head,
    Named,
    OfHead,
    Portion,
    Seed,
    Share,
    Sized,
    Whole,
    check_heads,
    check_once,
    check_role,
)
from stackheads.types import Destination, RoleName, Status

NAMED = (Status.CONFIRMED, Status.REDUNDANT, Status.OPPOSING, Status.PATTERN_ONLY)
"""What only a head with a role can be."""


class LabelRow(OfHead):
    """A row of `Analysis.labels`."""

    destination: Destination
    selector: Literal["role"] | None = None
    gate: Gated = None
    share: Share = None
    role: RoleName | None
    hop: Whole | None
    status: Status
    pattern: Share
    rival: Share
    effect: Share
    effect_low: Share
    effect_high: Share
    accuracy_effect: Share
    write: Share
    reason: str
    looks_like: str | None
    null_p: Portion | None
    readout: str | None
    effect_mean: Share
    effect_zero: Share
    evidence: str
    examples: Annotated[Whole, Field(ge=0)] | None = None
    would_decide: Annotated[Whole, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _of_its_role(self) -> "LabelRow":
        check_role(self.role, self.hop)
        if self.role is None and (self.selector is not None or self.status in NAMED):
            raise ValueError(f"a row that is {self.status} by a selector must name its role")
        return self


class ReadoutRow(Stored):
    """A row of `Analysis.readouts`."""

    destination: Destination
    hop: Whole
    accuracy: Portion
    chance_accuracy: Portion | None
    margin: Share
    gap: Share
    open: bool


class EffectRow(Stored):
    """A row of `Analysis.effects`."""

    head: Head
    destination: Destination
    gate: Gated = None
    ablation: str
    readout: str
    effect: Share
    accuracy_effect: Share


class CarriedRow(OfHead):
    """A row of `Analysis.carried`."""

    destination: Destination
    gate: Gated
    answer: Answer
    carries: str | None
    also: str | None
    kept: Share
    kept_low: Share
    kept_high: Share
    logits: Share
    attention: Share
    readout: str | None
    effect: Share
    control: Share
    rival: str | None
    rival_kept: Share
    rows: Whole
    left_out: Whole
    examples: Whole
    reason: str


class ReachRow(Stored):
    """A row of `Analysis.reach`."""

    layer: Whole
    destination: Destination
    hops: list[Whole]
    accuracy: dict[Whole, Portion | None]


class Node(OfHead):
    """A cell of the circuit."""

    name: str
    destination: Destination
    gate: Gated = None
    role: RoleName
    hop: Whole | None
    readout: str
    total: float
    direct: float
    self_repair: float


class Logits(Stored):
    """The end of the circuit."""

    name: Literal["logits"]


class Edge(Stored):
    """A path of the circuit."""

    sender: str = Field(alias="from")
    receiver: str = Field(alias="to")
    input: Literal["q", "k", "v", "logits"]
    strength: float
    low: float
    high: float
    readout: str


class Faithfulness(Stored):
    """F of the circuit."""

    mean: float
    median: float
    tenth: float


class Completeness(Stored):
    """Incompleteness over sets of cells."""

    random_mean: float
    random_worst: float
    greedy: float
    greedy_median: float
    greedy_ninetieth: float


class NoCircuit(Stored):
    """Why there is no circuit."""

    missing: str


class Nothing(Stored):
    """The criteria of a circuit without cells, as earlier analyses have it."""

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, given: Any) -> Any:
        if given != {}:
            raise ValueError("not empty")
        return given


class StoredCircuit(Stored):
    """What `Circuit.to_dict` gives. Paths go up, from a cell to a cell or to the logits."""

    nodes: list[Logits | Node]
    edges: list[Edge]
    faithfulness: Faithfulness | Nothing
    completeness: Completeness | Nothing
    minimality: dict[str, float]

    @model_validator(mode="after")
    def _paths_go_up(self) -> "StoredCircuit":
        layers: dict[str, float] = {node.name: node.layer for node in self.nodes if isinstance(node, Node)}
        if isinstance(self.faithfulness, Faithfulness) and self.minimality.keys() != layers.keys():
            raise ValueError("minimality must be given for each cell")
        if isinstance(self.faithfulness, Faithfulness) != isinstance(self.completeness, Completeness):
            raise ValueError("faithfulness and completeness belong together")
        layers["logits"] = float("inf")
        for edge in self.edges:
            if not layers.get(edge.sender, float("inf")) < layers.get(edge.receiver, float("-inf")):
                raise ValueError(f"no path leads from {edge.sender} up to {edge.receiver}")
            if (edge.input == "logits") != (edge.receiver == "logits"):
                raise ValueError(f"a path to {edge.receiver} has input {edge.input}")
        return self


class StoredAnalysis(Stored):
    """What `Analysis.to_dict` gives, besides what is repeated there to be read by others."""

    model: Sized
    task: Named
    seed: Seed
    examples: Count
    thresholds: Thresholds
    versions: dict[str, str]
    labels: list[LabelRow] = Field(min_length=1)
    carried: list[CarriedRow] | None = None
    readouts: list[ReadoutRow] = Field(min_length=1)
    effects: list[EffectRow]
    mechanism: str | None
    mechanism_reason: str | None
    program: str | None
    program_agreement: dict[Whole, Portion] | None
    reach: list[ReachRow] | None
    circuit: StoredCircuit | NoCircuit | None
    bootstrap_jaccard: Portion | None

    @field_validator("thresholds", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        return known_thresholds(given)

    @model_validator(mode="after")
    def _rows_fit(self) -> "StoredAnalysis":
        check_once("labels", [(row.head, row.destination, row.gate, row.role, row.hop) for row in self.labels])
        check_once("effects", [(row.head, row.destination, row.gate, row.ablation, row.readout) for row in self.effects])
        check_once("readouts", [(row.destination, row.hop) for row in self.readouts])
        check_heads(self.model, [*self.labels, *(self.carried or ())])
        return self


def known_thresholds(given: Any) -> Any:
    """As given, if this version knows all of them and they can be; others would be taken for its own. Raises `ValueError`."""
    if isinstance(given, Mapping):
        for name in given.keys() - {field.name for field in fields(Thresholds)}:
            raise ValueError(f"there is no threshold {name}")
        try:
            Thresholds(**given)
        except (ConfigError, TypeError) as error:
            raise ValueError(str(error)) from None
    return given
