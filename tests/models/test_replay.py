"""Taking a recorded run up again with edits equals the hooked forward, over random architectures, edits and directions."""

import dataclasses

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stackheads.errors import InterventionError
from stackheads.models import ModelConfig, build
from stackheads.models.hooks import HeadEdit, PatternEdit, record, run_edited
from stackheads.models.replay import replay
from stackheads.tasks import Cycle
from stackheads.types import HeadId


@st.composite
def cases(draw):
    config = ModelConfig(
        layers=draw(st.integers(1, 4)),
        heads=draw(st.integers(1, 8)),
        d_model=draw(st.sampled_from([8, 24])),
        d_head=draw(st.sampled_from([4, 8])),
        attn_only=draw(st.booleans()),
        normalization=draw(st.sampled_from(["LN", None])),
        positions=draw(st.sampled_from(["standard", "standard", "rotary"])),
        dtype=draw(st.sampled_from(["float32", "float64"])),
    )
    edits = draw(
        st.lists(
            st.tuples(
                st.integers(0, config.layers - 1),
                st.integers(0, config.heads - 1),
                st.sampled_from(["z", "pattern"]),
                st.sampled_from(["query", "value", "everywhere", "one row"]),
            ),
            max_size=4,
        )
    )
    return config, edits, draw(st.sampled_from(["causal", "bidirectional"])), draw(st.integers(0, 1000))


def make_edit(batch, config, place, generator):
    layer, index, kind, where = place
    n, p = batch.tokens.shape
    rows = {
        "query": batch.slots == 2,
        "value": batch.slots == 1,
        "everywhere": torch.ones(n, p, dtype=torch.bool),
        "one row": torch.arange(p).expand(n, p) == 2,
    }[where]
    dtype = getattr(torch, config.dtype)
    if kind == "z":
        return HeadEdit(HeadId(layer, index), rows, torch.randn(n, p, config.d_head, generator=generator).to(dtype))
    pattern = torch.rand(n, p, p, generator=generator).tril().to(dtype)
    return PatternEdit(HeadId(layer, index), rows, pattern / pattern.sum(dim=-1, keepdim=True))


CONFLICT = (
    ModelConfig(layers=1, heads=1, d_model=8, d_head=4),
    [(0, 0, "z", "query"), (0, 0, "pattern", "query")],
    "causal",
    0,
)
"""Output and pattern of one head edited at one row: the output wins, whatever the order."""


@settings(max_examples=80)
@given(cases())
@example(CONFLICT)
def test_replay_equals_the_hooked_forward(case):
    config, places, direction, seed = case
    task = Cycle(symbols=5, max_hops=2, attention_dir=direction)
    model = build(config, task, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(3, generator)
    run = record(model, batch.tokens)
    edits = [make_edit(batch, config, place, generator) for place in places]
    plain = run_edited(model, batch.tokens, edits)
    fast = replay(model, batch.tokens, run, edits)
    tolerance = 1e-10 if config.dtype == "float64" else 1e-5
    torch.testing.assert_close(fast, plain, atol=tolerance * max(1, plain.abs().max().item()), rtol=tolerance)


@settings(max_examples=30)
@given(cases())
def test_with_norms_frozen_it_equals_hooks_that_hold_the_scales(case):
    config, places, direction, seed = case
    config = config.model_copy(update={"positions": "standard", "normalization": "LN"})
    task = Cycle(symbols=5, max_hops=2, attention_dir=direction)
    model = build(config, task, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(3, generator)
    run = record(model, batch.tokens)
    edits = [make_edit(batch, config, place, generator) for place in places]
    _, cache = model.run_with_cache(batch.tokens)
    scales = [name for name in cache if name.endswith("hook_scale")]
    hold = [(name, lambda value, hook: cache[hook.name]) for name in scales]
    with model.hooks(fwd_hooks=hold):
        plain = run_edited(model, batch.tokens, edits)
    frozen = replay(model, batch.tokens, run, edits, frozen_norms=True)
    tolerance = 1e-10 if config.dtype == "float64" else 1e-5
    torch.testing.assert_close(frozen, plain, atol=tolerance * max(1, plain.abs().max().item()), rtol=tolerance)


def test_norms_that_cannot_be_frozen_are_an_error(generator):
    task = Cycle(symbols=5, max_hops=2)
    model = build(ModelConfig(layers=1, heads=1, d_model=8, d_head=4, positions="rotary"), task)
    batch = task.sample(2, generator)
    with pytest.raises(InterventionError, match="frozen norms need a model"):
        replay(model, batch.tokens, record(model, batch.tokens), [], frozen_norms=True)


def test_without_residuals_the_hooked_forward_is_taken(random_model, generator):
    task, model = random_model
    batch = task.sample(3, generator)
    run = record(model, batch.tokens)
    edit = HeadEdit(HeadId(0, 1), batch.slots == 1, torch.zeros_like(run.z[0, :, :, 1]))
    without = dataclasses.replace(run, residual=None)
    torch.testing.assert_close(
        replay(model, batch.tokens, without, [edit]), replay(model, batch.tokens, run, [edit]), atol=1e-5, rtol=1e-5
    )


def test_a_head_that_does_not_exist_is_an_error(random_model, generator):
    task, model = random_model
    batch = task.sample(2, generator)
    run = record(model, batch.tokens)
    edit = HeadEdit(HeadId(0, 2), batch.slots == 1, torch.zeros_like(run.z[0, :, :, 1]))
    with pytest.raises(InterventionError, match="L0H0 to L1H1, got L0H2"):
        replay(model, batch.tokens, run, [edit])
