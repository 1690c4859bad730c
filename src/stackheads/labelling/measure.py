"""All the evidence for every (head, destination), on one sample of examples or on as many as it takes.

`measure` is the method on one sample: patterns, then causes, then what is written, then backups. `measure_until_decided` begins
with a small sample and doubles it; at each look only the rows that are not decided yet are measured again, until all are or the
budget is spent. A row that is looked at again has more than one chance to be called by accident, so each look gets its part of
the error that all may make together (Bonferroni over the looks that there may be): its intervals are wider than those of a
single sample of the same size.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from stackheads.interventions import ABLATIONS, destination_rows
from stackheads.labelling.bench import Bench, bench_of
from stackheads.labelling.cause import CARRYING, CauseEvidence, causes_of, screened_cause
from stackheads.labelling.gating import gated_patterns, settled
from stackheads.labelling.needed import examples_needed
from stackheads.labelling.patched import Question
from stackheads.labelling.patterns import pattern_evidence
from stackheads.labelling.readouts import Baseline
from stackheads.labelling.redundancy import with_joint_evidence
from stackheads.labelling.screening import Screen, candidates, guessed_effects
from stackheads.labelling.statistics import Resampling, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, cause_answer, pattern_answer
from stackheads.labelling.write import Writes
from stackheads.limits import check_number
from stackheads.models.hooks import all_heads, analysing
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tasks import Task, labelling_batch
from stackheads.types import Destination, HeadId, Where, destination_of

Cell = tuple[HeadId, Destination]
Place = tuple[HeadId, Where]
"""A cell, or a part of one (`gating.py`)."""

MIN_EXAMPLES = 16
"""Below this an interval means nothing."""
FIRST_LOOK = 512
BUDGET = 4096
HOPELESS = 4
"""Rows that would need more than this many times the budget are not looked at again: the estimate is not that wrong."""


@dataclass(frozen=True)
class Measured:
    """The evidence, the clean run of the last look, and how many examples each look had; judged by `thresholds`.

    `thresholds` are those asked for, with the error of each look in place of that of a single one.
    """

    evidence: list[Evidence]
    baseline: Baseline
    looks: tuple[int, ...]
    thresholds: Thresholds

    @property
    def examples(self) -> int:
        """Those of the last look."""
        return self.looks[-1]


@dataclass(frozen=True)
class Look:
    """One sample to measure on. With `again`, only these cells, beside what is `known` of the others.

    `gates`: whether cells are divided where a head's role depends on one (`gating.py`). `methods` of ablation: what carries no
    verdict costs two forward passes a cell.
    """

    examples: int
    seed: int
    known: Sequence[Evidence] = ()
    again: Collection[Cell] | None = None
    gates: bool = True
    methods: tuple[str, ...] = tuple(ABLATIONS)


def measure(
    model: Model,
    task: Task,
    look: Look,
    thresholds: Thresholds,
    progress: bool = False,
    screen: Screen | None = None,
) -> tuple[list[Evidence], Baseline]:
    """All the evidence on one sample."""
    batch = labelling_batch(task, look.examples, look.seed).to(next(model.parameters()).device)
    destinations = [place for place in Destination if bool(destination_rows(batch, place).any())]
    with analysing(model):
        bench = bench_of(model, task, batch, thresholds)
        clean, scorer, baseline = bench.clean, bench.scorer, bench.baseline
        numbers = stream(look.seed, Stream.BOOTSTRAP)
        draws = resampling(look.examples, thresholds.resampling_draws, thresholds.confidence, numbers)
        divide = look.gates and screen is None
        patterns = (gated_patterns if divide else pattern_evidence)(task, clean, destinations, draws, thresholds)
        every = [(head, destination) for head in all_heads(model) for destination in destinations]
        again = set(every if look.again is None else look.again)
        cells = [(head, place) for head, place in patterns if (head, destination_of(place)) in again]
        causes: dict[Place, CauseEvidence] = {}
        chosen, methods = cells, look.methods
        if screen is not None:
            guesses = guessed_effects(model, clean, scorer, baseline, destinations, screen.chunk)
            picked = candidates(patterns, guesses, screen.top, thresholds) if bool(baseline.open.any()) else set()
            picked |= {(item.head, item.where) for item in look.known if item.cause.exact}  # no guess comes after what was seen
            chosen, methods = [cell for cell in cells if cell in picked], CARRYING
            answers = bool(baseline.open.any())  # else no ablation is needed to know that none destroys anything
            told = {cell: guess if answers else None for cell, guess in guesses.items() if cell in cells}
            causes = {cell: screened_cause(guess, baseline) for cell, guess in told.items()}
        causes |= _causes(bench, chosen, draws, methods, progress)
        if screen is not None:  # the other ablations only where that which carries the verdict finds something
            needed = [cell for cell in chosen if cause_answer(causes[cell], thresholds) in (Answer.YES, Answer.AGAINST)]
            causes |= _causes(bench, needed, draws, look.methods, progress)
        evidence = [Evidence(*cell, patterns[cell], causes[cell], None) for cell in cells]
        writes = Writes(bench, draws, thresholds, stream(look.seed, Stream.COUNTERFACTUALS))
        evidence = _together(every, look.known, settled(with_write(evidence, writes, thresholds), thresholds))
        if screen is None:
            joint = partial(joint_causes, bench, draws)
            evidence = with_joint_evidence(evidence, joint, writes.answer, thresholds, set(cells))
        return evidence, baseline


def measure_until_decided(
    model: Model,
    task: Task,
    seed: int,
    thresholds: Thresholds,
    budget: int = BUDGET,
    progress: bool = False,
    screen: Screen | None = None,
    methods: tuple[str, ...] = tuple(ABLATIONS),
) -> Measured:
    """`measure` on 512 examples, then on twice as many, until every row is decided or `budget` examples are spent.

    Raises `ConfigError` for a budget below 16 examples, or draws too few for its looks. Cost: the first look's; each further
    one twice the last one's for its clean run and counterfactuals, and for the ablation and the patches of the rows that are
    still open, or were not seen to matter before a readout opened.
    """
    sizes = look_sizes(check_number("a budget", budget, MIN_EXAMPLES, words=" examples", cure=f"allow {BUDGET}"))
    each = corrected(thresholds, len(sizes))
    evidence, baseline = measure(model, task, Look(sizes[0], seed, methods=methods), each, progress, screen)
    looks = [sizes[0]]
    for size in sizes[1:]:
        again = worth_another_look(evidence, each, budget)
        if not again:
            break
        evidence, baseline = measure(model, task, Look(size, seed, evidence, again, methods=methods), each, progress, screen)
        if lacking := tried_too_early(evidence, baseline, each):
            evidence, baseline = measure(
                model, task, Look(size, seed, evidence, lacking, methods=methods), each, progress, screen
            )
        looks.append(size)
    return Measured(evidence, baseline, tuple(looks), each)


def look_sizes(budget: int) -> list[int]:
    """The numbers of examples of the looks that there may be: 512, doubled, and the budget last."""
    sizes = []
    size = FIRST_LOOK
    while size < budget:
        sizes.append(size)
        size *= 2
    return [*sizes, budget]


def corrected(thresholds: Thresholds, looks: int) -> Thresholds:
    """The thresholds of each look where there may be so many, so that all together err as often as one alone.

    Raises `ConfigError` where that confidence needs more draws than there are.
    """
    confidence = 1 - (1 - thresholds.confidence) / looks
    return replace(thresholds, confidence=confidence, null_p=thresholds.null_p / looks)


def worth_another_look(evidence: Sequence[Evidence], thresholds: Thresholds, budget: int) -> set[Cell]:
    """The cells of undecided rows that more examples may decide, if they are not far too many."""
    needed = [(item, examples_needed(item, thresholds)) for item in evidence]
    return {(item.head, item.destination) for item, need in needed if need is not None and need <= HOPELESS * budget}


def tried_too_early(evidence: Sequence[Evidence], baseline: Baseline, thresholds: Thresholds) -> set[Cell]:
    """The cells that were not seen to matter, and not tried on a readout that is open since."""
    opened = {readout for readout, is_open in zip(baseline.readouts, baseline.open.tolist(), strict=True) if is_open}
    return {
        (item.head, item.destination)
        for item in evidence
        if item.cause.exact
        and not opened <= {*item.cause.readouts}
        and cause_answer(item.cause, thresholds) not in (Answer.YES, Answer.AGAINST)
    }


def _together(cells: Sequence[Cell], known: Sequence[Evidence], new: Sequence[Evidence]) -> list[Evidence]:
    """What is new, and what is known of the other cells, in the order of the cells."""
    measured = {(item.head, item.destination) for item in new}
    kept = [item for item in known if (item.head, item.destination) not in measured]
    order = {cell: number for number, cell in enumerate(cells)}
    return sorted((*kept, *new), key=lambda item: order[item.head, item.destination])


def with_write(evidence: Sequence[Evidence], writes: Writes, thresholds: Thresholds) -> list[Evidence]:
    """The write channel of the cells whose pattern passed."""
    asked = [item for item in evidence if item.cause.exact and pattern_answer(item.pattern, thresholds) == Answer.YES]
    questions = [Question((item.head,), item.where, item.pattern.role) for item in asked if item.pattern.role]
    answers = dict(zip([(item.head, item.where) for item in asked], writes.answer(questions), strict=True))
    return [replace(item, write=answers.get((item.head, item.where))) for item in evidence]


def _causes(
    bench: Bench, cells: Sequence[Place], draws: Resampling, methods: tuple[str, ...], progress: bool
) -> dict[Place, CauseEvidence]:
    """What ablating each cell does, a layer at a time."""
    found: dict[Place, CauseEvidence] = {}
    for layer in _shown(sorted({head.layer for head, _ in cells}), "cause", progress):
        some = [cell for cell in cells if cell[0].layer == layer]
        found |= zip(some, causes_of(bench, [([head], place) for head, place in some], draws, methods), strict=True)
    return found


def joint_causes(bench: Bench, draws: Resampling, groups: Sequence[Sequence[Evidence]]) -> list[CauseEvidence]:
    """What ablating the heads of each group together does."""
    return causes_of(bench, [([item.head for item in group], group[0].where) for group in groups], draws, CARRYING)


def _shown(items: Iterable[Any], what: str, progress: bool) -> Iterator[Any]:
    """Iterate with a progress bar on a terminal."""
    yield from tqdm(items, desc=what, disable=None if progress else True, leave=False)
