"""A task whose layout differs from example to example: `<bos> x1 … xn <sep> x1 … xm`, the xi different numbers, n drawn anew.

At each place of the second copy hop 1 is the place after the same number in the first. In one total length, or (`Padded`) in
several, the rest of the context filled with pads at the left or the right.
"""

from dataclasses import replace

import torch

from stackheads.tasks import Batch
from stackheads.types import IGNORE, Slot

BOS, SEP, PAD = 150, 151, 152


class UniqueCopy:
    """The task, with n between 26 and 44."""

    name, n_ctx, d_vocab, d_vocab_out = "unique copy", 48, 153, 153
    attention_dir, hops = "causal", (1,)

    def sample(self, n, generator):
        numbers = torch.rand(n, BOS, generator=generator).argsort(1)[:, : self.n_ctx]
        length = torch.randint(26, 45, (n, 1), generator=generator)
        return self._stated(numbers, length, torch.full_like(length, self.n_ctx))

    def _stated(self, numbers, length, size):
        """With the first `size` places of each example filled."""
        position = torch.arange(self.n_ctx).expand(len(numbers), -1)
        there = position < size
        first, second = (position > 0) & (position <= length), (position > length + 1) & there
        number = torch.where(second, position - length - 2, position - 1)
        tokens = torch.where(first | second, numbers.gather(1, number.clamp(min=0)), torch.where(position == 0, BOS, SEP))
        slots = torch.full_like(tokens, Slot.OTHER).masked_fill(first, Slot.KEY).masked_fill(second, Slot.VALUE)
        slots[position == size - 1] = Slot.QUERY
        follows = second & (number + 1 < length)
        find = torch.where(follows, number + 2, -1)
        return self._batch(tokens.where(there, PAD), find, slots)

    def _batch(self, tokens, find, slots):
        targets = tokens.gather(1, find.clamp(min=0)).where(find >= 0, IGNORE)
        return Batch(tokens, targets[..., None], (find >= 0).long()[..., None], find[:, None], slots)

    def readout(self, logits, batch):
        return logits[:, :, None]

    def counterfactual(self, batch, hop, generator):
        """Another number, one that is not there, at the place that answers the query."""
        free = torch.ones(len(batch), PAD + 1).scatter(1, batch.tokens, 0.0)[:, :BOS]
        rows, query = (batch.slots == Slot.QUERY).nonzero().unbind(dim=1)
        place = batch.find[rows, 0, query]
        tokens, new = batch.tokens.clone(), torch.multinomial(free, 1, generator=generator).squeeze(1)
        tokens[rows[place >= 0], place[place >= 0]] = new[place >= 0]
        return replace(self._batch(tokens, batch.find[:, 0], batch.slots), pads=batch.pads)


class Padded(UniqueCopy):
    """Examples of 38 to 48 tokens, or of other sizes, filled up at one side."""

    def __init__(self, side, sizes=(38, 48)):
        self.side, self.sizes = side, sizes

    def sample(self, n, generator):
        numbers = torch.rand(n, BOS, generator=generator).argsort(1)[:, : self.n_ctx]
        size = torch.randint(self.sizes[0], self.sizes[1] + 1, (n, 1), generator=generator)
        length = torch.randint(26, 45, (n, 1), generator=generator).minimum(size - 4)
        batch = self._stated(numbers, length, size)
        room = self.n_ctx - size
        if self.side == "right":
            return replace(batch, pads=batch.tokens == PAD)
        source = torch.arange(self.n_ctx) - room  # what stands at the left end is what stood at the right one
        tokens, slots, find = (each.gather(1, source % self.n_ctx) for each in (batch.tokens, batch.slots, batch.find[:, 0]))
        moved = self._batch(tokens, torch.where(find >= 0, find + room, -1), slots)
        return replace(moved, pads=tokens == PAD)
