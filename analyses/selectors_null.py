"""Is a selector ever confirmed where there is none? Models without circuits, and untrained heads beside trained ones.

    python analyses/selectors_null.py           # the table from analyses/results/selectors-null.csv, seconds
    python analyses/selectors_null.py --write   # measures first, half an hour on one core; may be begun again

Models that answer nothing have nothing that a selector could explain, and are refused: untrained ones, models trained on
shuffled answers, checkpoints with queries, keys and values permuted between heads. A null that is no matter of definition are
heads of models that do answer: shipped checkpoints get four untrained heads more in each layer, *as initialised*, or *sharp*,
their scores multiplied by 16 so that they look at some sources and not evenly at all. What they write is halved until the
model answers as before, in 99 % of what it answered. No weight was trained to read them: a confirmed label or selector of such
a head is a false one. Labels on 256 examples, selectors fitted to attention, of every kind: slots, places, gates, content.
Prints for each kind how many heads, how many (head, destination) cells of them, how many selectors these have by status, and
confirmed labels; beside it the confirmed selectors of the trained heads of the same models, which a method that never says yes
would not have.
"""

import argparse
import os
from collections import Counter
from itertools import repeat
from pathlib import Path
from typing import Any

import pandas as pd
from claims import RESULTS, ROOT, markdown, workers
from tqdm import tqdm

from stackheads import analyze
from stackheads.errors import ConfigError
from stackheads.files import write_file
from stackheads.labelling.bench import bench_of
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import load
from stackheads.models.nulls import beside_untrained, permuted_heads
from stackheads.processes import worker_pool
from stackheads.seeds import Stream, stream
from stackheads.tables import records
from stackheads.types import HeadId, Status
from stackheads.validation.kept import Rows, keeping, kept
from stackheads.validation.nulls import ANSWERLESS, trained_on_shuffled_answers, untrained

PATH = RESULTS / "selectors-null.csv"
KEPT = ROOT / "runs" / "selectors-null"
EXAMPLES, KEEPS, SHARP = 256, 0.99, 16.0
HALVINGS = 12
BESIDE = {
    "cycle-d4-l3": 8,
    "cycle-d8-l4": 1,
    "chain-d3-l3-curriculum": 1,
    "cycle-d4-l4-curriculum": 1,
    "cycle-d4-l3-wide": 1,
}
"""How many seeds of each checkpoint get untrained heads, of either kind."""
MORE = 4
"""Untrained heads in each layer."""
UNTRAINED = 10
"""Untrained models of each task, and half as many that were trained on shuffled answers."""

KINDS = {"beside, as initialised": 1.0, "beside, sharp": SHARP}

Case = tuple[str, str, int]
"""Kind of null, model, seed."""


def cases() -> list[Case]:
    """All models of the table."""
    answerless = [("untrained", task, seed) for task in ("cycle", "retrieval") for seed in range(UNTRAINED)]
    answerless += [("shuffled answers", "cycle", seed) for seed in range(UNTRAINED // 2)]
    answerless += [("permuted heads", name, 0) for name in BESIDE]
    beside = [(kind, name, seed) for name, seeds in BESIDE.items() for seed in range(seeds) for kind in KINDS]
    return [*answerless, *beside]


def subject(case: Case) -> tuple[Any, Any, int]:
    """Model, task, and how many of the first heads of each layer are trained ones."""
    kind, name, seed = case
    if kind == "shuffled answers":
        ((_, model, true),) = trained_on_shuffled_answers(1, seed)
        return model, true, 0
    if kind == "untrained":
        _, model, task = untrained(ANSWERLESS[name == "retrieval"], seed)
        return model, task, 0
    loaded = load(ROOT / "checkpoints" / name)
    if kind == "permuted heads":
        return permuted_heads(loaded.model, seed), loaded.task, 0
    return weak(loaded, seed, KINDS[kind]), loaded.task, loaded.config.heads


def weak(loaded: Any, seed: int, looks: float) -> Any:
    """The model with untrained heads that write as loudly as it stands without answering otherwise."""
    batch = loaded.task.sample(EXAMPLES, stream(seed, Stream.NULLS, "answers"))

    def accuracy(model: Any) -> Any:
        return bench_of(model, loaded.task, batch, Thresholds()).baseline.accuracy

    wanted = KEEPS * accuracy(loaded.model)
    for halvings in range(HALVINGS):
        model = beside_untrained(loaded.model, loaded.config, loaded.task, MORE, seed, looks, 0.5**halvings)
        if bool((accuracy(model) >= wanted).all()):
            return model
    raise ConfigError(f"untrained heads must leave the answers as they are, these write {0.5**HALVINGS} and do not: a fault")


def slug(case: Case) -> str:
    """The name of a case's file."""
    return "_".join(map(str, case)).replace(" ", "-").replace(",", "")


def measured(case: Case) -> Rows:
    """The row of one model."""
    model, task, trained = subject(case)
    analysis = analyze(model, task, examples=EXAMPLES, explain=False, progress=False)
    null = [row for row in records(analysis.labels) if HeadId.parse(row["head"]).index >= trained]
    row: dict[str, Any] = dict(zip(("kind", "model", "seed"), case, strict=True))
    row |= {"heads": len({each["head"] for each in null}), "cells": len(null)}
    row["labels confirmed"] = sum(each["status"] == Status.CONFIRMED for each in null)
    try:
        found = analysis.selectors(examples=EXAMPLES, progress=False, fitted_to="attention")
    except ConfigError:  # nothing is answered
        row |= {"explained": 0, "level": None, "selectors": 0, "of trained heads confirmed": 0, **dict.fromkeys(Status, 0)}
    else:
        told = [each for each in records(found.table) if each["status"] is not None]
        own = [each for each in told if HeadId.parse(each["head"]).index < trained]
        statuses = Counter(each["status"] for each in told if each not in own)
        row |= {"explained": 1, "level": found.levels[-1], "selectors": sum(statuses.values())}
        row["of trained heads confirmed"] = sum(each["status"] == Status.CONFIRMED for each in own)
        row |= {status: statuses[status] for status in Status}
    return [row]


def table_of(rows: pd.DataFrame) -> str:
    """A line for each kind of null."""
    header = [
        "null",
        "models",
        "refused",
        "heads",
        "cells",
        "labels confirmed",
        "selectors",
        *Status,
        "of trained heads confirmed",
    ]
    lines = []
    for kind, group in rows.groupby("kind", sort=False):
        sums = [int(group[name].sum()) for name in header[3:]]
        lines.append([kind, len(group), int((group["explained"] == 0).sum()), *sums])
    return markdown(header, lines)


def main() -> None:
    """Run the script from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="measure first, and write the table")
    parser.add_argument("--workers", type=workers, default=2, help="processes")
    arguments = parser.parse_args()
    if arguments.write:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        every = cases()
        keeping(KEPT, {}, ROOT / "checkpoints", Path(__file__))
        with worker_pool(arguments.workers) as pool:
            parts = pool.map(kept, repeat(KEPT), map(slug, every), repeat(measured), every)
            rows = [row for part in tqdm(parts, total=len(every), desc="models", disable=None) for row in part]
        write_file(PATH, lambda temporary: pd.DataFrame(rows).to_csv(temporary, index=False))
    print(table_of(pd.read_csv(PATH)))


if __name__ == "__main__":
    main()
