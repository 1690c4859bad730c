"""Worker processes that end with the work they were begun for, by whatever: an error, Ctrl-C, the death of who began it."""

import os
import signal
import threading
import time
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any, NoReturn

from stackheads.limits import check_parallel

POLL = 0.2
"""Seconds between two looks at a process."""


@contextmanager
def worker_pool(workers: int) -> Generator[ProcessPoolExecutor]:
    """So many fresh processes of one thread each. If the block ends by an error, what they have not finished is given up.

    Raises `ConfigError` for a number that can't be.
    """
    check_parallel("workers", workers, "processes")
    others = active_children()
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        while begun := [process for process in active_children() if process not in others]:
            for process in begun:
                process.terminate()  # which ends what it does; what it was handed already comes next
            time.sleep(POLL)
        raise
    finally:
        pool.shutdown()


def become_worker(parent: int) -> None:
    """Make this process a worker: it leaves Ctrl-C to the process that began it, and does not outlive it.

    Ended, it leaves as a program does, and nothing of its behind.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _begin(parent: int) -> None:
    import torch

    become_worker(parent)
    torch.set_num_threads(1)


def _leave(number: int, _: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(3)
