"""How often does each channel err, at every size? On circuits whose truth is known, and where nothing is there to be found.

*Rates.* Compiled circuits are labelled on 32 … 2,048 examples; of each channel's answers the share of false yes, false no and
not decided is counted, over the cells (head, destination) whose truth by construction says yes or no. With few readouts, each
asked in every example; and with many, of which each example asks one, some in one example of a hundred (`RarelyAsked`).

*Uniformity.* Where two things differ by chance alone p is uniform: attention on the map of another example against that on the
map of a third; a head's output, or what it carries from its source, replaced from one matched example against from another.
One p for each sample of examples, so that they are independent; compared with the uniform distribution by Kolmogorov and
Smirnov. For patterns only p that are too small count: the null keeps the rows at which its source is a rival's too, which makes
p too large for a head that looks at rivals (`patterns.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from stackheads.interventions import Recorded, destination_rows, recorded, rerun, source_edit
from stackheads.labelling.cause import CARRYING, effects_on_open
from stackheads.labelling.measure import Look, measure
from stackheads.labelling.patterns import null_p_values
from stackheads.labelling.readouts import make_scorer, measure_baseline
from stackheads.labelling.statistics import resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, cause_answer, pattern_answer, write_answer
from stackheads.models.hooks import HeadEdit, analysing
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch, StatementTask, Task
from stackheads.types import IGNORE, Destination, HeadId, Status
from stackheads.validation.specimens import CIRCUITS, Guise, Specimen, specimen
from stackheads.validation.truth import Truth

SIZES = (32, 64, 128, 256, 512, 1024, 2048)
QUICK_SIZES = (32, 256)
FEW = ("doubling", "tripling", "a: no output", "b: unread", "d: split", "f: against")
MANY = ("doubling", "tripling")
QUICK_FEW = ("doubling", "tripling", "a: no output")
RAREST = 0.01
SEEDS, QUICK_SEEDS = 4, 1
UNIFORM_SAMPLES, QUICK_SAMPLES, UNIFORM_EXAMPLES = 120, 40, 128
CHANNELS = ("pattern", "cause", "write")
MATTERS = (Status.CONFIRMED, Status.CAUSAL_UNCLASSIFIED)


@dataclass(frozen=True)
class RarelyAsked:
    """A task of statements of whose questions each example asks one hop, some hops in few examples: a `Task`."""

    base: StatementTask

    name = property(lambda self: f"{self.base.name}, rarely asked")
    n_ctx = property(lambda self: self.base.n_ctx)
    d_vocab = property(lambda self: self.base.d_vocab)
    d_vocab_out = property(lambda self: self.base.d_vocab_out)
    attention_dir = property(lambda self: self.base.attention_dir)
    hops = property(lambda self: self.base.hops)
    operands = property(lambda self: self.base.operands)

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """Examples of the base task, each with the questions of one hop left; the last hop's in one of a hundred."""
        batch = self.base.sample(n, generator)
        hops = self.base.readout_hops
        weight = torch.logspace(0, -1, len(hops))
        weight[-1] = RAREST * weight[:-1].sum() / (1 - RAREST)
        asked = torch.tensor(hops)[torch.multinomial(weight, n, replacement=True, generator=generator)]
        return only(batch, batch.target_hop == asked[:, None, None])

    def readout(self, logits: Tensor, batch: Batch) -> Tensor:
        """The base task's."""
        return self.base.readout(logits, batch)

    def counterfactual(self, batch: Batch, hop: int, generator: torch.Generator) -> Batch:
        """The base task's, with the same questions asked."""
        return only(self.base.counterfactual(batch, hop, generator), batch.targets != IGNORE)


def only(batch: Batch, asked: Tensor) -> Batch:
    """The same examples, of whose questions those marked are left."""
    return replace(batch, targets=batch.targets.where(asked, IGNORE), target_hop=batch.target_hop.where(asked, 0))


@dataclass(frozen=True)
class Judged:
    """One channel's answer on one cell: `truth` is whether it should be yes; `readouts` few or many."""

    readouts: str
    examples: int
    channel: str
    truth: bool
    answer: Answer

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Judged":
        """Read a plain row."""
        answer: Any = Answer(row["answer"])
        return cls(**{**row, "answer": answer})

    @property
    def false_yes(self) -> bool:
        return not self.truth and self.answer in (Answer.YES, Answer.AGAINST)

    @property
    def false_no(self) -> bool:
        return self.truth and self.answer == Answer.NO


def calibration_points(quick: bool, seed: int) -> list[tuple[str, str, int, int]]:
    """What `judged` is to be called with: few or many readouts, the circuit, examples, and the specimen's seed."""
    return [
        (readouts, circuit, size, seed + number)
        for size in (QUICK_SIZES if quick else SIZES)
        for readouts, circuits in (("few", QUICK_FEW if quick else FEW), ("many", MANY))
        for circuit in circuits
        for number in range(QUICK_SEEDS if quick else SEEDS)
    ]


