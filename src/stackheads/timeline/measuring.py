"""The evidence of one snapshot of a run, as far as the run needs it.

Told are the cells whose pattern passes – all that may be confirmed, or back one another up – and those that are asked for,
because another snapshot confirms them: all three channels and backups, as `labelling/measure.py` measures them on the same
sample. Of all others a run needs no more than that they are not confirmed. A snapshot that answers nothing better than chance
confirms nothing, and costs its clean run and the patterns of what is asked for.

Cost: a forward pass without hooks (`interventions/reweighted.py`); where something is answered, an ablation of each cell that
is told, and channel 3 of those whose pattern passes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from stackheads.interventions import destination_rows
from stackheads.interventions.reweighted import recorded_again
from stackheads.labelling.bench import Bench
from stackheads.labelling.cause import cause_evidence, resampled_causes, screened_cause
from stackheads.labelling.measure import Cell, joint_cause, with_write
from stackheads.labelling.patterns import Looking, PatternEvidence, looking
from stackheads.labelling.readouts import Baseline, measure_baseline
from stackheads.labelling.redundancy import with_joint_evidence
from stackheads.labelling.sample import Sample
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, pattern_answer
from stackheads.labelling.write import Writes
from stackheads.models.hooks import all_heads, analysing
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream


@dataclass(frozen=True)
class Told:
    """What is known of one snapshot: the evidence of the cells that are told, and what the model answers."""

    evidence: dict[Cell, Evidence]
    baseline: Baseline


def tell(
    model: Model, sample: Sample, fast: bool, asked: Collection[Cell], thresholds: Thresholds, again: bool = False
) -> Told:
    """Measure a snapshot on a sample, `fast` or not (`interventions/reweighted.py`); told are the cells `asked` at least.

    `again`: these alone, where all whose pattern passes are told already.
    """
    with analysing(model):
        clean = recorded_again(model, sample.batch, fast)
        bench = Bench(model, sample.task, clean, sample.scorer, measure_baseline(sample.scorer, clean, thresholds))
        answers = bool(bench.baseline.open.any())
        every = [(head, place) for head in all_heads(model) for place in sample.destinations]
        seen = every if answers and not again else [cell for cell in every if cell in asked]
        if not seen:
            return Told({}, bench.baseline)
        patterns = _patterns(looking(sample.task, clean, sample.roles), sample, seen, thresholds)
        told = [cell for cell in seen if cell in asked or pattern_answer(patterns[cell], thresholds) == Answer.YES]
        nothing = dict.fromkeys(told, screened_cause(None, bench.baseline))
        causes = resampled_causes(bench, told, sample.draws) if answers else nothing
        evidence = [Evidence(*cell, patterns[cell], causes[cell], None) for cell in told]
        if answers:
            evidence = _with_write_and_backups(bench, sample, evidence, thresholds)
        return Told(dict(zip(told, evidence, strict=True)), bench.baseline)


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
    bench: Bench, sample: Sample, evidence: Sequence[Evidence], thresholds: Thresholds
) -> list[Evidence]:
    writes = Writes(bench, sample.draws, thresholds, stream(sample.seed, Stream.COUNTERFACTUALS))
    written = with_write(evidence, writes, thresholds)
    joint = partial(joint_cause, partial(cause_evidence, bench, draws=sample.draws))
    return with_joint_evidence(written, joint, writes.answer, thresholds, {(item.head, item.where) for item in written})
