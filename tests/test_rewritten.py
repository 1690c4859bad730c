"""What is written down differently computes the same: the premise of every test of invariance."""

import pytest
import rewritten
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import SUBJECTS, subject

SEEDS = st.integers(0, 1000)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def close(one, other):
    """Logits equal to 1e-4 of their size."""
    bound = 1e-4 * max(1.0, float(other.abs().max()))
    assert float((one.double() - other.double()).abs().max()) < bound


REWRITINGS = {
    "rotated": rewritten.rotated,
    "refactored": rewritten.refactored,
    "folded": lambda model, _: rewritten.folded(model),
    "folded, norms without weights": lambda model, _: rewritten.folded(model, pre=True),
    "float64": lambda model, _: rewritten.doubled(model),
    "heads permuted": lambda model, generator: rewritten.with_heads_permuted(model, generator)[0],
}


@pytest.mark.parametrize("how", REWRITINGS)
@given(name=st.sampled_from(SUBJECTS), seed=SEEDS)
@settings(max_examples=6)
def test_logits_are_the_same(how, name, seed):
    model, task = subject(name)
    tokens, before = task.sample(8, generator(seed)).tokens, model.embed.W_E.clone()
    close(REWRITINGS[how](model, generator(seed))(tokens), model(tokens))
    assert torch.equal(model.embed.W_E, before)


@given(name=st.sampled_from(SUBJECTS), seed=SEEDS)
@settings(max_examples=6)
def test_answers_under_other_names_are_the_same_answers(name, seed):
    model, task = subject(name)
    other, asked = rewritten.renamed(model, task, generator(seed))
    batch, written = (each.sample(8, generator(seed)) for each in (task, asked))
    logits, others = task.readout(model(batch.tokens), batch), asked.readout(other(written.tokens), written)
    close(others[..., asked.names[: logits.shape[-1]]], logits)
    assert torch.equal(asked.names[batch.targets[batch.targets >= 0]], written.targets[written.targets >= 0])
    assert not torch.equal(batch.tokens, written.tokens)


@given(name=st.sampled_from(SUBJECTS), seed=SEEDS)
@settings(max_examples=6)
def test_heads_keep_their_patterns_under_their_new_names(name, seed):
    model, task = subject(name)
    other, names = rewritten.with_heads_permuted(model, generator(seed))
    tokens = task.sample(4, generator(seed)).tokens
    one, two = (each.run_with_cache(tokens)[1] for each in (model, other))
    for old, new in names.items():
        close(two["pattern", new.layer][:, new.index], one["pattern", old.layer][:, old.index])


@given(name=st.sampled_from(SUBJECTS), seed=SEEDS)
@settings(max_examples=6)
def test_rewritings_change_the_weights(name, seed):
    """None of them is the identity, so that an invariance says something."""
    model, _ = subject(name)
    for how in ("rotated", "refactored"):
        other = REWRITINGS[how](model, generator(seed))
        assert not torch.allclose(other.blocks[0].attn.W_V, model.blocks[0].attn.W_V, atol=1e-2)
