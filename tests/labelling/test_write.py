"""Channel 3: a counterfactual shows something only where a source brings it; all else is asked by a matched example."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import subject

from stackheads import analyze
from stackheads.labelling.bench import bench_of
from stackheads.labelling.patched import Question, reached_otherwise
from stackheads.labelling.statistics import resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.write import Writes
from stackheads.seeds import Stream, stream
from stackheads.tables import records
from stackheads.tasks import Cycle, KHopInduction, Retrieval, labelling_batch
from stackheads.types import Destination, HeadId, Role, Slot
from stackheads.validation.known import load_known
from stackheads.validation.other_tasks import OTHER_TASKS
from stackheads.validation.specimens import Guise, specimen

TASKS = (
    Cycle(symbols=8, max_hops=3),
    Retrieval(chains=2, max_hops=3, attention_dir="causal"),
    KHopInduction(max_hops=3, symbols=4, context=24),
)


@settings(max_examples=30, deadline=None)
@given(task=st.sampled_from(TASKS), hop=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_what_is_reached_otherwise(task, hop, seed):
    """Counted out: the tokens on every chain of links, walked one by one, from where these can be seen."""
    numbers = torch.Generator().manual_seed(seed)
    batch = task.sample(6, numbers)
    other = task.counterfactual(batch, hop, numbers)
    found = reached_otherwise(task, batch, other)
    first = task.hops.index(1)

    def walk(one, example, place):
        tokens = [int(one.tokens[example, place])]
        for _ in range(max(task.hops)):
            place = int(one.find[example, first, place]) if place >= 0 else -1
            tokens.append(int(one.tokens[example, place]) if place >= 0 else None)
        return tokens

    for example in range(len(batch)):
        for place in (batch.slots[example] != Slot.KEY).nonzero().flatten().tolist():
            assert bool(found[example, place]) == (walk(batch, example, place) != walk(other, example, place))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_in_one_hop_induction_no_source_brings_a_value_slot_another_answer(seed):
    """Where its answer is another one, its own link leads elsewhere: why counterfactuals say nothing of heads there."""
    task = KHopInduction(max_hops=1, symbols=4, context=24)
    numbers = torch.Generator().manual_seed(seed)
    batch = task.sample(64, numbers)
    other = task.counterfactual(batch, 1, numbers)
    changed = (batch.slots == Slot.VALUE) & (batch.targets != other.targets)[..., 0]
    own = batch.tokens != other.tokens
    assert bool(changed.any())
    assert not bool((changed & ~own & (batch.find[:, 0] == other.find[:, 0])).any())


@pytest.mark.parametrize("name", ["khop-k1", "khop-k1-mlp"])
def test_a_head_that_no_counterfactual_can_tell_about_is_asked_by_matched_examples(checkpoints, name):
    """A trained model of which it is known, by interchange, that a head of the last layer brings hop 1 wherever it is asked."""
    known = load_known(checkpoints / "known" / name)
    carrying = {cell[0] for cell, truth in known.truth.items() if truth.role == Role("hop", 1) and truth.status == "confirmed"}
    labels = records(analyze(known.model, known.task, examples=256, explain=False, progress=False).labels)
    said = {(row["head"], row["destination"]): row for row in labels if row["role"] == "hop"}
    for head in carrying:
        for place in (Destination.QUERY, Destination.VALUE):
            assert said[str(head), place]["status"] == "confirmed"
    assert {head for head, _ in said} == {str(head) for head in carrying}


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_head_that_brings_the_place_where_it_looks_carries_something(noise):
    """By construction: what stands there is nothing to it, no counterfactual changes what it brings, a later head needs it."""
    made = specimen("v: k hops", OTHER_TASKS["v: k hops"](), Guise(seed=7, normalization=None, noise=noise))
    bringing = {cell for cell, truth in made.truth.items() if cell[0] == HeadId(1, 1) and truth.role == Role("hop", 1)}
    labels = records(analyze(made.model, made.task, examples=512, explain=False, progress=False).labels)
    found = {(row["head"], row["destination"]): row for row in labels}
    assert len(bringing) == 2
    for head, place in bringing:
        row = found[str(head), str(place)]
        assert (row["role"], row["hop"], row["status"]) == ("hop", 1, "confirmed")
        assert "from a matched example" in row["reason"]


def asking(model, task, examples):
    """What answers questions about what its heads carry."""
    thresholds = Thresholds()
    bench = bench_of(model, task, labelling_batch(task, examples, 0), thresholds)
    draws = resampling(examples, 500, thresholds.confidence, stream(0, Stream.BOOTSTRAP))
    return Writes(bench, draws, thresholds, stream(0, Stream.COUNTERFACTUALS))


@pytest.mark.parametrize("name", ["cycle-d4-l3", "khop-k2-l3"])
def test_another_example_s_hop_is_read_where_it_leads_there(name):
    """Counted out, row by row: what is read there gives way to what stands where the hop leads in the matched example."""
    model, task = subject(name)
    writes = asking(model, task, 12)
    head, role = HeadId(1, 0), Role("hop", 1)
    (edit,) = writes._elsewhere(Question((head,), Destination.VALUE, role))
    clean, number = writes.clean, task.hops.index(1)
    pattern, v, z = clean.run.of(head)
    find, other = clean.batch.find[:, number], clean.matched.example
    moved = 0
    for example in range(12):
        for row in range(task.n_ctx):
            mine, its = int(find[example, row]), int(find[other[example], row])
            expected = torch.zeros_like(v[0, 0])
            if mine >= 0 and its >= 0:
                expected = pattern[example, row, mine] * (v[other[example], its] - v[example, mine])
                moved += 1
            assert torch.allclose(edit.change[example, row], expected, atol=1e-5)
            assert torch.allclose(edit.z[example, row], z[example, row] + expected, atol=1e-5)
    assert moved > 12


def test_each_readout_is_asked_one_way(checkpoints):
    """By the counterfactuals that show something about it, or else by the matched example, and never by both."""
    known = load_known(checkpoints / "known" / "khop-k1")
    writes = asking(known.model, known.task, 256)
    questions = [
        Question((HeadId(1, head),), place, Role("hop", 1))
        for head in (0, 1)
        for place in (Destination.QUERY, Destination.VALUE)
    ]
    for question, told in zip(questions, writes.answer(questions), strict=True):
        ways = {way: {one.split()[-1] for one in told.tried if way in one} for way in ("counterfactual", "matched")}
        assert not ways["counterfactual"] & ways["matched"]
        assert len(told.tried) == len(told.moved)
        if question.destination == Destination.QUERY:
            assert "@query" in ways["counterfactual"]
        if question.destination == Destination.VALUE:
            assert "@value" in ways["matched"]
