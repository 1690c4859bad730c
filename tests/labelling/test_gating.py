"""Heads whose role depends on what the looking position knows: attention and a model that are known, and what is no gate."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelling.test_patterns import CYCLE, draws, pattern_of, recorded_with, uniform_pattern

from stackheads import analyze, load
from stackheads.errors import ConfigError, InterventionError, StackheadsWarning, TaskError
from stackheads.interventions import destination_rows
from stackheads.labelling.gating import gated_patterns
from stackheads.labelling.patterns import looking
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, pattern_answer
from stackheads.report.figures import gate_map, gated_rows, save_figures, svg_text
from stackheads.report.notebook import analysis_html
from stackheads.report.page import page
from stackheads.tables import records, role_of
from stackheads.tasks import Batch, Cycle, labelling_batch
from stackheads.types import Destination, Gate, Gated, HeadId, Role, ranges, where

EXAMPLES = 128
SYMBOLS = range(CYCLE.symbols)
HEAD = HeadId(0, 0)
SUBSETS = st.sets(st.sampled_from(SYMBOLS), min_size=2, max_size=CYCLE.symbols - 2)
HOPS = st.permutations([Role("hop", hop) for hop in (1, 2, 3)])


def example_batch(seed=0, examples=EXAMPLES):
    return CYCLE.sample(examples, torch.Generator().manual_seed(seed))


def divided(pattern, batch, place):
    """What is said of each part of the only head at a destination: its gate, and its role if it has one."""
    clean, thresholds = recorded_with(CYCLE, pattern, batch), Thresholds()
    found = gated_patterns(CYCLE, clean, [place], draws(clean), thresholds)
    assert (HEAD, place) in found  # the whole is always judged
    parts = {at.gate: item for (_, at), item in found.items() if isinstance(at, Gated)}
    return {gate: item.role if pattern_answer(item, thresholds) == Answer.YES else None for gate, item in parts.items()}


def own_symbol(batch):
    return batch.gates["own symbol"]


@given(SUBSETS, HOPS, st.floats(0.5, 1.0), st.sampled_from([Destination.QUERY, Destination.VALUE]))
@settings(max_examples=15)
def test_two_roles_under_a_gate_are_two_rows(those, roles, strength, place):
    batch = example_batch(examples=512)  # each symbol asks in 64 of them, half of which judge
    inside = torch.isin(own_symbol(batch), torch.tensor(sorted(those)))[..., None]
    pattern = torch.where(inside, pattern_of(CYCLE, batch, roles[0], strength), pattern_of(CYCLE, batch, roles[1], strength))
    rest = tuple(symbol for symbol in SYMBOLS if symbol not in those)
    name = "own symbol"
    assert divided(pattern, batch, place) == {Gate(name, tuple(sorted(those))): roles[0], Gate(name, rest): roles[1]}


@given(SUBSETS, HOPS)
@settings(max_examples=10)
def test_a_role_that_is_there_at_times_is_a_row_and_the_rest_is_one(those, roles):
    batch = example_batch()
    inside = torch.isin(own_symbol(batch), torch.tensor(sorted(those)))[..., None]
    pattern = torch.where(inside, pattern_of(CYCLE, batch, roles[0], 0.8), uniform_pattern(CYCLE, batch))
    rest = tuple(symbol for symbol in SYMBOLS if symbol not in those)
    found = divided(pattern, batch, Destination.VALUE)
    assert found == {Gate("own symbol", tuple(sorted(those))): roles[0], Gate("own symbol", rest): None}


def test_every_row_is_corrected_for_all_that_are_judged_the_rest_too():
    batch, thresholds = example_batch(), Thresholds()
    inside = (own_symbol(batch) < 3)[..., None]
    pattern = torch.where(inside, pattern_of(CYCLE, batch, Role("hop", 1), 0.3), uniform_pattern(CYCLE, batch))
    clean = recorded_with(CYCLE, pattern, batch)
    found = gated_patterns(CYCLE, clean, [Destination.VALUE], draws(clean), thresholds)
    assert len(found) == 3  # the whole, the part and the rest
    rows = destination_rows(batch, Destination.VALUE)
    alone = looking(CYCLE, clean).evidence(rows, [HEAD], 1, draws(clean), thresholds)[HEAD]
    assert found[HEAD, Destination.VALUE].p_value == pytest.approx(3 * alone.p_value, rel=1e-6)
    assert 0 < alone.p_value < 1 / 3


SHARP, AT_THE_BAR = st.floats(0.4, 1.0), st.floats(0.2, 0.7)
"""Where the role leads at all values, and where it leads at some by just enough or just not."""


@given(HOPS, st.one_of(*(st.lists(each, min_size=8, max_size=8) for each in (SHARP, AT_THE_BAR))), st.integers(0, 100))
@settings(max_examples=20)
def test_one_role_more_or_less_sharp_is_one_row(roles, strengths, seed):
    batch = example_batch(seed)
    strength = torch.tensor(strengths)[own_symbol(batch).clamp(0)][..., None]
    pattern = strength * pattern_of(CYCLE, batch, roles[0]) + (1 - strength) * uniform_pattern(CYCLE, batch)
    assert divided(pattern, batch, Destination.VALUE) == {}


@given(st.integers(0, 100))
@settings(max_examples=10)
def test_attention_that_means_nothing_is_not_divided(seed):
    batch = example_batch(seed)
    logits = torch.randn(EXAMPLES, CYCLE.n_ctx, CYCLE.n_ctx, generator=torch.Generator().manual_seed(seed))
    assert divided((3 * logits).softmax(dim=-1), batch, Destination.VALUE) == {}


@pytest.mark.parametrize("name", ["khop-k2-l3", "cycle-d4-l3"])
def test_attention_by_gate_is_the_mean_over_its_positions(name, checkpoints):
    checkpoint = load(checkpoints / name)
    analysis = analyze(checkpoint, examples=32, progress=False, explain=False)
    table = analysis.by_gate(examples=64)
    batch = labelling_batch(checkpoint.task, 64, 0)
    _, cache = checkpoint.model.run_with_cache(batch.tokens)
    roles = candidate_roles(checkpoint.task)
    maps = role_targets(checkpoint.task, batch, roles)
    assert set(table["head"]) == {f"L{layer}H{head}" for layer in range(3) for head in range(2)}
    for row in records(table.sample(60, random_state=0)):
        head, role = HeadId.parse(row["head"]), role_of(row)
        pattern, at = cache["pattern", head.layer][:, head.index], roles.index(role)
        alone = maps[at].any(-1) & ~(maps[at] & (maps.sum(0) > 1)).any(-1)
        rows = destination_rows(batch, where(Destination(row["destination"]), Gate(row["gate"], (row["value"],)))) & alone
        assert row["rows"] == int(rows.sum()) >= 4
        assert row["mass"] == pytest.approx(float((pattern * maps[at]).sum(-1)[rows].mean()), abs=1e-5)


def test_a_map_of_nothing_is_refused(checkpoints):
    table = analyze(checkpoints / "cycle-d4-l3", examples=16, progress=False, explain=False).by_gate(examples=16)
    with pytest.raises(ConfigError, match="a gate map needs rows"):
        gate_map(table[table["head"] == "L9H9"])


def gated_model(checkpoints, head, symbols):
    """A checkpoint with a head that looks at itself where the position's symbol is none of these."""
    checkpoint, given = load(checkpoints / "cycle-d4-l3"), []
    marks = torch.tensor(symbols)

    def away(pattern, hook):
        inside = torch.isin(given[-1], marks)[..., None]
        pattern = pattern.clone()
        pattern[:, head.index] = torch.where(inside, pattern[:, head.index], torch.eye(pattern.shape[-1]))
        return pattern

    checkpoint.model.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    checkpoint.model.blocks[head.layer].attn.hook_pattern.add_hook(away, is_permanent=True)
    return checkpoint


