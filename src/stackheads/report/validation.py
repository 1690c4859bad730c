"""A validation in a terminal: one line per bar, then precision, recall and F1, decoys, nulls and the confusion matrix."""

import sys
from typing import TextIO

from stackheads.analysis.validate import Validation


def print_validation(result: Validation, file: TextIO | None = None) -> None:
    """Print a validation to a text stream, stdout by default."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file or sys.stdout, highlight=False)
    found = result.to_dict()
    for name in ("clean", "noisy"):
        scores = found[name]
        noise = "no noise" if name == "clean" else f"weight noise {found['noise']}"
        line = f"{noise}: macro F1 {scores['macro_f1']:.3f}, precision of confirmed {scores['precision_confirmed']:.3f}"
        console.print(Text(line, style="bold"))
        for kind in ("statuses", "roles"):
            for label, entry in scores[kind].items():
                numbers = f"{entry['precision']:.3f}  {entry['recall']:.3f}  {entry['f1']:.3f}  {entry['support']:5d}"
                console.print(f"  {label:<20} {numbers}")
    console.print(Text("decoys: share of heads with the right label", style="bold"))
    for name, share in found["decoys"].items():
        console.print(f"  {name:<20} {share:.3f}")
    rate = found["null_false_positive_rate"]
    console.print(Text(f"nulls: {found['null_heads']} heads, {rate:.2%} confirmed", style="bold"))
    for name, entry in found["nulls"].items():
        console.print(f"  {name:<20} {entry['heads']} heads, {entry['confirmed']} confirmed")
    if found["choosing"]:
        console.print(Text("thresholds on the choosing half (macro F1); the rest is from the other half", style="bold"))
        for name, value in found["choosing"].items():
            console.print(f"  {name:<30} {value:.3f}")
    console.print(Text("truth (rows) against verdict", style="bold"))
    names = list(found["confusion"])
    console.print(" " * 20 + "".join(f"{name[:9]:>10}" for name in names))
    for truth, row in found["confusion"].items():
        console.print(f"{truth:<20}" + "".join(f"{row[name]:>10}" for name in names))
    console.print(f"{found['cells']} cells, {found['seconds']:.0f} s")
    console.print(
        Text("bars: " + ("all reached" if not found["missed"] else "missed: " + "; ".join(found["missed"])), style="bold")
    )
