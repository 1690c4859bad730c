"""An analysis in a terminal: accuracy, one entry per (head, destination) with its reason below, and the verdict.

Colours only where the output is a terminal; the same text, plain, in a pipe.
"""

import sys
from typing import Any, TextIO

from stackheads.analysis.circuit import Circuit
from stackheads.analysis.records import records
from stackheads.analysis.result import Analysis
from stackheads.analysis.sufficiency import VARIANTS
from stackheads.analysis.trial import Trial

STYLES = {
    "confirmed": "bold green",
    "redundant": "green",
    "opposing": "magenta",
    "pattern-only": "yellow",
    "causal-unclassified": "cyan",
    "none": "dim",
}
SHOWN_SHARE = 0.1
"""Edges and unexplained heads below this are in the data, but not in the terminal."""
WIDTHS = {"head": 6, "destination": 12, "role": 10, "hop": 4, "status": 20, "pattern": 8, "effect": 8}


def print_analysis(analysis: Analysis, file: TextIO | None = None) -> None:
    """Print an analysis to a text stream, stdout by default."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=False, force_jupyter=False)
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
        _title(console, "the confirmed heads as a program")
        console.print(Text(analysis.program))
        shares = "  ".join(f"{hop}: {share:.1%}" for hop, share in (analysis.program_agreement or {}).items())
        console.print(Text(f"compiled, it answers like the model, per hop: {shares or 'no step was compiled'}"))
    if analysis.circuit is not None and analysis.circuit.faithfulness:
        _print_circuit(console, analysis.circuit)
    if analysis.bootstrap_jaccard is not None:
        _title(console, "stability")
        console.print(f"confirmed labels under resampled examples: mean Jaccard {analysis.bootstrap_jaccard:.3f}")


def print_trial(trial: Trial, file: TextIO | None = None) -> None:
    """Print what a trial found to a text stream, stdout by default."""
    from rich.console import Console

    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=False, force_jupyter=False)
    _title(console, f"on trial: recovered share of the gap per hop, {trial.examples} fresh examples")
    if trial.sufficiency.empty:
        console.print("the model answers nothing better than chance: there is nothing to recover")
        return
    for variant, what in VARIANTS.items():
        shares = "  ".join(f"{hop}: {share:.2f}" for hop, share in trial.recovered(variant).items())
        console.print(f"{what}\n      {shares}")
    for row in records(trial.unexplained):
        if row["adds"] >= SHOWN_SHARE:
            cell = f"{row['head']} @{row['destination']}"
            console.print(f"not explained: {cell} alone adds {row['adds']:.2f} at {row['readout']}")
    console.print(trial.prediction)
    _title(console, "necessity: share of the gap that goes with all heads of a role")
    for line in _necessity_lines(records(trial.necessity)):
        console.print(line)
    _title(console, "heads that need not look at their input")
    rows = records(trial.fixed)
    for kind in sorted({row["replacement"] for row in rows if row["replacement"]}):
        cells = [f"{row['head']} @{row['destination']}" for row in rows if row["replacement"] == kind]
        console.print(f"{kind}: {', '.join(cells)}")
    if trial.replaced_at_once is not None:
        console.print(f"all replaced at once: {trial.replaced_at_once:.2f} of the weakest readout is left")


def _print_circuit(console: Any, circuit: Circuit) -> None:
    _title(console, "circuit: which head feeds which input, and what goes when only this path is patched")
    edges = sorted(circuit.edges(keys=True, data=True), key=lambda edge: (edge[0], edge[1], edge[2]))
    for sender in dict.fromkeys(edge[0] for edge in edges):
        parts = [
            f"{receiver}{'' if key == receiver else '.' + key} {values['strength']:.2f}"
            for start, receiver, key, values in edges
            if start == sender and abs(values["strength"]) >= SHOWN_SHARE
        ]
        if parts:
            console.print(f"{sender} -> {', '.join(parts)}")
    faithful, complete = circuit.faithfulness, circuit.completeness
    console.print(
        f"faithfulness {faithful['mean']:.2f} (median {faithful['median']:.2f}, 10th percentile {faithful['tenth']:.2f}); "
        f"incompleteness {complete['random_mean']:.2f} (random sets), {complete['greedy']:.2f} (greedy); "
        f"least minimality {min(circuit.minimality.values()):.2f}"
    )


def _necessity_lines(rows: list[dict[str, Any]]) -> list[str]:
    """One line per role: what goes at the query, per hop, and the random sets beside it."""
    lines = []
    at_query = [row for row in rows if row["readout"].endswith("@query")]
    for name in dict.fromkeys((row["role"], row["hop"]) for row in at_query):
        mine = [row for row in at_query if (row["role"], row["hop"]) == name]
        shares = []
        for row in mine:
            hop = row["readout"].split()[1] + ("*" if row["needs"] else "")
            shares.append(f"{hop}: {_share(row['destroyed'])} ({_share(row['random_median'])})")
        role = name[0] if name[1] is None else f"{name[0]} {name[1]}"
        lines.append(f"{role}: " + "  ".join(shares))
    return [*lines, "* needed by the labels; in brackets the median of random sets of as many heads"] if lines else []


def _title(console: Any, text: str) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(text, style="bold"))


def _line(cells: list[str]) -> str:
    """One fixed-width line."""
    return "".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS.values(), strict=True)).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return _share(value) if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


def _indented(text: str) -> Any:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text, style="dim"), (0, 0, 0, 6), expand=False)
