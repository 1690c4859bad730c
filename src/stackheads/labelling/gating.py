"""Heads whose role depends on what the looking position knows: a row for each part of a destination (docs/method/evidence.md).

A task names what a position may know (`Batch.gates`: the hops asked for, its own symbol). Where a head has one role at some
values of a gate and another one, or none, at the others, its cell is divided:

1. *Chosen* on every second example: for each value the role with the largest lead, if it reaches `pattern_margin`; values of
   one role are one part, if the role takes `min_gain` of the head's attention at the destination there. Of several gates the
   one whose parts lead by most is taken.
2. *Judged* on the other examples, each part like any other row (`patterns.py`), and the rest; corrected for all rows that are
   judged. A cell may be divided if two parts have different roles, or if in the rest the one role takes less than a third of
   the attention that it takes in its part: a role that is more or less sharp has no gate.
3. *Taken* (`settled`) when cause and write of parts and whole are known, if some part is confirmed or opposing: how a head that
   does nothing divides its attention is nothing to report. Heads that matter only together are looked for undivided.

What belongs to no part is a part of its own, so that the rows of a cell are always all of its positions. No forward pass.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import Recorded, destination_rows, recorded
from stackheads.labelling.patterns import Looking, PatternEvidence, looking
from stackheads.labelling.statistics import Resampling, brought
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, Evidence, pattern_answer, status
from stackheads.models.hooks import analysing
from stackheads.models.protocol import Model
from stackheads.tasks import Task, check_gates, gates, labelling_batch
from stackheads.types import Destination, Gate, HeadId, Status, Where, where

CHOOSING = 8
"""A value's role is chosen on so many times fewer rows and examples than a row is judged on: several values make a part."""

REST = 1 / 3
"""A role that takes so much less of the attention where it does not lead is not there."""

BY_GATE = ["head", "layer", "destination", "gate", "value", "role", "hop", "mass", "leads", "rows"]
"""Columns of `by_gate`."""

Found = dict[tuple[HeadId, Where], PatternEvidence]
At = tuple[Int[Tensor, "row"], Int[Tensor, "row"]]
"""Examples and positions of rows."""


@dataclass(frozen=True)
class _Leading:
    """The number of the role that leads by enough at some rows, None if none does.

    `taken` is the attention that it takes and `margin` that by which it leads, both summed over its rows.
    """

    role: int | None = None
    taken: float = 0.0
    margin: float = 0.0


@dataclass(frozen=True)
class _Leads:
    """Of some rows: how much of each head's attention lies on each role's sources, and by how much that role leads.

    `taken` is attention summed over the role's own rows, of which there are `number`; the lead is -inf where a role is not
    judged.
    """

    number: Float[Tensor, "role"]
    taken: Float[Tensor, "role head"]
    lead: Float[Tensor, "role head"]


def gated_patterns(
    task: Task, clean: Recorded, destinations: Sequence[Destination], draws: Resampling, thresholds: Thresholds
) -> Found:
    """The patterns of all cells, and of the parts of those whose role depends on a gate; by destination, head, first value."""
    check_gates(task, clean.batch, fitted=False)
    looks = looking(task, clean)
    parts = {place: _parts(looks, clean, place, thresholds) for place in destinations}
    # of a divided cell each part, and the rest if there is one
    judged = sum(len(some) + 1 for of_heads in parts.values() for some in of_heads.values())
    tests = len(looks.heads) * len(parts) + judged
    found: Found = {}
    for place in destinations:
        rows = destination_rows(clean.batch, place)
        whole = looks.evidence(rows, looks.heads, tests, draws, thresholds)
        held_out = rows & ~_choosing(clean)[:, None]
        for head in looks.heads:
            found[head, place] = whole[head]
            divided = _judged(looks, clean, held_out, head, parts[place].get(head, []), (tests, draws, thresholds))
            if _may_divide(list(divided.values()), thresholds):
                found |= {(head, where(place, gate)): item for gate, item in divided.items()}
    return found


