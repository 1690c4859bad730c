"""What a head carries, wherever it looks: causal scrubbing of one head (Chan et al. 2022, "Causal Scrubbing").

A head may know a symbol by elimination: it looks at all others, and carries the one that is missing. Attention says nothing of
that. So the hypothesis "at these rows the head carries the token of role r, and nothing else" is tested by what it allows: at
each row the head's whole output may be replaced by its own output in another example, a *donor*, at the same position and under
the same gate, in which r's source holds the same token. With

    kept = 1 - Σ what donors of the same token change / Σ what donors drawn regardless of it change

over the same examples, rows and readouts, 1 says that the answer needs no more of the head than that token, 0 that the token is
none of what the answer needs. As a control donors of *another* token must destroy: else the token does not matter. Each row has
a donor of its own, drawn evenly. All roles, readouts and measures are tried together, with simultaneous intervals.

There are three measures of change. Margins that are *lost* are what ablation is measured by, but gains and losses cancel: where
a head looks at a fixed place, which holds the answer in a quarter of the examples, donors with the same answer lose nothing in
the mean. So their squares, how margins are *moved* example by example, are compared too. And a margin hears of nothing but the
right symbol: of a head that adds a table of symbols to the answer, donors with the same right symbol keep it all. So the
*logits* of all answers are compared, in squares about their mean.

What is named is a token and not a place: two roles that name the same token at every row are one hypothesis, called by the
simplest of its roles (`PLAIN` first, then hops by their size), with the others said beside it. On a cycle the key of a value
slot is what stands before it (`previous`), and what leads there (`hop -1`); elsewhere hop -1 exists at some rows only, and is
another hypothesis. Having no source counts as a token: a role that exists nowhere keeps nothing. A head that *looks* at hop j
may carry what its source has found, hop j + k, and that is what is named. One role's tokens may determine another's (of two
strings that are copies of each other; of each other on a cycle of three): where both keep the answer, the one that the other
determines and not the other way round is named, since the head needs no more; else they are not told apart (`verdict.py`).
Where D = 1 hop 1 *is* the answer, of which a head that holds the token somewhere else than another head reads it keeps nothing.

Assumptions: what a head carries is the same thing at all positions of the destination (or its part); donors stand in the
distribution of the task. A head that carries two tokens, or a place, or whether to act, has no role here. Left out are roles
whose sources hold several tokens at a row, or that have fewer than `DONORS` donors at more than `SCARCE` of the rows, which
are not tested, and so not denied; and rows at which any of the others has fewer.

Cost: for each cell one forward pass, one for each role's tokens, and one for those that keep half of some readout; one for the
clean run, with its proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import destination_rows, run_variants
from stackheads.labelling.bench import Bench, at_once
from stackheads.labelling.readouts import Readout
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.labelling.statistics import Estimate, Resampling, Shares, brought, no_shares
from stackheads.models.hooks import HeadEdit
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch, KeyedTask, Task
from stackheads.types import NOWHERE, HeadId, Role, Where

DONORS = 4
"""Fewer are the same few examples over again."""
SCARCE = 0.1
"""The share of rows without donors from which a role says too little of the head."""
MEASURES = ("lost", "moved", "logits")
"""What is compared: margins that are lost, their squares, and those of all answers' logits."""
PLAIN = ("previous", "self", "start", "duplicate")
"""Roles that no link has to be followed for, the simplest first."""

Cell = tuple[HeadId, Where]
Rows = Bool[Tensor, "batch pos"]
Tokens = Int[Tensor, "batch pos"]
Variant = tuple[Int[Tensor, "batch pos"], Rows]
"""Donors, and the rows at which they give."""


