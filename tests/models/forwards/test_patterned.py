"""Runs with all patterns given are the model's own hooked runs with the same patterns, and can be differentiated."""

import pytest
import torch
from subjects import subject

from stackheads.interventions import recorded
from stackheads.models.forwards.patterned import Patterned
from stackheads.models.hooks import HeadEdit, PatternEdit, all_heads, analysing, run_edited
from stackheads.types import HeadId

NAMES = ("cycle-d4-l3", "khop-k2-l3", "chain-d4-l4", "i: two hops")


def made(name, hooked=False, given=slice(1, None)):
    """With patterns at some positions; the others are left to the model."""
    model, task = subject(name)
    batch = task.sample(6, torch.Generator().manual_seed(0))
    with analysing(model):
        clean = recorded(model, batch)
    rows = torch.zeros_like(batch.slots, dtype=torch.bool)
    rows[:, given] = True
    return model, batch, clean, Patterned(model, batch.tokens, clean.run, rows, hooked)


def nobody(run):
    layers, n, heads, n_pos = run.pattern.shape[:4]
    return torch.zeros(layers, n, n_pos, heads, dtype=torch.bool)


def given(clean, seed=0):
    """Other patterns that see what the recorded ones see."""
    noise = torch.randn(clean.run.pattern.shape, generator=torch.Generator().manual_seed(seed))
    hidden = (clean.run.pattern == 0).all(dim=1, keepdim=True)  # nothing is seen there in any example
    return noise.masked_fill(hidden, -torch.inf).softmax(-1)


@pytest.mark.parametrize("given", [slice(1, None), slice(None)], ids=["but one", "all"])
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_own_patterns_give_the_clean_run(name, hooked, given):
    _, _, clean, patterned = made(name, hooked, given)
    found = patterned.logits(clean.run.pattern, nobody(clean.run))
    torch.testing.assert_close(found, clean.run.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_other_patterns_and_silence_are_the_hooked_edits(name, hooked):
    model, batch, clean, patterned = made(name, hooked)
    pattern, silent = given(clean), nobody(clean.run)
    silent[1, :3, 2, 0] = True  # layer 1, three examples, position 2, head 0
    edits = [PatternEdit(head, patterned.rows, pattern[head.layer, :, head.index]) for head in all_heads(model)]
    z = clean.run.of(HeadId(1, 0))[2]
    quiet = silent[1, :, :, 0]
    mean = z.clone()
    mean[:3, 2] = z[:3, 2].mean(dim=0)
    expected = run_edited(model, batch.tokens, [*edits, HeadEdit(HeadId(1, 0), quiet, mean)])
    torch.testing.assert_close(patterned.logits(pattern, silent), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_taken_up_in_any_layer_is_the_whole_run(name):
    _, _, clean, patterned = made(name)
    pattern, silent = given(clean), nobody(clean.run)
    silent[-1, :, 3] = True
    streams = patterned.streams(pattern, silent)
    whole = patterned.logits(pattern, silent)
    for layer in range(len(pattern)):
        torch.testing.assert_close(patterned.from_layer(layer, streams, pattern, silent), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [slice(1, None), slice(None)], ids=["but one", "all"])
@pytest.mark.parametrize("name", ["cycle-d4-l3", "khop-k2-l3"])
def test_gradients_do_not_depend_on_the_way(name, rows):
    """The fast run and the hooked one have the same gradient, and the model's weights get none."""
    found = []
    for hooked in (False, True):
        model, _, clean, patterned = made(name, hooked, rows)
        pattern = given(clean).requires_grad_()
        loss = patterned.logits(pattern, nobody(clean.run)).square().mean()
        (gradient,) = torch.autograd.grad(loss, pattern)
        found.append(gradient)
        assert all(weight.grad is None for weight in model.parameters())
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-3)
