"""The fast sweep equals one hooked run for each cell, over random architectures."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import InterventionError
from stackheads.interventions import recorded
from stackheads.interventions.engine import sweep_positions
from stackheads.models import ModelConfig, build
from stackheads.models.hooks import HeadEdit, run_edited
from stackheads.tasks import Cycle
from stackheads.types import HeadId


@st.composite
def models(draw):
    config = ModelConfig(
        layers=draw(st.integers(1, 4)),
        heads=draw(st.integers(1, 8)),
        d_model=draw(st.sampled_from([8, 24])),
        d_head=draw(st.sampled_from([4, 8])),
        attn_only=draw(st.booleans()),
        normalization=draw(st.sampled_from(["LN", None])),
        positions=draw(st.sampled_from(["standard", "standard", "standard", "rotary"])),
        dtype=draw(st.sampled_from(["float32", "float64"])),
    )
    direction = draw(st.sampled_from(["causal", "bidirectional"]))
    read = draw(st.sampled_from(["all", "last", "odd", "none"]))
    return config, direction, read, draw(st.integers(0, 1000)), draw(st.sampled_from([1, 10**5, 10**9]))


@settings(max_examples=40)
@given(models())
def test_the_sweep_equals_hooked_runs(case):
    config, direction, read, seed, memory = case
    task = Cycle(symbols=4, max_hops=2, attention_dir=direction)
    model = build(config, task, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    clean = recorded(model, task.sample(2, generator))
    z = torch.randn(clean.run.z.shape, generator=generator, dtype=clean.run.z.dtype)
    position = torch.arange(task.n_ctx)
    marks = {"all": None, "last": position == task.n_ctx - 1, "odd": position % 2 == 1, "none": position < 0}[read]
    cells = list(sweep_positions(model, clean, z, marks, memory))
    places = [(cell.head.layer, cell.position, cell.head.index) for cell in cells]
    assert places == list(product(range(config.layers), range(task.n_ctx), range(config.heads)))
    tolerance = 1e-10 if config.dtype == "float64" else 1e-5
    for cell in cells[seed % 3 :: 7]:
        rows = torch.zeros_like(clean.batch.slots, dtype=torch.bool)
        rows[:, cell.position] = True
        edit = HeadEdit(cell.head, rows, z[cell.head.layer, :, :, cell.head.index])
        plain = run_edited(model, clean.batch.tokens, [edit])
        read_rows = slice(None) if marks is None else marks
        bound = tolerance * max(1, plain.abs().max().item())
        torch.testing.assert_close(cell.logits[:, read_rows], plain[:, read_rows], atol=bound, rtol=tolerance)


def test_another_shape_is_an_error(random_model, generator):
    task, model = random_model
    clean = recorded(model, task.sample(3, generator))
    with pytest.raises(InterventionError, match="shaped like the run's"):
        next(sweep_positions(model, clean, clean.run.z[:, :2]))
    assert next(sweep_positions(model, clean, clean.run.z)).head == HeadId(0, 0)
