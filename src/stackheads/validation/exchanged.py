"""How exactly a model obeys a program with heads (`assigned.py`): accuracies of interchanges on fresh examples.

Every exchange of which training drew at random is made in every example: each head of a step at each destination, alone (where
both examples give it the same rows) and with the step's other heads; all of the rest; and exchanges drawn as in training. An
exchange that moves few answers could be ignored at little loss, so each is scored twice, on the answers that must change and on
those that must stay, and the lower share counts.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.errors import ConfigError
from stackheads.labelling.roles import visible
from stackheads.models.forwards.patched import PatchedForward, Swap
from stackheads.models.hooks import analysing, record
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch
from stackheads.tasks.scoring import correct, margins
from stackheads.types import IGNORE, Destination, HeadId
from stackheads.validation.assigned import Assigned, Step
from stackheads.validation.interpreter import Meant, answers, interpret
from stackheads.validation.strict import draw, rest

MIN_COUNT = 32
"""Answers of a kind below which nothing is said about them."""
REST = "the rest"
"""What may change no answer."""

Exchange = tuple[str, Swap]


def interchange_accuracy(known: Assigned, model: Model, examples: int, seed: int = 0) -> dict[str, float]:
    """The share of right answers for each exchange by name, "plain" without any. Cost: a forward pass for each."""
    generator = stream(seed, Stream.INTERCHANGED)
    drawn = draw(known, examples, generator)
    batch, meant = drawn.batch, interpret(known, drawn.batch)
    exchanges = [*_steps(known, batch, meant), (REST, rest(known, batch)), ("drawn", drawn.swap)]
    forward = PatchedForward(model)
    with analysing(model):
        logits, outputs = forward.run(batch.tokens)
        found = {"plain": _share(_right(known, logits, batch, batch.targets), batch.targets != IGNORE)}
        for name, swap in exchanges:
            targets = answers(known, batch, interpret(known, batch, swap.heads, meant.rolled(1)))
            after, _ = forward.run(batch.tokens, swap, outputs.rolled(1))
            found[name] = _lower(name, _right(known, after, batch, targets), targets, batch.targets)
    return found


def _lower(name: str, right: Bool[Tensor, "*shape"], targets: Int[Tensor, "*shape"], before: Int[Tensor, "*shape"]) -> float:
    """The lower share of those answers that must change and those that must stay, each where there are enough.

    Raises `ConfigError` where too few answers change by what a step's heads carry: then nothing is proved of it.
    """
    asked = targets != IGNORE
    change, stay = asked & (targets != before), asked & (targets == before)
    if name != REST and int(change.sum()) < MIN_COUNT:
        raise ConfigError(
            f"an exchange proves something where it changes {MIN_COUNT} answers or more, {name} changes {int(change.sum())}: "
            "give more examples"
        )
    return min(_share(right, kind) for kind in (change, stay) if int(kind.sum()) >= MIN_COUNT)


def moved_by_the_rest(known: Assigned, model: Model, examples: int, seed: int = 0) -> float:
    """The share of the answers' margin that goes when all of the rest is exchanged: 0 if nothing carries anything."""
    batch = known.task.sample(examples, stream(seed, Stream.INTERCHANGED))
    forward = PatchedForward(model)
    with analysing(model):
        logits, outputs = forward.run(batch.tokens)
        after, _ = forward.run(batch.tokens, rest(known, batch), outputs.rolled(1))
        before, left = (margins(known.task.readout(each, batch), batch.targets).sum() for each in (logits, after))
    return (1 - left / before).item()


def attention_on_sources(
    known: Assigned, model: Model, examples: int, seed: int = 0
) -> dict[tuple[HeadId, Destination], tuple[float, float]]:
    """Mean attention, 0 to 1, of each head of a step on the step's source, at a destination's rows that are the head's own; and
    on each other position of the source's slot that they see, on average.

    Exchanges prove what a head carries. It may know that without looking where it stands: in a cycle, whose symbols are all
    keys, the one key that is looked at less than all others is one's own. Cost: one forward pass.
    """
    batch = known.task.sample(examples, stream(seed, Stream.INTERCHANGED))
    meant, run, seen = interpret(known, batch), record(model, batch.tokens), visible(known.task, batch)
    found = {}
    for step, whose, source in zip(known.steps, meant.whose, meant.sources, strict=True):
        for number, head in enumerate(step.heads):
            pattern, at = run.of(head)[0], source.clamp(min=0)
            mass = pattern.gather(-1, at[..., None]).squeeze(-1)
            # [batch, pos, source]: what a row sees of the slot that its source is in
            alike = (batch.slots.gather(1, at)[..., None] == batch.slots[:, None]) & seen
            others = ((pattern * alike).sum(dim=-1) - mass) / (alike.sum(dim=-1) - 1).clamp(min=1)
            for place in step.spec.rows:
                rows = (batch.slots == place.slot) & (whose == number) & (source >= 0)
                found[head, place] = mass[rows].mean().item(), others[rows].mean().item()
    return found


def _steps(known: Assigned, batch: Batch, meant: Meant) -> Iterator[Exchange]:
    for step, whose in zip(known.steps, meant.whose, strict=True):
        same = whose == whose.roll(1, dims=0)
        for place in sorted(step.spec.rows):
            rows = batch.slots == place.slot
            if len(step.heads) > 1:
                yield f"{'+'.join(map(str, step.heads))} @{place}", _swap(known, step, rows, range(len(step.heads)))
            for number, head in enumerate(step.heads):
                yield f"{head} @{place}", _swap(known, step, rows & (same | (len(step.heads) == 1)), [number])


def _swap(known: Assigned, step: Step, rows: Bool[Tensor, "batch pos"], numbers: range | list[int]) -> Swap:
    heads = torch.zeros(known.n_layers, *rows.shape, known.n_heads, dtype=torch.bool)
    for number in numbers:
        heads[step.layer, ..., step.heads[number].index] = rows
    return Swap(heads, torch.zeros(known.n_layers, *rows.shape, dtype=torch.bool))


def _right(known: Assigned, logits: Tensor, batch: Batch, targets: Int[Tensor, "batch pos readout"]) -> Tensor:
    return correct(known.task.readout(logits, batch), targets)


def _share(right: Bool[Tensor, "*shape"], where: Bool[Tensor, "*shape"]) -> float:
    return right[where].double().mean().item()
