"""Scrubbing names what a head carries by construction, also where it looks at everything else, and nothing else."""

from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads import Analysis, analyze
from stackheads.interventions import destination_rows
from stackheads.labelling.bench import bench_of
from stackheads.labelling.carrying import COLUMNS, carried_frame, carried_of, carries, unexplained, with_carried
from stackheads.labelling.measure import Look, measure
from stackheads.labelling.readouts import Readout
from stackheads.labelling.scrubbed import DONORS, MEASURES, ScrubEvidence, _donors, hypotheses, scrubs
from stackheads.labelling.statistics import Shares, resampling
from stackheads.labelling.thresholds import Thresholds
from stackheads.labelling.verdict import Answer, status
from stackheads.programs.compiler import compile_layers
from stackheads.programs.heads import POSITION, TOKEN, Copy, HeadSpec
from stackheads.programs.mechanisms import one_hop_per_layer
from stackheads.programs.program import lower
from stackheads.seeds import Stream, stream
from stackheads.tables import records
from stackheads.tasks import Cycle, Retrieval, labelling_batch
from stackheads.types import Destination, Gate, Gated, HeadId, Role, Slot, Status
from stackheads.validation.assigned import walk
from stackheads.validation.specimens import CIRCUITS, Guise, specimen

THRESHOLDS = Thresholds()
QUERY, VALUE = Destination.QUERY, Destination.VALUE
PLAIN = ("doubling", "tripling")
EXAMPLES = 128


@cache
def compiled(name, seed=3):
    made = specimen(name, CIRCUITS[name](), Guise(seed=seed))
    return made, measure(made.model, made.task, Look(EXAMPLES, 0, gates=False, methods=("resample",)), THRESHOLDS)[0]


def carried_by(made, evidence, seed=0):
    """What scrubbing says of each of these rows: the answer, and all names of the token."""
    bench = bench_of(made.model, made.task, labelling_batch(made.task, EXAMPLES, 0), THRESHOLDS)
    found = carried_of(bench, evidence, seed, THRESHOLDS)
    verdicts = [carries(one, THRESHOLDS) for one in found]
    names = [() if each.which is None else one.roles[each.which] for one, each in zip(found, verdicts, strict=True)]
    return [(verdict.answer, roles) for verdict, roles in zip(verdicts, names, strict=True)]


def brought(made, item):
    """The roles whose tokens a compiled head copies: of its source the token itself, or what that has found."""
    spec = made.layers[item.head.layer][item.head.index]
    role = spec.roles[item.destination]
    start = {"previous": -1, "self": 0, "hop": role.hop}[role.name]
    steps = [start + int(copy.source.removeprefix("f")) for copy in spec.copies]
    return {role} if role.name == "previous" else {Role("hop", made.task.same_offset(step)) for step in steps if step}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 40), tokens=st.integers(1, 6))
def test_donors_counted_out(seed, n, tokens):
    """Each row's donor is another row at its position; of its token, or of another one that exists."""
    numbers = torch.Generator().manual_seed(seed)
    named = torch.randint(-1, tokens, (n, 3), generator=numbers)
    rows = torch.rand(n, 3, generator=numbers) < 0.8
    found = _donors(named, rows, numbers)
    for example, position in rows.nonzero().tolist():
        token, there = named[example, position], rows[:, position].clone()
        there[example] = False
        alike = there & (named[:, position] == token)
        others = there & (named[:, position] != token) & (named[:, position] >= 0)
        assert bool(found.enough[example, position]) == (int(alike.sum()) >= DONORS)
        assert bool(found.has_other[example, position]) == bool(token >= 0 and others.any())
        if alike.any():
            assert alike[found.same[example, position]]
        if token >= 0 and others.any():
            assert others[found.other[example, position]]
    assert not (found.enough & ~rows).any()


