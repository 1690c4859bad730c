"""The run on other tokens equals the hooked run on them, over random architectures, directions and places of the change."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import DIRECTIONS, READS, SEEDS, assert_same_logits, configs, marks, random_run

from stackheads.models.forwards.other_tokens import values_on
from stackheads.models.hooks import record_values


@settings(max_examples=25, deadline=None)
@given(configs(), DIRECTIONS, READS, SEEDS, st.integers(0, 9))
def test_logits_and_values_are_the_hooked_run_s(config, direction, read, seed, first):
    _, model, clean = random_run(config, direction, seed)
    tokens, generator = clean.batch.tokens.clone(), torch.Generator().manual_seed(seed)
    tokens[:, first:] = tokens[:, first:][:, torch.randperm(tokens.shape[1] - first, generator=generator)]
    wanted = marks(read, tokens.shape[1])
    wanted = torch.ones(tokens.shape[1], dtype=torch.bool) if wanted is None else wanted
    logits, values = values_on(model, clean.run, tokens, first, wanted.nonzero().flatten())
    expected, known = record_values(model, tokens)
    assert_same_logits(logits, expected, config, wanted)
    assert torch.allclose(values, known, atol=1e-4 if config.dtype == "float32" else 1e-9)
