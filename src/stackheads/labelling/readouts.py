"""What the model is asked, as one axis: (destination, hop) pairs, and margins summed per example on that axis.

Sums and not means, because effects are ratios of sums over examples and the number of asked positions cancels.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.errors import TaskError
from stackheads.interventions import Recorded, destination_rows
from stackheads.labelling.statistics import mean_interval
from stackheads.labelling.thresholds import Thresholds
from stackheads.tasks import Batch, Task
from stackheads.tasks.scoring import correct, margins
from stackheads.types import Destination

LARGEST_ANSWER = 1e6
"""Of larger ones single precision tells differences to a sixteenth at best."""


@dataclass(frozen=True)
class Readout:
    """One kind of question: hop `hop` asked at `destination`."""

    destination: Destination
    hop: int

    def __str__(self) -> str:
        return f"hop {self.hop} @{self.destination}"


@dataclass(frozen=True)
class Score:
    """Sums per example for each readout: margin (logits) and right answers (count)."""

    margin: Float[Tensor, "example readout"]
    right: Float[Tensor, "example readout"]


@dataclass(frozen=True)
class Baseline:
    """The clean run between 0 and 1: its score, the score on unrelated examples, and how often each readout is asked.

    `open` are the readouts that the model answers better than chance, asked often enough to measure: only on these there is a
    gap for an intervention to destroy. `unclear` are those of which these examples do not tell: asked in too few, or answered
    by a gap, or a gain in accuracy, that is not known to within its half. All others are closed: the model does not answer
    them.
    """

    readouts: tuple[Readout, ...]
    clean: Score
    chance: Score
    count: Float[Tensor, "example readout"]
    open: Bool[Tensor, "readout"]
    unclear: Bool[Tensor, "readout"]

    @cached_property
    def on_cpu(self) -> "Baseline":
        """The same with all sums on the CPU, where shares are told."""
        clean, chance = (Score(each.margin.cpu(), each.right.cpu()) for each in (self.clean, self.chance))
        return replace(self, clean=clean, chance=chance, count=self.count.cpu())

    @property
    def asked(self) -> Bool[Tensor, "example readout"]:
        """The examples in which each readout is asked."""
        return self.count > 0

    @property
    def answered(self) -> Bool[Tensor, "example"]:
        """The examples in which something is asked that the model answers."""
        return self.asked[:, self.open.to(self.count.device)].any(dim=1)

    @property
    def gap(self) -> Float[Tensor, "example readout"]:
        """Clean margin minus margin on unrelated answers."""
        return self.clean.margin - self.chance.margin

    @property
    def accuracy(self) -> Float[Tensor, "readout"]:
        """Share of right answers in the clean run."""
        return self.clean.right.sum(dim=0) / self.count.sum(dim=0)

    @property
    def chance_accuracy(self) -> Float[Tensor, "readout"]:
        """Share of right answers when the run is on an unrelated example."""
        return self.chance.right.sum(dim=0) / self.count.sum(dim=0)


@dataclass(frozen=True)
class Scorer:
    """Turns logits into scores for one batch."""

    task: Task
    batch: Batch
    readouts: tuple[Readout, ...]
    where: Float[Tensor, "readout example pos slot"]

    @cached_property
    def read(self) -> Bool[Tensor, "pos"]:
        """The positions at which something is asked in any example: the only ones whose logits are looked at."""
        return self.where.any(dim=0).any(dim=0).any(dim=-1)

    @cached_property
    def _asked(self) -> tuple[Int[Tensor, "place"], Float[Tensor, "example place readout"] | Float[Tensor, "place readout"]]:
        """The places that are asked about, positions and slots as one axis, and which readout each is of: a sum is a product of
        matrices. Where a place is of one readout in all examples, which are most tasks, it is one matrix for all of them.
        """
        where = self.where.permute(1, 2, 3, 0).flatten(1, 2)  # [example, place, readout]
        ever = where.amax(dim=0)
        places = ever.any(dim=-1).nonzero().flatten()
        return places, ever[places] if bool((ever.sum(dim=-1) <= 1).all()) else where[:, places]

    @cached_property
    def _known(self) -> Bool[Tensor, "example place"]:
        """Where something is asked."""
        return self.where.any(dim=0).flatten(1)[:, self._asked[0]]

    def check(self, logits: Float[Tensor, "example pos d_vocab_out"]) -> None:
        """Raise `TaskError` for answers that are not finite, or so large that rounding hides what they differ by."""
        answers = self._at_places(logits)[0][self._known]
        far = answers.abs().where(answers.isfinite(), torch.inf)
        if float(far.max()) > LARGEST_ANSWER:
            got = float(answers.flatten()[far.argmax()])
            raise TaskError(
                f"a task's readout must give answers of at most {LARGEST_ANSWER:,.0f} in size, got {got:g}: leave those that "
                "are impossible as the model gives them, or give them a number of the size of its logits"
            )

    def score(self, logits: Float[Tensor, "example pos d_vocab_out"]) -> Score:
        """Margin and right answers, summed per example and readout."""
        answers, targets = self._at_places(logits)
        right = correct(answers, targets).to(answers.dtype)
        return Score(self._sums(margins(answers, targets)), self._sums(right))

    def margin(self, logits: Float[Tensor, "example pos d_vocab_out"]) -> Float[Tensor, "example readout"]:
        """The margin alone, which is half the work."""
        return self._sums(margins(*self._at_places(logits)))

    def changes(
        self, before: Float[Tensor, "example pos d_vocab_out"], after: Float[Tensor, "example pos d_vocab_out"]
    ) -> tuple[Float[Tensor, "example readout"], Float[Tensor, "example readout"], Float[Tensor, "example readout"]]:
        """How much margin is lost between two runs, the squares of that at each place, and those of all answers' logits, less
        what all of them change by; summed per example and readout.
        """
        (was, targets), (now, _) = self._at_places(before), self._at_places(after)
        lost = margins(was, targets) - margins(now, targets)
        shift = now - was
        spread = (shift - shift.mean(dim=-1, keepdim=True)).square().sum(dim=-1)
        return self._sums(lost), self._sums(lost.square()), self._sums(spread)

    def summed(self, values: Float[Tensor, "example pos slot"]) -> Float[Tensor, "example readout"]:
        """Sum values at the asked positions of each readout."""
        return self._sums(values.flatten(1)[:, self._asked[0], None])

    def _at_places(
        self, logits: Float[Tensor, "example pos d_vocab_out"]
    ) -> tuple[Float[Tensor, "example place 1 d_vocab"], Int[Tensor, "example place 1"]]:
        """What is answered and what is right at the places that are asked about alone."""
        answers, places = self._answers(logits), self._asked[0]
        return answers.flatten(1, 2)[:, places, None], self.batch.targets.flatten(1)[:, places, None]

    def _sums(self, values: Float[Tensor, "example place 1"]) -> Float[Tensor, "example readout"]:
        """Sum values at these places."""
        at, readout = values[..., 0].where(self._known, 0.0), self._asked[1]
        return torch.einsum("ep,epr->er" if readout.ndim == 3 else "ep,pr->er", at, readout.to(values.dtype))

    def towards(
        self, logits: Float[Tensor, "example pos d_vocab_out"], other: Int[Tensor, "example pos slot"]
    ) -> Float[Tensor, "example readout"]:
        """Logit of another batch's right symbol minus that of this one's, summed where both are asked and differ."""
        answer_logits, mine = self._answers(logits), self.batch.targets
        gain = answer_logits.gather(-1, other.clamp(min=0)[..., None]) - answer_logits.gather(-1, mine.clamp(min=0)[..., None])
        return self.summed(gain.squeeze(-1) * self._differing(other))

    def differs(self, other: Int[Tensor, "example pos slot"]) -> Float[Tensor, "example readout"]:
        """How many answers of each readout another batch's targets change."""
        return self.summed(self._differing(other).to(self.where.dtype))

    def part(self, some: "slice | Tensor") -> "Scorer":
        """The scorer of some examples, by a slice or by their numbers."""
        return replace(self, batch=self.batch[some], where=self.where[:, some])

    def _answers(self, logits: Float[Tensor, "example pos d_vocab_out"]) -> Float[Tensor, "example pos slot d_vocab"]:
        """What the task reads from logits, in single precision at least: sums over examples do not fit in half."""
        answers = self.task.readout(logits, self.batch)
        return answers.float() if answers.dtype in (torch.float16, torch.bfloat16) else answers

    def _differing(self, other: Int[Tensor, "example pos slot"]) -> Bool[Tensor, "example pos slot"]:
        return (self.batch.targets >= 0) & (other >= 0) & (self.batch.targets != other)


