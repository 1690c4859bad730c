"""Tables as plain values and back: what JSON needs."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from stackheads.types import Destination, Gate, Role, Where, where


def label_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Label rows as a table with stable column types."""
    frame = pd.DataFrame(rows)
    numbers = dict.fromkeys(("pattern", "rival", "effect", "effect_low", "effect_high", "accuracy_effect"), "Float64")
    numbers |= dict.fromkeys(("share", "write", "null_p", "effect_mean", "effect_zero"), "Float64")
    types = {"layer": "int64", **dict.fromkeys(("hop", "examples", "would_decide"), "Int64"), **numbers}
    return frame.astype({name: kind for name, kind in types.items() if name in frame})


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain Python values; missing ones are None."""

    def plain(value: Any) -> Any:
        if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
            return None
        return value.item() if isinstance(value, np.generic) else value

    return [{name: plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]


def role_of(row: Mapping[str, Any]) -> Role | None:
    """The role that a row of a table, or a node of a circuit, names in `role` and `hop`; None where it names none."""
    return None if row["role"] is None else Role(row["role"], row["hop"])


def place_of(row: Mapping[str, Any]) -> Where:
    """The positions that a row of the labels is about: its destination, or the part that its `gate` names."""
    return where(Destination(row["destination"]), None if row.get("gate") is None else Gate.parse(row["gate"]))


def with_gate(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The columns that are shown of some label rows: the gate, after the destination, only where there is one."""
    if all(row.get("gate") is None for row in rows):
        return tuple(columns)
    at = columns.index("destination") + 1
    return *columns[:at], "gate", *columns[at:]


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Sorts text by the numbers in it: L0H2 before L0H10, "hop -1" before "hop 1"."""
    parts = re.findall(r"(?<!\w)-\d+|\d+|[^\d-]+|-", text)
    return [(True, int(part), "") if part.strip("-").isdigit() else (False, 0, part) for part in parts]
