"""typeguard for jaxtyping's import hook: annotated arguments and results of the package are checked in tests.

`typeguard.typechecked` of typeguard 4 rewrites source code and reads the shape in `Float[Tensor, "batch pos"]` as an
expression (jaxtyping issue 80); `typeguard.check_type` looks at the annotations as they are, so this calls that. Where an
annotation is a class, or a union of some, `isinstance` says the same in a tenth of the time, and typeguard is asked only where
that says no. What has passed need not be looked at again: a call whose arguments and result are of the kinds of an earlier one
(`_kind`: what a check looks at, but for whole numbers, which only a Literal would tell apart) passes unchecked, since checks
would otherwise take two thirds of the time of all tests. Once `ENOUGH` calls of a function in a row have passed so, all do,
until `look_again`, which each module of tests begins with.

jaxtyping's own wrapper, three times as slow as what it wraps here, would stand around all that and hand a checker stand-ins for
a function's arguments and for its result. So the hook, which decorates with `jaxtyping.jaxtyped`, finds `_whole` there once
this is imported, before the package is: the checker is handed the function itself. Calls of functions that have a size for an
argument ("{most}") are all checked.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from itertools import islice
from types import FunctionType, GenericAlias, MappingProxyType, NoneType, SimpleNamespace, UnionType
from typing import Any, get_args, get_type_hints

import jaxtyping
import numpy as np
from jaxtyping._storage import pop_shape_memo, push_shape_memo
from torch import Tensor
from typeguard import TypeCheckError, check_type

UNKNOWN = object()
LONGEST = 8
ENOUGH = 2000


def _whole(*, typechecker: Any) -> Any:
    return typechecker


jaxtyping.jaxtyped = _whole


def typechecked(checked: Any) -> Any:
    """A function that checks the arguments and the result of each call against its annotations; a dataclass that is made so."""
    if not isinstance(checked, type):
        return _remembering(checked)
    if is_dataclass(checked) and "__init__" in vars(checked):
        checked.__init__ = _remembering(checked.__init__)
    return checked


class _Asked:
    """What is asked of a function's arguments and result, and the kinds of those of calls that passed."""

    def __init__(self, function: Any):
        self.code, self.annotations = function.__code__, function.__annotations__
        self.signature = inspect.signature(function)
        self.hints = {name: (hint, _classes(hint)) for name, hint in _hints(function) if hint is not Any}
        self.sized = any("{" in repr(hint) for hint, _ in self.hints.values())
        self.passed: dict[Any, set[Any]] = {}
        self.in_a_row = 0


ASKED: dict[int, _Asked] = {}
"""By the code's identity: a function within a function is another with each call, of the same code."""


def _asked(function: Any) -> _Asked:
    found = ASKED.get(id(function.__code__))
    if found is None or found.annotations != function.__annotations__:
        found = ASKED[id(function.__code__)] = _Asked(function)
    return found


def look_again() -> None:
    """Look at the next calls of each function, however many have passed."""
    for asked in ASKED.values():
        asked.in_a_row = 0


def _remembering(function: Any) -> Any:
    if hasattr(function, "is_checked"):
        return function
    asked: _Asked | None = None

    @contextmanager
    def looked_at(asked: _Asked, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Callable[[str, Any], None]]:
        """Check the arguments, which give axes their sizes; then what is given by name, as the result."""
        asked.in_a_row = 0
        bound = asked.signature.bind(*args, **kwargs)
        given = list(bound.arguments.items())
        bound.apply_defaults()  # a size may be an argument, "{most}"

        def look(name: str, value: Any) -> None:
            if name in asked.hints:
                _check(value, *asked.hints[name], function, name)

        push_shape_memo(bound.arguments)
        try:
            for name, value in given:
                look(name, value)
            yield look
        finally:
            pop_shape_memo()

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked = asked or _asked(function)
        if asked.in_a_row >= ENOUGH:
            return function(*args, **kwargs)
        given = _items((*args, *kwargs.items()))
        before = asked.passed.get(given)
        if before is None:
            with looked_at(asked, args, kwargs) as look:
                result = function(*args, **kwargs)
                look("return", result)
            kind = _kind(result)
        else:
            result = function(*args, **kwargs)
            kind = _kind(result)
            if kind in before:
                asked.in_a_row += 1
                return result
            with looked_at(asked, args, kwargs) as look:
                look("return", result)
        if UNKNOWN not in (given, kind) and not asked.sized:
            asked.passed.setdefault(given, set()).add(kind)
        return result

    checked.is_checked = True
    return checked


def _hints(function: Any) -> list[tuple[str, Any]]:
    """The annotations of a function, but for those of which a name is nowhere in its module and of what stands for several."""
    code, found = function.__code__, []
    single = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    for name, hint in function.__annotations__.items():
        if name in single or name == "return":
            alone = SimpleNamespace(__annotations__={name: hint})
            try:
                found += get_type_hints(alone, function.__globals__, include_extras=True).items()
            except NameError:
                continue
    return found


def _items(values: tuple[Any, ...]) -> Any:
    """The kind of each value; `UNKNOWN` where one is."""
    parts = tuple([_reader(type(value))(value) for value in values])
    return UNKNOWN if UNKNOWN in parts else parts


def _kind(value: Any) -> Any:
    """All of a value that a check looks at; `UNKNOWN` for containers whose items it looks at and that are not read here."""
    return _reader(type(value))(value)


@functools.cache
def _reader(kind: type) -> Callable[[Any], Any]:
    """How to read the kind of a value of this type."""
    if issubclass(kind, (Tensor, np.ndarray)):
        return lambda value: (kind, value.shape, value.dtype)
    if issubclass(kind, (NoneType, str, bool, type)):
        return lambda value: (kind, value)
    if issubclass(kind, FunctionType):  # how many arguments it takes
        return lambda value: (kind, value.__code__, len(value.__defaults__ or ()))
    if issubclass(kind, (bytes, bytearray, memoryview)):
        return lambda value: kind
    if issubclass(kind, tuple):
        return lambda value: _of(kind, _items(value) if len(value) <= LONGEST else _numbers(value))
    if issubclass(kind, (dict, MappingProxyType)):  # typeguard looks at the first item, as it does in those below
        return lambda value: _of(kind, _items(tuple(islice(value.items(), 1))))
    if issubclass(kind, (list, set, frozenset)):
        return lambda value: _of(kind, _items(tuple(islice(value, 1))))
    return (lambda value: UNKNOWN) if issubclass(kind, (Collection, SimpleNamespace)) else lambda value: kind


def _numbers(values: tuple[Any, ...]) -> Any:
    """How many of which kinds, if all are numbers."""
    kinds = frozenset(map(type, values))
    return (len(values), kinds) if kinds <= {int, float, NoneType} else UNKNOWN


def _of(kind: type, items: Any) -> Any:
    return UNKNOWN if items is UNKNOWN else (kind, items)


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes whose instances are right without a further look."""
    members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(each for each in members if isinstance(each, type) and not isinstance(each, GenericAlias) and _plain(each))


def _plain(kind: type) -> bool:
    return kind is not Any and not getattr(kind, "_is_protocol", False)


def _check(value: Any, hint: Any, classes: tuple[type, ...], function: Any, name: str) -> None:
    if classes and isinstance(value, classes):
        return
    try:
        check_type(value, hint)
    except TypeCheckError as error:
        what = "result" if name == "return" else f"argument {name}"
        raise jaxtyping.TypeCheckError(f"{what} of {function.__qualname__}: {error}") from None
