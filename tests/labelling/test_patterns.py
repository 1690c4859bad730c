"""Channel 1 on attention patterns that are known: ideal, mixed, diffuse and ambiguous."""

from dataclasses import replace

import pytest
import torch

from stackheads.interventions import Recorded, destination_rows
from stackheads.labelling.maps import make_maps, role_maps
from stackheads.labelling.patterns import pattern_evidence
from stackheads.labelling.roles import candidate_roles, role_targets, visible
from stackheads.labelling.statistics import resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, pattern_answer
from stackheads.models.runs import Recording
from stackheads.tasks import Conditional, Cycle, KHopInduction, Retrieval, Templates
from stackheads.types import NOWHERE, Destination, HeadId, Role

CYCLE = Cycle(symbols=8, max_hops=4)
CHAIN = Retrieval(chains=3, max_hops=3, attention_dir="causal")
CONDITIONAL = Conditional(symbols=6, max_hops=2)
EVERY = (CYCLE, CHAIN, KHopInduction(max_hops=2, symbols=3, context=16), Templates(symbols=6))


def uniform_pattern(task, batch):
    allowed = visible(task, batch).float()
    return (allowed / allowed.sum(dim=2, keepdim=True)).expand(len(batch), -1, -1)


def pattern_of(task, batch, role, strength=1.0):
    """Attention with `strength` on a role's targets where it has any, the rest uniform."""
    target = role_targets(task, batch, [role])[0].float()
    ideal = target / target.sum(dim=-1, keepdim=True).clamp(min=1)
    share = strength * (target.sum(dim=-1, keepdim=True) > 0)
    return share * ideal + (1 - share) * uniform_pattern(task, batch)


def recorded_with(task, pattern, batch):
    n, p = batch.tokens.shape
    nothing = torch.zeros(1, n, p, 1, 2)
    return Recorded(batch, Recording(torch.zeros(n, p, task.d_vocab_out), pattern[None, :, None], nothing, nothing))


def draws(clean):
    return resampling(len(clean.batch), 100, 0.99, torch.Generator().manual_seed(0))


def passed(found):
    return pattern_answer(found, Thresholds()) == Answer.YES


def judge(task, make, n=128, destination=Destination.VALUE):
    batch = task.sample(n, torch.Generator().manual_seed(0))
    clean = recorded_with(task, make(batch), batch)
    return pattern_evidence(task, clean, [destination], draws(clean), Thresholds())[HeadId(0, 0), destination]


@pytest.mark.parametrize("task", [CYCLE, CHAIN, CONDITIONAL])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_head_that_looks_where_a_role_says_gets_that_role(task, strength):
    for role in candidate_roles(task):
        if task is CHAIN and role.hop is not None and (role.hop < 0 or role.hop > 2):
            continue  # a value slot can't see later statements, and D - 1 links are left below it
        found = judge(task, lambda batch, role=role: pattern_of(task, batch, role, strength))
        assert found.role == role
        assert passed(found)
        assert found.mass >= strength - 1e-9


def test_where_no_source_exists_no_role_is_found():
    assert not passed(judge(CHAIN, lambda batch: pattern_of(CHAIN, batch, Role("hop", -1))))


def test_uniform_attention_is_no_pattern():
    assert not passed(judge(CYCLE, lambda batch: uniform_pattern(CYCLE, batch)))


@pytest.mark.parametrize("task", EVERY, ids=str)
def test_even_attention_leads_in_nothing(task):
    """It is its own strongest rival at every role, however many sources that has, and no more than the null by the bar."""
    batch = task.sample(64, torch.Generator().manual_seed(0))
    maps = make_maps(recorded_with(task, uniform_pattern(task, batch), batch), role_maps(task, batch))
    assert torch.allclose(maps.mass[:, 0].double(), maps.uniform * maps.exists, atol=1e-6)
    for place in Destination:
        if bool(destination_rows(batch, place).any()):
            assert not passed(judge(task, lambda batch: uniform_pattern(task, batch), 64, place))


@pytest.mark.parametrize("lean", [0.0, 0.3])
def test_all_but_even_attention_is_no_role_of_several_sources(lean):
    """A head that leans a little towards duplicates, of which there are many, does not look at them and nowhere else."""
    task = KHopInduction(max_hops=1, symbols=3, context=64)

    def leaning(batch):
        target = role_targets(task, batch, [Role("duplicate")])[0].float()
        scores = (lean * target).masked_fill(~visible(task, batch).expand(len(batch), -1, -1), -torch.inf)
        return scores.softmax(dim=-1)

    assert not passed(judge(task, leaning))


