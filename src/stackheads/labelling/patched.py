"""What heads' outputs, patched with what their sources hold in counterfactuals, move: for channel 3 (`write.py`).

A pair of counterfactual and example is run where it may tell of a readout that the model answers: the patch changes what a head
gives, and the counterfactual the answer of that readout. Edits of all questions about a part of the pairs are made together, so
that a device is waited for once for each part. Cost: as `rewired.py`, and at most one forward pass for each question and
counterfactual, on the examples that it changes.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.interventions import destination_rows, rerun, source_edit
from stackheads.interventions.engine import edit_of, fitting
from stackheads.labelling.bench import Bench
from stackheads.labelling.rewired import Part, counterfactuals
from stackheads.labelling.roles import role_targets
from stackheads.labelling.statistics import brought, mean_interval
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.forwards.rows import look_through, marked
from stackheads.models.hooks import CarryEdit, Edit
from stackheads.tasks import Batch, Operand, Task
from stackheads.types import NOWHERE, HeadId, Role, Where, destination_of


@dataclass(frozen=True)
class Question:
    """Does what these heads carry together, from the sources of this role to this destination, matter?"""

    heads: tuple[HeadId, ...]
    destination: Where
    role: Role


@dataclass(frozen=True)
class Pairs:
    """What was tried about one question, a column for each pair of patch and readout: what the patch moved of what there is to
    move, in which examples that counts, of which readout, and in words.

    `ever` are the readouts of which any example could show something, `acts` the examples in which a patch changed anything.
    """

    moved: Float[Tensor, "example pair"]
    gap: Float[Tensor, "example pair"]
    counted: Bool[Tensor, "example pair"]
    readouts: tuple[int, ...]
    names: tuple[str, ...]
    ever: Bool[Tensor, "readout"]
    acts: Bool[Tensor, "example"]


@dataclass(frozen=True)
class _Tried:
    """What counterfactuals answer to a question: by how much the patch moves each readout, and their own run does, in sums of
    (logit of its answer - logit of the clean answer), over how many answers that it changes.
    """

    names: Sequence[str]
    moved: Float[Tensor, "counterfactual example readout"]
    gap: Float[Tensor, "counterfactual example readout"]
    differs: Float[Tensor, "counterfactual example readout"]
    acts: Bool[Tensor, "counterfactual example"]


@dataclass(frozen=True)
class _Patch:
    """What is asked of some pairs of counterfactual and example: the edits, the answers that these are to bring, how many of
    them are other ones, and the pairs in which that may tell of a readout that the model answers.
    """

    edits: list[CarryEdit]
    targets: Int[Tensor, "pair pos slot"]
    differs: Float[Tensor, "pair readout"]
    told: Bool[Tensor, "pair"]


@dataclass(frozen=True)
class _Asked:
    """A question's patch, the pairs in which something may be told, by their numbers, and where the readouts start there."""

    question: Question
    patch: _Patch
    some: Int[Tensor, "some"]
    start: Float[Tensor, "some readout"]


Least = Mapping[Question, Sequence[Tensor]]
"""For each question what a counterfactual must change of each head's output."""
Acts = Callable[[Sequence[CarryEdit], Sequence[Tensor]], Bool[Tensor, "pair"]]
"""The pairs in which edits change a head's output by more than that."""


def patched(
    bench: Bench,
    thresholds: Thresholds,
    operand: Operand,
    deepest: int,
    least: Least,
    acts: Acts,
    generator: torch.Generator,
) -> dict[Question, Pairs]:
    """What counterfactuals at hops up to `deepest` show about each question of `least`."""
    tried = {question: _nothing(bench, operand, deepest) for question in least}
    heads = {head for question in least for head in question.heads}
    for part in counterfactuals(bench, operand, deepest, heads, generator):
        _patch(bench, part, tried, least, acts)
    return {question: _shown(bench, found, thresholds) for question, found in _on_cpu(tried).items()}


