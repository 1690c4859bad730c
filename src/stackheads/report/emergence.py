"""The emergence of hops and heads in a terminal: one row each, one character for each snapshot, 80 columns.

Where there are more snapshots than columns, evenly spaced ones are shown, the last always, and the header says so.
"""

import sys
from typing import Any, TextIO

from stackheads.analysis.records import records
from stackheads.analysis.timeline import SYMBOLS, Emergence
from stackheads.report.terminal import STYLES

WIDTH = 80
INTERVAL = 17
BARS = "▁▂▃▄▅▆▇█"


def print_emergence(found: Emergence, file: TextIO | None = None) -> None:
    """Print an emergence to a text stream, stdout by default."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file or sys.stdout, highlight=False, soft_wrap=False, force_jupyter=False)
    console.print(Text(f"{found.model['name']}: {found.task['name']}", style="bold"))
    rows, steps = records(found.steps), found.snapshots
    label = max(len(row["what"]) for row in rows) + 2
    shown = evenly_spaced(len(steps), WIDTH - label - INTERVAL)
    partly = f", {len(shown)} of them shown" if len(shown) < len(steps) else ""
    console.print(
        f"{len(steps)} snapshots, steps {steps[0]:,} to {steps[-1]:,}{partly}; {found.examples} examples, seed {found.seed}"
    )
    console.print()
    console.print(Text("".ljust(label + len(shown) + 2) + "emerges in", style="bold"))
    for number, row in enumerate(rows):
        if row["kind"] == "head" and rows[number - 1]["kind"] == "hop":
            console.print()
        strip = _accuracy_strip(found, row["hop"], shown) if row["kind"] == "hop" else _status_strip(found, row["what"], shown)
        console.print(Text(row["what"].ljust(label)).append_text(strip).append(f"  {_interval(row)}"))
    _print_legend(console, found)
    console.print()
    console.print(Text("order of emergence", style="bold"))
    emerged = {row["what"]: row["step"] for row in rows}
    for names in found.order:
        step = emerged[min(names)]
        console.print(f"by {step:,}: {', '.join(name for name in emerged if name in names)}")
    for line in _notes(found, rows):
        console.print(line)


def evenly_spaced(number: int, most: int) -> list[int]:
    """At most `most` (two or more) of the indices 0 to number - 1, evenly spaced, with the first and the last."""
    if number <= most:
        return list(range(number))
    return [round(place * (number - 1) / (most - 1)) for place in range(most)]


def _accuracy_strip(found: Emergence, hop: int, shown: list[int]) -> Any:
    from rich.text import Text

    shares = found.accuracy[hop].tolist()
    return Text("".join(BARS[min(int(shares[place] * len(BARS)), len(BARS) - 1)] for place in shown))


def _status_strip(found: Emergence, cell: str, shown: list[int]) -> Any:
    from rich.text import Text

    names = {symbol: status for status, symbol in SYMBOLS.items()}
    symbols = found.table[cell].tolist()
    return Text.assemble(*((symbols[place], STYLES.get(names[symbols[place]], "")) for place in shown))


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
