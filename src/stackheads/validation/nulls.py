"""Null models that have to be trained or loaded: on shuffled answers, and trained ones with their heads taken apart."""

from pathlib import Path
from typing import Any

from stackheads.errors import CheckpointError
from stackheads.models import ModelConfig, holds_checkpoint, load
from stackheads.models.nulls import permuted_heads
from stackheads.tasks import Cycle, Task
from stackheads.training.config import TrainingConfig
from stackheads.training.trainer import train

STEPS = 300

Null = tuple[str, Any, Task]


def trained_on_shuffled_answers(n: int, seed: int) -> list[Null]:
    """n models trained on answers of other examples, each with the task that they should have learned."""
    shuffled, true = (Cycle(symbols=8, max_hops=4, answers=answers) for answers in ("shuffled", "true"))
    training = TrainingConfig(steps=STEPS, evaluate_every=STEPS, evaluate_examples=64)
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
    """Every checkpoint in a folder with Q, K and V permuted between heads; none if no folder is given."""
    if folder is None:
        return []
    paths = [path for path in sorted(folder.iterdir()) if holds_checkpoint(path)] if folder.is_dir() else []
    if not paths:
        raise CheckpointError(f"--checkpoints must be a folder of checkpoints, {folder} holds none: check the path")
    loaded = [load(path) for path in paths]
    return [("permuted checkpoint", permuted_heads(one.model, seed), one.task) for one in loaded]
