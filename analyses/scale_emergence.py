"""Do hops and heads emerge in the same order in every run at the paper's scale? (docs/results/paper.md#sequence)

    python analyses/scale_emergence.py                  # table and figure from analyses/results/scale-emergence.csv, seconds
    python analyses/scale_emergence.py --from-scratch --finished --keep   # label the snapshots of the runs that are finished

Musat (arXiv 2411.12118): attention heads always emerge in a specific sequence, guided by the implicit curriculum. The runs are
those of `scale-curriculum-d3-chain`, `-d4-chain` (`paper_scale.py`), causal retrieval with the implicit curriculum, and beside
them `-cycle-chain`, up to 24,000 steps or until solved, a snapshot each 50 steps. They are trained beforehand,

    python analyses/train_in_turn.py scale-curriculum-d3-chain scale-curriculum-d4-chain scale-curriculum-cycle-chain

What is measured and how it is told, and what counts as shown, is `emergence.py`. Hops can be followed without snapshots as
well: scale-runs.csv says for every run at which evaluation, one each 50 steps, each hop first reached 90 %, and the order of
these is told beside. On a cycle a third of the runs walk over keys (`scale_keys.py`), so that these are followed once more with
key slots as sources. Writes scale-emergence.csv, a row for each run and hop or followed cell, scale-emergence-keys.csv, the
same of a cycle with keys, and scale-emergence.png.
"""

from functools import partial
from operator import eq, gt

import pandas as pd
from claims import RESULTS, Claim, Run, Tables, main
from emergence import Rows, against, by_group, draw, measure, sentence, tell, verdict
from paper_scale import TASKS, arm

from stackheads.timeline.orders import agreement, role_steps

SWEEPS = ("scale-curriculum-d3-chain", "scale-curriculum-d4-chain", "scale-curriculum-cycle-chain")

PAIRS = (
    ("layer 0 @value previous", "layer 1 @query hop 1"),
    ("layer 2 @value hop 1", "layer 3 @query hop 1"),
)
"""Heads of which the page says which comes later."""


def solved(runs: list[Run], workers: int) -> Tables:
    """The tables of the runs that were solved."""
    followed = [run for run in runs if run.result["solved"]]
    found = {"scale-emergence": measure(followed, workers)["emergence"]}
    if on_cycle := [run for run in followed if run.sweep == SWEEPS[-1]]:
        found["scale-emergence-keys"] = measure(on_cycle, workers, keys=True)["emergence"]
    return found


def learnt(runs: pd.DataFrame) -> list[dict[str, int | None]]:
    """For each run the evaluation at which each hop that is asked first reached 90 %; rows of scale-runs.csv."""
    steps = {f"hop {hop}": runs[f"learnt_{hop}"] for hop in range(1, 5)}
    asked = {hop: column for hop, column in steps.items() if column.notna().any()}
    return [{hop: None if pd.isna(column[row]) else int(column[row]) for hop, column in asked.items()} for row in runs.index]


def after(runs: list[Rows], late: str, early: str) -> str:
    """How often a head comes after another, both by (layer, destination, role), of the runs that have both."""
    found = [steps for steps in map(role_steps, runs) if steps.get(late) is not None and steps.get(early) is not None]
    later, tied = (sum(test(steps[late], steps[early]) for steps in found) for test in (gt, eq))
    return f"{late} after {early} in {later} of {len(found)} runs, between the same snapshots in {tied}"


def tell_both(tables: Tables) -> str:
    """What snapshots say, then hops by the evaluations of all runs with the curriculum."""
    text, runs = [tell(tables)], pd.read_csv(RESULTS / "scale-runs.csv")
    for words, rows in by_group(tables["scale-emergence"]):
        text += [f"{words}: {after(rows, *pair)}" for pair in PAIRS]
    text.append(f"# with key slots as sources\n\n{tell({'keys': tables['scale-emergence-keys']})}")
    for task, words in TASKS.items():
        found = learnt(arm(runs, task, "chain"))
        agreed = agreement(found)
        text.append(f"{words}, hops by evaluations: {sentence(agreed)}; {against(found)}; one order: {verdict(agreed)}")
    return "\n\n".join(text)


CLAIM = Claim(
    __doc__, "scale-emergence", SWEEPS, solved, tell_both, partial(draw, heads=True), further=("scale-emergence-keys",)
)

if __name__ == "__main__":
    main(CLAIM)
