"""Tokens as the task writes them: a statement is "A =" then "B", the question "? A"."""

from typing import Any

from stackheads.tasks import Batch, Task
from stackheads.types import Slot


def tokens_as_text(task: Task, batch: Batch) -> list[list[str]]:
    """A string for each position of each example. Symbols are A, B, … by number, unless the task has `symbol_names`."""
    names: Any = getattr(task, "symbol_names", None)
    rows = zip(batch.tokens.tolist(), batch.slots.tolist(), strict=True)
    return [[_text(_name(token, names), slot) for token, slot in zip(*row, strict=True)] for row in rows]


def _text(name: str, slot: int) -> str:
    return {Slot.KEY: f"{name} =", Slot.QUERY: f"? {name}"}.get(Slot(slot), name)


def _name(token: int, names: Any) -> str:
    """The task's name of a symbol; else A to Z, AA, AB, …"""
    if names is not None:
        return str(names[token])
    name = ""
    while token >= 0:
        name = chr(ord("A") + token % 26) + name
        token = token // 26 - 1
    return name
