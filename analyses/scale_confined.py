"""What do two layers use to answer a hop that needs three? (docs/results/paper.md#layers)

    python analyses/scale_confined.py runs/sweeps     # with the models of scale-layers-d3-2: seconds a run
    python analyses/scale_confined.py                 # from analyses/results/scale-confined.csv

The bound on depth holds for heads that use only what shares a token or a position with what they know (`theory/bounds.py`). Of
every finished run of `scale-layers-d3-2`, on 4,096 fresh examples, the accuracy of each hop at the query as it is, and with the
heads of the first or of the last layer confined to where the assumption lets them look (`assumption.confined`). The rule was
written down before the first was measured: that hop 2 rests on what the assumption excludes is *shown* if in all runs it falls
to the best guess (`scale_layers.guess`) or below it with the last layer confined, while hop 1 stays at 99 %; *contradicted* if
it stays above the guess, or hop 1 falls, in half of them or more; else *not shown*.

scale-confined.csv, a row for each run and hop, is added to: runs that are measured again take the place of what was there.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from assumption import confined
from claims import RESULTS, markdown, percent, span
from depth import ANSWERED
from scale_layers import EXAMPLES, HOPS, guess, task

from stackheads import load
from stackheads.errors import StackheadsError
from stackheads.files import write_file
from stackheads.types import Destination

ARM, LAYERS = "scale-layers-d3-2", 2
FILE = RESULTS / "scale-confined.csv"
COLUMNS = ["free", "first", "last"]
"""As the model is, with the first layer confined, and with the last."""
KEY = ["seed", "hop"]


def measured(folder: Path) -> pd.DataFrame:
    """Accuracy of each hop in the finished runs below a folder of sweeps."""
    rows = []
    for run in sorted((folder / ARM / "cells").glob("seed-*")):
        if not (run / "result.json").exists():
            continue
        model = load(max(run.glob("step-*"))).model
        shares = [confined(model, task(), layer, EXAMPLES) for layer in (None, 0, LAYERS - 1)]
        for hop in HOPS:
            at = (Destination.QUERY, hop)
            rows.append(
                {
                    "seed": int(run.name.removeprefix("seed-")),
                    "hop": hop,
                    **{name: round(each[at], 5) for name, each in zip(COLUMNS, shares, strict=True)},
                }
            )
    return pd.DataFrame(rows, columns=[*KEY, *COLUMNS])


def verdict(table: pd.DataFrame) -> str:
    """What the runs say; see the module."""
    hops = {hop: rows.set_index("seed")["last"] for hop, rows in table.groupby("hop")}
    falls = (hops[2] <= guess(2, LAYERS)) & (hops[1] >= ANSWERED)
    if falls.all():
        return "shown"
    return "contradicted" if 2 * falls.sum() <= len(falls) else "not shown"


def tell(table: pd.DataFrame) -> str:
    """A row for each hop."""
    rows = []
    for hop, of_hop in table.groupby("hop"):
        allowed = hop == 1
        shares = [f"{percent(of_hop[name].median())} ({span(of_hop[name], percent)})" for name in COLUMNS]
        rows.append([hop, len(of_hop), *shares, "–" if allowed else percent(guess(int(str(hop)), LAYERS))])
    header = ["hop", "runs", "accuracy (%)", "first layer confined", "last layer confined", "best guess"]
    return f"{markdown(header, rows)}\nhop 2 rests on what the assumption excludes: {verdict(table)}"


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="?", type=Path, help="a folder of sweeps")
    arguments = parser.parse_args()
    table = pd.read_csv(FILE) if FILE.exists() else pd.DataFrame(columns=[*KEY, *COLUMNS])
    if arguments.sweeps is not None:
        try:
            found = measured(arguments.sweeps)
        except StackheadsError as error:
            sys.exit(f"error: {error}")
        if found.empty:
            sys.exit(f"error: runs of {ARM} are measured once they are finished, {arguments.sweeps} has none: train them")
        table = pd.concat([table[~table["seed"].isin(found["seed"])], found]).sort_values(KEY)
        write_file(FILE, lambda temporary: table.to_csv(temporary, index=False))
    if table.empty:
        sys.exit(f"error: {FILE.name} holds no run yet: give a folder of sweeps")
    print(tell(table))


if __name__ == "__main__":
    main()
