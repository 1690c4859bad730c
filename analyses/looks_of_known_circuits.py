"""Are heads that look by tables, or under gates, or that are rarely needed, said to be what they are? Compiled circuits.

    python analyses/looks_of_known_circuits.py                   # the tables from analyses/results/known-looks.csv, seconds
    python analyses/looks_of_known_circuits.py --write           # labels and selectors first, an hour
    python analyses/looks_of_known_circuits.py --circuits n,o    # of some circuits only; with --write they replace theirs

Circuits n to s (`validation/tabled.py`), t, u (`validation/rarely.py`) and v to x (`validation/other_tasks.py`), without
LayerNorm, seeds 0 to 2 (u, which is large, seed 0 alone), clean and with noise on the weights: 0.1, of v and x 0.05, as much as
they answer under. Labels and selectors, fitted to attention, on 256 examples; u, v and x, of which each example asks one of
several hops, on 1,024 too.

A selector is right as in selectors_of_known_circuits.py. `points`: the numbers of a table are largest where the head was built
to look, for every place, distance or pair of symbols that the examples hold. A label is right that has status, role and gate by
construction; what a head with a gate does elsewhere is not judged. Prints for each circuit: jobs and how many are found;
confirmed selectors and how many of these are jobs; tables and how many point; labels and how many are right, not decided, and
wrong; models of which no readout was answered in examples enough, refused.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import pandas as pd
from claims import RESULTS, markdown, rate
from selectors_of_known_circuits import MISSED, NOISE, cell_of, compared, in_words, is_table
from tqdm import tqdm

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.files import write_file
from stackheads.programs.heads import POSITION, Content, HeadSpec
from stackheads.tables import records, role_of
from stackheads.tasks import labelling_batch
from stackheads.types import Gate
from stackheads.validation.blends import jobs_by_construction
from stackheads.validation.other_tasks import OTHER_TASKS
from stackheads.validation.rarely import RARELY
from stackheads.validation.specimens import Guise, Specimen, specimen
from stackheads.validation.tabled import TABLED
from stackheads.validation.validate import is_rest

PATH = RESULTS / "known-looks.csv"
LOOKS = {**TABLED, **RARELY, **OTHER_TASKS}
SEEDS, EXAMPLES = range(3), 256
SLOW = ("u: sixteen hops",)
"""Circuits of one seed alone."""
MORE: dict[str, tuple[int, ...]] = dict.fromkeys(("u: sixteen hops", "v: k hops", "x: hop by asked"), (EXAMPLES, 1024))
LESS: dict[str, tuple[float, ...]] = dict.fromkeys(("v: k hops", "x: hop by asked"), (0.0, 0.05))
REFUSED = "refused"


def cases() -> list[tuple[str, Guise, int]]:
    """Circuits in their guises, with the numbers of examples."""
    return [
        (name, Guise(seed=seed, noise=noise, normalization=None), size)
        for name in LOOKS
        for size in MORE.get(name, (EXAMPLES,))
        for noise in LESS.get(name, NOISE)
        for seed in (SEEDS[:1] if name in SLOW else SEEDS)
    ]


def judged(name: str, guise: Guise, examples: int) -> list[dict[str, Any]]:
    """A row for each label, each selector and each job that is missed."""
    made = specimen(name, LOOKS[name](), guise)
    analysis = analyze(made.model, made.task, examples=examples, seed=guise.seed, explain=False, progress=False)
    rows = [{"kind": "label", **row} for row in labels(made, analysis.labels)]
    try:
        found = analysis.selectors(examples=examples, progress=False, fitted_to="attention")
    except ConfigError as error:  # nothing is answered
        rows.append({"kind": "selector", "status": REFUSED, "reason": str(error)})
    else:
        whys = {(row["head"], row["destination"], row["what"], row["gate"]): row["reason"] for row in records(found.table)}
        for row in compared(made, found.table, "attention"):
            points = pointing(made, row, found.weights)
            why = whys.get((row["head"], row["destination"], row["what"], row.get("gate")))
            rows.append({"kind": "selector", **row, "points": points, "reason": why})
    return [{"circuit": name, "noise": guise.noise, "seed": guise.seed, "examples": examples, **row} for row in rows]


def labels(made: Specimen, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The labels, beside those by construction."""
    rows, jobs = [], jobs_by_construction(made)
    for row in records(table):
        truth, role = made.truth[cell_of(row)], None if row["role"] is None else role_of(row)
        gate = None if row["gate"] is None else Gate.parse(row["gate"])
        if is_rest(gate, truth):
            continue
        built: Sequence[tuple[Any, Gate | None]] = jobs.get(cell_of(row), ())
        if len(built) < 2 or truth.role is None:
            built = ((truth.role, truth.gate),)
        right = row["status"] == truth.status and (truth.role is None or (role, gate) in built)
        shown = {key: row[key] for key in ("head", "destination", "gate", "status", "effect", "write", "reason")}
        said = f"{truth.status}, {in_words(built) if truth.role else '–'}"
        rows.append(shown | {"what": None if role is None else str(role), "built": said, "right": right})
    return rows