def settled(evidence: Sequence[Evidence], thresholds: Thresholds) -> list[Evidence]:
    """Each cell as a whole or in parts, of which all evidence is given: in parts if one of them is confirmed or opposing."""
    told = (Status.CONFIRMED, Status.OPPOSING)
    divided = {(item.head, item.destination) for item in evidence if item.gate and status(item, thresholds) in told}
    return [item for item in evidence if (item.gate is not None) == ((item.head, item.destination) in divided)]


def by_gate(model: Model, task: Task, examples: int, seed: int, thresholds: Thresholds) -> pd.DataFrame:
    """How much of each head's attention lies on each role's sources, for each value of each gate, on the labels' examples.

    One row each: head, layer, destination, gate, value, role, hop, mass (mean over the positions where the role has a source
    that is no other role's), leads (whether this beats every other role and even attention by `pattern_margin`), rows (how many
    positions). Left out is what stands on less than an eighth of the positions and examples that a label needs. Cost: one
    forward pass.
    """
    batch = labelling_batch(task, examples, seed).to(next(model.parameters()).device)
    check_gates(task, batch, fitted=False)
    with analysing(model):
        clean = recorded(model, batch)
    looks, found = looking(task, clean), []
    for place in Destination:
        at = destination_rows(batch, place)
        for name, known in gates(batch).items():
            for value, where_known in _by_value(known, at).items():
                leads = _leads(looks, at & (known == value), where_known, thresholds)
                where_from = {"destination": str(place), "gate": name, "value": value}
                found += [where_from | row for row in _by_role(looks, leads, thresholds)]
    found.sort(key=lambda row: (HeadId.parse(row["head"]), row["gate"]))
    return pd.DataFrame(found, columns=BY_GATE).astype({"hop": "Int64"})


def _by_role(looks: Looking, leads: _Leads, thresholds: Thresholds) -> Iterator[dict[str, Any]]:
    for number, role in enumerate(looks.roles):
        count = int(leads.number[number])
        for head, taken, lead in zip(looks.heads, leads.taken[number].tolist(), leads.lead[number].tolist(), strict=True):
            if lead > -math.inf:
                row: dict[str, Any] = {"head": str(head), "layer": head.layer, "role": role.name, "hop": role.hop}
                yield row | {"mass": taken / count, "leads": lead >= thresholds.pattern_margin, "rows": count}


def _choosing(clean: Recorded) -> Bool[Tensor, "batch"]:
    """The examples on which parts are chosen: every second one."""
    return torch.arange(len(clean.batch), device=clean.batch.tokens.device) % 2 == 0


def _parts(looks: Looking, clean: Recorded, destination: Destination, thresholds: Thresholds) -> dict[HeadId, list[Gate]]:
    """The parts of each head's destination that may have roles of their own; heads without any are left out."""
    rows = destination_rows(clean.batch, destination) & _choosing(clean)[:, None]
    total = int(rows.sum())
    chosen: dict[int, tuple[float, list[Gate]]] = {number: (0.0, []) for number in range(len(looks.heads))}
    for name, known in gates(clean.batch).items():
        at = _by_value(known, rows)
        values = list(at)
        leads = brought([_leading(_leads(looks, rows & (known == value), at[value], thresholds)) for value in values])
        of_values = [[_led(head, thresholds) for head in each] for each in leads]
        for number, (before, _) in chosen.items():
            found: dict[int, list[tuple[int, _Leading]]] = {}
            for value, heads in zip(values, of_values, strict=True):
                if (role := heads[number].role) is not None:
                    found.setdefault(role, []).append((value, heads[number]))
            large = [part for part in found.values() if sum(best.taken for _, best in part) >= thresholds.min_gain * total]
            margin = sum(best.margin for part in large for _, best in part)
            if large and len(large[0]) < len(values) and margin > before:
                chosen[number] = margin, [Gate(name, tuple(value for value, _ in part)) for part in large]
    return {looks.heads[number]: parts for number, (_, parts) in chosen.items() if parts}


def _leading(leads: _Leads) -> Float[Tensor, "head 4"]:
    """Of each head the largest lead, its role's number, and what that takes and leads by, summed."""
    lead, role = leads.lead.max(dim=0)
    taken = leads.taken.gather(0, role[None])[0]
    margin = lead.clamp(min=0.0) * leads.number[role]
    return torch.stack([lead, role.to(lead.dtype), taken, margin], dim=1)


