"""Train a model on a task, and keep what is needed to go on, to look back and to trust the result.

Fresh examples every step (nothing is ever seen twice but by chance), cross-entropy over everything that the task's
supervision asks. Sampling has its own generator, so the same settings give the same weights to the bit on one machine with
the same number of threads, whether a run was interrupted or not. First weights and examples may have seeds of their own.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from stackheads import seeds
from stackheads.errors import ConfigError, StackheadsError
from stackheads.files import check_folder, check_name, drop_folder
from stackheads.interrupts import interrupts_wait
from stackheads.limits import check_memory
from stackheads.models import Checkpoint, ModelConfig, build, check_fit, save_checkpoint, snapshots
from stackheads.models.config import freeze_embedding, parse_device
from stackheads.models.forwards.fused import FusedForward, TensorMap
from stackheads.models.hooks import analysing
from stackheads.models.memory import kept_memory
from stackheads.models.native import named_weights
from stackheads.models.protocol import Model
from stackheads.models.trust import forward_for_training, why_not_fused
from stackheads.seeds import Reserved, bare
from stackheads.tasks import Batch, StoredTask, check_storable, check_task
from stackheads.tasks.layout import check_no_pads
from stackheads.tasks.scoring import asked, loss, query_accuracy, query_counts
from stackheads.training.config import TrainingConfig
from stackheads.training.dropping import DroppingForward
from stackheads.training.run import RunFolder, load_state, open_run, read_metrics, save_state, write_metrics
from stackheads.training.sharpen import SharpeningForward

FRESH_EXAMPLES = 4096
"""The accuracies stored in a checkpoint are measured on examples that no decision of the run looked at."""


@dataclass
class _Run:
    """What changes while training."""

    task: StoredTask
    config: ModelConfig
    training: TrainingConfig
    model: Model
    optimiser: torch.optim.AdamW
    generator: torch.Generator
    folder: RunFolder | None
    start_from: Checkpoint | None = None
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    task: StoredTask,
    model: ModelConfig,
    training: TrainingConfig | None = None,
    output_dir: Path | str | None = None,
    device: torch.device | str | int | None = None,
    progress: bool = True,
    resume: bool = False,
    start_from: Checkpoint | None = None,
) -> Checkpoint:
    """Train and return the last state as a `Checkpoint`; with `output_dir`, write a run folder as it goes.

    `start_from` gives the first weights, of a model of the same shape; what it was trained on is stored with the result.
    Ctrl-C takes effect after the step that it comes in: state and a snapshot are stored, then `KeyboardInterrupt` goes on; a
    second one is raised at once, and the run resumes from what was last stored. The snapshot goes when the run has gone on,
    unless the settings keep it. Raises `ConfigError` for an unknown device, a folder or
    task that can't be used, or a setting that would count at no step, `StackheadsError` if loss or weights stop being finite.
    """
    training = TrainingConfig() if training is None else training
    for given, kind in ((model, ModelConfig), (training, TrainingConfig)):
        if not isinstance(given, kind):
            raise ConfigError(f"a run's settings are a {kind.__name__}(…), got {given!r}: make one of them")
    if not isinstance(start_from, Checkpoint | None):
        raise ConfigError(f"start_from is a Checkpoint, got {start_from!r}: load() it")
    if not resume:  # an old run may have been begun so
        training.check_counts()
    run = _start(task, model, training, output_dir, parse_device(device), resume, start_from)
    forward, sharpening = _forward(run), _sharpening(run)
    with (
        interrupts_wait() as interrupted,
        kept_memory(),
        tqdm(total=training.steps, initial=run.step, disable=None if progress else True, desc="train", unit="step") as bar,
    ):
        while _goes_on(run) and not interrupted():
            _train_step(run, sharpening if sharpening and run.step >= training.sharpen_from else forward)
            bar.update()
            if evaluated := run.step % training.evaluate_every == 0 or run.step == training.steps:
                run.history.append(_evaluate(run))
                bar.set_postfix_str(_summary(run.history[-1]))
            if training.keeps(run.step):
                _snapshot(run)
            if evaluated:  # last, so that a run which goes on from here has all that came before
                _store(run)
        if interrupted():
            _snapshot(run)
            if _goes_on(run):
                _store(run)
    if run.folder is not None and not run.folder.snapshot(run.step).exists():
        _snapshot(run)
    run.model.eval().requires_grad_(False)
    name = run.folder.path.resolve().name if run.folder else task.name
    return Checkpoint(name, run.model, task, model, _provenance(run), _fresh_metrics(run))


def accuracy(model: Model, task: StoredTask, examples: int, seed: int = Reserved.FRESH) -> dict[int, float]:
    """Accuracy per hop at the query, on fresh examples unless a bare seed is given. Cost: a forward pass for each 1,024."""
    generator = bare(seed)
    totals: dict[int, tuple[int, int]] = {}
    device = next(model.parameters()).device
    with analysing(model):
        for start in range(0, examples, 1024):
            batch = task.sample(min(1024, examples - start), generator).to(device)
            check_no_pads(batch, "models are trained")
            for hop, (right, number) in query_counts(
                task, forward_for_training(model, batch.tokens)(batch.tokens), batch
            ).items():
                before = totals.get(hop, (0, 0))
                totals[hop] = before[0] + right, before[1] + number
    return {hop: right / number for hop, (right, number) in sorted(totals.items())}


def _start(
    task: StoredTask,
    config: ModelConfig,
    training: TrainingConfig,
    output_dir: Path | str | None,
    device: torch.device,
    resume: bool,
    start_from: Checkpoint | None,
) -> _Run:
    given: object = task
    if not isinstance(given, StoredTask):  # whose hops may be more than fit into memory
        check_task(given)
    if output_dir is not None:
        check_folder(output_dir)
        check_name(Path(output_dir), ConfigError)
    if device.type == "cpu":
        attention = 4 * training.batch * config.layers * config.heads * task.n_ctx**2
        check_memory(f"the attention of a batch of {training.batch:,} with {task.n_ctx:,} tokens each", attention)
    model = build(config, task, seed=training.seed, device=device)
    if start_from is not None:
        check_storable(start_from.task)
        check_fit(start_from.model, task)
        if start_from.config != config:
            raise ConfigError("start_from must have the model settings of the run, got others: use the same settings")
        model.load_state_dict(start_from.model.state_dict())
    if training.frozen_embedding:
        freeze_embedding(model, task.vectors(config.d_model))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=training.lr, betas=training.betas, weight_decay=training.weight_decay, fused=True
    )
    generator = seeds.training(training.seed_of_data)
    run = _Run(task, config, training, model.train(), optimiser, generator, None, start_from)
    if output_dir is not None:
        run.folder = open_run(Path(output_dir), task, config, training, resume)
        run.step = load_state(run.folder.state, model, optimiser, generator)
        run.history = read_metrics(run.folder, run.step)
    return run


def _forward(run: _Run) -> TensorMap:
    if not run.training.drop_heads:
        return forward_for_training(run.model)
    if why := why_not_fused(run.model):
        raise ConfigError(f"drop_heads needs a model that the fused forward covers, got another, {why}: set it to 0")
    return DroppingForward(run.model, run.training.drop_heads, run.generator)


def _sharpening(run: _Run) -> SharpeningForward | None:
    if run.training.entropy == run.training.loudness == 0:
        return None
    if why := why_not_fused(run.model):
        raise ConfigError(f"entropy and loudness need a model that the fused forward covers, got another, {why}: set both to 0")
    return SharpeningForward(run.model)


def _train_step(run: _Run, forward: Any) -> None:
    batch = run.task.sample(run.training.batch, run.generator).to(next(run.model.parameters()).device)
    check_no_pads(batch, "models are trained")
    for group in run.optimiser.param_groups:
        group["lr"] = run.training.lr_at(run.step)
    run.optimiser.zero_grad()
    value = answer_loss(run.task, forward, batch, run.training.balanced)
    if run.step % 50 == 0:
        _check_loss(value.item(), run.step)
    if isinstance(forward, SharpeningForward):
        value = value + run.training.entropy * forward.entropy(batch) + run.training.loudness * forward.loudness(batch)
    value.backward()
    run.optimiser.step()
    run.step += 1


def _check_weights(run: _Run) -> None:
    for name, weight in named_weights(run.model).items():
        if not bool(weight.isfinite().all()):
            rule = f"weights must stay finite, {name} is not after step {run.step}"
            raise StackheadsError(f"{rule}: lower the learning rate or the weight decay")


def _check_loss(value: float, step: int) -> None:
    if not math.isfinite(value):
        raise StackheadsError(f"the loss must stay finite, it is {value} at step {step}: lower the learning rate")


def answer_loss(task: StoredTask, forward: TensorMap, batch: Batch, balanced: bool = False) -> Float[Tensor, ""]:
    """The loss of a forward's answers; a fused one computes only the positions at which something is asked."""
    if not isinstance(forward, FusedForward) or isinstance(forward, SharpeningForward):
        return loss(task, forward(batch.tokens), batch, balanced)
    positions = asked(batch).any(dim=0).any(dim=-1).nonzero().squeeze(1)
    return loss(task, forward(batch.tokens, positions), batch.at(positions), balanced)


