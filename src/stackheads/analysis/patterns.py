"""Channel 1: where does a head look, is it nowhere else, and is it more than chance?

For each (head, destination) and role r: the mean attention mass on r's target over the rows where that target exists and is
no other role's target. It must beat every rival's mass on the same rows, uniform attention among them, by
`pattern_margin`; and it must beat the null: the map of *another* example with the same slots (for roles that depend on the
position alone, whose map is the same in every example, uniform attention; so too for an operand whose place the layout of the
statements fixes). The null is a one-sided paired t-test over examples, Bonferroni-corrected over heads × destinations × roles.
No forward pass: patterns come from the clean run.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from stackheads.analysis.roles import candidate_roles, role_targets, visible
from stackheads.analysis.statistics import KEPT_DRAWS, Bootstrap
from stackheads.analysis.thresholds import Thresholds
from stackheads.interventions import Recorded, destination_rows
from stackheads.tasks import Task, operand_roles
from stackheads.types import Destination, HeadId, Role


@dataclass(frozen=True)
class PatternEvidence:
    """Where one head looks at one destination.

    `role` is the best role whether it passed or not (None if no row tells any role apart); `coinciding` are roles that no
    row tells apart and that take more attention than the best one. `lead_draws`: mass - rival mass on bootstrap samples.
    `masses`: the attention mass on every role that has rows enough to tell, for following one role that may not be the best.
    """

    role: Role | None
    mass: float
    rival: str
    rival_mass: float
    p_value: float
    rows: int
    passed: bool
    coinciding: tuple[Role, ...]
    lead_draws: tuple[float, ...] = field(default=(), compare=False, repr=False)
    masses: dict[Role, float] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class _Scores:
    """Per destination: means over each role's own rows. Axis `rival` ends with uniform attention."""

    mass: Float[Tensor, "role rival head"]
    rows: Float[Tensor, "role"]
    p_value: Float[Tensor, "role head"]
    anywhere: Float[Tensor, "role head"]