def test_a_head_that_acts_at_some_symbols_is_confirmed_there(checkpoints, tmp_path):
    """The last layer's hop-1 head, turned away at half of the symbols: through all channels, reports' words and back."""
    head, symbols = HeadId.parse("L2H1"), (0, 2, 5, 7)
    checkpoint = gated_model(checkpoints, head, symbols)
    batch = checkpoint.task.sample(8, torch.Generator().manual_seed(0))
    rows = destination_rows(batch, Destination.QUERY)
    assert torch.equal(own_symbol(batch)[rows], batch.tokens[rows])
    with pytest.warns(StackheadsWarning, match="running the model through its own hooks"):
        analysis = analyze(checkpoint, examples=256, progress=False, explain=False)
    rows = [row for row in records(analysis.labels) if (row["head"], row["destination"]) == (str(head), "query")]
    assert [(row["gate"], row["role"], row["hop"]) for row in rows] == [
        ("own symbol 0, 2, 5, 7", "hop", 1),
        ("own symbol 1, 3..4, 6", "self", None),
    ]
    assert rows[0]["status"] == "confirmed"
    assert rows[0]["share"] > 0.9
    assert "L2H1 when own symbol 0, 2, 5, 7" in analysis.hops[1]
    assert "L2H1 @query when own symbol 0, 2, 5, 7" in analysis.verdict
    assert "L2H1 when own symbol 0, 2, 5, 7" not in analysis.hops[3]
    gates = {row["gate"] for row in records(analysis.labels) if row["head"] != str(head)}
    assert gates == {None}  # no other head is
    shown = page(analysis)
    assert "L2H1 @query, own symbol</caption>" in shown
    assert '<a href="#gates">' in shown
    save_figures(analysis, tmp_path)
    assert (tmp_path / "gates.svg").exists()
    assert svg_text(gate_map(gated_rows(analysis))) in analysis_html(analysis)


