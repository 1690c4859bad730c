"""What do two layers use to answer a hop that needs three, and three for one that needs four? (docs/results/paper.md#layers)

    python analyses/scale_confined.py runs/sweeps     # with the models of scale-layers-d3-2 and -d4-3: seconds a run
    python analyses/scale_confined.py                 # from analyses/results/scale-confined.csv

The bound on depth holds for heads that use only what shares a token or a position with what they know (`theory/bounds.py`). Of
every finished run of `scale-layers-d3-2` and `scale-layers-d4-3`, on 4,096 fresh examples, the accuracy of each hop at the
query as it is, and with the heads of the first or of the last layer confined to where the assumption lets them look
(`assumption.confined`). The rule was written down before the first at D = 4 was measured, and committed with the first six at
D = 3: that the first hop which is forbidden rests on what the assumption excludes is *shown* if in all runs it falls to the
best guess (`scale_layers.guess`) or below it with the last layer confined, while those that are allowed stay at 99 %;
*contradicted* if it stays above the guess, or one of these falls, in half of them or more; else *not shown*. In how many runs
the guess is surely beaten then (`scale_layers.beaten`) is told beside it.

scale-confined.csv, a row for each run and hop, is added to: runs that are measured again take the place of what was there.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from assumption import confined
from claims import RESULTS, finished, last_snapshot, markdown, percent, span
from depth import ANSWERED
from scale_layers import EXAMPLES, allowed, beaten, guess, size_of, task

from stackheads import load
from stackheads.errors import StackheadsError
from stackheads.files import write_file
from stackheads.types import Destination

ARMS = ("scale-layers-d3-2", "scale-layers-d4-3")
FILE = RESULTS / "scale-confined.csv"
COLUMNS = ["free", "first", "last"]
"""As the model is, with the first layer confined, and with the last."""
KEY = ["arm", "seed", "hop"]


def measured(folder: Path) -> pd.DataFrame:
    """Accuracy of each hop in the finished runs below a folder of sweeps. Raises `ConfigError` for those of another recipe."""
    rows = []
    for arm in ARMS:
        hops, layers = size(arm)
        for run in finished(arm, folder):
            model = load(last_snapshot(run)).model
            shares = [confined(model, task(hops), layer, EXAMPLES) for layer in (None, 0, layers - 1)]
            for hop in range(1, hops + 1):
                each = {name: round(of[Destination.QUERY, hop], 5) for name, of in zip(COLUMNS, shares, strict=True)}
                rows.append({"arm": arm, "seed": run.seed, "hop": hop, **each})
    return pd.DataFrame(rows, columns=[*KEY, *COLUMNS])


def size(arm: str) -> tuple[int, int]:
    """D and layers of one of the arms."""
    found = size_of(arm)
    assert found is not None, "an arm of scale_layers.py"
    return found


def forbidden(arm: str) -> int:
    """The first hop that so many layers can't know."""
    hops, layers = size(arm)
    return min(hop for hop, least in allowed(hops).items() if least > layers)


def verdict(table: pd.DataFrame, arm: str) -> str:
    """What the runs of an arm say; see the module."""
    (hops, layers), first = size(arm), forbidden(arm)
    last = table.pivot(index="seed", columns="hop", values="last")
    falls = (last[first] <= guess(first, layers, hops)) & (last[list(range(1, first))] >= ANSWERED).all(axis=1)
    if falls.all():
        return "shown"
    return "contradicted" if 2 * falls.sum() <= len(falls) else "not shown"


def tell(table: pd.DataFrame, arm: str) -> str:
    """A row for each hop."""
    rows, (hops, layers) = [], size(arm)
    for hop, of_hop in table.groupby("hop"):
        shares = [f"{percent(of_hop[name].median())} ({span(of_hop[name], percent)})" for name in COLUMNS]
        known = int(str(hop)) < forbidden(arm)
        best = guess(int(str(hop)), layers, hops)
        rows.append([hop, len(of_hop), *shares, *(["–", "–"] if known else [percent(best), beaten(of_hop["last"], best)])])
    header = ["hop", "runs", "accuracy (%)", "first layer confined", "last layer confined", "best guess", "then beaten in"]
    said = f"hop {forbidden(arm)} rests on what the assumption excludes: {verdict(table, arm)}"
    return f"{arm}\n\n{markdown(header, rows)}\n{said}"


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
            sys.exit(f"error: runs of {' or '.join(ARMS)} are measured once finished, {arguments.sweeps} has none: train them")
        table = pd.concat([table, found]).drop_duplicates(KEY, keep="last").sort_values(KEY)
        write_file(FILE, lambda temporary: table.to_csv(temporary, index=False))
    if table.empty:
        sys.exit(f"error: {FILE.name} holds no run yet: give a folder of sweeps")
    print(*(tell(rows, str(arm)) for arm, rows in table.groupby("arm")), sep="\n\n")


if __name__ == "__main__":
    main()