def pattern_evidence(
    task: Task, clean: Recorded, destinations: list[Destination], boot: Bootstrap, thresholds: Thresholds
) -> dict[tuple[HeadId, Destination], PatternEvidence]:
    """Score every head at every destination against every role. `boot` is over all examples."""
    roles = candidate_roles(task)
    targets = role_targets(task, clean.batch, roles)
    uniform = 1.0 / visible(task, targets.shape[-1], targets.device).double().sum(dim=1)
    mass = _mass(clean, targets)
    null = _mass(clean, targets[:, clean.partner])
    placed = {role for role in operand_roles(task) if _same_everywhere(targets[roles.index(role)])}
    positional = torch.tensor([role.positional or role in placed for role in roles], device=null.device)
    null = torch.where(positional[:, None, None, None], uniform.to(null.dtype), null)
    null_exists = targets[:, clean.partner].any(dim=-1) | positional[:, None, None]
    distinct = _distinct_rows(targets)

    evidence: dict[tuple[HeadId, Destination], PatternEvidence] = {}
    layers, _, heads = clean.run.pattern.shape[:3]
    tests = layers * heads * len(destinations) * len(roles)
    for destination in destinations:
        rows = destination_rows(clean.batch, destination)
        scores = _scores(mass, null, null_exists, uniform, distinct & rows, targets.any(dim=-1) & rows)
        for number in range(layers * heads):
            head = HeadId(number // heads, number % heads)
            found = _judge(roles, scores, number, tests, thresholds)
            if found.passed:
                best, rows_of_best = roles.index(found.role), distinct & rows  # type: ignore[arg-type]
                own = mass[best, number]
                rival = uniform.to(own.dtype).expand_as(own)
                if found.rival != "uniform":
                    rival = mass[[str(role) for role in roles].index(found.rival), number]
                lead = _lead_draws(own - rival, rows_of_best[best], boot)
                found = replace(found, lead_draws=lead)
            evidence[head, destination] = found
    return evidence


def _same_everywhere(targets: Bool[Tensor, "batch pos source"]) -> bool:
    return bool((targets == targets[:1]).all())


def _lead_draws(lead: Float[Tensor, "batch pos"], rows: Bool[Tensor, "batch pos"], boot: Bootstrap) -> tuple[float, ...]:
    """The mean lead over the rows of each bootstrap sample."""
    counts = boot.counts[:KEPT_DRAWS]
    weight = rows.double()
    total, number = (lead.double() * weight).sum(dim=1), weight.sum(dim=1)
    return tuple(((counts @ total) / (counts @ number).clamp(min=1)).tolist())


def _mass(clean: Recorded, targets: Bool[Tensor, "role batch pos source"]) -> Float[Tensor, "role head batch pos"]:
    """Attention mass on each role's targets; layers and heads on one axis."""
    mass = torch.einsum("lbhps,rbps->rlhbp", clean.run.pattern, targets.to(clean.run.pattern.dtype))
    return mass.flatten(1, 2)


def _distinct_rows(targets: Bool[Tensor, "role batch pos source"]) -> Bool[Tensor, "role batch pos"]:
    """Rows where a role's target exists and shares no source with any other role's."""
    as_float = targets.float()
    overlap = torch.einsum("rbps,tbps->rtbp", as_float, as_float)
    others = overlap.sum(dim=1) - torch.diagonal(overlap, dim1=0, dim2=1).movedim(-1, 0)
    return targets.any(dim=-1) & (others == 0)


def _scores(
    mass: Float[Tensor, "role head batch pos"],
    null: Float[Tensor, "role head batch pos"],
    null_exists: Bool[Tensor, "role batch pos"],
    uniform: Float[Tensor, "pos"],
    rows: Bool[Tensor, "role batch pos"],
    anywhere: Bool[Tensor, "role batch pos"],
) -> _Scores:
    weight = rows.double()
    n_rows = weight.sum(dim=(1, 2))
    flat = weight.flatten(1) / n_rows.clamp(min=1)[:, None]
    mean_mass = torch.einsum("rn,thn->rth", flat, mass.flatten(2).double())
    mean_uniform = (flat.unflatten(1, rows.shape[1:]) * uniform).sum(dim=(1, 2))
    mean_uniform = mean_uniform[:, None, None].expand(-1, 1, mass.shape[1])
    tested = (rows & null_exists).double()
    difference = torch.einsum("rhbp,rbp->rhb", (mass - null).double(), tested)
    per_example = tested.sum(dim=2)
    everywhere = anywhere.double()
    plain = torch.einsum("rhbp,rbp->rh", mass.double(), everywhere) / everywhere.sum(dim=(1, 2)).clamp(min=1)[:, None]
    return _Scores(torch.cat([mean_mass, mean_uniform], dim=1), n_rows, _p_values(difference, per_example), plain)


def _p_values(difference: Float[Tensor, "role head batch"], rows: Float[Tensor, "role batch"]) -> Float[Tensor, "role head"]:
    """One-sided paired t-test over the examples that have rows; 1 where fewer than two do."""
    used = (rows > 0).double()[:, None]
    value = difference / rows.clamp(min=1)[:, None]
    n = used.sum(dim=2)
    mean = (value * used).sum(dim=2) / n.clamp(min=1)
    variance = ((value - mean[..., None]).square() * used).sum(dim=2) / (n - 1).clamp(min=1)
    t = mean / (variance / n.clamp(min=1)).sqrt().clamp(min=1e-12)
    p = torch.from_numpy(stats.t.sf(t.cpu().numpy(), (n - 1).clamp(min=1).cpu().numpy())).to(t.device)
    return p.where(n >= 2, 1.0)


def _judge(roles: list[Role], scores: _Scores, head: int, tests: int, thresholds: Thresholds) -> PatternEvidence:
    mass = scores.mass[:, :, head]
    own = mass.diagonal().clone()
    rivals = mass.clone()
    rivals[range(len(roles)), range(len(roles))] = -1.0
    best_rival, rival_index = rivals.max(dim=1)
    enough = scores.rows >= thresholds.min_rows
    lead = (own - best_rival).where(enough, -torch.inf)
    best = int(lead.argmax())
    coinciding = tuple(
        role
        for number, role in enumerate(roles)
        if not enough[number] and scores.anywhere[number, head] > max(float(own[best]), thresholds.pattern_margin)
    )
    if not bool(enough.any()):
        return PatternEvidence(None, 0.0, "", 0.0, 1.0, 0, False, coinciding)
    p_value = min(1.0, float(scores.p_value[best, head]) * tests)
    passed = float(lead[best]) >= thresholds.pattern_margin and p_value < thresholds.null_p and not coinciding
    names = [*map(str, roles), "uniform"]
    return PatternEvidence(
        role=roles[best],
        mass=float(own[best]),
        rival=names[int(rival_index[best])],
        rival_mass=float(best_rival[best]),
        p_value=p_value,
        rows=int(scores.rows[best]),
        passed=passed,
        coinciding=coinciding,
        masses={role: float(own[number]) for number, role in enumerate(roles) if enough[number]},
    )
