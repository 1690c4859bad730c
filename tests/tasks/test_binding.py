"""Variable binding against a plain-Python resolver that reads tokens only, and how programs grow."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads.errors import ConfigError
from stackheads.tasks import Binding, check, from_config
from stackheads.types import IGNORE, Slot

from .binding_resolver import Program

seeds = st.integers(0, 2**31)


@st.composite
def tasks(draw, **fixed):
    hops = draw(st.integers(1, 4))
    lines = draw(st.integers(hops + 1, hops + 8))
    chosen = {
        "max_hops": hops,
        "lines": lines,
        "variables": draw(st.sampled_from([0, lines + 3])),
        "constants": lines + 2 if hops == 1 else draw(st.integers(2, 6)),
        "fresh": draw(st.sampled_from([0.1, 0.4, 0.8])),
        "growth": draw(st.integers(0, 3)),
        "supervision": draw(st.sampled_from(["final", "dense"])),
    }
    return Binding(**chosen | fixed)


def drawn(task, n, seed):
    return task.sample(n, torch.Generator().manual_seed(seed))


def read(task, row):
    return Program(row.tolist(), task.n_variables)


def check_against_resolver(task, batch):
    """Everything in a batch is what the resolver reads off the tokens."""
    places = range(task.n_ctx)
    for row in range(len(batch)):
        program = read(task, batch.tokens[row])
        slots = [program.slot(i) for i in places]
        assert batch.slots[row].tolist() == slots
        depths = [program.depth(symbol) for symbol in program.tokens]
        assert batch.gates["own depth"][row].tolist() == depths
        assert batch.gates["own symbol"][row].tolist() == program.tokens
        for number, j in enumerate(task.hops):
            assert batch.find[row, number].tolist() == [program.visible_find(i, j, causal=True) for i in places]
        values = [
            slot == Slot.VALUE and depth > 0 and task.supervision == "dense" for slot, depth in zip(slots, depths, strict=True)
        ]
        asked = [slot == Slot.QUERY or value for slot, value in zip(slots, values, strict=True)]
        answers = [program.root(symbol) if here else IGNORE for symbol, here in zip(program.tokens, asked, strict=True)]
        assert batch.targets[row, :, 0].tolist() == answers
        assert batch.target_hop[row, :, 0].tolist() == [depth if here else 0 for depth, here in zip(depths, asked, strict=True)]


@settings(max_examples=60)
@given(tasks(), seeds)
def test_maps_and_answers_are_what_the_program_says(task, seed):
    batch = drawn(task, 3, seed)
    check_against_resolver(task, batch)
    assert (batch.target_hop[:, -1] >= 1).all()


@settings(max_examples=60)
@given(tasks(), seeds)
def test_programs_are_what_the_task_promises(task, seed):
    for row in drawn(task, 4, seed).tokens:
        program = read(task, row)
        keys = [key for _, key, _ in program.statements]
        constants = [value for _, _, value in program.statements if program.constant(value)]
        assert len(set(keys)) == task.lines
        assert not any(map(program.constant, keys))
        assert program.defined_before_use()
        assert len(set(constants)) == len(constants)
        assert max(map(program.depth, keys)) <= task.max_hops


@settings(max_examples=60)
@given(tasks(), seeds, st.data())
def test_a_counterfactual_rewires_that_link_to_another_constant_as_far_away(task, seed, data):
    generator = torch.Generator().manual_seed(seed)
    batch = task.sample(4, generator)
    hop = data.draw(st.integers(1, task.max_hops))
    other = task.counterfactual(batch, hop, generator)
    check_against_resolver(task, other)
    query = task.n_ctx - 1
    for row in range(len(batch)):
        before, after = read(task, batch.tokens[row]), read(task, other.tokens[row])
        place, asked = before.find(query, hop), before.tokens[-1]
        reached = hop <= before.depth(asked)
        fitting = {
            symbol
            for symbol in range(task.d_vocab)
            if reached and before.tokens[place] != symbol and fits(before, place, symbol)
        }
        assert {i for i in range(task.n_ctx) if before.tokens[i] != after.tokens[i]} == ({place} if fitting else set())
        assert not fitting or after.tokens[place] in fitting
        assert after.depth(asked) == before.depth(asked)
        assert (after.root(asked) != before.root(asked)) == bool(fitting)


def fits(program, place, symbol):
    """Whether a symbol may stand at a value slot so that the program is one and leads elsewhere in as many hops."""
    value = program.tokens[place]
    if program.constant(value):
        return program.constant(symbol) and symbol not in program.tokens
    return (
        symbol in program.f
        and program.line_of(symbol) < place // 2
        and program.depth(symbol) == program.depth(value)
        and program.root(symbol) != program.root(value)
    )


@settings(max_examples=40)
@given(tasks(), seeds, st.randoms(use_true_random=False))
def test_names_of_variables_and_constants_mean_nothing(task, seed, random):
    batch = drawn(task, 4, seed)
    variables, constants = list(range(task.n_variables)), list(range(task.n_variables, task.d_vocab))
    random.shuffle(variables)
    random.shuffle(constants)
    name = torch.tensor(variables + constants)
    other = task.batch(name[batch.tokens])
    assert torch.equal(other.find, batch.find)
    assert torch.equal(other.target_hop, batch.target_hop)
    assert torch.equal(other.targets, torch.where(batch.targets >= 0, name[batch.targets.clamp(min=0)], IGNORE))


def test_a_known_example_by_hand():
    """a = 5, b = a, c = 7, d = b; d? Variables 0..3, of constants 4.. those are 5 and 7."""
    task = Binding(lines=4, constants=4, max_hops=3)
    batch = task.batch(torch.tensor([[0, 5, 1, 0, 2, 7, 3, 1, 3]]))
    assert (batch.targets[0, -1].tolist(), batch.target_hop[0, -1].tolist()) == ([5], [3])
    assert [int(batch.find[0, task.hops.index(j), -1]) for j in (1, 2, 3, 0)] == [7, 3, 1, -1]
    assert batch.gates["own depth"].tolist() == [[1, 0, 2, 1, 1, 0, 3, 2, 3]]


def test_depths_are_asked_equally_often_and_the_first_line_answers_most_deep_ones():
    """Five standard deviations of a share in 4,000 draws are at most 0.04; the figures are those of the docstring."""
    batch = drawn(Binding(), 4000, 0)
    depth, answer = batch.target_hop[:, -1, 0], batch.targets[:, -1, 0]
    assert all(abs(count / 4000 - 1 / 4) < 0.04 for count in Counter(depth.tolist()).values())
    by_first_line = (answer == batch.tokens[:, 1]).double()
    assert by_first_line.mean() == pytest.approx(0.56, abs=0.04)
    assert by_first_line[depth == 4].mean() == pytest.approx(0.74, abs=0.08)
    assert (answer.bincount()[16:] / 4000 - 1 / 10).abs().max() < 0.03


def test_a_line_extends_a_variable_by_the_power_of_its_depth():
    """After "a = 1, b = a" without a third constant c is b with probability 2^growth / (1 + 2^growth)."""
    for growth in (0, 1, 3):
        task = Binding(lines=3, constants=2, max_hops=3, fresh=1e-9, growth=growth)
        rows = [read(task, row) for row in task._programs(4000, torch.Generator().manual_seed(0))[0]]
        deep = sum(program.depth(program.statements[2][1]) == 3 for program in rows) / 4000
        assert deep == pytest.approx(2**growth / (1 + 2**growth), abs=0.04)


def test_the_same_seed_gives_the_same_examples_of_which_there_is_one_at_least():
    task = Binding()
    assert torch.equal(drawn(task, 50, 3).tokens, drawn(task, 50, 3).tokens)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        drawn(task, 0, 0)
    with pytest.raises(ConfigError, match=r"must be in 1\.\.4, got 5"):
        task.counterfactual(drawn(task, 2, 0), 5, torch.Generator())


def test_programs_that_are_never_deep_enough_are_not_waited_for():
    with pytest.raises(ConfigError, match=r"must reach 16 hops, got none of 16 lines with fresh 0\.4: use more lines"):
        drawn(Binding(max_hops=16), 8, 0)


@pytest.mark.parametrize("supervision", ["final", "dense"])
@pytest.mark.parametrize("hops", [1, 2, 4])
def test_it_passes_the_checker(supervision, hops):
    check(Binding(max_hops=hops, lines=8, constants=9, supervision=supervision))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_hops": 0}, "max_hops must be at least 1, got 0"),
        ({"lines": 3}, "4 hops need as many lines or more, got 3"),
        ({"lines": 8, "variables": 7}, "8 lines need as many variables, got 7"),
        ({"constants": 1}, "at least 2 constants to choose from, got 1"),
        ({"fresh": 0.0}, r"probability in \(0, 1\], got 0"),
        ({"fresh": 1.0}, "lines without a constant, got fresh 1"),
        ({"max_hops": 1}, "more constants than the 16 lines, got 10"),
        ({"growth": -1}, "exponent of 0 or more, got -1"),
        ({"attention_dir": "bidirectional"}, "got attention_dir bidirectional"),
        ({"supervision": "chain"}, "got 'chain'"),
    ],
)
def test_mistakes(wrong, message):
    with pytest.raises(ConfigError, match=message):
        from_config({"kind": "binding"} | wrong)
