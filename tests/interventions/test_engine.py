"""The engine equals one hooked run for each intervention, over random architectures, directions, edits, reads and memory."""

import dataclasses
from itertools import product

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_models import DIRECTIONS, READS, SEEDS, assert_same_logits, configs, make_edit, marks, places, random_run

from stackheads.errors import InterventionError, StackheadsWarning
from stackheads.interventions import recorded, rerun, run_variants, sweep_positions
from stackheads.models import ModelConfig, memory
from stackheads.models.hooks import HeadEdit, run_edited
from stackheads.models.native import has_hooked_transformer
from stackheads.types import HeadId

MEMORIES = st.sampled_from([1, 10**4, 10**9])
SMALL = ModelConfig(layers=1, heads=1, d_model=8, d_head=4)
CONFLICT = ((SMALL, [[(0, 0, "z", "query"), (0, 0, "pattern", "query")]]), "causal", "all", 0, 10**9, False)
"""Output and pattern of one head edited at one row: the output wins, whatever the order."""
DEEPER = SMALL.model_copy(update={"layers": 3})
CARRIED = ((DEEPER, [[(0, 0, "carried", "value"), (1, 0, "carried", "query")]]), "causal", "all", 0, 10**9, True)
"""What is carried, changed in two layers: the later head has heard of the first change; its output is that, changed."""
WIDE = SMALL.model_copy(update={"layers": 2, "heads": 2, "d_head": 48})
FEW = ((WIDE, [[(0, 0, "z", "value")], [(0, 1, "pattern", "value")]]), "causal", "odd", 0, 10**9, False)
"""The last layer reads few rows, which see sources that change between others that do not."""


@st.composite
def sweeps(draw):
    config = draw(configs(positions=("standard", "standard", "standard", "rotary")))
    return config, draw(st.lists(places(config), min_size=1, max_size=3))


@settings(max_examples=30)
@given(sweeps(), DIRECTIONS, READS, SEEDS, MEMORIES, st.booleans())
@example(*CONFLICT)
@example(*CARRIED)
@example(*FEW)
@example(FEW[0], "bidirectional", *FEW[2:])
def test_variants_equal_hooked_runs(case, direction, read, seed, memory, sharp):
    config, lists = case
    config = config.model_copy(update={"dtype": "float64"}) if sharp else config
    _, model, clean = random_run(config, direction, seed, sharp=sharp)
    generator = torch.Generator().manual_seed(seed)
    variants = [[make_edit(clean.batch, config, place, generator) for place in some] for some in lists]
    wanted = marks(read, clean.batch.tokens.shape[1])
    found = list(run_variants(model, clean, variants, read=wanted, memory=memory))
    assert len(found) == len(variants)
    for logits, edits in zip(found, variants, strict=True):
        expected = run_edited(model, clean.batch.tokens, edits)
        assert_same_logits(logits, expected, config, slice(None) if wanted is None else wanted)
        if wanted is not None:
            assert torch.equal(logits[:, ~wanted], clean.run.logits[:, ~wanted])


@settings(max_examples=15)
@given(sweeps(), DIRECTIONS, READS, SEEDS)
def test_with_norms_frozen_it_equals_hooks_that_hold_the_scales(case, direction, read, seed):
    config, (some, *_) = case
    config = config.model_copy(update={"normalization": "LN"})
    _, model, clean = random_run(config, direction, seed)
    generator = torch.Generator().manual_seed(seed)
    edits = [make_edit(clean.batch, config, place, generator) for place in some]
    _, cache = model.run_with_cache(clean.batch.tokens)
    hold = [(name, lambda value, hook: cache[hook.name]) for name in cache if name.endswith("hook_scale")]
    with model.hooks(fwd_hooks=hold):
        expected = run_edited(model, clean.batch.tokens, edits)
    wanted = marks(read, clean.batch.tokens.shape[1])
    found = rerun(model, clean, edits, frozen_norms=True, read=wanted)
    assert_same_logits(found, expected, config, slice(None) if wanted is None else wanted)


@settings(max_examples=12)
@given(configs(positions=("standard", "standard", "standard", "rotary")), DIRECTIONS, READS, SEEDS, MEMORIES, st.booleans())
def test_the_sweep_equals_hooked_runs(config, direction, read, seed, memory, sharp):
    config = config.model_copy(update={"dtype": "float64"}) if sharp else config
    task, model, clean = random_run(config, direction, seed, symbols=4, examples=2, sharp=sharp)
    z = torch.randn(clean.run.z.shape, generator=torch.Generator().manual_seed(seed), dtype=clean.run.z.dtype)
    wanted = marks(read, task.n_ctx)
    cells = list(sweep_positions(model, clean, z, wanted, memory))
    places = [(cell.head.layer, cell.position, cell.head.index) for cell in cells]
    assert places == list(product(range(config.layers), range(task.n_ctx), range(config.heads)))
    for cell in cells[seed % 3 :: 7]:
        rows = torch.zeros_like(clean.batch.slots, dtype=torch.bool)
        rows[:, cell.position] = True
        edit = HeadEdit(cell.head, rows, z[cell.head.layer, :, :, cell.head.index])
        expected = run_edited(model, clean.batch.tokens, [edit])
        assert_same_logits(cell.logits, expected, config, slice(None) if wanted is None else wanted)


