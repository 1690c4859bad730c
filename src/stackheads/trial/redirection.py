"""Prediction: point a hop-j head at find^j' instead, and the answer must become the one that its label predicts.

All confirmed hop-j heads of one destination, in whatever layer, are pointed at find^j' together; so are those of `key j`, at
another key. What has to follow is computed from the labels alone: the program read off them is compiled
(`explanation/program.py`) and the same steps are pointed at the same sources. Where the program then gives a clear answer that
differs from the one it gives untouched, the trained model must give the new answer too (`changed`); where it is the same, the
model must keep it (`kept`). A readout that the program does not answer like the model when nothing is redirected is predicted
by nothing, and counts as `unpredicted`. Where no program could be compiled nothing is predicted and nothing tried; so it is
with a hop whose steps the program leaves out, and with heads that no answer at the query can hear of, at value slots in the
last layer.

Cost: for each (role, destination, new role) one forward pass of the model and one of the program.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.explanation.ideal import evenly
from stackheads.explanation.program import Extracted, compiled
from stackheads.interventions import Recorded, destination_rows, recorded, rerun
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.models.hooks import Edit, PatternEdit
from stackheads.programs.program import WALKED
from stackheads.tasks import Batch, StatementTask
from stackheads.types import NOWHERE, Destination, HeadId, Role

CLEAR_LEAD = 6.0
"""Half of the logit that a compiled program gives a right answer: below this lead over the next it predicts nothing."""
ANSWERS_LIKE_IT = 0.9
"""Share of examples on which program and model must agree untouched before the program's prediction means anything."""
COLUMNS = ["role", "hop", "destination", "to", "readout", "changed", "fulfilled", "kept", "held", "unpredicted"]


def redirection(bench: Bench, labels: Sequence[Label], extracted: Extracted | None) -> pd.DataFrame:
    """One row per redirected role and query readout.

    `changed` examples for which the program predicts another answer, `fulfilled` the share of them on which the model gives it;
    `kept` examples for which it predicts the same answer, `held` the share of them on which the model keeps it; `unpredicted`
    True where the program does not answer this readout like the model in the first place.
    """
    if extracted is None or not extracted.program.steps or not isinstance(bench.task, StatementTask):
        return pd.DataFrame(columns=COLUMNS)
    task, batch = bench.task, bench.clean.batch
    program = compiled(extracted, task)
    program_clean = recorded(program.model, batch.to("cpu"))
    model_before = _answers(task, bench.clean.run.logits, batch, 0.0)
    before = _answers(task, program_clean.run.logits, batch, CLEAR_LEAD)
    like = (before == model_before).double().mean(dim=0) >= ANSWERS_LIKE_IT
    rows = []
    last = bench.clean.run.z.shape[0] - 1
    for pointed, destination, new in _experiments(task, labels, batch):
        heads = [label.head for label in labels if _is(label, pointed, destination)]
        program_heads = [
            head
            for (_, role, place), several in program.heads.items()
            if (role, place) == (pointed, destination)
            for head in several
        ]
        heard = destination == Destination.QUERY or any(head.layer < last for head in heads)
        if not heard or not program_heads:
            continue
        model_edits = _pointed(bench.clean, task, heads, destination, new)
        program_edits = _pointed(program_clean, task, program_heads, destination, new)
        found = _answers(task, bench.run(model_edits), batch, 0.0)
        expected = _answers(task, rerun(program.model, program_clean, program_edits), batch, CLEAR_LEAD)
        clear = (expected != NOWHERE) & (before == model_before) & _reachable(task, batch, destination, new)[:, None]
        for number, readout in enumerate(task.readout_hops):
            changed = clear[:, number] & (expected != before)[:, number]
            kept = clear[:, number] & (expected == before)[:, number]
            right = (found == expected)[:, number]
            rows.append(
                {
                    "role": pointed.name,
                    "hop": pointed.hop,
                    "destination": str(destination),
                    "to": new.hop,
                    "readout": readout,
                    "changed": int(changed.sum()) if like[number] else 0,
                    "fulfilled": _share(right, changed) if like[number] else None,
                    "kept": int(kept.sum()) if like[number] else 0,
                    "held": _share(right, kept) if like[number] else None,
                    "unpredicted": not bool(like[number]),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _experiments(task: StatementTask, labels: Sequence[Label], batch: Batch) -> list[tuple[Role, Destination, Role]]:
    """(role, destination, new role): every confirmed hop at query and value, and key, one further and one less if there is one.

    Not a key's own value, which stands in no other place; and nowhere to where no row of a place has a source.
    """
    found = {
        (label.role, label.destination)
        for label in labels
        if label.status == "confirmed" and label.role is not None and label.role.name in WALKED and label.gate is None
        if label.role.name == "key" or label.destination != Destination.KEY
    }
    rows = {place: destination_rows(batch, place)[:, :, None] for _, place in found}

    def is_there(role: Role, place: Destination) -> bool:
        return bool((role_targets(task, batch, [role])[0] & rows[place]).any())

    there = candidate_roles(task)
    ordered = sorted(found, key=lambda each: (each[0].name, each[0].hop or 0, each[1]))
    pairs = [(role, where, replace(role, hop=(role.hop or 0) + by)) for role, where in ordered for by in (-1, 1)]
    return [(role, where, new) for role, where, new in pairs if new in there and is_there(new, where)]


def _is(label: Label, role: Role, destination: Destination) -> bool:
    return label.status == "confirmed" and label.gate is None and (label.role, label.destination) == (role, destination)


def _pointed(clean: Recorded, task: StatementTask, heads: Sequence[HeadId], destination: Destination, to: Role) -> list[Edit]:
    targets = role_targets(task, clean.batch, [to])[0]
    rows = destination_rows(clean.batch, destination) & targets.any(dim=-1)
    pattern = evenly(targets, clean.run.z.dtype)
    return [PatternEdit(head, rows, pattern) for head in heads]


def _reachable(task: StatementTask, batch: Batch, destination: Destination, to: Role) -> Tensor:
    """Examples in which the new source exists, where the query itself is redirected."""
    if destination != Destination.QUERY:
        return torch.ones(len(batch), dtype=torch.bool)
    return role_targets(task, batch, [to])[0, :, -1].any(dim=-1).cpu()


def _answers(
    task: StatementTask, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch, lead: float
) -> Int[Tensor, "example readout"]:
    """The answers at the query, NOWHERE where the best does not lead the next by `lead`."""
    top = task.readout(logits, batch)[:, -1].topk(2, dim=-1)
    clear = top.values[..., 0] - top.values[..., 1] >= lead
    return top.indices[..., 0].where(clear, NOWHERE).cpu()


def _share(right: Tensor, among: Tensor) -> float | None:
    return (right & among).sum().item() / int(among.sum()) if bool(among.any()) else None
