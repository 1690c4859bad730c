"""How do ways of labelling heads fare where it is known what heads look at? (docs/results/validation.md#peers)

    python analyses/peers.py               # table and figure from analyses/results/peers*.csv: seconds
    python analyses/peers.py --write       # judges all cases first, more than an hour on two cores; resumable

Every case of `validation/cases.py`, judged by all ways of `validation/peers.py` and scored as in `validation/compared.py`:
F1 with 95 % intervals over what circuits are built on, by column, then its mean over the kinds of looks that are there; of
nulls the share of heads of which anything is said. Which heads of known trained models do not look at their step's source is
in known.csv (`known_circuits.py --write`, first). --write keeps each case in --keep and then writes peers.csv (scores),
peers-wrong.csv (every cell about which ours is wrong) and peers.png, and peers-strict.csv: the same scores if a compiled head
that matches symbols may not be said to look at its kind of slot as well, which is printed last. The figure leaves out the
field's ways with `start` among their roles.
"""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd
from claims import RESULTS, ROOT, markdown, workers
from known_circuits import LOOKS
from known_circuits import PATH as KNOWN_CELLS
from tqdm import tqdm

from stackheads.files import write_file
from stackheads.processes import worker_pool
from stackheads.report.figures import save_figure
from stackheads.tables import records
from stackheads.validation.cases import Case, cases, judged
from stackheads.validation.compared import COLUMNS, NULLS, Result, scores, wrong
from stackheads.validation.kept import Rows, keeping, kept
from stackheads.validation.peers import OURS, TOO

KNOWN = ROOT / "checkpoints" / "known"
SCORES, WRONG, STRICT = (RESULTS / f"{name}.csv" for name in ("peers", "peers-wrong", "peers-strict"))


def rows(case: Case) -> Rows:
    """The result of a case, plain."""
    return [judged(case).to_dict()]


def result(case: Case, folder: Path) -> Result:
    """The result of a case, from its file where it is there."""
    return Result.of(kept(folder, case.slug, rows, case)[0])


def results(folder: Path, workers: int) -> list[Result]:
    """All cases, judged in so many processes."""
    keeping(folder, {}, KNOWN)
    every = cases(KNOWN)
    with worker_pool(workers) as pool:
        return list(tqdm(pool.map(partial(result, folder=folder), every), total=len(every), desc="cases", disable=None))


def lines(table: pd.DataFrame, score: str = "score") -> list[str]:
    """The table of docs/results/validation.md; `score` may be `macro`, which nulls have not."""
    there = [column for column in COLUMNS if (table["column"] == column).any()]
    columns = [column for column in there if score == "score" or column != NULLS]
    ways = sorted(table.groupby("way", sort=False), key=lambda pair: pair[0] != OURS)
    rows = [[way, *(cell(some, column, score) for column in columns)] for way, some in ways]
    sizes = [f"{int(one['cases'])} cases, {int(one['cells'])}" for one in firsts(table)]
    return [markdown(["way of labelling", *columns], [["(cases, cells or heads)", *sizes[: len(columns)]], *rows])]


def firsts(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row for each column."""
    return [records(table[table["column"] == column])[0] for column in COLUMNS if (table["column"] == column).any()]


def away(known: pd.DataFrame) -> set[tuple[str, str]]:
    """Models and cells that carry a step and do not look at its source with half of their attention."""
    found = known[(known["truth"] != "nothing") & (known["looks"] < LOOKS)]
    return {(row["model"], f"{row['head']} @{row['destination']}") for row in records(found)}


def cell(rows: pd.DataFrame, column: str, score: str = "score") -> str | None:
    """A score with its interval."""
    found = records(rows[rows["column"] == column])
    if not found:
        return None
    (row,) = found
    if column == NULLS:
        return f"{100 * row['score']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    low, high = ("low", "high") if score == "score" else (f"{score}_low", f"{score}_high")
    return f"{row[score]:.3f} [{row[low]:.2f}, {row[high]:.2f}]"


def draw(table: pd.DataFrame) -> Any:
    """Scores by column, a mark for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 1))
    ways = [way for way in dict.fromkeys(table["way"]) if not way.endswith(TOO)]
    columns = [column for column in COLUMNS if (table["column"] == column).any()]
    for number, way in enumerate(ways):
        for axes, mine in ((left, [name for name in columns if name != NULLS]), (right, [NULLS])):
            rows = [records(table[(table["way"] == way) & (table["column"] == name)])[0] for name in mine]
            x = [place + 0.8 * (number / max(1, len(ways) - 1) - 0.5) for place in range(len(mine))]
            y = [row["score"] for row in rows]
            ends = [[row["score"] - row["low"] for row in rows], [row["high"] - row["score"] for row in rows]]
            colour, marker = ("#009E73", "D") if way == OURS else (f"C{number}", "o" if number < 10 else "s")
            axes.errorbar(x, y, yerr=ends, fmt=marker, color=colour, markersize=5, linewidth=1, label=way)
            axes.set_xticks(range(len(mine)), [fill(name, 10) for name in mine])
    left.set_ylabel("F1, 95 % over what circuits are built on")
    right.set_ylabel("share of null heads with a label")
    left.legend(frameon=False, fontsize=7, ncols=2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def written(found: Iterable[Result]) -> None:
    """Write the tables."""
    every = list(found)
    strict, but_for = [replace(one, allowed={}) for one in every], away(pd.read_csv(KNOWN_CELLS))
    for path, rows in ((SCORES, scores(every, but_for)), (WRONG, wrong(every)), (STRICT, scores(strict, but_for))):
        table = pd.DataFrame(rows).round(4)
        write_file(path, lambda temporary, table=table: table.to_csv(temporary, index=False))


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=workers, default=2, help="processes")
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "peers", help="where each case is kept")
    parser.add_argument("--write", action="store_true", help="judge the cases, and write tables and figure")
    arguments = parser.parse_args()
    if arguments.write:
        written(results(arguments.keep, arguments.workers))
    table = pd.read_csv(SCORES)
    print(*lines(table), "", "mean over kinds:", "", *lines(table, "macro"), sep="\n")
    print("", "nothing allowed beside:", "", *lines(pd.read_csv(STRICT)), sep="\n")
    if arguments.write:
        save_figure(draw(table), RESULTS / "peers.png")


if __name__ == "__main__":
    main()
