"""A training step through the fused forward against one through the plain `HookedTransformer`, side by side.

    python analyses/benchmarks/training.py [--json] [--steps 20] [--repeats 5]

Models of 4 layers, 4 heads, d_model 64, context 33, batch 128: the same batches, the same optimiser (fused AdamW), the same
loss; blocks of `steps` steps are timed alternately and the medians of `repeats` blocks compared. One thread and all threads.
Run time: about two minutes.
"""

import argparse
import json
import statistics
import time
from typing import Any

import torch

from stackheads.models import ModelConfig, build
from stackheads.models.trust import forward_for_training
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle
from stackheads.training.trainer import answer_loss

BATCH = 128


def block(task: Cycle, model: Any, forward: Any, optimiser: torch.optim.AdamW, steps: int, seed: int) -> float:
    """Seconds for `steps` training steps."""
    generator = stream(seed, Stream.BENCHMARK)
    batches = [task.sample(BATCH, generator) for _ in range(steps)]
    start = time.perf_counter()
    for batch in batches:
        optimiser.zero_grad()
        answer_loss(task, forward, batch).backward()
        optimiser.step()
    return time.perf_counter() - start


def measure(direction: str, threads: int, steps: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a step on both sides, and their ratio."""
    torch.set_num_threads(threads)
    task = Cycle(symbols=16, max_hops=4, attention_dir=direction)  # type: ignore[arg-type]
    sides = []
    for fused in (False, True):
        model = build(ModelConfig(layers=4, heads=4, d_model=64, d_head=16), task, seed=0).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        sides.append((model, forward_for_training(model) if fused else model, optimiser))
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for (model, forward, optimiser), taken in zip(sides, times, strict=True):
            seconds = block(task, model, forward, optimiser, steps, seed=repeat)
            if repeat:  # the first block warms up
                taken.append(seconds / steps)
    plain, fast = map(statistics.median, times)
    weights = [torch.cat([value.flatten() for value in side[0].parameters()]) for side in sides]
    return {
        "attention": direction,
        "threads": threads,
        "hooked_seconds": plain,
        "fused_seconds": fast,
        "ratio": plain / fast,
        "largest_weight_difference": (weights[0] - weights[1]).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--steps", type=int, default=20, help="steps in a timed block")
    parser.add_argument("--repeats", type=int, default=5, help="timed blocks on each side")
    arguments = parser.parse_args()
    threads = sorted({1, torch.get_num_threads()})
    rows = [measure(way, n, arguments.steps, arguments.repeats) for way in ("causal", "bidirectional") for n in threads]
    if arguments.json:
        print(json.dumps({"batch": BATCH, "rows": rows}, indent=2))
        return
    print("| attention | threads | hooked step (ms) | fused step (ms) | ratio |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        milliseconds = f"{1000 * row['hooked_seconds']:.1f} | {1000 * row['fused_seconds']:.1f}"
        print(f"| {row['attention']} | {row['threads']} | {milliseconds} | {row['ratio']:.2f} |")


if __name__ == "__main__":
    main()
