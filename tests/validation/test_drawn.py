"""Circuits drawn at random: they look where they say, which a labeller is not asked, and differ from seed to seed."""

from dataclasses import replace

import pytest
import torch

from stackheads.interventions import recorded
from stackheads.labelling.bench import Bench
from stackheads.programs.heads import ProgramError
from stackheads.seeds import Stream
from stackheads.tasks.scoring import correct
from stackheads.types import Destination, HeadId, Status
from stackheads.validation import drawn
from stackheads.validation.cases import COLUMN_OF, FAMILIES, cases, subject
from stackheads.validation.compared import DRAWN, OURS
from stackheads.validation.drawn import DECOYS, FAMILY, family, guises_of, is_drawn, name_of
from stackheads.validation.specimens import Guise, doubling_circuit, specimen, unread
from stackheads.validation.truth import Truth
from stackheads.validation.upheld import answering, faintest, loudest
from tests.validation.test_compared import ALWAYS, made, row, scores

SEEDS = (900, 902, 905)
"""Of families that no table holds."""
QUERY = Destination.QUERY


@pytest.mark.parametrize("seed", SEEDS)
def test_every_member_answers_and_looks_where_it_says(seed):
    """By the tokens and the task's own maps: a head that carries something at a hop has its attention there where it is."""
    for member, one in family(seed).items():
        specimen_of = specimen(member, one.circuit, one.guise)
        batch = one.circuit.task.sample(200, torch.Generator().manual_seed(5))
        pattern = recorded(specimen_of.model, batch).run.pattern
        right = correct(one.circuit.task.readout(specimen_of.model(batch.tokens), batch), batch.targets)
        assert right.sum() >= 0.99 * (batch.targets >= 0).sum()
        looked = 0
        for (head, place), truth in specimen_of.truth.items():
            if truth.status != Status.CONFIRMED or truth.role is None or truth.role.hop is None or truth.gate is not None:
                continue
            source = batch.find[:, one.circuit.task.hops.index(truth.role.hop)]
            there = (batch.slots == place.slot) & (source >= 0)
            attended = pattern[head.layer, :, head.index].gather(-1, source.clamp(min=0)[..., None])[..., 0][there]
            assert attended.mean() > 0.9
            looked += 1
        assert looked


@pytest.mark.parametrize("seed", SEEDS)
def test_a_family_is_one_program_and_what_was_added_to_it(seed):
    members = {member: one.circuit for member, one in family(seed).items()}
    assert tuple(members) == FAMILY
    assert {circuit.base for circuit in members.values()} == {name_of(seed)}
    assert members["itself"] is members["noisy"]
    assert members["itself"].decoy is None
    assert members["and more"].layers != members["itself"].layers
    letters = [members[member].decoy for member in ("and a decoy", "and another decoy")]
    assert set(letters) <= set(DECOYS.values())
    assert len(set(letters)) == 2
    for layer, heads in enumerate(members["itself"].layers):
        for member in ("and a decoy", "and another decoy"):
            assert members[member].layers[layer][: len(heads)] == heads


def test_a_seed_draws_the_same_program_again_and_another_seed_another():
    again = drawn.family.__wrapped__(SEEDS[0])
    assert {member: one.circuit.layers for member, one in again.items()} == {
        member: one.circuit.layers for member, one in family(SEEDS[0]).items()
    }
    first, second, third = (family(seed)["itself"].circuit.layers for seed in SEEDS)
    assert first != second != third != first


def test_a_family_of_which_nothing_is_so_is_refused(monkeypatch):
    monkeypatch.setattr(drawn, "ATTEMPTS", 0)
    with pytest.raises(ProgramError, match="none of 0 drawn by seed 900 does: take another seed"):
        drawn.family.__wrapped__(900)


def measured(circuit, change=lambda truth: truth):
    (found, bench), accuracy = answering("doubling", circuit, Guise(seed=1, normalization=None), Stream.DRAWN)
    assert isinstance(bench, Bench)
    assert accuracy.min() >= 0.99
    return replace(found, truth=change(found.truth)), bench


def test_what_is_said_of_a_circuit_and_is_not_so_is_heard():
    """An unread head moves nothing, and may not be said to carry; hop 1 moves an answer, and may not be said to be silent."""
    right = measured(unread(doubling_circuit))
    assert loudest(*right) < 0.02
    assert faintest(*right) > 0.04

    def status_of(wanted, status):
        def change(truth):
            head = next(
                cell for cell, one in truth.items() if one.role is not None and one.status == wanted and cell[1] == QUERY
            )
            return {**truth, head: Truth(truth[head].role, status)}

        return change

    plain_only = status_of(Status.PATTERN_ONLY, Status.CONFIRMED)
    silenced = status_of(Status.CONFIRMED, Status.PATTERN_ONLY)
    assert faintest(*measured(unread(doubling_circuit), plain_only)) < 0.02
    assert loudest(*measured(unread(doubling_circuit), silenced)) > 0.04


def test_half_of_the_guises_have_layernorm_and_none_of_several_looks():
    every = [guises_of(seed) for seed in range(FAMILIES)]
    assert all(guises["and more"].normalization is None for guises in every)
    assert all(guises["noisy"].noise and not guises["itself"].noise for guises in every)
    for member in set(FAMILY) - {"and more"}:
        assert sum(guises[member].normalization == "LN" for guises in every) == FAMILIES / 2
    assert len({guise.seed for guises in every for guise in guises.values()}) == FAMILIES * len(FAMILY)


def test_each_family_is_a_base_of_its_own_in_one_half():
    of_drawn = [case for case in cases() if is_drawn(case.base)]
    assert len(of_drawn) == FAMILIES * len(FAMILY)
    assert {case.base for case in of_drawn} == {name_of(seed) for seed in range(FAMILIES)}
    for seed in range(FAMILIES):
        assert {case.half for case in of_drawn if case.base == name_of(seed)} == {seed % 2}
    assert set(COLUMN_OF) == set(FAMILY)


def test_a_drawn_case_is_about_its_member(monkeypatch):
    monkeypatch.setattr("stackheads.validation.cases.FAMILIES", 901)
    (case,) = (case for case in cases() if case.name == "drawn 900 and a decoy")
    one, circuit = subject(case), family(900)["and a decoy"].circuit
    heads = {cell[0] for cell in one.looks}
    assert one.model.cfg.n_layers == len(circuit.layers)
    assert HeadId(len(circuit.layers) - 1, 0) in heads
    roles = {str(role) for heads in circuit.layers for head in heads for role in head.roles.values()}
    assert {what for some in one.looks.values() for what in some} <= roles


def test_drawn_circuits_are_scored_by_themselves_and_with_the_others():
    said = {OURS: [{"hop 1": ALWAYS}]}
    written, drawn_one = (made("clean", 0, [truth], **said) for truth in ({"hop 2"}, {"hop 1"}))
    found = scores([written, replace(drawn_one, circuit="drawn 3 itself", base="drawn 3")])
    assert row(found, OURS, "clean")["score"] == 0.5
    assert (row(found, OURS, DRAWN)["score"], row(found, OURS, DRAWN)["cases"]) == (1.0, 1)
