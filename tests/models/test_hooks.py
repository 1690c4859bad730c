"""Recording and editing leave the caller's model as it was, and edits act or say that they did not."""

import copy

import numpy as np
import pytest
import torch

from stackheads import analyze
from stackheads.errors import InterventionError
from stackheads.explanation.selection import kept_accuracy
from stackheads.models.hooks import HeadEdit, PatternEdit, edited, hook_name, record, record_values, run_edited
from stackheads.models.native import has_hooked_transformer
from stackheads.types import HeadId


def test_recording_equals_transformer_lens_cache(random_model, generator):
    task, model = random_model
    tokens = task.sample(4, generator).tokens
    run = record(model, tokens)
    logits, cache = model.run_with_cache(tokens)
    assert torch.equal(run.logits, logits)
    for layer in range(2):
        assert torch.equal(run.pattern[layer], cache["pattern", layer])
        assert torch.equal(run.v[layer], cache["v", layer])
        assert torch.equal(run.z[layer], cache["z", layer])


def test_a_record_in_parts_is_the_record(random_model, generator):
    task, model = random_model
    tokens = task.sample(5, generator).tokens
    run, parts = record(model, tokens), record(model, tokens, part=2)
    for name in ("logits", "pattern", "v", "z", "residual", "q", "k"):
        assert torch.allclose(getattr(run, name), getattr(parts, name), atol=1e-6)
        some = getattr(run.part(torch.tensor([3, 1])), name)
        assert torch.equal(some, getattr(run, name)[[3, 1]] if name == "logits" else getattr(run, name)[:, [3, 1]])


def test_editing_with_the_runs_own_values_changes_nothing(random_model, generator):
    task, model = random_model
    tokens = task.sample(4, generator).tokens
    run = record(model, tokens)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    for head in (HeadId(0, 1), HeadId(1, 0)):
        pattern, _, z = run.of(head)
        for edit in (HeadEdit(head, everywhere, z), PatternEdit(head, everywhere, pattern)):
            torch.testing.assert_close(run_edited(model, tokens, [edit]), run.logits, atol=1e-6, rtol=1e-6)


def test_an_edit_stays_on_its_rows_and_its_head(random_model, generator):
    task, model = random_model
    tokens = task.sample(4, generator).tokens
    before = record(model, tokens)
    rows = torch.zeros_like(tokens, dtype=torch.bool)
    rows[:, 3] = True
    with edited(model, [HeadEdit(HeadId(0, 1), rows, torch.zeros_like(before.of(HeadId(0, 1))[2]))]):
        after = record(model, tokens)
    unchanged = torch.ones_like(before.z[0], dtype=torch.bool)
    unchanged[:, 3, 1] = False
    assert torch.equal(before.z[0][unchanged], after.z[0][unchanged])
    assert not torch.equal(before.z[1], after.z[1])


def test_the_callers_model_hooks_and_mode_survive_an_error(random_model, generator):
    task, model = random_model
    tokens = task.sample(2, generator).tokens
    model.train()
    seen = []
    model.add_hook(hook_name(0, "z"), lambda value, hook: seen.append(1))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    z = torch.zeros(2, task.n_ctx, 8)
    rows = torch.ones_like(tokens, dtype=torch.bool)

    def metric(logits):
        raise RuntimeError("metric")

    with pytest.raises(RuntimeError, match="metric"), edited(model, [HeadEdit(HeadId(1, 0), rows, z)]):
        metric(model(tokens))
    assert model.training
    assert len(model.hook_dict[hook_name(1, "z")].fwd_hooks) == 0
    assert len(model.hook_dict[hook_name(0, "z")].fwd_hooks) == 1
    seen.clear()
    record(model, tokens)
    assert seen == [1]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model.reset_hooks()


def test_nothing_needs_a_gradient(random_model, generator):
    task, model = random_model
    assert not record(model, task.sample(2, generator).tokens).logits.requires_grad


