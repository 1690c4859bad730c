"""The sweeps at the paper's scale: their recipe is one, their runs alternate, a part of them is balanced and goes on."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.append(str(ANALYSES))

import collect_scale  # noqa: E402
import scale_confined  # noqa: E402
import scale_keys  # noqa: E402
import scale_mechanisms  # noqa: E402
import train_in_turn  # noqa: E402
from scale_layers import CURRICULUM, size_of  # noqa: E402

from stackheads.errors import ConfigError  # noqa: E402
from stackheads.sweeps.plans import read_sweep  # noqa: E402
from stackheads.sweeps.sweep import open_sweep, stored_result  # noqa: E402
from stackheads.tasks import Cycle, from_config, with_keys  # noqa: E402
from stackheads.theory import layers_needed  # noqa: E402

SWEEPS = sorted((ANALYSES / "sweeps").glob("scale-curriculum-*.yaml"))
TINY = """
task: {{kind: cycle, symbols: 4, max_hops: 1, supervision: {}}}
model: {{layers: 1, heads: 1, d_model: 8, d_head: 4}}
training: {{steps: 40, batch: 8, evaluate_every: 10, evaluate_examples: 16}}
grid: {{training.seed: {{range: {}}}}}
"""


@pytest.fixture
def folders(tmp_path):
    """Two opened sweeps of two and three plans, by folder."""
    plans = {}
    for supervision, seeds in (("chain", 2), ("final", 3)):
        file = tmp_path / f"tiny-{supervision}.yaml"
        file.write_text(TINY.format(supervision, seeds))
        plans[tmp_path / "sweeps" / file.stem] = open_sweep(read_sweep(file), tmp_path / "sweeps" / file.stem)
    return plans


def recipe(name: str, supervision: str) -> dict:
    """A sweep's file without its supervision, which is checked, and without snapshots, which training does not see."""
    content = yaml.safe_load((ANALYSES / "sweeps" / f"{name}-{supervision}.yaml").read_text())
    assert content["task"].pop("supervision") == supervision
    content["training"].pop("snapshot_every", None)
    return content


def test_the_arms_of_a_task_differ_in_supervision_alone_and_all_are_trained_alike():
    names = sorted({file.stem.rpartition("-")[0] for file in SWEEPS})
    assert len(SWEEPS) == 2 * len(names)
    assert all(recipe(name, "chain") == recipe(name, "final") for name in names)
    assert all(
        recipe(name, "chain")[part] == recipe(names[0], "chain")[part] for name in names for part in ("training", "grid")
    )


def test_arms_of_other_depth_differ_from_the_curriculum_s_in_layers_and_hops_alone():
    found = []
    for file in (ANALYSES / "sweeps").glob("scale-layers-*.yaml"):
        content, other = yaml.safe_load(file.read_text()), recipe("scale-curriculum-d3", "chain")
        assert content["task"].pop("supervision") == "chain"
        content["training"].pop("snapshot_every")
        found.append((content["task"].pop("max_hops"), content["model"].pop("layers")))
        other["task"].pop("max_hops")
        other["model"].pop("layers")
        assert [content[part] for part in ("task", "model", "training")] == [
            other[part] for part in ("task", "model", "training")
        ]
        assert size_of(file.stem) == found[-1]
    assert sorted(found) == [(2, 3), (3, 1), (3, 2), (3, 3), (3, 5), (4, 3)]


def test_what_the_curriculum_s_arms_are_is_what_their_files_say():
    for arm, size in CURRICULUM.items():
        content = yaml.safe_load((ANALYSES / "sweeps" / f"{arm}.yaml").read_text())
        assert size_of(arm) == size == (content["task"]["max_hops"], content["model"]["layers"])
    assert size_of("scale-curriculum-cycle-chain") is None


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_model_has_one_layer_more_than_its_furthest_hop_needs(file):
    content = yaml.safe_load(file.read_text())
    task = from_config(content["task"])
    needed = max(layers_needed(hop, task.attention_dir, period=task.period) or 0 for hop in range(1, task.max_hops + 1))
    assert content["model"]["layers"] == needed + 1


