"""The phases in which variable binding is learned (`variable_binding.py`): what answers are, and which snapshot is in which.

All was fixed before the models were trained.

random       at least `CONSTANT` of the answers are constants, and neither of the next two holds.
heuristic    of the wrong answers more are the constant of the first or the second line than if each were drawn evenly from the
             program's other constants (the lower end of Wilson's 95 % interval is above the mean of that), at this snapshot and
             at the one before or after it, and the next does not hold.
systematic   each depth is answered right in `SOLVED` or more, at this snapshot and all later ones.

A phase is *shown* in a sweep where the lower end of Wilson's 95 % interval of the share of runs that go through it is above a
half, *contradicted* where its upper end is below, else *not shown*; so for their order, which a run has that goes through all
three, each begun before the next.
"""

from collections.abc import Sequence
from typing import Any

import torch

from stackheads.labelling.statistics import wilson
from stackheads.labelling.thresholds import Thresholds
from stackheads.tasks import Batch, Binding

CONSTANT, SOLVED = 0.95, Thresholds().emerged_accuracy
HOPS = (1, 2, 3, 4)
PHASES = ("random", "heuristic", "systematic")

Row = dict[str, Any]


def counted(task: Binding, batch: Batch, answers: torch.Tensor) -> Row:
    """What the answers at the query are, [batch]: counts, and of the wrong ones the early share that guessing would give."""
    right, depth = batch.targets[:, -1, 0], batch.target_hop[:, -1, 0]
    values = batch.tokens[:, 1:-1:2]
    constant = values >= task.n_variables
    last = constant.long().cumsum(dim=1).argmax(dim=1, keepdim=True)  # the first place where as many stand as at the end
    early = constant.clone()
    early[:, 2:] = False
    given = constant & (values == answers[:, None])
    other = constant & (values != right[:, None])
    wrong = answers != right
    guessed = (early & other).sum(dim=1) / other.sum(dim=1).clamp(min=1)
    return {
        "programs": len(batch),
        **{f"hop_{hop}": int((~wrong & (depth == hop)).sum()) for hop in HOPS},
        **{f"asked_{hop}": int((depth == hop).sum()) for hop in HOPS},
        "right": int((~wrong).sum()),
        "constant": int((answers >= task.n_variables).sum()),
        "of the program": int(given.any(dim=1).sum()),
        "first": int(given[:, 0].sum()),
        "second": int(given[:, 1].sum()),
        "last": int(given.gather(1, last).sum()),
        "wrong": int(wrong.sum()),
        "wrong early": int((given & early).any(dim=1)[wrong].sum()),
        "wrong first": int(given[wrong, 0].sum()),
        "wrong by guessing": round(guessed[wrong].double().mean().item(), 6) if bool(wrong.any()) else None,
    }


def favours_early_lines(row: Row) -> bool:
    """Whether of the wrong answers more are an early constant than by guessing."""
    return row["wrong"] > 0 and wilson(row["wrong early"], row["wrong"], 0.95)[0] > row["wrong by guessing"]


def phases(rows: Sequence[Row]) -> list[str | None]:
    """The phase of each snapshot of a run, in the order of steps; None for none of the three."""
    solved = [all(row[f"hop_{hop}"] >= SOLVED * row[f"asked_{hop}"] for hop in HOPS) for row in rows]
    systematic = [all(solved[at:]) for at in range(len(rows))]
    favoured = [favours_early_lines(row) for row in rows]
    found: list[str | None] = []
    for at, row in enumerate(rows):
        beside = any(favoured[max(at - 1, 0) : at] + favoured[at + 1 : at + 2])
        if systematic[at]:
            found.append("systematic")
        elif favoured[at] and beside:
            found.append("heuristic")
        else:
            found.append("random" if row["constant"] >= CONSTANT * row["programs"] else None)
    return found


def better_from(rows: Sequence[Row], hop: int, than: Row) -> int | None:
    """The step from which on a depth is answered better than so, by the lower end of the interval; None if not at the end."""
    found = None
    for row in reversed(rows):
        if wilson(row[f"hop_{hop}"], row[f"asked_{hop}"], 0.95)[0] <= than[f"hop_{hop}"] / than[f"asked_{hop}"]:
            break
        found = row["step"]
    return found


def spans(rows: Sequence[Row]) -> dict[str, list[int]]:
    """The steps of the snapshots in each phase."""
    return {phase: [row["step"] for row in rows if row["phase"] == phase] for phase in PHASES}


def in_order(rows: Sequence[Row]) -> bool:
    """Whether a run goes through all three phases, each begun before the next."""
    begun = [steps[0] if steps else None for steps in spans(rows).values()]
    return None not in begun and begun == sorted(set(begun))


def verdict(runs: int, of: int) -> str:
    """What the rule says of something that so many runs show."""
    low, high = wilson(runs, of, 0.95)
    return "shown" if low > 0.5 else "contradicted" if high < 0.5 else "not shown"
