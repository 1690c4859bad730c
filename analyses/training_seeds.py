"""One recipe, several training seeds: is it the same circuit each time?

    python analyses/training_seeds.py                        # cycle-d4-l3, seeds 0 to 4; about two minutes a seed
    python analyses/training_seeds.py --recipe NAME --seeds 3

Head numbers mean nothing across training seeds, so what is compared is the multiset of (layer, destination, role) of the
confirmed cells: Σ min / Σ max of the counts, for every pair of solved runs. Runs are written to runs/seeds/ and resume. Prints
Markdown.
"""

import argparse
from itertools import combinations
from pathlib import Path

from claims import workers
from recipes import RECIPES

from stackheads import Analysis, analyze
from stackheads.labelling.stability import layer_roles, multiset_jaccard
from stackheads.processes import worker_pool

ROOT = Path(__file__).resolve().parent.parent
SOLVED = 0.99


def train_one(name: str, seed: int) -> Path:
    """Train the recipe with another seed, unless its run is there already."""
    from stackheads.training.trainer import train

    recipe = RECIPES[name]
    run = ROOT / "runs" / "seeds" / f"{name}-seed{seed}"
    train(recipe.task, recipe.model, recipe.training.model_copy(update={"seed": seed}), run, progress=False, resume=True)
    return run


def row(seed: int, analysis: Analysis) -> str:
    trial = analysis.trial()
    roles = "; ".join(
        f"layer {layer} {role} @{place}" + (f" × {count}" if count > 1 else "")
        for (layer, place, role), count in sorted(layer_roles(analysis.labels).items())
    )
    accuracy = " ".join(f"{100 * share:.4g}" for share in analysis.accuracy.values())
    recovered = " ".join(f"{share:.2f}" for share in trial.recovered().values())
    moved = "–" if trial.redirected is None else f"{100 * trial.redirected:.1f}"
    return f"| {seed} | {accuracy} | {analysis.mechanism} | {roles} | {recovered} | {moved} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cycle-d4-l3", help="a name in analyses/recipes.py")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--workers", type=workers, default=2, help="how many at a time")
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    with worker_pool(arguments.workers) as pool:
        runs = list(pool.map(train_one, [arguments.recipe] * len(seeds), seeds))
    analyses = [analyze(run, progress=False) for run in runs]
    print("| seed | accuracy (%) | mechanism | confirmed | (i) ideal | redirected (%) |\n| --- | --- | --- | --- | --- | --- |")
    for seed, analysis in zip(seeds, analyses, strict=True):
        print(row(seed, analysis), flush=True)
    solved = [analysis for analysis in analyses if min(analysis.accuracy.values()) >= SOLVED]
    pairs = [multiset_jaccard(layer_roles(one.labels), layer_roles(other.labels)) for one, other in combinations(solved, 2)]
    if pairs:
        mean, least = sum(pairs) / len(pairs), min(pairs)
        print(f"\n{len(solved)} of {len(analyses)} solved; Jaccard of {len(pairs)} pairs: mean {mean:.2f}, least {least:.2f}")


if __name__ == "__main__":
    main()
