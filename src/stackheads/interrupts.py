"""Ctrl-C that waits for the end of what must not be cut in two: a training step, the change of one folder for another."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_wait() -> Generator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is only noted, which the function given tells; `KeyboardInterrupt` is raised at the end.

    A second one is raised at once. Nothing changes outside the main thread, which gets no Ctrl-C, and where somebody else
    handles it, an outer `interrupts_wait` say.
    """
    noted = False

    def note(*_: Any) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if noted:
        raise KeyboardInterrupt
