"""An analysis in a terminal: accuracy, one row per (head, destination), the reasons of what is labelled, and the verdict.

Colours only where the output is a terminal; the same text, plain, in a pipe.
"""

from collections.abc import Collection, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TextIO

from stackheads.explanation.circuit import NO_HEAD, NOT_SOUGHT, Circuit
from stackheads.explanation.explained import Explained, in_words
from stackheads.record import Missing, Record
from stackheads.report.console import console_on
from stackheads.tables import natural, place_of, records, role_of
from stackheads.trial.sufficiency import VARIANTS
from stackheads.trial.trial import Trial
from stackheads.types import Status

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_SHARE = 0.1
"""Edges and unexplained heads below this are in the data, but not in the terminal."""
SHOWN = ("head", "destination", "role", "status", "pattern", "effect", "write")
GAP = 2
"""Columns between those of a table."""
NUMBERS = ("pattern", "effect", "write")


def print_analysis(analysis: Record, file: TextIO | None = None) -> None:
    """Print an analysis to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)
    console.print(Text(f"{analysis.model.get('name')}: {analysis.task['name']}", style="bold"))
    console.print(f"{analysis.measured_on}, seed {analysis.seed}")
    _title(console, "accuracy at the query, per hop")
    console.print("  ".join(f"{hop}: {share:.1%}" for hop, share in analysis.accuracy.items()))
    console.print()
    rows = records(analysis.labels)
    console.print(_label_table(rows))
    told = [row for row in rows if row["status"] != Status.NONE]
    if told:
        _title(console, "why")
        console.print(_reasons(told))
    if analysis.carried is not None:
        _title(console, "what heads carry that no label explains")
        asked = records(analysis.carried)
        console.print(_reasons(asked) if asked else Text("no head is causal-unclassified: none was asked"))
    _title(console, "which heads implement which hop")
    console.print(Text(analysis.verdict))
    if analysis.mechanism is not None:
        _title(console, f"mechanism: {analysis.mechanism}")
        console.print(Text(analysis.mechanism_reason or ""))
    if analysis.program is not None:
        agreement = analysis.program_agreement or {}
        _print_program(console, "the confirmed heads as a program", analysis.program, agreement)
    if analysis.circuit.missing is None:
        _print_circuit(console, analysis.circuit)
    elif analysis.circuit.missing not in (NOT_SOUGHT, NO_HEAD):
        _title(console, "circuit")
        console.print(Text(str(analysis.circuit)))
    if analysis.bootstrap_jaccard is not None:
        _title(console, "stability")
        console.print(f"confirmed labels under resampled examples: mean Jaccard {analysis.bootstrap_jaccard:.3f}")


def style_of(status: str) -> str:
    """How a status is printed, in rich's words: its colour, confirmed heads bold, unlabelled ones dim."""
    if status == Status.NONE:
        return "dim"
    if status not in tuple(Status):
        return ""
    return ("bold " if status == Status.CONFIRMED else "") + Status(status).colour


def table_of(*columns: str, numbers: Collection[str] = ()) -> "Table":
    """An empty table of the kind that all printers use: no lines, `numbers` right-aligned, nothing cut off."""
    from rich.table import Table

    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table


def _label_table(rows: list[dict[str, Any]]) -> "Table":
    """Where a row holds only under a gate, that stands below its status: there is room, and one reads on."""
    table = table_of(*SHOWN, numbers=NUMBERS)
    for row in rows:
        shown = row | {
            "role": role_of(row),
            "status": "\n".join((f"{Status(row['status']).symbol} {row['status']}", *_when(row))),
        }
        table.add_row(*(_cell(shown[name]) for name in SHOWN), style=style_of(row["status"]))
    return table


def _when(row: dict[str, Any]) -> list[str]:
    """The gate of a row in lines as wide as the longest status."""
    text = "" if row.get("gate") is None else f"when {row['gate']}"
    return wrap(text, max(map(len, Status)) + 2, initial_indent="  ", subsequent_indent="  ")


def _reasons(rows: list[dict[str, Any]]) -> "Table":
    """The reason of each row, beside its head and destination."""
    from rich.table import Table

    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row("\n".join((f"{row['head']} @{row['destination']}", *_when(row))), row["reason"])
    return table


