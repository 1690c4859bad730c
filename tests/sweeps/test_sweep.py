"""A sweep loses nothing when it is killed, and runs no plan twice: with SIGKILL, and with a lost node of a Ray cluster."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest
import torch
from forked import started

from stackheads.errors import ConfigError
from stackheads.report.sweep import print_sweep
from stackheads.sweeps.plans import plans, read_sweep
from stackheads.sweeps.rates import success_rates
from stackheads.sweeps.sweep import RunBusyError, _locked, carry_out, open_sweep, plan_folder, stored_result
from stackheads.sweeps.workers import Outcome, _failure_file, run_sweep

SWEEP = """
task: {kind: cycle, symbols: 4, max_hops: 1}
model: {layers: 1, heads: 1, d_model: 8, d_head: 4}
training: {steps: 300, batch: 16, evaluate_every: 20, evaluate_examples: 16}
grid:
  task.supervision: [chain, final]
  training.seed: {range: 2}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def sweep(file: Path, folder: Path, *more: str) -> BaseProcess:
    """`stackheads sweep` while it runs; what it prints of mistakes lies beside the file."""
    told = ("--output-dir", folder, "--quiet", *more)
    return started("sweep", file, *told, out=file.with_name("out"), error=file.with_name("error"))


def wait_for(condition, process: BaseProcess, file: Path) -> None:
    while not condition():
        assert process.is_alive(), file.with_name("error").read_text()
        time.sleep(0.05)


def in_the_middle(folder: Path) -> bool:
    """One plan is done and another has stored a state."""
    states = list(folder.glob("cells/*/state.safetensors"))
    done = list(folder.glob("cells/*/result.json"))
    return bool(done) and any(not (state.parent / "result.json").exists() for state in states)


def run_here(file: Path, folder: Path) -> Outcome:
    """The sweep, one plan after the other in this process."""
    threads = torch.get_num_threads()
    for plan in open_sweep(read_sweep(file), folder):
        carry_out(plan, folder)
    torch.set_num_threads(threads)
    return run_sweep(read_sweep(file), folder, progress=False)


