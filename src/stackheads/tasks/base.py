"""What a task is: anything that samples examples together with the positions their answers come from.

A `Batch` carries, beside tokens and targets, the *find maps*: for every offset j and position i holding symbol s, the
position of the value slot of the statement whose value is f^j(s) (Sanford, Hsu & Telgarsky, arXiv 2402.09268). They are
the ground truth that attention patterns are compared with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.settings import Settings
from stackheads.types import Role

AttentionDir = Literal["causal", "bidirectional"]
Operand = Literal["value", "condition"]
"""What of a link a counterfactual changes: the value it leads to or, where a task has them, the condition that decides it."""
OPERANDS: tuple[Operand, ...] = ("value", "condition")


@dataclass(frozen=True)
class Batch:
    """Examples of one task. All tensors are int64 and live on one device.

    `tokens`      the symbols, in [0, d_vocab).
    `targets`     the right symbol for each readout; IGNORE (-100) where nothing is asked.
    `target_hop`  the hop each target answers; 0 where nothing is asked.
    `find`        source position for each offset in the task's `hops` (in that order); -1 where there is none that
                  attention can reach.
    `slots`       `Slot` of each position; may differ between examples (`tasks/layout.py`).
    `operands`    source position for each of the task's `operands` (in that order), -1 as for `find`; None for a task
                  without any.
    `gates`       by name, what each position knows that may decide where a head looks: a number from 0 ("asked": the hops
                  asked for, "own symbol"); None for a task that names none.
    `pads`        True at positions before or behind an example that are not there: never attended to, asked or counted. Their
                  slot is OTHER; None for a task without any.
    """

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos readout"]
    target_hop: Int[Tensor, "batch pos readout"]
    find: Int[Tensor, "batch hop pos"]
    slots: Int[Tensor, "batch pos"]
    operands: Int[Tensor, "batch operand pos"] | None = None
    gates: Mapping[str, Int[Tensor, "batch pos"]] | None = None
    pads: Bool[Tensor, "batch pos"] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @cached_property
    def known(self) -> dict[Any, Any]:
        """What was worked out of these examples and is asked for again, by name; batches do not change."""
        return {}

    def __getitem__(self, index: slice | Tensor) -> "Batch":
        """The examples selected by a slice or an index tensor, as a new batch."""
        return self._each(lambda tensor: tensor[index])

    def at(self, positions: Int[Tensor, "some"]) -> "Batch":
        """The same examples with what stands at, and is asked at, these positions only; sources keep their numbers."""
        by_position = {name: getattr(self, name)[:, positions] for name in ("tokens", "targets", "target_hop", "slots")}
        operands = None if self.operands is None else self.operands[..., positions]
        gates = None if self.gates is None else {name: values[:, positions] for name, values in self.gates.items()}
        pads = None if self.pads is None else self.pads[:, positions]
        return replace(self, find=self.find[..., positions], operands=operands, gates=gates, pads=pads, **by_position)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "gates"}
        changed: dict[str, Any] = {name: None if tensor is None else change(tensor) for name, tensor in tensors.items()}
        gates = None if self.gates is None else {name: change(values) for name, values in self.gates.items()}
        return Batch(**changed, gates=gates)


def joined(batches: Sequence[Batch]) -> Batch:
    """The examples of several batches of one task, one after the other."""
    every: dict[str, Any] = {field.name: [getattr(batch, field.name) for batch in batches] for field in fields(Batch)}
    known = every.pop("gates")
    tensors: dict[str, Any] = {name: None if parts[0] is None else torch.cat(parts) for name, parts in every.items()}
    gates = None if known[0] is None else {name: torch.cat([each[name] for each in known]) for name in known[0]}
    return Batch(**tensors, gates=gates)


class StoredTask(Settings):
    """A task whose settings, `kind` among them, are stored with what is trained on it: a pydantic model that is a `Task`.

    `max_hops`       D, the number of hops asked for (≥ 1).
    `attention_dir`  `causal` or `bidirectional`.
    """

    called = "task"

    max_hops: int
    attention_dir: AttentionDir

    def vectors(self, d_model: int) -> Float[Tensor, "token d_model"]:
        """Tokens as fixed vectors, for training with `frozen_embedding`.

        Raises `ConfigError` where there are none, as in most tasks, whose symbols are no more than different, or where they
        need more numbers than d_model.
        """
        raise ConfigError("a frozen embedding needs a task whose tokens are vectors, this one's are symbols: use nearest")

    if TYPE_CHECKING:  # the members of `Task`, which its subclasses have

        @property
        def name(self) -> str: ...
        @property
        def n_ctx(self) -> int: ...
        @property
        def d_vocab(self) -> int: ...
        @property
        def d_vocab_out(self) -> int: ...
        @property
        def hops(self) -> tuple[int, ...]: ...
        def sample(self, n: int, generator: torch.Generator) -> Batch: ...
        def readout(self, logits: Tensor, batch: Batch) -> Tensor: ...
        def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch: ...
        def chance(self, hop: int) -> float: ...


@runtime_checkable
class Task(Protocol):
    """The shape of a task; users bring their own by having these members.

    `hops` are the offsets j for which batches carry find maps, e.g. (-4, …, 4), in the order of `Batch.find`; every hop that is
    asked is one of them, also where no single position decides it and its map is -1, or is called one of them by the task's
    `same_offset(hop)`, which tasks may have whose hops come round to where they began.
    """

    @property
    def name(self) -> str: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def d_vocab(self) -> int: ...
    @property
    def d_vocab_out(self) -> int: ...
    @property
    def attention_dir(self) -> AttentionDir: ...
    @property
    def hops(self) -> tuple[int, ...]: ...

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Draw n examples; the same generator state gives the same examples."""
        ...

    def readout(
        self, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch
    ) -> Float[Tensor, "batch pos readout d_vocab"]:
        """How answers are read from a model's logits."""
        ...

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The same examples with only link `hop` of the queried chain rewired, so that answers from it on differ."""
        ...


def operand_roles(task: Task) -> tuple[Role, ...]:
    """What `Batch.operands` holds beside the find maps: a task's `operands`, none for a task that has no such member."""
    return tuple(getattr(task, "operands", ()))


def named_hop(task: Task, hop: int) -> int:
    """What a task's find maps call a hop: by its `same_offset`, if its hops come round, hop 8 of 10 is hop -2."""
    same_offset = getattr(task, "same_offset", None)
    return hop if same_offset is None else same_offset(hop)


def gates(batch: Batch) -> Mapping[str, Tensor]:
    """What the task says that a position may know, by name, [batch, pos] each if they are right (`check_gates`)."""
    return batch.gates or {}
