"""How well answers are read out: margin, accuracy and loss. Margin is the metric of effects, because accuracy saturates."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stackheads.tasks.base import Batch, Task
from stackheads.types import IGNORE, Slot


def asked(batch: Batch) -> Bool[Tensor, "batch pos readout"]:
    """Where something is asked."""
    return batch.targets != IGNORE


def margins(
    answer_logits: Float[Tensor, "batch pos readout d_vocab"], targets: Int[Tensor, "batch pos readout"]
) -> Float[Tensor, "batch pos readout"]:
    """Logit of the right symbol minus the mean logit of the other symbols; 0 where nothing is asked."""
    known = targets != IGNORE
    right = answer_logits.gather(-1, targets.where(known, 0)[..., None]).squeeze(-1)
    others = (answer_logits.sum(dim=-1) - right) / (answer_logits.shape[-1] - 1)
    return (right - others).where(known, 0.0)


def correct(
    answer_logits: Float[Tensor, "batch pos readout d_vocab"], targets: Int[Tensor, "batch pos readout"]
) -> Bool[Tensor, "batch pos readout"]:
    """Whether the largest logit is the right symbol's; False where nothing is asked."""
    return (answer_logits.argmax(dim=-1) == targets) & (targets != IGNORE)


def loss(task: Task, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch, balanced: bool = False) -> Float[Tensor, ""]:
    """Mean cross-entropy over everything that is asked, in nats.

    `balanced`: the mean at the query and the mean at all other positions count half each, so that the query's few long hops
    are not drowned by the many short ones at value slots. The same where only the query is asked.
    """
    known, answers, targets = asked(batch), task.readout(logits, batch), batch.targets
    if bool(known.all()):  # no need to pick, whose gradient is slow
        answers, targets = answers.flatten(0, 2), targets.flatten()
    else:
        answers, targets = answers[known], targets[known]
    terms = torch.nn.functional.cross_entropy(answers, targets, reduction="none")
    at_query = (batch.slots == Slot.QUERY)[:, :, None].expand_as(known)[known]
    if not balanced or bool(at_query.all()):
        return terms.mean()
    return (terms[at_query].mean() + terms[~at_query].mean()) / 2


def query_accuracy(task: Task, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> dict[int, float]:
    """Share of right answers at the last position, for each hop asked there."""
    return {hop: right / asked for hop, (right, asked) in query_counts(task, logits, batch).items()}


def query_counts(task: Task, logits: Float[Tensor, "batch pos d_vocab_out"], batch: Batch) -> dict[int, tuple[int, int]]:
    """How many answers are right at the last position, and how many are asked there, for each hop asked."""
    right = correct(task.readout(logits, batch), batch.targets)[:, -1]
    hops = batch.target_hop[:, -1]
    of = {int(hop): right[hops == hop] for hop in hops[hops > 0].unique(sorted=True)}
    return {hop: (int(answers.sum()), answers.numel()) for hop, answers in of.items()}