def test_a_killed_sweep_goes_on_to_the_same_results(file, tmp_path):
    """The same as those of runs one after the other in this process.

    Killed with one worker, so that a plan is done and the next one is not, and taken up with two.
    """
    file.write_text(SWEEP.replace("[chain, final]", "[chain]").replace("{range: 2}", "{range: 3}"))
    whole = run_here(file, tmp_path / "whole")
    assert not whole.failures
    folder = tmp_path / "killed"
    process = sweep(file, folder, "--workers", "1")
    wait_for(lambda: in_the_middle(folder), process, file)
    done = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    process.kill()
    process.join()
    assert 0 < len(list(folder.glob("cells/*/result.json"))) < 3
    outcome = run_sweep(read_sweep(file), folder, workers=2, progress=False)
    assert not outcome.failures
    pd.testing.assert_frame_equal(outcome.results, whole.results)
    assert list(outcome.results["cell"]) == [plan.name for plan in plans(read_sweep(file))]
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())  # what was done was not done again
    for name in ("results.csv", "success.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_sweep_that_is_interrupted_says_so_in_a_line(file, tmp_path):
    """Ctrl-C reaches the sweep and its workers, as from a terminal."""
    file.write_text(SWEEP.replace("steps: 300", "steps: 1000000"))
    command = [
        sys.executable,
        "-c",
        "from stackheads.cli import main; main()",
        "sweep",
        str(file),
        "--output-dir",
        "s",
        "--quiet",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and len(list(tmp_path.glob("s/cells/*/state.safetensors"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate()
    assert (process.returncode, out, error) == (130, "", "interrupted\n")


def test_a_ray_cluster_may_lose_a_node(file, tmp_path):
    file.write_text(SWEEP.replace("{range: 2}", "[0]"))
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        folder = tmp_path / "ray"
        process = sweep(file, folder, "--ray", cluster.address)
        wait_for(lambda: len(list(folder.glob("cells/*/state.safetensors"))) >= 2, process, file)
        cluster.remove_node(node, allow_graceful=False)
        process.join()
        assert process.exitcode == 0, file.with_name("error").read_text()
    finally:
        cluster.shutdown()
    table = pd.read_csv(folder / "results.csv")
    assert sorted(table["cell"]) == sorted(plan.name for plan in plans(read_sweep(file)))


def test_names_of_plans_fit_a_file_system_and_stay_apart(file, tmp_path):
    """Many snapshots make a long name; two that differ at the end only are two, and short names are as they were."""
    steps = [list(range(300, 300 + number)) for number in (90, 91, 92)]
    file.write_text(SWEEP.replace("[chain, final]", "[chain]").replace("{range: 2}", f"[0]\n  training.snapshots: {steps}"))
    made = open_sweep(read_sweep(file), tmp_path / "s")
    assert len({plan.name for plan in made}) == 3
    for plan in made:
        plan_folder(tmp_path / "s", plan).mkdir(parents=True)
        with _locked(tmp_path / "s", plan):
            _failure_file(tmp_path / "s", plan).write_text("a reason")
    assert plans(read_sweep(file)) == made
    file.write_text(SWEEP)
    assert next(plan.name for plan in plans(read_sweep(file))) == "supervision-chain_seed-0"


def test_what_does_not_fit_into_memory_is_a_line_of_the_outcome(file, tmp_path):
    file.write_text(SWEEP.replace("[chain, final]", "[chain]").replace("{range: 2}", f"[0]\n  model.d_model: [{10**14}]"))
    (failure,) = run_sweep(read_sweep(file), tmp_path / "s", progress=False).failures
    assert "must fit into memory" in failure.reason


def test_two_workers_never_share_a_cell(file, tmp_path):
    made = open_sweep(read_sweep(file), tmp_path / "s")
    with _locked(tmp_path / "s", made[0]), pytest.raises(RunBusyError, match="another is training supervision-chain_seed-0"):
        carry_out(made[0], tmp_path / "s")
    assert not (plan_folder(tmp_path / "s", made[0]) / "run.json").exists()


def test_the_grid_is_the_product_of_its_values(file):
    made = plans(read_sweep(file))
    assert [plan.name for plan in made] == [f"supervision-{way}_seed-{seed}" for way in ("chain", "final") for seed in (0, 1)]
    assert made[3].settings["task"]["supervision"] == "final"
    assert made[3].settings["training"]["seed"] == 1
    assert made[3].settings["training"]["steps"] == 300


def test_success_rates_have_wilsons_interval():
    table = pd.DataFrame(
        {"a": [1] * 10, "training.seed": range(10), "solved": [True] * 5 + [False] * 5, "solved_at": [100] * 10}
    )
    (row,) = success_rates(table, ["a", "training.seed"]).to_dict("records")
    z, p, n = 1.959964, 0.5, 10
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    assert row["low"] == pytest.approx(middle - half, abs=1e-6)
    assert row["high"] == pytest.approx(middle + half, abs=1e-6)
    assert (row["runs"], row["solved"]) == (10, 5)
    more = table.assign(**{"training.data_seed": range(10)})
    (same,) = success_rates(more, ["a", "training.seed", "training.data_seed"]).to_dict("records")
    assert same == row


def test_settings_stay_as_they_were_written():
    """A null is no nan, a whole number beside it no fraction, true not 1; and settings may be lists."""
    values = [None, 1, 1.5, True, "none", [0.9, 0.98]]
    rows = [{"cell": str(k), "training.x": value, "solved": True, "solved_at": 5} for k, value in enumerate(values)]
    table = pd.DataFrame(rows).assign(**{"training.x": pd.Series(values, dtype=object)})
    rates = success_rates(pd.concat([table, table]), ["training.x", "training.seed"])
    assert [type(value) for value in rates["training.x"]] == [type(value) for value in values]
    assert list(rates["runs"]) == [2] * len(values)
    out = io.StringIO()
    outcome = Outcome(Path("s"), len(table), table, rates, [])
    print_sweep(outcome, out)
    settings = [line.partition(":")[0] for line in out.getvalue().splitlines()[1:]]
    assert settings == ["x null", "x 1", "x 1.5", "x true", "x none", "x [0.9, 0.98]"]
    stored = json.dumps(outcome.to_dict()["success"], allow_nan=False)
    assert [row["training.x"] for row in json.loads(stored)] == values


def test_a_null_in_the_file_is_a_null_in_every_table(file, tmp_path):
    file.write_text(SWEEP.replace("task.supervision: [chain, final]", "training.stop_at: [null, 1]").replace("300", "2"))
    outcome = run_here(file, tmp_path / "s")
    assert list(outcome.results["training.stop_at"]) == [None, None, 1, 1]
    assert list(outcome.success["training.stop_at"]) == [None, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "must be YAML"),
        ("just words", "holds task, model, training and grid"),
        ("task: {}", "sweep setting model"),
        (SWEEP + "on: 3\n", "holds task, model, training and grid, .* has True: correct it"),
        (SWEEP + "  training.drop_heads: [0, 0.1]\n  training.loudness: [0.1]\n", "got drop_heads 0.1 with sharpen_from 0"),
        (SWEEP.replace("{range: 2}", "3"), r"list of values or \{range: N\}, got 3"),
        *(
            (SWEEP.replace("{range: 2}", f"{{range: {number}}}"), rf"N from 1 to 100,000, got {got}")
            for number, got in ((0, 0), (-3, -3), (10**12, 10**12), ("true", "True"), ("2.0", r"2\.0"))
        ),
        (SWEEP.replace("{range: 2}", "{range: 50001}"), "has 1 to 100,000 plans, got 100,002"),
        (SWEEP.replace("steps: 300", "betas: [0.9, 1.0]"), "betas: .*below 1"),
        (SWEEP.replace("d_head: 4", "d_head: 5, positions: rotary"), "even d_head and not 5"),
        (SWEEP.replace("training.seed", "seed"), "named task.…, model.… or training.…, got 'seed'"),
        (SWEEP.replace("[chain, final]", "[chain, none]"), "supervision"),
        (SWEEP.replace("[chain, final]", "[chain, chain]"), "seed-0 are one: remove doubles"),
        *(
            (SWEEP.replace("task.supervision: [chain, final]", grid), f"{one} and {other}_seed-0 are one: remove doubles")
            for grid, one, other in (
                ("training.lr: [0.01, 1e-2]", "lr-0.01_seed-0", "lr-1e-2"),
                ("training.lr: [0.001, 1e-3]", "lr-0.001_seed-0", "lr-1e-3"),
                ("model.d_model: [8, '8']", "d-model-8_seed-0", "d-model-8"),
                ("training.entropy: [0, 0.0]", "entropy-0_seed-0", "entropy-0.0"),
                ("training.balanced: [true, 'yes']", "balanced-True_seed-0", "balanced-yes"),
                (
                    "task.attention_dir: [bidirectional, causal, bidirectional]",
                    "dir-bidirectional_seed-0",
                    "attention-dir-bidirectional",
                ),
            )
        ),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_sweep(read_sweep(path), tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("own", ["training.seed: {range: 2}", "training.seed: [3]"])
def test_a_seed_is_that_of_all_runs_and_is_said_once(tmp_path, own):
    """In the file, in its grid or beside it."""
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("training.seed: {range: 2}", own))
    with pytest.raises(ConfigError, match=r"has training.seed, got 7 too: leave one out"):
        read_sweep(path, 7)
    path.write_text(SWEEP.replace("training.seed: {range: 2}", "training.lr: [0.01]"))
    assert {plan.settings["training"]["seed"] for plan in plans(read_sweep(path, 7))} == {7}
    path.write_text(path.read_text().replace("steps: 300", "steps: 300, seed: 3"))
    with pytest.raises(ConfigError, match=r"has training.seed, got 7 too: leave one out"):
        read_sweep(path, 7)


@pytest.fixture
def finished(file, tmp_path):
    """The folder of a sweep of one finished run, and its file."""
    file.write_text(SWEEP.replace("[chain, final]", "[chain]").replace("{range: 2}", "[0]").replace("300", "2"))
    run_here(file, tmp_path / "s")
    return file, tmp_path / "s"


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("symbols: 4", "symbols: 5", "task.symbols = 4, got 5"),
        ("max_hops: 1", "max_hops: 1, attention_dir: causal", "task.attention_dir = 'bidirectional', got 'causal'"),
        ("d_model: 8", "d_model: 16", "model.d_model = 8, got 16"),
        ("batch: 16", "batch: 16, lr: 0.01", "training.lr = 0.001, got 0.01"),
    ],
)
def test_a_finished_run_of_another_recipe_is_no_result(finished, before, after, found):
    """Whatever the folder says of itself: its `sweep.json` may be gone, or say nothing of what is a default."""
    file, folder = finished
    file.write_text(file.read_text().replace(before, after))
    (plan,) = plans(config := read_sweep(file))
    (folder / "sweep.json").write_text(json.dumps({"format": 1, **config.model_dump(mode="json")}))
    for read in (stored_result, lambda folder, plan: carry_out(plan, folder), lambda folder, _: run_sweep(config, folder)):
        with pytest.raises(ConfigError, match=re.escape(found)):
            read(folder, plan)


def test_settings_that_are_newer_than_a_finished_run_have_their_defaults_there(finished):
    file, folder = finished
    (plan,) = plans(read_sweep(file))
    path = plan_folder(folder, plan) / "run.json"
    stored = json.loads(path.read_text())
    for part in ("task", "model", "training"):
        stored[part] = {name: value for name, value in stored[part].items() if name in plan.settings[part]}
    path.write_text(json.dumps(stored))
    assert stored_result(folder, plan) == carry_out(plan, folder)
    path.unlink()  # of runs that were trained elsewhere the result may be all that there is
    assert stored_result(folder, plan) is not None


def test_a_folder_of_another_sweep_is_refused(file, tmp_path):
    open_sweep(read_sweep(file), tmp_path / "s")
    file.write_text(SWEEP.replace("steps: 300", "steps: 400"))
    with pytest.raises(ConfigError, match="resumes with its own settings"):
        open_sweep(read_sweep(file), tmp_path / "s")
    file.write_text(SWEEP.replace("{range: 2}", "{range: 3}"))  # more plans may come later
    assert len(open_sweep(read_sweep(file), tmp_path / "s")) == 6
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["grid"]["training.seed"] == [0, 1, 2]


@pytest.mark.parametrize("grid", ["training.seed: [1]", "training.seed: [0]\n  training.lr: [0.001]", "task.max_hops: [1]"])
def test_runs_of_plans_that_the_file_has_no_more_are_not_left_out(finished, grid):
    """Of the tables neither, which stay as they are."""
    file, folder = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    file.write_text(file.read_text().partition("grid:")[0] + f"grid:\n  {grid}\n")
    with pytest.raises(ConfigError, match="has a run of supervision-chain_seed-0 and the file not"):
        run_sweep(read_sweep(file), folder, progress=False)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
