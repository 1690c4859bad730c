"""Channel 3: does what the head carries from the attended source matter, and in the way the role predicts?

For a hop role, only the value vector of the one attended source is taken from the counterfactual at hop j, the pattern held:
z' = z + pattern[s] (v'[s] - v[s]). The readout must move towards the counterfactual's answer:
write = Σ (patched - clean) / Σ (counterfactual run - clean) of (logit of its answer - logit of the clean answer).
All counterfactuals j = 1..D are tried, since the source may hold later hops already. For a role `condition` the same is done
with the counterfactuals in which the condition of one link is the token that changes.

A counterfactual changes where links lead, not where they come from, so for the roles that look elsewhere (`previous`,
`duplicate`, `self`, `start`, and the hops j < 0, which bring what a position can be found by) the source's value vector comes
from a matched example, where the attended token differs, and write is the share of the margin gap that this destroys.

As in channel 2, counterfactual and readout are chosen on one half of the examples and estimated on the other.
Cost: one forward pass per counterfactual, or one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.analysis.cause import choose
from stackheads.analysis.readouts import Baseline, Scorer
from stackheads.analysis.roles import role_targets
from stackheads.analysis.statistics import Bootstrap, Estimate, halves, shares
from stackheads.analysis.thresholds import Thresholds
from stackheads.interventions import Recorded, destination_rows, rerun, source_edit
from stackheads.models.hooks import record_values
from stackheads.tasks import Batch, Operand, Task
from stackheads.types import Destination, HeadId, Role


@dataclass(frozen=True)
class Counterfactual:
    """A counterfactual at one operand of one hop: its batch, and the value vectors of the heads that are asked about.

    `start` and `goal` are the sums of (logit of its answer - logit of the clean answer) in the clean and in its own run.
    """

    hop: int
    operand: Operand
    batch: Batch
    v: dict[HeadId, Float[Tensor, "batch pos d_head"]]
    start: Float[Tensor, "example readout"]
    goal: Float[Tensor, "example readout"]


@dataclass(frozen=True)
class WriteEvidence:
    """What the attended source alone moves. `against`: it moves the answer away from where the role predicts."""

    share: Estimate
    passed: bool
    against: bool
    how: str


def write_evidence(
    model: Any,
    task: Task,
    clean: Recorded,
    scorer: Scorer,
    baseline: Baseline,
    counterfactuals: Sequence[Counterfactual],
    heads: Sequence[HeadId],
    destination: Destination,
    role: Role,
    boot: Bootstrap,
    thresholds: Thresholds,
) -> WriteEvidence:
    """Patch the attended source of these heads together at a destination."""
    targets = role_targets(task, clean.batch, [role])[0]
    rows = destination_rows(clean.batch, destination)
    if operand := rewired_operand(role):
        rewired = [other for other in counterfactuals if other.operand == operand]
        return _from_counterfactuals(model, clean, scorer, rewired, heads, rows, targets, boot, thresholds)
    return _from_matched(model, clean, scorer, baseline, heads, rows, targets, boot, thresholds)


def _from_counterfactuals(
    model: Any,
    clean: Recorded,
    scorer: Scorer,
    counterfactuals: Sequence[Counterfactual],
    heads: Sequence[HeadId],
    rows: Tensor,
    targets: Tensor,
    boot: Bootstrap,
    thresholds: Thresholds,
) -> WriteEvidence:
    moved, gap = [], []
    for other in counterfactuals:
        edits = [source_edit(clean, other.v[head], head, rows, targets) for head in heads]
        patched = scorer.towards(rerun(model, clean, edits, read=scorer.read), other.batch.targets)
        moved.append(patched - other.start)
        gap.append(other.goal - other.start)
    all_moved, all_gap = torch.stack(moved, dim=1), torch.stack(gap, dim=1)
    choosing, estimating = halves(len(all_moved))
    chosen = shares(all_moved[choosing], all_gap[choosing])
    best = int(chosen.argmax() if chosen.max() >= thresholds.min_write else chosen.abs().argmax())
    at = best // all_gap.shape[2], best % all_gap.shape[2]
    share = boot.share(all_moved[estimating, *at], all_gap[estimating, *at])
    rewired = counterfactuals[at[0]]
    link = f"hop {rewired.hop}" if rewired.operand == "value" else f"the {rewired.operand} of hop {rewired.hop}"
    how = f"its source from the counterfactual at {link} moves {scorer.readouts[at[1]]}"
    return WriteEvidence(share, share.above(thresholds.min_write), share.below(thresholds.min_write), how)


def _from_matched(
    model: Any,
    clean: Recorded,
    scorer: Scorer,
    baseline: Baseline,
    heads: Sequence[HeadId],
    rows: Tensor,
    targets: Tensor,
    boot: Bootstrap,
    thresholds: Thresholds,
) -> WriteEvidence:
    other = clean.batch.tokens[clean.partner]
    changed = targets & (other != clean.batch.tokens)[:, None, :]
    edits = [source_edit(clean, clean.run.of(head)[1][clean.partner], head, rows, changed) for head in heads]
    moved = baseline.clean.margin - scorer.score(rerun(model, clean, edits, read=scorer.read)).margin
    chosen = choose(moved, baseline, thresholds)
    if chosen is None:
        return WriteEvidence(Estimate(0.0, 0.0, 0.0), False, False, "there is no answer to destroy")
    estimating = halves(len(moved))[1]
    share = boot.share(moved[estimating, chosen], baseline.gap[estimating, chosen])
    how = f"its source from a matched example destroys {baseline.readouts[chosen]}"
    return WriteEvidence(share, share.above(thresholds.min_write), share.below(thresholds.min_write), how)


def rewired_operand(role: Role | None) -> Operand | None:
    """What a counterfactual must rewire to change what the role's source holds; None for roles whose source none changes."""
    if role is None or role.hop is None:
        return None
    if role.name == "condition":
        return "condition"
    return "value" if role.name == "hop" and role.hop > 0 else None


def run_counterfactuals(
    model: Any,
    task: Task,
    clean: Recorded,
    scorer: Scorer,
    heads: Iterable[HeadId],
    generator: torch.Generator,
    operand: Operand = "value",
) -> list[Counterfactual]:
    """One counterfactual for each hop that is asked at any readout's depth; value vectors of `heads` only are kept.

    None where there are no heads. Cost: one forward pass each.
    """
    needed = sorted(set(heads))
    if not needed:
        return []
    rewire: Any = task.counterfactual
    if operand != "value":  # tasks without operands need not know the argument
        rewire = partial(rewire, operand=operand)
    deepest = max(readout.hop for readout in scorer.readouts)
    device = clean.batch.tokens.device
    result = []
    for hop in range(1, deepest + 1):
        batch = rewire(clean.batch.to("cpu"), hop, generator).to(device)
        changed, v = record_values(model, batch.tokens)
        start, goal = (scorer.towards(logits, batch.targets) for logits in (clean.run.logits, changed))
        kept = {head: v[head.layer, :, :, head.index].clone() for head in needed}
        result.append(Counterfactual(hop, operand, batch, kept, start, goal))
    return result
