"""Other ways of labelling heads: their numbers are what they are said to be, and a dead head fools those that only look."""

import pytest
import torch

from stackheads import analyze
from stackheads.interventions import destination_rows
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.tables import records
from stackheads.tasks import labelling_batch
from stackheads.types import Destination, HeadId
from stackheads.validation.peers import LEVELS, NEVER, OURS, Said, blurred, cases, said_of, scored
from stackheads.validation.specimens import CIRCUITS, Guise, specimen

DEAD, GUISE = "a: no output", Guise(seed=2, normalization=None)


@pytest.fixture(scope="module")
def said():
    return said_of("clean", DEAD, GUISE, examples=128)


def of(said, peer):
    return [each for each in said if each.peer == peer]


def test_each_peer_speaks_of_each_cell_once(said):
    peers = {each.peer for each in said}
    assert peers >= {OURS, "cosine", "head detector", "attention mass", "ablation", "attribution"}
    assert {len(of(said, peer)) for peer in peers} == {len(said) // len(peers)}


def test_their_numbers_are_those_of_their_authors(said):
    """Cosine, attention and ablation of every head at the query, one at a time, with the model's own patterns."""
    made = specimen(DEAD, CIRCUITS[DEAD](), GUISE)
    batch = labelling_batch(made.task, 128, GUISE.seed)
    _, cache = made.model.run_with_cache(batch.tokens)
    roles = [role for role in candidate_roles(made.task) if role.name != "start"]
    maps, rows = role_targets(made.task, batch, roles).float(), destination_rows(batch, Destination.QUERY)
    found = {(each.peer, each.cell): each for each in said}
    for head in (HeadId(layer, index) for layer in range(made.model.cfg.n_layers) for index in range(made.model.cfg.n_heads)):
        pattern = cache["pattern", head.layer][:, head.index][rows]
        best = {"cosine": 0.0, "attention mass": 0.0, "head detector": 0.0}
        for target in maps[:, rows]:
            together = float((pattern * target).sum())
            cosine = torch.nn.functional.cosine_similarity(pattern.flatten(), target.flatten(), dim=0)
            mine = (float(cosine), together / max(float(target.any(-1).sum()), 1.0), together / float(pattern.sum()))
            best = {name: max(before, now) for (name, before), now in zip(best.items(), mine, strict=True)}
        for peer, number in best.items():
            assert found[peer, (head, Destination.QUERY)].score == pytest.approx(number, abs=1e-4)


def test_ablation_is_that_of_the_effects_table(said):
    made = specimen(DEAD, CIRCUITS[DEAD](), GUISE)
    table = analyze(made.model, made.task, examples=128, seed=GUISE.seed, progress=False, explain=False)
    answered = {f"hop {row['hop']} @{row['destination']}" for row in records(table.readouts) if row["open"]}
    zero = [row for row in records(table.effects) if row["ablation"] == "zero" and row["readout"] in answered]
    for each in of(said, "ablation"):
        mine = [row["effect"] for row in zero if (row["head"], row["destination"]) == tuple(map(str, each.cell))]
        assert each.score == pytest.approx(max(map(abs, mine)), abs=1e-6)


def test_a_dead_head_fools_what_only_looks(said):
    """Decoy a looks like a hop and has no output: those that look say it carries the hop, those that act do not."""
    dead = {each.cell for each in said if each.true_status == "pattern-only" and str(each.true_role).startswith("hop")}
    assert dead
    for peer in ("cosine", "head detector", "attention mass"):
        assert all(each.score > 0.3 for each in of(said, peer) if each.cell in dead)
    for peer in ("ablation", "attribution"):
        assert all(each.score < 1e-6 for each in of(said, peer) if each.cell in dead)
    assert all(each.score == NEVER for each in of(said, OURS) if each.cell in dead)


def test_rates_by_hand():
    """Two heads that carry hop 1, one of them taken for hop 2, and one that carries nothing and is said to."""
    cells = [
        Said("x", "clean", "c", (HeadId(0, number), Destination.QUERY), role, score, true_role, status)
        for number, (role, score, true_role, status) in enumerate(
            [
                ("hop 1", 0.9, "hop 1", "confirmed"),
                ("hop 2", 0.8, "hop 1", "redundant"),
                ("hop 1", 0.7, "hop 1", "pattern-only"),
                ("hop 3", 0.1, "hop 3", "opposing"),
            ]
        )
    ]
    row = records(scored(cells, cells).query("level == 'clean'"))[0]
    assert 0.8 < row["threshold"] < 0.9
    assert (row["precision"], row["recall"], row["missed"], row["wrong_role"]) == (1.0, 1 / 3, 2, 0)


def test_cases_are_for_choosing_and_scoring_by_turns():
    every = cases(0, 1)
    assert len(every) == 2 * len(LEVELS) * len(CIRCUITS)
    for one, other in zip(every[::2], every[1::2], strict=True):
        assert one[:2] == other[:2]
        assert one[2] != other[2]


def test_a_hard_guise_is_blurred_and_still_answers():
    guise = Guise(seed=1, normalization=None, noise=0.1)
    assert blurred(DEAD, guise).sharpness < guise.sharpness
