"""Everything that README and docs/ tell a reader to type works: it is run, or, where it takes too long, it is at least read."""

import argparse
import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path

import pytest
import typer
from docs.blocks import EXCUSES, LANGUAGES, PAGES, ROOT, blocks, commands, every_block, inline_commands, sessions, with_checks
from forked import python_text, stackheads_text

from stackheads.cli import app
from stackheads.sweeps.plans import plans, read_sweep

ELISION = "…"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder with the checkpoints, as a reader in a clone has them, and nothing that could be overwritten."""
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(shell, place):
    """What a shell prints. Where it has only `stackheads` and `python -c` to run, forks do, which saves their imports."""
    parts = [*commands(shell)]
    if [*chain(*parts)] == shlex.split(shell) and all(
        words[:2] == ["python", "-c"] or words[0] == "stackheads" for words in parts
    ):
        return "".join(printed(forked(words, place)) for words in parts)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", shell]
    return printed(subprocess.run(command, capture_output=True, text=True, cwd=place, check=False, env=environment))


def forked(words, place):
    return stackheads_text(*words[1:], cwd=place) if words[0] == "stackheads" else python_text(words[2], place)


def printed(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_says_what_it_is_and_why_it_is_not_run():
    found = [block for page in PAGES for block in blocks(page)]
    assert {block.language for block in found} <= LANGUAGES
    assert all(block.title is None or block.title.startswith(EXCUSES) for block in found)
    assert sum(block.runs and block.language != "text" for block in found) >= 8


def python_pages():
    return [page for page in PAGES if any(block.runs and block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", python_pages(), ids=lambda page: page.stem)
def test_python_runs_and_gives_what_its_comments_say(page, place):
    """All of a page in one process, from top to bottom."""
    source = "".join(with_checks(block.text) for block in blocks(page) if block.language == "python" and block.runs)
    printed(python_text(source, place))


@pytest.mark.parametrize("block", [block for block in every_block("sh") if block.runs], ids=str)
def test_shell_runs(block, place):
    run(block.text, place)


@pytest.mark.parametrize("block", every_block("console"), ids=str)
def test_sessions_print_what_they_are_said_to_print(block, place):
    """But for decimals, which differ between processors, line breaks, which follow from them, and what is left out (…)."""
    for command, expected in sessions(block):
        rest = words(run(command, place))
        for part in re.split(rf"^{ELISION}$", expected, flags=re.M):
            assert words(part) in rest
            rest = rest[rest.index(words(part)) + len(words(part)) :]


@pytest.mark.parametrize("block", every_block("text"), ids=str)
def test_what_is_quoted_of_an_output_is_in_it_number_for_number(block):
    """A session of some page prints it; what the page says of it in words has no other numbers."""
    printed = [" ".join(expected.split()) for each in every_block("console") for _, expected in sessions(each)]
    parts = [" ".join(part.split()) for part in re.split(rf"^{ELISION}$", block.text, flags=re.M)]
    assert any(all(part in session for part in parts) for session in printed)
    explained = (ROOT / block.page).read_text().partition(block.text)[2].partition("\n## ")[0]
    assert set(re.findall(r"\d+\.\d+", explained)) <= set(re.findall(r"\d+\.\d+", block.text))


def words(text):
    return " ".join(re.sub(r"\d+\.\d+", "0.0", text).split())


@pytest.mark.parametrize("block", every_block("python"), ids=str)
def test_what_python_imports_is_there(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)
        elif isinstance(node, ast.Import):
            assert all(import_module(name.name) for name in node.names)


@pytest.mark.parametrize("block", every_block("yaml"), ids=str)
def test_yaml_is_a_sweep(block, tmp_path):
    (tmp_path / "sweep.yaml").write_text(block.text)
    assert plans(read_sweep(tmp_path / "sweep.yaml"))


@pytest.mark.parametrize("block", every_block("sh", "console"), ids=str)
def test_every_command_is_understood(block, place, monkeypatch):
    shell = "\n".join(command for command, _ in sessions(block)) if block.language == "console" else block.text
    for program, *arguments in commands(shell):
        READERS[program](arguments, monkeypatch)


@pytest.mark.parametrize("command", inline_commands())
def test_commands_in_running_text_are_understood(command):
    stackheads(command.split()[1:])


def stackheads(arguments, monkeypatch=None):
    """The command line's own parser takes it."""
    group = typer.main.get_command(app)
    if arguments == ["--help"]:
        return
    verb = group.commands[arguments[0]]
    assert verb.make_context(arguments[0], list(arguments[1:]), parent=group.context_class(group))


class Understood(BaseException):
    """A script's own parser took its arguments."""


def python(arguments, monkeypatch):
    if arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
        return
    script = ROOT / arguments[0]

    def parse(parser, *rest):
        parse_known(parser, arguments[1:])
        raise Understood

    parse_known = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.syspath_prepend(str(script.parent))
    if "argparse" in script.read_text() or "claims" in script.read_text():
        with pytest.raises(Understood):
            runpy.run_path(str(script), run_name="__main__")
    else:
        assert not [argument for argument in arguments[1:] if argument.startswith("-")]
    monkeypatch.undo()


def make(arguments, monkeypatch):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(arguments) <= set(targets)


def pip(arguments, monkeypatch):
    assert arguments[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"(?:stackheads|\.)\[(\w+)\]", " ".join(arguments)):
        assert extra in project["optional-dependencies"]
    for option, value in pairwise(arguments):
        assert option not in ("-c", "--constraint") or (ROOT / value).is_file()


READERS = {"stackheads": stackheads, "python": python, "make": make, "pip": pip}
"""Who reads a command; any other program would have to be added here."""
