"""Circuits that look by tables, under gates or rarely, and further decoys: they answer, look and matter where they say."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from stackheads import analyze
from stackheads.interventions import ablate, destination_rows, recorded
from stackheads.models.hooks import all_heads
from stackheads.models.native import named_weights
from stackheads.tables import records
from stackheads.tasks import Cycle, Retrieval, check, gates
from stackheads.tasks.scoring import correct
from stackheads.types import Destination, Gate, HeadId, Role, Slot
from stackheads.validation.blends import jobs_by_construction
from stackheads.validation.further import FURTHER
from stackheads.validation.other_tasks import OTHER_TASKS
from stackheads.validation.rarely import ASKED, RARELY
from stackheads.validation.specimens import Guise, specimen
from stackheads.validation.tabled import OFTEN, TABLED

LOOKS = {**TABLED, **RARELY, **OTHER_TASKS, **FURTHER}
NOISE = dict.fromkeys(LOOKS, 0.1) | dict.fromkeys(("v: k hops", "x: hop by asked"), 0.05)
QUERY, VALUE = Destination.QUERY, Destination.VALUE
PLAIN = Guise(seed=3, normalization=None)
LARGE = ("u: sixteen hops",)
LIVE = ("confirmed", "causal-unclassified", "undecided", "opposing")


@cache
def made(name, guise=PLAIN):
    return specimen(name, LOOKS[name](), guise)


@cache
def run_of(name):
    examples = 24 if name in LARGE else 96
    return recorded(made(name).model, made(name).task.sample(examples, torch.Generator().manual_seed(1)))


def share_right(model, task, batch):
    right = correct(task.readout(model(batch.tokens), batch), batch.targets)
    return (right.sum() / (batch.targets >= 0).sum()).item()


@pytest.mark.parametrize("name", list(LOOKS))
def test_each_answers_its_task_clean_and_noisy(name):
    batch = made(name).task.sample(24 if name in LARGE else 128, torch.Generator().manual_seed(2))
    for guise in (PLAIN, replace(PLAIN, noise=NOISE[name])):
        assert share_right(made(name, guise).model, made(name).task, batch) >= 0.99


@pytest.mark.parametrize("name", [name for name in LOOKS if name not in LARGE])
def test_each_answers_its_task_through_layernorm(name):
    batch = made(name).task.sample(128, torch.Generator().manual_seed(2))
    assert share_right(made(name, Guise(seed=4)).model, made(name).task, batch) >= 0.99


@pytest.mark.parametrize("name", ["p: often hop 1", "s: often next", "t: never on", "u: sixteen hops"])
def test_its_task_is_one(name):
    check(LOOKS[name]().task, examples=64)


def of_role(batch, task, role):
    """The sources of a role, from the tokens and the task's own maps: [batch, row, source]."""
    n, n_pos = batch.tokens.shape
    place = torch.arange(n_pos)
    if role.name == "hop":
        return batch.find[:, task.hops.index(role.hop)][..., None] == place
    if role.name == "condition":
        return batch.operands[:, task.operands.index(role)][..., None] == place
    if role.name == "duplicate":
        return (batch.tokens[:, :, None] == batch.tokens[:, None]) & (place[:, None] != place)
    source = {"previous": place - 1, "self": place, "start": torch.zeros_like(place)}[role.name]
    return (source[:, None] == place).expand(n, -1, -1)


def by_table(batch, letter):
    """Where the head that a circuit is about was built to look: [batch, row, source]."""
    tokens, place = batch.tokens, torch.arange(batch.tokens.shape[1])
    row, source, last = place[:, None], place[None], tokens.shape[1] - 1
    own, theirs = tokens[:, :, None], tokens[:, None]
    keys, values = ((batch.slots == slot)[:, None] for slot in (Slot.KEY, Slot.VALUE))
    return {
        "n": ((source % 2 == 1) & (source >= last - 5)) & values,
        "o": (source == row - 2) & values,
        "p": (source == 1) & values,
        "q": ((theirs - own) % 2 == 1) & keys,
        "s": (theirs == (own + 1) % 8) & values,
        "w": (source == row - row % 4) & keys,
    }[letter].expand(-1, len(place), -1)


@pytest.mark.parametrize("name", list(LOOKS))
def test_heads_look_where_their_jobs_say(name):
    one, clean = made(name), run_of(name)
    batch = clean.batch
    for (head, place), jobs in jobs_by_construction(one).items():
        for what, gate in jobs[:1] if place == VALUE else jobs:
            rows = destination_rows(batch, place)
            expected = of_role(batch, one.task, what) if isinstance(what, Role) else by_table(batch, name[0])
            if one.task.attention_dir == "causal":
                expected = expected.tril()
            if gate is not None:
                rows = rows & torch.isin(gates(batch)[gate.name], torch.tensor(gate.values))
            rows = rows & expected.any(dim=2)
            assert rows.any()
            wanted = expected[rows] / expected[rows].sum(dim=1, keepdim=True)
            assert (clean.run.of(head)[0][rows] - wanted).abs().max() < 0.02


