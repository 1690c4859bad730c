"""`stackheads analyze --gpt2`: the same labels as of the model itself, and mistakes in one line.

Mistakes go through the command's entry point in this process, since starting one takes seconds.
"""

import json
import os
import pickle
import sys

import pytest
import torch
from forked import stackheads_text
from safetensors.torch import load_file, save_file

from stackheads import analyze, load
from stackheads.cli import main
from stackheads.models import to_gpt2

TASK = ["--task", "retrieval", "--hops", 3]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command; gives its exit status, stdout and stderr."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["stackheads", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def exported(checkpoints, tmp_path_factory):
    """A trained checkpoint as a GPT-2: its two heads a layer, of width 16, and two silent ones fill the width of 64."""
    file = tmp_path_factory.mktemp("gpt2") / "chain.safetensors"
    save_file(to_gpt2(load(checkpoints / "chain-d3-l3-curriculum").model), file)
    return file


def test_the_labels_are_those_of_the_model_itself(checkpoints, exported):
    """Here as a user runs it, in a process of its own."""
    options = [*TASK, "--supervision", "chain", "--examples", 256, "--json", "--quiet"]
    result = stackheads_text("analyze", "--gpt2", exported, "--heads", 4, *options)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    expected = analyze(checkpoints / "chain-d3-l3-curriculum", examples=256, progress=False, explain=False).to_dict()
    silent = [row for row in found["labels"] if row["head"][-1] in "23"]
    assert {row["status"] for row in silent} <= {"none", "pattern-only"}
    spoken = [row for row in found["labels"] if row["head"][-1] in "01"]
    for mine, other in zip(expected["labels"], spoken, strict=True):
        for name in ("head", "destination", "status", "role", "hop", "looks_like", "readout"):
            assert mine[name] == other[name]
        for name in ("pattern", "effect", "write"):
            assert mine[name] == pytest.approx(other[name], abs=1e-4)
    assert found["hops"] == expected["hops"] != {}
    assert found["model"]["name"] == "chain"
    assert found["task"] == expected["task"]


class Hostile:
    """A pickle that makes a folder where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("was-here",)


@pytest.fixture(scope="module")
def files(exported, tmp_path_factory):
    """Files to try, by name."""
    folder = tmp_path_factory.mktemp("files")
    torch.save({"wte.weight": torch.ones(2, 2), "more": Hostile()}, folder / "hostile.pt")
    torch.save({"model": load_file(exported)}, folder / "good.pt")
    (folder / "cut.safetensors").write_bytes(exported.read_bytes()[:5000])
    save_file({"encoder.weight": torch.ones(2)}, folder / "other.safetensors")
    (folder / "good.safetensors").write_bytes(exported.read_bytes())
    return folder


def test_the_hostile_pickle_would_have_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Hostile()))
    assert (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpt2", "good.pt", "--heads", 4, *TASK], "is a pickle, which may run code"),
        (["--gpt2", "good.pt", "--allow-pickle", "--heads", 5, *TASK], "heads must divide"),  # read, then refused
        (
            ["--gpt2", "hostile.pt", "--allow-pickle", "--heads", 4, *TASK],
            "must hold plain tensors, it is damaged or holds code",
        ),
        (["--gpt2", "cut.safetensors", "--heads", 4, *TASK], "must be a safetensors file"),
        (["--gpt2", "other.safetensors", "--heads", 4, *TASK], "one wpe.weight, this has encoder.weight"),
        (["--gpt2", "none.safetensors", "--heads", 4, *TASK], "none.safetensors is none: check the path"),
        (
            ["--gpt2", ".", "--heads", 4, *TASK],
            "a model's folder has model.safetensors, an index or pytorch_model.bin, . has none",
        ),
        (["--gpt2", "good.safetensors", "--heads", 5, *TASK], "heads must divide the width of the model, 64, got 5"),
        (["--gpt2", "good.safetensors", *TASK], "got none: give n_heads, or --heads N"),
        (["--gpt2", "good.safetensors", "--heads", 4], "got no --task: add --task khop"),
        (
            ["--gpt2", "good.safetensors", "--heads", 4, "--task", "maze"],
            "conditional, khop, graph, automaton, cases, got 'maze'",
        ),
        (["--gpt2", "good.safetensors", "--heads", 4, "--task", "cycle"], "needs attention_dir = bidirectional"),
        (["--gpt2", "good.safetensors", "--heads", 4, "--task", "conditional"], "the model has"),
        (["--gpt2", "good.safetensors", "--heads", 4, "--task", "khop", "--context", 99], "needs a context of 99 tokens"),
        (["--gpt2", "good.safetensors", "--heads", 4, "--task", "khop", "--symbols", 90, "--context", 9], "needs d_vocab = 97"),
        (["--gpt2", "good.safetensors", "--heads", 4, *TASK, "--unembed", "sideways"], "unembed must be tied, identity"),
        (["--gpt2", "good.safetensors", "--heads", 4, *TASK, "--device", "abacus"], "got 'abacus': try --device cpu"),
        (["checkpoint", "--gpt2", "good.safetensors"], "takes one model, got checkpoint and --gpt2 good.safetensors"),
        (["checkpoint", "--hops", 3], "knows its heads and its task"),
        ([], "got none: name a checkpoint or run folder, or give --gpt2 FILE"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2_and_write_nothing(files, run, monkeypatch, arguments, says):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    status, out, err = run("analyze", *arguments, "--output-dir", "out", "--html", "page.html")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert says in err
    assert sorted(files.iterdir()) == before
