"""Null models: untrained ones, circuits and checkpoints with their heads taken apart, and such as had shuffled answers."""

from pathlib import Path
from typing import Any

from stackheads.errors import CheckpointError
from stackheads.models import ModelConfig, build, holds_checkpoint, load
from stackheads.models.nulls import permuted_heads
from stackheads.tasks import Cycle, Retrieval, Task
from stackheads.training.config import TrainingConfig
from stackheads.training.trainer import train
from stackheads.validation.specimens import CIRCUITS, Guise, specimen

STEPS, QUICK_STEPS = 300, 100
ANSWERLESS: tuple[Task, ...] = (Cycle(symbols=8, max_hops=4), Retrieval(chains=3, max_hops=4, attention_dir="causal"))
"""The tasks of untrained models."""
TAKEN_APART = ("doubling", "tripling")

Null = tuple[str, Any, Task]


def untrained(task: Task, seed: int) -> Null:
    """An untrained model of three layers of four heads."""
    return "untrained", build(ModelConfig(layers=3, heads=4), task, seed=seed), task


def permuted_circuit(name: str, seed: int) -> Null:
    """A compiled circuit with two idle heads, their Q, K and V permuted: what solved the task no longer does."""
    made = specimen(name, CIRCUITS[name](), Guise(seed=seed, idle=2))
    return "permuted", permuted_heads(made.model, seed), made.task


def trained_on_shuffled_answers(n: int, seed: int, steps: int = STEPS) -> list[Null]:
    """n models trained for so many steps on answers of other examples, each with the task that they should have learned."""
    shuffled, true = (Cycle(symbols=8, max_hops=4, answers=answers) for answers in ("shuffled", "true"))
    training = TrainingConfig(steps=steps, evaluate_every=steps, evaluate_examples=64)
    config = ModelConfig(layers=3, heads=4)
    return [
        (
            "shuffled answers",
            train(shuffled, config, training.model_copy(update={"seed": seed + k}), progress=False).model,
            true,
        )
        for k in range(n)
    ]


def permuted_checkpoints(folder: Path | None, seed: int) -> list[Null]:
    """Every checkpoint in a folder with Q, K and V permuted between heads, but for those of one head a layer, which have
    nothing to permute; none if no folder is given.
    """
    if folder is None:
        return []
    paths = [path for path in sorted(folder.iterdir()) if holds_checkpoint(path)] if folder.is_dir() else []
    if not paths:
        raise CheckpointError(f"--checkpoints must be a folder of checkpoints, {folder} holds none: check the path")
    loaded = [one for one in map(load, paths) if one.config.heads > 1]
    return [("permuted checkpoint", permuted_heads(one.model, seed), one.task) for one in loaded]
