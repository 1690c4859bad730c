"""The phases in which variable binding is learned (`variable_binding.py`): what answers are, and which snapshot is in which.

random       at least `CONSTANT` of the answers are constants, not each depth is right in `SOLVED`, and neither of the next two
             has begun.
heuristic    of the wrong answers that are constants of the program, `SOME` or more, more are that of the first or second line
             than if each were drawn evenly from the program's other constants (the lower end of Wilson's 95 % interval is above
             the mean of that), at this snapshot and at the one before or after it, and the next has not begun.
systematic   each depth is answered right in `SOLVED` or more, at this snapshot and all later ones, one or more.

So a phase says how wrong answers are made, until answers are right; how many are is told beside it. In a sweep a phase is
*shown* where more runs than a half go through it, by the exact binomial test, two-sided, at 5 %, *contradicted* where fewer do,
else *not shown*: with four runs nothing can be. So for their order, which a run has that goes through all three, each begun
before the next.

This was written down before the models were trained, but for four things that a reader found wanting when one run
(binding-dense, seed 10) had been looked at: wrong answers that are no constant of the program were counted with the others,
one wrong answer was enough, one snapshot was enough to be systematic, and Wilson's interval stood for the exact test.
"""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import binomtest

from stackheads.labelling.statistics import wilson
from stackheads.labelling.thresholds import Thresholds
from stackheads.tasks import Batch, Binding

CONSTANT, SOLVED = 0.95, Thresholds().emerged_accuracy
SOME = 20
"""Wrong answers from which on a share of them says something."""
LEVEL = 0.05
HOPS = (1, 2, 3, 4)
PHASES = ("random", "heuristic", "systematic")

Row = dict[str, Any]


def counted(task: Binding, batch: Batch, answers: torch.Tensor) -> Row:
    """What the answers at the query are, [batch]: counts, and the early share of the wrong ones of the program, if guessed."""
    right, depth = batch.targets[:, -1, 0], batch.target_hop[:, -1, 0]
    values = batch.tokens[:, 1:-1:2]
    constant = values >= task.n_variables
    last = constant.long().cumsum(dim=1).argmax(dim=1, keepdim=True)  # the first place where as many stand as at the end
    early = constant.clone()
    early[:, 2:] = False
    given = constant & (values == answers[:, None])
    other = constant & (values != right[:, None])
    wrong = answers != right
    named = wrong & given.any(dim=1)
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
        "wrong of the program": int(named.sum()),
        "wrong early": int((given & early).any(dim=1)[wrong].sum()),
        "by guessing": round(guessed[named].double().mean().item(), 6) if bool(named.any()) else None,
    }


def favours_early_lines(row: Row) -> bool:
    """Whether of the wrong answers that are constants of the program more are an early one than by guessing."""
    named = row["wrong of the program"]
    return named >= SOME and wilson(row["wrong early"], named, 0.95)[0] > row["by guessing"]


def phases(rows: Sequence[Row]) -> list[str | None]:
    """The phase of each snapshot of a run, in the order of steps; None for none of the three."""
    solved = [all(row[f"hop_{hop}"] >= SOLVED * row[f"asked_{hop}"] for hop in HOPS) for row in rows]
    favoured = [favours_early_lines(row) for row in rows]
    found: list[str | None] = []
    for at, row in enumerate(rows):
        beside = any(favoured[max(at - 1, 0) : at] + favoured[at + 1 : at + 2])
        if all(solved[at:]) and (at + 1 < len(rows) or "systematic" in found):
            found.append("systematic")
        elif favoured[at] and beside:
            found.append("heuristic")
        else:
            guessing = row["constant"] >= CONSTANT * row["programs"] and not solved[at]
            found.append("random" if guessing and "heuristic" not in found else None)
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
    if binomtest(runs, of, 0.5).pvalue >= LEVEL:
        return "not shown"
    return "shown" if 2 * runs > of else "contradicted"
