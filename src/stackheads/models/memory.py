"""Freed memory is kept while a model is looked into or trained, and given back afterwards if it is much.

glibc maps every large tensor anew and unmaps it when it is freed, so that each step of an analysis zeroes and faults in its
memory again: 30 % of the time of labelling a model of 99 positions on 512 examples (docs/results/speed.md#memory). Inside
`kept_memory` large blocks come from the heap, which is not trimmed. Afterwards it is, unless little was added: short calls one
after the other would fault in the same memory each time. Where the C library is another one nothing is changed.
"""

import ctypes
import mmap
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
SPARE = 128 * 1024**2
"""Bytes of freed memory that may stay."""
USUAL = {MMAP_MAX: 65536, TRIM_THRESHOLD: SPARE}
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}

_inside = 0
_settled = 0
"""Bytes that were left when memory was last given back. Not what the heap counts as free, which may have been given back."""


@contextmanager
def kept_memory() -> Generator[None]:
    """Keep freed memory for what comes next inside; may be nested."""
    global _inside
    _inside += 1
    if _inside == 1:
        _set(KEPT)
    try:
        yield
    finally:
        _inside -= 1
        if _inside == 0:
            _set(USUAL)


def given_back() -> None:
    """Give back freed memory: between stages that take much, and pieces of other sizes."""
    global _settled
    library = glibc()
    if library is not None:
        library.malloc_trim(0)
        _settled = resident()


def _set(values: dict[int, int]) -> None:
    library = glibc()
    if library is not None:
        for parameter, value in values.items():
            library.mallopt(parameter, value)
        if values is USUAL and resident() - _settled > SPARE:
            given_back()


def resident() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@cache
def glibc() -> Any:
    """The C library if it is glibc, else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
