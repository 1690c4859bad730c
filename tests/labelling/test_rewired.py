"""What a head carries is the same whether counterfactuals are taken up, a part of the examples at a time, or run whole."""

from dataclasses import replace

import pytest
import torch
from subjects import subject

from stackheads.labelling import rewired
from stackheads.labelling.bench import bench_of
from stackheads.labelling.patched import Question
from stackheads.labelling.rewired import counterfactuals
from stackheads.labelling.statistics import resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.write import Writes
from stackheads.models.hooks import analysing, record_values
from stackheads.seeds import Stream, stream
from stackheads.tasks import labelling_batch
from stackheads.types import Destination, HeadId, Role

EXAMPLES = 32
QUESTIONS = [
    Question((HeadId(layer, 0),), place, role)
    for layer in (0, 1, 2)
    for place in (Destination.QUERY, Destination.VALUE)
    for role in (Role("hop", 1), Role("hop", 2), Role("previous"))
]
PAIRS = ((HeadId(1, 0), HeadId(1, 1)), (HeadId(0, 0), HeadId(2, 0)))
QUESTIONS += [Question(pair, place, Role("hop", 1)) for pair in PAIRS for place in (Destination.QUERY, Destination.VALUE)]
"""Of several heads, too, of one layer or of two: what begins at the same rows is run together."""


@pytest.mark.parametrize("name", ["cycle-d4-l3", "chain-d4-l4", "khop-k2-l3"])
def test_parts_say_what_whole_runs_say(name, monkeypatch):
    monkeypatch.setattr(rewired, "WORTH", 10**9)  # parts of few examples
    model, task = subject(name)
    thresholds = Thresholds()
    draws = resampling(EXAMPLES, 100, thresholds.confidence, stream(0, Stream.BOOTSTRAP))
    bench = bench_of(model, task, labelling_batch(task, EXAMPLES, 0), thresholds)
    parts = counterfactuals(bench, "value", 1, [HeadId(0, 0)], stream(0, Stream.COUNTERFACTUALS))
    assert len(list(parts)) > 1  # and so not whole
    whole = replace(bench, clean=replace(bench.clean, hooked="here all runs are whole"))
    with analysing(model):
        fast, plain = (
            Writes(each, draws, thresholds, stream(0, Stream.COUNTERFACTUALS)).answer(QUESTIONS) for each in (bench, whole)
        )
    assert any(len(one.moved) for one in fast)
    for one, other in zip(fast, plain, strict=True):
        assert (one.tried, one.acting, one.left_out) == (other.tried, other.acting, other.left_out)
        for part in ("value", "low", "high"):
            assert torch.allclose(getattr(one.moved, part), getattr(other.moved, part), atol=1e-4)


def test_a_model_that_embeds_in_its_own_way_is_run_as_it_is(monkeypatch):
    """A run may be taken up behind the embedding, but other tokens begin before it."""
    model, task = subject("chain-d4-l4")
    embed = model.input_to_embed

    def louder(*args, **kwargs):
        residual, *more = embed(*args, **kwargs)
        return (1.3 * residual, *more)

    monkeypatch.setattr(model, "input_to_embed", louder)
    bench = bench_of(model, task, labelling_batch(task, EXAMPLES, 0), Thresholds())
    with analysing(model):
        (whole,) = counterfactuals(bench, "value", 1, [HeadId(0, 0)], stream(0, Stream.COUNTERFACTUALS))
        logits, _ = record_values(model, whole.other.tokens)
    assert bench.clean.hooked is None
    assert torch.equal(whole.logits, logits)
