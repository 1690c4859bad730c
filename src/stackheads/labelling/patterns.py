"""Channel 1: where does a head look, is it nowhere else, and is it more than chance?

For each (head, destination) and role r: the mean attention mass on r's target over the rows where that target exists and is
no other role's target. It is compared with every rival's mass on the same rows, uniform attention among them (`lead`), and with
the null: the map of *another* example (`maps.py`; for roles that depend on the position alone, whose map is the same in every
example, uniform attention; so too for an operand whose place the layout of the statements fixes, and at a destination for what
they put next to it). The null is a one-sided paired t-test over examples, Bonferroni-corrected over heads × destinations ×
roles; leads have intervals by Student's t over examples, Bonferroni-corrected over roles. A role that leads has rivals that are
no role, too: tables (`rivals.py`).

What the examples cannot show is said and not judged: roles that no row tells apart (`coinciding`), a role whose source stands
at the same place in every example, so that looking there is looking at a place (`fixed`), and roles whose source stands in too
few of these examples (`rare`), each where the head looks there much. No forward pass: patterns come from the clean run.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import Recorded, destination_rows
from stackheads.interventions.engine import MEMORY
from stackheads.labelling.maps import Maps, RoleMaps, make_maps, role_maps
from stackheads.labelling.rivals import TABLES, Contrast, contrasts
from stackheads.labelling.statistics import Estimate, Resampling, exceeding, mean_interval, unseen
from stackheads.labelling.thresholds import Thresholds
from stackheads.tasks import KeyedTask, Task, operand_roles
from stackheads.types import Destination, HeadId, Role, Where


@dataclass(frozen=True)
class PatternEvidence:
    """Where one head looks at one destination.

    `role` is the one with the largest lead (None if no row tells any role apart), `lead` its mass - `rival_mass`, `beyond` its
    mass beyond the null's, `p_value` that of the null after correction; `furthest` the lead, of any role's, whose upper bound
    is the largest with what its examples may not have shown.
    `coinciding`, `fixed` and `rare` name roles that take more attention than the best one and were not judged (see the module).
    `lead_draws`: the lead on bootstrap samples. `masses`: the attention mass on every role that was judged, for following one
    role that may not be the best. `contrasts`: where the role leads, what attention follows where a table names another source.
    `share` is that part of the head's attention at these positions which lies on the role's
    sources, rows without one counted; `examples` is how many of the `drawn` have such positions.
    """

    role: Role | None
    mass: float
    rival: str
    rival_mass: float
    lead: Estimate
    beyond: Estimate
    p_value: float
    furthest: Estimate
    rows: int
    examples: int
    coinciding: tuple[Role, ...] = ()
    fixed: tuple[Role, ...] = ()
    rare: tuple[Role, ...] = ()
    lead_draws: tuple[float, ...] = field(default=(), compare=False, repr=False)
    masses: dict[Role, float] = field(default_factory=dict, compare=False, repr=False)
    share: float | None = None
    drawn: int = 0
    contrasts: tuple[Contrast, ...] = ()


@dataclass(frozen=True)
class _Scores:
    """One destination: means over each role's own rows, of every head. Axis `rival` ends with uniform attention.

    What bootstrap samples are drawn from, `single` and `weight`, is where the run is; all else is judged head by head, and on
    the CPU.
    """

    mass: Float[Tensor, "role rival head"]
    anywhere: Float[Tensor, "role head"]
    rows: Int[Tensor, "role"]
    examples: Int[Tensor, "role"]
    fixed: Bool[Tensor, "role"]
    p_value: Float[Tensor, "role head"]
    lead: tuple[Float[Tensor, "role head"], ...]
    beyond: tuple[Float[Tensor, "role head"], ...]
    tested: Int[Tensor, "role"]
    single: Float[Tensor, "role head batch"]
    weight: Float[Tensor, "role batch"]
    share: Float[Tensor, "role head"]
    drawn: int

    @cached_property
    def rival(self) -> Int[Tensor, "role head"]:
        """The strongest rival of each role."""
        return _rivals(self.mass).argmax(dim=1)


@dataclass(frozen=True)
class Looking:
    """Where all heads look, and what the roles say about it: the patterns of any heads at any rows are judged from this.

    Layers and heads are on one axis; `positional` marks roles whose null is uniform attention, wherever they look from.
    """

    task: Task
    clean: Recorded
    roles: list[Role]
    heads: list[HeadId]
    maps: Maps
    positional: Bool[Tensor, "role"]

    def evidence(
        self,
        rows: Bool[Tensor, "batch pos"],
        heads: Collection[HeadId],
        tests: int,
        draws: Resampling,
        thresholds: Thresholds,
    ) -> dict[HeadId, PatternEvidence]:
        """Score heads at these rows against every role, one of `tests` times so many in all. `draws` is over all examples."""
        numbers = [number for number, head in enumerate(self.heads) if head in heads]
        every, found = tests * len(self.roles), dict[HeadId, PatternEvidence]()
        at_once = max(1, MEMORY // (48 * self.maps.mass[:, 0].numel()))  # heads, in double precision, several times
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            scores = _scores(self.maps, some, self.positional_at(rows), rows, thresholds)
            best = [_best(self.roles, scores, at, every, thresholds) for at in range(len(some))]
            drawn = self._lead_draws(scores, best, draws)
            found |= {
                self.heads[at]: replace(item, lead_draws=leads) for at, item, leads in zip(some, best, drawn, strict=True)
            }
        leading = {
            head: item.role for head, item in found.items() if item.role and item.lead.value >= thresholds.pattern_margin
        }
        own = {role: self.maps.distinct[self.roles.index(role)] for role in leading.values()}
        level = 1 - (1 - thresholds.confidence) / len(self.roles) / len(TABLES)
        compared = contrasts(self.task, self.clean, rows, leading, own, level)
        return {head: replace(item, contrasts=compared.get(head, ())) for head, item in found.items()}

    def positional_at(self, rows: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "role"]:
        """Those at these rows, with what statements put next to all of them."""
        found = self.positional.clone()
        for role, place in self.task.adjoining if isinstance(self.task, KeyedTask) else ():
            found[self.roles.index(role)] |= ((self.clean.batch.slots == int(place.slot)) | ~rows).all()
        return found

    def _lead_draws(self, scores: _Scores, best: Sequence[PatternEvidence], draws: Resampling) -> Iterator[tuple[float, ...]]:
        """The lead of each head's role on bootstrap samples; none where it has no role."""
        its = [None if item.role is None else self.roles.index(item.role) for item in best]
        heads = [head for head, role in enumerate(its) if role is not None]
        roles = [role for role in its if role is not None]
        single, weight = scores.single[roles, heads].cpu(), scores.weight[roles].cpu()  # [head, example]
        leads = ((single @ draws.counts.T) / (weight @ draws.counts.T).clamp(min=1)).tolist()
        drawn = dict(zip(heads, leads, strict=True))
        return (tuple(drawn.get(head, ())) for head in range(len(best)))


