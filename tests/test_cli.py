"""The command line as a user meets it: in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

STACKHEADS = [str(Path(sys.executable).parent / "stackheads")]


def run(*arguments, cwd=None):
    return subprocess.run([*STACKHEADS, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False)


def test_analyze_prints_accuracy_labels_and_verdict(checkpoints):
    result = run("analyze", checkpoints / "cycle-d4-l3", "--examples", 64, "--trial")
    assert result.returncode == 0, result.stderr
    assert "1: 100.0%" in result.stdout
    assert "hop 3: L2H0 @query" in result.stdout
    assert "previous: L0H1" in result.stdout
    assert "redirection: the predicted new answer in" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "\x1b" not in result.stdout


def test_a_trial_of_a_model_that_answers_nothing_says_so(checkpoints):
    result = run("analyze", checkpoints / "cycle-d4-l4-final", "--examples", 64, "--trial")
    assert "there is nothing to recover" in result.stdout


def test_a_trial_is_part_of_the_json(checkpoints):
    content = json.loads(run("analyze", checkpoints / "cycle-d4-l3", "--examples", 64, "--trial", "--json").stdout)
    assert {"recovered", "redirected", "necessity", "fixed"} <= content["trial"].keys()
    assert {"nodes", "edges", "faithfulness"} <= content["circuit"].keys()


def test_json_is_one_object_and_output_dir_holds_the_same(checkpoints, tmp_path):
    result = run("analyze", checkpoints / "cycle-d4-l3", "--examples", 64, "--json", "--output-dir", tmp_path / "out")
    content = json.loads(result.stdout)
    assert result.stderr == ""
    assert {"format", "model", "task", "seed", "examples", "accuracy", "labels", "hops"} <= content.keys()
    assert content == json.loads((tmp_path / "out" / "analysis.json").read_text())


def test_train_writes_a_run_that_analyze_reads_and_resume_continues(tmp_path):
    options = ["train", "cycle", "--hops", 1, "--symbols", 4, "--layers", 1, "--heads", 1, "--d-model", 8, "--steps", 20]
    options += ["--batch", 8, "--evaluate-every", 10, "--output-dir", tmp_path / "run", "--quiet"]
    result = run(*options)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "metrics.jsonl", "run.json", "state.safetensors", "step-000020"
    ]  # fmt: skip
    assert run(*options, "--resume").returncode == 0
    assert run(*options).returncode == 2
    shown = run("analyze", tmp_path / "run", "--examples", 32)
    assert "no head is confirmed" in shown.stdout


def test_conditional_retrieval_is_trained_with_as_few_symbols_as_it_takes(tmp_path):
    options = ["train", "conditional", "--hops", 2, "--kinds", 3, "--layers", 1, "--heads", 1, "--d-model", 8, "--steps", 2]
    result = run(*options, "--batch", 2, "--evaluate-every", 2, "--output-dir", tmp_path / "run", "--quiet", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["task"]["symbols"] == 6
    assert json.loads(result.stdout)["accuracy"].keys() == {"1", "2"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["analyze", "nowhere"], "nowhere is nothing: check the path"),
        (["analyze", "CHECKPOINT", "--examples", "0"], "at least 16 for an interval, got 0"),
        (["analyze", "CHECKPOINT", "--examples", "few"], "--examples"),
        (["analyze", "CHECKPOINT", "--device", "abacus"], "got 'abacus': try --device cpu"),
        (["analyze", "CHECKPOINT", "--device", "cuda:77"], "got 'cuda:77'"),
        (["analyze"], "Missing argument"),
        (["dance"], "No such command 'dance'"),
        (["analyze", "CHECKPOINT", "--depth", "3"], "No such option"),
        (["train", "maze", "--output-dir", "out"], "one of cycle, retrieval, conditional, got 'maze'"),
        (["train", "cycle", "--hops", "4", "--symbols", "5", "--output-dir", "out"], "at least 6 symbols"),
        (["train", "conditional", "--kinds", "1", "--output-dir", "out"], "at least 2 kinds"),
        (["train", "conditional", "--layout", "heap", "--output-dir", "out"], "layout"),
        (["train", "cycle", "--layers", "0", "--output-dir", "out"], "model setting layers"),
        (["train", "cycle", "--steps", "0", "--output-dir", "out"], "training setting steps"),
        (["train", "cycle", "--supervision", "none", "--output-dir", "out"], "supervision"),
        (["train", "cycle", "--threads", "0", "--output-dir", "out"], "threads must be at least 1"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2_and_write_nothing(checkpoints, tmp_path, arguments, says):
    arguments = [str(checkpoints / "cycle-d4-l3") if word == "CHECKPOINT" else word for word in arguments]
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_and_version_do_not_import_torch():
    code = "import sys, stackheads.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert "analyze" in run("--help").stdout
