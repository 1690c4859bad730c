"""What does each stage of labelling cost, in forward passes of the same examples?

    python analyses/benchmarks/labels.py                          # cycle-d4-l3 and chain-d4-l4, 512 examples: two minutes
    python analyses/benchmarks/labels.py cycle-d8-l4              # another checkpoint
    python analyses/benchmarks/labels.py --khop FILE              # and a published k-hop model (docs/results/other-tasks.md)
    python analyses/benchmarks/labels.py --large                  # and what a random model of GPT-2 small's size takes to run

A forward pass is the model's own, hooked and recorded, on the examples of the labels. Every stage is run `repeats` times by
turns with it, and the medians are divided; "patterns with gates" against "patterns" is what gates cost. Peak memory is that of
the whole process so far. A random model answers nothing, so that labelling would ablate nothing: of the large one all cells are
ablated all the same, on 16 examples. One thread, as tests and sweeps use.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stackheads import load
from stackheads.explanation.circuit import find_circuit
from stackheads.explanation.reach import EXAMPLES as REACHED
from stackheads.explanation.reach import reach
from stackheads.interventions import ablation_edits, destination_rows, recorded, run_variants
from stackheads.labelling.bench import bench_of, make_bench, read_labels
from stackheads.labelling.cause import CauseEvidence, causes_of
from stackheads.labelling.gating import gated_patterns
from stackheads.labelling.patched import Question
from stackheads.labelling.patterns import pattern_evidence
from stackheads.labelling.rows import label_row
from stackheads.labelling.stability import bootstrap_jaccard
from stackheads.labelling.statistics import resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, pattern_answer
from stackheads.labelling.write import Writes
from stackheads.models import ModelConfig, build, load_gpt2
from stackheads.models.hooks import all_heads, analysing, record
from stackheads.seeds import Stream, stream
from stackheads.tables import label_frame
from stackheads.tasks import Batch, KHopInduction, Retrieval, Task, labelling_batch
from stackheads.tasks.scoring import asked
from stackheads.types import Destination, HeadId

ROOT = Path(__file__).resolve().parents[2]
KHOP = KHopInduction(max_hops=16, symbols=4, context=99)
CIRCUIT_EXAMPLES = 192

Stages = dict[str, Callable[[], Any]]


def destinations(batch: Batch) -> list[Destination]:
    """Those that there are."""
    return [place for place in Destination if bool(destination_rows(batch, place).any())]


def stages(model: Any, task: Task, examples: int) -> Stages:
    """The stages of `measure` one by one, each with what the ones before it found; and the circuit."""
    thresholds, batch = Thresholds(), labelling_batch(task, examples, 0)
    places = destinations(batch)
    cells = [(head, place) for head in all_heads(model) for place in places]
    bench = bench_of(model, task, batch, thresholds)
    draws = resampling(examples, thresholds.resampling_draws, thresholds.confidence, stream(0, Stream.BOOTSTRAP))
    looks = pattern_evidence(task, bench.clean, places, draws, thresholds)

    def ablated() -> dict[tuple[HeadId, Destination], CauseEvidence]:  # a layer at a time, as an analysis does
        layers = [[cell for cell in cells if cell[0].layer == layer] for layer in range(model.cfg.n_layers)]
        return {
            cell: cause
            for some in layers
            for cell, cause in zip(some, causes_of(bench, [([head], place) for head, place in some], draws), strict=True)
        }

    causes = ablated()
    evidence = [Evidence(*cell, looks[cell], causes[cell], None) for cell in cells]
    passed = [item for item in evidence if pattern_answer(item.pattern, thresholds) == Answer.YES and item.pattern.role]
    questions = [Question((item.head,), item.where, item.pattern.role) for item in passed if item.pattern.role]

    def written() -> Any:
        return Writes(bench, draws, thresholds, stream(0, Stream.COUNTERFACTUALS)).answer(questions)

    writes = dict(zip([(item.head, item.where) for item in passed], written(), strict=True))
    every = [replace(item, write=writes.get((item.head, item.where))) for item in evidence]
    rows = [label_row(item, thresholds) for item in every]
    few = make_bench(model, task, CIRCUIT_EXAMPLES, 0, thresholds)
    labels = read_labels(label_frame(rows))
    return {
        "clean run, proved": partial(bench_of, model, task, batch, thresholds),
        "patterns": partial(pattern_evidence, task, bench.clean, places, draws, thresholds),
        "patterns with gates": partial(gated_patterns, task, bench.clean, places, draws, thresholds),
        f"ablations of {len(cells)} cells": ablated,
        f"what {len(questions)} heads write": written,
        "verdicts on 100 bootstrap samples": partial(bootstrap_jaccard, every, thresholds),
        f"reach, {REACHED} examples": partial(reach, model, task),
        f"circuit, {CIRCUIT_EXAMPLES} examples": partial(find_circuit, few, labels, thresholds, 0),
    }


def runs_alone(model: Any, task: Task, examples: int) -> Stages:
    """Of a model that answers nothing, where labelling would run nothing: the clean run, and each cell ablated all the same."""
    batch = labelling_batch(task, examples, 0)
    clean, read = recorded(model, batch), asked(batch).any(dim=2).any(dim=0)
    cells = [(head, place) for head in all_heads(model) for place in destinations(batch)]
    together = sorted(cells, key=lambda cell: (cell[0].layer, cell[1]))  # those that are taken up at the same rows
    edits = [ablation_edits(clean, [head], place) for head, place in together]

    def ablated() -> None:
        for _ in run_variants(model, clean, edits, read=read):
            pass

    return {"clean run, proved": partial(recorded, model, batch), f"resample ablations of {len(cells)} cells": ablated}


def timed(run: Callable[[], Any]) -> float:
    """Seconds of computing: what else the machine does is not counted."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def tell(name: str, model: Any, task: Task, examples: int, repeats: int, of: Callable[..., Stages] = stages) -> None:
    """Print the rows of one model."""
    tokens = labelling_batch(task, examples, 0).tokens
    with analysing(model):
        for stage, run in of(model, task, examples).items():
            pairs = [(timed(partial(record, model, tokens)), timed(run)) for _ in range(repeats)]
            forward, seconds = (statistics.median(times) for times in zip(*pairs, strict=True))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"| `{name}` | {stage} | {seconds:.2f} | {seconds / forward:.1f} | {peak:.2f} |", flush=True)


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["cycle-d4-l3", "chain-d4-l4"], help="checkpoints, by name")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--khop", type=Path, help="a published k-hop model of four heads a layer")
    parser.add_argument("--large", action="store_true", help="also a random model of 12 layers × 12 heads")
    arguments = parser.parse_args()
    folders = {name: ROOT / "checkpoints" / name for name in arguments.names}
    if missing := [name for name, folder in folders.items() if not (folder / "config.json").exists()]:
        sys.exit(f"error: a checkpoint is a folder in checkpoints/, got {missing[0]!r}: see there")
    torch.set_num_threads(1)
    print("| model | stage | seconds | forward passes | peak memory so far (GiB) |")
    print("| --- | --- | --- | --- | --- |")
    for name, folder in folders.items():
        checkpoint = load(folder)
        tell(name, checkpoint.model, checkpoint.task, arguments.examples, arguments.repeats)
    if arguments.khop is not None:
        model = load_gpt2(arguments.khop, KHOP, 4, "identity", allow_pickle=True)
        tell(arguments.khop.stem, model, KHOP, arguments.examples, 1)
    if arguments.large:
        task = Retrieval(chains=3, max_hops=4, attention_dir="causal")
        model = build(ModelConfig(layers=12, heads=12, d_model=768, d_head=64, attn_only=False), task)
        tell("random 12 × 12", model, task, 16, 1, runs_alone)


if __name__ == "__main__":
    main()
