"""`stackheads` in a process of its own that need not import torch and TransformerLens once more: each time takes seconds.

Processes are forks of a server that has imported what every command imports and has run nothing; of the tests' own process, in
which code is instrumented, they are not. Only what an interpreter asks its environment for when it starts is not as in a new
process.
"""

import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stackheads.cli import main

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["transformer_lens", "stackheads.cli", "stackheads.analysis", "pandas"])


def stackheads(*arguments: Any, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What `stackheads` prints and its exit status, in a folder, with further variables in its environment."""
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder) / "out", Path(folder) / "error"
        command = list(map(str, arguments))
        process = SERVER.Process(target=_run, args=(command, cwd or Path.cwd(), dict(os.environ) | environment, out, error))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, out.read_bytes(), error.read_bytes())


def stackheads_text(*arguments: Any, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same with what is printed as text."""
    done = stackheads(*arguments, cwd=cwd, PYTHONIOENCODING="utf-8")
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _run(arguments: list[str], cwd: Path, environment: dict[str, str], out: Path, error: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    for number, file in ((1, out), (2, error)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding, "backslashreplace", line_buffering=True)
    sys.argv = ["stackheads", *arguments]
    main()
