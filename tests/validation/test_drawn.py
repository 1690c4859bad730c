"""Circuits drawn at random: they look where they say, which a labeller is not asked, and differ from seed to seed."""

import hashlib
from dataclasses import replace

import pytest
import torch

from stackheads.interventions import recorded
from stackheads.programs.heads import plain_readouts
from stackheads.programs.mechanisms import doubling
from stackheads.programs.program import lower
from stackheads.tasks import Cycle
from stackheads.tasks.scoring import correct
from stackheads.types import Destination, Status
from stackheads.validation import upheld
from stackheads.validation.cases import COLUMN_OF, FAMILIES, cases, subject
from stackheads.validation.compared import BLURRED, DRAWN, OURS
from stackheads.validation.drawn import FAMILY, family, guise_of, is_drawn, live_part, name_of
from stackheads.validation.specimens import Guise, doubling_circuit, specimen, unread
from stackheads.validation.truth import Truth
from stackheads.validation.upheld import answering, in_doubt, loudest
from tests.validation.test_compared import ALWAYS, made, row, scores

SEEDS = (102, 900, 905)
"""Of families that no table holds."""
JUDGED = "2d7d03bfb9c4e10c648cf156f39730cb4b7cb17471b84b0098473c89f1c7c1bc"
"""Of what seeds 0 to 19 draw, which labellers were judged on."""
QUERY = Destination.QUERY


def written(circuit):
    """A circuit as text, sets in order."""
    heads = [
        [
            (
                head.matches,
                sorted(map(str, head.rows)),
                head.copies,
                head.roles,
                sorted(head.sources),
                head.offset,
                str(head.on),
            )
            for head in heads
        ]
        for heads in circuit.layers
    ]
    return repr((heads, circuit.task.model_dump(), circuit.readouts, circuit.base, circuit.decoy))