def judged(readouts: str, circuit: str, examples: int, seed: int) -> list[Judged]:
    """Every channel's answers on one circuit at one size."""
    made = specimen(circuit, CIRCUITS[circuit](), Guise(seed=seed, normalization=None if seed % 2 else "LN"))
    assert isinstance(made.task, StatementTask)
    task: Any = made.task if readouts == "few" else RarelyAsked(made.task)
    thresholds = Thresholds()
    evidence, _ = measure(made.model, task, Look(examples, seed, methods=CARRYING), thresholds)
    row = partial(Judged, readouts, examples)
    return [
        row(channel, truth, answer)
        for item in evidence
        for channel, truth, answer in _answers(item, made.truth[item.head, item.destination], thresholds)
    ]


def _answers(item: Evidence, truth: Truth, thresholds: Thresholds) -> Iterable[tuple[str, bool, Answer]]:
    """Each channel's answer with its truth, where construction tells it."""
    looks = pattern_answer(item.pattern, thresholds)
    if truth.status != Status.NONE and truth.role is not None:
        wrong_role = looks == Answer.YES and item.pattern.role != truth.role
        yield "pattern", not wrong_role, looks
    elif truth.status == Status.NONE and truth.role is None and item.pattern.role is not None:
        yield "pattern", False, looks
    yield "cause", truth.status in (*MATTERS, Status.OPPOSING), cause_answer(item.cause, thresholds)
    if item.write is not None and truth.role is not None:
        carries = truth.status in (Status.CONFIRMED, Status.OPPOSING)
        yield "write", carries, write_answer(item.write, thresholds)


def rates(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """A row for each kind of task, channel and size: how many cells, and the shares of false yes, false no and not decided."""
    table = []
    for key in sorted({(row.readouts, CHANNELS.index(row.channel), row.examples) for row in rows}):
        some = [row for row in rows if (row.readouts, CHANNELS.index(row.channel), row.examples) == key]
        open_rows = sum(row.answer in (Answer.UNDECIDED, Answer.UNTESTED) for row in some)
        table.append(
            {
                "readouts": key[0],
                "channel": CHANNELS[key[1]],
                "examples": key[2],
                "cells": len(some),
                "false_yes": sum(row.false_yes for row in some) / len(some),
                "false_no": sum(row.false_no for row in some) / len(some),
                "undecided": open_rows / len(some),
            }
        )
    return table


def uniformity(samples: int, seed: int) -> dict[str, float]:
    """For each channel the p-value of Kolmogorov and Smirnov that its p is uniform where nothing is to be found."""
    made = specimen("doubling", CIRCUITS["doubling"](), Guise(seed=seed, normalization=None))
    found: dict[str, list[float]] = {channel: [] for channel in CHANNELS}
    with analysing(made.model):
        for number in range(samples):
            for channel, value in _null_p(made, stream(seed, Stream.NULLS, "uniformity", number)).items():
                found[channel].append(value)
    sides = {"pattern": "greater", "cause": "two-sided", "write": "two-sided"}
    return {
        channel: float(stats.kstest(values, "uniform", alternative=sides[channel]).pvalue) for channel, values in found.items()
    }


def _null_p(made: Specimen, numbers: torch.Generator) -> dict[str, float]:
    """One p for each channel on fresh examples; of the first hop head at the query."""
    n, head, place, thresholds = UNIFORM_EXAMPLES, HeadId(1, 0), Destination.QUERY, Thresholds()
    clean = recorded(made.model, made.task.sample(n, numbers))
    scorer = make_scorer(made.task, clean.batch)
    baseline = measure_baseline(scorer, clean, thresholds)
    draws = resampling(n, 400, thresholds.confidence, numbers)
    role = next(truth.role for (name, where), truth in made.truth.items() if name == head and where == place)
    assert role is not None
    rows, (pattern, v, z) = destination_rows(clean.batch, place), clean.run.of(head)
    others = [torch.arange(n).roll(-shift) for shift in (1, 2)]
    sources = pattern > 0

    def p_of(edits: Sequence[HeadEdit]) -> float:
        one, other = (scorer.margin(rerun(made.model, clean, [edit], read=scorer.read)) for edit in edits)
        return effects_on_open(one - other, baseline, draws).p_value

    return {
        "pattern": _unrelated_p(made.task, clean, others, head, place, role),
        "cause": p_of([HeadEdit(head, rows, z[other]) for other in others]),
        "write": p_of([source_edit(clean, v[other], head, rows, sources) for other in others]),
    }


def _unrelated_p(task: Task, clean: Recorded, others: Sequence[Tensor], head: HeadId, place: Destination, role: Any) -> float:
    """Attention on the map of the next example against that on the map of the one after it."""
    maps = clean.batch[others[0]]
    shifted = replace(clean, batch=replace(clean.batch, find=maps.find, tokens=maps.tokens))
    return null_p_values(task, shifted, place)[role][head]