def lost(model, task, clean, head, place):
    """By how much of itself each readout's margin shrinks when a head gives another example's output at a destination."""
    margins = [
        _margins(task, logits, clean.batch) for logits in (model(clean.batch.tokens), ablate(model, clean, [head], place))
    ]
    return 1 - margins[1] / margins[0]


def _margins(task, logits, batch):
    read = task.readout(logits, batch)
    asked, right = batch.targets >= 0, batch.targets.clamp(min=0)[..., None]
    mine = read.gather(3, right).squeeze(3)
    margin = mine - (read.sum(dim=3) - mine) / (read.shape[3] - 1)
    return (margin * asked).sum(dim=(0, 1)) / asked.sum(dim=(0, 1)).clamp(min=1)


@pytest.mark.parametrize("name", [name for name in LOOKS if name not in LARGE])
def test_the_answer_needs_what_matters_by_construction_and_nothing_else(name):
    """In the model, without the labeller: the margin goes with live heads, and stays to the last digits without others."""
    one, there = made(name), set(run_of(name).batch.slots.unique().tolist())
    for head in all_heads(one.model):
        for place in Destination:
            if place.slot in there:
                matters = one.truth[head, place].status in LIVE
                share = lost(one.model, one.task, run_of(name), head, place).abs().max()
                assert share > 0.02 if matters else share < 1e-4, (head, place, one.truth[head, place])


def test_in_sixteen_hops_each_layer_serves_the_hops_that_it_adds():
    """Of the query, every hop asked: those from what a layer adds go without it, those that it only passes on stay."""
    one = made("u: sixteen hops")
    heads = {
        truth.role.hop: head for (head, place), truth in one.truth.items() if place == QUERY and truth.status == "confirmed"
    }
    assert sorted(heads) == [1, 2, 4, 8, 16]
    task = Retrieval(chains=2, max_hops=16, supervision="chain", attention_dir="causal")
    clean = recorded(one.model, task.sample(24, torch.Generator().manual_seed(0)))
    gone, hops = lost(one.model, task, clean, heads[8], QUERY), torch.arange(1, 17)
    assert (gone[hops < 8].abs() < 1e-4).all()
    assert (gone[hops >= 8] > 0.2).all()


def test_a_head_that_is_never_on_would_take_the_answer_off():
    one = made("t: never on")
    (head,) = [head for (head, place), truth in one.truth.items() if place == QUERY and truth.gate is not None]
    clean = recorded(one.model, Cycle(symbols=8, max_hops=1, supervision="chain").sample(256, torch.Generator().manual_seed(0)))
    asked = torch.isin(clean.batch.tokens[:, -1], torch.tensor(sorted(ASKED)))
    for logits, others in ((one.model(clean.batch.tokens), 0.0), (ablate(one.model, clean, [head], QUERY, "zero"), 1.0)):
        right = correct(one.task.readout(logits, clean.batch), clean.batch.targets)[:, -1, 0].double()
        assert (right[asked].mean(), right[~asked].mean()) == (1.0, others)


@pytest.mark.parametrize(("name", "letter"), [("p: often hop 1", "p"), ("s: often next", "s")])
def test_tables_that_seem_hop_one_are_not_in_the_tenth_example(name, letter):
    batch = made(name).task.sample(4000, torch.Generator().manual_seed(0))
    where = by_table(batch, letter)[:, -1].int().argmax(dim=1)
    same = (where == batch.find[:, made(name).task.hops.index(1), -1]).double().mean().item()
    assert abs(same - (OFTEN + (1 - OFTEN) / 8)) < 0.02


def test_a_table_of_each_symbol_at_itself_is_a_duplicate_head():
    circuit = TABLED["r: duplicate"]()
    plain = [tuple(replace(head, tables=()) for head in heads) for heads in circuit.layers]
    other = specimen("r", replace(circuit, layers=tuple(plain)), PLAIN)
    mine, theirs = named_weights(made("r: duplicate").model), named_weights(other.model)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name])


def test_gates_are_named_as_the_task_names_them():
    truth = made("v: k hops").truth.values()
    assert {each.gate for each in truth if each.gate} == {Gate("asked", (hop,)) for hop in (1, 2, 3)}
    assert {each.role for each in truth if each.gate} == {Role("hop", hop) for hop in (1, 2, 3)}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("p: often hop 1", {"previous", "hop 1", "place"}),
        ("r: duplicate", {"hop 1", "duplicate"}),
        ("s: often next", {"previous", "hop 1", "own symbol × symbol of value"}),
        ("t: never on", {"previous", "hop 1"}),
    ],
)
def test_selectors_name_tables_and_what_only_seems_one(name, wanted):
    """No more is confirmed, each of it once."""
    analysis = analyze(made(name).model, made(name).task, examples=256, explain=False, progress=False)
    table = records(analysis.selectors(examples=256, progress=False, fitted_to="attention").table)
    confirmed = [(HeadId.parse(row["head"]), row["what"]) for row in table if row["status"] == "confirmed"]
    assert sorted(what for _, what in confirmed) == sorted(wanted)
    assert len({head for head, _ in confirmed}) == len(wanted)
