"""The checker passes the tasks that are right, and names the rule that a wrong one breaks."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from stackheads.errors import TaskError
from stackheads.tasks import Batch, Cycle, Retrieval, check, check_gates


@pytest.mark.parametrize(
    "task",
    [
        Cycle(symbols=8, max_hops=3),
        Cycle(symbols=6, max_hops=2, supervision="final", attention_dir="causal"),
        Retrieval(chains=3, max_hops=3, attention_dir="causal"),
        Retrieval(chains=2, max_hops=2, order="shuffled", supervision="chain"),
    ],
)
def test_tasks_that_are_right_pass(task):
    check(task)


class Wrong(Cycle):
    """A right task with one thing put wrong."""

    spoil: Callable[[Batch], Batch] = lambda batch: batch
    spoil_counterfactual: Callable[[Batch, Batch], Batch] = lambda batch, other: other
    wrong_d_vocab: int = 6
    wrong_n_ctx: int = 13

    def __init__(self, spoil=None, **settings):
        more = {} if spoil is None else {"spoil": spoil}
        super().__init__(symbols=6, max_hops=2, attention_dir="causal", **more, **settings)

    @property
    def d_vocab(self):
        return self.wrong_d_vocab

    @property
    def n_ctx(self):
        return self.wrong_n_ctx

    def sample(self, n, generator):
        return self.spoil(Cycle(symbols=6, max_hops=2, attention_dir="causal").sample(n, generator))

    def counterfactual(self, batch, hop, generator):
        right = Cycle(symbols=6, max_hops=2, attention_dir="causal")
        return self.spoil_counterfactual(batch, right.counterfactual(batch, hop, generator))


def shifted(batch):
    """Find maps that are off by one statement in the fourth example."""
    find = batch.find.clone()
    find[3] = torch.where(find[3] >= 2, find[3] - 2, find[3])
    return replace(batch, find=find)


def ahead(batch):
    find = batch.find.clone()
    find[1, :, 0] = 5
    return replace(batch, find=find)


def wrong_answers(batch):
    targets = batch.targets.clone()
    targets[4, -1, 0] = (targets[4, -1, 0] + 1) % 6
    return replace(batch, targets=targets)


def keys_instead(batch):
    """Find maps that name the key where they should name its value."""
    return replace(batch, find=batch.find - (batch.find > 0).long())


def two_tokens(batch, other):
    tokens = other.tokens.clone()
    tokens[0] = other.tokens[1]
    return replace(other, tokens=tokens)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Wrong(shifted), r"find\^2 must be find\^1 of find\^1; example 3|must tell the answer of hop j; example 3"),
        (Wrong(ahead), "must not point ahead; example 1 breaks this"),
        (Wrong(wrong_answers), "must tell the answer of hop j; example 4 breaks this"),
        (Wrong(keys_instead), r"find\^2 must be find\^1 of find\^1|must tell the answer of hop j; example 0"),
        (Wrong(spoil_counterfactual=two_tokens), "counterfactual at hop 1 must change one token; example 0"),
        (Wrong(spoil_counterfactual=lambda batch, other: batch), "counterfactual at hop 1 must change something"),
        (Wrong(wrong_d_vocab=3), r"tokens must be in \[0, d_vocab\) = \[0, 3\)"),
        (Wrong(wrong_n_ctx=9), "tokens must fill the context, n_ctx = 9"),
    ],
)
def test_tasks_that_are_wrong_are_told_where(task, message):
    with pytest.raises(TaskError, match=message):
        check(task)


def test_examples_must_follow_from_the_generator():
    task = Wrong(lambda batch: replace(batch, targets=torch.randint(6, batch.targets.shape)))
    with pytest.raises(TaskError, match="same generator state must give the same examples"):
        check(task)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (lambda batch: batch.tokens[:, 0], "gate 'odd' must have shape"),
        (lambda batch: batch.tokens.float(), "gate 'odd' must hold whole numbers"),
        (lambda batch: batch.tokens - 1, "gate 'odd' must hold whole numbers"),
        (lambda batch: torch.arange(batch.tokens.numel()).view_as(batch.tokens), "gate 'odd' must be told apart"),
    ],
)
def test_gates_that_are_none_are_named(values, rule):
    task = Cycle(symbols=6, max_hops=2)
    batch = task.sample(64, torch.Generator().manual_seed(0))
    check_gates(task, batch)
    object.__setattr__(batch, "gates", {"odd": values(batch)})  # as where no type checker stands in the way
    with pytest.raises(TaskError, match=rule):
        check_gates(task, batch)
