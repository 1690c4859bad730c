"""`stackheads analyze` on a pseudo-terminal of 80 columns: colours, no line too long, JSON as plain as in a pipe."""

import json
import os
import re
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from forked import started

pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments):
    """What a terminal of 80 columns receives from stdout and stderr, and the exit status."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "CI")}
    name, received = Path(os.ttyname(theirs)), bytearray()
    process = started(*arguments, out=name, error=name, environment=environment | {"TERM": "xterm-256color"})
    while ours in wait([ours, process.sentinel]):
        received += os.read(ours, 65536)
    process.join()
    os.close(theirs)
    os.close(ours)
    return received.decode(), process.exitcode


def lines_left(text):
    """The lines as they stand in the end: without escapes, after the last carriage return of each."""
    return [ESCAPE.sub("", line).split("\r")[-1] for line in text.replace("\r\n", "\n").split("\n")]


def test_a_terminal_gets_colours_and_80_columns(checkpoints):
    text, status = on_terminal("analyze", checkpoints / "cycle-d4-l3", "--examples", 64)
    assert status == 0
    assert re.search(r"\x1b\[1;38;[0-9;]+mL2H0", text)  # a confirmed head, bold and in its status' colour
    assert "cause" in text  # the progress bars, gone in the end
    lines = lines_left(text)
    assert max(map(len, lines)) <= 80
    assert not any(line.startswith("cause") for line in lines)
    assert any(line.split()[:6] == ["L2H0", "query", "hop", "3", "●", "confirmed"] for line in lines)


def test_json_is_json_on_a_terminal_too(checkpoints):
    text, status = on_terminal("analyze", checkpoints / "cycle-d4-l4-final", "--examples", 32, "--json", "--quiet")
    assert status == 0
    assert "\x1b" not in text
    assert json.loads(text)["model"]["name"] == "cycle-d4-l4-final"


def test_a_mistake_on_a_terminal_is_one_line():
    text, status = on_terminal("analyze", "nowhere")
    assert status == 2
    assert text.count("\n") == 1
    assert "\x1b" not in text
