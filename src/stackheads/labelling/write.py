"""Channel 3: does what the head carries from the attended source matter, and in the way the role predicts?

For a hop role, only the value vector of the one attended source is taken from the counterfactual at hop j, the pattern held:
z' = z + pattern[s] (v'[s] - v[s]). The readout must move towards the counterfactual's answer:
write = Σ (patched - clean) / Σ (counterfactual run - clean) of (logit of its answer - logit of the clean answer).
All counterfactuals j = 1..D are tried, since the source may hold later hops already. For a role `condition` the same is done
with the counterfactuals in which the condition of one link is the token that changes.

A counterfactual changes where links lead, not where they come from, so for the roles that look elsewhere (`previous`,
`duplicate`, `self`, `start`, and the hops j < 0, which bring what a position can be found by) the source's value vector comes
from a matched example, where the attended token differs, and write is the share of the margin gap that this destroys. So too
where no counterfactual of the task changes what a head of another role reads, as at value slots that are on no queried chain.

A pair of counterfactual and readout can show something only where the model answers the readout, the counterfactual's own run
gives its answer, and the patch changes what the head gives; all such pairs are tried together, as in channel 2. Where there is
none, nothing is tested, and nothing is said.

Cost: one forward pass for each counterfactual, shared by all questions, and one for each question and counterfactual.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from stackheads.interventions import destination_rows, rerun, source_edit
from stackheads.labelling.bench import Bench
from stackheads.labelling.readouts import Readout
from stackheads.labelling.roles import role_targets
from stackheads.labelling.statistics import Resampling, Shares, mean_interval
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import HeadEdit, record_values
from stackheads.tasks import OPERANDS, Batch, Operand
from stackheads.types import HeadId, Role, Where

ACTS = 1e-4
"""A patch acts in an example if it moves the head's output by this share of its largest value vector: more than rounding."""


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
class Counterfactual:
    """A counterfactual at one operand of one hop: its batch, and the value vectors of the heads that are asked about.

    `start` and `goal` are the sums of (logit of its answer - logit of the clean answer) in the clean and in its own run,
    `differs` the number of answers that it changes.
    """

    hop: int
    operand: Operand
    batch: Batch
    v: dict[HeadId, Float[Tensor, "batch pos d_head"]]
    start: Float[Tensor, "example readout"]
    goal: Float[Tensor, "example readout"]
    differs: Float[Tensor, "example readout"]


@dataclass(frozen=True)
class _Tried:
    """One counterfactual's part of the answer to a question."""

    moved: Float[Tensor, "example readout"]
    acts: Bool[Tensor, "example"]