def test_a_head_that_does_nothing_is_not_divided(checkpoints):
    checkpoint = gated_model(checkpoints, HeadId.parse("L2H1"), (0, 2, 5, 7))
    checkpoint.model.blocks[2].attn.W_O.data[1] = 0
    with pytest.warns(StackheadsWarning, match="running the model through its own hooks"):
        labels = analyze(checkpoint, examples=64, progress=False, explain=False).labels
    assert set(labels["gate"].isna()) == {True}


GATES = st.builds(
    Gate,
    st.sampled_from(["asked", "own symbol", "x"]),
    st.sets(st.integers(0, 300), min_size=1).map(sorted).map(tuple),
)


@given(GATES)
def test_a_gate_is_read_as_it_is_written(gate):
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize("text", ["", "asked", "asked ", "asked 1-3", "asked 1..", "asked 1,2", "1..3", "asked one"])
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(InterventionError, match="a gate is written like"):
        Gate.parse(text)


def test_rows_of_a_gate_are_those_of_its_values():
    batch = example_batch()
    place, all_values = Destination.VALUE, tuple(SYMBOLS)
    every = [destination_rows(batch, where(place, Gate("own symbol", (value,)))) for value in all_values]
    assert torch.equal(torch.stack(every).sum(dim=0).bool(), destination_rows(batch, place))
    assert torch.equal(destination_rows(batch, where(place, Gate("own symbol", all_values))), destination_rows(batch, place))
    with pytest.raises(InterventionError, match="a gate is one that the task names, own symbol, got 'asked'"):
        destination_rows(batch, where(place, Gate("asked", (1,))))


@pytest.mark.parametrize(
    ("values", "said"), [([], ""), ([3], "3"), ([1, 2, 3], "1..3"), ([0, 2, 3, 7], "0, 2..3, 7"), ([5, 6], "5..6")]
)
def test_values_are_said_as_ranges(values, said):
    assert ranges(values) == said


class Odd(Cycle):
    """A cycle whose only gate is another one."""

    spoil: Callable[[Batch], torch.Tensor]

    def sample(self, n, generator):
        batch = super().sample(n, generator)
        return replace(batch, gates={"odd": self.spoil(batch)})


def test_gates_that_are_none_are_refused_and_one_of_too_many_values_divides_nothing(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    settings = checkpoint.task.model_dump()
    wrong = Odd(spoil=lambda batch: batch.tokens - 1, **settings)
    for call in (
        lambda: analyze(checkpoint.model, wrong, examples=32, progress=False, explain=False),
        lambda: analyze(checkpoint, examples=32, progress=False, explain=False).by_gate(checkpoint.model, wrong, examples=32),
    ):
        with pytest.raises(TaskError, match="gate 'odd' must hold whole numbers from 0"):
            call()
    many = Odd(spoil=lambda batch: torch.arange(batch.tokens.numel()).view_as(batch.tokens), **settings)
    plain = analyze(checkpoint, examples=64, progress=False, explain=False)
    found = analyze(checkpoint.model, many, examples=64, progress=False, explain=False)
    assert found.hops == plain.hops
    assert set(found.labels["gate"].isna()) == {True}
