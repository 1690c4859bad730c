"""Checkpoints read back whole, and damaged ones are refused in one line that says what, where and what to do."""

import json
import os
import pickle
import zipfile
from inspect import unwrap
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stackheads import analyze
from stackheads.errors import CheckpointError, ConfigError, StackheadsError, TaskMismatchError
from stackheads.models import ModelConfig, build, check_fit, load, load_gpt2, save_checkpoint, snapshots
from stackheads.models.config import parse_device
from stackheads.sweeps.plans import SweepConfig
from stackheads.sweeps.sweep import open_sweep
from stackheads.tasks import Cycle, Retrieval, from_config, settings_of
from stackheads.training.trainer import train


@pytest.fixture
def folder(tmp_path, cycle):
    config = ModelConfig(layers=2, heads=2, d_model=16, d_head=8)
    save_checkpoint(tmp_path / "saved", build(config, cycle, seed=3), cycle, config, {"seed": 3}, {"accuracy": {"1": 0.5}})
    return tmp_path / "saved"


@pytest.mark.parametrize("attn_only", [True, False])
@pytest.mark.parametrize("task", [Cycle(symbols=6, max_hops=2), Retrieval(chains=2, max_hops=2, attention_dir="causal")])
def test_what_is_saved_is_loaded(tmp_path, task, attn_only):
    config = ModelConfig(layers=2, heads=2, d_model=16, d_head=8, attn_only=attn_only)
    model = build(config, task, seed=3)
    save_checkpoint(tmp_path / "c", model, task, config, {"seed": 3}, {"accuracy": {"1": 0.5}})
    loaded = load(tmp_path / "c")
    assert (loaded.task, loaded.config, loaded.name) == (task, config, "c")
    assert (loaded.training, loaded.metrics) == ({"seed": 3}, {"accuracy": {"1": 0.5}})
    tokens = task.sample(4, torch.Generator().manual_seed(0)).tokens
    assert torch.equal(loaded.model(tokens), model(tokens))
    assert not loaded.model.training


def test_saving_again_replaces_and_leaves_nothing_beside(folder, cycle):
    config = ModelConfig(layers=1, heads=1, d_model=16, d_head=8)
    save_checkpoint(folder, build(config, cycle), cycle, config)
    assert load(folder).config == config
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_a_run_folder_means_its_last_snapshot(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    folder.rename(run / "step-000020")
    (run / "step-000010").mkdir()
    assert load(run).training == {"seed": 3}


def test_snapshots_are_ordered_by_their_steps(tmp_path):
    for name in ("step-1000000", "step-999750", "step-000250", "step-last", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000500").write_text("a file")
    assert list(snapshots(tmp_path)) == [250, 999_750, 1_000_000]
    assert snapshots(tmp_path / "nowhere") == {}


def damage_config(folder, **changes):
    content = json.loads((folder / "config.json").read_text())
    content.update(changes)
    (folder / "config.json").write_text(json.dumps(content))


def damage_weight(folder, name, change):
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name])
    save_file(weights, folder / "model.safetensors")


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def as_pickle(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"W": 1}))


def as_torch_file(folder):
    torch.save({"W": torch.zeros(2)}, folder / "model.safetensors")
    assert zipfile.is_zipfile(folder / "model.safetensors")


def drop_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["embed.W_E"]
    save_file(weights, folder / "model.safetensors")


