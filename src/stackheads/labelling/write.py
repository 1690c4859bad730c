"""Channel 3: does what the head carries from the attended source matter, and in the way the role predicts?

For a hop role, only the value vector of the one attended source is taken from the counterfactual at hop j, the pattern held:
z' = z + pattern[s] (v'[s] - v[s]). The readout must move towards the counterfactual's answer:
write = Σ (patched - clean) / Σ (counterfactual run - clean) of (logit of its answer - logit of the clean answer).
All counterfactuals j = 1..D are tried, since the source may hold later hops already. For a role `condition` the same is done
with the counterfactuals in which the condition of one link is the token that changes.

A counterfactual changes where links lead, not where they come from, so for the roles that look elsewhere (`previous`,
`duplicate`, `self`, `start`, and the hops j < 0, which bring what a position can be found by) the source's value vector comes
from a matched example, where the attended token differs, and write is the share of the margin gap that this destroys. A hop's
comes from where that hop leads in the matched example: what stands there is another, and so is the place, which is all that
some heads bring for later ones to look there.

A counterfactual can show something only where the role names the same source in it and what can be found from there is
another: the token, or that of a later hop. Where a link leads the reader itself elsewhere, no source brings it the answer. So
the source is patched only there, and of the destination's own answers only those count. A pair of counterfactual and readout
can show something only where the model answers the readout, the counterfactual's own run gives its answer, and the patch
changes what the head gives, by a tenth or more of what the matched example's source does: else it changes not what the
head brings. Readouts about which no counterfactual shows anything are asked by the matched example; all pairs are tried
together, as in channel 2. Where there is none, nothing is tested, and nothing is said.

Cost: at most one forward pass for each counterfactual, shared by all questions, one for each question and counterfactual, both
on the examples that it changes alone (`rewired.py`), and one for each question that a matched example is asked about.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.interventions import Recorded, destination_rows, source_edit
from stackheads.interventions.engine import edit_of
from stackheads.labelling.bench import Bench
from stackheads.labelling.patched import Pairs, Question, largest_change, patched
from stackheads.labelling.readouts import Readout
from stackheads.labelling.roles import role_targets
from stackheads.labelling.statistics import Resampling, Shares, brought
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import CarryEdit, Edit
from stackheads.tasks import OPERANDS, Operand
from stackheads.types import HeadId, Role, Where

Sources = Bool[Tensor, "batch pos source"] | Float[Tensor, "batch pos source"]

ACTS = 1e-4
"""A patch acts in an example if it moves the head's output by this share of its largest value vector: more than rounding."""
BROUGHT = 0.1
"""And a counterfactual's by this part of what another example's source does, in the mean: it changes what the head brings."""


@dataclass(frozen=True)
class WriteEvidence:
    """What the attended source alone moves.

    `moved` are the shares of all that was `tried`, each in words; `acting` the examples, of `examples`, in which the patch
    changed what the head gives; `left_out` readouts that it may move and that these examples do not tell about.
    """

    moved: Shares
    tried: tuple[str, ...]
    acting: int
    examples: int
    left_out: tuple[Readout, ...] = ()


