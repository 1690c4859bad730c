"""Training by interchange interventions, so that chosen heads carry the steps of a program and nothing else carries anything.

Strict interchange intervention training (Gupta et al., *InterpBench*, arXiv 2407.14494; after Geiger et al., arXiv 2112.00826).
Each step of training runs a batch twice. The plain run must give the task's answers. In the second run outputs of heads are
those that they gave on another example at the same positions, and the answers must be what the program says then:

- *steps*: a step's heads at a destination, one head of several where both examples give it the same rows, or several steps at
  once; at all positions or at half of them. The answer is that of the program with what these heads carried there
  (`interpreter.py`); where it does not say, nothing is asked.
- *the rest*: heads without a step, heads of steps at other destinations, and MLPs; all of them or half. No answer may change,
  and where the rest alone is exchanged the logits must stay too, or a little would be carried by what carries nothing.

So every head must carry what its step brings, and no more. How it comes to know that is not asked: a head that could tell it by
elimination need not look at the step's source (`exchanged.attention_on_sources`). A circuit that is not found so may have a
guided beginning, which draws heads to their steps (`guided.py`). Assumes one layout of positions for all examples, and a
model that the fused forward covers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from stackheads.errors import ConfigError
from stackheads.models.config import ModelConfig, build
from stackheads.models.forwards.patched import Outputs, PatchedForward, Swap
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch
from stackheads.tasks.scoring import asked
from stackheads.training.config import TrainingConfig
from stackheads.types import IGNORE, Destination
from stackheads.validation.assigned import Assigned, Step
from stackheads.validation.guided import Guidance, Guide
from stackheads.validation.interpreter import Meant, answers, interpret

QUIET = 1.0
"""Weight of the squared change of logits, in units of their variance, where only the rest is exchanged."""
OTHERS = ("frozen_embedding", "balanced", "entropy", "loudness", "drop_heads")
"""Settings of training that mean nothing here."""


@dataclass(frozen=True)
class Drawn:
    """A batch with the program's run of it, what is exchanged in it, and the answers then; each example takes from the one
    before it.
    """

    batch: Batch
    meant: Meant
    swap: Swap
    targets: Int[Tensor, "batch pos readout"]
    only_rest: Bool[Tensor, "batch"]


def train_strictly(known: Assigned, config: ModelConfig, training: TrainingConfig, guide: Guide | None = None) -> Model:
    """A model of this shape trained as the module says. Raises `ConfigError` for settings of another way of training.

    Cost: two forward passes for each step.
    """
    if other := [name for name in OTHERS if getattr(training, name)]:
        raise ConfigError(f"interchange training has no {other[0]}, got {getattr(training, other[0])}: leave it out")
    if guide is not None and guide.until > training.steps:
        rule = "a guide ends with training at the latest, so that interchanges have the last word"
        raise ConfigError(f"{rule}, got {guide.until} of {training.steps} steps: guide fewer, or train more")
    model = build(config, known.task, seed=training.seed).train()
    guidance = None if guide is None else Guidance(guide, known, model)
    optimiser = torch.optim.AdamW(
        [*model.parameters(), *(guidance.parameters if guidance else [])],
        lr=training.lr,
        betas=training.betas,
        weight_decay=training.weight_decay,
        fused=True,
    )
    forward, generator = PatchedForward(model), stream(training.seed_of_data, Stream.INTERCHANGE)
    for step in range(training.steps):
        for group in optimiser.param_groups:
            group["lr"] = training.lr_at(step)
        optimiser.zero_grad()
        drawn = draw(known, training.batch, generator)
        helped = partial(guidance.loss, step) if guidance and guidance.guide.at(step) else None
        interchange_loss(known, forward, drawn, helped).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval().requires_grad_(False)


def interchange_loss(
    known: Assigned, forward: PatchedForward, drawn: Drawn, helped: Callable[[Batch, Meant, Outputs], Tensor] | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of the plain run and of the exchanged one, how the rest moves logits, and what helps heads in the plain
    run (`guided.py`). Cost: two forward passes.
    """
    batch = drawn.batch
    read = asked(batch).any(dim=-1).any(dim=0).nonzero().squeeze(1)
    logits, outputs = forward.run(batch.tokens, read=read)
    exchanged, _ = forward.run(batch.tokens, drawn.swap, outputs.rolled(1), read)
    there = batch.at(read)
    plain, after = (known.task.readout(each, there) for each in (logits, exchanged))
    same = asked(there) & drawn.only_rest[:, None, None]
    moved = (after - plain)[same]
    quiet = moved.square().mean() / plain[asked(there)].var().detach() if len(moved) else logits.new_zeros(())
    loss = _cross_entropy(plain, there.targets) + _cross_entropy(after, drawn.targets[:, read]) + QUIET * quiet
    return loss if helped is None else loss + helped(batch, drawn.meant, outputs)


