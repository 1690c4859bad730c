"""Fresh examples to put labels on trial with: the clean run, how it is scored, and what share of it an edited run keeps.

recovered = Σ (margin of the edited run - chance) / Σ (clean margin - chance), per readout; chance is the margin on unrelated
answers, summed over examples. 1 is the whole of the clean run, 0 nothing, above 1 more than the clean run. Beside this ratio
of sums stand the median and the 10th percentile of what single examples keep, in shares of the mean gap.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import Recorded, recorded, replayable, rerun, run_variants
from stackheads.interventions.engine import fitting
from stackheads.labelling.readouts import Baseline, Readout, Score, Scorer, make_scorer, measure_baseline
from stackheads.labelling.statistics import shares
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import Edit, analysing
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tables import records, role_of
from stackheads.tasks import Batch, Task, draw
from stackheads.types import Destination, Gate, HeadId, Role, Where, where


@dataclass(frozen=True)
class Label:
    """One row of the labels that a trial needs. `role` is None where no pattern passed, `gate` for all of a destination."""

    head: HeadId
    destination: Destination
    role: Role | None
    status: str
    gate: Gate | None = None

    @property
    def where(self) -> Where:
        """The positions that it is about."""
        return where(self.destination, self.gate)

    def __str__(self) -> str:
        return f"{self.head} @{self.where}"


@dataclass(frozen=True)
class Bench:
    """A model on fresh examples of its task."""

    model: Model
    task: Task
    clean: Recorded
    scorer: Scorer
    baseline: Baseline

    @property
    def open_readouts(self) -> list[int]:
        """The numbers of the readouts that the model answers."""
        return self.baseline.open.nonzero().flatten().tolist()

    def run(self, edits: list[Edit], frozen_norms: bool = False) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Logits with edits in place, as clean where nothing is asked; `frozen_norms` as in `rerun`. Cost: one forward pass."""
        return rerun(self.model, self.clean, edits, frozen_norms, self.scorer.read)

    def margin(self, edits: list[Edit]) -> Float[Tensor, "example readout"]:
        """Margins, summed per example, with edits in place. Cost: one forward pass."""
        return self.scorer.margin(self.run(edits))

    def margins(self, variants: Sequence[Sequence[Edit]]) -> Iterator[Float[Tensor, "example readout"]]:
        """The same for each list of edits, batched. Cost: at most one forward pass each."""
        for logits in run_variants(self.model, self.clean, variants, read=self.scorer.read):
            yield self.scorer.margin(logits)

    def scores(
        self, edits: Callable[[Recorded], Sequence[Sequence[Edit]]], some: Bool[Tensor, "example"] | None = None
    ) -> tuple[list[Score], Bool[Tensor, "example"]]:
        """Score each list of edits that are made for a part of the examples, a part after the other; and on which that was.

        `some`: on these examples alone, if runs go without hooks; the others score as in the clean run. Cost: as `margins`.
        """
        ran = torch.ones(len(self.clean.batch), dtype=torch.bool)
        if some is not None and replayable(self.model, self.clean):
            ran = some.cpu()
        found: list[Score] = []
        for part in at_once(self.model, self.clean, ran):
            clean, scorer = self.clean.part(part), self.scorer.part(part)
            start = scorer.score(clean.run.logits)  # so that what does not change does not by rounding either
            for number, logits in enumerate(run_variants(self.model, clean, edits(clean), read=scorer.read)):
                if number == len(found):
                    found.append(Score(self.baseline.clean.margin.clone(), self.baseline.clean.right.clone()))
                score = scorer.score(logits)
                found[number].margin[part] += score.margin - start.margin
                found[number].right[part] += score.right - start.right
        return found, ran

    def recovered(self, margin: Float[Tensor, "example readout"]) -> Float[Tensor, "readout"]:
        """The share of the clean run's gap that these margins keep, as a ratio of sums."""
        return shares(margin - self.baseline.chance.margin, self.baseline.gap)

    def single_examples(self, margin: Float[Tensor, "example readout"]) -> tuple[list[float], list[float]]:
        """Median and 10th percentile over examples, per readout, of what each keeps in shares of the mean gap of a question.

        Not of its own gap: that of an example that the model gets wrong may be nothing, or below.
        """
        count = self.baseline.count
        kept = (margin - self.baseline.chance.margin.sum(dim=0) / count.sum(dim=0) * count).double()
        share = kept / (self.baseline.gap.sum(dim=0) / count.sum(dim=0) * count.clamp(min=1))
        asking = [share[count[:, readout] > 0, readout].cpu() for readout in range(margin.shape[1])]
        return [each.quantile(0.5).item() for each in asking], [each.quantile(0.1).item() for each in asking]


def make_bench(
    model: Model,
    task: Task,
    examples: int,
    seed: int,
    thresholds: Thresholds,
    name: Stream = Stream.CIRCUIT,
    like: Recorded | None = None,
) -> Bench:
    """Draw examples of a stream that labels were not made on, and run the model on them. Cost: one forward pass.

    The run is kept whole, since many are made from it. `like` as in `bench_of`.
    """
    batch = draw(task, examples, stream(seed, name)).to(next(model.parameters()).device)
    bench = bench_of(model, task, batch, thresholds, like)
    return replace(bench, clean=replace(bench.clean, run=bench.clean.run.whole()))


def bench_of(model: Model, task: Task, batch: Batch, thresholds: Thresholds, like: Recorded | None = None) -> Bench:
    """The model on these examples. Cost: one forward pass, and two for its proof (`interventions/proof.py`), which is spared
    where neither these nor the examples of `like` have pads: a proved record of the same model on other ones.
    """
    plain = like is not None and not any(one.pads is not None and bool(one.pads.any()) for one in (batch, like.batch))
    proved = plain and like is not None and like.hooked is None
    with analysing(model):
        clean = recorded(model, batch, like if proved else None)
        scorer = make_scorer(task, batch)
        return Bench(model, task, clean, scorer, measure_baseline(scorer, clean, thresholds))


def at_once(model: Model, clean: Recorded, some: Bool[Tensor, "example"]) -> "list[slice | Int[Tensor, 'part']]":
    """These examples in parts that fit in memory; as one where runs go through hooks, which may expect all of them."""
    if not replayable(model, clean):
        return [slice(None)]
    n, n_pos = clean.batch.tokens.shape
    size, numbers = fitting(model, n_pos, clean.run.logits.dtype), some.cpu().nonzero().flatten()
    if len(numbers) == n:
        return [slice(start, start + size) for start in range(0, n, size)]
    return list(numbers.to(clean.batch.tokens.device).split(size)) if len(numbers) else []


def opened(bench: Bench, readouts: Iterable[Readout]) -> Bench:
    """The same bench, taking these readouts for those that the model answers: as many more examples have shown."""
    known = set(readouts)
    marks = torch.tensor([readout in known for readout in bench.baseline.readouts])
    return replace(bench, baseline=replace(bench.baseline, open=marks, unclear=torch.zeros_like(marks)))


def read_labels(labels: pd.DataFrame) -> list[Label]:
    """The rows of `analysis.labels`, parsed."""
    return [
        Label(
            HeadId.parse(row["head"]),
            Destination(row["destination"]),
            role_of(row),
            row["status"],
            None if row.get("gate") is None else Gate.parse(row["gate"]),
        )
        for row in records(labels)
    ]