def test_an_edit_that_never_ran_is_an_error(random_model, generator):
    task, model = random_model
    rows = torch.ones(2, task.n_ctx, dtype=torch.bool)
    edit = HeadEdit(HeadId(0, 0), rows, torch.zeros(2, task.n_ctx, 8))
    with pytest.raises(InterventionError, match="L0H0 did not"), edited(model, [edit]):
        pass


def share_attention(model):
    model.blocks[1].attn = model.blocks[0].attn


def share_layer(model):
    model.blocks[1] = model.blocks[0]


def share_hook(model):
    model.blocks[1].attn.hook_v = model.blocks[0].attn.hook_v


def copy_attention(model):
    """Its hooks have the names of those that they were copied from until `setup` is called."""
    model.blocks[1].attn = copy.deepcopy(model.blocks[0].attn)


def edit_first(model, task, tokens):
    run_edited(model, tokens, [HeadEdit(HeadId(0, 0), tokens >= 0, torch.zeros(*tokens.shape, 8))])


OF_ITS_OWN = pytest.mark.skipif(not has_hooked_transformer(), reason="what a bridge runs is not what its parts are called")
USES = {
    "record": lambda model, task, tokens: record(model, tokens),
    "values": lambda model, task, tokens: record_values(model, tokens),
    "edit": edit_first,
    "analyze": lambda model, task, tokens: analyze(model, task, examples=32, progress=False),
    "select": lambda model, task, tokens: kept_accuracy(model, task, [HeadId(0, 0)], examples=32),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("exchange", [pytest.param(share_attention, marks=OF_ITS_OWN), share_layer])
def test_layers_that_share_their_heads_are_refused_wherever_heads_are_meant(exchange, use, random_model, generator):
    task, model = random_model
    tokens = task.sample(2, generator).tokens
    exchange(model)
    with pytest.raises(InterventionError, match="layers 0 and 1 share theirs, which can't be told apart: give layer 1 a copy"):
        use(model, task, tokens)


@OF_ITS_OWN
@pytest.mark.parametrize(("exchange", "ready"), [(share_hook, False), (share_hook, True), (copy_attention, False)])
def test_a_layer_whose_hooks_do_not_run_is_named(exchange, ready, random_model, generator):
    """What was recorded of it was what stood in memory."""
    task, model = random_model
    exchange(model)
    if ready:
        model.setup()
    for look in (record, record_values):
        with pytest.raises(InterventionError, match=r"must run blocks\.1\.attn\.hook_\w+ .*: give every layer attention"):
            look(model, task.sample(2, generator).tokens)


@OF_ITS_OWN
def test_a_copy_that_is_set_up_is_recorded(random_model, generator):
    task, model = random_model
    copy_attention(model)
    model.setup()
    pattern = record(model, task.sample(2, generator).tokens).pattern
    torch.testing.assert_close(pattern.sum(dim=-1), torch.ones(pattern.shape[:-1]))


def test_a_head_that_does_not_exist_is_an_error(random_model):
    task, model = random_model
    rows = torch.ones(2, task.n_ctx, dtype=torch.bool)
    edit = HeadEdit(HeadId(2, 0), rows, torch.zeros(2, task.n_ctx, 8))
    with pytest.raises(InterventionError, match="L0H0 to L1H1, got L2H0"), edited(model, [edit]):
        pass


@pytest.mark.parametrize("name", ["L2H1", "L0H13"])
def test_head_names_read_back(name):
    assert str(HeadId.parse(name)) == name


@pytest.mark.parametrize("name", ["2.1", "L2", "L-1H0", "l2h1", ""])
def test_bad_head_names_are_refused(name):
    with pytest.raises(InterventionError, match="written like L2H1"):
        HeadId.parse(name)


@pytest.mark.parametrize("kind", [int, np.int64, torch.tensor])
def test_a_head_is_named_by_whole_numbers_of_any_kind(kind):
    head = HeadId(0, 0)
    for name, number in {"layer": 2, "index": 1}.items():
        object.__setattr__(head, name, kind(number))  # as where no type checker stands in the way
    found = HeadId.of(head)
    assert found == HeadId(2, 1)
    assert type(found.layer) is type(found.index) is int