def _evaluate(run: _Run) -> dict[str, Any]:
    _check_weights(run)
    generator = bare(Reserved.HELD_OUT)
    batch = run.task.sample(run.training.evaluate_examples, generator).to(next(run.model.parameters()).device)
    with analysing(run.model):
        logits = forward_for_training(run.model, batch.tokens)(batch.tokens)
        value = loss(run.task, logits, batch).item()
    _check_loss(value, run.step)
    shares = query_accuracy(run.task, logits, batch)
    return {"step": run.step, "loss": value, "accuracy": shares, "time": time.time()}


def _goes_on(run: _Run) -> bool:
    return run.step < run.training.steps and not _solved(run)


def _solved(run: _Run) -> bool:
    if run.training.stop_at is None or not run.history:
        return False
    return min(run.history[-1]["accuracy"].values()) >= run.training.stop_at


def _summary(line: dict[str, Any]) -> str:
    shares = " ".join(f"{share:.0%}" for share in line["accuracy"].values())
    return f"loss {line['loss']:.3f}, hops {shares}"


def _store(run: _Run) -> None:
    """Store what a resumed run begins with. A snapshot before it that only an interruption left is dropped: it went on."""
    if run.folder is not None:
        write_metrics(run.folder, run.history)
        save_state(run.folder.state, run.model, run.optimiser, run.generator, run.step)
        for step, folder in snapshots(run.folder.path).items():
            if step < run.step and not run.training.keeps(step):
                drop_folder(folder)


def _snapshot(run: _Run) -> None:
    if run.folder is not None:
        _check_weights(run)
        save_checkpoint(run.folder.snapshot(run.step), run.model, run.task, run.config, _provenance(run), _fresh_metrics(run))


def _provenance(run: _Run) -> dict[str, Any]:
    provenance = {**run.training.model_dump(mode="json"), "step": run.step}
    if run.start_from is not None:
        provenance["start_from"] = {"task": run.start_from.task.model_dump(), "training": run.start_from.training}
    return provenance


def _fresh_metrics(run: _Run) -> dict[str, Any]:
    shares = accuracy(run.model, run.task, FRESH_EXAMPLES)
    return {
        "examples": FRESH_EXAMPLES,
        "seed": int(Reserved.FRESH),
        "accuracy": {str(hop): share for hop, share in shares.items()},
    }
