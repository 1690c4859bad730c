"""An analysis in a terminal: accuracy, one entry per (head, destination) with its reason below, and the verdict.

Colours only where the output is a terminal; the same text, plain, in a pipe.
"""

import sys
from typing import Any, TextIO

from stackheads.analysis.records import records
from stackheads.analysis.result import Analysis

STYLES = {
    "confirmed": "bold green",
    "redundant": "green",
    "opposing": "magenta",
    "pattern-only": "yellow",
    "causal-unclassified": "cyan",
    "none": "dim",
}
WIDTHS = {"head": 6, "destination": 12, "role": 10, "hop": 4, "status": 20, "pattern": 8, "effect": 8}


def print_analysis(analysis: Analysis, file: TextIO | None = None) -> None:
    """Print an analysis to a text stream, stdout by default."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=False)
    console.print(Text(f"{analysis.model.get('name')}: {analysis.task['name']}", style="bold"))
    console.print(f"{analysis.examples} examples, seed {analysis.seed}")
    console.print()
    console.print(Text("accuracy at the query, per hop", style="bold"))
    console.print("  ".join(f"{hop}: {share:.1%}" for hop, share in analysis.accuracy.items()))
    console.print()
    console.print(Text(_line([*WIDTHS]), style="bold"))
    for row in records(analysis.labels):
        style = STYLES[row["status"]]
        console.print(Text(_line([_cell(row[name]) for name in WIDTHS]), style=style))
        if row["status"] != "none":
            console.print(_indented(row["reason"]))
    console.print()
    console.print(Text("which heads implement which hop", style="bold"))
    console.print(Text(analysis.verdict))
    if analysis.mechanism is not None:
        console.print()
        console.print(Text(f"mechanism: {analysis.mechanism}", style="bold"))
        console.print(Text(analysis.mechanism_reason or ""))
    if analysis.program is not None:
        console.print()
        console.print(Text("the confirmed heads as a program", style="bold"))
        console.print(Text(analysis.program))
        shares = "  ".join(f"{hop}: {share:.1%}" for hop, share in (analysis.program_agreement or {}).items())
        console.print(Text(f"compiled, it answers like the model, per hop: {shares or 'it has no step'}"))


def _line(cells: list[str]) -> str:
    """One fixed-width line."""
    return "".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS.values(), strict=True)).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{round(value, 2) + 0.0:.2f}" if isinstance(value, float) else str(value)  # no -0.00


def _indented(text: str) -> Any:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, style="dim"), (0, 0, 0, 6), expand=False)
