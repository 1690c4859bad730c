"""Pads are not there: what is computed on examples with pads is what is computed on the examples alone."""

import pytest
import torch
from unique_copy import Padded

from stackheads.errors import TaskMismatchError
from stackheads.interventions import (
    Sender,
    ablate,
    destination_rows,
    direct_logits,
    patch,
    receiver_outputs,
    recorded,
    sweep_positions,
)
from stackheads.interventions.attribution import gradients
from stackheads.models import ModelConfig, build
from stackheads.models.forwards.patterned import Patterned
from stackheads.models.hooks import record, record_values
from stackheads.tasks.layout import real
from stackheads.types import HeadId

SIZE = 40
HEADS = [HeadId(0, 1), HeadId(1, 0)]

pytestmark = pytest.mark.filterwarnings("ignore:running the model through its own hooks")


@pytest.fixture(scope="module")
def model():
    """An untrained one, with weights large enough to make every path matter."""
    found = build(ModelConfig(layers=2, heads=2, d_model=16, d_head=8, attn_only=False), Padded("left"), seed=1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return found.eval()


@pytest.fixture(scope="module", params=["left", "right"])
def both(request, model):
    """Examples of one size with pads, the same alone, and where they stand in the padded ones."""
    task = Padded(request.param, (SIZE, SIZE))
    padded = task.sample(12, torch.Generator().manual_seed(0))
    there = real(padded)[0]
    assert int(there.sum()) == SIZE
    alone = padded.at(there.nonzero().flatten())
    first = int(there.nonzero()[0])
    find = torch.where(alone.find >= 0, alone.find - first, -1)
    alone = type(alone)(alone.tokens, alone.targets, alone.target_hop, find, alone.slots)
    return recorded(model, padded), recorded(model, alone), there


def close(found, expected, there):
    torch.testing.assert_close(found[:, there], expected, atol=1e-5, rtol=1e-4)


def test_a_model_that_looks_at_pads_all_the_same_is_refused():
    """TransformerLens 3 heeds a mask where attention is causal, and not where it looks both ways; 4 does."""
    task = Padded("right")
    task.attention_dir = "bidirectional"
    model = build(ModelConfig(layers=1, heads=2, d_model=16, d_head=8), task)
    batch = task.sample(4, torch.Generator().manual_seed(0))
    seen = record(model, batch.tokens, batch.pads).pattern * (~batch.pads[:, None, :, None] & batch.pads[:, None, None, :])
    if float(seen.max()) > 0:
        with pytest.raises(TaskMismatchError, match=r"has up to 0\.\d\d of a head's on them.*: give examples of one length"):
            recorded(model, batch)
    else:
        assert recorded(model, batch).run.pattern.sum() > 0
    whole = Padded("right", (Padded.n_ctx, Padded.n_ctx)).sample(4, torch.Generator().manual_seed(0))
    assert recorded(model, whole).run.pattern.sum() > 0


def test_nobody_looks_at_pads(both):
    padded, alone, there = both
    seen = padded.run.pattern[:, :, :, there]
    assert bool((seen[..., ~there] == 0).all())
    torch.testing.assert_close(seen[..., there], alone.run.pattern, atol=1e-5, rtol=1e-4)


def test_runs_are_those_of_the_examples_alone(model, both):
    padded, alone, there = both
    assert padded.hooked == "some positions are pads"
    assert alone.hooked is None
    close(padded.run.logits, alone.run.logits, there)
    logits, values = record_values(model, padded.batch.tokens, padded.batch.pads)
    close(logits, alone.run.logits, there)
    torch.testing.assert_close(values[:, :, there], alone.run.v, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["resample", "mean", "zero"])
@pytest.mark.parametrize("destination", ["value", "query"])
def test_ablations_are_those_of_the_examples_alone(model, both, method, destination):
    padded, alone, there = both
    close(*(ablate(model, run, HEADS, destination, method) for run in (padded, alone)), there)


def test_patches_are_those_of_the_examples_alone(model, both):
    padded, alone, there = both
    other = [recorded(model, run.batch[torch.arange(12).roll(1)]) for run in (padded, alone)]
    close(patch(model, padded, other[0], HEADS), patch(model, alone, other[1], HEADS), there)


def test_paths_are_those_of_the_examples_alone(model, both):
    padded, alone, there = both
    sent = [
        Sender(HEADS[0], destination_rows(run.batch, "value"), run.matched.of(run.run.of(HEADS[0])[2]))
        for run in (padded, alone)
    ]
    for part in ("q", "k", "v"):
        found = [
            receiver_outputs(model, run, HEADS[1], [sender], part)[0] for run, sender in zip((padded, alone), sent, strict=True)
        ]
        close(*found, there)
    close(direct_logits(model, padded, sent[0]), direct_logits(model, alone, sent[1]), there)


def test_a_sweep_is_that_of_the_examples_alone(model, both):
    padded, alone, there = both
    z = [torch.stack([run.matched.of(of_layer) for of_layer in run.run.z]) for run in (padded, alone)]
    first = int(there.nonzero()[0])
    mine = {(cell.head, cell.position - first): cell.logits for cell in sweep_positions(model, padded, z[0])}
    for cell in sweep_positions(model, alone, z[1]):
        if cell.position % 7 == 0:
            close(mine[cell.head, cell.position], cell.logits, there)


def test_given_patterns_and_means_are_those_of_the_examples_alone(model, both):
    padded, alone, there = both
    found = []
    for run in (padded, alone):
        rows = destination_rows(run.batch, "query")
        silent = torch.zeros(2, *rows.shape, 2, dtype=torch.bool)
        silent[0, :, :, 0] = rows
        given = Patterned(model, run.batch.tokens, run.run, rows, run.hooked is not None, run.places, run.batch.pads)
        pattern = torch.stack([run.matched.of(each.transpose(1, 2)).transpose(1, 2) for each in run.run.pattern])
        found.append(given.logits(pattern, silent))
    close(*found, there)


def test_gradients_are_those_of_the_examples_alone(model, both):
    padded, alone, there = both
    weight = torch.randn(SIZE, model.cfg.d_vocab_out, generator=torch.Generator().manual_seed(0))
    mine = gradients(model, padded.batch.tokens, lambda logits: (logits[:, there] * weight).sum(), pads=padded.batch.pads)
    theirs = gradients(model, alone.batch.tokens, lambda logits: (logits * weight).sum())
    torch.testing.assert_close(mine[:, :, there], theirs, atol=1e-4, rtol=1e-3)
