"""Which mechanism is found at the paper's scale? (docs/results/paper.md#scale-mechanisms)

    python analyses/scale_mechanisms.py                                    # from analyses/results/scale-mechanisms.csv, seconds
    python analyses/scale_mechanisms.py --from-scratch --finished --keep   # measure the runs that are finished

The runs are those of the `scale-curriculum-…` sweeps that learn their task (`paper_scale.py`): all with the implicit
curriculum, and those on a cycle without. They are trained beforehand,

    python analyses/train_in_turn.py scale-curriculum-d3-chain scale-curriculum-d4-chain scale-curriculum-cycle-chain

What is measured of each that is solved, and the columns, are those of `mechanisms.py`. Fixed before a run was measured, for
each task and supervision with its runs that are solved: that they find *one mechanism* is `shown` where none has another name
(`other` is no name) and the commonest is surely that of more than half (Wilson, 95 %), `contradicted` where two names are each
that of two runs or more, else `not shown`. The verdict is that of the mechanism by selectors; that by labels is told beside it.

Writes scale-mechanisms.csv and scale-mechanisms.png.
"""

import pandas as pd
from claims import Claim, Run, Tables, main, markdown, planned_runs, rate
from mechanisms import draw, groups, measure, tell

from stackheads.labelling.statistics import wilson

SWEEPS = tuple(f"scale-curriculum-{arm}" for arm in ("d3-chain", "d4-chain", "cycle-chain", "cycle-final"))
UNNAMED = ("other", "none")


def measured(runs: list[Run], workers: int) -> Tables:
    """A row for each run."""
    return {"scale-mechanisms": measure(runs, workers)["mechanisms"]}


def one_mechanism(names: pd.Series) -> str:
    """Whether runs find one mechanism, by the rule that was fixed before."""
    named = names[~names.isin(UNNAMED)].value_counts()
    if (named >= 2).sum() > 1:
        return "contradicted"
    sure = len(named) == 1 and wilson(int(named.iloc[0]), len(names), 0.95)[0] > 0.5
    return "shown" if sure else "not shown"


def tell_all(tables: Tables) -> str:
    """The commonest mechanism of each task with its interval and the verdict, then all that is told of mechanisms."""
    table = tables["scale-mechanisms"]
    rows = []
    for name, group in groups(table):
        solved = group[group["solved"]]
        for words, column in (("selectors", "by_selectors"), ("labels", "mechanism")):
            names = solved[column].fillna("none")
            commonest = names.value_counts().index[0] if len(names) else None
            share = rate(int((names == commonest).sum()), len(names)) if len(names) else None
            rows.append([name, words, len(names), commonest, share, one_mechanism(names)])
    header = ["task and model", "by", "solved runs", "commonest", "in", "one mechanism"]
    return "\n\n".join([markdown(header, rows), named_and_explained(table), tell({"mechanisms": table})])


def named_and_explained(table: pd.DataFrame) -> str:
    """For each sweep in how many runs labels name a mechanism and explain every hop, and of how many selectors say the same."""
    lines = []
    for sweep, group in table[table["solved"]].groupby("sweep"):
        hops = planned_runs(str(sweep))[0].settings["task"]["max_hops"]
        whole = group[~group["mechanism"].isin(UNNAMED) & (group["explained"] == hops)]
        same = int((whole["mechanism"] == whole["by_selectors"]).sum())
        told = f"labels name a mechanism and explain every hop in {rate(len(whole), len(group))}"
        lines.append(f"{sweep}: {told}; selectors name the same in {same}")
    return "\n".join(lines)


CLAIM = Claim(
    __doc__, "scale-mechanisms", SWEEPS, measured, tell_all, lambda tables: draw({"mechanisms": tables["scale-mechanisms"]})
)

if __name__ == "__main__":
    main(CLAIM)
