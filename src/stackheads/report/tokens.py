"""Tokens as the task writes them: a statement is "A =" then "B", the question "? A"; pads, which are not there, "pad"."""

from typing import Any

from stackheads.errors import ConfigError
from stackheads.tasks import Batch, Task
from stackheads.tasks.layout import real
from stackheads.types import Slot


def tokens_as_text(task: Task, batch: Batch) -> list[list[str]]:
    """A string for each position of each example, symbols as `symbol_as_text` writes them."""
    rows = zip(batch.tokens.tolist(), batch.slots.tolist(), real(batch).tolist(), strict=True)
    return [
        [_text(symbol_as_text(task, token), slot) if there else "pad" for token, slot, there in zip(*row, strict=True)]
        for row in rows
    ]


def symbol_as_text(task: Task, symbol: int) -> str:
    """A symbol's entry in the task's `symbol_names` if it has them; else A to Z, AA, AB, …

    Raises `ConfigError` if the task has fewer names than symbols.
    """
    names: Any = getattr(task, "symbol_names", None)
    if names is not None:
        if symbol >= len(names):
            raise ConfigError(f"symbol_names must name all {task.d_vocab} symbols, got {len(names)}: add the others")
        return str(names[symbol])
    name = ""
    while symbol >= 0:
        name = chr(ord("A") + symbol % 26) + name
        symbol = symbol // 26 - 1
    return name


def _text(name: str, slot: int) -> str:
    return {Slot.KEY: f"{name} =", Slot.QUERY: f"? {name}"}.get(Slot(slot), name)
