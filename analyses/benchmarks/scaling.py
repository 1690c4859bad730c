"""How the sweep's cost grows, what share of the machine's arithmetic it reaches, what memory it takes, and what a guess costs.

    python analyses/benchmarks/scaling.py [--json] [--repeats 5]

One factor at a time is doubled from a base of 2 layers, 4 heads, 8 symbols (context 17), 64 examples, d_model 64, causal:
seconds of `patch_heads_by_position` (margin at the query) and their ratio to the base, beside the ratio of cells.
`share_of_peak`: the multiply-adds of a whole forward for each cell, over the sweep's seconds and the machine's measured
matrix-product rate in float32 (1,024 × 1,024): what a plain loop would need to reach for the same time; above 1 no loop of
whole forwards can. `attribution`: the time of the gradient guess with 1 and 8 steps beside the exact sweep, and its correlation
with it. `analyze`: seconds at 256, 512 and 1,024 examples of `checkpoints/cycle-d8-l4`, and the peak memory of the process so
far. Run time: about two minutes.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from stackheads import analyze
from stackheads.interventions import patch_heads_by_position, recorded
from stackheads.interventions.attribution import attribution, guess_by_gradient
from stackheads.models import ModelConfig, build
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle
from stackheads.tasks.scoring import margins

CHECKPOINT = Path(__file__).resolve().parent.parent.parent / "checkpoints" / "cycle-d8-l4"
BASE = {"layers": 2, "heads": 4, "symbols": 8, "examples": 64}


def setting(layers: int, heads: int, symbols: int, examples: int) -> tuple[Any, Any, Any, Any]:
    """Model, the run patched into, the run patched from, and a metric."""
    task = Cycle(symbols=symbols, max_hops=4, attention_dir="causal")
    model = build(ModelConfig(layers=layers, heads=heads, d_model=64, d_head=16), task, seed=0).eval()
    generator = stream(0, Stream.BENCHMARK)
    batch = task.sample(examples, generator)
    other = task.counterfactual(batch, 1, generator)
    runs = recorded(model, batch), recorded(model, other)
    return model, *runs, lambda logits: margins(task.readout(logits[:, -1:], batch), batch.targets[:, -1:]).mean()


def seconds(function: Any, repeats: int) -> float:
    function()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def peak_rate(repeats: int) -> float:
    """Multiply-adds a second of a large matrix product."""
    one, other = torch.randn(1024, 1024, dtype=torch.float), torch.randn(1024, 1024, dtype=torch.float)
    return 1024**3 / seconds(lambda: one @ other, 5 * repeats)


def forward_products(layers: int, heads: int, symbols: int, examples: int) -> float:
    """Multiply-adds of one whole forward pass."""
    n, d_model, width = 2 * symbols + 1, 64, heads * 16
    per_layer = 4 * n * d_model * width + 2 * n * n * width
    return examples * (layers * per_layer + n * d_model * 4 * symbols)


def growth(repeats: int) -> list[dict[str, Any]]:
    """The base, and each factor doubled."""
    rate, rows = peak_rate(repeats), []
    for name in ("base", *BASE):
        shape = BASE | ({} if name == "base" else {name: 2 * BASE[name]})
        model, into, source, metric = setting(**shape)
        last = torch.arange(2 * shape["symbols"] + 1) == 2 * shape["symbols"]
        with torch.no_grad():
            taken = seconds(lambda s=(model, into, source, metric, last): patch_heads_by_position(*s), repeats)
        cells = shape["layers"] * shape["heads"] * (2 * shape["symbols"] + 1)
        share = cells * forward_products(**shape) / (taken * rate)
        rows.append({"doubled": name, **shape, "cells": cells, "seconds": taken, "share_of_peak": share})
    for row in rows:
        row["ratio"], row["cell_ratio"] = row["seconds"] / rows[0]["seconds"], row["cells"] / rows[0]["cells"]
    return rows


def guesses(repeats: int) -> list[dict[str, Any]]:
    """Time and correlation of the gradient guess on a trained model."""
    from stackheads import load

    checkpoint = load(CHECKPOINT)
    generator = stream(0, Stream.BENCHMARK)
    batch = checkpoint.task.sample(64, generator)
    into, source = (recorded(checkpoint.model, b) for b in (batch, checkpoint.task.counterfactual(batch, 1, generator)))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return margins(checkpoint.task.readout(logits[:, -1:], batch), batch.targets[:, -1:]).mean()

    exact = seconds(lambda: patch_heads_by_position(checkpoint.model, into, source, metric), repeats)
    rows = []
    for steps in (1, 8):
        run = (checkpoint.model, into, source, metric, steps)
        taken = seconds(lambda run=run: guess_by_gradient(*run), repeats)
        rows.append({"steps": steps, "seconds": taken, "exact_seconds": exact, "correlation": attribution(*run).correlation})
    return rows


def whole_analyses() -> list[dict[str, Any]]:
    """Seconds of `analyze` as examples double, and the peak memory so far."""
    rows = []
    for examples in (256, 512, 1024):
        start = time.perf_counter()
        analyze(CHECKPOINT, examples=examples, progress=False)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        rows.append({"examples": examples, "seconds": time.perf_counter() - start, "peak_gib": memory})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--repeats", type=int, default=5, help="how often each figure is timed")
    arguments = parser.parse_args()
    analyses = whole_analyses()  # first, so that the peak memory is theirs
    result = {"growth": growth(arguments.repeats), "attribution": guesses(arguments.repeats), "analyze": analyses}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print("| doubled | cells | seconds | time ratio | cell ratio | share of peak |\n| --- | --- | --- | --- | --- | --- |")
    for row in result["growth"]:
        ratios = f"{row['ratio']:.2f} | {row['cell_ratio']:.2f} | {row['share_of_peak']:.2f}"
        print(f"| {row['doubled']} | {row['cells']} | {row['seconds']:.3f} | {ratios} |")
    print("\n| gradient steps | guess (s) | exact sweep (s) | correlation |\n| --- | --- | --- | --- |")
    for row in result["attribution"]:
        print(f"| {row['steps']} | {row['seconds']:.3f} | {row['exact_seconds']:.3f} | {row['correlation']:.3f} |")
    print("\n| analyze, examples | seconds | peak memory (GiB) |\n| --- | --- | --- |")
    for row in result["analyze"]:
        print(f"| {row['examples']} | {row['seconds']:.1f} | {row['peak_gib']:.2f} |")


if __name__ == "__main__":
    main()
