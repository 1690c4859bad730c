"""Where layouts vary, another example is read where a head may look: by position and by distance, and at what a row may see."""

from dataclasses import replace

import pytest
import torch
from unique_copy import Padded

from stackheads.explanation.examples import Examples
from stackheads.explanation.judging import judged
from stackheads.explanation.sums import Sum
from stackheads.labelling.bench import make_bench
from stackheads.labelling.selectors import Selector
from stackheads.labelling.statistics import no_shares, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import ModelConfig, build
from stackheads.types import Destination, Role, Slot

HOP, PREVIOUS = (Selector("role", role) for role in (Role("hop", 1), Role("previous")))
DISTANCE, PLACE = Selector("position", "distance"), Selector("position", "place")
VALUE = Destination.VALUE
NUMBER = 20
"""The distance, or the place, at which hop 1 stands in nine of ten examples."""


class Often(Padded):
    """Hop 1 stands at one distance before its row, or at one place, and in a tenth of the examples next to that."""

    def __init__(self, side, table, sizes=(38, 48)):
        super().__init__(side, sizes)
        self.table = table

    def sample(self, n, generator):
        batch = super().sample(n, generator)
        row = torch.arange(self.n_ctx).expand(n, -1)
        at = row - NUMBER if self.table == DISTANCE else torch.full_like(row, NUMBER)
        find = (at - (torch.rand(n, 1, generator=generator) < 0.1).long()).clamp(min=0)
        asked = torch.isin(batch.slots, torch.tensor([Slot.VALUE, Slot.QUERY]))
        return replace(self._batch(batch.tokens, torch.where(asked, find, -1), batch.slots), pads=batch.pads)


def examples_of(task):
    """Examples of a model that answers nothing: only where its heads look is asked."""
    model = build(ModelConfig(layers=1, heads=2, d_model=16, d_head=8), task, seed=0)
    bench = make_bench(model, task, 64, 0, Thresholds())
    return Examples(replace(bench, baseline=replace(bench.baseline, open=torch.ones_like(bench.baseline.open))))


def having(examples, selectors):
    """Every head with these at value slots."""
    sizes = {one: torch.zeros(examples.heads, examples.rows[VALUE].size(one), 1) for one in selectors}
    for one, weight in sizes.items():
        weight[:, NUMBER + (weight.shape[1] - 1) // 2 if one == DISTANCE else NUMBER if one == PLACE else 0] = 6.0
    chosen = examples.everything()
    live = {place: marks & (place == VALUE) for place, marks in chosen.live.items()}
    every = {(VALUE, one): torch.ones(examples.heads, dtype=torch.bool) for one in selectors}
    return Sum({(VALUE, one): weight for one, weight in sizes.items()}, every, live)


CASES = [  # what all heads look at, where hop 1 stands, what is asked, and whether it is what they look at
    (DISTANCE, DISTANCE, HOP, False),
    (PLACE, PLACE, HOP, False),
    (HOP, None, HOP, True),
    (PREVIOUS, None, PREVIOUS, None),
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("truth", "table", "asked", "looks"), CASES)
def test_a_role_is_told_from_the_table_that_a_head_is(side, truth, table, asked, looks):
    """Another example says the same of a place or a distance at which a source stands often; not of a source that is found."""
    examples = examples_of(Padded(side) if table is None else Often(side, table))
    whole = having(examples, [truth])
    examples.attention = {place: rows.patterns(whole.at(place), examples.heads) for place, rows in examples.rows.items()}
    chosen = having(examples, [asked])
    draws = resampling(64, 100, 0.99, torch.Generator().manual_seed(0))
    found = judged(chosen, examples, examples, dict.fromkeys(chosen.taken(), no_shares()), draws, Thresholds(), 0)
    for evidence in found.values():
        assert evidence.gain.value > 0.5
        assert (None if evidence.beyond is None else evidence.beyond.value > 0.5) == looks
        assert looks is not False or evidence.beyond.low < 0.03


@pytest.mark.parametrize("sizes", [(48, 48), (38, 48)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_looks_at_a_distance_looks_there_for_another_example_too(side, sizes):
    """Every row has all its attention at one distance, whichever row of another example it looks for."""
    examples = examples_of(Padded(side, sizes))
    chosen = having(examples, [PREVIOUS])
    for (place, _), weight in chosen.weights.items():
        assert place == VALUE
        weight.fill_(30.0)
    torch.testing.assert_close(examples.recovered_by_another(chosen), examples.recovered(chosen), rtol=1e-4, atol=1e-4)
