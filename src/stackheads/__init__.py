"""stackheads: which attention heads implement which hop, found automatically and put to the test.

Public names are imported on first use, so that importing the package and `stackheads --help` stay quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stackheads import tasks as tasks
    from stackheads.analysis import Analysis as Analysis
    from stackheads.analysis import analyze as analyze
    from stackheads.models.checkpoint import load as load
    from stackheads.models.config import ModelConfig as ModelConfig
    from stackheads.timeline.emergence import emergence as emergence
    from stackheads.timeline.orders import orders_agree as orders_agree
    from stackheads.timeline.result import Emergence as Emergence
    from stackheads.training.config import TrainingConfig as TrainingConfig
    from stackheads.training.trainer import train as train

_HOMES = {
    "Analysis": "stackheads.analysis",
    "Emergence": "stackheads.timeline.result",
    "ModelConfig": "stackheads.models.config",
    "TrainingConfig": "stackheads.training.config",
    "analyze": "stackheads.analysis",
    "emergence": "stackheads.timeline.emergence",
    "load": "stackheads.models.checkpoint",
    "orders_agree": "stackheads.timeline.orders",
    "train": "stackheads.training.trainer",
}

__all__ = [
    "Analysis",
    "Emergence",
    "ModelConfig",
    "TrainingConfig",
    "analyze",
    "emergence",
    "load",
    "orders_agree",
    "tasks",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "tasks":
        return import_module("stackheads.tasks")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'stackheads' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
