"""Does the labeller find the heads of trained models whose circuit is known (`checkpoints/known`), and no others?

    python analyses/known_circuits.py           # the tables, from analyses/results/known.csv, seconds
    python analyses/known_circuits.py --write   # labels first those that are not labelled yet: about 20 seconds for each
    python analyses/known_circuits.py --write --again   # labels all of them anew
    python analyses/known_circuits.py --folder runs/known-1000   # those of other seeds (`train_known.py --more`), not written

Each model is labelled as it is, on 512 examples, seed 0. A (head, destination) is *found* if it carries a step and has a
confirmed row with the step's role, else *missed*; *wrong* if it has a confirmed row with another role, or carries nothing and
has a confirmed row; *named* if what it is said to carry (`carried`, asked of what is causal-unclassified) is the step's token,
*misnamed* if another. Prints, for each model, what was measured of the model itself and which cells are found, missed and
wrong, then precision and recall as means over models: those of first seeds; those of further seeds (`NAME-seed-SEED`) and those
that were taught to look at their sources at first (`NAME-guided`), neither of which had a part in making the labeller. The
numbers behind a step are the head's attention on the step's source, at its own rows, and on each other position of the source's
slot: an exchange proves what a head carries, not where it looks.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from claims import RESULTS
from tqdm import tqdm

from stackheads import analyze
from stackheads.files import write_file
from stackheads.tables import records
from stackheads.types import Destination, HeadId
from stackheads.validation.exchanged import attention_on_sources
from stackheads.validation.known import SEED, Known, is_guided, known_models

KNOWN = Path(__file__).resolve().parent.parent / "checkpoints" / "known"
PATH = RESULTS / "known.csv"
EXAMPLES, LOOKS = 512, 0.5


def cells(known: Known) -> list[dict[str, Any]]:
    """One row for each (head, destination) that carries a step, has a confirmed row, or is said to carry a token."""
    analysis = analyze(known.model, known.task, examples=EXAMPLES, progress=False, explain=False, carried=True)
    labels, carried = records(analysis.labels), records(analysis.carried)
    looks = attention_on_sources(known.assigned, known.model, EXAMPLES)
    rows = []
    for (head, place), truth in known.truth.items():
        mine, brought = ([row for row in rows_of if _is_of(row, head, place)] for rows_of in (labels, carried))
        said = [row for row in mine if row["status"] == "confirmed"]
        role = truth.role
        right = role is not None and any((row["role"], row["hop"]) == (role.name, role.hop) for row in said)
        named = {row["carries"] for row in brought if row["carries"]}
        if role is None and not said and not named:
            continue
        on_source, on_others = looks.get((head, place), (0.0, 0.0))
        wrong = any(role is None or (row["role"], row["hop"]) != (role.name, role.hop) for row in said)
        rows.append(
            {
                "model": known.name,
                "head": str(head),
                "destination": str(place),
                "looks": f"{on_source:.2f}",
                "beside": f"{on_others:.2f}",
                "truth": "nothing" if role is None else str(role),
                "labels": "; ".join(_said(row) for row in mine),
                "carried": "; ".join(_brought(row) for row in brought),
                "reason": "; ".join(row["reason"] for row in mine),
                "found": right,
                "wrong": wrong,
                "named": str(role) in named,
                "misnamed": bool(named - {str(role)}),
            }
        )
    return rows


def _is_of(row: dict[str, Any], head: HeadId, place: Destination) -> bool:
    return HeadId.parse(row["head"]) == head and row["destination"] == place


def _brought(row: dict[str, Any]) -> str:
    """What is carried in words: the token with what is kept, or the answer."""
    what = row["answer"] if row["carries"] is None else f"{row['carries']} ({row['kept']:.2f})"
    return what if row["gate"] is None else f"{what} when {row['gate']}"


def _said(row: dict[str, Any]) -> str:
    """A label in words: status, role, and where a row is about a part of the positions its gate."""
    role = " ".join(str(row[name]) for name in ("role", "hop") if row[name] is not None and row[name] == row[name])
    return f"{row['status']} {role}" + ("" if row["gate"] is None else f" ({row['gate']})")


def model_row(known: Known, found: pd.DataFrame) -> list[str]:
    """One line of the table of models."""
    mine = found[found["model"] == known.name]
    asked = mine[mine["truth"] != "nothing"]
    heads = {head for step in known.assigned.steps for head in step.heads}
    shape = f"{known.assigned.n_layers} × {known.assigned.n_heads}" + ("" if known.model.cfg.attn_only else ", MLPs")
    names = {kind: _cells(rows) for kind, rows in (("missed", asked[~asked["found"]]), ("wrong", mine[mine["wrong"]]))}
    return [
        f"`{known.name}`",
        shape,
        str(len(heads)),
        f"{100 * min(known.accuracy.values()):.2f}",
        f"{100 * known.moved_by_the_rest:.2f}",
        f"{asked['found'].sum()} of {len(asked)}",
        names["missed"],
        names["wrong"],
    ]


def _cells(rows: pd.DataFrame) -> str:
    """Cells with what stands at them and what was said."""
    said = (
        f"{row.head} {row.destination[0]} {row.truth} ({row.looks}, {row.beside}): {row.labels.strip()}"
        + (f", carries {row.carried}" if row.carried else "")
        for row in rows.itertuples()
    )
    return "; ".join(said) or "none"


def figures(found: pd.DataFrame) -> str:
    """Precision and recall of confirmed cells."""
    steps, said = found["truth"] != "nothing", found["found"] | found["wrong"]
    recall, precision = found[steps].groupby("model")["found"].mean(), found[said].groupby("model")["found"].mean()
    overall = f"{found['found'].sum()} of {steps.sum()} cells found, {found['wrong'].sum()} wrong"
    means = f"means over models: recall {recall.mean():.3f}, precision {precision.mean():.3f}"
    looking = found[steps & (found["looks"].astype(float) >= LOOKS)]
    look = f"of {len(looking)} that look at their source with half their attention {looking['found'].sum()}"
    missed = found[~found["found"]]
    carried = f"of {(steps & ~found['found']).sum()} missed {missed['named'].sum()} said to carry their step's token"
    return f"{overall}; {means}; {look}; {carried}, {found['misnamed'].sum()} cells another"


def group(name: str) -> str:
    """Which of the groups that have figures of their own a model is in."""
    return "guided" if is_guided(name) else "further seeds" if SEED in name else "first seeds"


def labelled(models: list[Known]) -> pd.DataFrame:
    """The rows of all of them."""
    return pd.DataFrame([row for known in tqdm(models, disable=None) for row in cells(known)])


def stored() -> pd.DataFrame:
    """The rows of `PATH`."""
    found = pd.read_csv(PATH, dtype=str, keep_default_na=False)
    return found.assign(**{name: found[name] == "True" for name in ("found", "wrong", "named", "misnamed")})


def labelled_anew(models: list[Known], again: bool) -> pd.DataFrame:
    """The stored rows of these models, and new ones of those that have none or of all."""
    if again or not PATH.exists():
        return labelled(models)
    before = stored()
    names = {known.name for known in models} & set(before["model"])
    new = labelled([known for known in models if known.name not in names])
    return pd.concat([before[before["model"].isin(names)], new]).sort_values("model", kind="stable")


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="label the models that are not labelled yet")
    parser.add_argument("--again", action="store_true", help="with --write: also those that are")
    parser.add_argument("--folder", type=Path, help="label the models in this folder instead; nothing is written")
    arguments = parser.parse_args()
    if arguments.again and not arguments.write:
        parser.error("--again labels models once more where --write writes them: give both")
    models = known_models(arguments.folder or KNOWN)
    if arguments.folder:
        found = labelled(models)
    else:
        if arguments.write:
            rows = labelled_anew(models, arguments.again)
            write_file(PATH, lambda path: rows.to_csv(path, index=False))
        found = stored()
    header = [
        "model",
        "layers × heads",
        "heads with a step",
        "interchanges (%)",
        "the rest moves (%)",
        "found",
        "missed",
        "confirmed wrongly",
    ]
    labelled_ones = [known for known in models if (found["model"] == known.name).any()]
    for line in (header, ["---"] * len(header), *(model_row(known, found) for known in labelled_ones)):
        print(f"| {' | '.join(line)} |")
    groups = found["model"].map(group)
    for name in ("first seeds", "further seeds", "guided"):
        if (groups == name).any():
            print(f"\n{name}: {figures(found[groups == name])}")
    if len(labelled_ones) < len(models):
        print(f"\n{len(models) - len(labelled_ones)} models are not labelled yet: --write")


if __name__ == "__main__":
    main()
