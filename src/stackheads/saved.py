"""What saved analyses and emergences are made of: kinds of numbers and rows, and what rows are held against."""

from collections.abc import Hashable, Iterable
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from stackheads.errors import InterventionError
from stackheads.files import Stored
from stackheads.seeds import LARGEST
from stackheads.types import Gate, HeadId, Role, RoleName

Whole = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, le=LARGEST)]
Portion = Annotated[float, Field(ge=0, le=1)]
Head = Annotated[str, Field(pattern=r"^L\d{1,6}H\d{1,6}$")]
Share = float | None


def _a_gate(text: str) -> str:
    try:
        return str(Gate.parse(text))
    except InterventionError as error:
        raise ValueError(str(error)) from None


Gated = Annotated[str, AfterValidator(_a_gate)] | None


class Named(Stored):
    """The task, as settings; a task that was brought has its name only."""

    name: str


class Sized(Stored):
    """The model, as settings."""

    layers: Count
    heads: Count


class OfHead(Stored):
    """A row about a head, in its layer."""

    head: Head
    layer: Whole

    @model_validator(mode="after")
    def _in_its_layer(self) -> "OfHead":
        check_layer(self.head, self.layer)
        return self


def check_layer(head: str | None, layer: int | None) -> None:
    """Raise `ValueError` for a head in another layer than its name says, or one without the other."""
    if (head is None) != (layer is None) or (head is not None and HeadId.parse(head).layer != layer):
        raise ValueError(f"head {head} and layer {layer} do not belong together")


def check_role(name: RoleName | None, hop: int | None) -> None:
    """Raise `ValueError` for a role without the number that it has, or a number without a role that has one."""
    if hop is not None if name is None else not Role(name, hop).exists:
        raise ValueError(f"role {name} and hop {hop} do not belong together")


def check_once(what: str, rows: Iterable[Hashable]) -> None:
    """Raise `ValueError` for a row that stands twice."""
    seen = set[Hashable]()
    for row in rows:
        if row in seen:
            raise ValueError(f"{what} have a row twice")
        seen.add(row)


def check_heads(model: Sized, rows: Iterable[OfHead]) -> None:
    """Raise `ValueError` for a head that the model does not have."""
    for row in rows:
        head = HeadId.parse(row.head)
        if head.layer >= model.layers or head.index >= model.heads:
            raise ValueError(f"a model of {model.layers} layers of {model.heads} heads has no {head}")
