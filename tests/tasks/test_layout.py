"""Layouts that vary: what is matched and what means are over, by hand; with one layout, what they always were."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unique_copy import PAD, Padded, UniqueCopy

from stackheads.errors import StackheadsWarning, TaskError
from stackheads.explanation.selection import kept_accuracy, select_heads
from stackheads.models import ModelConfig, build
from stackheads.models.forwards.patterned import mean_where
from stackheads.tasks import Batch, Cycle, check
from stackheads.tasks.layout import MANY, from_end, layouts, matched, next_one, one_layout, places, real
from stackheads.types import Slot


def batch_of(slots, pads=None):
    """Examples of which only the layout matters; tokens tell them apart."""
    n, n_pos = slots.shape
    tokens = torch.arange(n * n_pos).view(n, n_pos)
    nothing = torch.full((n, n_pos, 1), -100)
    return Batch(tokens, nothing, torch.zeros_like(nothing), torch.full((n, 1, n_pos), -1), slots, pads=pads)


@st.composite
def batches(draw):
    """Few examples and positions, so that layouts coincide and are alone, with pads on either side."""
    n, n_pos = draw(st.integers(1, 8)), draw(st.integers(2, 6))
    kinds = st.sampled_from([int(Slot.KEY), int(Slot.VALUE)])
    slots = torch.tensor([[draw(kinds) for _ in range(n_pos - 1)] + [int(Slot.QUERY)] for _ in range(n)])
    pads = torch.zeros_like(slots, dtype=torch.bool)
    for row in range(n):
        room, left = draw(st.integers(0, n_pos - 1)), draw(st.booleans())
        if left:
            pads[row, :room] = True
        elif room:
            pads[row, -room:] = True
            slots[row, -room - 1] = Slot.QUERY
    return batch_of(slots.where(~pads, int(Slot.OTHER)), pads)


def place(batch, example, position):
    """A position's slot and its distance from the last one that is there, by counting."""
    there = [at for at in range(batch.slots.shape[1]) if not batch.pads[example, at]]
    return int(batch.slots[example, position]), position - max(there)


@settings(max_examples=200)
@given(batches())
def test_what_is_matched_is_found_by_hand(batch):
    found, n, n_pos = matched(batch), *batch.slots.shape
    kind = [[None if batch.pads[one, at] else int(batch.slots[one, at]) for at in range(n_pos)] for one in range(n)]
    where = found.of(torch.arange(n)[:, None].expand(n, n_pos)), found.of(torch.arange(n_pos).expand(n, -1))
    for one in range(n):
        for position in (at for at in range(n_pos) if not batch.pads[one, at]):
            other, at = int(where[0][one, position]), int(where[1][one, position])
            others = [(one + step) % n for step in range(1, n)]
            alike = [number for number in others if kind[number] == kind[one]]
            having = [number for number in others if kind[one][position] in kind[number]]
            assert other == (alike + having + [one])[0]
            slot, distance = place(batch, one, position)
            assert place(batch, other, at)[0] == slot
            apart = [abs(place(batch, other, it)[1] - distance) for it in range(n_pos) if kind[other][it] == slot]
            assert abs(place(batch, other, at)[1] - distance) == min(apart)


