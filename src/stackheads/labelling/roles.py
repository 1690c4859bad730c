"""The roles a head can have, and where each says a head looks: hop j, previous, duplicate, self, start, and what a task adds.

A task whose steps need more than a value names further sources (`Batch.operands`): condition j, unchosen j, and where a value
stands more than once all places of a hop.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from stackheads.interventions import source_mask
from stackheads.tasks import Batch, Task, operand_roles
from stackheads.tasks.layout import real
from stackheads.types import NOWHERE, Role, RoleName


def candidate_roles(task: Task) -> list[Role]:
    """All roles, each the others' rival. find^0 is left out, since where it exists it is `self` or a `duplicate`, but where a
    task tells duplicates apart.
    """
    apart = Role("hop", 0) in operand_roles(task)
    others: list[RoleName] = ["previous", *([] if apart else ["duplicate"]), "self", "start"]
    hops = [Role("hop", hop) for hop in task.hops if hop != 0]
    return [*dict.fromkeys([*hops, *operand_roles(task)]), *(Role(name) for name in others)]


def role_targets(task: Task, batch: Batch, roles: list[Role]) -> Bool[Tensor, "role batch pos source"]:
    """The sources each role names, for every row; nothing where it names none or none that attention can reach."""
    n_pos = batch.tokens.shape[1]
    position = torch.arange(n_pos, device=batch.tokens.device).expand_as(batch.tokens)
    eye = torch.eye(n_pos, dtype=torch.bool, device=batch.tokens.device)
    masks = {
        Role("previous"): lambda: source_mask(position - 1, n_pos),
        Role("duplicate"): lambda: (batch.tokens[:, :, None] == batch.tokens[:, None, :]) & ~eye,
        Role("self"): lambda: eye.expand(len(batch), -1, -1),
        Role("start"): lambda: source_mask(_first(batch), n_pos) & ~eye,
    }
    masks[Role("hop", 0)] = lambda: _named_sources(task, batch, Role("hop", 0)) & ~eye
    targets = [masks[role]() if role in masks else _named_sources(task, batch, role) for role in roles]
    return torch.stack(targets) & visible(task, batch)


def _first(batch: Batch) -> Int[Tensor, "batch pos"]:
    """Where each example begins."""
    return real(batch).to(torch.uint8).argmax(dim=1, keepdim=True).expand_as(batch.tokens)


def _named_sources(task: Task, batch: Batch, role: Role) -> Bool[Tensor, "batch pos source"]:
    """The sources of a hop, by its find map, and of what else the task names so, by all of its maps of that name; none of a
    role that the task does not have.
    """
    maps = [batch.find[:, number] for number, hop in enumerate(task.hops) if role == Role("hop", hop)]
    if batch.operands is not None:
        maps += [batch.operands[:, number] for number, other in enumerate(operand_roles(task)) if other == role]
    masks = [source_mask(one, batch.tokens.shape[1]) for one in maps or [torch.full_like(batch.tokens, NOWHERE)]]
    return masks[0] if len(masks) == 1 else torch.stack(masks).any(dim=0)


def visible(task: Task, batch: Batch) -> Bool[Tensor, "#batch pos source"]:
    """Which sources a row can attend to: none that are pads, and none ahead where attention is causal; one map for all examples
    where there are no pads.
    """
    n_pos = batch.tokens.shape[1]
    everything = torch.ones(1, n_pos, n_pos, dtype=torch.bool, device=batch.tokens.device)
    seen = everything.tril() if task.attention_dir == "causal" else everything
    return seen if batch.pads is None else seen & real(batch)[:, None]