@dataclass(frozen=True)
class Hypothesis:
    """The token that some roles name, the same for all of them; `roles` begins with the one that it is called by."""

    roles: tuple[Role, ...]
    tokens: Tokens

    def determines(self, other: "Hypothesis", rows: Rows) -> bool:
        """Whether at each position this token tells the other's, in all examples."""
        position = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
        group, tokens = (position * (self.tokens.max() + 2) + self.tokens + 1)[rows], other.tokens[rows]
        ends = (
            tokens.new_zeros(int(group.max()) + 1).scatter_reduce(0, group, tokens, way, include_self=False)
            for way in ("amin", "amax")
        )
        return torch.equal(*ends)


@dataclass(frozen=True)
class ScrubEvidence:
    """What scrubbing found of one head at one destination, or a part of it: numbers, no verdict.

    `roles` are the hypotheses, each by its roles; `finer` says for each which others determine its token and are not determined
    by it. `untested` are roles that exist at these rows and could not be asked. `readouts` are those on which it is known, to
    within its half, what donors drawn regardless destroy, `destroyed` as shares of the gap; `kept` [measure × hypothesis ×
    readout] is what stays of that, `control` [hypothesis × readout] what donors of another token destroy, of the `controlled`
    hypotheses, those that may be named. `rows` were scrubbed, `left_out` not.
    """

    head: HeadId
    where: Where
    roles: tuple[tuple[Role, ...], ...]
    finer: tuple[frozenset[int], ...]
    untested: tuple[Role, ...]
    readouts: tuple[Readout, ...]
    destroyed: Shares
    kept: Shares
    control: Shares
    controlled: tuple[int, ...]
    examples: int
    rows: int
    left_out: int

    def kept_of(self, measure: int, hypothesis: int, readout: int) -> Estimate:
        """What one hypothesis keeps on one readout."""
        return self.kept.at((measure * len(self.roles) + hypothesis) * len(self.readouts) + readout)

    def control_of(self, hypothesis: int, readout: int) -> Estimate | None:
        """What donors of another token destroy on one readout; None where that was not measured."""
        if hypothesis not in self.controlled:
            return None
        return self.control.at(self.controlled.index(hypothesis) * len(self.readouts) + readout)


@dataclass(frozen=True)
class _Plan:
    """What is scrubbed at a destination, the same for all heads: the rows, and the donors: drawn regardless, and for each
    hypothesis of the same token and of another.
    """

    rows: Rows
    asked: tuple[Hypothesis, ...]
    finer: tuple[frozenset[int], ...]
    untested: tuple[Role, ...]
    anyone: Variant
    same: tuple[Variant, ...]
    other: tuple[Variant, ...]

    @property
    def scrubbed(self) -> Rows:
        """The rows at which every hypothesis has donors."""
        return self.anyone[1]


def scrubs(bench: Bench, cells: Sequence[Cell], draws: Resampling, seed: int, least: float) -> list[ScrubEvidence]:
    """Scrub each head at its destination, or the part of it, with every role's tokens; controls are of those that keep `least`
    of some readout. Cost: see the module.
    """
    plans = {where: _plan(bench, where, seed) for where in dict.fromkeys(where for _, where in cells)}
    return [_scrubbed(bench, head, where, plans[where], draws, least) for head, where in cells]


def _plan(bench: Bench, where: Where, seed: int) -> _Plan:
    """Draw the donors: in the order of the examples, so that no head's name and no other destination changes them."""
    batch, numbers = bench.clean.batch, stream(seed, Stream.DONORS, str(where))
    rows = destination_rows(batch, where)
    anyone = _donors(torch.zeros_like(batch.tokens), rows, numbers).same
    named, several = hypotheses(bench.task, batch, rows)
    every = [(one, _donors(one.tokens, rows, numbers)) for one in named]
    asked = [(one, found) for one, found in every if int((rows & ~found.enough).sum()) <= SCARCE * int(rows.sum())]
    scrub = torch.stack([rows, *(found.enough for _, found in asked)]).all(dim=0)
    same = tuple((found.same, scrub) for _, found in asked)
    other = tuple((found.other, scrub & found.has_other) for _, found in asked)
    told = tuple(one for one, _ in asked)
    scarce = tuple(role for one in named if one not in told for role in one.roles)
    return _Plan(rows, told, _finer(told, scrub), (*several, *scarce), (anyone, scrub), same, other)


