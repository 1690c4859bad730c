"""A validation in a terminal: precision, recall and F1, decoys, nulls, the confusion matrix and the bars. 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from stackheads.report.console import console_on
from stackheads.report.terminal import table_of
from stackheads.types import Status
from stackheads.validation.scores import Validation

MEASURES = ("precision", "recall", "f1", "support")


def print_validation(result: Validation, file: TextIO | None = None) -> None:
    """Print a validation to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)

    def section(title: str, table: Any) -> None:
        console.print(Text(title, style="bold"))
        console.print(table)
        console.print()

    found = result.to_dict()
    for name in ("clean", "noisy"):
        scores = found[name]
        noise = "no noise" if name == "clean" else f"weight noise {found['noise']}"
        title = f"{noise}: macro F1 {scores['macro_f1']:.3f}, precision of confirmed {scores['precision_confirmed']:.3f}"
        section(title, _scores(scores))
    section("decoys: share of heads with the right label", _shares(found["decoys"]))
    title = f"nulls: {found['null_heads']} heads, {found['null_false_positive_rate']:.2%} confirmed"
    section(title, _nulls(found["nulls"]))
    if found["choosing"]:
        title = "thresholds on the choosing half (macro F1); the rest is from the other half"
        section(title, _shares(found["choosing"]))
    if found["calibration"]:
        section("calibration: shares of each channel's answers", _calibration(found["calibration"]))
        section("p under the null: how likely it is uniform (Kolmogorov-Smirnov)", _shares(found["uniform"]))
    section("truth (rows) against verdict", _confusion(found["confusion"]))
    console.print(f"{found['cells']} cells, {found['seconds']:.0f} s")
    missed = "missed: " + "; ".join(found["missed"]) if found["missed"] else "all reached"
    console.print(Text(f"bars: {missed}", style="bold"))


def _scores(scores: Mapping[str, Any]) -> Any:
    table = table_of("", *MEASURES, numbers=MEASURES)
    for kind in ("statuses", "roles"):
        for label, entry in scores[kind].items():
            shares = [f"{entry[name]:.3f}" for name in MEASURES if name != "support"]
            table.add_row(label, *shares, str(entry["support"]))
    return table


def _shares(shares: Mapping[str, float]) -> Any:
    table = table_of("", "share", numbers=["share"])
    table.show_header = False
    for name, share in shares.items():
        table.add_row(name, f"{share:.3f}")
    return table


def _calibration(rows: Sequence[Mapping[str, Any]]) -> Any:
    numbers = ("examples", "cells", "false yes", "false no", "undecided")
    table = table_of("readouts", "channel", *numbers, numbers=numbers)
    for row in rows:
        shares = [f"{row[name.replace(' ', '_')]:.3f}" for name in numbers[2:]]
        table.add_row(row["readouts"], row["channel"], f"{row['examples']:,}", str(row["cells"]), *shares)
    return table


def _nulls(kinds: Mapping[str, Mapping[str, int]]) -> Any:
    table = table_of("", "heads", "confirmed", numbers=["heads", "confirmed"])
    for name, entry in kinds.items():
        table.add_row(name, str(entry["heads"]), str(entry["confirmed"]))
    return table


def _confusion(confusion: Mapping[str, Mapping[str, int]]) -> Any:
    """A column for each verdict, headed by its symbol, which stands beside its name in the rows."""
    symbols = {name: Status(name).symbol for name in confusion}
    table = table_of("", *symbols.values(), numbers=list(symbols.values()))
    for truth, row in confusion.items():
        table.add_row(f"{symbols[truth]} {truth}", *(str(row[name]) for name in confusion))
    return table