def _cross_entropy(answer_logits: Float[Tensor, "batch pos readout symbol"], targets: Tensor) -> Float[Tensor, ""]:
    return functional.cross_entropy(answer_logits.flatten(0, 2), targets.flatten(), ignore_index=IGNORE)


def draw(known: Assigned, n: int, generator: torch.Generator) -> Drawn:
    """Examples and what is exchanged in each: one step (2 of 5), each step or not (2 of 5), none (1 of 5); beside it all of the
    rest, half of it, or nothing.
    """
    batch = known.task.sample(n, generator)
    meant = interpret(known, batch)
    other = meant.rolled(1)
    heads = torch.zeros(known.n_layers, *batch.tokens.shape, known.n_heads, dtype=torch.bool)
    cells = [(number, place) for number, step in enumerate(known.steps) for place in sorted(step.spec.rows)]
    how, which = torch.rand(n, generator=generator, dtype=torch.float), torch.randint(len(cells), (n,), generator=generator)
    each = torch.rand(n, len(cells), generator=generator, dtype=torch.float) < 0.5
    for index, (number, place) in enumerate(cells):
        chosen = torch.where(how < 0.4, which == index, each[:, index] & (how < 0.8))
        step, same = known.steps[number], meant.whose[number] == other.whose[number]
        heads[step.layer, ..., [head.index for head in step.heads]] |= _rows(step, place, batch, chosen, same, generator)
    beside = _some_rest(known, batch, generator)
    swap = Swap(heads | beside.heads, beside.mlps)
    targets = answers(known, batch, interpret(known, batch, swap.heads, other))
    return Drawn(batch, meant, swap, targets, ~heads.flatten(2).any(dim=0).any(dim=-1))


def _rows(
    step: Step, place: Destination, batch: Batch, chosen: Tensor, same: Tensor, generator: torch.Generator
) -> Bool[Tensor, "batch pos head"]:
    """Where the heads of a step are exchanged in the chosen examples: all of them, or one where its rows are the `same`."""
    rows = chosen[:, None] & (batch.slots == place.slot)
    half = torch.rand(rows.shape, generator=generator, dtype=torch.float) < 0.5
    some = rows & (half | (torch.rand(len(rows), 1, generator=generator, dtype=torch.float) < 0.5))
    together = torch.rand(len(rows), 1, generator=generator, dtype=torch.float) < 0.5
    number = torch.randint(len(step.heads), (len(rows), 1), generator=generator)
    if len(step.heads) == 1:
        return some[..., None]
    alone = (some & same)[..., None] & (number[..., None] == torch.arange(len(step.heads)))
    return torch.where(together[..., None], some[..., None], alone)


def rest(known: Assigned, batch: Batch) -> Swap:
    """All that carries nothing: heads where they have no step, and MLPs."""
    heads = ~known.carrying(batch.slots[0])[:, None].expand(-1, len(batch), -1, -1)
    mlps = torch.ones(known.n_layers, *batch.tokens.shape, dtype=torch.bool)
    if known.choosing:
        mlps[-1] = False
    return Swap(heads, mlps)


def _some_rest(known: Assigned, batch: Batch, generator: torch.Generator) -> Swap:
    """Of what carries nothing, all of an example (1 of 3), half (1 of 3), or none."""
    whole, how = rest(known, batch), torch.rand(len(batch), generator=generator, dtype=torch.float)

    def some(shape: torch.Size) -> Tensor:
        half = torch.rand(shape, generator=generator, dtype=torch.float) < 0.5
        amount = how.view(1, -1, *[1] * (len(shape) - 2))
        return (amount < 2 / 3) & (half | (amount < 1 / 3))

    mlps = whole.mlps & some(whole.mlps.shape)
    return Swap(whole.heads & some(whole.heads.shape), mlps)
