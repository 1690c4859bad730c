"""Statement tasks in which heads may walk over keys: the key slots of f^j(s) as sources beside the value slots of find^j.

Where attention looks both ways a key slot can look at its own value, the token behind it, and then stands for the whole
statement as a value slot does that has looked at its key. So a chain can be walked over either: a third of the models that
were trained on a cycle walk over keys (docs/results/paper.md#scale-keys). With `keys` tasks name both.

`key j` of a position that stands for s is the key slot that holds f^j(s); at value slots key -1 has a name, `previous`. What is
a `duplicate` without keys is told apart, `key 0` from `hop 0`, since what they know is not the same. The first step of such a
walk is `hop 1` at key slots. There it is the token behind in every example, so that no example tells it from that place: it is
judged as the other roles are that name a place, and `hop 1` is what it is called. On a cycle each key slot is some key j, so
that no example tells that a head looks at the `start`.
"""

from abc import ABC
from typing import Any

import torch
from jaxtyping import Int
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.tasks.base import Task
from stackheads.tasks.drawn import check_task
from stackheads.tasks.links import Links
from stackheads.tasks.statements import StatementTask
from stackheads.types import NOWHERE, Destination, Role, Slot


class KeyedTask(StatementTask, ABC):
    """A task of statements whose key slots can be sources.

    `keys`           whether they are, as `key j`.
    """

    keys: bool = False

    @model_serializer(mode="wrap")
    def _settings(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As they were before there was a choice, where keys are no sources."""
        return {name: value for name, value in dump(self).items() if name != "keys" or value}

    @property
    def operands(self) -> tuple[Role, ...]:
        """With `keys` hop 0, and `key j` for each offset of the find maps; offset 0 is never the position itself."""
        return (Role("hop", 0), *(Role("key", hop) for hop in self.hops)) if self.keys else ()

    @property
    def adjoining(self) -> tuple[tuple[Role, Destination], ...]:
        """With `keys`, what stands behind a key in every example."""
        return ((Role("hop", 1), Destination.KEY),) if self.keys else ()

    @property
    def _keyed(self) -> str:
        """What the name of a task ends with."""
        return ", key slots as sources" if self.keys else ""

    def _operands(self, links: Links, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch operand pos"] | None:
        if not self.keys:
            return None
        stands = torch.where(links.keyed == NOWHERE, NOWHERE, links.keyed - 1)  # a key stands before its value
        symbol, slots = self._symbols(tokens), self._slots(tokens)
        keys = {0: stands.gather(1, symbol).where(slots != Slot.KEY, NOWHERE)}
        for step, sign in ((links.forward, 1), (links.backward, -1)):
            reached = symbol
            for hop in range(1, max(abs(hop) for hop in self.hops) + 1):
                reached = step.gather(1, reached)
                keys[sign * hop] = stands.gather(1, reached)
        keys[-1] = keys[-1].where(slots != Slot.VALUE, NOWHERE)
        own = links.valued.gather(1, symbol).where(slots != Slot.VALUE, NOWHERE)
        return torch.stack([own, *(keys[role.hop or 0] for role in self.operands[1:])], dim=1)


def with_keys(task: Task) -> KeyedTask:
    """The same task with its key slots as sources, too.

    Raises `ConfigError` for a task that has none to name, or sources of its own, and for what is no task.
    """
    check_task(task)
    if not isinstance(task, KeyedTask):
        raise ConfigError(f"key slots are sources of a cycle or of retrieval, got {task.name}: leave keys out")
    if type(task).operands is not KeyedTask.operands:
        own = type(task).__name__
        raise ConfigError(f"key slots are sources of a task that names no others, got {own} with operands: add them there")
    return task.model_copy(update={"keys": True})
