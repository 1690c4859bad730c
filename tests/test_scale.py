"""The sweeps at the paper's scale: their recipe is one, their runs alternate, a part of them is balanced and goes on."""

import sys
from pathlib import Path

import pytest
import yaml

ANALYSES = Path(__file__).parent.parent / "analyses"
sys.path.append(str(ANALYSES))

import train_in_turn  # noqa: E402

from stackheads.tasks import from_config  # noqa: E402
from stackheads.theory import layers_needed  # noqa: E402
from stackheads.training.sweep import open_sweep, read_sweep, stored_result  # noqa: E402

SWEEPS = sorted((ANALYSES / "sweeps").glob("scale-curriculum-*.yaml"))
TINY = """
task: {{kind: cycle, symbols: 4, max_hops: 1, supervision: {}}}
model: {{layers: 1, heads: 1, d_model: 8, d_head: 4}}
training: {{steps: 40, batch: 8, evaluate_every: 10, evaluate_examples: 16}}
grid: {{training.seed: {{range: {}}}}}
"""


@pytest.fixture
def folders(tmp_path):
    """Two opened sweeps of two and three cells, by folder."""
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


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_model_has_one_layer_more_than_its_furthest_hop_needs(file):
    content = yaml.safe_load(file.read_text())
    task = from_config(content["task"])
    needed = max(layers_needed(hop, task.attention_dir, period=task.period) or 0 for hop in range(1, task.max_hops + 1))
    assert content["model"]["layers"] == needed + 1


def test_sweeps_alternate(folders):
    order = [(folder.name, cell.name) for folder, cell in train_in_turn.in_turn(folders)]
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
    assert all(stored_result(folder, cell) for folder, cell in train_in_turn.in_turn(folders))
    assert train_in_turn.train(folders) == 0
    assert not capsys.readouterr().out
