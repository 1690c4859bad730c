"""typeguard for jaxtyping's import hook: every annotated argument and result of the package is checked in tests.

`typeguard.typechecked` of typeguard 4 rewrites source code and reads the shape in `Float[Tensor, "batch pos"]` as an
expression (jaxtyping issue 80); `typeguard.check_type` looks at the annotations as they are, so this calls that.
"""

import functools
import inspect
from typing import Any, get_type_hints

from typeguard import TypeCheckError, check_type


def typechecked(function: Any) -> Any:
    """Check arguments and result of each call against the annotations."""
    signature = inspect.signature(function)

    @functools.cache
    def hints() -> dict[str, Any]:
        try:
            return get_type_hints(function, include_extras=True)
        except NameError:
            return {name: hint for name, hint in function.__annotations__.items() if not isinstance(hint, str)}

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if name in hints() and kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                _check(value, hints()[name], f"argument {name} of {function.__qualname__}")
        result = function(*args, **kwargs)
        if "return" in hints():
            _check(result, hints()["return"], f"result of {function.__qualname__}")
        return result

    return checked


def _check(value: Any, hint: Any, what: str) -> None:
    try:
        check_type(value, hint)
    except TypeCheckError as error:
        raise TypeError(f"{what}: {error}") from None
