"""The answerer: configurations, checkpoints, and the only code that knows TransformerLens."""

from stackheads.models.checkpoint import (
    Checkpoint,
    holds_checkpoint,
    load,
    parameters,
    save_checkpoint,
    snapshot_folder,
    snapshots,
)
from stackheads.models.config import ModelConfig, build, check_fit, parse_device
from stackheads.models.native import named_weights
from stackheads.models.outside.bridged import bridge
from stackheads.models.outside.exported import to_gpt2
from stackheads.models.outside.imported import from_gpt2, load_gpt2
from stackheads.models.outside.settings import Gpt2Settings
from stackheads.models.outside.weights import read_state_dict

__all__ = [
    "Checkpoint",
    "Gpt2Settings",
    "ModelConfig",
    "bridge",
    "build",
    "check_fit",
    "from_gpt2",
    "holds_checkpoint",
    "load",
    "load_gpt2",
    "named_weights",
    "parameters",
    "parse_device",
    "read_state_dict",
    "save_checkpoint",
    "snapshot_folder",
    "snapshots",
    "to_gpt2",
]
