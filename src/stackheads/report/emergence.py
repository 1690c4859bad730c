"""The emergence of hops and heads in a terminal: one row each, one character for each snapshot, 80 columns.

Where there are more snapshots than columns, evenly spaced ones are shown, the last always, and the header says so.
"""

from typing import Any, TextIO

from stackheads.report.console import console_on
from stackheads.report.terminal import GAP, style_of, table_of
from stackheads.tables import records
from stackheads.timeline.result import SYMBOLS, Emergence

WIDTH = 80
EMERGES = "emerges in"
BARS = "▁▂▃▄▅▆▇█"


def print_emergence(found: Emergence, file: TextIO | None = None) -> None:
    """Print an emergence to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)
    console.print(Text(f"{found.model['name']}: {found.task['name']}", style="bold"))
    rows, steps = records(found.steps), found.snapshots
    shown = evenly_spaced(len(steps), WIDTH - _beside(rows))
    partly = f", {len(shown)} of them shown" if len(shown) < len(steps) else ""
    console.print(
        f"{len(steps)} snapshots, steps {steps[0]:,} to {steps[-1]:,}{partly}; {found.examples} examples, seed {found.seed}"
    )
    console.print()
    table = table_of("", "", EMERGES)
    for number, row in enumerate(rows):
        if row["kind"] == "head" and number and rows[number - 1]["kind"] == "hop":
            table.add_row()
        strip = _accuracy_strip if row["kind"] == "hop" else _status_strip
        table.add_row(row["what"], strip(found, row, shown), _interval(row))
    console.print(table)
    _print_legend(console, found)
    console.print()
    console.print(Text("order of emergence", style="bold"))
    emerged = {row["what"]: row["step"] for row in rows}
    for names in found.order:
        step = emerged[next(iter(names))]
        console.print(f"by {step:,}: {', '.join(name for name in emerged if name in names)}")
    for line in _notes(found, rows):
        console.print(line)


def _beside(rows: list[dict[str, Any]]) -> int:
    """Columns that the names, the intervals and the gaps take."""
    intervals = [EMERGES, *map(_interval, rows)]
    return max(len(row["what"]) for row in rows) + GAP + GAP + max(map(len, intervals))


def evenly_spaced(number: int, most: int) -> list[int]:
    """At most `most` (two or more) of the indices 0 to number - 1, evenly spaced, with the first and the last."""
    if number <= most:
        return list(range(number))
    return [round(place * (number - 1) / (most - 1)) for place in range(most)]


def _accuracy_strip(found: Emergence, row: dict[str, Any], shown: list[int]) -> Any:
    from rich.text import Text

    shares = found.accuracy[row["hop"]].tolist()
    return Text("".join(BARS[min(int(shares[place] * len(BARS)), len(BARS) - 1)] for place in shown))


def _status_strip(found: Emergence, row: dict[str, Any], shown: list[int]) -> Any:
    from rich.text import Text

    names = {symbol: status for status, symbol in SYMBOLS.items()}
    symbols = found.table[row["what"]].tolist()
    return Text.assemble(*((symbols[place], style_of(names[symbols[place]])) for place in shown))


def _interval(row: dict[str, Any]) -> str:
    if row["step"] is not None:
        return f"{row['low']:,}–{row['high']:,}"
    return "–" if row["kind"] == "hop" else "gone at the end"


def _print_legend(console: Any, found: Emergence) -> None:
    from rich.text import Text

    seen = set(found.heads["status"])
    entries = [f"{symbol} {status}" for status, symbol in SYMBOLS.items() if status in seen]
    bar = found.thresholds.emerged_accuracy
    console.print()
    console.print(Text(f"hops: accuracy at the query in eighths; emerged: {bar:.0%} from there on", style="dim"))
    if entries:
        console.print(Text(f"heads: {', '.join(entries)}; emerged: confirmed from there on", style="dim"))


def _notes(found: Emergence, rows: list[dict[str, Any]]) -> list[str]:
    """What the table does not say: hops that never emerge, cells that come and go, or that came with gaps."""
    never = [row["what"] for row in rows if row["kind"] == "hop" and row["step"] is None]
    gone = [f"{row['what']} ({row['first']:,} to {row['last']:,})" for row in rows if row["what"] in found.passing]
    gaps = [
        f"{row['what']} (first at {row['first']:,})"
        for row in rows
        if row["kind"] == "head" and row["step"] is not None and row["first"] < row["step"]
    ]
    lines = [f"never: {', '.join(never)}"] if never else []
    lines += [f"come and go, confirmed for a while and not at the end: {', '.join(gone)}"] if gone else []
    lines += [f"confirmed before, with gaps: {', '.join(gaps)}"] if gaps else []
    if not any(row["kind"] == "head" for row in rows):
        lines.append("no head is confirmed at the end, or at two snapshots in a row")
    return lines
