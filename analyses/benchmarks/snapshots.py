"""What does it cost to follow a run through its snapshots, all together against one by one?

    python analyses/benchmarks/snapshots.py             # checkpoints/cycle-d4-l4-run, 512 examples: a minute

*One by one* every snapshot is loaded and measured by `labelling/measure.py`, as `analyze` labels it, with the ablation that
carries the verdict alone; *together* is `emergence()`, which has to say the same of what is followed. Both are run `repeats`
times by turns, processor seconds, one thread, imports and the first build of a model left out; the smallest is taken.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stackheads import load
from stackheads.labelling.cause import CARRYING
from stackheads.labelling.measure import Look, measure
from stackheads.labelling.thresholds import Thresholds
from stackheads.timeline.emergence import emergence, run_snapshots

RUN = Path(__file__).resolve().parents[2] / "checkpoints" / "cycle-d4-l4-run"


def one_by_one(run: Path, examples: int) -> None:
    """Measure every snapshot by itself."""
    for folder in run_snapshots(run).values():
        checkpoint = load(folder)
        measure(checkpoint.model, checkpoint.task, Look(examples, 0, gates=False, methods=CARRYING), Thresholds())


def timed(make: Callable[[], Any]) -> float:
    """Seconds of computing: what else the machine does is not counted."""
    begun = time.process_time()
    make()
    return time.process_time() - begun


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=RUN, help="a run folder")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run, examples = arguments.run, arguments.examples
    load(run)
    pairs = [
        (timed(lambda: one_by_one(run, examples)), timed(lambda: emergence(run, examples, progress=False)))
        for _ in range(arguments.repeats)
    ]
    alone, together = (min(seconds) for seconds in zip(*pairs, strict=True))
    print("| run | snapshots | one by one (s) | together (s) | ratio |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| `{run.name}` | {len(run_snapshots(run))} | {alone:.1f} | {together:.1f} | {alone / together:.1f} |")


if __name__ == "__main__":
    main()
