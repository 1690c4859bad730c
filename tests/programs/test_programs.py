"""Compiled circuits solve their task, do in each head what their program says, and carry the right labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.models.hooks import record
from stackheads.models.nulls import permuted_heads
from stackheads.programs.compiler import compile_layers
from stackheads.programs.heads import TOKEN, Copy, HeadSpec, ProgramError, plain_readouts, register
from stackheads.programs.mechanisms import MECHANISMS, OVER_KEYS, doubling, one_hop_per_layer, tripling
from stackheads.programs.program import Program, Step, lower, possible_part
from stackheads.tasks import Cycle, KHopInduction, Retrieval
from stackheads.tasks.scoring import correct
from stackheads.types import Destination, HeadId, Role
from stackheads.validation.drawn import separately
from stackheads.validation.specimens import CIRCUITS, Guise, specimen
from stackheads.validation.truth import labels_by_construction


def share_right(model, task, examples=128):
    batch = task.sample(examples, torch.Generator().manual_seed(3))
    right = correct(task.readout(model(batch.tokens), batch), batch.targets)
    return (right.sum() / (batch.targets >= 0).sum()).item()


@settings(max_examples=12)
@given(st.data())
def test_every_mechanism_solves_its_task_exactly_in_every_guise(data):
    hops = data.draw(st.integers(1, 4))
    name = data.draw(st.sampled_from(list(MECHANISMS)))
    supervision = "chain" if name == "one hop per layer" else "dense"
    if name == "tripling":
        task = Cycle(symbols=2 * hops + 2, max_hops=hops, supervision=supervision)
    else:
        task = Retrieval(chains=2, max_hops=hops, supervision=supervision, attention_dir="causal")
    model, config = compile_layers(
        lower(MECHANISMS[name](hops)),
        task,
        normalization=data.draw(st.sampled_from(["LN", None])),
        sharpness=data.draw(st.sampled_from([14.0, 20.0])),
        rotation_seed=data.draw(st.sampled_from([None, 0, 1])),
    )
    assert config.layers == MECHANISMS[name](hops).n_layers
    assert share_right(model, task) == 1.0


@settings(max_examples=12)
@given(st.data())
def test_a_walk_over_keys_solves_its_task_exactly_in_every_guise(data):
    hops, name = data.draw(st.integers(1, 4)), data.draw(st.sampled_from(list(OVER_KEYS)))
    task = Cycle(symbols=2 * hops + 2, max_hops=hops, supervision="chain", keys=True)
    guise = Guise(
        seed=data.draw(st.integers(0, 3)),
        rotate=data.draw(st.booleans()),
        normalization=data.draw(st.sampled_from(["LN", None])),
        idle=data.draw(st.integers(0, 1)),
    )
    made = specimen(name, separately(OVER_KEYS[name](hops), task), guise)
    assert len(made.layers) == OVER_KEYS[name](hops).n_layers
    assert share_right(made.model, task) == 1.0


def test_keys_that_look_ahead_buy_hops_as_value_slots_do():
    """After layer t the query has followed 2^t - 1 links, or t: those of value slots, and the first look at its own key."""
    for name, reached in (("doubling", [0, 1, 3, 7, 15]), ("one hop per layer", [0, 1, 2, 3, 4])):
        program = OVER_KEYS[name](reached[-1])
        _, dropped, windows = possible_part(program)
        assert dropped == ()
        assert [max(each[Destination.QUERY]) for each in windows][:4] == reached[:4]
        assert set(range(1, reached[-1] + 1)) <= windows[-1][Destination.QUERY]
    assert [OVER_KEYS["doubling"](hops).n_layers for hops in (1, 3, 7, 15)] == [2, 3, 4, 5]


def test_keys_know_nothing_before_they_have_looked_at_their_value():
    query = (Destination.QUERY,)
    with pytest.raises(ProgramError, match=r"key 1 @query must find .* and key slots \[0\]"):
        lower(Program((Step(0, Role("key", 1), query),)))
    own = Step(0, Role("hop", 1), (Destination.KEY,))
    with pytest.raises(ProgramError, match=r"key 2 @query must find .* and key slots \[0, 1\]"):
        lower(Program((own, Step(1, Role("key", 2), query))))


def test_depth_grows_as_the_mechanisms_say():
    assert [one_hop_per_layer(hops).n_layers for hops in (1, 4, 8)] == [2, 5, 9]
    assert [doubling(hops).n_layers for hops in (1, 2, 4, 8)] == [2, 3, 4, 5]
    assert [tripling(hops).n_layers for hops in (1, 2, 4, 5, 13)] == [2, 3, 3, 4, 4]


def test_doubling_knows_what_the_theory_allows():
    """After layer t the windows reach one link back and 2^t - 1 forward, so each head copies just the new ones."""
    layers = lower(doubling(8))
    copied = [sorted(copy.target for copy in heads[0].copies) for heads in layers]
    expected = [range(-1, 0), range(1, 2), range(2, 4), range(4, 8), range(8, 16)]
    assert copied == [sorted(map(register, offsets)) for offsets in expected]


def test_a_step_that_cannot_find_its_source_is_refused():
    query = (Destination.QUERY,)
    with pytest.raises(ProgramError, match="layer 0: hop 1 @query must find its source"):
        lower(Program((Step(0, Role("hop", 1), query),)))
    start = Step(0, Role("previous"), (Destination.VALUE,))
    with pytest.raises(ProgramError, match="hop 2 @query"):
        lower(Program((start, Step(1, Role("hop", 2), query))))


@pytest.mark.parametrize("name", ["doubling", "tripling"])
def test_heads_look_where_the_labels_say(name):
    made = specimen(name, CIRCUITS[name](), Guise(seed=4, idle=1))
    batch = made.task.sample(64, torch.Generator().manual_seed(0))
    run = record(made.model, batch.tokens)
    for (head, destination), truth in made.truth.items():
        if truth.role is None or truth.role.name != "hop":
            continue
        source = batch.find[:, made.task.hops.index(truth.role.hop)]
        rows = (batch.slots == destination.slot) & (source >= 0)
        mass = run.of(head)[0].gather(2, source.clamp(min=0)[..., None]).squeeze(2)
        assert mass[rows].min() > 0.98


def test_idle_heads_and_unread_steps_are_not_confirmed():
    """With hop 8 last and only the query asked, value slots need no hop 8; with one layer less nothing is left to read."""
    task = Retrieval(chains=2, max_hops=4, supervision="chain", attention_dir="causal")
    labels = labels_by_construction(lower(doubling(4)), task)
    status = {(str(head), str(place)): truth.status for (head, place), truth in labels.items()}
    assert status["L1H0", "value"] == "confirmed"
    assert status["L2H0", "query"] == "confirmed"
    assert status["L2H0", "value"] == "pattern-only"


def test_specimens_are_reproducible_and_noise_is_added():
    one, two = (specimen("doubling", CIRCUITS["doubling"](), Guise(seed=5, noise=0.1)) for _ in range(2))
    clean = specimen("doubling", CIRCUITS["doubling"](), Guise(seed=5))
    assert one.truth == two.truth == clean.truth
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert not torch.equal(one.model.W_E, clean.model.W_E)
    assert share_right(one.model, one.task) > 0.99


def test_permuted_heads_keep_their_weights_but_not_their_function():
    made = specimen("doubling", CIRCUITS["doubling"](), Guise(seed=0, idle=2))
    null = permuted_heads(made.model, 0)
    assert share_right(made.model, made.task) == 1.0
    assert share_right(null, made.task) < 0.4
    for block, other in zip(made.model.blocks, null.blocks, strict=True):
        for part in ("W_Q", "W_K", "W_V", "W_O"):
            mine, theirs = getattr(block.attn, part), getattr(other.attn, part)
            torch.testing.assert_close(mine.sum(dim=0), theirs.sum(dim=0), atol=1e-4, rtol=1e-4)
    assert HeadId(0, 0) in {head for head, _ in made.truth}


@settings(max_examples=12)
@given(st.data())
def test_a_head_looks_by_its_table_when_it_is_on(data):
    """The softmax of the table's numbers over the value slots where the query is among those named; else the first token."""
    symbol, n = st.integers(0, 5), 6
    table = data.draw(st.dictionaries(st.tuples(symbol, symbol), st.floats(0.1, 1.0), max_size=12))
    acting = data.draw(st.frozensets(symbol, min_size=1))
    head = HeadSpec(
        ((TOKEN, TOKEN),), frozenset({Destination.QUERY}), (Copy(TOKEN, "seen"),), {}, tables=(table,), when=(TOKEN, acting)
    )
    task = Cycle(symbols=n, max_hops=1, supervision="chain")
    model, _ = compile_layers(((head,),), task, None, sharpness=12.0, rotation_seed=0, readouts={1: {"seen": 1.0}})
    tokens = task.sample(32, torch.Generator().manual_seed(0)).tokens
    pattern = record(model, tokens).of(HeadId(0, 0))[0][:, -1]
    for row, found in zip(tokens.tolist(), pattern, strict=True):
        if row[-1] in acting:
            scores = [12.0 * table.get((row[-1], each), 0.0) + 12.0 * (place % 2) for place, each in enumerate(row)]
            torch.testing.assert_close(found, torch.tensor(scores).softmax(dim=0), atol=1e-4, rtol=0)
        else:
            assert found[0] > 0.99


@given(st.permutations(range(6)))
@settings(max_examples=6)
def test_a_head_writes_by_the_table_of_its_copy(renamed):
    """The token before the query, in a layout where that is hop 1, under another name."""
    task = Cycle(symbols=6, max_hops=1, order="sorted", supervision="chain")
    copy = Copy(TOKEN, register(1), table=dict.fromkeys(enumerate(renamed), 1.0))
    head = HeadSpec((), frozenset({Destination.QUERY}), (copy,), {}, offset=-1)
    model, _ = compile_layers(((head,),), task, rotation_seed=1)
    batch = task.sample(16, torch.Generator().manual_seed(0))
    found = task.readout(model(batch.tokens), batch)[:, -1, 0].argmax(dim=1)
    assert found.tolist() == [renamed[answer] for answer in batch.targets[:, -1, 0].tolist()]


def test_a_task_with_one_readout_for_all_hops_must_say_what_it_reads():
    with pytest.raises(ProgramError, match="readouts go by hop where each is read apart"):
        plain_readouts(KHopInduction(max_hops=2, symbols=4, context=12))
