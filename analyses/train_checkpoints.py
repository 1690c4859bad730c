"""Train the shipped checkpoints, each from its recipe (`recipes.py`) and seed, one CPU thread each.

    python analyses/train_checkpoints.py                     # all that are missing, two at a time
    python analyses/train_checkpoints.py cycle-d4-l3 --again # this one, from scratch

Runs are written to runs/ and resume where they were interrupted; the last snapshot of each becomes checkpoints/NAME, and
of `cycle-d4-l4-run` the whole run, snapshots and all. The same recipe gives the same weights to the bit on one kind of
machine. Run time: 1 to 15 minutes for each checkpoint.
"""

import argparse
import shutil
from pathlib import Path

from claims import workers
from recipes import RECIPES

from stackheads.models import snapshot_folder
from stackheads.processes import worker_pool

ROOT = Path(__file__).resolve().parent.parent


def train_one(name: str, again: bool) -> str:
    """Train one checkpoint and export it. Returns a line to print."""
    from stackheads.training.trainer import train

    recipe, target, checkpoint = RECIPES[name], ROOT / "checkpoints" / name, None
    for number, training in enumerate((recipe.training, *recipe.then), start=1):
        run = ROOT / "runs" / (name if number == 1 else f"{name}-{number}")
        if again:
            shutil.rmtree(run, ignore_errors=True)
        checkpoint = train(recipe.task, recipe.model, training, run, progress=False, resume=True, start_from=checkpoint)
    assert checkpoint is not None
    shutil.rmtree(target, ignore_errors=True)
    if recipe.whole_run:
        shutil.copytree(run, target, ignore=shutil.ignore_patterns("state.safetensors", ".*"))
    else:
        shutil.copytree(snapshot_folder(run), target)
    shares = "  ".join(f"{hop}: {share:.2%}" for hop, share in checkpoint.metrics["accuracy"].items())
    return f"{name}: {shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="which; default: all that are missing")
    parser.add_argument("--again", action="store_true", help="train from scratch")
    parser.add_argument("--workers", type=workers, default=2, help="how many at a time")
    arguments = parser.parse_args()
    missing = [name for name in RECIPES if not (ROOT / "checkpoints" / name).exists()]
    names = arguments.names or (list(RECIPES) if arguments.again else missing)
    with worker_pool(arguments.workers) as pool:
        for line in pool.map(train_one, names, [arguments.again] * len(names)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
