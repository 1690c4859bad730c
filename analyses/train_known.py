"""Train the models whose circuits are known (`known_recipes.py`, docs/results/validation.md#known), one CPU thread.

    python analyses/train_known.py                     # all that are missing, one after the other
    python analyses/train_known.py --only chain-d2 --again
    python analyses/train_known.py --more 2000                  # those that the labeller had no part in, NAME-seed-SEED
    python analyses/train_known.py --more 1000 --only khop-k1   # from a seed that is so much larger, to runs/known-1000

A model that reaches the bar becomes checkpoints/known/NAME, another one runs/known/NAME, where its record says what it falls
short in; it is not trained again unless `--again` is given. Of other seeds those of `UNSEEN` are shipped, every one that
reaches the bar; others try a labeller that was changed after it had seen those that are (`known_circuits.py --folder`). All is
drawn from the seed: the same one gives the same weights to the bit on one kind of machine. Run time: half a minute to four
for each model. Those of `GUIDED` have a guided beginning, which their config names (`validation/guided.py`).
"""

import argparse
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
from known_recipes import RECIPES, SHORT, UNSEEN, UNSEEN_RECIPES

from stackheads.models import save_checkpoint
from stackheads.training.trainer import FRESH_EXAMPLES, accuracy
from stackheads.validation.exchanged import attention_on_sources, interchange_accuracy, moved_by_the_rest
from stackheads.validation.known import BAR, SEED, write_record
from stackheads.validation.strict import train_strictly

ROOT = Path(__file__).resolve().parent.parent
USED, RUNS = ROOT / "checkpoints" / "known", ROOT / "runs"
EXAMPLES = 4096


def train_one(name: str, more: int = 0) -> str:
    """Train one model, measure it and store it where it belongs. Returns a line to print."""
    recipe, start = (RECIPES | SHORT)[name], time.monotonic()
    training = recipe.training.model_copy(update={"seed": recipe.training.seed + more})
    model = train_strictly(recipe.known, recipe.model, training, recipe.guide)
    found = interchange_accuracy(recipe.known, model, EXAMPLES)
    moved = moved_by_the_rest(recipe.known, model, EXAMPLES)
    looks = sorted(mass for mass, _ in attention_on_sources(recipe.known, model, EXAMPLES).values())
    least = min(found, key=lambda each: found[each])
    used, unused = places(name, more)
    folder = used if found[least] >= BAR else unused
    for place in (used, unused):
        shutil.rmtree(place, ignore_errors=True)
    shares = {str(hop): share for hop, share in accuracy(model, recipe.known.task, FRESH_EXAMPLES).items()}
    guide = {} if recipe.guide is None else {"guide": asdict(recipe.guide)}
    settings = {**training.model_dump(mode="json"), "method": "strict interchange", **guide}
    metrics = {"examples": FRESH_EXAMPLES, "accuracy": shares}
    save_checkpoint(folder, model, recipe.known.task, recipe.model, settings, metrics)
    write_record(folder, recipe.known, found, moved, EXAMPLES)
    seconds = time.monotonic() - start
    where = folder.relative_to(ROOT)
    seen = f"attention on sources {looks[0]:.2f} to {looks[-1]:.2f}"
    return f"{name}: {found[least]:.2%} at least, {least}; the rest moves {moved:.2%}; {seen}; {seconds:.0f} s; {where}"


def places(name: str, more: int) -> tuple[Path, Path]:
    """Where a model goes if it reaches the bar, and where if it does not."""
    if more == 0:
        return USED / name, RUNS / "known" / name
    if more == UNSEEN:
        name = f"{name}{SEED}{(RECIPES | SHORT)[name].training.seed + more}"
        return USED / name, RUNS / "known" / name
    return RUNS / f"known-{more}" / name, RUNS / f"known-{more}-short" / name


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*RECIPES, *SHORT], nargs="+", help="which; default: all of RECIPES that are missing")
    parser.add_argument("--again", action="store_true", help="also those that have been trained")
    parser.add_argument("--more", type=int, default=0, help="added to the seeds of training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.only or (UNSEEN_RECIPES if arguments.more == UNSEEN else RECIPES):
        trained = any((place / "known.json").exists() for place in places(name, arguments.more))
        if arguments.again or not trained:
            print(train_one(name, arguments.more), flush=True)


if __name__ == "__main__":
    main()