class Writes:
    """Answers questions about what heads carry, on one recorded run; counterfactuals at hops up to `deepest`, or at all."""

    def __init__(
        self, bench: Bench, draws: Resampling, thresholds: Thresholds, generator: torch.Generator, deepest: int | None = None
    ):
        self.model, self.task, self.clean = bench.model, bench.task, bench.clean
        self.scorer, self.baseline = bench.scorer, bench.baseline
        self.draws, self.thresholds, self.generator = draws, thresholds, generator
        self.deepest = deepest or max(readout.hop for readout in self.scorer.readouts)

    def answer(self, questions: Sequence[Question]) -> list[WriteEvidence]:
        """The evidence for each question, in their order."""
        found: dict[Question, WriteEvidence] = {}
        for operand in OPERANDS:
            some = [question for question in questions if rewired_operand(question.role) == operand]
            found |= self._from_counterfactuals(some, operand)
        return [found.get(question) or self._from_matched(question) for question in questions]

    def _from_counterfactuals(self, questions: Sequence[Question], operand: Operand) -> dict[Question, WriteEvidence]:
        """Those of the questions that some counterfactual can show anything about."""
        heads = {head for question in questions for head in question.heads}
        tried: dict[Question, list[_Tried]] = {question: [] for question in questions}
        rewired: list[Counterfactual] = []
        for other in self._counterfactuals(heads, operand) if questions else ():
            for question in questions:
                tried[question].append(self._patched(question, other))
            rewired.append(Counterfactual(other.hop, operand, other.batch, {}, other.start, other.goal, other.differs))
        found = {question: self._judged(rewired, tried[question]) for question in questions}
        return {question: evidence for question, evidence in found.items() if evidence is not None}

    def _counterfactuals(self, heads: Iterable[HeadId], operand: Operand) -> Iterator[Counterfactual]:
        """One for each hop that is asked at any readout's depth, run when its turn comes."""
        rewire: Any = self.task.counterfactual
        if operand != "value":  # tasks without operands need not know the argument
            rewire = partial(rewire, operand=operand)
        device, clean = self.clean.batch.tokens.device, self.clean
        for hop in range(1, self.deepest + 1):
            batch = rewire(clean.batch.to("cpu"), hop, self.generator).to(device)
            changed, v = record_values(self.model, batch.tokens, batch.pads)
            start, goal = (self.scorer.towards(logits, batch.targets) for logits in (clean.run.logits, changed))
            kept = {head: v[head.layer, :, :, head.index].clone() for head in sorted(set(heads))}
            yield Counterfactual(hop, operand, batch, kept, start, goal, self.scorer.differs(batch.targets))

    def _patched(self, question: Question, other: Counterfactual) -> _Tried:
        edits = self._edits(question.heads, question.destination, self._sources(question), other.v)
        logits = rerun(self.model, self.clean, edits, read=self.scorer.read)
        return _Tried(self.scorer.towards(logits, other.batch.targets) - other.start, self._acts(edits))

    def _judged(self, rewired: Sequence[Counterfactual], tried: Sequence[_Tried]) -> WriteEvidence | None:
        """The shares of all pairs that can show something; None where there is none."""
        gap = torch.cat([other.goal - other.start for other in rewired], dim=1)
        differs = torch.cat([other.differs for other in rewired], dim=1)
        moved = torch.cat([part.moved for part in tried], dim=1)
        acting = torch.stack([part.acts for part in tried], dim=1)  # [example, counterfactual]
        n_readouts = len(self.scorer.readouts)
        shown = (differs > 0) & acting.repeat_interleave(n_readouts, dim=1)
        often = shown.sum(dim=0) >= self.thresholds.min_asked
        value, low, _ = mean_interval(gap, differs, self.thresholds.confidence, max(1, int(often.sum())))
        is_open = self.baseline.open.to(often.device).repeat(len(rewired))
        at = (often & is_open & (low > value / 2)).nonzero().flatten().tolist()
        if not at:
            return None
        names = [self._name(rewired[number // n_readouts], number % n_readouts) for number in at]
        shares = self.draws.shares(moved[:, at], gap[:, at], differs[:, at] > 0)
        ever = (shown.sum(dim=0) > 0).unflatten(0, (len(rewired), n_readouts)).any(dim=0)
        left_out = self._left_out(ever, {number % n_readouts for number in at})
        return WriteEvidence(shares, tuple(names), int(acting.any(dim=1).sum()), len(moved), left_out)

    def _left_out(self, ever: Bool[Tensor, "readout"], measured: set[int]) -> tuple[Readout, ...]:
        """The readouts that the model may answer and that were moved in some example, but were not measured."""
        may = ever.cpu() & (self.baseline.open | self.baseline.unclear)
        return tuple(self.baseline.readouts[number] for number in may.nonzero().flatten().tolist() if number not in measured)

    def _name(self, other: Counterfactual, readout: int) -> str:
        link = f"hop {other.hop}" if other.operand == "value" else f"the {other.operand} of hop {other.hop}"
        return f"its source from the counterfactual at {link} moves {self.scorer.readouts[readout]}"

    def _from_matched(self, question: Question) -> WriteEvidence:
        return self.matched(question.heads, question.destination, self._sources(question))

    def matched(
        self,
        heads: Sequence[HeadId],
        destination: Where,
        sources: Bool[Tensor, "batch pos source"] | Float[Tensor, "batch pos source"],
    ) -> WriteEvidence:
        """What is destroyed when these heads read a matched example at the sources, or at a share of what they read there.

        Cost: one forward pass.
        """
        clean, baseline = self.clean, self.baseline
        other = clean.matched.of(clean.batch.tokens)
        changed = sources * (other != clean.batch.tokens)[:, None, :]
        edits = self._edits(heads, destination, changed, {head: clean.matched.of(clean.run.of(head)[1]) for head in heads})
        margin = self.scorer.score(rerun(self.model, clean, edits, read=self.scorer.read)).margin
        acts, at = self._acts(edits), baseline.open.to(margin.device)
        shown = baseline.asked & acts[:, None]
        at = at & (shown.sum(dim=0) >= self.thresholds.min_asked)
        shares = self.draws.shares((baseline.clean.margin - margin)[:, at], baseline.gap[:, at], baseline.asked[:, at])
        readouts = [readout for readout, tried in zip(baseline.readouts, at.tolist(), strict=True) if tried]
        names = tuple(f"its source from a matched example destroys {readout}" for readout in readouts)
        left_out = self._left_out(shown.any(dim=0), set(at.nonzero().flatten().tolist()))
        return WriteEvidence(shares, names, int(acts.sum()), len(margin), left_out)

    def _sources(self, question: Question) -> Bool[Tensor, "batch pos source"]:
        return role_targets(self.task, self.clean.batch, [question.role])[0]

    def _edits(self, heads: Sequence[HeadId], destination: Where, sources: Tensor, v: dict[HeadId, Tensor]) -> list[HeadEdit]:
        rows = destination_rows(self.clean.batch, destination)
        return [source_edit(self.clean, v[head], head, rows, sources) for head in heads]

    def _acts(self, edits: Sequence[HeadEdit]) -> Bool[Tensor, "example"]:
        """The examples in which some edit changes its head's output beyond rounding."""
        acts = torch.zeros(len(self.clean.batch), dtype=torch.bool, device=self.clean.batch.tokens.device)
        for edit in edits:
            _, v, z = self.clean.run.of(edit.head)
            change = ((edit.z - z).abs().amax(dim=-1) * edit.rows).amax(dim=-1)
            acts |= change > ACTS * v.abs().max()
        return acts


def rewired_operand(role: Role | None) -> Operand | None:
    """What a counterfactual must rewire to change what the role's source holds; None for roles whose source none changes."""
    if role is None or role.hop is None:
        return None
    if role.name == "condition":
        return "condition"
    return "value" if role.name == "hop" and role.hop > 0 else None
