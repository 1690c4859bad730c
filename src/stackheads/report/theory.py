"""How deep a task is, in a terminal: bounds and simulated layers per hop, then shortcuts. 80 columns; plain text in a pipe."""

from itertools import groupby
from typing import TextIO

from stackheads.report.console import console_on
from stackheads.theory.bounds import log2_bound, log3_bound, paper_bound
from stackheads.theory.depth import Depth
from stackheads.theory.flow import Least
from stackheads.theory.shortcuts import MARGIN, READ_AT, Guess


def print_depth(depth: Depth, file: TextIO | None = None) -> None:
    """Print a task's depth to a text stream, stdout by default."""
    from rich.text import Text

    console = console_on(file)
    task = depth.task
    console.print(Text(task.name, style="bold"))
    console.print(f"{depth.examples} examples, seed {depth.seed}")
    console.print(Text("\nlayers needed to know the chain to the answer; log3(2j) is the paper's bound", style="bold"))
    console.print(Text(_line("", "query", "", "value", "", "log3", "log2", "log3"), style="bold"))
    console.print(Text(_line("hop", "bound", "simulated", "bound", "simulated", "(4j+1)", "(2j+1)", "(2j)"), style="bold"))
    for hop in range(1, task.max_hops + 1):
        cells = []
        for destination in READ_AT:
            least = depth.least[hop, destination]
            cells += [str(depth.bound(hop, destination)) if least.rows else "–", _simulated(least)]
        logs = (log3_bound(hop), log2_bound(hop), paper_bound(hop))
        console.print(_line(str(hop), *cells, *(f"{bound:.2f}" for bound in logs)))
    if any(least.rows and least.layers != least.first for least in depth.least.values()):
        console.print("a to b: best and worst example; in brackets: rows that see their whole chain")
    console.print(Text("\nshortcuts", style="bold"))
    for line in _shortcuts(depth):
        console.print(Text(line))


def _line(*cells: str) -> str:
    widths = (5, 7, 14, 7, 14, 8, 8, 8)
    return "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _simulated(least: Least) -> str:
    if not least.rows:
        return "–"
    if least.first is None:
        return "never"
    if least.layers is None:
        worst = next(t for t, share in enumerate(least.shares) if share == least.shares[-1])
        return f"{_range(least.first, worst)} ({least.shares[-1]:.0%})"
    return _range(least.first, least.layers)


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _shortcuts(depth: Depth) -> list[str]:
    """What the best guesses reach where the chain is not known; without them, what the task's shape gives away."""
    if depth.shortcuts is None:
        lines = ["too many examples to list: how good guesses can be is not known", *_structure(depth)]
    else:
        lines = [_guesses(key, list(found)) for key, found in groupby(sorted(depth.shortcuts, key=_key), key=_key)]
    if not lines:
        lines.append(f"no guess is better than chance by {MARGIN:.0%} where the chain is not known")
    if depth.structure.ends is not None:
        lines.append(f"a blind choice among the chains' ends is hop {depth.task.max_hops} in {depth.structure.ends:.0%}")
    return lines


def _structure(depth: Depth) -> list[str]:
    lines = []
    for hop, layers in depth.structure.around.items():
        back = hop - (depth.task.period or 0)
        lines.append(f"hop {hop} is hop {back}: the other way round the query has it after {_layers(layers)}")
    for hop, share in depth.structure.place.items():
        chance = depth.task.chance(hop)
        if share > chance + MARGIN:
            lines.append(f"the likeliest place holds the answer of hop {hop} in {share:.0%} (chance {chance:.0%})")
    return lines


def _key(guess: Guess) -> tuple[int, str]:
    return guess.hop, guess.destination.value


def _guesses(key: tuple[int, str], found: list[Guess]) -> str:
    hop, destination = key
    parts = []
    for guess in found:
        parts.append(f"{guess.share:.0%} after {_layers(guess.layers)} ({guess.kind})")
    return f"hop {hop} @{destination}: {', '.join(parts)}"


def _layers(layers: int) -> str:
    return f"{layers} layer" + "s" * (layers != 1)
