"""Roles beside tables of symbols and places: what attention follows where the two name different sources."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelling.test_patterns import CHAIN, CYCLE, draws, pattern_of, recorded_with, uniform_pattern

from stackheads import analyze
from stackheads.interventions import destination_rows, recorded
from stackheads.labelling.patterns import looking, pattern_evidence
from stackheads.labelling.rivals import contrasts
from stackheads.labelling.roles import role_targets, visible
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, followed_instead, pattern_answer
from stackheads.tables import records
from stackheads.types import Destination, HeadId, Role
from stackheads.validation.specimens import CIRCUITS, Guise, specimen
from stackheads.validation.tabled import TABLED, OftenFirst, OftenNext

HEAD, QUERY, VALUE = HeadId(0, 0), Destination.QUERY, Destination.VALUE
HOP = Role("hop", 1)
NEXT = OftenNext(symbols=8, max_hops=1, supervision="chain")
FIRST = OftenFirst(symbols=8, max_hops=1, supervision="chain")
TRUE_ROLES = [(CYCLE, Role("hop", hop)) for hop in (1, 2, -1)] + [(CHAIN, HOP), (NEXT, HOP), (FIRST, HOP)]
TRUE_ROLES += [(CYCLE, Role(name)) for name in ("previous", "self", "start", "duplicate")]


def batch_of(task, examples=512, seed=0):
    return task.sample(examples, torch.Generator().manual_seed(seed))


def judged(task, pattern, batch, place=QUERY):
    clean = recorded_with(task, pattern, batch)
    return pattern_evidence(task, clean, [place], draws(clean), Thresholds())[HEAD, place]


def followed(task, pattern, batch, place=QUERY):
    """The table that denies the role, if one does."""
    found = followed_instead(judged(task, pattern, batch, place), Thresholds())
    return found and found.table


def by_symbols(batch, number):
    """Attention by random numbers of own symbol × symbol: [batch, row, source]."""
    return number[batch.tokens[:, :, None], batch.tokens[:, None]]


def at_next(batch):
    """All attention on the value slot of the next symbol, where there is one to be seen."""
    values = (batch.slots == 1)[:, None]
    return ((batch.tokens[:, None] - batch.tokens[:, :, None]) % NEXT.symbols == 1) & values


def softened(task, batch, looks, strength):
    return strength * looks.float() + (1 - strength) * uniform_pattern(task, batch)


@given(st.floats(0.4, 1.0), st.integers(0, 99))
@settings(max_examples=5)
def test_a_table_that_is_hop_1_in_nine_of_ten_is_a_table(strength, seed):
    batch = batch_of(NEXT, seed=seed)
    found = judged(NEXT, softened(NEXT, batch, at_next(batch), strength), batch)
    assert found.role == HOP
    assert followed_instead(found, Thresholds()).table == "symbols"
    assert pattern_answer(found, Thresholds()) == Answer.NO
    assert pattern_answer(replace(found, contrasts=()), Thresholds()) == Answer.YES  # no other rival sees it


@given(st.floats(0.4, 1.0), st.integers(0, 99))
@settings(max_examples=5)
def test_a_place_that_is_hop_1_in_nine_of_ten_is_a_place(strength, seed):
    batch = batch_of(FIRST, seed=seed)
    first = torch.zeros(len(batch), 17, 17)
    first[:, :, 1] = 1.0
    assert followed(FIRST, softened(FIRST, batch, first, strength), batch) == "places"


@given(st.sampled_from(TRUE_ROLES), st.floats(0.5, 1.0), st.integers(0, 99), st.floats(0, 8))
@settings(max_examples=25)
def test_a_true_role_is_denied_by_no_table(true, strength, seed, sharp):
    """Half of its attention may go by any table of symbols and places."""
    task, role = true
    batch, generator = batch_of(task, 128, seed), torch.Generator().manual_seed(seed)
    number = sharp * torch.randn(task.d_vocab, task.d_vocab, generator=generator)
    scores = by_symbols(batch, number) + sharp * torch.randn(task.n_ctx, task.n_ctx, generator=generator)
    rest = scores.masked_fill(~visible(task, batch), -torch.inf).softmax(dim=2)
    target = role_targets(task, batch, [role])[0].float()
    ideal = target / target.sum(dim=2, keepdim=True).clamp(min=1)
    there = target.amax(dim=2, keepdim=True)
    pattern = there * (strength * ideal + (1 - strength) * rest) + (1 - there) * rest
    for place in (QUERY, VALUE):
        found = judged(task, pattern, batch, place)
        assert found.role != role or followed_instead(found, Thresholds()) is None


@given(st.sampled_from(["doubling", "tripling", "i: two hops", "s"]), st.integers(0, 99))
@settings(max_examples=3)
def test_true_roles_of_compiled_circuits_are_denied_by_no_table(name, seed):
    circuit = TABLED["s: often next"]() if name == "s" else CIRCUITS[name]()
    one = specimen(name, circuit, Guise(seed=seed, noise=0.1, normalization=None))
    clean = recorded(one.model, batch_of(one.task, 128, seed))
    found = pattern_evidence(one.task, clean, [QUERY, VALUE], draws(clean), Thresholds())
    true = [found[cell] for cell, truth in one.truth.items() if truth.status == "confirmed"]
    assert true
    assert all(followed_instead(each, Thresholds()) is None for each in true)
    assert any(each.contrasts for each in true)


def test_a_role_that_is_a_table_is_not_denied_for_an_exception():
    """It looks at the place before it, but from one place at the first."""
    batch = batch_of(CYCLE)
    pattern = pattern_of(CYCLE, batch, Role("previous"))
    pattern[:, 5], pattern[:, 5, 0] = 0.0, 1.0
    found = judged(CYCLE, pattern, batch, VALUE)
    assert found.role == Role("previous")
    assert pattern_answer(found, Thresholds()) == Answer.YES
    assert "places" not in [each.table for each in found.contrasts]


def test_where_too_few_examples_tell_them_apart_the_role_stands():
    batch = batch_of(NEXT, 64)
    found = judged(NEXT, at_next(batch).float(), batch)
    (one,) = (each for each in found.contrasts if each.table == "symbols")
    assert one.lead.value < -0.9
    assert one.lead.examples < Thresholds().min_asked
    assert pattern_answer(found, Thresholds()) == Answer.YES


def by_hand(task, attention, batch, role, own):
    """Both tables example by example, as the module says it: {table: (on role, on table, rows)}."""
    seen, named = visible(task, batch).expand(len(batch), -1, -1), role_targets(task, batch, [role])[0]
    tokens, slots = batch.tokens.tolist(), batch.slots.tolist()
    kinds = {
        "symbols": lambda n, row, source: (tokens[n][row], tokens[n][source], slots[n][source]),
        "places": lambda n, row, source: (row, source),
    }
    rows = [(n, row) for n, row in (batch.slots == 1).nonzero().tolist()]
    found = {}
    for table, kind in kinds.items():
        numbers = defaultdict(list)
        for n, row in rows:
            for source in seen[n, row].nonzero().flatten().tolist():
                numbers[n % 4 >= 2, kind(n, row, source)].append(float(attention[n, row, source]))
        sums = []
        for n, row in (pair for pair in rows if own[pair]):
            known = {
                source: sum(those) / len(those)
                for source in seen[n, row].nonzero().flatten().tolist()
                if (those := numbers.get((n % 4 < 2, kind(n, row, source))))
            }
            best = [source for source, x in known.items() if x >= max(known.values()) - 1e-6]
            if best and not any(named[n, row, source] for source in best):
                at = attention[n, row]
                sums.append((float(at[named[n, row]].sum()), float(at[best].mean())))
        found[table] = (*(sum(part) / len(sums) for part in zip(*sums, strict=True)), len(sums))
    return found


def test_contrasts_are_those_by_hand():
    task, batch = CHAIN, batch_of(CHAIN, 24)
    scores = torch.randn(len(batch), task.n_ctx, task.n_ctx, generator=torch.Generator().manual_seed(1))
    attention = (2 * scores).masked_fill(~visible(task, batch), -torch.inf).softmax(dim=2)
    clean = recorded_with(task, attention, batch)
    rows, looks = destination_rows(batch, VALUE), looking(task, clean)
    own = looks.maps.distinct[looks.roles.index(HOP)]
    found = contrasts(task, clean, rows, {HEAD: HOP}, {HOP: own}, 0.99)[HEAD]
    mine = {each.table: (each.on_role, each.on_table, each.rows) for each in found}
    expected = by_hand(task, attention, batch, HOP, own)
    assert mine.keys() == expected.keys()
    for table, numbers in expected.items():
        assert mine[table] == pytest.approx(numbers, abs=1e-6)
    assert all(each.lead.value == pytest.approx(each.on_role - each.on_table) for each in found)


@pytest.mark.parametrize("looks", [at_next, lambda batch: role_targets(NEXT, batch, [HOP])[0]])
def test_what_is_followed_does_not_depend_on_names_order_or_number_format(looks):
    batch = batch_of(NEXT)
    pattern = softened(NEXT, batch, looks(batch), 0.7)
    plain = judged(NEXT, pattern, batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    renamed = replace(batch, tokens=torch.randperm(8, generator=torch.Generator().manual_seed(2))[batch.tokens])
    said = {
        "renamed": judged(NEXT, pattern, renamed).contrasts == plain.contrasts,
        "reordered": followed(NEXT, pattern[order], batch[order]) == followed(NEXT, pattern, batch),
        "in float64": followed(NEXT, pattern.double(), batch) == followed(NEXT, pattern, batch),
    }
    assert all(said.values()), said


@pytest.mark.parametrize("name", ["p: often hop 1", "s: often next"])
def test_heads_that_seem_to_look_at_hop_1_have_no_role(name):
    one = specimen(name, TABLED[name](), Guise(seed=1, noise=0.1, normalization=None))
    table = analyze(one.model, one.task, examples=512, explain=False, progress=False).labels
    truth, found = one.truth, {(HeadId.parse(row["head"]), Destination(row["destination"])): row for row in records(table)}
    (cell,) = [cell for cell, true in truth.items() if true.status == "causal-unclassified"]
    assert found[cell]["status"] == "causal-unclassified"
    assert found[cell]["role"] is None
    table = {"p: often hop 1": "places", "s: often next": "symbols"}[name]
    assert found[cell]["reason"].startswith(f"no role but a table of {table}: where hop 1 names another source")
    (hop,) = [cell for cell, true in truth.items() if true.role == HOP]
    assert (found[hop]["status"], found[hop]["hop"]) == ("confirmed", 1)
