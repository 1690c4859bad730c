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

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import Recorded, destination_rows, rerun, source_edit
from stackheads.interventions.engine import edit_of
from stackheads.labelling.bench import Bench
from stackheads.labelling.readouts import Readout
from stackheads.labelling.rewired import Part, counterfactuals
from stackheads.labelling.roles import role_targets
from stackheads.labelling.statistics import Resampling, Shares, brought, mean_interval
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.forwards.replay import look_through, marked
from stackheads.models.hooks import CarryEdit, Edit
from stackheads.tasks import OPERANDS, Batch, Operand, Task
from stackheads.types import NOWHERE, HeadId, Role, Where

Sources = Bool[Tensor, "batch pos source"] | Float[Tensor, "batch pos source"]

ACTS = 1e-4
"""A patch acts in an example if it moves the head's output by this share of its largest value vector: more than rounding."""
BROUGHT = 0.1
"""And a counterfactual's by this part of what another example's source does, in the mean: it changes what the head brings."""


@dataclass(frozen=True)
class Question:
    """Does what these heads carry together, from the sources of this role to this destination, matter?"""

    heads: tuple[HeadId, ...]
    destination: Where
    role: Role


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


@dataclass(frozen=True)
class _Tried:
    """What counterfactuals answer to a question: by how much the patch moves each readout, and their own run does, in sums of
    (logit of its answer - logit of the clean answer), over how many answers that it changes.
    """

    names: Sequence[str]
    moved: Float[Tensor, "counterfactual example readout"]
    gap: Float[Tensor, "counterfactual example readout"]
    differs: Float[Tensor, "counterfactual example readout"]
    acts: Bool[Tensor, "counterfactual example"]


@dataclass(frozen=True)
class _Patch:
    """What is asked of some pairs of counterfactual and example: the edits, the answers that these are to bring, how many of
    them are other ones, and the pairs in which that may tell of a readout that the model answers.
    """

    edits: list[CarryEdit]
    targets: Int[Tensor, "pair pos slot"]
    differs: Float[Tensor, "pair readout"]
    told: Bool[Tensor, "pair"]


