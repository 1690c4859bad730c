"""Head interventions against TransformerLens' own, side by side in one run: time ratios and largest differences.

    python analyses/benchmarks/interventions.py [--json] [--examples 64] [--repeats 5] [--threads 1]

An untrained model of 4 layers, 4 heads, d_model 64, context 33, attention only, causal and bidirectional; both sides compute
the same metric (mean margin at the query) of every cell:

- head × position: `transformer_lens.patching.get_act_patch_attn_head_out_by_pos` against `patch_heads_by_position`;
- head: `get_act_patch_attn_head_out_all_pos` against `patch_heads`;
- ablation: one hooked TransformerLens run for each head, its output at the query from another example, against `ablate_heads`.

Each pair is timed alternately, `repeats` times; reported are the medians, their ratio, and the largest difference of a cell.
With one thread seconds of computing are counted, which other work on the machine hardly changes, else those of the clock.
TransformerLens stores patching results in float32, so in float64 the comparison is with hooked runs. Run time: about two
minutes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformer_lens.patching as tl_patching
from torch import Tensor

from stackheads.interventions import ablate_heads, patch_heads, patch_heads_by_position, recorded
from stackheads.models import ModelConfig, build
from stackheads.seeds import Stream, stream
from stackheads.tasks import Batch, Cycle
from stackheads.tasks.scoring import margins


def setting(direction: str, dtype: str, examples: int) -> dict[str, Any]:
    """A model, two recorded runs, and what TransformerLens needs of them."""
    task = Cycle(symbols=16, max_hops=4, attention_dir=direction)  # type: ignore[arg-type]
    model = build(ModelConfig(layers=4, heads=4, d_model=64, d_head=16, dtype=dtype), task, seed=0).eval()
    generator = stream(0, Stream.BENCHMARK)
    batch = task.sample(examples, generator)
    other = task.counterfactual(batch, 1, generator)
    with torch.no_grad():
        _, cache = model.run_with_cache(other.tokens)
    metric = partial(mean_margin, task, batch)
    return {"model": model, "clean": recorded(model, batch), "other": recorded(model, other), "cache": cache, "metric": metric}


def mean_margin(task: Cycle, batch: Batch, logits: Tensor) -> Tensor:
    """The mean margin at the query."""
    return margins(task.readout(logits[:, -1:], batch), batch.targets[:, -1:]).mean()


def hooked(model: Any, clean: Any, z: Tensor, metric: Callable[[Tensor], Tensor], positions: list[Any]) -> Tensor:
    """One hooked run for each layer, place in `positions` and head, its output there taken from `z`."""
    values = []
    for layer in range(model.cfg.n_layers):
        for place in positions:
            for index in range(model.cfg.n_heads):

                def replace(value: Tensor, hook: Any, at: Any = place, index: int = index, layer: int = layer) -> Tensor:
                    value[:, at, index] = z[layer][:, at, index]
                    return value

                name = f"blocks.{layer}.attn.hook_z"
                values.append(metric(model.run_with_hooks(clean.batch.tokens, fwd_hooks=[(name, replace)])))
    return torch.stack(values)


def pairs(s: dict[str, Any]) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    """Per name, TransformerLens' computation and ours."""
    model, clean, other, cache, metric = s["model"], s["clean"], s["other"], s["cache"], s["metric"]
    last = torch.arange(clean.batch.tokens.shape[1]) == clean.batch.tokens.shape[1] - 1
    tokens = clean.batch.tokens

    return {
        "head × position": (
            lambda: tl_patching.get_act_patch_attn_head_out_by_pos(model, tokens, cache, metric),
            lambda: patch_heads_by_position(model, clean, other, metric, last),
        ),
        "head": (
            lambda: tl_patching.get_act_patch_attn_head_out_all_pos(model, tokens, cache, metric),
            lambda: patch_heads(model, clean, other, metric, read=last),
        ),
        "ablation": (
            lambda: hooked(model, clean, torch.stack([clean.matched.of(z) for z in clean.run.z]), metric, [-1]),
            lambda: ablate_heads(model, clean, metric, "query", read=last),
        ),
    }


def exact_difference(s: dict[str, Any]) -> dict[str, float]:
    """Per name, the largest difference from hooked runs."""
    model, clean, other, metric = s["model"], s["clean"], s["other"], s["metric"]
    n_pos = clean.batch.tokens.shape[1]
    sides = pairs(s)
    expected = {
        "head × position": hooked(model, clean, other.run.z, metric, list(range(n_pos))),
        "head": hooked(model, clean, other.run.z, metric, [slice(None)]),
        "ablation": sides["ablation"][0](),
    }
    return {name: (expected[name] - sides[name][1]().flatten()).abs().max().item() for name in expected}


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    value = function()
    return clock() - start, value


def measure(direction: str, examples: int, repeats: int) -> list[dict[str, Any]]:
    """One row per kind of intervention."""
    rows = []
    with torch.no_grad():
        exact = exact_difference(setting(direction, "float64", min(examples, 8)))
    for name, (theirs, ours) in pairs(setting(direction, "float32", examples)).items():
        with torch.no_grad():
            times: tuple[list[float], list[float]] = ([], [])
            expected, found = theirs(), ours()  # warm
            for _ in range(repeats):
                times[0].append(timed(theirs)[0])
                times[1].append(timed(ours)[0])
        slow, fast = map(statistics.median, times)
        rows.append(
            {
                "what": name,
                "attention": direction,
                "cells": expected.numel(),
                "transformer_lens_seconds": slow,
                "stackheads_seconds": fast,
                "ratio": slow / fast,
                "largest_difference_float32": (expected.flatten() - found.flatten()).abs().max().item(),
                "largest_difference_float64": exact[name],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--examples", type=int, default=64, help="examples in a batch")
    parser.add_argument("--repeats", type=int, default=5, help="how often each side is timed")
    parser.add_argument("--threads", type=int, help="threads, instead of torch's own choice")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    tl_patching.tqdm = lambda items, *_, **__: items  # its progress bar is not part of the comparison
    rows = [row for way in ("causal", "bidirectional") for row in measure(way, arguments.examples, arguments.repeats)]
    if arguments.json:
        print(json.dumps({"examples": arguments.examples, "threads": torch.get_num_threads(), "rows": rows}, indent=2))
        return
    print("| intervention | attention | cells | TransformerLens (s) | stackheads (s) | ratio | differs by (32 / 64 bit) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        differs = f"{row['largest_difference_float32']:.0e} / {row['largest_difference_float64']:.0e}"
        seconds = f"{row['transformer_lens_seconds']:.3f} | {row['stackheads_seconds']:.3f}"
        print(f"| {row['what']} | {row['attention']} | {row['cells']} | {seconds} | {row['ratio']:.1f} | {differs} |")


if __name__ == "__main__":
    main()
