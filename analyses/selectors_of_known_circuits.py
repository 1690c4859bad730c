"""Are selectors with the status *confirmed* those that were built in? Compiled circuits, with and without noise.

    python analyses/selectors_of_known_circuits.py           # the tables from analyses/results/selectors-known*.csv, seconds
    python analyses/selectors_of_known_circuits.py --write   # finds the selectors of 22 circuits first: 15 minutes
    python analyses/selectors_of_known_circuits.py --write --fitted-to attention   # of 50 circuits: 12 minutes

Every circuit of `validation/specimens.py` but e (backups, whose heads matter only together), h (two roles that nothing tells
apart) and, of attention, g (diffuse on purpose), clean and with noise of 0.1 on the weights. Fitted to the answer: seed 0.
Fitted to attention: seeds 0 and 1, the latter without LayerNorm, and the blends of `validation/blends.py`, whose heads look at
several things, for seeds 0 to 2 without LayerNorm. Labels and selectors on 256 examples.

Fitted to the answer, a selector is right if it is the role that the head was built with at that destination, looked at and not
away from; wrong ones are offered and taken, and what is asked is whether the three channels tell them. Fitted to attention, it
is right if it is one of the jobs that the head has by construction there, and is needed; a role under a gate has its values,
or stands beside others that do: of two roles that divide the values one needs no gate. A job that no confirmed selector is
right about is missed. Prints for each status how many selectors have it and how many of these are right, with Wilson's 95 %
interval, and of attention how many jobs are found.
"""

import argparse
from typing import Any

import pandas as pd
from claims import RESULTS
from tqdm import tqdm

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.explanation.measuring import FITTED_TO, FittedTo
from stackheads.files import write_file
from stackheads.labelling.statistics import wilson
from stackheads.programs.heads import Content, Job
from stackheads.tables import records, role_of
from stackheads.tasks.statements import OWN
from stackheads.types import Destination, HeadId, Role, Slot, parse_ranges
from stackheads.validation.blends import BLENDS, jobs_by_construction
from stackheads.validation.specimens import CIRCUITS, Guise, Specimen, specimen

LEFT_OUT = ("e: backups", "h: ambiguous")
DIFFUSE = "g: diffuse"
NOISE, EXAMPLES = (0.0, 0.1), 256
PATHS = {"answer": RESULTS / "selectors-known.csv", "attention": RESULTS / "selectors-known-of-attention.csv"}
MISSED = "missed"
ALL = {**CIRCUITS, **BLENDS}

Cell = tuple[HeadId, Destination]


def cases(fitted_to: str) -> list[tuple[str, Guise]]:
    """The circuits of one table."""
    names = [name for name in CIRCUITS if name not in LEFT_OUT]
    if fitted_to == "answer":
        return [(name, Guise(noise=noise)) for name in names for noise in NOISE]
    plain = [
        (name, Guise(seed=seed, noise=noise, normalization=None if seed else "LN"))
        for name in names
        if name != DIFFUSE
        for noise in NOISE
        for seed in (0, 1)
    ]
    blends = [
        (name, Guise(seed=seed, noise=noise, normalization=None)) for name in BLENDS for noise in NOISE for seed in range(3)
    ]
    return [*plain, *blends]


def built_in(made: Specimen) -> dict[Cell, Role]:
    """The role that each head was built with, wherever it acts; labels by construction name none of diffuse heads."""
    roles = {key: truth.role for key, truth in made.truth.items() if truth.role is not None}
    for layer, heads in enumerate(made.layers):
        for index, head in enumerate(heads):
            roles |= {(HeadId(layer, index), place): role for place, role in head.roles.items()}
    return roles


def judged(name: str, guise: Guise, fitted_to: FittedTo) -> list[dict[str, Any]]:
    """A row for each selector of one circuit, and of attention for each job that is missed."""
    made = specimen(name, ALL[name](), guise)
    analysis = analyze(made.model, made.task, examples=EXAMPLES, seed=guise.seed, explain=False, progress=False)
    try:
        table = analysis.selectors(examples=EXAMPLES, progress=False, fitted_to=fitted_to).table
    except ConfigError:  # nothing is answered
        return []
    return [{"circuit": name, "noise": guise.noise, "seed": guise.seed, **row} for row in compared(made, table, fitted_to)]


