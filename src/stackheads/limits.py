"""What numbers can be, and what a machine can not do: more threads and processes than it could use are refused, what does not
fit is told in a line.
"""

import operator
import os
import re
from typing import Any

from stackheads.errors import ConfigError

MOST = max(256, os.cpu_count() or 1)
"""Threads or processes that may be asked for. Far beyond it torch does not say no, it crashes."""
TOO_LARGE = re.compile(r"allocate memory|out of memory|overflow", re.IGNORECASE)


def whole(value: Any) -> int | None:
    """A whole number of any kind, numpy's among them, as an int; None for anything else, True and False among them."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def check_number(
    what: str, number: Any, least: int, most: int | None = None, words: str = "", cure: str = "ask for 512, say"
) -> int:
    """A whole number in these bounds, of whatever kind, as an int. Raises `ConfigError` for another, or none."""
    found = whole(number)
    if found is None or found < least or (most is not None and found > most):
        bounds = f", at least {least}" if most is None else f" between {least} and {most}"
        raise ConfigError(f"{what} must be a whole number{bounds}{words}, got {number!r}: {cure}")
    return found


def check_parallel(what: str, number: int, of: str) -> None:
    """Raise `ConfigError` for a number of threads or processes that can't be; `of`: what the cure is to give the number of."""
    found = whole(number)
    if found is None or not 1 <= found <= MOST:
        bound = "a whole number" if found is None else "at least 1" if found < 1 else f"at most {MOST}"
        raise ConfigError(f"{what} must be {bound}, got {number!r}: give the number of {of}")


def check_memory(of: str, need: int) -> None:
    """Raise `ConfigError` for what takes more bytes than the machine's memory has.

    Asked first: Linux gives out memory that is not there, and kills who writes to it.
    """
    there = _memory()
    if there is not None and need > there:
        raise ConfigError(
            f"what is asked for must fit into memory, {of} would take {need / 2**30:,.0f} GiB of {there / 2**30:,.0f}: "
            "ask for fewer hops, examples or heads, or a smaller batch"
        )


def _memory() -> int | None:
    """The machine's bytes of memory; None where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def too_large(error: BaseException) -> str | None:
    """The line to tell if an error means that something does not fit into memory, None for another error."""
    if not isinstance(error, MemoryError | OverflowError) and not TOO_LARGE.search(str(error)):
        return None
    size = re.search(r"allocate (\d[\d.]* \w+)", str(error))
    got = f"{size[1]} do" if size else "it does"
    return f"what is asked for must fit into memory, {got} not: ask for smaller sizes or fewer examples"
