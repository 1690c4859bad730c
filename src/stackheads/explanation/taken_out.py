"""What is lost of each answer where selectors are taken out: of the sum of all selectors, or of the model as it is.

Selectors that are fitted to the answer are taken out of the *sum*: all heads look where their selectors say, but for one.
Selectors that are fitted to attention are taken out of the *model*: of the head's own pattern goes, at each source, the share
that is there because of the selector, and moves to where the fitted pattern has more without it; all later heads look as they
then do. A head as a whole is silent in the one case and resample-ablated in the other. Cost: at most one forward pass for each
variant.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from stackheads.explanation.examples import Examples
from stackheads.explanation.sums import LEAST, Part, Sum
from stackheads.interventions import ablation_edits
from stackheads.interventions.engine import MEMORY
from stackheads.models.hooks import Edit, PatternEdit
from stackheads.types import Destination

Lost = list[Float[Tensor, "example readout"]]
"""The margins that go, summed per example, one for each variant."""


class TakenOut(Protocol):
    """What is lost without each of several parts, one at a time, and without several together."""

    def each(self, chosen: Sum, parts: Sequence[Part]) -> Lost: ...
    def together(self, chosen: Sum, parts: Sequence[Part]) -> Float[Tensor, "example readout"]: ...


class OfSum:
    """Parts taken out of the sum of all selectors."""

    def __init__(self, trial: Examples):
        self.trial = trial

    def each(self, chosen: Sum, parts: Sequence[Part]) -> Lost:
        """Without each part."""
        with torch.no_grad():
            whole = self._margin(self.trial.logits(chosen))
            return [whole - self._margin(logits) for logits in self.trial.variants(chosen, parts)]

    def together(self, chosen: Sum, parts: Sequence[Part]) -> Float[Tensor, "example readout"]:
        """Without all of them."""
        with torch.no_grad():
            whole, without = (self._margin(self.trial.logits(one)) for one in (chosen, chosen.without(parts)))
            return whole - without

    def _margin(self, logits: Tensor) -> Tensor:
        return self.trial.bench.scorer.margin(logits)


class OfModel:
    """Selectors taken out of the model as it is, heads as a whole resample-ablated."""

    def __init__(self, trial: Examples):
        self.trial, self.bench = trial, trial.bench

    def each(self, chosen: Sum, parts: Sequence[Part]) -> Lost:
        """Without each part."""
        clean, lost = self.bench.baseline.clean.margin, dict[Part, Tensor]()
        for some in self._batches(parts):
            margins = self.bench.margins([self._edits(chosen, [part]) for part in some])
            lost |= {part: clean - margin for part, margin in zip(some, margins, strict=True)}
        return [lost[part] for part in parts]

    def together(self, chosen: Sum, parts: Sequence[Part]) -> Float[Tensor, "example readout"]:
        """Without all of them, which are selectors."""
        return self.bench.baseline.clean.margin - self.bench.margin(self._edits(chosen, parts))

    def _batches(self, parts: Iterable[Part]) -> Iterable[list[Part]]:
        """Parts whose runs begin in one layer at the same rows, as many as have patterns of `MEMORY` bytes."""
        most = max(1, MEMORY // self.bench.clean.run.pattern[0, :, 0].nbytes)
        groups: dict[tuple[int, Destination], list[Part]] = {}
        for part in parts:
            groups.setdefault((self.trial.head(part[1]).layer, part[0]), []).append(part)
        return (some[start : start + most] for some in groups.values() for start in range(0, len(some), most))

    def _edits(self, chosen: Sum, parts: Sequence[Part]) -> list[Edit]:
        """One for each head and destination, without all of its selectors that are among the parts, or resample-ablated."""
        cells: dict[tuple[Destination, int], list[Part]] = {}
        for part in parts:
            cells.setdefault(part[:2], []).append(part)
        edits = list[Edit]()
        for (place, number), some in cells.items():
            if (place, number, None) in some:
                edits += ablation_edits(self.bench.clean, [self.trial.head(number)], place)
            else:
                edits.append(self._edit(chosen, place, number, some))
        return edits

    def _edit(self, chosen: Sum, place: Destination, number: int, parts: Sequence[Part]) -> PatternEdit:
        rows, own = self.trial.rows[place], self.trial.attention[place][number]
        told, rest = (rows.patterns(one.of(place, number), 1)[0] for one in (chosen, chosen.without(parts)))
        pattern = moved(own, told, rest)
        acts = torch.stack([rows.names(selector) for _, _, selector in parts if selector is not None]).any(dim=0)
        example, position = rows.at.unbind(dim=1)
        n, n_pos = self.trial.run.rows.shape
        whole = pattern.new_zeros(n, n_pos, n_pos).index_put((example, position), pattern)
        marked = torch.zeros(n, n_pos, dtype=torch.bool, device=acts.device).index_put((example, position), acts)
        device = self.trial.answers.device
        return PatternEdit(self.trial.head(number), marked.to(device), whole.to(device))


def moved(
    own: Float[Tensor, "row source"], told: Float[Tensor, "row source"], rest: Float[Tensor, "row source"]
) -> Float[Tensor, "row source"]:
    """A head's pattern without what it looks at because of some selectors, `told` being the fitted pattern with and `rest` that
    without them: the share of its attention that they draw to each source moves to where there is more without them.
    """
    gone = own * ((told - rest).clamp(min=0) / told.clamp(min=LEAST)).clamp(max=1)
    more = (rest - told).clamp(min=0)
    return own - gone + gone.sum(dim=-1, keepdim=True) * more / more.sum(dim=-1, keepdim=True).clamp(min=LEAST)
