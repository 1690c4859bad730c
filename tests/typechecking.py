"""typeguard for jaxtyping's import hook: every annotated argument and result of the package is checked in tests.

`typeguard.typechecked` of typeguard 4 rewrites source code and reads the shape in `Float[Tensor, "batch pos"]` as an
expression (jaxtyping issue 80); `typeguard.check_type` looks at the annotations as they are, so this calls that. Where an
annotation is a class, or a union of some, `isinstance` says the same in a tenth of the time, and typeguard is asked only where
that says no. A function that is called very often is checked at its first `EACH` calls and then at every tenth, since checks
would otherwise take two thirds of the time of all tests.
"""

import functools
import inspect
from types import GenericAlias, UnionType
from typing import Any, get_args, get_type_hints

from typeguard import TypeCheckError, check_type

EACH = 200
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

    calls = 0

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > EACH and calls % 10:
            return function(*args, **kwargs)
        known = hints()
        for name, value in (*zip(in_order, args, strict=False), *kwargs.items()):
            if name in known:
                _check(value, *known[name], function, name)
        result = function(*args, **kwargs)
        if "return" in known:
            _check(result, *known["return"], function, None)
        return result

    return checked


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