@dataclass(frozen=True)
class _Pairs:
    """What was tried about one question, a column for each pair of patch and readout: what the patch moved of what there is to
    move, in which examples that counts, of which readout, and in words.

    `ever` are the readouts of which any example could show something, `acts` the examples in which a patch changed anything.
    """

    moved: Float[Tensor, "example pair"]
    gap: Float[Tensor, "example pair"]
    counted: Bool[Tensor, "example pair"]
    readouts: tuple[int, ...]
    names: tuple[str, ...]
    ever: Bool[Tensor, "readout"]
    acts: Bool[Tensor, "example"]


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
        rewired: dict[Question, _Pairs] = {}
        for operand in OPERANDS:
            some = [question for question in questions if rewired_operand(question.role) == operand]
            rewired |= self._from_counterfactuals(some, operand)
        told = {question: set(pairs.readouts) for question, pairs in rewired.items()}
        every = set(self.bench.open_readouts)
        rest = [question for question in dict.fromkeys(questions) if question not in told or not told[question] >= every]
        runs = self._destroyed((self._elsewhere(question), told.get(question, set())) for question in rest)
        matched = dict(zip(rest, runs, strict=True))
        return [self._told([found[one] for found in (rewired, matched) if one in found]) for one in questions]

    def _from_counterfactuals(self, questions: Sequence[Question], operand: Operand) -> dict[Question, _Pairs]:
        if not questions:
            return {}
        heads = {head for question in questions for head in question.heads}
        least = {question: self._least(question) for question in questions}
        tried = {question: self._nothing(operand) for question in questions}
        for part in counterfactuals(self.bench, operand, self.deepest, heads, self.generator):
            self._patch(part, tried, least)
        return {question: self._shown(found) for question, found in _on_cpu(tried).items()}

    def _nothing(self, operand: Operand) -> _Tried:
        """What examples show that counterfactuals leave as they are."""
        names = [f"hop {hop}" if operand == "value" else f"the {operand} of hop {hop}" for hop in range(1, self.deepest + 1)]
        margin = self.bench.baseline.clean.margin
        none = margin.new_zeros(len(names), *margin.shape)
        return _Tried(names, none, none.clone(), self.scorer.where.new_zeros(none.shape), none[..., 0] > 0)

    def _patch(self, part: Part, tried: Mapping[Question, _Tried], least: Mapping[Question, Sequence[Tensor]]) -> None:
        """Write what some pairs of counterfactual and example show about each question."""
        changed = reached_otherwise(self.task, part.clean.batch, part.other)
        named = {role: self._brought(role, part, changed) for role in {question.role for question in tried}}
        rows = {question: self._read(question, part, named[question.role]) for question in tried}
        look_through(rows.values())
        patches = [self._patched(question, part, named[question.role], at) for question, at in rows.items()]
        at, told = (part.number, part.example), brought([patch.told for patch in patches])
        for (question, found), patch, run in zip(tried.items(), patches, told, strict=True):
            start, goal = (part.scorer.towards(logits, patch.targets) for logits in (part.clean.run.logits, part.logits))
            found.gap[at], found.differs[at] = goal - start, patch.differs
            if patch.edits:
                found.acts[at] = self._acts(patch.edits, least[question])
                found.moved[at] = self._moved(part, patch, run)

    def _patched(
        self, question: Question, part: Part, sources: Bool[Tensor, "pair pos source"], rows: Bool[Tensor, "pair pos"]
    ) -> _Patch:
        """What is asked about a question at these rows; of runs through hooks all pairs are run."""
        clean, heads = part.clean, question.heads if marked(rows) else ()
        edits = [source_edit(clean, part.v[head], head, rows, sources) for head in heads]
        # An answer of the destination's own that no source can bring stays out: it is taken for one that is not changed.
        elsewhere = destination_rows(clean.batch, question.destination) & ~rows
        targets = clean.batch.targets.where(elsewhere[:, :, None], part.other.targets)
        differs = part.scorer.differs(targets)
        told = differs.new_ones(len(differs), dtype=torch.bool)
        if part.fast and edits:
            told = (differs[:, self.bench.open_readouts] > 0).any(dim=1) & _changed(edits)
        return _Patch(edits, targets, differs, told)

    def _moved(self, part: Part, patch: _Patch, told: Bool[Tensor, "pair"]) -> Float[Tensor, "pair readout"]:
        """By how much edits move the readouts, run where something is `told`, which is known on the CPU; 0 elsewhere."""
        clean, scorer, edits = part.clean, part.scorer, list[Edit](patch.edits)
        moved = self.bench.baseline.clean.margin.new_zeros(patch.differs.shape)
        some = told.nonzero().flatten().to(moved.device)
        if not len(some):
            return moved
        if len(some) < len(told):
            clean, scorer, edits = clean.part(some), scorer.part(some), [edit_of(edit, some) for edit in edits]
        patched = rerun(self.model, clean, edits, read=part.scorer.read)
        after, before = (scorer.towards(logits, patch.targets[some]) for logits in (patched, clean.run.logits))
        moved[some] = after - before
        return moved

    def _brought(self, role: Role, part: Part, changed: Bool[Tensor, "some pos"]) -> Bool[Tensor, "some pos source"]:
        """The sources of a role by which another batch can show what they bring: named in both, with another content."""
        mine, its = (role_targets(self.task, batch, [role])[0] for batch in (part.clean.batch, part.other))
        return mine & (mine == its).all(dim=-1, keepdim=True) & (mine & changed[:, None]).any(dim=-1, keepdim=True)

    def _read(self, question: Question, part: Part, sources: Bool[Tensor, "some pos source"]) -> Bool[Tensor, "some pos"]:
        """The rows of a question's destination from which such a source is read."""
        return destination_rows(part.clean.batch, question.destination) & sources.any(dim=-1)

    def _shown(self, tried: _Tried) -> _Pairs:
        """The pairs of counterfactual and readout that can show something."""
        gap, differs, moved = (part.movedim(0, 1).flatten(1) for part in (tried.gap, tried.differs, tried.moved))
        acting = tried.acts.T  # [example, counterfactual]
        n_readouts = len(self.scorer.readouts)
        shown = (differs > 0) & acting.repeat_interleave(n_readouts, dim=1)
        often = shown.sum(dim=0) >= self.thresholds.min_asked
        value, low, _ = mean_interval(gap, differs, self.thresholds.confidence, max(1, int(often.sum())))
        is_open = self.baseline.open.repeat(len(tried.names))
        at = (often & is_open & (low > value / 2)).nonzero().flatten().tolist()
        readouts = tuple(number % n_readouts for number in at)
        names = tuple(
            f"its source from the counterfactual at {tried.names[number // n_readouts]} moves {self.scorer.readouts[readout]}"
            for number, readout in zip(at, readouts, strict=True)
        )
        ever = (shown.sum(dim=0) > 0).unflatten(0, (len(tried.names), n_readouts)).any(dim=0)
        return _Pairs(moved[:, at], gap[:, at], differs[:, at] > 0, readouts, names, ever, acting.any(dim=1))

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
            read = (pattern * mine).where(somewhere[..., None], 0.0)
            change = read.sum(dim=-1, keepdim=True) * matched.of(evenly @ v) - read @ v
            edits.append(CarryEdit(head, marks, z + change, change))
        return edits

    def _destroyed(self, asked: Iterable[tuple[Sequence[CarryEdit], Collection[int]]]) -> list[_Pairs]:
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
    ) -> _Pairs:
        """What edits in so many examples destroyed."""
        baseline = self.baseline
        shown = baseline.asked & acts[:, None]
        often = baseline.open & (shown.sum(dim=0) >= self.thresholds.min_asked)
        at = [number for number in often.nonzero().flatten().tolist() if number not in but_for]
        names = tuple(f"its source from a matched example destroys {baseline.readouts[number]}" for number in at)
        moved = (baseline.clean.margin - margin)[:, at]
        return _Pairs(moved, baseline.gap[:, at], baseline.asked[:, at], tuple(at), names, shown.any(dim=0), acts)

    def _told(self, every: Sequence[_Pairs]) -> WriteEvidence:
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