def test_without_residuals_the_hooked_forward_is_taken(random_model, generator):
    task, model = random_model
    clean = recorded(model, task.sample(3, generator))
    edit = HeadEdit(HeadId(0, 1), clean.batch.slots == 1, torch.zeros_like(clean.run.z[0, :, :, 1]))
    without = dataclasses.replace(clean, run=dataclasses.replace(clean.run, residual=None))
    torch.testing.assert_close(rerun(model, without, [edit]), rerun(model, clean, [edit]), atol=1e-5, rtol=1e-5)


def in_inference_mode(model):
    with torch.inference_mode():
        model.embed.W_E[0] = 0


CHANGES = {
    "weights, through data": lambda model: model.blocks[0].attn.W_O.data.mul_(2),
    "heads, exchanged": lambda model: model.blocks[0].attn.W_O.data.copy_(model.blocks[0].attn.W_O.flip(0)),
    "weights, in inference mode": in_inference_mode,
    "a norm's epsilon": lambda model: setattr(model.blocks[0].ln1, "eps", 1.0),
    "an attention's scale": lambda model: setattr(model.blocks[1].attn, "attn_scale", 1.0),
    "an activation": lambda model: setattr(model.blocks[0].mlp, "act_fn", torch.nn.functional.silu),
}


PARTS = ("a norm's epsilon", "an attention's scale", "an activation")
"""What a bridge keeps elsewhere than where its parts show it."""
CHANGES = {name: change for name, change in CHANGES.items() if name not in PARTS or has_hooked_transformer()}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_of_a_model_was_changed_it_is_no_more_the_one_that_was_recorded(change):
    """What is at hand goes through its own hooks, which give other logits than the recorded run would."""
    config = ModelConfig(layers=2, heads=2, d_model=16, d_head=8, attn_only=False)
    with torch.inference_mode(change is in_inference_mode):
        _, model, clean = random_run(config, "causal", 0)
    edit = make_edit(clean.batch, config, (0, 0, "z", "everywhere"), torch.Generator().manual_seed(0))
    before = rerun(model, clean, [edit])
    change(model)
    with pytest.warns(StackheadsWarning, match="not as it was"):
        after = rerun(model, clean, [edit])
    assert torch.equal(after, run_edited(model, clean.batch.tokens, [edit]))
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("of", [lambda rows: rows, lambda rows: rows.data], ids=["rows", "data"])
def test_rows_that_were_changed_are_looked_through_again(of, inference, random_model, generator):
    """Where an edit acts is what its rows mark now, not when they were seen first."""
    task, model = random_model
    clean = recorded(model, task.sample(3, generator))
    with torch.inference_mode(inference):
        rows = clean.batch.slots < 0
        edit = HeadEdit(HeadId(0, 1), rows, torch.zeros_like(clean.run.z[0, :, :, 1]))
        assert torch.equal(rerun(model, clean, [edit]), clean.run.logits)
        of(rows)[:, 1:] = True
        expected = run_edited(model, clean.batch.tokens, [edit])
        torch.testing.assert_close(rerun(model, clean, [edit]), expected, atol=1e-5, rtol=1e-5)


def test_a_head_that_does_not_exist_and_another_shape_are_errors(random_model, generator):
    task, model = random_model
    clean = recorded(model, task.sample(2, generator))
    edit = HeadEdit(HeadId(0, 2), clean.batch.slots == 1, torch.zeros_like(clean.run.z[0, :, :, 1]))
    with pytest.raises(InterventionError, match="L0H0 to L1H1, got L0H2"):
        rerun(model, clean, [edit])
    with pytest.raises(InterventionError, match="shaped like the run's"):
        next(sweep_positions(model, clean, clean.run.z[:, :1]))


def test_freed_memory_is_kept_from_batch_to_batch_and_no_longer(random_model, generator):
    task, model = random_model
    clean = recorded(model, task.sample(2, generator))
    edit = HeadEdit(HeadId(0, 1), clean.batch.slots == 1, torch.zeros_like(clean.run.z[0, :, :, 1]))
    for runs in (run_variants(model, clean, [[edit], []]), sweep_positions(model, clean, clean.run.z)):
        assert memory._inside == 0
        next(runs)
        assert memory._inside == 1
        runs.close()  # the second is not asked for
        assert memory._inside == 0