BAD = {
    "cut short": (cut, "safetensors file, it is damaged or cut short"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged or cut short"),
    "a pickle": (as_pickle, "it is a pickle or zip"),
    "a torch file": (as_torch_file, "it is a pickle or zip"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "needs model.safetensors"),
    "no config": (lambda f: (f / "config.json").unlink(), "needs config.json"),
    "config cut": (lambda f: (f / "config.json").write_text('{"format": 1'), "must be JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "one JSON object, it holds a list"),
    "another format": (lambda f: damage_config(f, format=99), "format 1, got 99"),
    "no task": (lambda f: damage_config(f, task=None), "damaged at task"),
    "unknown task": (lambda f: damage_config(f, task={"kind": "maze"}), "got 'maze'"),
    "impossible task": (lambda f: damage_config(f, task={"kind": "cycle", "symbols": 3, "max_hops": 4}), "at least 6 symbols"),
    "odd model": (lambda f: damage_config(f, model={"layers": 0, "heads": 2}), "layers"),
    "other width": (
        lambda f: damage_config(f, model={"layers": 2, "heads": 2, "d_model": 32, "d_head": 8}),
        r"shape \(2, 32, 8\) by config.json, got \(2, 16, 8\)",
    ),
    "fewer layers": (
        lambda f: damage_config(f, model={"layers": 1, "heads": 2, "d_model": 16, "d_head": 8}),
        "is not part of the model",
    ),
    "weight missing": (drop_weight, "embed.W_E is missing"),
    "NaN": (lambda f: damage_weight(f, "embed.W_E", lambda w: w * float("nan")), "embed.W_E holds NaN"),
    "other shape": (lambda f: damage_weight(f, "embed.W_E", lambda w: w[:, :5].contiguous()), r"got \(6, 5\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_checkpoints_are_refused(folder, name):
    spoil, says = BAD[name]
    spoil(folder)
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(StackheadsError, match=says) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_what_is_not_a_checkpoint_is_refused(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("hello")
    if kind == "empty":
        path.mkdir()
    with pytest.raises(CheckpointError, match="a checkpoint is a folder with"):
        load(path)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (Cycle(symbols=7, max_hops=2), "context of 15 tokens, the model has 13"),
        (Cycle(symbols=6, max_hops=2, attention_dir="causal"), "attention_dir = causal, the model has bidirectional"),
        (Cycle(symbols=6, max_hops=3), "d_vocab_out = 18, the model has 12"),
        (Retrieval(chains=2, max_hops=2, symbols=7), "d_vocab = 7, the model has 6"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(cycle, other, says):
    model = build(ModelConfig(layers=1, heads=1, d_model=16, d_head=8), cycle)
    with pytest.raises(TaskMismatchError, match=says):
        check_fit(model, other)


class Mine(Cycle):
    """A task of somebody's own, whose settings are those of a cycle."""


def test_a_task_that_its_settings_would_not_bring_back_is_not_stored(tmp_path):
    config = ModelConfig(layers=1, heads=1, d_model=8, d_head=4)
    mine = Mine(symbols=4, max_hops=1)
    for task in (mine, SimpleNamespace(name="mine"), SimpleNamespace(kind=["cycle"]), SimpleNamespace(kind="mine")):
        with pytest.raises(ConfigError, match=r"read back as one of the tasks cycle, .*, got \w+, which is none of them"):
            unwrap(save_checkpoint)(tmp_path / "saved", build(config, mine), task, config)
    assert not (tmp_path / "saved").exists()
    assert settings_of(mine) == {}
    assert from_config(settings_of(plain := Cycle(symbols=4, max_hops=1))) == plain
    found = analyze(build(config, mine), task=mine, examples=16, explain=False, progress=False)
    assert found.task == {"name": mine.name}  # and not the settings of a cycle


@pytest.mark.parametrize("device", [0, 99, -1, True, 1.5, "", "abacus"])
def test_a_device_that_is_not_here_is_refused_in_a_line(device):
    if device == 0 and torch.cuda.is_available():
        assert parse_device(0) == torch.device("cuda:0")
        return
    with pytest.raises(ConfigError, match=r"device must be one that torch can use here, got .*: try --device cpu") as caught:
        unwrap(parse_device)(device)
    assert "\n" not in str(caught.value)


def test_no_device_is_the_cpu():
    assert parse_device(None) == parse_device("cpu") == torch.device("cpu")


def test_model_settings_are_checked():
    with pytest.raises(ConfigError, match=r"heads.*got 0"):
        ModelConfig(layers=1, heads=0)
    with pytest.raises(ConfigError, match="normalization"):
        ModelConfig(layers=1, heads=1, normalization="RMS")
    with pytest.raises(ConfigError, match=r"model setting positions: .*even d_head and not 5"):
        ModelConfig(layers=1, heads=1, d_head=5, positions="rotary")


def test_a_folder_whose_name_is_not_utf8_is_named_as_the_fault_before_the_work(folder, cycle, monkeypatch):
    elsewhere = folder.with_name(os.fsdecode(b"caf\xe9"))
    try:
        folder.rename(elsewhere)
    except OSError:
        pytest.skip("this file system has no such names")
    config = ModelConfig(layers=2, heads=2, d_model=16, d_head=8)
    model = build(config, cycle)
    for wrong, use in (
        (CheckpointError, lambda: load(elsewhere)),
        (CheckpointError, lambda: load_gpt2(elsewhere, cycle)),
        (ConfigError, lambda: save_checkpoint(elsewhere / "new", model, cycle, config)),
        (ConfigError, lambda: train(cycle, config, output_dir=elsewhere / "new", progress=False)),
        (ConfigError, lambda: open_sweep(SweepConfig(task=cycle.model_dump(), model=config.model_dump()), elsewhere / "new")),
    ):
        with pytest.raises(wrong, match=r"names of folders are UTF-8, got '.*caf\\udce9.*': rename the folder") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert not (elsewhere / "new").exists()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(CheckpointError, match="rename the folder"):
        load(".")
