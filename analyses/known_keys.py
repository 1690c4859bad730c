"""Are walks over key slots found in circuits of which it is known, and none where there is none?

    python analyses/known_keys.py           # the tables, from analyses/results/known-keys.csv, seconds
    python analyses/known_keys.py --write   # labels all circuits again: a quarter of a minute of a core for each of 154

Circuits of a cycle with `keys` as sources, so that hops at value slots are rivals: *written* ones, one hop per layer and
doubling over keys (`programs/mechanisms.py`), 3 to 5 hops, with LayerNorm and without; and families that are *drawn* at random
(`validation/drawn.py`), seeds 0 to 19, a program and three that add a split head or a decoy to it, over keys, values or both.
Each is labelled as it comes, and plain ones once more with noise on their weights. Cells of which what is said by construction
is not clearly so in the model that is made (`validation/upheld.py`) are not judged. *Nulls* are ten untrained models, and the
drawn programs with two idle heads a layer and the Q, K and V of all heads permuted.

Fixed before the first run, as in `stackheads validate`: of cells that are said to be confirmed 98 % are so, with the right
role; of null heads at most 1 % are confirmed. And 95 % of cells that carry are found.

Columns of known-keys.csv, a row for each (head, destination), or each part of one: `kind`, `circuit`, `noise`, `head`,
`destination`, the `truth` and its `true_status`, what is `said` and its `status`, whether that is `right`, and whether the
truth is in `doubt`.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from claims import RESULTS, markdown, rate, workers
from tqdm import tqdm

from stackheads.files import write_file
from stackheads.labelling.cause import CARRYING
from stackheads.labelling.measure import BUDGET, measure_until_decided
from stackheads.labelling.rows import label_row
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.nulls import permuted_heads
from stackheads.processes import worker_pool
from stackheads.programs.mechanisms import OVER_KEYS
from stackheads.seeds import Stream, stream
from stackheads.tasks import Cycle
from stackheads.validation.drawn import FAMILY, family, guise_of, separately
from stackheads.validation.nulls import untrained
from stackheads.validation.specimens import Circuit, Guise, specimen
from stackheads.validation.upheld import EXAMPLES, in_doubt, measured
from stackheads.validation.validate import is_rest

PATH = RESULTS / "known-keys.csv"
NOISE, HOPS, FAMILIES, UNTRAINED = 0.1, (3, 4, 5), 20, 10
PRECISION, RECALL, NULLS = 0.98, 0.95, 0.01
NULL = "null model"


def cases() -> list[tuple[str, str, Guise]]:
    """Kind, name and guise of each circuit; of a null its seed in the guise."""
    found = []
    for number, (name, hops, norm) in enumerate(product(OVER_KEYS, HOPS, ("LN", None))):
        guises = [Guise(seed=number, normalization=norm, idle=number % 2, noise=noise) for noise in (0.0, NOISE)]
        found += [("written", f"{name}, {hops} hops", guise) for guise in guises]
    for seed, member in product(range(FAMILIES), FAMILY):
        plain = guise_of(seed, member)
        noisy = [Guise(seed=plain.seed, normalization=plain.normalization, noise=NOISE)] if member == FAMILY[0] else []
        found += [("drawn", f"{seed} {member}", guise) for guise in (plain, *noisy)]
    found += [(NULL, f"{seed} untrained", Guise(seed=seed)) for seed in range(UNTRAINED)]
    return found + [(NULL, f"{seed} permuted", Guise(seed=seed, idle=2)) for seed in range(FAMILIES)]


def circuit_of(kind: str, name: str) -> Circuit:
    """A circuit by its name."""
    if kind == "written":
        mechanism, _, hops = name.removesuffix(" hops").rpartition(", ")
        task = Cycle(symbols=2 * int(hops) + 2, max_hops=int(hops), supervision="chain", keys=True)
        return separately(OVER_KEYS[mechanism](int(hops)), task)
    seed, _, member = name.partition(" ")
    return family(int(seed), over_keys=True)[FAMILY[0] if kind == NULL else member]


def judged(kind: str, name: str, guise: Guise) -> list[dict[str, Any]]:
    """The rows of one circuit, or null model."""
    truth, doubt = {}, set()
    if name.endswith(" untrained"):
        _, model, task = untrained(Cycle(symbols=8, max_hops=4, keys=True), guise.seed)
    else:
        made = specimen(name, circuit_of(kind, name), guise)
        model, task = made.model, made.task
        if kind == NULL:
            model = permuted_heads(model, guise.seed)
        else:
            truth = made.truth
            doubt = in_doubt(made, measured(made, task.sample(EXAMPLES, stream(guise.seed, Stream.DRAWN))))
    found = measure_until_decided(model, task, guise.seed, Thresholds(), BUDGET, methods=CARRYING)
    rows = []
    for item in found.evidence:
        said, cell = label_row(item, found.thresholds), (item.head, item.destination)
        right = truth.get(cell)
        if right is not None and is_rest(item.gate, right):
            continue
        role = None if right is None else right.role
        gated = right is not None and right.gate == item.gate
        same = right is not None and (role is None or (gated and (role.name, role.hop) == (said["role"], said["hop"])))
        rows.append(
            {
                "kind": kind,
                "circuit": name,
                "noise": guise.noise,
                "head": str(item.head),
                "destination": str(item.destination),
                "truth": None if role is None else str(role),
                "true_status": "none" if right is None else right.status,
                "said": said["role"] if said["hop"] is None else f"{said['role']} {said['hop']}",
                "status": str(said["status"]),
                "right": same and right is not None and said["status"] == right.status,
                "doubt": cell in doubt,
            }
        )
    return rows


def measure(workers: int) -> pd.DataFrame:
    """The rows of all cases."""
    some = cases()
    with worker_pool(workers) as pool:
        every = pool.map(judged, *zip(*some, strict=True))
        return pd.DataFrame([row for rows in tqdm(every, total=len(some), desc="circuits", disable=None) for row in rows])


def tell(table: pd.DataFrame) -> str:
    """Precision and recall of confirmed cells by kind, what is not right, and null heads."""
    known, nulls = table[(table["kind"] != NULL) & ~table["doubt"]], table[table["kind"] == NULL]
    rows = []
    for (kind, noise), some in known.groupby(["kind", "noise"], sort=False):
        for what, mine in _by_role(some):
            said, so, good = _confirmed(mine)
            rows.append([kind, f"{noise:g}", what, mine["circuit"].nunique(), len(mine), rate(good, said), rate(good, so)])
    header = ["circuits", "noise", "truth", "number", "cells", "of those said confirmed right", "of those that carry found"]
    said, so, good = _confirmed(known)
    every = f"all: of those said confirmed right {rate(good, said)}, of those that carry found {rate(good, so)}"
    text = [markdown(header, rows), every]
    heads = nulls.groupby(["circuit", "head"])["status"].agg(lambda each: (each == "confirmed").any())
    text.append(f"null heads confirmed, {nulls['circuit'].nunique()} models: {rate(int(heads.sum()), len(heads))}")
    doubt = table[(table["kind"] != NULL) & table["doubt"]]
    text.append(f"cells in doubt, not judged: {len(doubt)} of {len(known) + len(doubt)}")
    wrong = known[(known["status"] == "confirmed") & ~known["right"]]
    missed = known[(known["true_status"] == "confirmed") & ~known["right"]]
    for what, some in (("wrongly confirmed", wrong), ("missed", missed)):
        lines = [[*map(str, row)] for row in some[WRONG].itertuples(index=False)]
        text.append(f"{what}: {len(some)}" + ("\n\n" + markdown(WRONG, lines) if lines else ""))
    return "\n\n".join(text)


WRONG = ["circuit", "noise", "head", "destination", "truth", "true_status", "said", "status"]


def _confirmed(some: pd.DataFrame) -> tuple[int, int, int]:
    """How many cells are said to be confirmed, are so, and both, with the right role."""
    said, so = some["status"] == "confirmed", some["true_status"] == "confirmed"
    return int(said.sum()), int(so.sum()), int((said & so & some["right"]).sum())


def _by_role(some: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """All cells, and those whose truth or verdict is a key."""
    keys = some["truth"].fillna("").str.startswith("key") | some["said"].fillna("").str.startswith("key")
    return [("any", some), ("a key", some[keys])]


def missed_bars(table: pd.DataFrame) -> list[str]:
    """The bars that are not reached."""
    known, nulls = table[(table["kind"] != NULL) & ~table["doubt"]], table[table["kind"] == NULL]
    said, so, good = _confirmed(known)
    heads = nulls.groupby(["circuit", "head"])["status"].agg(lambda each: (each == "confirmed").any())
    figures = {"precision": (good / said, PRECISION), "recall": (good / so, RECALL)}
    found = [f"{name} {value:.3f}, at least {bar}" for name, (value, bar) in figures.items() if value < bar]
    return found + ([f"null heads {heads.mean():.3f}, at most {NULLS}"] if heads.mean() > NULLS else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="label all circuits again")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the CSV is")
    parser.add_argument("--workers", type=workers, default=2, help="processes")
    arguments = parser.parse_args()
    path = arguments.results / PATH.name
    if arguments.write:
        table = measure(arguments.workers)
        write_file(path, lambda temporary: table.to_csv(temporary, index=False))
    table = pd.read_csv(path)
    print(tell(table))
    print("\nbars: " + ("; ".join(missed_bars(table)) or "all reached"))


if __name__ == "__main__":
    main()
