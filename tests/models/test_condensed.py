"""A run of which little is kept says what the whole record says, and is refused where the rest could not be made again."""

from dataclasses import replace

import pytest
import torch
from subjects import subject

from stackheads.errors import InterventionError
from stackheads.interventions import proof, recorded
from stackheads.labelling import bench, rewired
from stackheads.labelling.measure import Look, measure
from stackheads.labelling.rows import label_row
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.condensed import Condensed
from stackheads.models.hooks import all_heads
from stackheads.models.runs import Recording
from stackheads.tasks import labelling_batch

NAMES = ["cycle-d4-l3", "khop-k2-l3"]


def both(name, monkeypatch, examples=24):
    model, task = subject(name)
    batch = labelling_batch(task, examples, 0)
    whole = recorded(model, batch)
    monkeypatch.setattr(proof, "WHOLE", 0)
    monkeypatch.setattr(proof, "_part", lambda *_: 7)
    return model, whole, recorded(model, batch)


def alike(little, whole):
    """Both runs, and parts of them by numbers, by a slice, and of a part."""
    some, fewer = torch.tensor([5, 2, 2]), torch.tensor([2, 0])
    yield little.whole(), whole
    yield little.part(some), whole.part(some)
    yield little.part(slice(3, 9)), whole.part(slice(3, 9))
    yield little.part(some).part(fewer), whole.part(some[fewer]).whole()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_made_again_is_what_was_recorded(name, monkeypatch):
    model, whole, little = both(name, monkeypatch)
    assert isinstance(little.run, Condensed)
    assert little.hooked is None
    for one, other in alike(little.run, whole.run):
        for part in ("logits", "pattern", "v", "z", "residual", "q", "k"):
            assert torch.allclose(getattr(one, part), getattr(other, part), atol=1e-4)
        for head in all_heads(model):
            assert torch.equal(one.output(head), one.z[head.layer, :, :, head.index])
            assert torch.equal(one.of(head)[0], one.pattern[head.layer, :, head.index])
    for head in all_heads(model):
        for one, other in zip(little.run.of(head), whole.run.of(head), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_a_part_has_what_the_whole_has():
    model, task = subject("cycle-d4-l3")
    run = recorded(model, labelling_batch(task, 8, 0)).run
    bare = replace(run, residual=None).part(torch.tensor([1, 3]))
    assert (bare.resumable, bare.residual, bare.whole().residual) == (False, None, None)
    assert torch.equal(bare.q, run.q[:, [1, 3]])


def test_labels_are_the_same_in_small_parts(monkeypatch):
    model, task = subject("cycle-d4-l3")
    settings = model, task, Look(64, 0), Thresholds()
    rows = [label_row(item, Thresholds()) for item in measure(*settings)[0]]
    monkeypatch.setattr(proof, "WHOLE", 0)
    for room in (bench, rewired):
        monkeypatch.setattr(room, "fitting", lambda *_: 24)
    found = [label_row(item, Thresholds()) for item in measure(*settings)[0]]
    assert [row["status"] for row in found] == [row["status"] for row in rows]
    for one, other in zip(rows, found, strict=True):
        named = ["head", "destination", "role", "gate", "looks_like", "pattern", "write", "null_p"]
        if abs(one["effect"]) >= 0.02:  # below, where it is measured is chosen by rounding
            named += ["readout", "effect", "effect_low", "effect_high", "effect_mean", "effect_zero"]
        for name in named:
            value = one[name]
            assert other[name] == (pytest.approx(value, abs=1e-3, nan_ok=True) if isinstance(value, float) else value)


def test_a_model_that_has_changed_makes_nothing(monkeypatch):
    """Of a part neither that was taken before."""
    model, _, little = both("cycle-d4-l3", monkeypatch)
    part, weight = little.run.part(slice(3, 9)), model.blocks[0].attn.W_V.data
    before = weight.clone()
    weight[0] = 0
    try:
        for make in (little.run.whole, lambda: part.pattern, lambda: part.v):
            with pytest.raises(InterventionError, match="record it anew"):
                make()
    finally:
        weight.copy_(before)


def test_a_model_with_a_hook_is_recorded_whole(monkeypatch):
    model, task = subject("cycle-d4-l3")
    monkeypatch.setattr(proof, "WHOLE", 0)
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda value, hook: value)]):
        assert isinstance(recorded(model, labelling_batch(task, 8, 0)).run, Recording)
