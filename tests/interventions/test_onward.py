"""A run taken up from an edited one equals the hooked run with all edits, over random architectures, directions and edits."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_models import DIRECTIONS, SEEDS, assert_same_logits, configs, make_edit, places, random_run

from stackheads.errors import InterventionError, StackheadsWarning
from stackheads.interventions import edited_run, onward, run_variants
from stackheads.models import ModelConfig
from stackheads.models.hooks import HeadEdit, run_edited


@st.composite
def cases(draw):
    config = draw(configs())
    return config, draw(places(config)), draw(st.lists(places(config, at_most=1), min_size=1, max_size=2))


@settings(max_examples=25, deadline=None)
@given(cases(), DIRECTIONS, SEEDS)
def test_a_change_of_an_edited_run_is_the_run_with_both(case, direction, seed):
    config, first, later = case
    _, model, clean = random_run(config, direction, seed)
    generator = torch.Generator().manual_seed(seed)
    made = [make_edit(clean.batch, config, (*place[:2], "z", place[3]), generator) for place in first]
    changes = [make_edit(clean.batch, config, (*place[:2], "z", place[3]), generator) for some in later for place in some]
    assume(changes)
    base = edited_run(model, clean, made)
    assert_same_logits(base.run.logits, run_edited(model, clean.batch.tokens, made), config)
    for change, logits in zip(changes, run_variants(model, base, [onward(model, it, made) for it in changes]), strict=True):
        assert_same_logits(logits, run_edited(model, clean.batch.tokens, [*made, change]), config)


@settings(max_examples=10, deadline=None)
@given(configs(), DIRECTIONS, SEEDS)
def test_taking_an_edit_back_is_the_run_without_it(config, direction, seed):
    """What a head gives of itself in the edited run is its pattern times its values there."""
    _, model, clean = random_run(config, direction, seed)
    generator, last = torch.Generator().manual_seed(seed), config.layers - 1
    before, gone, after = (
        make_edit(clean.batch, config, place, generator)
        for place in ((0, 0, "z", "value"), (last // 2, config.heads - 1, "z", "query"), (last, 0, "z", "everywhere"))
    )
    assume(len({before.head, gone.head, after.head}) == 3)
    base = edited_run(model, clean, [before, gone, after])
    pattern, v, _ = base.run.of(gone.head)
    back = onward(model, HeadEdit(gone.head, gone.rows, pattern @ v), [before, gone, after])
    (logits,) = run_variants(model, base, [back])
    assert_same_logits(logits, run_edited(model, clean.batch.tokens, [before, after]), config)


def test_an_edited_run_that_is_no_more_the_models_is_refused():
    """Hooks on the model would not make its edits again."""
    config = ModelConfig(layers=2, heads=2, d_model=16, d_head=8)
    _, model, clean = random_run(config, "causal", 0)
    edit = make_edit(clean.batch, config, (0, 0, "z", "everywhere"), torch.Generator().manual_seed(0))
    base = edited_run(model, clean, [edit])
    next(model.parameters()).data[0] = 0
    with pytest.raises(InterventionError, match="record it anew"), pytest.warns(StackheadsWarning):
        list(run_variants(model, base, [[edit]]))