def _led(head: Float[Tensor, "4"], thresholds: Thresholds) -> _Leading:
    """What leads by enough."""
    lead, role, taken, margin = head.tolist()
    return _Leading(int(role), taken, margin) if lead >= thresholds.pattern_margin else _Leading()


def _by_value(known: Int[Tensor, "batch pos"], rows: Bool[Tensor, "batch pos"]) -> dict[int, At]:
    """The rows at which a gate has each value, in their order."""
    example, position = rows.nonzero().unbind(dim=1)
    own = known[example, position]
    values, counts = torch.stack(own.unique(return_counts=True)).tolist()
    order = own.argsort(stable=True).split(counts)
    return {value: (example[some], position[some]) for value, some in zip(values, order, strict=True)}


def _leads(looks: Looking, rows: Bool[Tensor, "batch pos"], at: At, thresholds: Thresholds) -> _Leads:
    """Only these rows, which stand `at`, are looked at, so that all values of a gate together cost as much as one look at the
    whole.
    """
    example, position = at
    maps = looks.maps
    own = maps.distinct[:, example, position].double()  # [role, row]: where a role's source exists and is no other's
    taken = torch.einsum("rn,thn->rth", own, maps.mass[:, :, example, position].double())  # [role, rival, head]
    number = own.sum(dim=1)
    uniform = (own * maps.uniform[:, example, position]).sum(dim=1)[:, None].expand(-1, taken.shape[2])
    mine = taken.diagonal(dim1=0, dim2=1).T  # [role, head]
    rivals = taken.clone()
    rivals.diagonal(dim1=0, dim2=1).fill_(-1.0)
    lead = (mine - torch.maximum(rivals.amax(dim=1), uniform)) / number.clamp(min=1)[:, None]
    examples = torch.zeros(len(own), len(rows), dtype=own.dtype, device=own.device).index_add_(1, example, own)
    asked = (examples > 0).sum(dim=1)
    enough = (number >= thresholds.min_rows / CHOOSING) & (asked >= thresholds.min_asked / CHOOSING)
    still = maps.stands_still(rows) & ~looks.positional_at(rows)
    return _Leads(number, mine, lead.where((enough & ~still)[:, None], -torch.inf))


def _judged(
    looks: Looking,
    clean: Recorded,
    rows: Bool[Tensor, "batch pos"],
    head: HeadId,
    parts: Sequence[Gate],
    how: tuple[int, Resampling, Thresholds],
) -> dict[Gate, PatternEvidence]:
    """The evidence of each part whose role holds on the held-out `rows`, and of the rest, by first value."""
    if not parts:
        return {}
    known, thresholds = gates(clean.batch)[parts[0].name], how[2]

    def evidence(gate: Gate) -> PatternEvidence:
        at = torch.isin(known, torch.tensor(gate.values, device=known.device))
        return looks.evidence(rows & at, [head], *how)[head]

    found = {gate: evidence(gate) for gate in parts}
    found = {gate: item for gate, item in found.items() if pattern_answer(item, thresholds) == Answer.YES}
    taken = {value for gate in found for value in gate.values}
    rest = tuple(value for value in known[rows].unique().tolist() if value not in taken)
    if found and rest:
        gate = Gate(parts[0].name, rest)
        found[gate] = evidence(gate)
    return dict(sorted(found.items(), key=lambda item: item[0].values))


def _may_divide(parts: Sequence[PatternEvidence], thresholds: Thresholds) -> bool:
    """Whether the parts have different roles, or the one role that there is takes far less of the attention in the rest."""
    having = [part for part in parts if pattern_answer(part, thresholds) == Answer.YES]
    roles = {part.role for part in having if part.role is not None}
    if len(roles) != 1:
        return len(roles) > 1
    role, rest = roles.pop(), [part for part in parts if part not in having]
    return bool(rest) and all(part.masses.get(role, 1.0) < REST * having[0].mass for part in rest)