def _on_cpu(tried: Mapping[Question, _Tried]) -> dict[Question, _Tried]:
    """What was tried, brought to the CPU for all questions at once."""
    names = ("moved", "gap", "differs", "acts")
    numbers = zip(*(brought([getattr(found, name) for found in tried.values()]) for name in names), strict=True)
    return {question: _Tried(found.names, *each) for (question, found), each in zip(tried.items(), numbers, strict=True)}


def _cut(edit: CarryEdit, clean: Recorded) -> Edit:
    """An edit of all examples on those of a part."""
    return edit if len(clean.batch) == len(edit.rows) else edit_of(edit, clean.numbers)


def largest_change(edit: CarryEdit) -> Float[Tensor, "example"]:
    """The largest change of a head's output at any of the rows."""
    return (edit.change.abs().amax(dim=-1) * edit.rows).amax(dim=-1)


def _changed(edits: Sequence[CarryEdit]) -> Bool[Tensor, "example"]:
    """The examples in which any edit changes anything."""
    return torch.stack([largest_change(edit) > 0 for edit in edits]).any(dim=0)


def rewired_operand(role: Role | None) -> Operand | None:
    """What a counterfactual must rewire to change what the role's source holds; None for roles whose source none changes."""
    if role is None or role.hop is None:
        return None
    if role.name == "condition":
        return "condition"
    return "value" if role.name == "hop" and role.hop > 0 else None


def reached_otherwise(task: Task, batch: Batch, other: Batch) -> Bool[Tensor, "batch pos"]:
    """The positions from which another token is found in another batch: their own, or that of a hop j > 0."""
    found = []
    for one in (batch, other):
        hops = one.find[:, [number for number, hop in enumerate(task.hops) if hop > 0]]
        tokens = one.tokens[:, None].expand_as(hops).gather(2, hops.clamp(min=0)).where(hops != NOWHERE, NOWHERE)
        found.append(torch.cat([one.tokens[:, None], tokens], dim=1))
    return (found[0] != found[1]).any(dim=1)
