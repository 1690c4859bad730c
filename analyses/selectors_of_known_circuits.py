"""Are selectors with the status *confirmed* those that were built in? Compiled circuits, with and without noise.

    python analyses/selectors_of_known_circuits.py           # the table from analyses/results/selectors-known.csv, seconds
    python analyses/selectors_of_known_circuits.py --write   # finds the selectors of 22 circuits first: 15 minutes

Every circuit of `validation/specimens.py` but e (backups, whose heads matter only together) and h (two roles that nothing tells
apart), clean and with noise of 0.1 on the weights (seed 0). Labels and selectors on 256 examples. A
selector is right if it is the role that the head was built with at that destination, looked at and not away from; all else –
another role, a slot, a table – is wrong. Fitted to the answer, wrong ones are offered and taken; what is asked is whether the
three channels tell them. Prints for each status how many selectors have it and how many of these are right, with Wilson's 95 %
interval.
"""

import argparse
from typing import Any

import pandas as pd
from claims import RESULTS
from tqdm import tqdm

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.files import write_file
from stackheads.labelling.statistics import wilson
from stackheads.tables import records, role_of
from stackheads.types import Destination, HeadId, Role
from stackheads.validation.specimens import CIRCUITS, Guise, Specimen, specimen

LEFT_OUT = ("e: backups", "h: ambiguous")
SEEDS, NOISE, EXAMPLES = (0,), (0.0, 0.1), 256
PATH = RESULTS / "selectors-known.csv"


def built_in(made: Specimen) -> dict[tuple[HeadId, Destination], Role]:
    """The role that each head was built with, wherever it acts; labels by construction name none of diffuse heads."""
    roles = {key: truth.role for key, truth in made.truth.items() if truth.role is not None}
    for layer, heads in enumerate(made.layers):
        for index, head in enumerate(heads):
            roles |= {(HeadId(layer, index), place): role for place, role in head.roles.items()}
    return roles


def judged(name: str, guise: Guise) -> list[dict[str, Any]]:
    """A row for each selector of one circuit."""
    made = specimen(name, CIRCUITS[name](), guise)
    roles = built_in(made)
    analysis = analyze(made.model, made.task, examples=EXAMPLES, seed=guise.seed, explain=False, progress=False)
    try:
        table = analysis.selectors(examples=EXAMPLES, progress=False).table
    except ConfigError:  # nothing is answered
        return []
    rows = []
    for row in records(table):
        if row["status"] is None:
            continue
        role = roles.get((HeadId.parse(row["head"]), Destination(row["destination"])))
        right = row["selector"] == "role" and row["weight"] > 0 and role == role_of(row)
        shown = {
            key: row[key] for key in ("head", "destination", "what", "gate", "values", "status", "gain", "effect", "write")
        }
        rows.append(
            {"circuit": name, "noise": guise.noise, "seed": guise.seed, **shown, "built": str(role or "–"), "right": right}
        )
    return rows


def lines(table: pd.DataFrame) -> list[str]:
    """The table of docs/results/selectors.md, a line for each status with and without noise."""
    found = ["| noise | status | selectors | built in | share |", "| --- | --- | --- | --- | --- |"]
    for (noise, status), rows in table.groupby(["noise", "status"], sort=True):
        right, n = int(rows["right"].sum()), len(rows)
        low, high = wilson(right, n, 0.95)
        found.append(f"| {noise} | {status} | {n} | {right} | {right / n:.2f} [{low:.2f}, {high:.2f}] |")
    return found


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="find the selectors anew")
    arguments = parser.parse_args()
    if arguments.write:
        names = [name for name in CIRCUITS if name not in LEFT_OUT]
        cases = [(name, Guise(seed=seed, noise=noise)) for name in names for noise in NOISE for seed in SEEDS]
        rows = [row for case in tqdm(cases, desc="circuits", disable=None) for row in judged(*case)]
        table = pd.DataFrame(rows).round(4)
        write_file(PATH, lambda temporary: table.to_csv(temporary, index=False))
    print(*lines(pd.read_csv(PATH)), sep="\n")


if __name__ == "__main__":
    main()