def make_scorer(task: Task, batch: Batch) -> Scorer:
    """Find what is asked in a batch: every (destination, hop) with at least one target. Raises `TaskError` for nothing."""
    hops = [hop for hop in batch.target_hop.unique(sorted=True).tolist() if hop > 0]
    every = [Readout(destination, hop) for destination in Destination for hop in hops]
    asked = batch.targets >= 0
    where = [destination_rows(batch, one.destination)[:, :, None] & (batch.target_hop == one.hop) & asked for one in every]
    there = torch.stack([marks.any() for marks in where]).tolist() if where else []
    readouts = tuple(one for one, some in zip(every, there, strict=True) if some)
    if not readouts:
        raise TaskError(
            f"a task must ask some hop at a query, value, key, condition or asked slot, {len(batch)} examples ask none there: "
            "set targets and target_hop, or draw more"
        )
    return Scorer(task, batch, readouts, torch.stack([marks for marks, some in zip(where, there, strict=True) if some]).float())


def measure_baseline(scorer: Scorer, clean: Recorded, thresholds: Thresholds) -> Baseline:
    """Score the clean run and, as chance, each example's targets under its matched example's logits. No forward pass.

    Raises `TaskError` for answers of which margins can't be told.
    """
    scorer.check(clean.run.logits)
    own, unrelated = scorer.score(clean.run.logits), scorer.score(clean.matched.of(clean.run.logits))
    count = scorer.summed(torch.ones_like(scorer.batch.targets, dtype=own.margin.dtype))
    nothing = torch.zeros(len(scorer.readouts), dtype=torch.bool)
    closed = Baseline(scorer.readouts, own, unrelated, count, nothing, nothing)
    gap, low, high = mean_interval(closed.gap, count, thresholds.confidence, len(scorer.readouts))
    gain, least, _ = mean_interval(own.right - unrelated.right, count, thresholds.confidence, len(scorer.readouts))
    better = gain >= thresholds.min_accuracy_gain
    examples = closed.asked.sum(dim=0)
    often = examples >= thresholds.min_asked
    # To within its half, so that a share is one of something, its denominator cannot be near zero, and a model that all but
    # guesses is not said to answer on the examples where it was lucky.
    known = (low > gap / 2) & (least > gain / 2)
    told = len(count) * thresholds.rare_share >= thresholds.min_asked  # whether a readout that is not often asked is rare
    unclear = ~often & torch.tensor(not told, device=often.device) | often & better & (high > 0) & ~known
    return Baseline(scorer.readouts, own, unrelated, count, (often & better & known).cpu(), unclear.cpu())
