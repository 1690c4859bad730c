"""Margins, accuracy and loss against the plain formula."""

import torch

from stackheads.tasks import Cycle
from stackheads.tasks.scoring import correct, loss, margins, query_accuracy
from stackheads.types import IGNORE


def test_scores_equal_the_formula_entry_by_entry():
    task = Cycle(symbols=6, max_hops=3)
    generator = torch.Generator().manual_seed(0)
    batch = task.sample(5, generator)
    logits = torch.randn(5, task.n_ctx, task.d_vocab_out, generator=generator)
    answer_logits = task.readout(logits, batch)
    margin, right = margins(answer_logits, batch.targets), correct(answer_logits, batch.targets)
    losses, places = [], []
    for b in range(5):
        for p in range(task.n_ctx):
            for r in range(3):
                target, row = int(batch.targets[b, p, r]), logits[b, p, r * 6 : (r + 1) * 6]
                if target == IGNORE:
                    assert margin[b, p, r] == 0
                    assert not right[b, p, r]
                    continue
                others = torch.cat([row[:target], row[target + 1 :]])
                torch.testing.assert_close(margin[b, p, r], row[target] - others.mean())
                assert bool(right[b, p, r]) == (int(row.argmax()) == target)
                losses.append(row.logsumexp(0) - row[target])
                places.append(p == task.n_ctx - 1)
    terms, at_query = torch.stack(losses), torch.tensor(places)
    torch.testing.assert_close(loss(task, logits, batch), terms.mean())
    balanced = (terms[at_query].mean() + terms[~at_query].mean()) / 2
    torch.testing.assert_close(loss(task, logits, batch, balanced=True), balanced)


def test_a_perfect_answer_scores_one_and_a_wrong_one_zero():
    task = Cycle(symbols=6, max_hops=2, supervision="chain")
    batch = task.sample(4, torch.Generator().manual_seed(0))
    hot = torch.nn.functional.one_hot(batch.targets.clamp(min=0), 6).float().flatten(2)
    assert query_accuracy(task, hot, batch) == {1: 1.0, 2: 1.0}
    assert query_accuracy(task, -hot, batch) == {1: 0.0, 2: 0.0}
