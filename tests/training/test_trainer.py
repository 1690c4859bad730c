"""Training learns, resumes bit for bit from any interruption, and leaves folders that load."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from inspect import unwrap

import pytest
import torch

from stackheads.errors import CheckpointError, ConfigError, StackheadsError
from stackheads.models import ModelConfig, build, load, snapshots
from stackheads.tasks import Cycle, NearestNeighbour
from stackheads.training import trainer
from stackheads.training.config import TrainingConfig
from stackheads.training.run import load_state, save_state
from stackheads.training.trainer import accuracy, train

TASK = Cycle(symbols=5, max_hops=1, supervision="chain")
MODEL = ModelConfig(layers=2, heads=2, d_model=32, d_head=16)
SHORT = TrainingConfig(steps=30, batch=16, warmup=5, evaluate_every=10, evaluate_examples=64, snapshots=(7, 20))


def weights(checkpoint):
    return {name: value.clone() for name, value in checkpoint.model.named_parameters()}


def test_a_small_model_learns_one_hop():
    config = TrainingConfig(steps=1500, batch=64, lr=3e-3, warmup=50, stop_at=0.99, evaluate_every=100)
    checkpoint = train(TASK, MODEL, config, progress=False)
    assert checkpoint.metrics["accuracy"]["1"] > 0.95
    assert checkpoint.training["step"] < 1500
    assert accuracy(checkpoint.model, TASK, 500, seed=11)[1] > 0.95


def test_the_same_settings_give_the_same_weights_with_and_without_a_folder(tmp_path):
    one = train(TASK, MODEL, SHORT, progress=False)
    other = train(TASK, MODEL, SHORT, tmp_path / "run", progress=False)
    assert all(torch.equal(weights(one)[name], value) for name, value in weights(other).items())


def followed(monkeypatch, **seeds):
    """The weights before the first step, the tokens of all steps, and the weights after the last."""
    first, tokens, step, sample = {}, [], trainer._train_step, Cycle.sample

    def watched(run, forward):
        if run.step == 0:
            first.update({name: value.detach().clone() for name, value in run.model.named_parameters()})
        step(run, forward)

    def recorded(task, n, generator):
        batch = sample(task, n, generator)
        if n == SHORT.batch:  # evaluations draw more
            tokens.append(batch.tokens)
        return batch

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_train_step", watched)
        patched.setattr(Cycle, "sample", recorded)
        last = train(TASK, MODEL, TrainingConfig(**{**SHORT.model_dump(), **seeds}), progress=False)
    return first, torch.cat(tokens), weights(last)


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_examples_and_first_weights_have_seeds_of_their_own(monkeypatch):
    """A data seed that is the seed says nothing new; another changes the examples, another seed the first weights."""
    first, tokens, last = followed(monkeypatch, seed=3)
    same_first, same_tokens, same_last = followed(monkeypatch, seed=3, data_seed=3)
    assert equal(first, same_first)
    assert torch.equal(tokens, same_tokens)
    assert equal(last, same_last)
    kept_first, other_tokens, other_last = followed(monkeypatch, seed=3, data_seed=4)
    assert equal(first, kept_first)
    assert not torch.equal(tokens, other_tokens)
    assert not equal(last, other_last)
    other_first, kept_tokens, _ = followed(monkeypatch, seed=4, data_seed=3)
    assert not equal(first, other_first)
    assert torch.equal(tokens, kept_tokens)


@pytest.mark.parametrize("seed", [-1, 1_000_003, True, 0.5])
def test_a_data_seed_is_a_seed_of_training(seed):
    with pytest.raises(ConfigError, match="seed"):
        TrainingConfig(data_seed=seed)


@contextmanager
def interrupting(monkeypatch, step, signals=1, task=Cycle):
    """Ctrl-C that comes between drawing the examples of a step and the step's end."""
    draw, drawn = task.sample, 0

    def sample(asked, n, generator):
        nonlocal drawn
        batch = draw(asked, n, generator)
        drawn += n == SHORT.batch  # evaluations draw more
        if n == SHORT.batch and drawn == step:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
        return batch

    with monkeypatch.context() as patched:
        patched.setattr(task, "sample", sample)
        yield