def test_every_donor_is_drawn_as_often():
    """Of 11 rows of two tokens each of the other rows of its own, at 2,000 positions, within five standard errors."""
    named = torch.tensor([0, 1] * 5 + [0])[:, None].expand(-1, 2000)
    drawn = _donors(named, torch.ones_like(named, dtype=torch.bool), stream(0, Stream.DONORS)).same
    for row in range(11):
        alike = [other for other in range(11) if other != row and (other - row) % 2 == 0]
        counts = torch.stack([(drawn[row] == other).sum() for other in alike]).double()
        share = 1 / len(alike)
        assert (counts - 2000 * share).abs().max() < 5 * (2000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("name", PLAIN)
def test_what_a_compiled_head_copies_is_what_it_carries(name):
    """The oracle: of each confirmed head the one token that it copies; of one that copies several none, or the one that is
    read after it. Never another, though a head that looks at hop -1 may carry hop -2.
    """
    made, evidence = compiled(name)
    confirmed = [item for item in evidence if status(item, THRESHOLDS) == Status.CONFIRMED]
    assert confirmed
    for item, (answer, roles) in zip(confirmed, carried_by(made, confirmed), strict=True):
        copied = brought(made, item)
        assert not roles or copied & set(roles)
        if len(copied) == 1:
            assert answer == Answer.YES


def test_a_head_that_carries_two_tokens_is_denied_each():
    """The second layer of doubling brings hop 2 and hop 3 to value slots, and both are read."""
    made, evidence = compiled("doubling")
    two = [item for item in evidence if item.head.layer == 2 and item.destination == VALUE]
    two = [item for item in two if status(item, THRESHOLDS) == Status.CONFIRMED]
    assert [answer for answer, _ in carried_by(made, two)] == [Answer.NO]


TASK = Cycle(symbols=6, max_hops=1)


@cache
def eliminating():
    """From each value slot evenly at all keys but its own; what these sum up to is subtracted, so that its own is left."""
    positions = range(TASK.n_ctx)
    others = {(row, key): 1.0 for row in positions for key in positions[::2] if key != row - 1 and key != TASK.n_ctx - 1}
    head = HeadSpec(
        ((POSITION, POSITION),),
        frozenset({VALUE}),
        (Copy(TOKEN, "f-1", 1.0 - TASK.symbols),),
        {},
        sources=frozenset({Slot.KEY}),
        tables=(others,),
    )
    layers = ((head,), walk(TASK)[1])
    return compile_layers(layers, TASK, None, rotation_seed=0)[0]


@cache
def analysis():
    return analyze(eliminating(), TASK, examples=EXAMPLES, progress=False, explain=False, carried=True)


def test_a_head_that_knows_by_elimination_gets_a_word():
    """It carries its own key and hardly looks at it. On a cycle that is what leads there, too, and the label says both."""
    (row,) = records(analysis().carried)
    named = {name: row[name] for name in ("head", "destination", "answer", "carries", "also")}
    assert named == {"head": "L0H0", "destination": "value", "answer": "yes", "carries": "previous", "also": "hop -1"}
    assert row["kept"] > 0.99
    assert row["attention"] < 0.05
    assert row["control"] > row["effect"] > 0.3
    label = next(row for row in records(analysis().labels) if (row["head"], row["destination"]) == ("L0H0", "value"))
    assert label["status"] == Status.CAUSAL_UNCLASSIFIED
    assert label["reason"].endswith(row["reason"])
    assert "carries the token of previous (which is that of hop -1)" in row["reason"]


def test_the_same_seed_gives_the_same_verdicts_and_no_other_head_changes_them():
    made, evidence = compiled("doubling")
    confirmed = [item for item in evidence if status(item, THRESHOLDS) == Status.CONFIRMED]
    assert carried_by(made, confirmed[1:2]) == carried_by(made, confirmed)[1:2]


def test_a_carried_table_is_saved_and_analyses_without_one_are_read(tmp_path):
    analysis().save(tmp_path / "with")
    assert Analysis.load(tmp_path / "with").carried.equals(analysis().carried)
    replace(analysis(), carried=None).save(tmp_path / "without")
    assert Analysis.load(tmp_path / "without").carried is None


def test_what_is_carried_stands_in_the_reason_of_its_own_part():
    """With and without a gate in one table, whatever stands for none there."""
    gates = (None, "asked 1", "asked 2")
    labels = pd.DataFrame([{"head": "L0H0", "destination": "query", "gate": gate, "reason": "why"} for gate in gates])
    rows = [(None, "yes", "a"), ("asked 1", "yes", "b"), ("asked 2", "no", "c")]
    carried = pd.DataFrame(
        [{"head": "L0H0", "destination": "query", "gate": gate, "answer": said, "reason": more} for gate, said, more in rows]
    )
    assert list(with_carried(labels, carried)["reason"]) == ["why; a", "why; b", "why"]


def test_heads_that_do_nothing_or_have_a_label_are_not_asked():
    """Nor those that a label explains: nothing is run for them."""
    made, evidence = compiled("doubling")
    assert unexplained(evidence, THRESHOLDS) == []
    table = carried_frame(made.model, made.task, evidence, 0, THRESHOLDS)
    assert table.empty
    assert list(table.columns) == COLUMNS


def test_where_no_other_example_has_the_token_nothing_is_said():
    """Of 40 symbols and 32 examples hardly a position has five with one token."""
    task = Cycle(symbols=40, max_hops=1)
    bench = bench_of(compile_layers(lower(one_hop_per_layer(1)), task)[0], task, labelling_batch(task, 32, 0), THRESHOLDS)
    (found,) = scrubs(bench, [(HeadId(1, 0), QUERY)], resampling(32, 100, 0.99, stream(0, Stream.BOOTSTRAP)), 0, 0.5)
    assert (found.roles, found.readouts) == ((), ())
    assert Role("hop", 1) in found.untested
    assert carries(found, THRESHOLDS).answer == Answer.UNTESTED


@pytest.mark.parametrize("examples", [32, 64])
def test_a_role_that_could_not_be_tested_is_not_denied(examples):
    """On few examples of many symbols the role of a confirmed head may have no donors: nobody says that it carries no token."""
    task = Retrieval(chains=3, max_hops=3, attention_dir="causal")
    model = compile_layers(lower(one_hop_per_layer(3)), task)[0]
    evidence, _ = measure(model, task, Look(examples, 0, gates=False, methods=("resample",)), THRESHOLDS)
    bench = bench_of(model, task, labelling_batch(task, examples, 0), THRESHOLDS)
    found = carried_of(bench, evidence, 0, THRESHOLDS)
    assert any(one.untested for one in found)
    assert Answer.NO not in [carries(one, THRESHOLDS).answer for one in found if one.untested]


def test_donors_stand_under_the_same_gate():
    """A part of a destination: its rows are scrubbed, and no others give."""
    task = Retrieval(chains=3, max_hops=2, attention_dir="causal")
    batch = labelling_batch(task, 64, 0)
    place = Gated(QUERY, Gate("own symbol", (0, 1, 2, 3)))
    rows = destination_rows(batch, place)
    found = _donors(torch.zeros_like(batch.tokens), rows, stream(0, Stream.DONORS))
    assert rows[found.same[rows], rows.nonzero()[:, 1]].all()


def test_roles_that_name_one_token_are_one_hypothesis():
    """At value slots of a cycle the key before is what leads there; in chains only where something does."""
    for task, together in ((TASK, True), (Retrieval(chains=3, max_hops=2), False)):
        batch = labelling_batch(task, 64, 0)
        found, _ = hypotheses(task, batch, destination_rows(batch, VALUE))
        (previous,) = [one for one in found if Role("previous") in one.roles]
        assert (Role("hop", -1) in previous.roles) == together
        assert previous.roles[0] == Role("previous")


def evidence(kept, finer, destroyed=(0.5,), control=0.5, logits=None, untested=()):
    """Made up: what each of two hypotheses keeps, on each readout."""

    def shares(values):
        value = torch.tensor(values, dtype=torch.double)
        return Shares(value, value - 0.05, value + 0.05, value * 0 + 0.02, torch.full((len(value),), 4096))

    margins = [share for one in kept for share in one]
    every = margins * (len(MEASURES) - 1) + ([share for one in logits for share in one] if logits else margins)
    roles = ((Role("hop", 1),), (Role("hop", 2),))
    readouts = tuple(Readout(QUERY, hop) for hop in range(1, len(destroyed) + 1))
    both, size = [control] * len(margins), ((0, 1), 4096, 9, 0)
    return ScrubEvidence(
        HeadId(0, 0), QUERY, roles, finer, untested, readouts, shares(destroyed), shares(every), shares(both), *size
    )


NEITHER = (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("found", "answer", "which"),
    [
        (evidence([[0.99], [0.2]], NEITHER), Answer.YES, 0),
        (evidence([[0.99], [0.98]], NEITHER), Answer.UNDECIDED, None),
        (evidence([[0.99], [0.98]], (frozenset(), frozenset({0}))), Answer.YES, 1),
        (evidence([[0.4], [0.5]], NEITHER), Answer.NO, None),
        (evidence([[0.4], [0.5]], NEITHER, untested=(Role("previous"),)), Answer.UNDECIDED, None),
        (evidence([[0.88], [0.5]], NEITHER), Answer.UNDECIDED, None),
        (evidence([[0.99, 0.3], [0.2, 0.98]], NEITHER, destroyed=(0.5, 0.5)), Answer.NO, None),
        (evidence([[0.99, 0.3], [0.2, 0.1]], NEITHER, destroyed=(0.5, 0.001)), Answer.YES, 0),
        (evidence([[0.99], [0.2]], NEITHER, control=0.01), Answer.UNDECIDED, None),
        (evidence([[0.99], [0.2]], NEITHER, destroyed=(0.001,)), Answer.UNDECIDED, None),
        (evidence([[0.99], [0.2]], NEITHER, logits=[[0.1], [0.2]]), Answer.NO, None),
    ],
    ids=(
        "one",
        "not told apart",
        "the coarser of two",
        "neither",
        "neither of those that could be tested",
        "nearly",
        "each another readout",
        "a readout that it does nothing for",
        "another token does as well",
        "nothing destroyed",
        "other answers change",
    ),
)
def test_the_table_of_answers(found, answer, which):
    verdict = carries(found, THRESHOLDS)
    assert (verdict.answer, verdict.which) == (answer, which)