def looking(task: Task, clean: Recorded, said: RoleMaps | None = None) -> Looking:
    """Where all heads look in a recorded run; `said`: what the roles say about its batch, if that is known. No forward pass."""
    said = said or role_maps(task, clean.batch)
    roles, heads = said.roles, clean.run.z.shape[3]
    maps = make_maps(clean, said)
    still = maps.stands_still(torch.ones_like(clean.batch.slots, dtype=torch.bool))
    by_place = () if isinstance(task, KeyedTask) else operand_roles(task)  # a key is found by what it holds, as a hop is
    placed = {role for role in by_place if still[roles.index(role)]}
    positional = torch.tensor([role.positional or role in placed for role in roles], device=maps.null.device)
    every = [HeadId(number // heads, number % heads) for number in range(maps.mass.shape[1])]
    return Looking(task, clean, roles, every, maps, positional)


def pattern_evidence(
    task: Task, clean: Recorded, destinations: Sequence[Destination], draws: Resampling, thresholds: Thresholds
) -> dict[tuple[HeadId, Where], PatternEvidence]:
    """Score every head at every destination against every role. `draws` is over all examples."""
    looks = looking(task, clean)
    tests = len(looks.heads) * len(destinations)
    found = {
        place: looks.evidence(destination_rows(clean.batch, place), looks.heads, tests, draws, thresholds)
        for place in destinations
    }
    return {(head, place): evidence for place, of_heads in found.items() for head, evidence in of_heads.items()}


def null_p_values(task: Task, clean: Recorded, destination: Destination) -> dict[Role, dict[HeadId, float]]:
    """For every role and head the p-value of the null alone, not corrected for how many there are: for calibration."""
    looks = looking(task, clean)
    positional = torch.tensor([role.positional for role in looks.roles], device=clean.run.z.device)
    every = list(range(len(looks.heads)))
    scores = _scores(looks.maps, every, positional, destination_rows(clean.batch, destination), Thresholds())
    return {
        role: dict(zip(looks.heads, row, strict=True)) for role, row in zip(looks.roles, scores.p_value.tolist(), strict=True)
    }


def _scores(
    every: Maps, heads: list[int], positional: Bool[Tensor, "role"], rows: Bool[Tensor, "batch pos"], thresholds: Thresholds
) -> _Scores:
    """The scores of these heads at these rows; positions that are none are not looked at."""
    fixed, somewhere = every.stands_still(rows) & ~positional, rows.any(dim=0).nonzero().flatten()
    maps, rows = every.of(heads).at(somewhere), rows[:, somewhere]
    own, anywhere = (maps.distinct & rows).double(), (maps.exists & rows).double()
    per_example = own.sum(dim=2)  # [role, example]: rows
    share = own / per_example.sum(dim=1).clamp(min=1)[:, None, None]
    mass = torch.stack([torch.einsum("rbp,hbp->rh", share, rival.double()) for rival in maps.mass], dim=1)
    uniform = torch.einsum("rbp,rbp->r", share, maps.uniform)
    mass = torch.cat([mass, uniform[:, None, None].expand(-1, 1, mass.shape[2])], dim=1)
    plain = _summed(maps.mass, anywhere).sum(dim=2) / anywhere.sum(dim=(1, 2)).clamp(min=1)[:, None]
    uniform_everywhere = torch.einsum("rbp,rbp->rb", own, maps.uniform)
    rival = _rivals(mass).argmax(dim=1)  # [role, head]
    single = _summed(maps.mass, own) - _rival_sums(maps, own, rival, uniform_everywhere)
    beyond, tested = _beyond(maps, positional, own)
    return _Scores(
        mass.cpu(),
        plain.cpu(),
        own.sum(dim=(1, 2)).long().cpu(),
        (per_example > 0).sum(dim=1).cpu(),
        fixed.cpu(),
        _p_values(beyond, tested),
        _interval(single, per_example, thresholds.confidence),
        _interval(beyond, tested, thresholds.confidence),
        (tested > 0).sum(dim=1).cpu(),
        single,
        per_example,
        (plain * anywhere.sum(dim=(1, 2))[:, None] / rows.sum().clamp(min=1)).cpu(),
        int(rows.any(dim=1).sum()),
    )


def _rivals(mass: Float[Tensor, "role rival head"]) -> Float[Tensor, "role rival head"]:
    """The masses with each role's own left out."""
    rivals = mass.clone()
    rivals[range(len(mass)), range(len(mass))] = -1.0
    return rivals


def _rival_sums(maps: Maps, own: Tensor, rival: Int[Tensor, "role head"], uniform: Tensor) -> Float[Tensor, "role head batch"]:
    """The strongest rival's mass on each role's rows, summed per example."""
    n_roles, heads = rival.shape
    number = torch.arange(heads, device=rival.device)
    sums = _summed((maps.mass[each, number] for each in rival.clamp(max=n_roles - 1)), own)
    return torch.where((rival == n_roles)[..., None], uniform[:, None], sums)


def _beyond(
    maps: Maps, positional: Bool[Tensor, "role"], own: Float[Tensor, "role batch pos"]
) -> tuple[Float[Tensor, "role head batch"], Float[Tensor, "role batch"]]:
    """Each role's mass beyond the null's, summed over an example's rows where the null has a source, and how many these are.

    The null keeps the rows at which its source is a rival's too: a head that looks at rivals gets a p that is too large.
    """
    uniform, tested = maps.uniform.to(maps.null.dtype), own * (maps.null_exists | positional[:, None, None])
    nulls = (torch.where(fixed, *each) for fixed, *each in zip(positional, uniform, maps.null, strict=True))
    return _summed((mass - null for mass, null in zip(maps.mass, nulls, strict=True)), tested), tested.sum(dim=2)


def _summed(
    masses: Iterable[Float[Tensor, "head batch pos"]], rows: Float[Tensor, "role batch pos"]
) -> Float[Tensor, "role head batch"]:
    """Each role's mass on its rows, summed per example; a role at a time, since all in double precision take much memory."""
    return torch.stack([torch.einsum("hbp,bp->hb", mass.double(), own) for mass, own in zip(masses, rows, strict=True)])


def _interval(
    value: Float[Tensor, "role head batch"], weight: Float[Tensor, "role batch"], confidence: float
) -> tuple[Float[Tensor, "role head"], ...]:
    roles, heads = value.shape[:2]
    flat = value.flatten(0, 1).T  # [example, role and head]
    weights = weight[:, None].expand_as(value).flatten(0, 1).T
    return tuple(part.unflatten(0, (roles, heads)).cpu() for part in mean_interval(flat, weights, confidence, roles))


def _p_values(difference: Float[Tensor, "role head batch"], rows: Float[Tensor, "role batch"]) -> Float[Tensor, "role head"]:
    """One-sided paired t-test over the examples that have rows; 1 where fewer than two do."""
    used = (rows > 0).double()[:, None]
    value = difference / rows.clamp(min=1)[:, None]
    n = used.sum(dim=2)
    mean = (value * used).sum(dim=2) / n.clamp(min=1)
    variance = ((value - mean[..., None]).square() * used).sum(dim=2) / (n - 1).clamp(min=1)
    t = mean / (variance / n.clamp(min=1)).sqrt().clamp(min=1e-12)
    t, n = t.cpu(), n.cpu()
    return exceeding(t, (n.long() - 1).clamp(min=1)).where(n >= 2, 1.0)


def _best(roles: list[Role], scores: _Scores, head: int, tests: int, thresholds: Thresholds) -> PatternEvidence:
    """The role that this head leads in, with what it was compared to, on no bootstrap sample yet."""
    enough = (scores.rows >= thresholds.min_rows) & (scores.examples >= thresholds.min_asked)
    judged = enough & ~scores.fixed
    lead, _, high = (part[:, head].where(judged, -torch.inf) for part in scores.lead)
    best = int(lead.argmax())
    own = float(scores.mass[best, best, head]) if bool(judged.any()) else 0.0
    taken = scores.anywhere[:, head] > max(own, thresholds.pattern_margin)

    def named(which: Tensor) -> tuple[Role, ...]:
        return tuple(role for role, is_meant in zip(roles, (which & taken).tolist(), strict=True) if is_meant)

    coinciding, fixed = named(scores.rows == 0), named(enough & scores.fixed)
    rare = named((scores.rows > 0) & ~enough)
    n, drawn = scores.drawn, scores.single.shape[2]
    if not bool(judged.any()):
        nothing = Estimate(0.0, -torch.inf, torch.inf)
        return PatternEvidence(None, 0.0, "", 0.0, nothing, nothing, 1.0, nothing, 0, n, coinciding, fixed, rare, drawn=drawn)
    far = int(_at_most(high, scores, thresholds).argmax())
    rival = int(scores.rival[best, head])
    return PatternEvidence(
        role=roles[best],
        mass=own,
        rival=[*map(str, roles), "uniform"][rival],
        rival_mass=float(scores.mass[best, rival, head]),
        lead=_estimate(scores.lead, best, head, scores.examples),
        beyond=_estimate(scores.beyond, best, head, scores.tested),
        p_value=min(1.0, float(scores.p_value[best, head]) * tests),
        furthest=_estimate(scores.lead, far, head, scores.examples),
        rows=int(scores.rows[best]),
        examples=n,
        coinciding=coinciding,
        fixed=fixed,
        rare=rare,
        masses={role: float(scores.mass[at, at, head]) for at, role in enumerate(roles) if judged[at]},
        share=float(scores.share[best, head]),
        drawn=drawn,
    )


def _at_most(high: Float[Tensor, "role"], scores: _Scores, thresholds: Thresholds) -> Float[Tensor, "role"]:
    """How far each role may lead, with what its examples may not have shown; nothing is claimed of one known to be rare."""
    hidden = high.new_tensor([unseen(examples, thresholds.confidence) for examples in scores.examples.tolist()])
    least = scores.drawn * thresholds.rare_share
    rare = (scores.examples < least) & torch.tensor(least >= thresholds.min_asked)
    return torch.where(rare, high.clamp(max=-1), high + hidden)


def _estimate(parts: tuple[Tensor, ...], role: int, head: int, examples: Int[Tensor, "role"]) -> Estimate:
    """One role's mean and interval for one head."""
    value, low, high = (float(part[role, head]) for part in parts)
    return Estimate(value, low, high, int(examples[role]))