@pytest.mark.parametrize("stop_after", [10, 17, 25])
def test_a_run_that_is_interrupted_resumes_bit_for_bit(tmp_path, monkeypatch, stop_after):
    """A real signal in the middle of a step, when its examples are drawn: the step is ended first."""
    whole = train(TASK, MODEL, SHORT, tmp_path / "whole", progress=False)
    with interrupting(monkeypatch, stop_after), pytest.raises(KeyboardInterrupt):
        train(TASK, MODEL, SHORT, tmp_path / "parts", progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert load(tmp_path / "parts").training["step"] == stop_after
    resumed = train(TASK, MODEL, SHORT, tmp_path / "parts", progress=False, resume=True)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(resumed).items())
    lines = [
        [{**json.loads(line), "time": 0} for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == [10, 20, 30]


@pytest.mark.parametrize("settings", [{}, {"snapshot_every": 9}, {"stop_at": 0.01}], ids=str)
@pytest.mark.parametrize("steps", [(1,), (7,), (10,), (29,), (3, 2, 6, 1, 9)], ids=str)
def test_a_run_that_was_interrupted_has_the_snapshots_of_one_that_was_not(tmp_path, monkeypatch, settings, steps):
    """Interrupted after so many steps, and again and again after so many more; each time with a snapshot to look at."""
    config = TrainingConfig(**{**SHORT.model_dump(), **settings})
    train(TASK, MODEL, config, tmp_path / "whole", progress=False)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for number, further in enumerate(steps):
        before = sum(steps[: number + 1])
        if before > max(snapshots(whole)):
            break
        with interrupting(monkeypatch, further), pytest.raises(KeyboardInterrupt):
            train(TASK, MODEL, config, parts, progress=False, resume=True)
        assert list(snapshots(parts)) == [step for step in snapshots(whole) if step < before] + [before]
    train(TASK, MODEL, config, parts, progress=False, resume=True)
    assert list(snapshots(parts)) == list(snapshots(whole))
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_run_that_is_finished_keeps_its_snapshots(tmp_path):
    """Those of an interruption, too: results may rest on them."""
    run = tmp_path / "run"
    train(TASK, MODEL, SHORT, run, progress=False)
    shutil.copytree(run / "step-000007", run / "step-000011")
    train(TASK, MODEL, SHORT, run, progress=False, resume=True)
    assert list(snapshots(run)) == [7, 11, 20, 30]


def test_a_second_interrupt_ends_the_step_at_once_and_the_last_stored_state_stays(tmp_path, monkeypatch):
    whole = train(TASK, MODEL, SHORT, progress=False)
    with interrupting(monkeypatch, 17, signals=2), pytest.raises(KeyboardInterrupt):
        train(TASK, MODEL, SHORT, tmp_path / "run", progress=False)
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-000007"]
    resumed = train(TASK, MODEL, SHORT, tmp_path / "run", progress=False, resume=True)
    assert equal(weights(whole), weights(resumed))


def test_training_in_a_thread_leaves_signals_alone():
    found = []
    thread = threading.Thread(target=lambda: found.append(train(TASK, MODEL, SHORT, progress=False)))
    thread.start()
    thread.join()
    assert equal(weights(found[0]), weights(train(TASK, MODEL, SHORT, progress=False)))


def test_a_killed_process_resumes_bit_for_bit(tmp_path):
    """SIGKILL, no chance to store anything: the run goes on from its last evaluation."""
    whole = train(TASK, MODEL, SHORT.model_copy(update={"steps": 60}), progress=False)
    settings = json.dumps([TASK.model_dump(), MODEL.model_dump(), {**SHORT.model_dump(), "steps": 60}])
    code = (
        "import json, sys, time, torch\n"
        "torch.set_num_threads(1)\n"
        "from stackheads.models import ModelConfig\n"
        "from stackheads.tasks import from_config\n"
        "from stackheads.training import trainer\n"
        "from stackheads.training.config import TrainingConfig\n"
        "task, model, training = json.loads(sys.argv[1])\n"
        "step = trainer._train_step\n"
        "def slow(run, forward):\n"
        "    time.sleep(0.02 if run.step < 25 else 60)\n"
        "    step(run, forward)\n"
        "trainer._train_step = slow\n"
        "trainer.train(from_config(task), ModelConfig(**model), TrainingConfig(**training), sys.argv[2], progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, settings, str(tmp_path / "run")])
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = train(TASK, MODEL, SHORT.model_copy(update={"steps": 60}), tmp_path / "run", progress=False, resume=True)
    assert all(torch.equal(weights(whole)[name], value) for name, value in weights(resumed).items())


def test_a_run_in_the_folder_where_one_stands_has_its_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert train(TASK, MODEL, SHORT.model_copy(update={"steps": 2}), ".", progress=False).name == load(".").name == "here"


def test_snapshots_are_checkpoints_of_their_step(tmp_path):
    train(TASK, MODEL, SHORT, tmp_path / "run", progress=False)
    names = sorted(path.name for path in (tmp_path / "run").glob("step-*"))
    assert names == ["step-000007", "step-000020", "step-000030"]
    assert load(tmp_path / "run" / "step-000007").training["step"] == 7
    assert load(tmp_path / "run").training["step"] == 30


def test_an_existing_run_is_not_overwritten_and_other_settings_do_not_resume_it(tmp_path):
    train(TASK, MODEL, SHORT, tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match="add --resume"):
        train(TASK, MODEL, SHORT, tmp_path / "run", progress=False)
    with pytest.raises(ConfigError, match=r"training\.lr = .*, got 1\.0: give the same options"):
        train(TASK, MODEL, SHORT.model_copy(update={"lr": 1.0}), tmp_path / "run", progress=False, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(ConfigError, match="holds other files"):
        train(TASK, MODEL, SHORT, tmp_path / "mine", progress=False, resume=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_frozen_embedding_stays_as_the_task_gives_it_and_the_run_resumes_bit_for_bit(tmp_path, monkeypatch):
    task, config = NearestNeighbour(symbols=6, pairs=2, values=2), SHORT.model_copy(update={"frozen_embedding": True})
    whole, learned = (weights(train(task, MODEL, each, progress=False)) for each in (config, SHORT))
    with interrupting(monkeypatch, 17, task=NearestNeighbour), pytest.raises(KeyboardInterrupt):
        train(task, MODEL, config, tmp_path / "run", progress=False)
    resumed = train(task, MODEL, config, tmp_path / "run", progress=False, resume=True)
    assert equal(whole, weights(resumed))
    stored = dict(load(tmp_path / "run").model.named_parameters())
    assert torch.equal(stored["embed.W_E"], task.vectors(MODEL.d_model))
    assert not any(torch.equal(whole[name], learned[name]) for name in whole if "W_" in name)


class Mine(Cycle):
    """A task of somebody's own, whose settings are those of a cycle."""

    def sample(self, n, generator):
        raise AssertionError("refused before the work")


def test_a_task_that_can_not_be_stored_is_refused_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match="got Mine, which is none of them: leave output_dir out"):
        train(Mine(symbols=5, max_hops=1), MODEL, SHORT, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_has_no_vectors_has_no_frozen_embedding(tmp_path):
    with pytest.raises(ConfigError, match="needs a task whose tokens are vectors"):
        train(TASK, MODEL, SHORT.model_copy(update={"frozen_embedding": True}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_damaged_state_is_refused(tmp_path):
    train(TASK, MODEL, SHORT, tmp_path / "run", progress=False)
    (tmp_path / "run" / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="must hold this run's state"):
        train(TASK, MODEL, SHORT, tmp_path / "run", progress=False, resume=True)


def test_a_diverging_run_says_so():
    with pytest.raises(StackheadsError, match="weights must stay finite"):
        train(TASK, MODEL, SHORT.model_copy(update={"lr": 1e30, "steps": 300}), progress=False)


@pytest.mark.parametrize(
    "settings", [{"lr": 1e30, "steps": 2}, {"weight_decay": 1e38, "steps": 4}, {"weight_decay": 1e38, "snapshots": (6,)}]
)
def test_what_diverges_between_two_looks_at_the_loss_is_not_stored(tmp_path, settings):
    diverging = SHORT.model_copy(update={"snapshots": (), **settings})
    for folder in (None, tmp_path / "run"):
        with pytest.raises(StackheadsError, match=r"weights must stay finite, \S+ is not after step"):
            train(TASK, MODEL, diverging, folder, progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


@pytest.mark.parametrize(("model", "training"), [({"layers": 1}, None), (MODEL, {}), (MODEL, {"steps": 3}), (SHORT, SHORT)])
def test_settings_are_of_their_kind(model, training):
    with pytest.raises(ConfigError, match="a run's settings are a"):
        unwrap(train)(TASK, model, training, progress=False)


def test_the_learning_rate_warms_up_and_decays_to_zero():
    config = TrainingConfig(steps=100, lr=1.0, warmup=10)
    rates = [config.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] or max(rates) == rates[10]
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 1e-3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("lr", -1),
        ("batch", 0),
        ("stop_at", 2),
        ("sdeed", 1),
        ("lr", math.inf),
        ("weight_decay", math.nan),
        ("entropy", math.inf),
        ("drop_heads", math.nan),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.98)),
        ("betas", (math.nan, 0.98)),
    ],
)
def test_training_settings_are_checked(setting, value):
    with pytest.raises(ConfigError, match=f"training setting {setting}"):
        TrainingConfig(**{setting: value})


@pytest.mark.parametrize("settings", [{"entropy": 0.1, "sharpen_from": 2}, {"drop_heads": 0.1, "loudness": 0.1}])
def test_settings_that_would_count_at_no_step_are_refused_before_the_work_but_old_runs_go_on(settings, tmp_path, monkeypatch):
    task, training = Cycle(symbols=4, max_hops=1), TrainingConfig(steps=2, batch=2, evaluate_examples=4, **settings)
    with pytest.raises(ConfigError, match="got"):
        train(task, MODEL, training, output_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(TrainingConfig, "check_counts", lambda self: None)
    before = train(task, MODEL, training, output_dir=tmp_path / "run", progress=False)
    monkeypatch.undo()
    after = train(task, MODEL, training, output_dir=tmp_path / "run", progress=False, resume=True)
    assert after.metrics == before.metrics


def test_where_a_run_goes_on_all_of_its_state_is_where_its_weights_are(tmp_path):
    """A fused optimiser reads its count of steps on the device."""
    task = Cycle(symbols=4, max_hops=1)
    model = build(MODEL, task)
    optimiser = torch.optim.AdamW(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimiser.step()
    save_state(tmp_path / "state.safetensors", model, optimiser, torch.Generator(), 1)
    elsewhere = build(MODEL, task).to("meta")  # as far from the processor as there is without an accelerator
    other = torch.optim.AdamW(elsewhere.parameters())
    assert load_state(tmp_path / "state.safetensors", elsewhere, other, torch.Generator()) == 1
    assert {value.device.type for state in other.state.values() for value in state.values()} == {"meta"}


def test_loudness_is_what_heads_write_beyond_their_positional_mean_and_silences_them():
    from stackheads.models import build
    from stackheads.models.hooks import record
    from stackheads.training.sharpen import SharpeningForward

    task = Cycle(symbols=5, max_hops=1)
    batch = task.sample(32, torch.Generator().manual_seed(0))
    model = build(MODEL, task)
    forward = SharpeningForward(model)
    forward(batch.tokens)
    z = record(model, batch.tokens).z
    written = torch.einsum("lbphd,lhdm->lbphm", z, torch.stack([block.attn.W_O for block in model.blocks]))
    beyond = written - written.mean(dim=1, keepdim=True)
    _, cache = model.run_with_cache(batch.tokens)
    final = cache[f"blocks.{MODEL.layers - 1}.hook_resid_post"].square().sum(dim=-1).mean().sqrt()
    slots = [batch.slots[0] == kind for kind in (0, 1, 2)]
    powers = [beyond[:, :, rows].square().sum(dim=-1).mean(dim=(1, 2)).sqrt().sum() for rows in slots]
    torch.testing.assert_close(forward.loudness(batch), sum(powers) / final, atol=1e-3, rtol=1e-3)

    loud, silent = (
        train(task, MODEL, SHORT.model_copy(update={"steps": 200, "lr": 3e-3, "loudness": weight}), progress=False).model
        for weight in (0.0, 1.0)
    )
    sizes = []
    for trained in (loud, silent):
        forward = SharpeningForward(trained)
        forward(batch.tokens)
        sizes.append(forward.loudness(batch).item())
    assert sizes[1] < 0.2 * sizes[0]


def test_the_entropy_term_makes_attention_sharp_and_its_forward_is_the_same():
    from stackheads.models import build
    from stackheads.models.hooks import record
    from stackheads.training.sharpen import SharpeningForward

    task = Cycle(symbols=5, max_hops=1, attention_dir="causal")
    batch = task.sample(32, torch.Generator().manual_seed(0))
    model = build(MODEL, task)
    forward = SharpeningForward(model)
    torch.testing.assert_close(forward(batch.tokens), model(batch.tokens), atol=1e-5, rtol=1e-5)
    pattern = record(model, batch.tokens).pattern
    rows = (batch.slots != 0)[None, :, None].expand(pattern.shape[:-1])
    expected = torch.special.entr(pattern).sum(dim=-1)[rows].mean()
    torch.testing.assert_close(forward.entropy(batch), expected, atol=1e-5, rtol=1e-4)

    config = SHORT.model_copy(update={"steps": 200, "lr": 3e-3, "entropy": 1.0})
    sharp = SharpeningForward(train(task, MODEL, config, progress=False).model)
    sharp(batch.tokens)
    assert sharp.entropy(batch) < 0.5 * expected