def _scrubbed(bench: Bench, head: HeadId, where: Where, plan: _Plan, draws: Resampling, least: float) -> ScrubEvidence:
    baseline, rows, total = bench.baseline.on_cpu, int(plan.scrubbed.sum()), int(plan.rows.sum())
    roles, size = tuple(one.roles for one in plan.asked), (len(bench.clean.batch), rows, total - rows)
    none = no_shares()
    nothing = ScrubEvidence(head, where, roles, plan.finer, plan.untested, (), none, none, none, (), *size)
    if not plan.asked or not rows or not bench.open_readouts:
        return nothing
    (regardless,) = _changes(bench, head, [plan.anyone])
    at = _telling(bench, regardless[0], draws)
    if not at:
        return nothing
    gap, asked, regardless = baseline.gap[:, at], baseline.asked[:, at], regardless[:, :, at]
    within = torch.stack(_changes(bench, head, plan.same))[..., at].transpose(0, 1)  # [measure, hypothesis, example, readout]
    of = regardless[:, None].expand_as(within)
    stays, of = (each.movedim(2, 0).flatten(1) for each in (of - within, of))
    kept = draws.shares(stays, of, asked.repeat(1, len(MEASURES) * len(roles)))
    lost = kept.value[: len(roles) * len(at)].unflatten(0, (len(roles), len(at)))
    controlled = tuple((lost >= least).any(dim=1).nonzero().flatten().tolist())
    others = [each[0][:, at] for each in _changes(bench, head, [plan.other[one] for one in controlled])]
    every = torch.cat(others, dim=1) if others else gap[:, :0]
    control = draws.shares(every, gap.repeat(1, len(others)), asked.repeat(1, len(others)))
    readouts, destroyed = tuple(baseline.readouts[number] for number in at), draws.shares(regardless[0], gap, asked)
    return replace(nothing, readouts=readouts, destroyed=destroyed, kept=kept, control=control, controlled=controlled)


def _telling(bench: Bench, lost: Float[Tensor, "example readout"], draws: Resampling) -> list[int]:
    """The numbers of the open readouts of which it is known to within its half what is destroyed: shares of that are told."""
    baseline, at = bench.baseline.on_cpu, bench.open_readouts
    found = draws.shares(lost[:, at], baseline.gap[:, at], baseline.asked[:, at])
    return [at[number] for number in ((found.value > 0) & (found.low > found.value / 2)).nonzero().flatten().tolist()]


def _finer(asked: Sequence[Hypothesis], rows: Rows) -> tuple[frozenset[int], ...]:
    """For each hypothesis those that determine its token at these rows and are not determined by it."""
    every = range(len(asked)) if bool(rows.any()) else range(0)
    tells = [[one.determines(other, rows) for other in asked] for one in asked] if every else []
    return tuple(frozenset(at for at in every if tells[at][one] and not tells[one][at]) for one in every)


def hypotheses(task: Task, batch: Batch, rows: Rows) -> tuple[list[Hypothesis], tuple[Role, ...]]:
    """The tokens that roles name at these rows, each once; and the roles whose sources hold several at one row."""
    found, several = list[Hypothesis](), list[Role]()
    roles = sorted(candidate_roles(task), key=_simplicity)
    if isinstance(task, KeyedTask):  # a key holds what its hop's value slot holds
        roles.sort(key=lambda role: role.name == "key")
    for role in roles:
        sources = role_targets(task, batch, [role])[0]
        tokens = batch.tokens[:, None, :].where(sources, NOWHERE).amax(dim=-1)
        least = batch.tokens[:, None, :].where(sources, torch.iinfo(torch.long).max).amin(dim=-1)
        exists = sources.any(dim=-1) & rows
        if bool((tokens != least)[exists].any()):
            several.append(role)
        if role in several or not bool(exists.any()):
            continue
        tokens = tokens.where(rows, NOWHERE)
        alike = [number for number, one in enumerate(found) if torch.equal(one.tokens, tokens)]
        if alike:
            found[alike[0]] = Hypothesis((*found[alike[0]].roles, role), tokens)
        else:
            found.append(Hypothesis((role,), tokens))
    return found, tuple(several)


