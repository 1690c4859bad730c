"""Processes of their own that need not import torch and TransformerLens once more: each time takes seconds.

They are forks of a server that has imported what every command imports and has run nothing; of the tests' own process, in which
code is instrumented, they are not. Only what an interpreter asks its environment for when it starts is not as in a new process.
"""

import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from stackheads.cli import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["transformer_lens", "stackheads.cli", "stackheads.analysis", "pandas"])


def stackheads(*arguments: Any, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What `stackheads` prints and its exit status, in a folder, with further variables in its environment."""
    return _ended(partial(_command, list(map(str, arguments))), cwd, environment)


def stackheads_text(*arguments: Any, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same with what is printed as text."""
    return as_text(stackheads(*arguments, cwd=cwd, PYTHONIOENCODING="utf-8"))


def python_text(source: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `python -c` prints of a source and its exit status."""
    return as_text(_ended(partial(_source, source), cwd, {"PYTHONIOENCODING": "utf-8"}))


def as_text(done: subprocess.CompletedProcess[bytes]) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def started(*arguments: Any, out: Path, error: Path, environment: dict[str, str] | None = None) -> BaseProcess:
    """`stackheads` while it runs, printing to files, or to a terminal by its path."""
    return _started(partial(_command, list(map(str, arguments))), None, environment or dict(os.environ), out, error)


def _ended(work: Callable[[], None], cwd: Path | None, more: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        process = _started(work, cwd, dict(os.environ) | more, out, error)
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(str(work), process.exitcode, out.read_bytes(), error.read_bytes())


def _started(work: Callable[[], None], cwd: Path | None, environment: dict[str, str], out: Path, error: Path) -> BaseProcess:
    process = SERVER.Process(target=_run, args=(work, cwd or Path.cwd(), environment, out, error))
    process.start()
    return process


def _run(work: Callable[[], None], cwd: Path, environment: dict[str, str], out: Path, error: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    for number, file in ((1, out), (2, error)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding, "backslashreplace", line_buffering=True)
    work()


def _command(arguments: list[str]) -> None:
    sys.argv = ["stackheads", *arguments]
    main()


def _source(text: str) -> None:
    sys.argv, sys.path[:0] = ["-c"], [""]
    exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})
