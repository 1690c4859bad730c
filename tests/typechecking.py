"""typeguard for jaxtyping's import hook: every annotated argument and result of the package is checked in tests.

`typeguard.typechecked` of typeguard 4 rewrites source code and reads the shape in `Float[Tensor, "batch pos"]` as an
expression (jaxtyping issue 80); `typeguard.check_type` looks at the annotations as they are, so this calls that. Where an
annotation is a class, or a union of some, `isinstance` says the same in a tenth of the time, and typeguard is asked only where
that says no. What has passed need not be looked at again: a call whose arguments and result are of the kinds of an earlier one
(`_kind`: all that a check looks at) passes unchecked, since checks would otherwise take two thirds of the time of all tests.
"""

import functools
import inspect
from collections.abc import Collection
from itertools import islice
from types import GenericAlias, SimpleNamespace, UnionType
from typing import Any, get_args, get_type_hints

import numpy as np
from torch import Tensor
from typeguard import TypeCheckError, check_type

UNKNOWN = object()
LONGEST = 8
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def typechecked(function: Any) -> Any:
    """Check arguments and result of each call against the annotations."""
    parameters = inspect.signature(function).parameters
    single = {name for name, parameter in parameters.items() if parameter.kind not in VARIADIC}
    in_order = [name for name, parameter in parameters.items() if parameter.kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD]

    @functools.cache
    def hints() -> dict[str, tuple[Any, tuple[type, ...]]]:
        try:
            found = get_type_hints(function, include_extras=True)
        except NameError:
            found = {name: hint for name, hint in function.__annotations__.items() if not isinstance(hint, str)}
        wanted = {name: hint for name, hint in found.items() if hint is not Any and (name in single or name == "return")}
        return {name: (hint, _classes(hint)) for name, hint in wanted.items()}

    passed: set[Any] = set()

    def check_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name, value in (*zip(in_order, args, strict=False), *kwargs.items()):
            if name in hints():
                _check(value, *hints()[name], function, name)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = _kind((args, tuple(kwargs.items()))) if len(args) <= LONGEST else UNKNOWN
        known = given in passed
        if not known:
            check_arguments(args, kwargs)
        result = function(*args, **kwargs)
        kind = _kind((result,))
        if not known or (given, kind) not in passed:
            if known:
                check_arguments(args, kwargs)  # which give axes their sizes for the result
            if "return" in hints():
                _check(result, *hints()["return"], function, None)
        if UNKNOWN not in (given, kind):
            passed.update((given, (given, kind)))
        return result

    return checked


def _kind(value: Any) -> Any:
    """All of a value that a check looks at; `UNKNOWN` for containers whose items it looks at and that are not read here."""
    if isinstance(value, (Tensor, np.ndarray)):
        return type(value), tuple(value.shape), value.dtype
    if value is None or isinstance(value, (str, bool, type)):
        return type(value), value
    if isinstance(value, tuple):
        parts = tuple(map(_kind, value)) if len(value) <= LONGEST else (UNKNOWN,)
        return UNKNOWN if UNKNOWN in parts else (type(value), parts)
    if isinstance(value, (list, dict)):  # typeguard looks at the first item
        first = _kind(tuple(islice(value.items() if isinstance(value, dict) else value, 1)))
        return UNKNOWN if first is UNKNOWN else (type(value), first)
    return UNKNOWN if isinstance(value, (Collection, SimpleNamespace)) else type(value)


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes whose instances are right without a further look."""
    members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return tuple(each for each in members if isinstance(each, type) and not isinstance(each, GenericAlias) and _plain(each))


def _plain(kind: type) -> bool:
    return kind is not Any and not getattr(kind, "_is_protocol", False)


def _check(value: Any, hint: Any, classes: tuple[type, ...], function: Any, argument: str | None) -> None:
    if classes and isinstance(value, classes):
        return
    try:
        check_type(value, hint)
    except TypeCheckError as error:
        what = "result" if argument is None else f"argument {argument}"
        raise TypeError(f"{what} of {function.__qualname__}: {error}") from None
