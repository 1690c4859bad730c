"""Every verb where its output can't be written: one line before the work; and where the terminal lacks letters: the whole
result, in letters that it has.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from constructed import write_run
from forked import stackheads
from tiny_llama import language, save_folder

from stackheads import cli
from stackheads.cli.outputs import Wanted
from stackheads.report.console import FALLBACK, IN_ASCII
from stackheads.types import Status

SWEEP = """
task: {kind: cycle, symbols: 4, max_hops: 1}
model: {layers: 1, heads: 1, d_model: 8, d_head: 4}
training: {steps: 2, batch: 2, evaluate_every: 1, evaluate_examples: 4}
grid: {training.stop_at: [null]}
"""
# The input of each verb is not there: who looks at the output first says so, who works first would complain about the input.
OUTPUTS = {
    "analyze --output-dir": ["analyze", "nowhere", "--output-dir"],
    "analyze --figures": ["analyze", "nowhere", "--figures"],
    "analyze --html": ["analyze", "nowhere", "--html"],
    "emerge --output-dir": ["emerge", "nowhere", "--output-dir"],
    "train --output-dir": ["train", "cycle", "--output-dir"],
    "sweep --output-dir": ["sweep", "sweep.yaml", "--output-dir"],
    "theory --output-dir": ["theory", "--output-dir"],
    "llm --output-dir": ["llm", "--model", "nowhere", "--output-dir"],
    "validate --output": ["validate", "--checkpoints", "nowhere", "--output"],
}
FOLDERS_OF_A_KIND = ("analyze --output-dir", "train --output-dir", "sweep --output-dir", "llm --output-dir")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("kept")
    return tmp_path


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """What a command says on stderr that must be refused, and must leave everything as it is."""

    def refuse(*arguments):
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        monkeypatch.chdir(place)
        monkeypatch.setattr("sys.argv", ["stackheads", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, error = capsys.readouterr()
        assert (caught.value.code, out, error.count("\n")) == (2, "", 1)
        assert error.startswith("error: ")
        assert "nowhere" not in error
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
        return error

    return refuse


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_file_on_the_way_is_found_before_the_work(refused, output):
    assert "file on the way to file/under is a file" in refused(*OUTPUTS[output], "file/under")


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_place_that_takes_nothing_is_found_before_the_work(refused, output):
    assert "an output must be writable" in refused(*OUTPUTS[output], "/proc/new")


@pytest.mark.parametrize("output", [name for name in OUTPUTS if name.endswith(("dir", "figures"))])
def test_a_file_is_no_folder(refused, output):
    assert "file is a file" in refused(*OUTPUTS[output], "file")


@pytest.mark.parametrize("output", ["analyze --html", "validate --output"])
def test_a_folder_is_no_file(refused, output):
    assert "full is a folder" in refused(*OUTPUTS[output], "full")


@pytest.mark.parametrize("output", FOLDERS_OF_A_KIND)
def test_a_folder_that_holds_something_else_stays_as_it_is(refused, output):
    assert "empty" in refused(*OUTPUTS[output], "full")


@pytest.mark.parametrize(("output", "name"), [("emerge --output-dir", "timeline.png"), ("theory --output-dir", "theory.json")])
def test_a_folder_in_the_place_of_a_file_is_found_before_the_work(place, refused, output, name):
    (place / "full" / name).mkdir()
    assert f"{name} is a folder" in refused(*OUTPUTS[output], "full")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--output-dir f --html f", "f is for --html and for --output-dir"),
        ("--output-dir g --html g/analysis.json", "analysis.json is for --output-dir and for --html"),
        ("--output-dir g --html g/x/../labels.csv", "labels.csv is for --output-dir and for --html"),
        ("--output-dir f/g --html f", "f is for --html and for --output-dir"),
        ("--figures f --html f/circuit.png", "circuit.png is for --figures and for --html"),
        ("--figures f --html f", "f is for --html and for --figures"),
        ("--output-dir f/analysis.json --figures f --html f/analysis.json", "analysis.json is for --html and for --output-dir"),
        ("--html model/config.json", "config.json is for the model and for --html"),
        ("--html model/step-1/model.safetensors", "model.safetensors is for the model and for --html"),
    ],
)
def test_outputs_that_would_replace_each_other_or_the_model_are_found_before_the_work(place, refused, arguments, says):
    (place / "model" / "step-1").mkdir(parents=True)
    for path in ("config.json", "step-1/model.safetensors"):
        (place / "model" / path).write_text("kept")
    assert says in refused("analyze", "model", *arguments.split())


READ = ("config.json", "model.safetensors", "run.json", "metrics.jsonl", "state.safetensors", "result.json")
"""What the project reads of a checkpoint, a run and a plan of a sweep, whether it is there yet or not."""


@pytest.mark.parametrize(
    "name", [*READ, "step-000001/config.json", "step-000001/model.safetensors", "link", "shard.safetensors"]
)
@pytest.mark.parametrize(
    "command",
    [
        ("analyze", "run", "--html"),
        ("analyze", "run/step-000001", "--html"),
        ("analyze", "--gpt2", "run", "--html"),
        ("validate", "--checkpoints", "run", "--output"),
    ],
    ids=" ".join,
)
def test_no_output_replaces_what_is_read_of_the_run_that_is_looked_at(place, refused, command, name):
    (place / "run" / "step-000001").mkdir(parents=True)
    for path in ("run.json", "shard.safetensors", "step-000001/config.json", "step-000001/model.safetensors"):
        (place / "run" / path).write_text("kept")
    (place / "run" / "link").symlink_to("run.json")
    assert "outputs need places of their own" in refused(*command, f"run/{name}")


def test_a_page_of_ones_own_may_lie_beside_the_files_of_a_run(place):
    (place / "run").mkdir()
    for name in ("page.html", "step-000001.json"):
        (place / "run" / name).write_text("the one before")
        Wanted(html=place / "run" / name).check(place / "run")


def test_the_parts_of_a_validation_and_its_result_are_kept_apart(refused):
    assert "settings.json is for" in refused("validate", "--keep", "k", "--output", "k/settings.json")


def test_outputs_may_share_a_folder(place):
    sharing = Wanted(output_dir=place / "new", figures=place / "new", html=place / "new" / "page.html")
    sharing.check(place / "nowhere")


PRINTERS = {
    "analyze": ["analyze", "run", "--examples", "32", "--trial", "--quiet"],
    "emerge": ["emerge", "run", "--examples", "32", "--quiet"],
    "train": ["train", "cycle", "--steps", "2", "--batch", "2", "--layers", "1", "--quiet", "--output-dir", "läuft"],
    "sweep": ["sweep", "sweep.yaml", "--quiet", "--output-dir", "läuft"],
    "theory": ["theory", "--hops", "2", "--examples", "8"],
    "llm": [
        *("llm", "--model", "llama", "--output-dir", "läuft", "--quiet"),
        *("--questions", "2", "--few-shot-questions", "0", "--hops", "1", "--formulation", "code"),
    ],
    "help": ["analyze", "--help"],
    "mistake": ["analyze", "läuft"],
}


ENVIRONMENTS = {
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
"""The last is what an interpreter asks for when it starts."""


def printed(arguments, place, **environment):
    if "LC_ALL" in environment:
        command = [str(Path(sys.executable).parent / "stackheads"), *arguments]
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
        result = subprocess.run(command, capture_output=True, cwd=place, env=variables | environment, check=False)
    else:
        result = stackheads(*arguments, cwd=place, **environment)
    assert result.returncode == (2 if arguments[1] == "läuft" else 0), result.stderr
    return result.stdout, result.stderr


@pytest.mark.parametrize("verb", PRINTERS)
def test_nothing_is_lost_where_the_terminal_lacks_letters(verb, tmp_path):
    """A sweep that is done is only printed again."""
    arguments = PRINTERS[verb]
    said = {}
    for name, environment in ENVIRONMENTS.items() if verb == "emerge" else [*ENVIRONMENTS.items()][:2]:
        place = tmp_path / ("same" if verb == "sweep" else name)
        place.mkdir(exist_ok=True)
        (place / "sweep.yaml").write_text(SWEEP)
        if verb in ("analyze", "emerge"):
            write_run(place / "run", "untrained", "whole")
        if verb == "llm":
            save_folder(place / "llama", language())
        said[name] = printed(arguments, place, **environment)
    whole = said["utf-8"][0].decode("utf-8")
    if verb not in ("train", "help", "mistake"):  # what Typer prints is its own to encode
        assert said["ascii"][0].decode("ascii") == whole.encode("ascii", FALLBACK).decode("ascii")
    if verb == "emerge":
        assert said["C"] == said["ascii"]
        assert said["latin-1"][0].decode("latin-1") == whole.encode("latin-1", FALLBACK).decode("latin-1")
    for out, error in said.values():
        assert len(out.splitlines()) == len(whole.splitlines())
        assert error.count(b"\n") == (verb == "mistake")


def test_a_validation_too():
    code = (
        "from stackheads.validation.scores import Judged, NullHead, Validation\n"
        "from stackheads.report.validation import print_validation\n"
        "cells = tuple(Judged('a:b', noisy, 'none', 'none', 'hop', 'hop', True) for noisy in (False, True))\n"
        "cells += tuple(Judged('a:b', noisy, 'confirmed', 'confirmed', 'hop', 'hop', True) for noisy in (False, True))\n"
        "print_validation(Validation(cells, {'default': 1.0}, (NullHead('untrained', 'L0H0', False),), 1.0))\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "* confirmed" in result.stdout
    assert "bars: all reached" in result.stdout


def test_statuses_stay_different_in_ascii():
    letters = [IN_ASCII[symbol] for symbol in (*(status.symbol for status in Status), "×")]
    assert len(set(letters)) == len(letters)
    assert all(len(letter) == 1 and letter.isascii() for letter in letters)
    assert all(text.isascii() for text in IN_ASCII.values())
