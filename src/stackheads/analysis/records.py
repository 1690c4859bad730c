"""Tables as plain values and back: what JSON needs."""

import math
from typing import Any

import numpy as np
import pandas as pd


def label_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Label rows as a table with stable column types."""
    frame = pd.DataFrame(rows)
    numbers = dict.fromkeys(("pattern", "rival", "effect", "effect_low", "effect_high", "accuracy_effect"), "Float64")
    numbers |= dict.fromkeys(("write", "null_p", "effect_mean", "effect_zero"), "Float64")
    return frame.astype({"layer": "int64", "hop": "Int64", "examples": "Int64", "would_decide": "Int64", **numbers})


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain Python values; missing ones are None."""

    def plain(value: Any) -> Any:
        if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
            return None
        return value.item() if isinstance(value, np.generic) else value

    return [{name: plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")]