@settings(max_examples=100)
@given(batches(), st.integers(0, 2**31))
def test_means_are_over_places(batch, seed):
    """Examples are repeated, so that some places are had by many and some are not."""
    times = torch.randint(1, 12, (len(batch),), generator=torch.Generator().manual_seed(seed))
    batch = batch[torch.arange(len(batch)).repeat_interleave(times)]
    z = torch.rand(*batch.slots.shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    found = mean_where(z, torch.ones_like(batch.slots, dtype=torch.bool), places(batch))
    n, n_pos = batch.slots.shape
    of_place: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for one, at in [(one, at) for one in range(n) for at in range(n_pos) if not batch.pads[one, at]]:
        of_place.setdefault(place(batch, one, at), []).append((one, at))
    for own, spots in of_place.items():
        rare = [spot for other, some in of_place.items() if other[0] == own[0] and len(some) < MANY for spot in some]
        same = torch.stack([z[spot] for spot in (spots if len(spots) >= MANY else rare)]).mean(dim=0)
        for spot in spots[:3]:
            torch.testing.assert_close(found[spot], same)


@pytest.mark.parametrize("pads", [False, True])
def test_with_one_layout_it_is_the_next_example_and_the_positional_mean(pads):
    batch = Cycle(symbols=6, max_hops=2).sample(2 * MANY, torch.Generator().manual_seed(0))
    if pads:  # the same everywhere: still one layout
        batch = replace(batch, pads=torch.zeros_like(batch.slots, dtype=torch.bool))
    assert one_layout(batch)
    z = torch.rand(*batch.slots.shape, 2, 3, generator=torch.Generator().manual_seed(1))
    for found in (matched(batch), next_one(batch)):
        assert torch.equal(found.of(z), z.roll(-1, 0))
    some = torch.rand(*batch.slots.shape, 2, generator=torch.Generator().manual_seed(2)) < 0.7
    by_place = mean_where(z, some, places(batch))
    torch.testing.assert_close(by_place, mean_where(z, some).expand_as(by_place))


def test_the_next_one_is_read_where_its_slot_is_nearest():
    """Two layouts in turns: one slot at another place."""
    value, query, key = (int(slot) for slot in (Slot.VALUE, Slot.QUERY, Slot.KEY))
    batch = batch_of(torch.tensor([[value, key, key, query], [key, key, value, query]]))
    found = next_one(batch).of(batch.tokens)
    assert found.tolist() == [[6, 4 + 1, 4 + 1, 7], [1, 1, 0, 3]]


def test_pads_count_for_nothing():
    """Distances, layouts and places are the same at whichever side they are."""
    left, right = (Padded(side).sample(64, torch.Generator().manual_seed(0)) for side in ("left", "right"))
    for batch in (left, right):
        assert torch.equal(real(batch), batch.tokens != PAD)
        assert bool((from_end(batch)[batch.slots == Slot.QUERY] == 0).all())
    assert len(layouts(left).unique()) == len(layouts(right).unique())
    for found in (
        places,
        from_end,
        lambda batch: matched(batch).of(batch.tokens),
        lambda batch: next_one(batch).of(batch.tokens),
    ):
        assert torch.equal(found(left)[real(left)], found(right)[real(right)])


@pytest.mark.parametrize("task", [UniqueCopy(), Padded("left"), Padded("right")], ids=["one length", "left", "right"])
def test_layouts_that_vary_are_right_and_told(task):
    with pytest.warns(
        StackheadsWarning, match=r"layouts vary, \d+ in 256 examples: means are by slot and distance from the end"
    ):
        check(task)


def inside(batch):
    pads = batch.pads.clone()
    pads[3, 20] = True
    return replace(batch, pads=pads, slots=batch.slots.where(~pads, int(Slot.OTHER)))


def with_a_slot(batch):
    return replace(batch, slots=batch.slots.where(real(batch), int(Slot.KEY)))


def asked(batch):
    return replace(batch, targets=batch.targets.where(real(batch)[..., None], 0))


def sourced(batch):
    return replace(batch, find=batch.find.where(real(batch)[:, None], 1))


def short(batch):
    object.__setattr__(batch, "pads", batch.pads[:, 1:])  # as where no type checker stands in the way
    return batch


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (inside, "pads must stand before or behind an example; example 3 breaks this"),
        (with_a_slot, "the slot of a pad must be OTHER"),
        (asked, "nothing must be asked at a pad"),
        (sourced, "find maps must not name pads, or name a source for one"),
        (short, r"pads must be bool of shape \[batch, pos\] = \[256, 48\]; .*: they are bool \[256, 47\]"),
    ],
)
def test_wrong_pads_are_told(spoil, rule):
    class Wrong(Padded):
        def sample(self, n, generator):
            return spoil(super().sample(n, generator))

    with pytest.raises(TaskError, match=rule):
        check(Wrong("right"))


def test_what_has_no_mask_refuses_pads_even_where_all_examples_have_the_same():
    task = Padded("left", (30, 30))
    assert one_layout(task.sample(256, torch.Generator().manual_seed(0)))
    model = build(ModelConfig(layers=1, heads=2, d_model=16, d_head=8), task)
    with pytest.raises(TaskError, match="heads are selected on examples without pads, got some"):
        select_heads(model, task, 1, steps=1, batch=4)
    with pytest.raises(TaskError, match="heads are selected on examples without pads, got some"):
        kept_accuracy(model, task, [], examples=4)
    with pytest.raises(TaskError, match=r"so slots must be the same in every example, got \d+ layouts"):
        kept_accuracy(model, UniqueCopy(), [], examples=8)