@pytest.mark.parametrize("over_keys", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_member_answers_and_looks_where_it_says(seed, over_keys):
    """By the tokens and the task's own maps: a head that carries something at a hop has its attention there where it is."""
    for member, circuit in family(seed, over_keys).items():
        found = specimen(member, circuit, guise_of(seed, member))
        batch = circuit.task.sample(200, torch.Generator().manual_seed(5))
        pattern = recorded(found.model, batch).run.pattern
        right = correct(circuit.task.readout(found.model(batch.tokens), batch), batch.targets)
        assert right.sum() >= 0.99 * (batch.targets >= 0).sum()
        looked = 0
        for (head, place), truth in found.truth.items():
            if truth.status != Status.CONFIRMED or truth.role is None or truth.role.hop is None or truth.gate is not None:
                continue
            source = circuit_map(circuit.task, batch, truth.role)
            there = (batch.slots == place.slot) & (source >= 0)
            attended = pattern[head.layer, :, head.index].gather(-1, source.clamp(min=0)[..., None])[..., 0][there]
            assert attended.mean() > 0.9
            looked += 1
        assert looked


def circuit_map(task, batch, role):
    """Where a hop or a key stands."""
    if role.name == "hop":
        return batch.find[:, task.hops.index(role.hop)]
    return batch.operands[:, task.operands.index(role)]


@pytest.mark.parametrize("over_keys", [False, True])
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_family_is_one_program_and_what_was_added_to_it(seed, over_keys):
    members = family(seed, over_keys)
    assert tuple(members) == FAMILY
    assert len({circuit.base for circuit in members.values()}) == 1
    assert members["itself"].decoy is members["in parts"].decoy is None
    assert {members["a decoy"].decoy, members["another decoy"].decoy} in ({"a", "b"}, {"a", "f"}, {"b", "f"})
    sizes = {member: [len(heads) for heads in circuit.layers] for member, circuit in members.items()}
    assert all(sum(size) == sum(sizes["itself"]) + (member != "itself") for member, size in sizes.items())
    for layer, heads in enumerate(members["itself"].layers):
        for member in ("a decoy", "another decoy"):
            assert members[member].layers[layer][: len(heads)] == heads


def test_what_the_judged_seeds_draw_is_what_it_was():
    every = "".join(written(circuit) for seed in range(FAMILIES) for circuit in family(seed).values())
    assert hashlib.sha256(every.encode()).hexdigest() == JUDGED


def test_another_seed_draws_another_program():
    assert len({written(family(seed)["itself"]) for seed in range(100, 120)}) == 20
    assert len({written(family(seed, over_keys=True)["itself"]) for seed in range(100, 120)}) == 20


def test_programs_over_keys_look_at_keys_and_at_values():
    drawn = [family(seed, over_keys=True)["itself"] for seed in range(100, 120)]
    looks = [live_part(circuit.layers, circuit.task, circuit.readouts) for circuit in drawn]
    assert sum("key" in part.replace("@key", "") for part in looks) >= 15
    assert sum("hop 1 @value" in part or "hop -1 @value" in part for part in looks) >= 2
    assert all(circuit.task.keys for circuit in drawn)


def test_the_live_part_leaves_out_what_is_idle_and_names_what_was_written():
    """Of value slots in the third layer nothing depends: the query comes to hop 4 by what leads to it, and takes its token."""
    task = Cycle(symbols=10, max_hops=4, supervision="chain")
    plain, readouts = lower(doubling(4), task.same_offset), plain_readouts(task)
    idle = (*plain[:2], (*plain[2], replace(plain[2][0], copies=())), plain[3])
    part = "previous @value; hop 1 @query, hop 1 @value; hop 2 @query; hop 4 @query"
    assert live_part(plain, task, readouts) == live_part(idle, task, readouts) == part
    bases = [family(seed)["itself"].base for seed in range(100, 140)]
    assert part not in bases
    assert {"doubling", "one hop per layer"} & set(bases)
    assert len(set(bases)) > 30


def test_a_circuit_that_holds_another_is_in_its_half():
    """Whatever is built on the same live part, drawn or written."""
    every = [case for case in cases() if isinstance(case.of, Guise)]
    halves = {}
    for case in every:
        assert halves.setdefault(case.base, case.half) == case.half
    assert {case.half for case in every if is_drawn(case.name)} == {0, 1}


def test_each_member_is_a_case_and_the_program_another_that_is_blurred():
    found = [(case.name, case.column) for case in cases() if is_drawn(case.name)]
    assert set(COLUMN_OF) == set(FAMILY)
    for seed in range(FAMILIES):
        mine = [(name_of(seed, member), COLUMN_OF[member]) for member in FAMILY]
        assert [pair for pair in found if pair[0].startswith(f"drawn {seed} ")] == [mine[0], (mine[0][0], BLURRED), *mine[1:]]
    assert len({guise_of(seed, member).seed for seed in range(FAMILIES) for member in FAMILY}) == FAMILIES * len(FAMILY)


def doubted(change=lambda truth: truth):
    (found, bench), accuracy = answering("unread", unread(doubling_circuit), Guise(seed=1, normalization=None))
    assert accuracy.min() >= 0.99
    found = replace(found, truth={cell: change(one) if cell[1] == QUERY else one for cell, one in found.truth.items()})
    return in_doubt(found, bench), loudest(found, bench)


def test_what_is_said_of_a_circuit_and_is_not_so_is_in_doubt():
    """An unread head moves nothing, and may not be said to carry; hop 1 moves an answer, and may not be said to be silent."""
    assert doubted() == (set(), pytest.approx(0, abs=0.01))
    loud, _ = doubted(lambda one: Truth(one.role, Status.CONFIRMED))
    silent, most = doubted(lambda one: Truth(one.role, Status.PATTERN_ONLY))
    right = specimen("unread", unread(doubling_circuit), Guise(seed=1, normalization=None)).truth
    at_query = {cell: one for cell, one in right.items() if cell[1] == QUERY}
    assert loud == {cell for cell, one in at_query.items() if one.status != Status.CONFIRMED}
    assert silent == {cell for cell, one in at_query.items() if one.status == Status.CONFIRMED}
    assert most > 0.04


def test_of_a_model_that_does_not_answer_all_is_in_doubt(monkeypatch):
    (found, bench), _ = answering("unread", unread(doubling_circuit), Guise(seed=1, normalization=None))
    monkeypatch.setattr(upheld, "ANSWERED", 1.01)
    assert in_doubt(found, bench) == set(found.truth)


def test_cells_in_doubt_are_not_judged():
    """Those of another seed in which some are."""
    circuit = family(105)["in parts"]
    case = replace(next(case for case in cases() if is_drawn(case.name)), of=guise_of(105, "in parts"), circuit=circuit)
    one = subject(case)
    assert one.doubt
    assert not set(one.doubt) & set(one.looks)
    assert {what for some in one.looks.values() for what in some} <= {
        str(role) for heads in circuit.layers for head in heads for role in head.roles.values()
    }


def test_drawn_circuits_are_scored_by_themselves_and_with_the_others():
    said = {OURS: [{"hop 1": ALWAYS}]}
    hand, drawn = (made("clean", 0, [truth], **said) for truth in ({"hop 2"}, {"hop 1"}))
    found = scores([hand, replace(drawn, circuit=name_of(3, "itself"), doubt=["L0H1 @key"])])
    assert row(found, OURS, "clean")["score"] == 0.5
    alone = row(found, OURS, DRAWN)
    assert (alone["score"], alone["cases"], alone["cells"], alone["doubt"]) == (1.0, 1, 1, 1)