def pointing(made: Specimen, row: dict[str, Any], weights: pd.DataFrame) -> bool | None:
    """Whether a table's numbers are largest where its head was built to look; None where there is no table."""
    cell, place = cell_of(row)
    head: HeadSpec = made.layers[cell.layer][cell.index]
    looks = [what for what, _ in head.jobs.get(place, ()) if isinstance(what, str | Content)]
    if row["status"] == MISSED or not any(is_table(row, what) for what in looks):
        return None
    (table,), (_, source) = head.tables, head.matches[0]
    assert table is not None
    numbers = weights[(weights["head"] == row["head"]) & (weights["destination"] == row["destination"])]
    numbers = numbers[numbers["what"] == row["what"]]
    if source == POSITION:
        slots = labelling_batch(made.task, 1, 0).slots[0].tolist()
        pairs = [pair for pair in table if slots[pair[0]] == place.slot]
        wanted = numbers["at"].isin({mine - theirs if row["what"] == "distance" else theirs for mine, theirs in pairs})
    else:
        wanted = pd.Series([pair in table for pair in zip(numbers["value"], numbers["at"], strict=True)], numbers.index)
    of_value = numbers.assign(wanted=wanted).groupby("value", dropna=False)
    return all(
        group.loc[group["wanted"], "weight"].min() > group.loc[~group["wanted"], "weight"].max()
        for _, group in of_value
        if group["wanted"].any() and not group["wanted"].all()
    )


HEADER = ("circuit", "examples", "noise", "jobs found", "confirmed that are jobs", "tables that point", "labels right")
HEADER += ("labels not decided", "labels wrong", "refused")


def lines(table: pd.DataFrame) -> list[list[Any]]:
    """A row of the printed table for each circuit, number of examples and level of noise."""
    rows: list[list[Any]] = []
    for key, some in table.groupby(["circuit", "examples", "noise"], sort=False):
        selectors, label = some[some["kind"] == "selector"], some[some["kind"] == "label"]
        confirmed, missed = selectors[selectors["status"] == "confirmed"], int((selectors["status"] == MISSED).sum())
        right, pointing = marked(confirmed["right"]), confirmed["points"].dropna()
        sure = marked(label["right"])
        open_ones = int(((label["status"] == "undecided") & ~label["right"].eq(True)).sum())
        counts = [of(right, right + missed), of(right, len(confirmed)), of(marked(pointing), len(pointing))]
        labelled = [of(sure, len(label)), open_ones, len(label) - sure - open_ones]
        rows.append([*key, *counts, *labelled, int((selectors["status"] == REFUSED).sum())])
    return rows


def marked(marks: pd.Series) -> int:
    """How many are true."""
    return int(marks.eq(True).sum())


def of(right: int, n: int) -> str:
    """So many of so many."""
    return f"{right} of {n}" if n else "–"


def together(table: pd.DataFrame) -> str:
    """Jobs found and confirmed selectors that are jobs, of all circuits on the fewest examples, with Wilson's intervals."""
    some = table[(table["kind"] == "selector") & (table["examples"] == EXAMPLES)]
    confirmed, missed = some[some["status"] == "confirmed"], int((some["status"] == MISSED).sum())
    right = marked(confirmed["right"])
    return f"jobs found: {rate(right, right + missed)}; confirmed that are jobs: {rate(right, len(confirmed))}"


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="label and select anew")
    parser.add_argument("--circuits", help="letters, with commas between them; all by default")
    arguments = parser.parse_args()
    letters = set(arguments.circuits.split(",")) if arguments.circuits else {name[0] for name in LOOKS}
    if arguments.write:
        chosen = [case for case in cases() if case[0][0] in letters]
        rows = [row for case in tqdm(chosen, desc="circuits", disable=None) for row in judged(*case)]
        table = pd.DataFrame(rows).round(4)
        if PATH.exists():
            old = pd.read_csv(PATH)
            table = pd.concat([old[~old["circuit"].isin(table["circuit"])], table]).sort_values("circuit", kind="stable")
        write_file(PATH, lambda temporary: table.to_csv(temporary, index=False))
    table = pd.read_csv(PATH)
    table = table[table["circuit"].str[0].isin(letters)]
    print(markdown(HEADER, lines(table)), together(table), sep="\n\n")


if __name__ == "__main__":
    main()
