"""Dropping heads: nothing dropped is the model, a dropped head writes nothing, and the expectation is that of all heads."""

import torch

from stackheads.models import named_weights
from stackheads.models.forwards.fused import FusedForward
from stackheads.models.hooks import HeadEdit, run_edited
from stackheads.training.dropping import DroppingForward
from stackheads.types import HeadId


def test_nothing_dropped_is_the_model(random_model, generator):
    task, model = random_model
    tokens = task.sample(4, generator).tokens
    torch.testing.assert_close(
        DroppingForward(model, 0.0, generator)(tokens), FusedForward(model)(tokens), atol=1e-6, rtol=1e-6
    )


def test_a_dropped_head_writes_nothing(random_model, generator):
    """Every example equals a hooked run of the heads that the generator kept, doubled."""
    task, model = random_model
    batch = task.sample(6, generator)
    state = generator.get_state()
    found = DroppingForward(model, 0.5, generator)(batch.tokens)
    generator.set_state(state)
    kept = torch.stack([torch.rand(6, 2, generator=generator) >= 0.5 for _ in range(2)])
    assert 0 < kept.sum() < kept.numel()
    rows = torch.ones_like(batch.tokens, dtype=torch.bool)
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            weight *= 2 if name.endswith("W_O") else 1
        for example in range(6):
            gone = [(layer, head) for layer in range(2) for head in range(2) if not kept[layer, example, head]]
            edits = [HeadEdit(HeadId(*place), rows, torch.zeros(6, task.n_ctx, 8)) for place in gone]
            expected = run_edited(model, batch.tokens, edits)[example]
            torch.testing.assert_close(found[example], expected, atol=1e-5, rtol=1e-4)
