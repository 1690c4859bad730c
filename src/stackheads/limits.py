"""What a machine can not do: more threads and processes than it could use are refused, what does not fit is told in a line."""

import os
import re

from stackheads.errors import ConfigError

MOST = max(256, os.cpu_count() or 1)
"""Threads or processes that may be asked for. Far beyond it torch does not say no, it crashes."""
TOO_LARGE = re.compile(r"allocate memory|out of memory|overflow", re.IGNORECASE)


def check_parallel(what: str, number: int, of: str) -> None:
    """Raise `ConfigError` for a number of threads or processes that can't be; `of`: what the cure is to give the number of."""
    if not 1 <= number <= MOST:
        bound = "at least 1" if number < 1 else f"at most {MOST}"
        raise ConfigError(f"{what} must be {bound}, got {number}: give the number of {of}")


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