def test_sweeps_alternate(folders):
    order = [(folder.name, plan.name) for folder, plan in train_in_turn.in_turn(folders)]
    assert order == [
        ("tiny-chain", "seed-0"),
        ("tiny-final", "seed-0"),
        ("tiny-chain", "seed-1"),
        ("tiny-final", "seed-1"),
        ("tiny-final", "seed-2"),
    ]


def test_what_is_done_is_not_trained_again(folders, capsys):
    assert train_in_turn.train(folders) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert all(stored_result(folder, plan) for folder, plan in train_in_turn.in_turn(folders))
    assert train_in_turn.train(folders) == 0
    assert not capsys.readouterr().out


def test_what_a_table_lists_is_not_trained(folders, capsys):
    done = pd.DataFrame({"arm": ["tiny-chain", "tiny-final", "elsewhere"], "seed": [1, 0, 2]})
    assert train_in_turn.train(train_in_turn.but_for(folders, done)) == 0
    runs = [(folder.name, plan.name, stored_result(folder, plan)) for folder, plan in train_in_turn.in_turn(folders)]
    assert [run[:2] for run in runs if run[2] is None] == [("tiny-final", "seed-0"), ("tiny-chain", "seed-1")]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_what_a_table_calls_unsolved_is_not_trained(folders, tmp_path):
    file = tmp_path / "mechanisms.csv"
    rows = [("tiny-chain", "seed-0", True), ("tiny-chain", "seed-1", False), ("tiny-final", "seed-2", False)]
    pd.DataFrame(rows, columns=["sweep", "cell", "solved"]).to_csv(file, index=False)
    every = train_in_turn.in_turn(folders)
    for unsolved, left_out in ((False, rows), (True, rows[1:])):
        left = train_in_turn.but_for(folders, train_in_turn.finished(file, unsolved))
        missing = [pair for pair in every if pair not in train_in_turn.in_turn(left)]
        assert sorted((folder.name, plan.name) for folder, plan in missing) == sorted(row[:2] for row in left_out)


@pytest.mark.parametrize(
    ("text", "rule"),
    [(None, "cannot be read"), ("arm\nx\n", "has no seed"), ("cell\nx\n", "has no arm and no seed"), ("", "cannot be read")],
)
def test_a_table_that_is_none_is_refused_before_the_work(tmp_path, monkeypatch, text, rule):
    file = tmp_path / "done.csv"
    if text is not None:
        file.write_text(text)
    command = ["train_in_turn.py", SWEEPS[0].stem, "--sweeps", str(tmp_path / "sweeps"), "--but-for", str(file)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match=f"error: --but-for is a CSV of finished runs .* {rule}"):
        train_in_turn.main()
    assert not (tmp_path / "sweeps").exists()


@pytest.fixture
def trained(folders, tmp_path):
    """The folder of both tiny sweeps with all runs finished, and their files."""
    train_in_turn.train(folders)
    return tmp_path / "sweeps", sorted(tmp_path.glob("*.yaml"))


def collected(folders, results, files) -> dict[str, bytes]:
    results.mkdir(exist_ok=True)
    for name, table in collect_scale.gather(folders, results, files).items():
        table.to_csv(results / f"{name}.csv", index=False)
    return {file.name: file.read_bytes() for file in results.iterdir()}


def test_parts_collected_one_after_the_other_are_the_whole_byte_for_byte(trained, tmp_path):
    """In any order, again and again, and from folders that hold some runs each or the same."""
    folder, files = trained
    whole = collected([folder], tmp_path / "whole", files)
    table = pd.read_csv(tmp_path / "whole" / "scale-runs.csv")
    assert table[["arm", "seed"]].to_numpy().tolist() == [
        *(["tiny-chain", seed] for seed in range(2)),
        *(["tiny-final", seed] for seed in range(3)),
    ]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere)
    for run in ("tiny-chain/cells/seed-0", "tiny-final/cells/seed-2"):
        shutil.rmtree(folder / run)
    parts = tmp_path / "parts"
    assert collected([folder], parts, files) != whole
    assert collected([elsewhere, folder], parts, files) == whole
    assert collected([folder], parts, files) == whole
    assert collected([folder, elsewhere], tmp_path / "together", files) == whole


def test_a_run_with_two_results_is_an_error(trained, tmp_path):
    folder, files = trained
    collected([folder], tmp_path / "results", files)
    file = folder / "tiny-final/cells/seed-1/result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"accuracy_1": 0.12345}))
    with pytest.raises(ConfigError, match="tiny-final seed 1"):
        collect_scale.gather([folder], tmp_path / "results", files)


