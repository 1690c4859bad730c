"""The command line as a user meets it: in a process of its own (`forked.py`)."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from constructed import EARLY, LATE, write_run
from forked import stackheads_text as run
from forked import started
from safetensors.torch import load_file

from stackheads.cli.task_options import TASKS
from stackheads.labelling.measure import BUDGET
from stackheads.tasks import KINDS

WANTED = ("--examples", 64, "--trial", "--selectors", "--fitted-to", "attention", "--carried")


@pytest.fixture(scope="module")
def printed(checkpoints):
    """What `analyze` prints of a checkpoint, with all that can be asked beside the labels."""
    return run("analyze", checkpoints / "cycle-d4-l3", *WANTED)


@pytest.fixture(scope="module")
def written(checkpoints, tmp_path_factory):
    """The same as JSON, and the folder in which it wrote all that it can write."""
    place = tmp_path_factory.mktemp("written")
    files = ["--output-dir", place / "out", "--figures", place / "figures", "--html", place / "report.html"]
    return run("analyze", checkpoints / "cycle-d4-l3", *WANTED, "--json", *files), place


def test_analyze_prints_accuracy_labels_and_verdict(printed):
    assert printed.returncode == 0, printed.stderr
    assert "1: 100.0%" in printed.stdout
    assert "hop 3: L2H0 @query" in printed.stdout
    assert "previous: L0H1" in printed.stdout
    assert "redirection: the predicted new answer in" in printed.stdout
    assert all(len(line) <= 80 for line in printed.stdout.splitlines())
    assert "\x1b" not in printed.stdout


def test_a_trial_of_a_model_that_answers_nothing_says_so(checkpoints):
    result = run("analyze", checkpoints / "cycle-d4-l4-final", "--examples", 64, "--trial")
    assert "there is nothing to recover" in result.stdout


def test_labels_stand_where_selectors_can_not_be_had_and_why_is_said_beside_them(tmp_path):
    path, out = write_run(tmp_path / "run", "untrained"), tmp_path / "out"
    wanted = ("--examples", 32, "--trial", "--selectors", "--quiet")
    told = run("analyze", path, *wanted)
    assert (told.returncode, told.stderr) == (0, "")
    assert "no head is confirmed" in told.stdout
    assert "no selectors: selectors explain answers that a model gives" in " ".join(told.stdout.split())
    files = ("--output-dir", out, "--figures", out, "--html", tmp_path / "page.html")
    content = json.loads(run("analyze", path, *wanted, "--json", *files).stdout)
    assert content["selectors"]["missing"].startswith("selectors explain answers that a model gives")
    parts = {name: json.loads((out / f"{name}.json").read_text()) for name in ("analysis", "trial", "selectors")}
    assert content == parts.pop("analysis") | parts
    assert (out / "evidence.png").exists()
    assert "There are none: selectors explain answers that a model gives" in (tmp_path / "page.html").read_text()


def test_a_trial_is_part_of_the_json_and_of_the_page(written):
    result, place = written
    content = json.loads(result.stdout)
    assert "Sufficiency: share of the answer" in (place / "report.html").read_text()
    assert {path.name for path in place.iterdir()} == {"out", "figures", "report.html"}
    assert {"recovered", "redirected", "necessity", "fixed"} <= content["trial"].keys()
    assert {"nodes", "edges", "faithfulness"} <= content["circuit"].keys()


def test_json_is_one_object_and_output_dir_holds_the_same(written):
    result, place = written
    content = json.loads(result.stdout)
    assert {path.name for path in (place / "figures").iterdir()} >= {"circuit.png", "circuit.svg", "evidence.png", "reach.svg"}
    assert result.stderr == ""
    assert {"format", "model", "task", "seed", "examples", "accuracy", "labels", "hops"} <= content.keys()
    parts = {name: json.loads((place / "out" / f"{name}.json").read_text()) for name in ("analysis", "trial", "selectors")}
    assert content == parts.pop("analysis") | parts


def test_what_heads_look_at_is_printed_and_in_json(printed, written):
    found = json.loads(written[0].stdout)["selectors"]
    assert found["fitted_to"] == "attention"
    assert "selectors fitted to attention" in printed.stdout
    assert "previous" in printed.stdout.split("selectors fitted to attention")[1]
    confirmed = {(row["head"], row["destination"], row["what"]) for row in found["table"] if row["status"] == "confirmed"}
    assert ("L0H1", "value", "previous") in confirmed
    assert ("L2H0", "query", "hop 3") in confirmed


def test_emerge_prints_when_heads_and_hops_appear(tmp_path):
    run_folder = write_run(tmp_path / "run", "untrained", "first", "whole")
    result = run("emerge", run_folder, "--examples", 64)
    assert result.returncode == 0, result.stderr
    assert f"by 200: hop 1, {', '.join(EARLY)}" in " ".join(result.stdout.split())
    assert f"by 300: hop 2, {LATE}" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "\x1b" not in result.stdout


def test_emerge_writes_json_tables_and_the_figure(tmp_path):
    run_folder, out = write_run(tmp_path / "run", "untrained", "whole"), tmp_path / "out"
    result = run("emerge", run_folder, "--examples", 32, "--json", "--quiet", "--output-dir", out)
    assert result.stderr == ""
    assert json.loads(result.stdout) == json.loads((out / "emergence.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["accuracy.csv", "emergence.json", "heads.csv", "timeline.png"]
    assert (out / "timeline.png").read_bytes().startswith(b"\x89PNG")


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


def test_training_that_is_interrupted_says_so_in_a_line_and_leaves_what_resumes(tmp_path):
    options = ["train", "cycle", "--hops", 1, "--symbols", 4, "--layers", 1, "--heads", 1, "--d-model", 8, "--steps", 10**6]
    options += ["--batch", 8, "--evaluate-every", 10, "--output-dir", tmp_path / "run", "--quiet"]
    process = started(*options, out=tmp_path / "out", error=tmp_path / "error")
    while process.is_alive() and not (tmp_path / "run" / "state.safetensors").exists():
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert (process.exitcode, (tmp_path / "error").read_text()) == (130, "interrupted\n")
    (snapshot,) = (tmp_path / "run").glob("step-*")
    state = load_file(tmp_path / "run" / "state.safetensors")
    weights = load_file(snapshot / "model.safetensors")
    assert int(state["step"]) == int(snapshot.name.removeprefix("step-"))
    assert all(torch.equal(value, state[f"weight.{name}"]) for name, value in weights.items())


def test_theory_prints_bounds_simulation_and_shortcuts():
    result = run("theory", "--task", "retrieval", "--chains", 2, "--hops", 3, "--order", "shuffled")
    assert result.returncode == 0, result.stderr
    table = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line[:1].isdigit()}
    assert table["1"][1:5] == ["2", "2", "2", "2"]
    assert 40 <= int(table["1"][5].strip("(%)")) <= 60  # of the value slots see their link
    assert table["3"] == ["3", "3", "3", "–", "–", "2.33", "2.81", "1.63"]
    assert "among the chains' ends is hop 3 in 50%" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "\x1b" not in result.stdout


def test_theory_writes_the_json_it_prints(tmp_path):
    result = run("theory", "--symbols", 6, "--json", "--output-dir", tmp_path / "out")
    content = json.loads(result.stdout)
    assert result.stderr == ""
    assert [hop["query"]["simulated"] for hop in content["hops"]] == [2, 2, 3, 3]
    assert {(cut["hop"], cut["kind"]) for cut in content["shortcuts"]} == {(3, "elimination"), (4, "wrap-around")}
    assert content == json.loads((tmp_path / "out" / "theory.json").read_text())


def test_an_automaton_is_trained_with_its_language(tmp_path):
    options = ["train", "automaton", "--language", "parity", "--context", 9, "--layers", 1, "--heads", 1, "--d-model", 8]
    result = run(*options, "--steps", 2, "--output-dir", tmp_path / "run", "--json", "--quiet")
    assert result.returncode == 0, result.stderr
    task = json.loads((tmp_path / "run" / "run.json").read_text())["task"]
    assert (task["kind"], task["language"], task["context"], task["max_hops"]) == ("automaton", "parity", 9, 1)


def test_the_help_says_the_budget_that_there_is():
    assert f"[default: {BUDGET}]" in " ".join(run("analyze", "--help").stdout.split())


def test_the_help_names_every_task():
    assert TASKS.split(", ") == list(KINDS)


def test_templates_in_pairs_are_trained_with_no_option_but_the_layout(tmp_path):
    options = ["train", "templates", "--layout", "pairs", "--layers", 1, "--heads", 1, "--d-model", 8, "--steps", 2]
    result = run(*options, "--batch", 8, "--output-dir", tmp_path / "run", "--json", "--quiet")
    assert result.returncode == 0, result.stderr
    task = json.loads((tmp_path / "run" / "run.json").read_text())["task"]
    assert (task["layout"], task["supervision"], task["pairs"]) == ("pairs", "final", 3)


def test_the_nearest_key_is_asked_for_in_either_layout(tmp_path):
    sizes = ["--layers", 1, "--heads", 1, "--d-model", 8, "--steps", 2, "--batch", 2, "--evaluate-every", 2]
    for number, given in enumerate((["--pairs", 3, "--values", 2], ["--layout", "statements", "--symbols", 9])):
        run_folder = tmp_path / str(number)
        result = run("train", "nearest", *given, *sizes, "--output-dir", run_folder, "--json", "--quiet")
        assert result.returncode == 0, result.stderr
    first, second = (json.loads((tmp_path / name / "run.json").read_text())["task"] for name in ("0", "1"))
    assert [first[name] for name in ("symbols", "pairs", "values", "layout", "supervision")] == [32, 3, 2, "pairs", "final"]
    assert [second[name] for name in ("symbols", "pairs", "values", "layout", "max_hops")] == [9, 8, 8, "statements", 1]


def test_variable_binding_is_trained_with_its_programs(tmp_path):
    options = ["train", "binding", "--lines", 5, "--constants", 3, "--hops", 2, "--supervision", "final", "--layers", 1]
    options += ["--heads", 1, "--d-model", 8, "--steps", 2, "--batch", 8, "--output-dir", tmp_path / "run", "--quiet"]
    assert run(*options).returncode == 0
    task = json.loads((tmp_path / "run" / "run.json").read_text())["task"]
    assert (task["kind"], task["lines"], task["constants"], task["max_hops"]) == ("binding", 5, 3, 2)


@pytest.mark.parametrize(
    ("case", "sizes"),
    [("memory", (8, 6, 0)), ("reasoning", (16, 1, 8)), ("template", (16, 4, 0)), ("template-in-context", (15, 3, 4))],
)
def test_a_case_study_of_depth_is_trained_with_sizes_of_its_own(tmp_path, case, sizes):
    options = ["train", "cases", "--case", case, "--layers", 1, "--heads", 1, "--d-model", 8]
    result = run(*options, "--steps", 2, "--output-dir", tmp_path / "run", "--json", "--quiet")
    assert result.returncode == 0, result.stderr
    task = json.loads((tmp_path / "run" / "run.json").read_text())["task"]
    assert (task["kind"], task["case"], task["max_hops"]) == ("cases", case, 1)
    assert (task["symbols"], task["length"], task["pairs"]) == sizes


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
        (["analyze", "CHECKPOINT", "--examples", "0"], "at least 16 for an interval, or 'auto', got 0"),
        (["analyze", "CHECKPOINT", "--examples", "few"], "--examples"),
        (["analyze", "CHECKPOINT", "--device", "abacus"], "got 'abacus': try --device cpu"),
        (["analyze", "CHECKPOINT", "--device", "cuda:77"], "got 'cuda:77'"),
        (["analyze", "CHECKPOINT", "--html", "."], "this output is a file, . is a folder: name a file"),
        (["analyze", "nowhere", "--selectors", "--fitted-to", "me"], "--fitted-to is answer or attention, got 'me'"),
        (["analyze", "nowhere", "--fitted-to", "attention"], "got attention without them: add --selectors"),
        (["analyze", "nowhere", "--examples", "32", "--budget", "4096"], "got 4096 with --examples 32: leave one of them out"),
        (["analyze", "nowhere", "--examples", "32", "--budget", "50"], "got 50 with --examples 32: leave one of them out"),
        (["train", "cycle", "--sharpen-from", "9", "--output-dir", "out"], "got 9 without them: add --entropy or --loudness"),
        (
            ["train", "cycle", "--drop-heads", "0.1", "--entropy", "0.01", "--output-dir", "out"],
            "got drop_heads 0.1 with sharpen_from 0: begin to sharpen later",
        ),
        (
            ["train", "cycle", "--steps", "9", "--entropy", "0.1", "--sharpen-from", "9", "--output-dir", "out"],
            "got 9 of 9 steps: begin to sharpen earlier",
        ),
        (["sweep", "nowhere", "--ray", "auto", "--workers", "4", "--output-dir", "out"], "got 4 with --ray: leave one"),
        (
            ["llm", "--model", "nowhere", "--few-shot-questions", "0", "--shots", "5", "--output-dir", "out"],
            "got 5 and none of these: leave it out",
        ),
        (["analyze"], "got none: name a checkpoint"),
        (["dance"], "No such command 'dance'"),
        (["analyze", "CHECKPOINT", "--depth", "3"], "No such option"),
        (
            ["emerge", "CHECKPOINT", "--output-dir", "out"],
            "is a single checkpoint: give a run folder, train with --snapshot-every 250",
        ),
        (
            ["train", "maze", "--output-dir", "out"],
            f"one of {', '.join(KINDS)}, got 'maze'",
        ),
        (["train", "cycle", "--hops", "4", "--symbols", "5", "--output-dir", "out"], "at least 6 symbols"),
        (["train", "conditional", "--kinds", "1", "--output-dir", "out"], "at least 2 kinds"),
        (["train", "conditional", "--layout", "heap", "--output-dir", "out"], "layout"),
        (
            ["train", "graph", "--graph", "tree", "--in-degree", "2", "--output-dir", "out"],
            "in_degree of a tree must be 1, got 2",
        ),
        (["train", "nearest", "--pairs", "40", "--output-dir", "out"], "40 pairs need as many symbols, got 32"),
        (["train", "nearest", "--supervision", "dense", "--output-dir", "out"], "supervision"),
        (
            ["train", "khop", "--layout", "pairs", "--output-dir", "out"],
            "--layout describes conditional, nearest, templates, got task khop: leave it out",
        ),
        (["train", "cycle", "--chains", "3", "--output-dir", "out"], "--chains describes retrieval, got task cycle"),
        (["train", "graph", "--order", "sorted", "--output-dir", "out"], "--order describes cycle, retrieval, got task graph"),
        (["train", "khop", "--graph-seed", "1", "--output-dir", "out"], "--graph-seed describes graph, got task khop"),
        (["theory", "--chains", "3"], "--chains describes retrieval, got task cycle"),
        (["train", "cycle", "--layers", "0", "--output-dir", "out"], "model setting layers"),
        (["train", "cycle", "--steps", "0", "--output-dir", "out"], "training setting steps"),
        (["train", "cycle", "--supervision", "none", "--output-dir", "out"], "supervision"),
        (["theory", "--task", "maze"], f"one of {', '.join(KINDS)}, got 'maze'"),
        (["theory", "--order", "best"], "setting order"),
        (["train", "cycle", "--hops", "0", "--output-dir", "out"], "at least 1, got 0"),
        (["train", "graph", "--hops", "2", "--output-dir", "out"], "asks for one hop, got max_hops 2"),
        (
            ["train", "templates", "--templates", "6", "--output-dir", "out"],
            "multiple of the 4 values, as many for each, got 6",
        ),
        (["train", "templates", "--layout", "pages", "--output-dir", "out"], "layout"),
        (["train", "automaton", "--hops", "3", "--output-dir", "out"], "one hop away, got max_hops 3"),
        (["train", "cases", "--hops", "2", "--output-dir", "out"], "ask for one hop, got max_hops 2"),
        (["train", "cases", "--case", "oracle", "--output-dir", "out"], "got 'oracle'"),
        (["train", "cases", "--case", "reasoning", "--length", "2", "--output-dir", "out"], "length must be 1 for reasoning"),
        (["theory", "--hops", "0"], "max_hops must be at least 1, got 0"),
        (["theory", "--examples", "0", "--output-dir", "out"], "at least 1, got 0"),
        (["train", "cycle", "--threads", "0", "--output-dir", "out"], "threads must be at least 1"),
        (["train", "cycle", "--threads", "100000", "--output-dir", "out"], "threads must be at most"),
        (["validate", "--workers", "100000", "--output", "out"], "workers must be at most"),
        (["train", "cycle", "--d-model", str(10**14), "--output-dir", "out"], "must fit into memory, "),
        (["train", "cycle", "--symbols", str(10**14), "--output-dir", "out"], "must fit into memory, "),
        (["theory", "--examples", str(10**15)], "must fit into memory, what 1,000,000,000,000,000 examples of 17 tokens"),
        (["theory", "--task", "retrieval", "--hops", str(10**9)], "must fit into memory, what 256 examples of "),
        (["train", "retrieval", "--hops", str(10**9), "--output-dir", "out"], "memory, the attention of a batch of 128 with "),
        (["analyze", "CHECKPOINT", "--examples", str(10**9)], "must fit into memory, 1,000,000,000 examples of "),
        (["train", "cycle", "--lr", "inf", "--output-dir", "out"], "training setting lr: Input should be a finite number"),
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