def print_selectors(explained: Explained, file: TextIO | None = None) -> None:
    """Print what every head looks at, and how much of the answer that explains, to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)
    _title(console, explained.title)
    rows = records(explained.curve)
    for level in explained.levels:
        size = next(row for row in rows if row["level"] == level)
        console.print(f"{level} ({size['selectors']} selectors, {size['numbers']} numbers)")
        for line in explained.in_numbers(level).splitlines():
            console.print(f"      {line}")
    console.print(explained.in_short)
    console.print()
    table = table_of("head", "at", "looks at", "status", "share", "effect", numbers=("share", "effect"))
    for row in records(explained.table):
        status = row["status"] and f"{Status(row['status']).symbol} {row['status']}"
        said = (row["head"], row["destination"], in_words(row), status, row["share"], row["effect"])
        table.add_row(*map(_cell, said), style=style_of(row["status"]) if status else "")
    console.print(table)
    for row in records(explained.groups):
        parts = f" ({row['parts']})" if row["parts"] else ""
        console.print(
            f"{row['job']} @{row['destination']} is shared by {row['heads']}{parts}: together {_cell(row['joint'])} of "
            f"{row['readout']}, one by one {_cell(row['sum'])}"
        )
    if explained.mechanism is not None:
        _title(console, f"mechanism by selectors: {explained.mechanism}")
        console.print(Text(explained.mechanism_reason or ""))
    if explained.program is not None:
        _print_program(console, "confirmed heads and selectors as a program", explained.program, explained.program_agreement)


def print_trial(trial: Trial, file: TextIO | None = None) -> None:
    """Print what a trial found to a text stream, stdout by default."""
    console = console_on(file)
    _title(console, f"on trial: recovered share of the gap per hop, {trial.examples} fresh examples")
    if trial.sufficiency.empty:
        console.print("the model answers nothing better than chance: there is nothing to recover")
        return
    for variant, what in VARIANTS.items():
        shares = "  ".join(f"{hop}: {share:.2f}" for hop, share in trial.recovered(variant).items())
        console.print(f"{what}\n      {shares}")
    for row in records(trial.unexplained):
        if row["adds"] >= SHOWN_SHARE:
            cell = f"{row['head']} @{place_of(row)}"
            console.print(f"not explained: {cell} alone adds {row['adds']:.2f} at {row['readout']}")
    for sentence in (trial.prediction, *trial.exchanged):
        console.print(sentence)
    _title(console, "necessity: share of the gap that goes with all heads of a role")
    for line in _necessity_lines(records(trial.necessity)):
        console.print(line)
    _title(console, "heads that need not look at their input")
    rows = records(trial.fixed)
    for kind in sorted({row["replacement"] for row in rows if row["replacement"]}):
        cells = [f"{row['head']} @{place_of(row)}" for row in rows if row["replacement"] == kind]
        console.print(f"{kind}: {', '.join(cells)}")
    if trial.replaced_at_once is not None:
        console.print(f"all replaced at once: {trial.replaced_at_once:.2f} of the weakest readout is left")


def print_missing(what: str, missing: Missing, file: TextIO | None = None) -> None:
    """Print why something that was asked beside the labels is not there, to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)
    _title(console, what)
    console.print(Text(f"no {what}: {missing.why}"))


def _print_program(console: Any, title: str, program: str, agreement: Mapping[int, float]) -> None:
    from rich.text import Text

    _title(console, title)
    console.print(Text(program))
    shares = "  ".join(f"{hop}: {share:.1%}" for hop, share in agreement.items())
    if shares:
        console.print(Text(f"compiled, it answers like the model, per hop: {shares}"))


def _print_circuit(console: Any, circuit: Circuit) -> None:
    _title(console, "circuit: which head feeds which input, and what goes when only this path is patched")
    edges = sorted(circuit.edges(keys=True, data=True), key=lambda edge: [natural(part) for part in edge[:3]])
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
    for role in dict.fromkeys(map(role_of, at_query)):
        shares = []
        for row in at_query:
            if role_of(row) != role:
                continue
            hop = row["readout"].split()[1] + ("*" if row["needs"] else "")
            shares.append(f"{hop}: {_share(row['destroyed'])} ({_share(row['random_median'])})")
        lines.append(f"{role}: " + "  ".join(shares))
    return [*lines, "* needed by the labels; in brackets the median of random sets of as many heads"] if lines else []


def _title(console: Any, text: str) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(text, style="bold"))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return _share(value) if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00
