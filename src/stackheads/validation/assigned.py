"""A program whose steps are given to chosen heads of a model: what these heads must do, and all others must not.

A *step* is a `HeadSpec` (`programs/heads.py`): where its rows look and which registers they copy. It belongs to a layer and to
one to three heads. Several heads share it by symbol: a row is the k-th head's if the symbol that it looks with – the register
that is matched, its own token where nothing is – has the remainder k. So each head alone carries the step at some rows, and
nothing at the others.

What follows from this is the label that a head would get that does its step as the program says: at its destinations its role,
under a gate where it shares the step by its own token; and no other (head, destination) carries anything. That a trained model
obeys is what its training asks (`strict.py`) and what is measured on fresh examples (`exchanged.py`); it rests on no labeller.
What a head carries is proved by it, where it looks is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.programs.heads import PLACES, TOKEN, Copy, HeadSpec, Layers, register
from stackheads.programs.mechanisms import one_hop_per_layer
from stackheads.programs.program import Program, lower
from stackheads.seeds import Stream, stream
from stackheads.tasks import KHopInduction, StatementTask
from stackheads.tasks.statements import OWN
from stackheads.types import Destination, Gate, HeadId, Role, Slot
from stackheads.validation.truth import Truth

QUERY, VALUE = Destination.QUERY, Destination.VALUE
ASKED = "asked"
"""The register of the number of hops asked for, in k-hop induction."""

KnownTask = StatementTask | KHopInduction


@dataclass(frozen=True)
class Step:
    """What the heads `heads`, all of layer `layer`, do together."""

    layer: int
    spec: HeadSpec
    heads: tuple[HeadId, ...]

    @property
    def own(self) -> str:
        """The register whose symbol says which of the heads a row belongs to."""
        return self.spec.matches[0][0] if self.spec.matches else TOKEN

    def rows(self, slots: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """The positions at which the step acts."""
        return torch.isin(slots, slots.new_tensor([int(destination.slot) for destination in self.spec.rows]))


@dataclass(frozen=True)
class Assigned:
    """A task, the steps that answer it, and the shape of the model that they are given to.

    `choosing`: the last layer's MLP may choose between registers; all others carry nothing.
    """

    task: KnownTask
    steps: tuple[Step, ...]
    n_layers: int
    n_heads: int
    choosing: bool = False

    def carrying(self, slots: Int[Tensor, "pos"]) -> Bool[Tensor, "layer pos head"]:
        """Where each head carries something."""
        carries = torch.zeros(self.n_layers, len(slots), self.n_heads, dtype=torch.bool, device=slots.device)
        for step in self.steps:
            for head in step.heads:
                carries[step.layer, :, head.index] |= step.rows(slots)
        return carries

    def truth(self) -> dict[tuple[HeadId, Destination], Truth]:
        """The label of every (head, destination): its role, or nothing."""
        heads = [HeadId(layer, index) for layer in range(self.n_layers) for index in range(self.n_heads)]
        truth = {(head, destination): Truth(None, "none") for head in heads for destination in PLACES}
        for step in self.steps:
            for number, head in enumerate(step.heads):
                gate = self._gate(step, number)
                truth |= {(head, place): Truth(step.spec.roles[place], "confirmed", gate) for place in step.spec.rows}
        return truth

    def _gate(self, step: Step, number: int) -> Gate | None:
        """When one of several heads acts, where the task has a name for it."""
        if len(step.heads) == 1 or step.own != TOKEN:
            return None
        task = self.task
        first, count = (task.max_hops + 1, task.symbols) if isinstance(task, KHopInduction) else (0, task.d_vocab)
        return Gate(OWN, tuple(symbol for symbol in range(count) if (symbol + first) % len(step.heads) == number))


def assign(
    task: KnownTask,
    layers: Layers,
    seed: int,
    shares: Sequence[int] | None = None,
    spare: int = 1,
    choosing: bool = False,
) -> Assigned:
    """Give each step of each layer to heads drawn by the seed; `spare` heads of the fullest layer have nothing to do.

    `shares`: heads for each step of a layer, for each layer (1). Raises `ConfigError` where it is of another length, or not in
    1..3.
    """
    shares = shares or [1] * len(layers)
    if len(shares) != len(layers) or not all(share in (1, 2, 3) for share in shares):
        raise ConfigError(f"shares are 1 to 3 heads for each of {len(layers)} layers, got {list(shares)}: give as many")
    width = spare + max(share * len(specs) for share, specs in zip(shares, layers, strict=True))
    steps = []
    for layer, (specs, share) in enumerate(zip(layers, shares, strict=True)):
        order = torch.randperm(width, generator=stream(seed, Stream.ASSIGNED, layer)).tolist()
        for number, spec in enumerate(specs):
            heads = sorted(order[number * share : (number + 1) * share])
            steps.append(Step(layer, spec, tuple(HeadId(layer, index) for index in heads)))
    return Assigned(task, tuple(steps), len(layers), width, choosing)


def statements(task: StatementTask, program: Program) -> Layers:
    """The layers of a program for a task of statements, without what nothing asked for reads: in a task whose value slots are
    not asked, the last layer acts at the query alone.
    """
    layers = lower(program, task.same_offset)
    if task.supervision == "dense":
        return layers
    return (*layers[:-1], tuple(replace(spec, rows=frozenset({QUERY})) for spec in layers[-1] if QUERY in spec.rows))


def walk(task: StatementTask) -> Layers:
    """One hop per layer, at value slots too where these are asked: each row looks for the symbol that it found last, and takes
    that place's token and nothing else. Where chains end, the last hop is no value slot's.
    """

    def step(hop: int) -> HeadSpec:
        at_values = task.supervision == "dense" and (task.period is not None or hop < task.max_hops)
        rows = frozenset({QUERY, VALUE} if at_values else {QUERY})
        match = (register(hop - 1), register(-1))
        return HeadSpec((match,), rows, (Copy(TOKEN, register(hop)),), dict.fromkeys(rows, Role("hop", hop)))

    return (lower(one_hop_per_layer(1))[0], *((step(hop),) for hop in range(1, task.max_hops + 1)))


def strings(task: KHopInduction) -> Layers:
    """One hop of k-hop induction per layer: every row looks behind the last earlier occurrence of its character, and takes the
    character there, then what that place has found itself. Where k varies, rows look it up at the start.
    """
    both = frozenset({QUERY, VALUE})
    previous = HeadSpec(
        (), frozenset({VALUE}), (Copy(TOKEN, "f-1"),), {VALUE: Role("previous")}, frozenset({Slot.VALUE, Slot.OTHER}), -1
    )
    start = HeadSpec((), both, (Copy(TOKEN, ASKED),), dict.fromkeys(both, Role("start")), frozenset({Slot.OTHER}))
    hops = tuple(
        (HeadSpec(((TOKEN, "f-1"),), both, (Copy(source, f"f{hop}"),), dict.fromkeys(both, Role("hop", 1))),)
        for hop, source in enumerate((TOKEN, *(f"f{hop}" for hop in range(1, task.max_hops))), start=1)
    )
    return ((previous, start) if task.max_hops > 1 else (previous,), *hops)
