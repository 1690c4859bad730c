"""Attention of the labelled heads on a few examples, as plain values for the page.

The examples are the first of those that the labels were made on; patterns are rounded to whole per cents. Shown are the heads
with a confirmed label, and all heads where there is none.
"""

from typing import Any

import torch
from torch import Tensor

from stackheads.interventions import destination_rows
from stackheads.labelling.roles import role_targets
from stackheads.limits import check_number
from stackheads.models.hooks import record
from stackheads.record import NOT_AT_HAND, Record
from stackheads.report.tokens import symbol_as_text, tokens_as_text
from stackheads.tables import place_of, records, role_of
from stackheads.tasks import Batch, Task, labelling_batch
from stackheads.types import IGNORE, HeadId, Slot

MAX_TOKENS = 128
"""A map of more is neither readable nor quick to draw."""
MAX_CELLS = 500_000
"""Values in the page, about two characters each: first examples are left out, then heads."""


def attention_data(analysis: Record, examples: int) -> dict[str, Any]:
    """What the page draws: `examples` (tokens, slots, answers) and `heads` (name, labels; per example pattern and targets).

    `note` says in a sentence what is not there, and why. Raises `ConfigError` if `examples` is negative.
    """
    examples = check_number("examples", examples, 0, cure="ask for 8")
    if examples == 0:
        return _nothing("No example was asked for.")
    if (subject := analysis.at_hand) is None:
        return _nothing(f"{NOT_AT_HAND}, so there is no attention to show.")
    model, task = subject
    if task.n_ctx > MAX_TOKENS:
        return _nothing(f"Attention is drawn for examples of up to {MAX_TOKENS} tokens; these have {task.n_ctx}.")
    heads, note = _shown_heads(analysis)
    room = MAX_CELLS // task.n_ctx**2
    kept, count = heads[:room], min(examples, analysis.examples, max(1, room // len(heads)))
    if len(kept) < len(heads):
        note = f"{note} The first {len(kept)} of {len(heads)} heads are shown.".strip()
    batch = labelling_batch(task, analysis.examples, analysis.seed)[:count]
    placed = batch.to(next(model.parameters()).device)
    run = record(model, placed.tokens, placed.pads)
    shares = (run.pattern.float().cpu() * 100).round().int()
    return {
        "note": note,
        "examples": _examples(task, batch, run.logits.cpu()),
        "heads": [
            {
                "head": str(head),
                "labels": [f"{role_of(row)} @{place_of(row)}" for row in rows],
                "patterns": shares[head.layer, :, head.index].tolist(),
                "targets": _targets(task, batch, rows),
            }
            for head, rows in kept
        ],
    }


def _nothing(note: str) -> dict[str, Any]:
    return {"note": note, "examples": [], "heads": []}


def _shown_heads(analysis: Record) -> tuple[list[tuple[HeadId, list[dict[str, Any]]]], str]:
    """Heads with the rows of their confirmed labels, and a note where there are none."""
    rows = records(analysis.labels)
    confirmed = [row for row in rows if row["status"] == "confirmed" and row["role"] is not None]
    names = dict.fromkeys(row["head"] for row in confirmed or rows)
    note = "" if confirmed else "No head is confirmed in any role, so all heads are shown."
    return [(HeadId.parse(name), [row for row in confirmed if row["head"] == name]) for name in names], note


def _targets(task: Task, batch: Batch, rows: list[dict[str, Any]]) -> list[list[list[int]]]:
    """Per example and position, the sources that the head's labels name there."""
    named = torch.zeros(*batch.tokens.shape, batch.tokens.shape[1], dtype=torch.bool)
    for row in rows:
        at = destination_rows(batch, place_of(row))
        role = role_of(row)
        if role is not None:
            named |= role_targets(task, batch, [role])[0] & at[:, :, None]
    return [[line.nonzero().flatten().tolist() for line in example] for example in named]


def _examples(task: Task, batch: Batch, logits: Tensor) -> list[dict[str, Any]]:
    """Tokens as text, their slots, and what is asked at the query, with the right answer and the model's."""
    given = task.readout(logits, batch).argmax(dim=-1)
    found = []
    for number, tokens in enumerate(tokens_as_text(task, batch)):
        asked = [
            {"hop": int(hop), "right": int(right), "given": int(answer)}
            for position in (batch.slots[number] == Slot.QUERY).nonzero().flatten().tolist()
            for hop, right, answer in zip(
                batch.target_hop[number, position], batch.targets[number, position], given[number, position], strict=True
            )
            if int(right) != IGNORE
        ]
        slots = [Slot(slot).name.lower() for slot in batch.slots[number].tolist()]
        found.append({"tokens": tokens, "slots": slots, "answers": [_named(task, answer) for answer in asked]})
    return found


def _named(task: Task, answer: dict[str, int]) -> dict[str, Any]:
    """An answer with its symbols as text; they are written like values."""
    return {"hop": answer["hop"], **{which: symbol_as_text(task, answer[which]) for which in ("right", "given")}}