def _nothing(bench: Bench, operand: Operand, deepest: int) -> _Tried:
    """What examples show that counterfactuals leave as they are."""
    names = [f"hop {hop}" if operand == "value" else f"the {operand} of hop {hop}" for hop in range(1, deepest + 1)]
    margin = bench.baseline.clean.margin
    none = margin.new_zeros(len(names), *margin.shape)
    return _Tried(names, none, none.clone(), bench.scorer.where.new_zeros(none.shape), none[..., 0] > 0)


def _patch(bench: Bench, part: Part, tried: Mapping[Question, _Tried], least: Least, acts: Acts) -> None:
    """Write what some pairs of counterfactual and example show about each question."""
    changed = reached_otherwise(bench.task, part.clean.batch, part.other)
    named = {role: _brought(bench.task, role, part, changed) for role in {question.role for question in tried}}
    read = {role: sources.any(dim=-1) for role, sources in named.items()}
    rows = {question: destination_rows(part.clean.batch, question.destination) & read[question.role] for question in tried}
    look_through(rows.values())
    patches = [_patched(bench, question, part, named[question.role], at) for question, at in rows.items()]
    at, asked = (part.number, part.example), list[_Asked]()
    for (question, found), patch, told in zip(tried.items(), patches, brought([patch.told for patch in patches]), strict=True):
        start, goal = (part.scorer.towards(logits, patch.targets) for logits in (part.clean.run.logits, part.logits))
        found.gap[at], found.differs[at] = goal - start, patch.differs
        if patch.edits:
            found.acts[at] = acts(patch.edits, least[question])
            some = told.nonzero().flatten().to(start.device)
            asked.append(_Asked(question, patch, some, start[some]))
    most = fitting(bench.model, part.other.tokens.shape[1], part.logits.dtype)
    for together in _together(asked, part.fast, most):
        for one, moved in zip(together, _moved(bench, part, together), strict=True):
            tried[one.question].moved[part.number[one.some], part.example[one.some]] = moved


def _patched(
    bench: Bench, question: Question, part: Part, sources: Bool[Tensor, "pair pos source"], rows: Bool[Tensor, "pair pos"]
) -> _Patch:
    """What is asked about a question at these rows; of runs through hooks all pairs are run."""
    clean, heads = part.clean, question.heads if marked(rows) else ()
    edits = [source_edit(clean, part.v[head], head, rows, sources) for head in heads]
    # An answer of the destination's own that no source can bring stays out: it is taken for one that is not changed.
    elsewhere = destination_rows(clean.batch, question.destination) & ~rows
    targets = clean.batch.targets.where(elsewhere[:, :, None], part.other.targets)
    differs = part.scorer.differs(targets)
    told = differs.new_ones(len(differs), dtype=torch.bool)
    if part.fast and edits:
        told = (differs[:, bench.open_readouts] > 0).any(dim=1) & changed_examples(edits)
    return _Patch(edits, targets, differs, told)


