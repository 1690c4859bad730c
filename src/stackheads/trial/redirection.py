"""Prediction: point a hop-j head at find^j' instead, and the answer must become the one that its label predicts.

All confirmed hop-j heads of one destination, in whatever layer, are pointed at find^j' together. What has to follow is computed
from the labels alone: the program read off them is compiled (`explanation/program.py`) and the same steps are pointed at the
same sources. Where the program then gives a clear answer that differs from the one it gives untouched, the trained model must
give the new answer too (`changed`); where it is the same, the model must keep it (`kept`). A readout that the program does not
answer like the model when nothing is redirected is predicted by nothing, and counts as `unpredicted`. Where no program could be
compiled nothing is predicted and nothing tried; so it is with a hop whose steps the program leaves out, and with heads that no
answer at the query can hear of, at value slots in the last layer.

Cost: for each (hop, destination, new hop) one forward pass of the model and one of the program.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from stackheads.explanation.ideal import evenly
from stackheads.explanation.program import Extracted, compiled
from stackheads.interventions import Recorded, destination_rows, recorded, rerun
from stackheads.labelling.bench import Bench, Label
from stackheads.labelling.roles import role_targets
from stackheads.models.hooks import Edit, PatternEdit
from stackheads.tasks import Batch, StatementTask
from stackheads.types import NOWHERE, Destination, HeadId, Role

CLEAR_LEAD = 6.0
"""Half of the logit that a compiled program gives a right answer: below this lead over the next it predicts nothing."""
ANSWERS_LIKE_IT = 0.9
"""Share of examples on which program and model must agree untouched before the program's prediction means anything."""
COLUMNS = ["hop", "destination", "to", "readout", "changed", "fulfilled", "kept", "held", "unpredicted"]


def redirection(bench: Bench, labels: Sequence[Label], extracted: Extracted | None) -> pd.DataFrame:
    """One row per redirected hop and query readout.

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
    for hop, destination, to in _experiments(task, labels):
        heads = [label.head for label in labels if _is(label, hop, destination)]
        program_heads = [
            head
            for (_, role, place), several in program.heads.items()
            if (role, place) == (Role("hop", hop), destination)
            for head in several
        ]
        heard = destination == Destination.QUERY or any(head.layer < last for head in heads)
        if not heard or not program_heads:
            continue
        model_edits = _pointed(bench.clean, task, heads, destination, to)
        program_edits = _pointed(program_clean, task, program_heads, destination, to)
        found = _answers(task, bench.run(model_edits), batch, 0.0)
        expected = _answers(task, rerun(program.model, program_clean, program_edits), batch, CLEAR_LEAD)
        clear = (expected != NOWHERE) & (before == model_before) & _reachable(task, batch, destination, to)[:, None]
        for number, readout in enumerate(task.readout_hops):
            changed = clear[:, number] & (expected != before)[:, number]
            kept = clear[:, number] & (expected == before)[:, number]
            right = (found == expected)[:, number]
            rows.append(
                {
                    "hop": hop,
                    "destination": str(destination),
                    "to": to,
                    "readout": readout,
                    "changed": int(changed.sum()) if like[number] else 0,
                    "fulfilled": _share(right, changed) if like[number] else None,
                    "kept": int(kept.sum()) if like[number] else 0,
                    "held": _share(right, kept) if like[number] else None,
                    "unpredicted": not bool(like[number]),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def _experiments(task: StatementTask, labels: Sequence[Label]) -> list[tuple[int, Destination, int]]:
    """(hop, destination, new hop): every confirmed hop at query and value, one further and one less where there are maps."""
    found = sorted(
        {
            (label.role.hop, label.destination)
            for label in labels
            if label.status == "confirmed" and label.role is not None and label.role.name == "hop" and label.gate is None
            if label.role.hop is not None and label.destination != Destination.KEY
        }
    )
    return [(hop, where, to) for hop, where in found for to in (hop - 1, hop + 1) if to != 0 and to in task.hops]


def _is(label: Label, hop: int, destination: Destination) -> bool:
    confirmed = label.status == "confirmed" and label.gate is None
    return confirmed and label.role == Role("hop", hop) and label.destination == destination


def _pointed(clean: Recorded, task: StatementTask, heads: Sequence[HeadId], destination: Destination, to: int) -> list[Edit]:
    targets = role_targets(task, clean.batch, [Role("hop", to)])[0]
    rows = destination_rows(clean.batch, destination) & targets.any(dim=-1)
    pattern = evenly(targets, clean.run.z.dtype)
    return [PatternEdit(head, rows, pattern) for head in heads]


def _reachable(task: StatementTask, batch: Batch, destination: Destination, to: int) -> Tensor:
    """Examples in which the new source exists, where the query itself is redirected."""
    if destination != Destination.QUERY:
        return torch.ones(len(batch), dtype=torch.bool)
    return batch.find[:, list(task.hops).index(to), -1].cpu() >= 0


def _answers(
    task: StatementTask, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch, lead: float
) -> Int[Tensor, "example readout"]:
    """The answers at the query, NOWHERE where the best does not lead the next by `lead`."""
    top = task.readout(logits, batch)[:, -1].topk(2, dim=-1)
    clear = top.values[..., 0] - top.values[..., 1] >= lead
    return top.indices[..., 0].where(clear, NOWHERE).cpu()


def _share(right: Tensor, among: Tensor) -> float | None:
    return (right & among).sum().item() / int(among.sum()) if bool(among.any()) else None