def _simplicity(role: Role) -> tuple[int, int, bool]:
    """Sorts roles by how simple they are, hops by how far they lead; others of a task stand before hops, as it names them."""
    kind = PLAIN.index(role.name) if role.name in PLAIN else len(PLAIN) + (role.name == "hop")
    number = role.hop or 0
    return kind, abs(number), number < 0


@dataclass(frozen=True)
class _Donors:
    """For each row another example in which the token is the `same` one, and one in which it is an`other` that exists.

    `enough` marks the rows with `DONORS` of the first, `has_other` those whose token exists and that have any of the second.
    """

    same: Int[Tensor, "batch pos"]
    other: Int[Tensor, "batch pos"]
    enough: Rows
    has_other: Rows


def _donors(tokens: Tokens, rows: Rows, generator: torch.Generator) -> _Donors:
    """Draw a donor for each row, evenly among the rows at its position with the same token, and with another one.

    Rows are put in the order of position and token, so that those of one group are neighbours and a donor is a number to draw.
    """
    example, position = (each.cpu() for each in rows.nonzero().unbind(dim=1))
    width = int(tokens.max()) + 2
    key = position * width + tokens.cpu()[example, position] + 1  # a row whose role has no source comes first
    order = key.argsort(stable=True)
    ordered = key[order].contiguous()

    def ends(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return torch.searchsorted(ordered, low.contiguous()), torch.searchsorted(ordered, high.contiguous())

    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    start, end = ends(key, key + 1)  # the rows of the same token
    first, last = ends(position * width + 1, (position + 1) * width)  # those at the position whose token exists
    size, others = end - start, (last - first) - (end - start)
    same = start + (rank - start + 1 + _below(size - 1, generator)) % size.clamp(min=1)
    other = first + (end - first + _below(others, generator)) % (last - first).clamp(min=1)

    def on_rows(values: Tensor) -> Tensor:
        found = values.new_zeros(rows.shape)
        found[example, position] = values
        return found.to(rows.device)

    exists = key % width > 0
    same, other = (example[order[each.clamp(max=len(order) - 1)]] for each in (same, other))
    return _Donors(on_rows(same), on_rows(other), on_rows(size > DONORS), on_rows(exists & (others > 0)))


def _below(bound: Int[Tensor, "row"], generator: torch.Generator) -> Int[Tensor, "row"]:
    """A whole number drawn evenly from 0 to below each bound; 0 where there is none."""
    drawn = torch.rand(len(bound), generator=generator, dtype=torch.double)
    return (drawn * bound).long().minimum(bound - 1).clamp(min=0)


def _changes(bench: Bench, head: HeadId, variants: Sequence[Variant]) -> list[Float[Tensor, "measure example readout"]]:
    """What changes, by each measure, when these rows get the head's output in their donors; on the CPU."""
    n, readouts = bench.baseline.count.shape
    found = [bench.baseline.count.new_zeros(len(MEASURES), n, readouts) for _ in variants]
    output = bench.clean.run.output(head)
    position = torch.arange(output.shape[1], device=output.device)
    for part in at_once(bench.model, bench.clean, bench.baseline.answered):
        clean, scorer = bench.clean.part(part), bench.scorer.part(part)
        edits = [[HeadEdit(head, rows[part], output[donor[part], position])] for donor, rows in variants]
        for number, logits in enumerate(run_variants(bench.model, clean, edits, read=scorer.read)):
            found[number][:, part] = torch.stack(scorer.changes(clean.run.logits, logits))
    return brought(found)
