"""Freed memory is kept while a model is looked into or trained, and given back afterwards if it is much.

glibc maps every large tensor anew and unmaps it when it is freed, so that each step of an analysis zeroes and faults in its
memory again: 30 % of the time of labelling a model of 99 positions on 512 examples (docs/results/speed.md#memory). Inside
`kept_memory` large blocks come from the heap, which is not trimmed. Afterwards it is, unless little is free: short calls one
after the other would fault in the same memory each time. Where the C library is another one nothing is changed.
"""

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
SPARE = 128 * 1024**2
"""Bytes of freed memory that may stay."""
USUAL = {MMAP_MAX: 65536, TRIM_THRESHOLD: SPARE}
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}

_inside = 0


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
    library = glibc()
    if library is not None:
        library.malloc_trim(0)


def _set(values: dict[int, int]) -> None:
    library = glibc()
    if library is not None:
        for parameter, value in values.items():
            library.mallopt(parameter, value)
        if values is USUAL and _free(library) > SPARE:
            given_back()


class _Info(ctypes.Structure):
    """What mallinfo2(3) tells: ten numbers."""

    _fields_ = (("numbers", ctypes.c_size_t * 10),)


def _free(library: Any) -> float:
    """Bytes of the heap that are free; without end where the library is too old to tell."""
    if not hasattr(library, "mallinfo2"):
        return float("inf")
    library.mallinfo2.restype = _Info
    return library.mallinfo2().numbers[8]


@cache
def glibc() -> Any:
    """The C library if it is glibc, else None."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
