"""The roles a head can have, and where each says a head looks: hop j, previous, duplicate, self, start."""

import torch
from jaxtyping import Bool
from torch import Tensor

from stackheads.interventions import source_mask
from stackheads.tasks import Batch, Task
from stackheads.types import Role, RoleName


def candidate_roles(task: Task) -> list[Role]:
    """All roles, each the others' rival. find^0 is left out: where it exists it is `self` or a `duplicate`."""
    others: list[RoleName] = ["previous", "duplicate", "self", "start"]
    return [Role("hop", hop) for hop in task.hops if hop != 0] + [Role(name) for name in others]


def role_targets(task: Task, batch: Batch, roles: list[Role]) -> Bool[Tensor, "role batch pos source"]:
    """The sources each role names, for every row; nothing where it names none or none that attention can reach."""
    n_pos = batch.tokens.shape[1]
    position = torch.arange(n_pos, device=batch.tokens.device).expand_as(batch.tokens)
    reachable = visible(task, n_pos, batch.tokens.device)
    same = batch.tokens[:, :, None] == batch.tokens[:, None, :]
    eye = torch.eye(n_pos, dtype=torch.bool, device=batch.tokens.device)
    masks = {
        "previous": source_mask(position - 1, n_pos),
        "duplicate": same & ~eye,
        "self": eye.expand_as(same),
        "start": source_mask(torch.zeros_like(position), n_pos) & ~eye,
    }
    offsets = list(task.hops)
    targets = [
        masks[role.name] if role.hop is None else source_mask(batch.find[:, offsets.index(role.hop)], n_pos) for role in roles
    ]
    return torch.stack(targets) & reachable


def visible(task: Task, n_pos: int, device: torch.device) -> Bool[Tensor, "pos source"]:
    """Which sources a row can attend to."""
    everything = torch.ones(n_pos, n_pos, dtype=torch.bool, device=device)
    return everything.tril() if task.attention_dir == "causal" else everything
