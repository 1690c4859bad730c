"""A quiz in a terminal: accuracy per formulation, D and shots, with interval and chance. 80 columns; plain text in a pipe."""

from typing import TYPE_CHECKING, TextIO

from stackheads.quiz.quiz import CONFIDENCE, Quiz
from stackheads.report.console import console_on

if TYPE_CHECKING:
    import pandas as pd

WIDTHS = (14, 6, 8, 14, 12, 16, 8)


def print_quiz(config: Quiz, table: "pd.DataFrame", file: TextIO | None = None) -> None:
    """Print the table of `run_quiz` to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)
    console.print(Text(f"{config.model}, {config.dtype}, seed {config.seed}", style="bold"))
    console.print("chat template" if config.chat else "plain prompts")
    console.print()
    interval = f"{CONFIDENCE:.0%} interval"
    console.print(Text(_line("formulation", "hops", "shots", "right", "accuracy", interval, "chance"), style="bold"))
    for row in table.to_dict("records"):
        above = row["low"] > row["chance"]
        cells = (
            row["formulation"],
            str(row["hops"]),
            str(row["shots"]),
            f"{row['right']} of {row['questions']}",
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            f"{row['chance']:.0%}",
        )
        console.print(Text(_line(*cells), style="green" if above else ""))


def _line(*cells: str) -> str:
    return "".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
