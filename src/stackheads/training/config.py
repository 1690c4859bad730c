"""The settings of a training run, as stored in its `run.json` and in every checkpoint it writes."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from stackheads.errors import ConfigError
from stackheads.settings import Settings


def _seed(seed: Any) -> int:
    """Checked by `seeds.py`, imported only here: the command line reads these settings, and its help does without torch."""
    from stackheads.seeds import check_training_seed

    return check_training_seed(seed)


def _data_seed(seed: Any) -> int | None:
    return None if seed is None else _seed(seed)


class TrainingConfig(Settings):
    """AdamW with linear warm-up and cosine decay to 0 over `steps`. Settings with a description are options of `train`, too.

    `frozen_embedding`  tokens are the vectors that the task gives, and not learned (`tasks.StoredTask.vectors`).
    `balanced`          weigh the query and the value slots equally in the loss (`tasks.scoring.loss`).
    `entropy`           weight of the attention entropy in the loss (`training/sharpen.py`) …
    `loudness`          … and of the group lasso on what heads write, both from step `sharpen_from` on.
    `drop_heads`        probability of dropping each head in each example (`training/dropping.py`); none while sharpening.
    `seed`              of the first weights and, without a `data_seed`, of everything drawn while training as well.
    `data_seed`         of everything drawn while training: the examples and which heads are dropped; None: `seed`.
    `stop_at`           stop when every hop's held-out accuracy at the query reaches this share; None: run all steps.
    `snapshots`         steps at which a snapshot is kept; the last step always is.
    `snapshot_every`    also keep one each so many steps; 0: none.
    `evaluate_every`    steps between held-out evaluations on `evaluate_examples` examples; state for resuming is stored then.
    """

    called = "training"

    steps: int = Field(default=4000, ge=1, description="Training steps.")
    batch: int = Field(default=128, ge=1, description="Examples in a step.")
    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW weight decay.")
    betas: tuple[float, float] = (0.9, 0.98)
    warmup: int = Field(default=200, ge=0, description="Warm-up steps.")
    frozen_embedding: bool = Field(default=False, description="Embed tokens as the task's vectors, which are not trained.")
    balanced: bool = Field(default=False, description="Weigh query and value slots equally.")
    entropy: float = Field(default=0.0, ge=0, description="Weight of the attention entropy in the loss: sharper heads.")
    loudness: float = Field(default=0.0, ge=0, description="Weight of what heads write, a group lasso: fewer heads.")
    sharpen_from: int = Field(default=0, ge=0, description="The step from which entropy and loudness count.")
    drop_heads: float = Field(default=0.0, ge=0, lt=1, description="Probability of dropping a head, until sharpening begins.")
    seed: Annotated[int, BeforeValidator(_seed)] = 0
    data_seed: Annotated[int | None, BeforeValidator(_data_seed)] = Field(
        default=None, description="Seed of the examples, if not that of the weights."
    )
    stop_at: float | None = Field(
        default=None, gt=0, le=1, description="Stop when all hops reach this accuracy; else run all steps."
    )
    evaluate_every: int = Field(default=250, ge=1, description="Steps between evaluations.")
    evaluate_examples: int = Field(default=1024, ge=1)
    snapshots: tuple[int, ...] = ()
    snapshot_every: int = Field(default=0, ge=0, description="Keep a snapshot each so many steps; 0: only the last.")

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("each must be at least 0 and below 1")
        return betas

    @property
    def seed_of_data(self) -> int:
        """The seed of everything drawn while training."""
        return self.seed if self.data_seed is None else self.data_seed

    def check_counts(self) -> None:
        """Raise `ConfigError` for entropy, loudness or dropped heads that would count at no step. Old runs may be such."""
        sharpens = bool(self.entropy or self.loudness)
        if sharpens and self.sharpen_from >= self.steps:
            rule = f"entropy and loudness count from step sharpen_from on, got {self.sharpen_from} of {self.steps} steps"
            raise ConfigError(f"{rule}: begin to sharpen earlier, or leave them out")
        if self.drop_heads and sharpens and not self.sharpen_from:
            rule = f"heads are not dropped while sharpening, got drop_heads {self.drop_heads} with sharpen_from 0"
            raise ConfigError(f"{rule}: begin to sharpen later, or leave one of them out")

    def lr_at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def keeps(self, step: int) -> bool:
        """Whether a snapshot is kept after this many steps."""
        each = self.snapshot_every > 0 and step % self.snapshot_every == 0
        return step > 0 and (each or step == self.steps or step in self.snapshots)