class Writes:
    """Answers questions about what heads carry, on one recorded run; counterfactuals at hops up to `deepest`, or at all."""

    def __init__(
        self, bench: Bench, draws: Resampling, thresholds: Thresholds, generator: torch.Generator, deepest: int | None = None
    ):
        self.bench, self.model, self.task, self.clean = bench, bench.model, bench.task, bench.clean
        self.scorer, self.baseline = bench.scorer, bench.baseline.on_cpu
        self.draws, self.thresholds, self.generator = draws, thresholds, generator
        self.largest: dict[HeadId, Tensor] = {}
        self.deepest = deepest or max(readout.hop for readout in self.scorer.readouts)

    def answer(self, questions: Sequence[Question]) -> list[WriteEvidence]:
        """The evidence for each question, in their order."""
        rewired: dict[Question, Pairs] = {}
        for operand in OPERANDS:
            some = [question for question in questions if rewired_operand(question.role) == operand]
            if some:
                least = {question: self._least(question) for question in some}
                rewired |= patched(self.bench, self.thresholds, operand, self.deepest, least, self._acts, self.generator)
        told = {question: set(pairs.readouts) for question, pairs in rewired.items()}
        every = set(self.bench.open_readouts)
        rest = [question for question in dict.fromkeys(questions) if question not in told or not told[question] >= every]
        runs = self._destroyed((self._elsewhere(question), told.get(question, set())) for question in rest)
        matched = dict(zip(rest, runs, strict=True))
        return [self._told([found[one] for found in (rewired, matched) if one in found]) for one in questions]

    def matched(self, asked: Iterable[tuple[HeadId, Where, Sources]]) -> list[WriteEvidence]:
        """What is destroyed when each head reads a matched example at the sources, or at a share of what it reads there.

        Cost: one forward pass for each.
        """
        edits = ((self._in_place([head], destination, sources), set[int]()) for head, destination, sources in asked)
        return [self._told([pairs]) for pairs in self._destroyed(edits)]

    def _in_place(self, heads: Sequence[HeadId], destination: Where, sources: Tensor) -> list[CarryEdit]:
        """With the value vectors of a matched example at the sources, where another token stands."""
        matched, tokens = self.clean.matched, self.clean.batch.tokens
        changed = sources * (matched.of(tokens) != tokens)[:, None, :]
        return self._edits(heads, destination, changed, {head: matched.of(self.clean.run.of(head)[1]) for head in heads})

    def _elsewhere(self, question: Question) -> list[CarryEdit]:
        """The heads reading a matched example where the role points in it, if that is a hop; else at the same places."""
        mine = self._sources(question)
        if question.role.hop is None:
            return self._in_place(question.heads, question.destination, mine)
        matched, marks = self.clean.matched, destination_rows(self.clean.batch, question.destination)
        evenly = mine.to(self.clean.run.z.dtype) / mine.sum(dim=-1, keepdim=True).clamp(min=1)
        somewhere = matched.of(mine.any(dim=-1))
        edits = []
        for head in question.heads:
            pattern, v, z = self.clean.run.of(head)
            self.largest.setdefault(head, v.abs().max())  # while the head is at hand
            read = (pattern * mine).where(somewhere[..., None], 0.0)
            change = read.sum(dim=-1, keepdim=True) * matched.of(evenly @ v) - read @ v
            edits.append(CarryEdit(head, marks, z + change, change))
        return edits

    def _destroyed(self, asked: Iterable[tuple[Sequence[CarryEdit], Collection[int]]]) -> list[Pairs]:
        """For each list of edits by a matched example the readouts, but for some, that they can destroy."""
        margins, acting, told = list[Tensor](), list[Tensor](), list[Collection[int]]()
        for edits, but_for in asked:
            margins.append(self._without(edits, but_for))
            acting.append(self._acts(edits))
            told.append(but_for)
        return [self._pairs(*each) for each in zip(brought(margins), brought(acting), told, strict=True)]

    def _without(self, edits: Sequence[CarryEdit], but_for: Collection[int]) -> Float[Tensor, "example readout"]:
        """Margins with edits, run where a readout is asked that they may destroy."""
        wanted = [number for number in self.bench.open_readouts if number not in but_for]
        some = self.baseline.asked[:, wanted].any(dim=1)
        scores, _ = self.bench.scores(lambda clean: [[_cut(edit, clean) for edit in edits]], some)
        return scores[0].margin if scores else self.bench.baseline.clean.margin

    def _pairs(
        self, margin: Float[Tensor, "example readout"], acts: Bool[Tensor, "example"], but_for: Collection[int]
    ) -> Pairs:
        """What edits in so many examples destroyed."""
        baseline = self.baseline
        shown = baseline.asked & acts[:, None]
        often = baseline.open & (shown.sum(dim=0) >= self.thresholds.min_asked)
        at = [number for number in often.nonzero().flatten().tolist() if number not in but_for]
        names = tuple(f"its source from a matched example destroys {baseline.readouts[number]}" for number in at)
        moved = (baseline.clean.margin - margin)[:, at]
        return Pairs(moved, baseline.gap[:, at], baseline.asked[:, at], tuple(at), names, shown.any(dim=0), acts)

    def _told(self, every: Sequence[Pairs]) -> WriteEvidence:
        """The shares of all pairs, and the readouts that the model may answer, that were moved in some example, but not
        measured.
        """
        moved, gap, counted = (
            torch.cat([getattr(part, name) for part in every], dim=1) for name in ("moved", "gap", "counted")
        )
        ever, acts = (torch.stack([getattr(part, name) for part in every]).any(dim=0) for name in ("ever", "acts"))
        names = tuple(name for part in every for name in part.names)
        may = ever & (self.baseline.open | self.baseline.unclear)
        measured = {number for part in every for number in part.readouts}
        left_out = [number for number in may.nonzero().flatten().tolist() if number not in measured]
        shares = self.draws.shares(moved, gap, counted)
        readouts = tuple(self.baseline.readouts[number] for number in left_out)
        return WriteEvidence(shares, names, int(acts.sum()), len(acts), readouts)

    def _sources(self, question: Question) -> Bool[Tensor, "batch pos source"]:
        return role_targets(self.task, self.clean.batch, [question.role])[0]

    def _edits(self, heads: Sequence[HeadId], destination: Where, sources: Tensor, v: dict[HeadId, Tensor]) -> list[CarryEdit]:
        rows = destination_rows(self.clean.batch, destination)
        return [source_edit(self.clean, v[head], head, rows, sources) for head in heads]

    def _acts(self, edits: Sequence[CarryEdit], least: Sequence[Tensor] | None = None) -> Bool[Tensor, "example"]:
        """The examples in which some edit changes its head's output beyond rounding, and by more than the least that counts."""
        acts = []
        for number, edit in enumerate(edits):
            rounding = ACTS * self._largest(edit.head)
            acts.append(largest_change(edit) > (rounding if least is None else rounding.maximum(least[number])))
        return torch.stack(acts).any(dim=0)

    def _largest(self, head: HeadId) -> Float[Tensor, ""]:
        """The largest number of a head's value vectors."""
        if head not in self.largest:
            self.largest[head] = self.clean.run.of(head)[1].abs().max()
        return self.largest[head]

    def _least(self, question: Question) -> list[Tensor]:
        """What a counterfactual must change of each head's output."""
        return [BROUGHT * largest_change(edit).mean() for edit in self._elsewhere(question)]


def _cut(edit: CarryEdit, clean: Recorded) -> Edit:
    """An edit of all examples on those of a part."""
    return edit if len(clean.batch) == len(edit.rows) else edit_of(edit, clean.numbers)


def rewired_operand(role: Role | None) -> Operand | None:
    """What a counterfactual must rewire to change what the role's source holds; None for roles whose source none changes."""
    if role is None or role.hop is None:
        return None
    if role.name == "condition":
        return "condition"
    return "value" if role.name == "hop" and role.hop > 0 else None
