"""Labels do not change when the model, its symbols or its examples are written down differently (docs/method/evidence.md)."""

from collections import defaultdict
from functools import cache

import pytest
import rewritten
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from labelled import labelled
from subjects import COMPILED, TRAINED, subject

EXAMPLES = 64
MANY = defaultdict(lambda: 256, {"khop-k2-l3": 512})
"""As many as it takes for most verdicts, and to say *none* and *pattern-only*; more where each asks one of several hops."""
SHARE = 0.6
SEED = 3
SEEDS = st.integers(0, 1000)
FEW = settings(max_examples=2, phases=[Phase.explicit, Phase.generate])  # an analysis costs too much to look for a smaller case
KINDS = pytest.mark.parametrize("names", [tuple(COMPILED), TRAINED], ids=["compiled", "trained"])


def labels(model, task, examples=EXAMPLES):
    return labelled(model, task, examples, SEED)


@cache
def plain(name, examples=EXAMPLES):
    return labels(*subject(name), examples)


def drawn(draw, names):
    """A subject: its name, the model and the task."""
    name = draw.draw(st.sampled_from(names))
    return name, *subject(name)


def generator(seed):
    return torch.Generator().manual_seed(seed)


MODELS = {
    "the residual basis rotated": rewritten.rotated,
    "W_Q W_K and W_V W_O refactored": rewritten.refactored,
    "LayerNorm folded": lambda model, _: rewritten.folded(model),
    "LayerNorm folded away": lambda model, _: rewritten.folded(model, pre=True),
    "in float64": lambda model, _: rewritten.doubled(model),
}


@pytest.mark.parametrize("how", MODELS)
@KINDS
@given(draw=st.data(), seed=SEEDS)
@FEW
def test_labels_do_not_depend_on_how_a_model_is_written_down(how, names, draw, seed):
    name, model, task = drawn(draw, names)
    assert labels(MODELS[how](model, generator(seed)), task) == plain(name)


@KINDS
@given(draw=st.data(), seed=SEEDS)
@FEW
def test_labels_move_with_their_heads(names, draw, seed):
    name, model, task = drawn(draw, names)
    other, names = rewritten.with_heads_permuted(model, generator(seed))
    assert labels(other, task) == {(names[head], where): rows for (head, where), rows in plain(name).items()}


@KINDS
@given(draw=st.data(), seed=SEEDS)
@FEW
def test_labels_do_not_depend_on_what_symbols_are_called(names, draw, seed):
    name, model, task = drawn(draw, names)
    assert labels(*rewritten.renamed(model, task, generator(seed))) == plain(name)


def decided(found):
    """The verdicts that say something."""
    return {key: rows for key, rows in found.items() if all(status != "undecided" for status, *_ in rows)}


def agree(one, other):
    """The same verdict wherever both sides have one.

    Examples in another order have other partners, whose outputs replace theirs in resample ablation, and lie in other halves of
    the sample; further examples are further evidence. So a row may be undecided on one side only. No verdict may turn into
    another. Most rows are decided on both sides, or nothing is compared. Given is which verdicts were.
    """
    assert one.keys() == other.keys()
    cells = len(one)
    one, other = decided(one), decided(other)
    shared = one.keys() & other.keys()
    assert len(shared) >= SHARE * cells
    assert {key: one[key] for key in shared} == {key: other[key] for key in shared}
    return {status for key in shared for status, *_ in one[key]}


@KINDS
@given(draw=st.data(), seed=SEEDS)
@FEW
def test_labels_do_not_depend_on_the_order_of_examples(names, draw, seed):
    name, model, task = drawn(draw, names)
    agree(labels(model, rewritten.Shuffled(task, seed), MANY[name]), plain(name, MANY[name]))


def test_verdicts_of_heads_that_do_nothing_do_not_depend_on_the_order_of_examples_either():
    model, task = subject("tripling")
    compared = agree(labels(model, rewritten.Shuffled(task, 5), MANY["tripling"]), plain("tripling", MANY["tripling"]))
    assert compared == {"confirmed", "pattern-only", "none"}


@KINDS
@given(draw=st.data(), more=st.integers(1, EXAMPLES))
@FEW
def test_further_examples_turn_no_verdict_into_another(names, draw, more):
    name, model, task = drawn(draw, names)
    agree(labels(model, rewritten.Padded(task, MANY[name]), MANY[name] + more), plain(name, MANY[name]))
