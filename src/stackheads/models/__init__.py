"""The answerer: configurations, checkpoints, and the only code that knows TransformerLens."""

from stackheads.models.checkpoint import Checkpoint, load, parameters, save_checkpoint, snapshot_folder, snapshots
from stackheads.models.config import ModelConfig, build, check_fit, model_config, parse_device

__all__ = [
    "Checkpoint",
    "ModelConfig",
    "build",
    "check_fit",
    "load",
    "model_config",
    "parameters",
    "parse_device",
    "save_checkpoint",
    "snapshot_folder",
    "snapshots",
]
