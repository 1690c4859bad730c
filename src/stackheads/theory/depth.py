"""Everything about one task's depth: closed forms, simulation and shortcuts side by side."""

from dataclasses import asdict, dataclass
from typing import Any

from stackheads.limits import check_number
from stackheads.seeds import check_seed
from stackheads.tasks.statements import StatementTask
from stackheads.theory.bounds import layers_needed, log2_bound, log3_bound, paper_bound
from stackheads.theory.flow import Least, least_layers
from stackheads.theory.shortcuts import READ_AT, Guess, Structure, shortcuts, structure
from stackheads.types import Destination


@dataclass(frozen=True)
class Depth:
    """How many layers each hop of a task needs; `shortcuts` is None where the task's examples are too many to list."""

    task: StatementTask
    examples: int
    seed: int
    least: dict[tuple[int, Destination], Least]
    shortcuts: list[Guess] | None
    structure: Structure

    def bound(self, hop: int, destination: Destination) -> int | None:
        """The closed form."""
        return layers_needed(hop, self.task.attention_dir, destination, self.task.period)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: one entry per hop, and the shortcuts."""
        found = self.shortcuts
        return {
            "format": 1,
            "task": {"name": self.task.name, **self.task.model_dump()},
            "seed": self.seed,
            "examples": self.examples,
            "hops": [self._hop(hop) for hop in range(1, self.task.max_hops + 1)],
            "shortcuts": None if found is None else [{**asdict(guess), "kind": guess.kind} for guess in found],
            "structure": asdict(self.structure),
        }

    def _hop(self, hop: int) -> dict[str, Any]:
        logs = {"log3": log3_bound(hop), "log2": log2_bound(hop), "paper": paper_bound(hop)}
        at = {destination.value: self._cell(hop, destination) for destination in READ_AT}
        return {"hop": hop, **logs, "chance": self.task.chance(hop), **at}

    def _cell(self, hop: int, destination: Destination) -> dict[str, Any]:
        least = self.least[hop, destination]
        return {
            "bound": self.bound(hop, destination),
            "simulated": least.layers,
            "first": least.first,
            "rows": least.rows,
            "shares": list(least.shares),
        }


def depth(task: StatementTask, examples: int = 256, seed: int = 0) -> Depth:
    """Closed forms, simulation on a sample, and shortcuts of a task. Seconds. Raises `ConfigError` if examples < 1."""
    examples, seed = check_number("the number of examples", examples, 1), check_seed(seed)
    least = {(found.hop, found.destination): found for found in least_layers(task, examples, seed)}
    return Depth(task, examples, seed, least, shortcuts(task), structure(task, examples, seed))
