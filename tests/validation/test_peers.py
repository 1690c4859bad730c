"""Ways of labelling heads: their numbers are what they are said to be, and a dead head fools those that only look."""

import pytest
import torch

from stackheads import analyze
from stackheads.interventions import destination_rows
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.tables import records
from stackheads.tasks import labelling_batch
from stackheads.types import Destination, HeadId
from stackheads.validation.further import SMALL
from stackheads.validation.peers import (
    ALONE,
    ALWAYS,
    BESIDE,
    CARRIES,
    LABELS,
    LOOKS,
    OURS,
    PEERS,
    TOO,
    UNSCRUBBED,
    said_of,
)
from stackheads.validation.specimens import Guise, specimen

DEAD, GUISE = "a: no output", Guise(seed=2, normalization=None)
QUERY = Destination.QUERY


@pytest.fixture(scope="module")
def made():
    return specimen(DEAD, SMALL[DEAD](), GUISE)


@pytest.fixture(scope="module")
def said(made):
    return said_of(made.model, made.task, GUISE.seed, examples=128, selectors=128)


def test_each_way_speaks_of_each_cell(made, said):
    assert set(said.of) == {
        *PEERS,
        *(peer + TOO for peer in PEERS),
        OURS,
        UNSCRUBBED,
        LABELS,
        ALONE,
        LOOKS,
        BESIDE,
        "labels without pattern",
        "labels without cause",
        "labels without write",
    }
    for way, cells in said.of.items():
        assert cells.keys() <= made.truth.keys()
        if way != LOOKS:
            assert cells.keys() == made.truth.keys()
    assert said.statuses.keys() == made.truth.keys()


def test_ours_says_what_labels_and_selectors_say(made, said):
    for cell, truth in made.truth.items():
        right = {str(truth.role)} if truth.status in CARRIES else set()
        assert set(said.of[LABELS][cell]) == set(said.of[LOOKS].get(cell, {})) == set(said.of[OURS][cell]) == right
    assert {number for of in said.of[OURS].values() for number in of.values()} == {ALWAYS}


def test_their_numbers_are_those_of_their_authors(made, said):
    """Cosine, attention and ablation of every head at the query, one at a time, with the model's own patterns."""
    batch = labelling_batch(made.task, 128, GUISE.seed)
    _, cache = made.model.run_with_cache(batch.tokens)
    roles = [role for role in candidate_roles(made.task) if role.name != "start"]
    maps, rows = role_targets(made.task, batch, roles).float(), destination_rows(batch, QUERY)
    for head in (HeadId(layer, index) for layer in range(made.model.cfg.n_layers) for index in range(made.model.cfg.n_heads)):
        pattern = cache["pattern", head.layer][:, head.index][rows]
        best = {"cosine": 0.0, "attention mass": 0.0, "head detector": 0.0}
        for target in maps[:, rows]:
            together = float((pattern * target).sum())
            cosine = torch.nn.functional.cosine_similarity(pattern.flatten(), target.flatten(), dim=0)
            mine = (float(cosine), together / max(float(target.any(-1).sum()), 1.0), together / float(pattern.sum()))
            best = {name: max(before, now) for (name, before), now in zip(best.items(), mine, strict=True)}
        for way, number in best.items():
            assert list(said.of[way][head, QUERY].values()) == [pytest.approx(number, abs=1e-4)]


def test_peers_are_asked_without_start_and_with_it(said):
    """A head that rests at the start is one of them where it may be said, and none where it may not."""
    for peer in PEERS:
        without, with_it = ({what for of in said.of[way].values() for what in of} for way in (peer, peer + TOO))
        assert "start" in with_it
        assert "start" not in without
    for cell, of in said.of["cosine" + TOO].items():
        assert max(of.values()) >= max(said.of["cosine"][cell].values())


def test_ablation_is_that_of_the_effects_table(made, said):
    table = analyze(made.model, made.task, examples=128, seed=GUISE.seed, progress=False, explain=False)
    answered = {f"hop {row['hop']} @{row['destination']}" for row in records(table.readouts) if row["open"]}
    zero = [row for row in records(table.effects) if row["ablation"] == "zero" and row["readout"] in answered]
    for cell, of in said.of["ablation"].items():
        mine = [row["effect"] for row in zero if (row["head"], row["destination"]) == tuple(map(str, cell))]
        assert list(of.values()) == [pytest.approx(max(map(abs, mine)), abs=1e-6)]


def test_a_dead_head_fools_what_only_looks(made, said):
    """Decoy a looks like a hop and has no output: those that look say it carries the hop, those that act do not."""
    dead = {cell for cell, truth in made.truth.items() if truth.status == "pattern-only" and str(truth.role).startswith("hop")}
    assert dead
    for way in ("cosine", "head detector", "attention mass"):
        assert all(min(said.of[way][cell].values()) > 0.3 for cell in dead)
    for way in ("ablation", "attribution"):
        assert all(max(said.of[way][cell].values()) < 1e-6 for cell in dead)
    assert not any(said.of[OURS][cell] for cell in dead)
