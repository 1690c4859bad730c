"""Laws of interventions, and equality with TransformerLens' own patching functions."""

from functools import partial

import pytest
import torch
import transformer_lens.patching as tl_patching
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import InterventionError
from stackheads.interventions import (
    ABLATIONS,
    ablate,
    patch,
    patch_heads,
    patch_heads_by_position,
    recorded,
    source_edit,
    substitute_patterns,
)
from stackheads.models import ModelConfig, build
from stackheads.models.hooks import HeadEdit, all_heads, run_edited
from stackheads.tasks import Cycle
from stackheads.types import Destination, HeadId


def pair(random_model, n=6):
    task, model = random_model
    generator = torch.Generator().manual_seed(3)
    batch = task.sample(n, generator)
    return task, model, recorded(model, batch), recorded(model, task.counterfactual(batch, 1, generator))


def test_patching_a_run_with_itself_changes_nothing(random_model):
    _, model, clean, _ = pair(random_model)
    for head in all_heads(model):
        torch.testing.assert_close(patch(model, clean, clean, [head]), clean.run.logits, atol=1e-6, rtol=1e-6)


def test_patching_everything_in_the_last_layer_and_all_before_is_the_other_run_but_for_the_token(random_model):
    """Heads are all that moves information between positions, so at unchanged tokens the other run's logits appear."""
    _, model, clean, other = pair(random_model)
    patched = patch(model, clean, other, all_heads(model))
    same = clean.batch.tokens == other.batch.tokens
    torch.testing.assert_close(patched[same], other.run.logits[same], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("destination", ["query", "value", "key"])
@pytest.mark.parametrize("method", list(ABLATIONS))
def test_ablating_a_head_that_writes_nothing_changes_nothing(random_model, method, destination):
    _, model, clean, _ = pair(random_model)
    with torch.no_grad():
        model.blocks[1].attn.W_O[0] = 0
    clean = recorded(model, clean.batch)
    ablated = ablate(model, clean, [HeadId(1, 0)], destination, method)
    torch.testing.assert_close(ablated, clean.run.logits, atol=1e-6, rtol=1e-6)


def test_ablation_in_the_last_layer_acts_on_its_destination_only(random_model):
    _, model, clean, _ = pair(random_model)
    for destination in (Destination.QUERY, Destination.VALUE, Destination.KEY):
        rows = clean.batch.slots == destination.slot
        ablated = ablate(model, clean, [HeadId(1, 1)], destination, "zero")
        torch.testing.assert_close(ablated[~rows], clean.run.logits[~rows], atol=1e-6, rtol=1e-6)
        assert not torch.allclose(ablated[rows], clean.run.logits[rows])


def test_the_three_ablations_are_what_they_say(random_model):
    _, _, clean, _ = pair(random_model)
    head = HeadId(0, 1)
    z = clean.run.z[0, :, :, 1]
    assert torch.equal(ABLATIONS["resample"](clean, head), torch.roll(z, -1, dims=0))
    torch.testing.assert_close(ABLATIONS["mean"](clean, head)[2], z.mean(dim=0))
    assert not ABLATIONS["zero"](clean, head).any()


def test_results_equal_transformer_lens(random_model):
    _, model, clean, other = pair(random_model)
    _, cache = model.run_with_cache(other.batch.tokens)
    weights = torch.randn(clean.run.logits.shape, generator=torch.Generator().manual_seed(0))

    def metric(logits):
        return (logits * weights).mean()

    with torch.no_grad():
        by_head = tl_patching.get_act_patch_attn_head_out_all_pos(model, clean.batch.tokens, cache, metric)
        by_position = tl_patching.get_act_patch_attn_head_out_by_pos(model, clean.batch.tokens, cache, metric)
    torch.testing.assert_close(patch_heads(model, clean, other, metric), by_head, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patch_heads_by_position(model, clean, other, metric), by_position, atol=1e-5, rtol=1e-5)


def test_tensors_of_the_caller_are_not_written_to(random_model):
    task, model, clean, other = pair(random_model)
    copies = [tensor.clone() for tensor in (clean.run.z, clean.run.pattern, clean.run.v, clean.run.logits, other.run.z)]
    patch(model, clean, other, [HeadId(0, 0)], "value")
    ablate(model, clean, [HeadId(0, 0)], "query")
    substitute_patterns(model, clean, {(HeadId(1, 0), Destination.QUERY): clean.batch.find[:, task.hops.index(1)]})
    kept = (clean.run.z, clean.run.pattern, clean.run.v, clean.run.logits, other.run.z)
    assert all(torch.equal(one, two) for one, two in zip(copies, kept, strict=True))


def test_changing_the_value_of_all_sources_is_patching_the_value_vectors(random_model):
    """With every source marked, z' = pattern · v': what TransformerLens computes when v is patched with patterns frozen."""
    _, _, clean, other = pair(random_model)
    head = HeadId(1, 1)
    pattern, v, z = clean.run.of(head)
    torch.testing.assert_close(pattern @ v, z, atol=1e-5, rtol=1e-5)
    rows = torch.ones_like(clean.batch.tokens, dtype=torch.bool)
    everything = torch.ones_like(pattern, dtype=torch.bool)
    edit = source_edit(clean, other.run.of(head)[1], head, rows, everything)
    torch.testing.assert_close(edit.z, pattern @ other.run.of(head)[1], atol=1e-5, rtol=1e-5)


def test_marking_no_source_changes_nothing(random_model):
    _, model, clean, other = pair(random_model)
    head = HeadId(0, 0)
    pattern, _, _ = clean.run.of(head)
    rows = torch.ones_like(clean.batch.tokens, dtype=torch.bool)
    edit = source_edit(clean, other.run.of(head)[1], head, rows, torch.zeros_like(pattern, dtype=torch.bool))
    torch.testing.assert_close(run_edited(model, clean.batch.tokens, [edit]), clean.run.logits, atol=1e-6, rtol=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 100))
def test_a_substituted_pattern_carries_exactly_the_pointed_value(seed):
    task = Cycle(symbols=6, max_hops=2)
    model = build(ModelConfig(layers=1, heads=2, d_model=16, d_head=8), task, seed=seed).eval()
    clean = recorded(model, task.sample(4, torch.Generator().manual_seed(seed)))
    source = clean.batch.find[:, task.hops.index(2)]
    head, rows = HeadId(0, 1), clean.batch.slots == 2
    pointed = clean.run.v[0, :, :, 1][torch.arange(4)[:, None], source]
    expected = run_edited(model, clean.batch.tokens, [HeadEdit(head, rows, pointed)])
    found = substitute_patterns(model, clean, {(head, Destination.QUERY): source})
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_unknown_ablations_and_unequal_batches_are_refused(random_model):
    task, model, clean, _ = pair(random_model)
    with pytest.raises(InterventionError, match="one of resample, mean, zero, got 'noise'"):
        ablate(model, clean, [HeadId(0, 0)], "query", "noise")
    longer = recorded(model, task.sample(7, torch.Generator().manual_seed(0)))
    with pytest.raises(InterventionError, match="two batches of one shape"):
        partial(patch, model, clean, longer)([HeadId(0, 0)])
