"""A sweep in a terminal: success rates per setting, and what failed."""

import json
from typing import Any, TextIO

from stackheads.report.console import console_on
from stackheads.sweeps.workers import Outcome


def print_sweep(outcome: Outcome, file: TextIO | None = None) -> None:
    """Print a sweep's outcome to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)
    console.print(Text(f"{outcome.folder}: {len(outcome.results)} of {outcome.plans} runs done", style="bold"))
    known = ("runs", "solved", "rate", "low", "high", "solved_at_q25", "solved_at_median", "solved_at_q75")
    for row in outcome.success.to_dict("records"):
        setting = ", ".join(f"{name.partition('.')[2]} {_as_written(row[name])}" for name in row if name not in known)
        at = f", at step {row['solved_at_median']:.0f} (median)" if row["solved"] else ""
        share = f"{row['solved']} of {row['runs']} solved ({row['low']:.0%} to {row['high']:.0%}){at}"
        console.print(f"{setting}: {share}" if setting else share)
    for failure in outcome.failures:
        console.print(Text(f"{failure.plan.name} failed: {failure.reason}", style="red"))


def _as_written(value: Any) -> str:
    """A setting as the sweep's file has it: null, true, a list."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