def test_a_sweep_of_another_recipe_is_an_error(trained, tmp_path):
    folder, files = trained
    files[0].write_text(files[0].read_text().replace("steps: 40", "steps: 50"))
    with pytest.raises(ConfigError, match="training"):
        collect_scale.gather([folder], tmp_path / "results", files)


def test_a_run_in_one_row():
    history = [
        {"step": 10, "loss": 2.0, "accuracy": {1: 0.5, 2: 0.1}, "time": 100.0},
        {"step": 20, "loss": 1.0, "accuracy": {1: 0.95, 2: 0.2}, "time": 103.0},
        {"step": 30, "loss": 0.5, "accuracy": {1: 0.8, 2: 0.6}, "time": 9000.0},  # it was stopped before
        {"step": 40, "loss": 0.4, "accuracy": {1: 0.99, 2: 0.7}, "time": 9003.0},
    ]
    result = {"steps": 40, "solved": False, "solved_at": None, "accuracy_1": 0.98, "accuracy_2": 0.71}
    row = collect_scale.summary(result, history)
    assert (row["half_1"], row["half_2"], row["learnt_1"], row["learnt_2"], row["half_3"]) == (10, 30, 20, None, None)
    assert (row["accuracy_2"], row["accuracy_3"], row["seconds"]) == (0.71, None, 12)


@pytest.mark.parametrize(
    ("hop_1", "hop_2", "said"),
    [
        ([1.0, 0.995], [0.5, 0.4], "shown"),
        ([1.0, 1.0, 1.0], [0.5, 0.4, 0.7], "not shown"),
        ([1.0, 1.0], [0.5, 0.7], "contradicted"),
        ([1.0, 0.9], [0.5, 0.4], "contradicted"),
    ],
    ids=["falls", "falls in most", "stays", "disturbed"],
)
def test_what_confined_attention_says(hop_1, hop_2, said):
    """A guess of hop 2 by two layers is right in 56 %."""
    arm = "scale-layers-d3-2"
    rows = [(arm, seed, hop, 1.0, 0.0, share) for hop, last in ((1, hop_1), (2, hop_2)) for seed, share in enumerate(last)]
    assert scale_confined.verdict(pd.DataFrame(rows, columns=[*scale_confined.KEY, *scale_confined.COLUMNS]), arm) == said


def test_the_first_hop_that_is_forbidden_is_the_one_beyond_what_layers_can_know():
    assert [scale_confined.forbidden(arm) for arm in scale_confined.ARMS] == [2, 4]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["doubling"] * 8, "shown"),
        (["doubling"] * 7 + ["other"], "shown"),
        (["doubling"] * 6 + ["tripling"] * 2, "contradicted"),
        (["doubling"] * 7 + ["tripling"], "not shown"),
        (["doubling"] * 5 + ["other"] * 3, "not shown"),
        (["doubling"] * 2, "not shown"),
        (["other"] * 8, "not shown"),
        (["none"] * 8, "not shown"),
        ([], "not shown"),
    ],
)
def test_what_the_names_of_runs_say_of_one_mechanism(names, said):
    assert scale_mechanisms.one_mechanism(pd.Series(names, dtype=object)) == said


def test_the_control_has_the_keys_of_the_example_before():
    task = with_keys(Cycle(symbols=8, max_hops=4))
    batch = task.sample(16, torch.Generator().manual_seed(0))
    other = scale_keys.OthersKeys(**task.model_dump()).batch(batch.tokens)
    assert torch.equal(other.operands[1:], batch.operands[:-1])
    assert torch.equal(other.find, batch.find)


@pytest.mark.parametrize(
    ("kept", "with_keys", "with_others", "shown"),
    [(0.1, 0.6, 0.1, True), (0.1, 0.4, 0.1, False), (0.6, 0.9, 0.1, False), (0.1, 0.9, 0.6, False)],
)
def test_what_shows_that_a_run_walks_over_keys(kept, with_keys, with_others, shown):
    runs = pd.DataFrame([{"kept": kept, "with_keys": with_keys, "with_others": with_others}])
    assert scale_keys.walks_over_keys(runs).tolist() == [shown]
