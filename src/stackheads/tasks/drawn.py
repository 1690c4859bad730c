"""What may be given as a task, and examples drawn from it: checked where they come in, since any code may have made them.

A task of one's own that breaks a rule of structure (`rules.py`) is refused before the model runs, with the rule and the cure;
if nobody looked, numbers would be counted at wrong places, or some sum far from the mistake would fail. Whether a task tells
the truth about its sources and answers is for `check` to say.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from stackheads.errors import ConfigError
from stackheads.files import is_utf8
from stackheads.limits import check_memory, check_number, whole
from stackheads.seeds import Stream, stream
from stackheads.tasks.base import Batch, Operand, Task
from stackheads.tasks.rules import check_structure, one_change, raise_first
from stackheads.types import NUMBERED, Role

MEMBERS = ("name", "n_ctx", "d_vocab", "d_vocab_out", "attention_dir", "hops", "sample", "readout", "counterfactual")
CALLED = {
    "sample": ("n", "generator"),
    "readout": ("logits", "batch"),
    "counterfactual": ("batch", "hop", "generator"),
}
"""How the members that are functions are called, by position."""


def _a_size(value: Any) -> bool:
    return (whole(value) or 0) >= 1


def _offsets(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(type(hop) is int for hop in value) and len(set(value)) == len(value)


def _operands(value: Any) -> bool:
    named = ("asked", *NUMBERED)
    return isinstance(value, tuple | list) and all(isinstance(it, Role) and it.name in named and it.exists for it in value)


VALUES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "name": (lambda value: isinstance(value, str) and is_utf8(value), "is text that UTF-8 has", "give it one"),
    **dict.fromkeys(("n_ctx", "d_vocab", "d_vocab_out"), (_a_size, "is a whole number from 1 on", "correct it")),
    "hops": (_offsets, "are a tuple of different whole numbers (int)", "name each find map once"),
    "operands": (
        _operands,
        f"are a tuple of types.Role, of {', '.join(NUMBERED)} with a number, or of asked",
        'name each by one, like Role("key", 1)',
    ),
}
"""What the members that are values must be, by name: whether a value is so, the rule in words, and the cure."""


def check_task(task: object) -> None:
    """Raise `ConfigError` with the cure for what is no task. Cost: nothing is drawn."""
    if isinstance(task, type):
        raise ConfigError(f"a task is an object like tasks.Cycle(…), got the class {task.__name__}: make one of it")
    if missing := [name for name in MEMBERS if not hasattr(task, name)]:
        kind = type(task).__name__
        raise ConfigError(f"a task is an object like tasks.Cycle(…), got {kind} without {missing[0]}: give one")
    for name, arguments in CALLED.items():
        if not _takes(getattr(task, name), len(arguments)):
            call, kind = f"{name}({', '.join(arguments)})", type(task).__name__
            raise ConfigError(f"a task's {name} is called as {call}, that of {kind} can't be: write it so")
    for name, (right, rule, cure) in VALUES.items():
        if hasattr(task, name) and not right(value := getattr(task, name)):
            raise ConfigError(f"a task's {name} {rule}, got {value!r}: {cure}")


def _takes(function: Any, arguments: int) -> bool:
    """Whether a function may be called with so many arguments; what has no signature is believed."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(arguments))
    except ValueError:
        return True
    except TypeError:
        return False
    return True


def draw(task: Task, n: int, generator: torch.Generator) -> Batch:
    """Sample n examples. Raises `TaskError` for a batch whose structure is not that of examples of this task, `ConfigError` for
    more than fit into memory, or none.
    """
    n = check_number("the number of examples", n, 1)
    check_memory(f"{n:,} examples of {task.n_ctx:,} tokens", 8 * n * task.n_ctx * (len(task.hops) + 2))
    return check_structure(task, task.sample(n, generator), "sample", n)


def rewired(task: Task, batch: Batch, hop: int, generator: torch.Generator, operand: Operand = "value") -> Batch:
    """The counterfactual of these examples at a hop, on their device; `operand`: what of the link it changes.

    Raises `TaskError` as `draw` does, and where slots or pads are not those of the batch, or more than one token is another.
    """
    known = {} if operand == "value" else {"operand": operand}  # tasks without operands need not know the argument
    rewire: Any = task.counterfactual
    what = f"counterfactual at hop {hop}"
    other = check_structure(task, rewire(batch.to("cpu"), hop, generator, **known), what, len(batch)).to(batch.tokens.device)
    raise_first(one_change(batch, other, f"the {what}"))
    return other


def labelling_batch(task: Task, examples: int, seed: int) -> Batch:
    """The examples that an analysis with this seed makes its labels on. Raises `ConfigError` for a bad seed, `TaskError` as
    `draw` does.
    """
    return draw(task, examples, stream(seed, Stream.LABELLING))