def test_random_attention_is_no_pattern():
    """Sharp attention on random places, the same in kind for every example: a hundred heads, none passes."""
    batch = CYCLE.sample(64, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    pattern = (4 * torch.randn(1, 64, 100, 17, 17, generator=generator)).softmax(dim=-1)
    nothing = torch.zeros(1, 64, 17, 100, 1)
    clean = Recorded(batch, Recording(torch.zeros(64, 17, CYCLE.d_vocab_out), pattern, nothing, nothing))
    evidence = pattern_evidence(
        CYCLE, clean, [Destination.QUERY, Destination.VALUE, Destination.KEY], draws(clean), Thresholds()
    )
    assert len(evidence) == 300
    assert not any(passed(found) for found in evidence.values())


def test_another_examples_map_is_no_pattern():
    """What the null is for: looking where another example's answer stands."""

    def shifted(batch):
        return pattern_of(CYCLE, batch, Role("hop", 2)).roll(1, dims=0)

    found = judge(CYCLE, shifted)
    assert not passed(found)


def test_half_and_half_is_no_pattern():
    """A head split evenly between two roles leads neither by the margin."""

    def both(batch):
        return (pattern_of(CYCLE, batch, Role("hop", 1)) + pattern_of(CYCLE, batch, Role("hop", 3))) / 2

    found = judge(CYCLE, both)
    assert not passed(found)
    assert found.role in (Role("hop", 1), Role("hop", 3))


@pytest.mark.parametrize("hop", [1, 2])
def test_looking_at_all_candidates_is_not_looking_at_the_right_one(hop):
    """Without its rival `unchosen`, half of the attention on the chosen candidate would pass for a hop."""

    def candidates(batch):
        roles = Role("hop", hop), Role("unchosen", hop)
        return sum(pattern_of(CONDITIONAL, batch, role) for role in roles) / 2

    found = judge(CONDITIONAL, candidates, destination=Destination.QUERY)
    assert not passed(found)
    assert found.mass == pytest.approx(found.rival_mass)


def test_the_condition_of_another_step_is_no_pattern_of_this_one():
    def both(batch):
        return (pattern_of(CONDITIONAL, batch, Role("condition", 1)) + pattern_of(CONDITIONAL, batch, Role("condition", 2))) / 2

    assert not passed(judge(CONDITIONAL, both, destination=Destination.QUERY))


def test_roles_that_no_row_tells_apart_are_called_ambiguous():
    """Statements in an order in which the token before each key slot is always the value slot of hop 1."""

    def example(generator):
        ring = torch.randperm(8, generator=generator).tolist()
        return [token for i in range(7, -1, -1) for token in (ring[i], ring[(i + 1) % 8])] + [ring[0]]

    generator = torch.Generator().manual_seed(0)
    batch = CYCLE.batch(torch.tensor([example(generator) for _ in range(64)]))
    previous = role_targets(CYCLE, batch, [Role("previous")])[0].float()
    clean = recorded_with(CYCLE, previous, batch)
    found = pattern_evidence(CYCLE, clean, [Destination.QUERY], draws(clean), Thresholds())
    one = found[HeadId(0, 0), Destination.QUERY]
    assert not passed(one)
    assert {str(role) for role in one.coinciding} == {"previous", "hop 1"}


def test_role_targets_by_hand():
    task = Retrieval(chains=2, max_hops=2, attention_dir="causal")
    batch = task.batch(torch.tensor([[0, 1, 3, 4, 2, 0, 5, 3, 2]]))  # B=A, …, C=B with C asked
    roles = [Role("hop", 1), Role("previous"), Role("duplicate"), Role("self"), Role("start")]
    query = [row.nonzero().flatten().tolist() for row in role_targets(task, batch, roles)[:, 0, -1]]
    assert query == [[5], [7], [4], [8], [0]]
    first = [row.nonzero().flatten().tolist() for row in role_targets(task, batch, roles)[:, 0, 0]]
    assert first == [[], [], [], [0], []]


@pytest.mark.parametrize(
    ("having", "examples", "answer"),
    [
        (512, 512, Answer.NO),
        (16, 512, Answer.UNDECIDED),  # one in four that have it may be of a kind which none of 16 is
        (16, 4096, Answer.NO),  # known to be rare: nothing is claimed of it
    ],
)
def test_a_role_that_few_examples_have_is_not_denied_for_what_the_others_show(having, examples, answer):
    def rarely(batch):
        find = batch.find.clone()
        find[having:, CYCLE.hops.index(2)] = NOWHERE
        return replace(batch, find=find)

    batch = rarely(CYCLE.sample(examples, torch.Generator().manual_seed(0)))
    clean = recorded_with(CYCLE, uniform_pattern(CYCLE, batch), batch)
    found = pattern_evidence(CYCLE, clean, [Destination.VALUE], draws(clean), Thresholds())[HeadId(0, 0), Destination.VALUE]
    assert pattern_answer(found, Thresholds()) == answer