def _together(asked: Sequence[_Asked], fast: bool, most: int) -> list[list[_Asked]]:
    """What may be run at once, so that runs are few and large: what begins at the same rows, of about so many pairs, since
    what a condensed run does not keep is made for all of them. Through hooks each alone.
    """
    groups, sizes = dict[Any, list[_Asked]](), Counter[Any]()
    for number, one in enumerate(asked):
        if len(one.some):
            begins = min(edit.head.layer for edit in one.patch.edits), destination_of(one.question.destination)
            place = begins if fast else number
            sizes[place] += len(one.some)
            groups.setdefault((place, sizes[place] // most), []).append(one)
    return list(groups.values())


def _moved(bench: Bench, part: Part, asked: Sequence[_Asked]) -> tuple[Float[Tensor, "pair readout"], ...]:
    """By how much the edits of each question move the readouts in its pairs, which stand one after the other in one run."""
    some, targets = torch.cat([one.some for one in asked]), torch.cat([one.patch.targets[one.some] for one in asked])
    clean, scorer = part.clean.part(some), part.scorer.part(some)
    after = scorer.towards(rerun(bench.model, clean, _one_after_another(asked), read=part.scorer.read), targets)
    return (after - torch.cat([one.start for one in asked])).split([len(one.some) for one in asked])


def _one_after_another(asked: Sequence[_Asked]) -> list[Edit]:
    """The edits of all questions, of each in its pairs alone; those of one head are one."""
    if len(asked) == 1:
        return [edit_of(edit, asked[0].some) for edit in asked[0].patch.edits]
    edits, begin, total = dict[HeadId, CarryEdit](), 0, sum(len(one.some) for one in asked)
    for one in asked:
        for edit in one.patch.edits:
            if edit.head not in edits:
                empty = (each.new_zeros(total, *each.shape[1:]) for each in (edit.rows, edit.z, edit.change))
                edits[edit.head] = CarryEdit(edit.head, *empty)
            whole = edits[edit.head]
            for into, each in zip((whole.rows, whole.z, whole.change), (edit.rows, edit.z, edit.change), strict=True):
                into[begin : begin + len(one.some)] = each[one.some]
        begin += len(one.some)
    return list(edits.values())


def _brought(task: Task, role: Role, part: Part, changed: Bool[Tensor, "some pos"]) -> Bool[Tensor, "some pos source"]:
    """The sources of a role by which another batch can show what they bring: named in both, with another content."""
    mine, its = (role_targets(task, batch, [role])[0] for batch in (part.clean.batch, part.other))
    return mine & (mine == its).all(dim=-1, keepdim=True) & (mine & changed[:, None]).any(dim=-1, keepdim=True)


def _shown(bench: Bench, tried: _Tried, thresholds: Thresholds) -> Pairs:
    """The pairs of counterfactual and readout that can show something."""
    gap, differs, moved = (part.movedim(0, 1).flatten(1) for part in (tried.gap, tried.differs, tried.moved))
    acting = tried.acts.T  # [example, counterfactual]
    n_readouts = len(bench.scorer.readouts)
    shown = (differs > 0) & acting.repeat_interleave(n_readouts, dim=1)
    often = shown.sum(dim=0) >= thresholds.min_asked
    value, low, _ = mean_interval(gap, differs, thresholds.confidence, max(1, int(often.sum())))
    is_open = bench.baseline.open.repeat(len(tried.names))
    at = (often & is_open & (low > value / 2)).nonzero().flatten().tolist()
    readouts = tuple(number % n_readouts for number in at)
    names = tuple(
        f"its source from the counterfactual at {tried.names[number // n_readouts]} moves {bench.scorer.readouts[readout]}"
        for number, readout in zip(at, readouts, strict=True)
    )
    ever = (shown.sum(dim=0) > 0).unflatten(0, (len(tried.names), n_readouts)).any(dim=0)
    return Pairs(moved[:, at], gap[:, at], differs[:, at] > 0, readouts, names, ever, acting.any(dim=1))


def _on_cpu(tried: Mapping[Question, _Tried]) -> dict[Question, _Tried]:
    """What was tried, brought to the CPU for all questions at once."""
    names = ("moved", "gap", "differs", "acts")
    numbers = zip(*(brought([getattr(found, name) for found in tried.values()]) for name in names), strict=True)
    return {question: _Tried(found.names, *each) for (question, found), each in zip(tried.items(), numbers, strict=True)}


def largest_change(edit: CarryEdit) -> Float[Tensor, "example"]:
    """The largest change of a head's output at any of the rows."""
    return (edit.change.abs().amax(dim=-1) * edit.rows).amax(dim=-1)


def changed_examples(edits: Sequence[CarryEdit]) -> Bool[Tensor, "example"]:
    """The examples in which any edit changes anything."""
    return torch.stack([largest_change(edit) > 0 for edit in edits]).any(dim=0)


def reached_otherwise(task: Task, batch: Batch, other: Batch) -> Bool[Tensor, "batch pos"]:
    """The positions from which another token is found in another batch: their own, or that of a hop j > 0."""
    found = []
    for one in (batch, other):
        hops = one.find[:, [number for number, hop in enumerate(task.hops) if hop > 0]]
        tokens = one.tokens[:, None].expand_as(hops).gather(2, hops.clamp(min=0)).where(hops != NOWHERE, NOWHERE)
        found.append(torch.cat([one.tokens[:, None], tokens], dim=1))
    return (found[0] != found[1]).any(dim=1)
