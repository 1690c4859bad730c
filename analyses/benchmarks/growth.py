"""How does the cost of labels and of selectors grow with the size of what is asked about?

    python analyses/benchmarks/growth.py [--repeats 2]          # two minutes; writes analyses/results/growth.csv

One size at a time grows, all others as they are, and processor seconds are taken (one thread, the least of the repeats, which
are by turns): of `analyze` without its explanation, and of that with selectors fitted to attention. The exponent is the
slope of log seconds over log size, by least squares over all sizes: 1 is in proportion. What is asked about:

- examples: the doubling circuit of 2 hops on a cycle of 8 (causal, noise 0.1 on its weights), 2 heads a layer;
- layers, heads: the same with further layers, or heads in each, that are noise;
- hops: doubling circuits of 1, 2 and 4 hops on a cycle of 10, each with as many layers as that of 4;
- positions: random models of 2 layers and 2 heads on cycles of 8, 12 and 16, since a compiled circuit is as wide as its task
  has symbols. They give no answer: the readouts that selectors are to explain are named.
"""

import argparse
import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stackheads import analyze
from stackheads.explanation.measuring import explain_heads
from stackheads.labelling.readouts import Readout
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import ModelConfig, build
from stackheads.programs.heads import plain_readouts
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.tasks import Cycle, StatementTask
from stackheads.types import Destination
from stackheads.validation.specimens import IDLE, Circuit, Guise, specimen

RESULT = Path(__file__).resolve().parents[1] / "results" / "growth.csv"
EXAMPLES = 64
NOISE = 0.1
Subject = tuple[Any, StatementTask, int]
"""A model, its task, and on how many examples."""


def compiled(hops: int, symbols: int, layers: int, heads: int, examples: int = EXAMPLES) -> Subject:
    """The doubling circuit with layers and heads of noise beside it."""
    task = Cycle(symbols=symbols, max_hops=hops, attention_dir="causal", supervision="dense")
    circuit = Circuit(lower(doubling(hops)), task, plain_readouts(task))
    more = layers - len(circuit.layers)
    circuit = replace(circuit, layers=(*circuit.layers, *[(IDLE,)] * more))
    widest = max(map(len, circuit.layers))
    return specimen("growth", circuit, Guise(idle=heads - widest, noise=NOISE)).model, task, examples


def random(symbols: int) -> Subject:
    """A model that was never trained, its weights large enough to make attention uneven."""
    task = Cycle(symbols=symbols, max_hops=2, attention_dir="causal", supervision="dense")
    model = build(ModelConfig(layers=2, heads=2, d_model=64, d_head=16), task, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float))
    return model, task, EXAMPLES


SIZES: dict[str, tuple[tuple[int, ...], Callable[[int], Subject]]] = {
    "examples": ((256, 512, 1024), lambda n: compiled(2, 8, 3, 2, n)),
    "layers": ((3, 4, 6), lambda n: compiled(2, 8, n, 2)),
    "heads": ((2, 4, 8), lambda n: compiled(2, 8, 3, n)),
    "hops": ((1, 2, 4), lambda n: compiled(n, 10, 4, 2)),
    "positions": ((17, 25, 33), lambda n: random(n // 2)),
}


def cost(subject: Subject) -> tuple[float, float]:
    """Processor seconds of the labels, and of labels and selectors."""
    model, task, examples = subject
    readouts = [Readout(Destination.QUERY, hop) for hop in task.readout_hops]
    begun = time.process_time()
    analyze(model, task, examples=examples, explain=False, progress=False)
    labels = time.process_time() - begun
    explain_heads(model, task, readouts, examples, 0, Thresholds(), fitted_to="attention")
    return labels, time.process_time() - begun


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Of log seconds over log size."""
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    middle, level = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def measured(repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each size that grows."""
    cost(compiled(1, 6, 2, 1))  # what is imported and made once is no cost of a size
    for name, (sizes, make) in SIZES.items():
        subjects = [make(size) for size in sizes]
        rounds = [[cost(subject) for subject in subjects] for _ in range(repeats)]
        least = [[min(each[number][what] for each in rounds) for number in range(len(sizes))] for what in range(2)]
        for what, seconds in zip(("labels", "labels and selectors"), least, strict=True):
            row: dict[str, Any] = {"grows": name, "cost": what, "exponent": round(slope(sizes, seconds), 2)}
            for number, (size, taken) in enumerate(zip(sizes, seconds, strict=True), start=1):
                row |= {f"size_{number}": size, f"seconds_{number}": round(taken, 2)}
            yield row


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="how often each size is timed")
    parser.add_argument("--output", type=Path, default=RESULT, help="where to write the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| what grows | sizes | cost of | seconds | exponent |\n| --- | --- | --- | --- | --- |")
    rows = []
    for row in measured(arguments.repeats):
        rows.append(row)
        sizes, seconds = (", ".join(str(row[f"{name}_{at}"]) for at in (1, 2, 3)) for name in ("size", "seconds"))
        print(f"| {row['grows']} | {sizes} | {row['cost']} | {seconds} | {row['exponent']} |", flush=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
