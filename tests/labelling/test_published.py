"""A checkpoint that nobody here trained, on a task of one's own whose layout differs from example to example.

`unique_copy` of arXiv 2602.08857: `<bos> x1 … xn <sep> x1 … xn`, the xi different numbers, n anew for each example at a fixed
total length. Its authors read off its weights that layer 0 looks at the previous position and layer 1 at the place whose
previous token is the own one.
"""

from pathlib import Path

import pytest
import torch

from stackheads import analyze
from stackheads.models import load_gpt2
from stackheads.tables import records
from stackheads.tasks import Batch
from stackheads.types import IGNORE, Slot

FILE = Path(__file__).parents[3] / "shared" / "published" / "unique-copy-2l1h64d.safetensors"
BOS, SEP = 150, 151

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the published checkpoint is not here")


class UniqueCopy:
    """The task: at each place of the second copy hop 1 is the place after the same number in the first."""

    name, n_ctx, d_vocab, d_vocab_out = "unique copy", 48, 153, 153
    attention_dir, hops = "causal", (1,)

    def sample(self, n, generator):
        numbers = torch.rand(n, BOS, generator=generator).argsort(1)[:, : self.n_ctx]
        length = torch.randint(26, 45, (n, 1), generator=generator)
        position = torch.arange(self.n_ctx).expand(n, -1)
        first, second = (position > 0) & (position <= length), position > length + 1
        number = torch.where(second, position - length - 2, position - 1)
        tokens = torch.where(first | second, numbers.gather(1, number.clamp(min=0)), torch.where(position == 0, BOS, SEP))
        slots = torch.full_like(tokens, Slot.OTHER).masked_fill(first, Slot.KEY).masked_fill(second, Slot.VALUE)
        slots[:, -1] = Slot.QUERY
        follows = second & (number + 1 < length)
        find = torch.where(follows, number + 2, -1)
        return self._batch(tokens, find, slots)

    def _batch(self, tokens, find, slots):
        targets = tokens.gather(1, find.clamp(min=0)).where(find >= 0, IGNORE)
        return Batch(tokens, targets[..., None], (find >= 0).long()[..., None], find[:, None], slots)

    def readout(self, logits, batch):
        return logits[:, :, None]

    def counterfactual(self, batch, hop, generator):
        """Another number, one that is not there, at the place that answers the query."""
        free = torch.ones(len(batch), BOS).scatter(1, batch.tokens.clamp(max=BOS - 1), 0.0)
        place, rows = batch.find[:, 0, -1], torch.arange(len(batch))
        tokens, new = batch.tokens.clone(), torch.multinomial(free, 1, generator=generator).squeeze(1)
        tokens[rows[place >= 0], place[place >= 0]] = new[place >= 0]
        return self._batch(tokens, batch.find[:, 0], batch.slots)


@pytest.fixture(scope="module")
def analysis():
    task = UniqueCopy()
    return analyze(load_gpt2(FILE, task, 1), task, examples=256, explain=False, progress=False)


def test_its_two_heads_are_confirmed_in_what_its_authors_found(analysis):
    assert min(analysis.accuracy.values()) > 0.99
    confirmed = {
        (row["head"], row["destination"], row["role"], row["hop"])
        for row in records(analysis.labels)
        if row["status"] == "confirmed"
    }
    assert confirmed == {("L0H0", "key", "previous", None), ("L1H0", "query", "hop", 1), ("L1H0", "value", "hop", 1)}


def test_two_roles_explain_it(analysis):
    selected = analysis.selectors(examples=128, progress=False)
    assert selected.hops == {"L0H0 @key": ["previous"], "L1H0 @query": ["hop 1"], "L1H0 @value": ["hop 1"]}
    assert selected.worst > 0.98
