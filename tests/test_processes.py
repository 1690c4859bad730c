"""Worker processes: they work, and end with what they were begun for."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children

import pytest
import torch

from stackheads.errors import ConfigError
from stackheads.processes import worker_pool


def slow(path):
    path.with_suffix(".begun").touch()
    time.sleep(20)
    path.with_suffix(".done").touch()


def heard():
    return signal.getsignal(signal.SIGINT), torch.get_num_threads(), os.getpid()


def test_workers_are_other_processes_of_one_thread_that_do_not_hear_ctrl_c():
    with worker_pool(1) as pool:
        handler, threads, process = pool.submit(heard).result()
        assert list(pool.map(abs, (-1, 2, -3))) == [1, 2, 3]
    assert (handler, threads) == (signal.SIG_IGN, 1)
    assert process != os.getpid()
    assert not active_children()


def fail_in_the_middle(folder):
    with worker_pool(1) as pool:
        for number in range(4):
            pool.submit(slow, folder / str(number))
        while not list(folder.glob("*.begun")):
            time.sleep(0.05)
        raise ZeroDivisionError


def test_an_error_gives_up_what_is_being_done_and_what_waits(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle(tmp_path)
    assert not active_children()
    assert not list(tmp_path.glob("*.done"))


def test_a_number_of_workers_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="workers must be at least 1, got 0"), worker_pool(0):
        pass


def test_a_validation_that_is_interrupted_says_so_in_a_line(tmp_path):
    """Ctrl-C reaches it and its workers, as from a terminal."""
    program = "from stackheads.cli import main; main()"
    command = [sys.executable, "-c", program, "validate", "--quick", "--keep", "kept", "--quiet"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not list(tmp_path.glob("kept/*-*.json")):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate()
    assert (process.returncode, out, error) == (130, "", "interrupted\n")
