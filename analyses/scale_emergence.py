"""Do hops and heads emerge in the same order in every run at the paper's scale? (docs/results/paper.md#sequence)

    python analyses/scale_emergence.py                  # table and figure from analyses/results/scale-emergence.csv, seconds
    python analyses/scale_emergence.py --from-scratch --finished --keep   # label the snapshots of the runs that are finished

Musat (arXiv 2411.12118): attention heads always emerge in a specific sequence, guided by the implicit curriculum. The runs are
those of `scale-curriculum-d3-chain` and `scale-curriculum-d4-chain` (`paper_scale.py`): causal retrieval with the implicit
curriculum, up to 24,000 steps or until solved, a snapshot each 50 steps. They are trained beforehand,

    python analyses/train_in_turn.py scale-curriculum-d3-chain scale-curriculum-d4-chain

What is measured and how it is told, and what counts as shown, is `emergence.py`. Writes scale-emergence.csv, a row for each run
and hop or followed cell, and scale-emergence.png.
"""

from functools import partial

from claims import Claim, Run, Tables, main
from emergence import draw, measure, tell

SWEEPS = ("scale-curriculum-d3-chain", "scale-curriculum-d4-chain")


def solved(runs: list[Run], workers: int) -> Tables:
    """The table of the runs that were solved."""
    return {"scale-emergence": measure([run for run in runs if run.result["solved"]], workers)["emergence"]}


CLAIM = Claim(__doc__, "scale-emergence", SWEEPS, solved, tell, partial(draw, heads=True))

if __name__ == "__main__":
    main(CLAIM)
