"""The question: tasks that sample examples together with their find maps and counterfactuals."""

from typing import Any

from stackheads.errors import ConfigError
from stackheads.tasks.automaton import Automaton
from stackheads.tasks.base import OPERANDS, Batch, Operand, StoredTask, Task, gates, operand_roles
from stackheads.tasks.binding import Binding
from stackheads.tasks.causal_graph import CausalGraph
from stackheads.tasks.check import check, check_gates
from stackheads.tasks.conditional import Conditional
from stackheads.tasks.cycle import Cycle
from stackheads.tasks.depth_cases import DepthCases
from stackheads.tasks.drawn import check_task, draw, labelling_batch, rewired
from stackheads.tasks.induction import KHopInduction
from stackheads.tasks.keyed import KeyedTask, with_keys
from stackheads.tasks.languages import LANGUAGES, Language, Machine
from stackheads.tasks.nearest import NearestNeighbour
from stackheads.tasks.prompted import Prompted
from stackheads.tasks.retrieval import Retrieval
from stackheads.tasks.statements import StatementTask, Supervision
from stackheads.tasks.templates import Templates

__all__ = [
    "KINDS",
    "LANGUAGES",
    "OPERANDS",
    "Automaton",
    "Batch",
    "Binding",
    "CausalGraph",
    "Conditional",
    "Cycle",
    "DepthCases",
    "KHopInduction",
    "KeyedTask",
    "Language",
    "Machine",
    "NearestNeighbour",
    "Operand",
    "Prompted",
    "Retrieval",
    "StatementTask",
    "StoredTask",
    "Supervision",
    "Task",
    "Templates",
    "check",
    "check_gates",
    "check_storable",
    "check_task",
    "draw",
    "from_config",
    "gates",
    "labelling_batch",
    "operand_roles",
    "rewired",
    "settings_of",
    "with_keys",
]

KINDS: dict[str, type[StoredTask]] = {
    "cycle": Cycle,
    "retrieval": Retrieval,
    "conditional": Conditional,
    "khop": KHopInduction,
    "graph": CausalGraph,
    "automaton": Automaton,
    "nearest": NearestNeighbour,
    "templates": Templates,
    "binding": Binding,
    "cases": DepthCases,
}
"""The tasks that can be named in a configuration."""


def settings_of(task: object) -> dict[str, Any]:
    """The settings that bring a task back (`from_config`); none of one of one's own, or of a subclass, which they would not."""
    return task.model_dump() if isinstance(task, StoredTask) and KINDS.get(getattr(task, "kind", "")) is type(task) else {}


def check_storable(task: object) -> None:
    """Raise `ConfigError` for a task that its settings would not bring back: one of one's own, or a subclass of these."""
    if not settings_of(task):
        rule = f"what is stored is read back as one of the tasks {', '.join(KINDS)}"
        raise ConfigError(
            f"{rule}, got {type(task).__name__}, which is none of them: leave output_dir out, and store the state_dict yourself"
        )


def from_config(config: dict[str, Any]) -> StoredTask:
    """Build a task from its stored settings, `{"kind": "cycle", "symbols": 8, …}`. Raises `ConfigError`."""
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"a task's kind must be one of {', '.join(KINDS)}, got {kind!r}: correct the task's settings")
    return KINDS[kind](**config)
