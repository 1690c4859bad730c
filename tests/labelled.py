"""Labels as plain text, to be compared. As a script: those of `EVERYTHING`, as JSON, for a process of its own."""

import json
import sys
from functools import partial

import pandas as pd
from constructed import TASK, model_of
from subjects import subject

from stackheads import analyze
from stackheads.types import HeadId
from stackheads.validation.further import SMALL
from stackheads.validation.specimens import Guise, specimen

COLUMNS = ("head", "destination", "status", "role", "hop")


def labelled(model, task, examples, seed):
    """The rows (status, role, hop) of every (head, destination); "-" where there is none."""
    table = analyze(model, task, examples=examples, seed=seed, explain=False, progress=False).labels
    found = {}
    for head, destination, *verdict in zip(*(table[name] for name in COLUMNS), strict=True):
        said = tuple("-" if pd.isna(part) else str(part) for part in verdict)
        found.setdefault((HeadId.parse(head), destination), set()).add(said)
    return found


def compiled(name, guise):
    made = specimen(name, SMALL[name](), guise)
    return made.model, made.task


def first():
    """Hop 1 is answered, hop 2 is not."""
    return model_of("first")[0], TASK


EVERYTHING = {
    "one hop per layer": (partial(compiled, "one hop per layer", Guise(seed=1)), 64, 0),
    "i: two hops": (partial(compiled, "i: two hops", Guise(seed=2, noise=0.1)), 64, 0),
    "d: split": (partial(compiled, "d: split", Guise(seed=3, normalization=None)), 32, 0),
    **{f"first, {n} examples, seed {seed}": (first, n, seed) for n in (64, 128) for seed in range(2)},
    "cycle-d4-l3": (partial(subject, "cycle-d4-l3"), 64, 0),
    "khop-k2-l3": (partial(subject, "khop-k2-l3"), 64, 0),
}
"""What is labelled on every processor: how it is made, on how many examples, with which seed."""


def everything():
    """The verdicts on each (head, destination), by the name of what was labelled."""
    found = {}
    for name, (make, examples, seed) in EVERYTHING.items():
        cells = labelled(*make(), examples, seed).items()
        found[name] = {f"{head} @{place}": sorted(map(" ".join, verdicts)) for (head, place), verdicts in cells}
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(everything()))
