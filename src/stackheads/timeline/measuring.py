"""The evidence of one snapshot of a run, as far as the run needs it.

Told are the cells that may be confirmed – whose pattern passes, and that the answer needs – and those that are asked for,
because another snapshot confirms them: all three channels and backups, as `labelling/measure.py` measures them on the same
sample. Of all others a run needs no more than that they are not confirmed. A snapshot that answers nothing better than chance
confirms nothing, and costs its clean run and the patterns of what is asked for.

Cost: a forward pass without hooks (`interventions/reweighted.py`); where something is answered, an ablation of each cell whose
pattern passes or that is asked for, and channel 3 of those that are told and whose pattern passes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from stackheads.interventions import destination_rows
from stackheads.interventions.reweighted import recorded_again
from stackheads.labelling.bench import Bench
from stackheads.labelling.cause import resampled_causes, screened_cause
from stackheads.labelling.measure import Cell, joint_causes, with_write
from stackheads.labelling.patterns import Looking, PatternEvidence, looking
from stackheads.labelling.readouts import Baseline, measure_baseline
from stackheads.labelling.redundancy import with_joint_evidence
from stackheads.labelling.sample import Sample
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, cause_answer, pattern_answer
from stackheads.labelling.write import Writes, rewired_operand
from stackheads.models.hooks import all_heads, analysing
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream


@dataclass(frozen=True)
class Told:
    """What is known of one snapshot: the evidence of the cells that are told, what the model answers, and, where it answers
    anything, the cells whose pattern passes.
    """

    evidence: dict[Cell, Evidence]
    baseline: Baseline
    passing: frozenset[Cell] = frozenset()


def tell(
    model: Model, sample: Sample, fast: bool, asked: Collection[Cell], thresholds: Thresholds, alone: bool = False
) -> Told:
    """Measure a snapshot on a sample, `fast` or not (`interventions/reweighted.py`); told are the cells `asked` at least.

    `alone`: nothing is looked for beside these, none of which may be `passing`, since those could have backups.
    """
    with analysing(model):
        clean = recorded_again(model, sample.batch, fast)
        bench = Bench(model, sample.task, clean, sample.scorer, measure_baseline(sample.scorer, clean, thresholds))
        answers = bool(bench.baseline.open.any())
        every = [(head, place) for head in all_heads(model) for place in sample.destinations]
        seen = every if answers and not alone else [cell for cell in every if cell in asked]
        if not seen:
            return Told({}, bench.baseline)
        patterns = _patterns(looking(sample.task, clean, sample.roles), sample, seen, thresholds)
        if not answers:
            nothing = screened_cause(None, bench.baseline)
            return Told({cell: Evidence(*cell, patterns[cell], nothing, None) for cell in seen}, bench.baseline)
        passing = frozenset(cell for cell in seen if pattern_answer(patterns[cell], thresholds) == Answer.YES)
        cells = [cell for cell in seen if cell in passing or cell in asked]
        causes = resampled_causes(bench, cells, sample.draws)
        evidence = [Evidence(*cell, patterns[cell], causes[cell], None) for cell in cells]
        needed = {cell for cell in cells if cause_answer(causes[cell], thresholds) in (Answer.YES, Answer.AGAINST)}
        told = needed & passing | set(asked)
        more = zip(cells, _with_write_and_backups(bench, sample, evidence, told, thresholds), strict=True)
        return Told({cell: item for cell, item in more if cell in told}, bench.baseline, passing)


def _patterns(looks: Looking, sample: Sample, cells: Sequence[Cell], thresholds: Thresholds) -> dict[Cell, PatternEvidence]:
    """Channel 1 of these cells, corrected for all that there are."""
    tests, found = len(looks.heads) * len(sample.destinations), dict[Cell, PatternEvidence]()
    for place in sample.destinations:
        rows, heads = destination_rows(sample.batch, place), {head for head, where in cells if where == place}
        if heads:
            of_heads = looks.evidence(rows, heads, tests, sample.draws, thresholds)
            found |= {(head, place): item for head, item in of_heads.items()}
    return found


def _with_write_and_backups(
    bench: Bench, sample: Sample, evidence: Sequence[Evidence], told: Collection[Cell], thresholds: Thresholds
) -> list[Evidence]:
    """With channel 3 and backups of the cells that are told.

    Counterfactuals are drawn by turns, so that they are asked about whatever `measure` asks them about.
    """
    writes = Writes(bench, sample.draws, thresholds, stream(sample.seed, Stream.COUNTERFACTUALS))
    asked = [item for item in evidence if (item.head, item.where) in told or rewired_operand(item.pattern.role)]
    written = {(item.head, item.where): item for item in with_write(asked, writes, thresholds)}
    joint = partial(joint_causes, bench, sample.draws)
    every = [written.get((item.head, item.where), item) for item in evidence]
    return with_joint_evidence(every, joint, writes.answer, thresholds, told)