def compared(made: Specimen, table: pd.DataFrame, fitted_to: FittedTo) -> list[dict[str, Any]]:
    """The rows of the selectors in one table, and of the jobs that are missed."""
    told = [row for row in records(table) if row["status"] is not None]
    if fitted_to == "answer":
        roles = built_in(made)
        right = [(str(roles.get(cell_of(row), "–")), is_role(row, roles.get(cell_of(row)))) for row in told]
        missed: list[dict[str, Any]] = []
    else:
        jobs = jobs_by_construction(made)
        right = [(in_words(jobs.get(cell_of(row), ())), matching(row, jobs) is not None) for row in told]
        found = {(cell_of(row), matching(row, jobs)) for row in told if row["status"] == "confirmed"}
        missed = [
            {"head": str(cell[0]), "destination": str(cell[1]), "what": in_words([job])}
            | {"status": MISSED, "built": in_words(every)}
            for cell, every in jobs.items()
            for job in every
            if (cell, job) not in found
        ]
    shown = ("head", "destination", "selector", "what", "gate", "values", "status", "gain", "effect", "write")
    rows = [{key: row[key] for key in shown} for row in told]
    return [row | {"built": built, "right": ok} for row, (built, ok) in zip(rows, right, strict=True)] + missed


def cell_of(row: dict[str, Any]) -> Cell:
    """Head and destination."""
    return HeadId.parse(row["head"]), Destination(row["destination"])


def is_role(row: dict[str, Any], role: Role | None) -> bool:
    """Whether a selector is this role, looked at."""
    return row["selector"] == "role" and row["weight"] > 0 and role == role_of(row)


def matching(row: dict[str, Any], jobs: dict[Cell, tuple[Job, ...]]) -> Job | None:
    """The job of its head that a selector is, if it is one."""
    for job in jobs.get(cell_of(row), ()):
        what, gate = job
        if isinstance(what, Role):
            same = is_role(row, what)
        elif isinstance(what, Slot):
            same = is_slot(row, what)
        else:
            same = is_table(row, what)
        values = None if row["values"] is None else set(parse_ranges(row["values"]))
        if same and (values is None or (gate is not None and gate.name == row["gate"] and values <= set(gate.values))):
            return job
    return None


def is_slot(row: dict[str, Any], slot: Slot) -> bool:
    """Whether a selector is this slot, looked at."""
    return row["selector"] == "slot" and row["weight"] > 0 and row["what"] == slot.plural


def is_table(row: dict[str, Any], what: str | Content) -> bool:
    """Whether a selector is a table of places or distances, the same for all; or of own symbol against these symbols."""
    if isinstance(what, Content):
        return row["selector"] == "content" and row["what"] == f"{OWN} × symbol of {what.slot.name.lower()}"
    return row["selector"] == "position" and row["what"] == what and row["gate"] is None


def in_words(jobs: Any) -> str:
    """Jobs for a table."""
    said = [what.plural if isinstance(what, Slot) else str(what) for what, _ in jobs]
    return "; ".join(text if gate is None else f"{text} when {gate}" for text, (_, gate) in zip(said, jobs, strict=True)) or "–"


def lines(table: pd.DataFrame) -> list[str]:
    """The table of docs/results/selectors.md, a line for each status with and without noise."""
    found = ["| noise | status | selectors | built in | share |", "| --- | --- | --- | --- | --- |"]
    there = table[table["status"] != MISSED]
    for (noise, status), rows in there.groupby(["noise", "status"], sort=True):
        right, n = int(rows["right"].sum()), len(rows)
        low, high = wilson(right, n, 0.95)
        found.append(f"| {noise} | {status} | {n} | {right} | {right / n:.2f} [{low:.2f}, {high:.2f}] |")
    return found


def recall(table: pd.DataFrame) -> list[str]:
    """How many jobs are found, of plain circuits and of each blend."""
    kinds = table["circuit"].where(table["circuit"].isin(list(BLENDS)), "plain circuits")
    found = ["| circuits | noise | jobs | found | confirmed and not a job |", "| --- | --- | --- | --- | --- |"]
    for (kind, noise), rows in table.groupby([kinds, "noise"], sort=False):
        confirmed = rows[rows["status"] == "confirmed"]
        right, missed = int(confirmed["right"].sum()), int((rows["status"] == MISSED).sum())
        found.append(f"| {kind} | {noise} | {right + missed} | {right} | {len(confirmed) - right} |")
    return found


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="find the selectors anew")
    parser.add_argument("--fitted-to", choices=FITTED_TO, default=FITTED_TO[0], help="with --write: what they are fitted to")
    arguments = parser.parse_args()
    if arguments.write:
        rows = [
            row
            for case in tqdm(cases(arguments.fitted_to), desc="circuits", disable=None)
            for row in judged(*case, arguments.fitted_to)
        ]
        table = pd.DataFrame(rows).round(4)
        write_file(PATHS[arguments.fitted_to], lambda temporary: table.to_csv(temporary, index=False))
    for way, path in PATHS.items():
        if path.exists():
            table = pd.read_csv(path)
            print(f"fitted to {way}", *lines(table), *(recall(table) if way == "attention" else []), sep="\n")


if __name__ == "__main__":
    main()
