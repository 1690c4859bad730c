"""What a program with heads (`assigned.py`) answers, step by step on tokens, also where heads give what they gave elsewhere.

Every step looks with the registers of its layer's beginning and copies the registers of its source; what the heads of some rows
carried in another run may stand in the place of what they would. Registers hold a symbol, NOTHING where there is nothing to
find, or UNKNOWN where the program does not say: a statement that is not there, or twice, as happens where keys are exchanged;
a row that two heads of a step claim, or none; and all that is looked for among places of which some are unknown. Where an
answer is unknown nothing is asked.

In tasks of statements a match is one if it is the only one, and every failure is unknown. In k-hop induction the last match
counts, and no match is nothing: the answer "does not exist".

Plain tensors, no gradients; O(batch × pos²) for each step.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.programs.heads import TOKEN, plain_readouts
from stackheads.tasks import Batch, KHopInduction
from stackheads.types import IGNORE, Slot
from stackheads.validation.assigned import ASKED, Assigned, Step

NOTHING, UNKNOWN, SILENT = -1, -2, -3
"""No symbol; a symbol that the program does not say; and what a head carries at a row that is not its own."""

Registers = dict[str, Int[Tensor, "batch pos"]]


@dataclass(frozen=True)
class Meant:
    """A run of the program: the registers at its end and, for each step, what its heads carried, whose each row was, and the
    position that it looked at.
    """

    registers: Registers
    carried: tuple[Int[Tensor, "head copy batch pos"], ...]
    whose: tuple[Int[Tensor, "batch pos"], ...]
    sources: tuple[Int[Tensor, "batch pos"], ...]

    def rolled(self, by: int) -> "Meant":
        """Each example's run where that of the example `by` further on stands."""
        registers = {name: values.roll(by, dims=0) for name, values in self.registers.items()}
        carried = tuple(values.roll(by, dims=-2) for values in self.carried)
        whose, sources = (tuple(each.roll(by, dims=0) for each in rows) for rows in (self.whose, self.sources))
        return Meant(registers, carried, whose, sources)


def interpret(
    known: Assigned,
    batch: Batch,
    swapped: Bool[Tensor, "layer batch pos head"] | None = None,
    given: Meant | None = None,
) -> Meant:
    """Run the program, with what heads carried in `given` in place where they are `swapped`."""
    registers: Registers = {TOKEN: batch.tokens}
    carried, whose, sources = [], [], []
    for layer in range(known.n_layers):
        written: Registers = {}
        for number, step in enumerate(known.steps):
            if step.layer != layer:
                continue
            mine, source = _whose(step, registers, batch), _source(known, step, registers, batch)
            values = _carried(step, registers, source, mine)
            if swapped is not None and given is not None:
                at = swapped[layer][..., [head.index for head in step.heads]]  # [batch, pos, head]
                values = torch.where(at.permute(2, 0, 1)[:, None], given.carried[number], values)
            for copy, brought in zip(step.spec.copies, _together(values), strict=True):
                before = written.get(copy.target, registers.get(copy.target, torch.full_like(batch.tokens, UNKNOWN)))
                written[copy.target] = brought.where(step.rows(batch.slots), before)
            carried.append(values)
            whose.append(mine)
            sources.append(source)
        registers = registers | written
    return Meant(registers, tuple(carried), tuple(whose), tuple(sources))


def _whose(step: Step, registers: Registers, batch: Batch) -> Int[Tensor, "batch pos"]:
    """The number of the head that each row belongs to; below 0 where that is not known."""
    if len(step.heads) == 1:
        return torch.zeros_like(batch.tokens)
    symbol = registers[step.own]
    return (symbol % len(step.heads)).where(symbol >= 0, UNKNOWN)


def _carried(
    step: Step, registers: Registers, source: Int[Tensor, "batch pos"], whose: Int[Tensor, "batch pos"]
) -> Int[Tensor, "head copy batch pos"]:
    """What each head of a step carries to each row: its source's registers at its own rows, silence at the others."""
    found = source.clamp(min=0)
    copies = [registers[copy.source].gather(1, found).where(source >= 0, source) for copy in step.spec.copies]
    own = torch.stack([whose == number for number in range(len(step.heads))])
    return torch.stack(copies)[None].where(own[:, None], SILENT)


def _together(values: Int[Tensor, "head copy batch pos"]) -> Int[Tensor, "copy batch pos"]:
    """What the heads of a step bring together: what the only one brings that is not silent."""
    speaks = values != SILENT
    brought = values.gather(0, speaks.long().argmax(dim=0, keepdim=True)).squeeze(0)
    return brought.where(speaks.sum(dim=0) == 1, UNKNOWN)


def _source(known: Assigned, step: Step, registers: Registers, batch: Batch) -> Int[Tensor, "batch pos"]:
    """The position that each row looks at, NOTHING or UNKNOWN."""
    spec, n_pos = step.spec, batch.tokens.shape[1]
    position = torch.arange(n_pos, device=batch.tokens.device)
    kind = torch.isin(batch.slots, batch.slots.new_tensor([int(slot) for slot in spec.sources]))
    candidate = kind[:, None, :].expand(-1, n_pos, -1)  # [batch, row, source]
    if batch_is_causal := known.task.attention_dir == "causal":
        candidate = candidate & (position <= position[:, None])
    if spec.offset is not None:
        return _only(candidate & (position == position[:, None] + spec.offset))
    if not spec.matches:
        return _only(candidate)
    ((row, source),) = spec.matches
    mine, theirs = registers[row][:, :, None], registers[source][:, None, :]
    match = candidate & (mine == theirs) & (mine >= 0)
    strings = isinstance(known.task, KHopInduction)
    assert batch_is_causal or not strings
    found = (match * (position + 1)).amax(dim=-1) - 1 if strings else _only(match)
    open_ = (candidate & (theirs == UNKNOWN)).any(dim=-1) | (mine.squeeze(-1) == UNKNOWN)
    return found.where(~open_, UNKNOWN)


def _only(match: Bool[Tensor, "batch row source"]) -> Int[Tensor, "batch row"]:
    """The only match of each row, UNKNOWN where there is none or more."""
    return match.long().argmax(dim=-1).where(match.sum(dim=-1) == 1, UNKNOWN)


def answers(known: Assigned, batch: Batch, meant: Meant) -> Int[Tensor, "batch pos readout"]:
    """The targets of a run of the program: like the batch's own, IGNORE where nothing is asked or the answer is unknown."""
    task, registers = known.task, meant.registers
    if isinstance(task, KHopInduction):
        found = torch.stack([registers[f"f{hop}"] for hop in range(1, task.max_hops + 1)])
        k = registers[ASKED] if ASKED in registers else torch.ones_like(batch.tokens)
        chosen = found.gather(0, (k - 1).clamp(min=0)[None]).squeeze(0).where(k > 0, UNKNOWN)
        chosen = chosen.where(chosen != NOTHING, task.does_not_exist)
        answer = chosen.where(batch.slots != Slot.OTHER, batch.targets[..., 0])[..., None]
    else:
        readouts = plain_readouts(task)
        names = [next(iter(readouts[hop])) for hop in task.readout_hops]
        answer = torch.stack([registers[name] for name in names], dim=-1)
    return answer.where((answer >= 0) & (batch.targets != IGNORE), IGNORE)
