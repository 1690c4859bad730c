"""`analyze()`: the whole method, readable as its table of contents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from stackheads.analysis.bench import make_bench, read_labels
from stackheads.analysis.cause import CauseEvidence, cause_evidence
from stackheads.analysis.circuit import find_circuit
from stackheads.analysis.mechanism import name_mechanism
from stackheads.analysis.patterns import PatternEvidence, pattern_evidence
from stackheads.analysis.program import agreement, extract_program
from stackheads.analysis.reach import reach
from stackheads.analysis.readouts import Baseline, make_scorer, measure_baseline
from stackheads.analysis.records import label_frame
from stackheads.analysis.redundancy import with_joint_evidence
from stackheads.analysis.result import Analysis
from stackheads.analysis.screening import Screen, candidates, guessed_effects, screened_cause
from stackheads.analysis.stability import bootstrap_jaccard
from stackheads.analysis.statistics import bootstrap
from stackheads.analysis.thresholds import Thresholds
from stackheads.analysis.verdict import Evidence, label_row
from stackheads.analysis.write import WriteEvidence, rewired_operand, run_counterfactuals, write_evidence
from stackheads.errors import ConfigError
from stackheads.interventions import destination_rows, recorded
from stackheads.models import check_fit, load, parse_device
from stackheads.models.fused import supported
from stackheads.models.hooks import all_heads, analysing
from stackheads.tasks import OPERANDS, Operand, StatementTask, StoredTask, Task
from stackheads.types import Destination, HeadId

MIN_EXAMPLES = 16
"""Below this a bootstrap interval means nothing."""

CIRCUIT_EXAMPLES = 192
"""Examples for the circuit: its quantities are means over many patched runs, and each run costs."""


def analyze(
    model: Any,
    task: Task | None = None,
    examples: int = 512,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
    thresholds: Thresholds | None = None,
    explain: bool = True,
    screen: Screen | None = None,
) -> Analysis:
    """Label every (head, destination) of a model by the rules of evidence (DESIGN §6).

    `model` is the path of a checkpoint or run folder (model and task come from it), or a `HookedTransformer` or
    `TransformerBridge` (`models.bridge`) with a `task`.
    `device` None means where the model is, CPU for a path; a model that is given is moved to a device that is given. Its
    weights, hooks and mode stay as they are. `explain` adds how the heads work together: mechanism, program, reach, circuit.
    `screen` is for models of many heads: exact interventions for candidates only, and the column `evidence` of the labels says
    for which (`analysis/screening.py`); nothing is explained then.

    Cost: 1 + D + 3 × heads × destinations forward passes on `examples` examples, and up to D more for each pattern found;
    with `explain` one on 4,096 examples, and on 192 the circuit's (`analysis/circuit.py`).

    Raises `ConfigError` (examples, device), `CheckpointError`, `TaskMismatchError`.
    """
    thresholds = thresholds or Thresholds()
    if examples < MIN_EXAMPLES:
        raise ConfigError(f"examples must be at least {MIN_EXAMPLES} for an interval, got {examples}: ask for 512")
    model, task, described = _resolve(model, task, device)
    evidence, baseline = measure(model, task, examples, seed, thresholds, progress, screen)
    labels = label_frame([label_row(item, thresholds) for item in evidence])
    return Analysis(
        model=described,
        task={"name": task.name, **(task.model_dump() if isinstance(task, StoredTask) else {})},
        seed=seed,
        examples=examples,
        thresholds=thresholds,
        versions={name: version(name) for name in ("stackheads", "torch", "transformer-lens")},
        labels=labels,
        readouts=_readout_frame(baseline),
        effects=_effect_frame(evidence, baseline),
        bootstrap_jaccard=bootstrap_jaccard(evidence, thresholds),
        subject=(model, task),
        **(_explanation(labels, model, task, seed, thresholds) if explain and screen is None else {}),
    )


def measure(
    model: Any,
    task: Task,
    examples: int,
    seed: int,
    thresholds: Thresholds,
    progress: bool = False,
    screen: Screen | None = None,
) -> tuple[list[Evidence], Baseline]:
    """All the evidence for every (head, destination): patterns, then causes, then what is written, then backups."""
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(examples, generator).to(next(model.parameters()).device)
    destinations = [place for place in Destination if bool(destination_rows(batch, place).any())]
    with analysing(model):
        clean = recorded(model, batch)
        scorer = make_scorer(task, batch)
        draws = thresholds.bootstrap_draws, thresholds.confidence, generator, batch.tokens.device
        boot = bootstrap(examples - examples // 2, *draws)  # of the estimating half
        whole = bootstrap(examples, *draws)
        baseline = measure_baseline(scorer, clean, whole, thresholds)

        patterns = pattern_evidence(task, clean, destinations, whole, thresholds)
        cells = [(head, destination) for head in all_heads(model) for destination in destinations]
        cause = partial(cause_evidence, model, clean, scorer, baseline, boot=boot, thresholds=thresholds)
        chosen, causes = cells, {}
        if screen is not None:
            guesses = guessed_effects(model, clean, scorer, baseline, destinations, screen.chunk)
            picked = candidates(patterns, guesses, screen.top) if bool(baseline.open.any()) else set()
            chosen = [cell for cell in cells if cell in picked]
            causes = {cell: screened_cause(guesses[cell]) for cell in cells}
        ablated = cause if screen is None else partial(_where_it_matters, cause)
        causes |= {cell: ablated(heads=[cell[0]], destination=cell[1]) for cell in _shown(chosen, "cause", progress)}

        rewire = partial(run_counterfactuals, model, task, clean, scorer, generator=generator)
        counterfactuals = [each for kind in OPERANDS for each in rewire(_rewired_by(kind, patterns), operand=kind)]
        write = partial(write_evidence, model, task, clean, scorer, baseline, counterfactuals, boot=boot, thresholds=thresholds)
        evidence = [Evidence(*cell, patterns[cell], causes[cell], None) for cell in cells]
        evidence = [_with_write(item, write) for item in _shown(evidence, "write", progress)]

        if screen is not None:
            return evidence, baseline
        joint = partial(_joint_cause, cause), partial(_joint_write, write)
        return with_joint_evidence(evidence, baseline, *joint, thresholds), baseline


def _explanation(labels: pd.DataFrame, model: Any, task: Task, seed: int, thresholds: Thresholds) -> dict[str, Any]:
    """How the heads work together. Mechanism and program exist for tasks made of statements, circuits where paths do."""
    readable = reach(model, task, seed)
    explained: dict[str, Any] = {"reach": readable}
    if supported(model):
        bench = make_bench(model, task, CIRCUIT_EXAMPLES, seed, thresholds)
        generator, device = torch.Generator().manual_seed(seed), bench.clean.batch.tokens.device
        half = CIRCUIT_EXAMPLES - CIRCUIT_EXAMPLES // 2
        boot = bootstrap(half, thresholds.bootstrap_draws, thresholds.confidence, generator, device)
        with analysing(model):
            explained["circuit"] = find_circuit(bench, read_labels(labels), boot, thresholds, seed)
    if not isinstance(task, StatementTask):
        return explained
    extracted = extract_program(labels, task)
    mechanism = name_mechanism(extracted, task, readable)
    return {
        **explained,
        "mechanism": mechanism.name,
        "mechanism_reason": mechanism.reason,
        "program": None if extracted is None else str(extracted),
        "program_agreement": None if extracted is None else agreement(extracted, model, task, seed=seed),
    }


def _resolve(model: Any, task: Task | None, device: torch.device | str | None) -> tuple[Any, Task, dict[str, Any]]:
    """The model on its device, the task, and how to name them."""
    if isinstance(model, (str, Path)):
        checkpoint = load(model, parse_device(device))
        task = task or checkpoint.task
        check_fit(checkpoint.model, task)
        return checkpoint.model, task, {"name": checkpoint.name, **checkpoint.config.model_dump()}
    if task is None:
        raise ConfigError("a model needs a task to be analysed on, got none: analyze(model, task)")
    check_fit(model, task)
    if device is not None:
        model = model.to(parse_device(device))
    cfg = model.cfg
    name = getattr(cfg, "model_name", None) or type(model).__name__
    return model, task, {"name": name, "layers": cfg.n_layers, "heads": cfg.n_heads, "d_model": cfg.d_model}


def _rewired_by(operand: Operand, patterns: dict[tuple[HeadId, Destination], PatternEvidence]) -> set[HeadId]:
    """The heads whose source a counterfactual at this operand changes."""
    return {head for (head, _), found in patterns.items() if found.passed and rewired_operand(found.role) == operand}


def _with_write(item: Evidence, write: Any) -> Evidence:
    if not (item.pattern.passed and item.cause.exact):
        return item
    return replace(item, write=write(heads=[item.head], destination=item.destination, role=item.pattern.role))


def _where_it_matters(cause: Any, **cell: Any) -> CauseEvidence:
    """Resample ablation, which carries the verdict, and the other ablations only where it finds something."""
    found = cause(**cell, methods=("resample",))
    return cause(**cell) if found.needed or found.hinders else found


def _joint_cause(cause: Any, group: Sequence[Evidence]) -> CauseEvidence:
    return cause(heads=[item.head for item in group], destination=group[0].destination, methods=("resample",))


def _joint_write(write: Any, group: Sequence[Evidence]) -> WriteEvidence:
    return write(heads=[item.head for item in group], destination=group[0].destination, role=group[0].pattern.role)


def _shown(items: Iterable[Any], what: str, progress: bool) -> Iterator[Any]:
    """Iterate with a progress bar on a terminal."""
    yield from tqdm(items, desc=what, disable=None if progress else True, leave=False)


def _readout_frame(baseline: Baseline) -> pd.DataFrame:
    count = baseline.count.sum(dim=0)
    return pd.DataFrame(
        {
            "destination": [str(readout.destination) for readout in baseline.readouts],
            "hop": [readout.hop for readout in baseline.readouts],
            "accuracy": baseline.accuracy.tolist(),
            "chance_accuracy": baseline.chance_accuracy.tolist(),
            "margin": (baseline.clean.margin.sum(dim=0) / count).tolist(),
            "gap": (baseline.gap.sum(dim=0) / count).tolist(),
            "open": baseline.open.tolist(),
        }
    )


def _effect_frame(evidence: list[Evidence], baseline: Baseline) -> pd.DataFrame:
    rows = [
        {
            "head": str(item.head),
            "destination": str(item.destination),
            "ablation": method,
            "readout": str(readout),
            "effect": effects.effect[number],
            "accuracy_effect": effects.accuracy_effect[number],
        }
        for item in evidence
        for method, effects in item.cause.ablations.items()
        for number, readout in enumerate(baseline.readouts)
    ]
    return pd.DataFrame(rows)
