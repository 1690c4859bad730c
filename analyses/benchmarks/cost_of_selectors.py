"""What does each stage of finding selectors cost, beside what labels cost, in forward passes of the same examples?

    python analyses/benchmarks/cost_of_selectors.py cycle-d4-l3 chain-d4-l4            # checkpoints, a minute each
    python analyses/benchmarks/cost_of_selectors.py chain-d8-l5 --examples 512         # two minutes
    python analyses/benchmarks/cost_of_selectors.py --khop FILE                        # a published k-hop model, six minutes

A forward pass is the model's own, hooked and recorded, on the examples that are measured on. The stages are those of
`explanation/measuring.py`, selectors fitted to attention: their own runs on three samples; which selectors each head has
(`attended.py`, no forward pass); what is lost without each, and without each head (channel 2); where heads look and what they
carry from there (channels 1 and 3); and the rest, which is the trial of all selectors together: levels, groups, nulls, and
weights fitted to the answer where attention alone leaves a gap. Processor seconds of one thread, once; labels are `analyze`
with and without its explanation.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from labels import KHOP

from stackheads import Analysis, analyze, load
from stackheads.explanation.asked import asked_readouts
from stackheads.explanation.attended import attended
from stackheads.explanation.examples import Examples
from stackheads.explanation.judging import judged
from stackheads.explanation.measuring import FIT
from stackheads.explanation.sums import Part, only_ones
from stackheads.explanation.taken_out import OfModel
from stackheads.interventions import Recorded
from stackheads.labelling.bench import make_bench, opened
from stackheads.labelling.cause import effects_on_open
from stackheads.labelling.statistics import resampling
from stackheads.models import load_gpt2
from stackheads.models.hooks import analysing, precise, record
from stackheads.models.memory import kept_memory
from stackheads.models.protocol import Model
from stackheads.seeds import Stream, stream
from stackheads.tasks import Task

ROOT = Path(__file__).resolve().parents[2]


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the processor's seconds."""
    begun = time.process_time()
    found = run()
    return found, time.process_time() - begun


def stages(model: Model, task: Task, analysis: Analysis, examples: int) -> dict[str, float]:
    """The seconds of each stage, with what the ones before it found."""
    thresholds, seconds, asked = analysis.thresholds, dict[str, float](), asked_readouts(analysis.readouts, analysis.thresholds)

    def sample(name: Stream, n: int, like: Recorded | None = None) -> Examples:
        return Examples(opened(make_bench(model, task, n, 0, thresholds, name, like), asked))

    def samples() -> tuple[Examples, Examples, Examples]:
        fit = sample(Stream.SELECTORS, FIT)
        judge = sample(Stream.SELECTORS_JUDGED, FIT, fit.bench.clean)
        return fit, judge, sample(Stream.SELECTORS_TRIED, examples, fit.bench.clean)

    (fit, judge, trial), seconds["their own runs"] = timed(samples)
    chosen, seconds["which selectors"] = timed(lambda: attended(fit, judge, thresholds.min_gain))
    alone = only_ones(chosen.taken())
    parts: list[Part] = [*(part for part in chosen.taken() if part not in alone), *((*cell, None) for cell in chosen.cells())]
    lost, seconds[f"channel 2 of {len(parts)} selectors and heads"] = timed(lambda: OfModel(trial).each(chosen, parts))
    draws = resampling(examples, thresholds.resampling_draws, thresholds.confidence, stream(0, Stream.BOOTSTRAP, "selectors"))
    moved = {part: effects_on_open(each, trial.bench.baseline, draws) for part, each in zip(parts, lost, strict=True)}
    of_heads = {part: shares for part, shares in moved.items() if part[2] is None}
    moved |= {part: moved[part[0], part[1], None] for part in alone}
    _, seconds["channels 1 and 3"] = timed(lambda: judged(chosen, fit, trial, moved, draws, thresholds, 0, of_heads))
    return seconds


def tell(name: str, model: Any, task: Task, examples: int) -> None:
    """Print the rows of one model."""
    tokens = task.sample(examples, torch.Generator().manual_seed(0)).tokens
    with analysing(model):
        _, forward = timed(lambda: record(model, tokens))
    analysis, labels = timed(lambda: analyze(model, task, examples=examples, explain=False, progress=False))
    _, explained = timed(lambda: analyze(model, task, examples=examples, progress=False))
    _, whole = timed(lambda: analysis.selectors(examples=examples, fitted_to="attention", progress=False))
    with precise(), kept_memory():
        of_stages = stages(model, task, analysis, examples)
    rows = {"labels": labels, "labels, explained": explained, "selectors": whole, **of_stages}
    rows["trial of all together"] = whole - sum(of_stages.values())
    for stage, seconds in rows.items():
        print(f"| `{name}` | {stage} | {seconds:.1f} | {seconds / forward:.0f} | {seconds / explained:.2f} |", flush=True)


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="checkpoints, by name; without one or --khop, cycle-d4-l3 and chain-d4-l4")
    parser.add_argument("--khop", type=Path, help="a published k-hop model of four heads a layer")
    parser.add_argument("--examples", type=int, default=512)
    arguments = parser.parse_args()
    names = arguments.names or ([] if arguments.khop else ["cycle-d4-l3", "chain-d4-l4"])
    folders = {name: ROOT / "checkpoints" / name for name in names}
    if missing := [name for name, folder in folders.items() if not (folder / "config.json").exists()]:
        sys.exit(f"error: a checkpoint is a folder in checkpoints/, got {missing[0]!r}: see there")
    torch.set_num_threads(1)
    print("| model | stage | processor seconds | forward passes | of labels, explained |")
    print("| --- | --- | --- | --- | --- |")
    for name, folder in folders.items():
        one = load(folder)
        tell(name, one.model, one.task, arguments.examples)
    if arguments.khop is not None:
        tell(arguments.khop.stem, load_gpt2(arguments.khop, KHOP, 4, "identity", allow_pickle=True), KHOP, arguments.examples)


if __name__ == "__main__":
    main()
