"""What came of a sweep: a table of finished plans, and the share of them that is solved, with intervals."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackheads.files import write_file
from stackheads.sweeps.plans import Plan
from stackheads.sweeps.sweep import stored_result

if TYPE_CHECKING:
    import pandas as pd

SEED, DATA_SEED = "training.seed", "training.data_seed"


def results(folder: Path, made: list[Plan]) -> "pd.DataFrame":
    """One row for each finished plan, in the order of the grid."""
    import pandas as pd

    found = [stored_result(folder, plan) for plan in made]
    table = pd.DataFrame([result for result in found if result is not None])
    return _as_given(table.astype({"solved_at": "Int64"}), found, made[0].varied) if len(table) else table


def _as_given(table: "pd.DataFrame", rows: Sequence[Mapping[str, Any] | None], names: Iterable[str]) -> "pd.DataFrame":
    """The table with these settings as they stand in the rows: a null stays a null, and whole numbers beside it whole."""
    import pandas as pd

    given = {name: pd.Series([row.get(name) for row in rows if row is not None], dtype=object) for name in names}
    return table.assign(**given)


def success_rates(table: "pd.DataFrame", varied: list[str]) -> "pd.DataFrame":
    """Share of solved runs for each combination of the settings but the seeds of training, with Wilson's 95 % interval.

    Columns: the settings, runs, solved, rate, low, high, and the quartiles of `solved_at` among the solved.
    """
    import pandas as pd
    from scipy.stats import binomtest

    by = [name for name in varied if name not in (SEED, DATA_SEED)]
    groups: dict[str, list[dict[Any, Any]]] = {}
    for row in table.to_dict("records"):
        groups.setdefault(json.dumps([row[name] for name in by], default=str), []).append(row)
    rows = []
    for group in groups.values():
        runs, solved = len(group), sum(bool(row["solved"]) for row in group)
        interval = binomtest(solved, runs).proportion_ci(method="wilson")
        at = pd.Series([row["solved_at"] for row in group if row["solved"]], dtype=float).quantile([0.25, 0.5, 0.75]).tolist()
        names = {name: group[0][name] for name in by}
        counts = {"runs": runs, "solved": solved, "rate": solved / runs, "low": interval.low, "high": interval.high}
        rows.append({**names, **counts, "solved_at_q25": at[0], "solved_at_median": at[1], "solved_at_q75": at[2]})
    return _as_given(pd.DataFrame(rows), rows, by)


def write_tables(folder: Path, made: list[Plan]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Write `results.csv` (one row a plan) and `success.csv` (one row a setting) of the finished plans, and return both."""
    table = results(folder, made)
    rates = success_rates(table, list(made[0].varied)) if len(table) else table
    for name, frame in (("results.csv", table), ("success.csv", rates)):
        write_file(folder / name, lambda temporary, frame=frame: frame.to_csv(temporary, index=False))
    return table, rates
