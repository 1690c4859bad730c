"""Scores of ways of labelling by hand, and cases of which it is known what heads look at."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stackheads.types import Destination, HeadId, Status
from stackheads.validation.blurred import blurred
from stackheads.validation.cases import ALL, LEFT_OPEN, Case, cases, subject
from stackheads.validation.compared import (
    COLUMNS,
    DRAWN,
    KNOWN,
    LOOKING,
    NULLS,
    TAUGHT,
    UNSEEN,
    Result,
    kind,
    result,
    scores,
    thresholds,
    wrong,
)
from stackheads.validation.peers import ALONE, ALWAYS, OURS, Said, said_of
from stackheads.validation.specimens import CIRCUITS, Guise

QUERY = Destination.QUERY


def made(column, half, truth, **ways):
    """A case of heads L0H0, L0H1, … at the query."""
    cells = [(HeadId(0, number), QUERY) for number in range(len(truth))]
    said = {way.replace("_", " "): dict(zip(cells, of, strict=True)) for way, of in ways.items()}
    statuses = dict.fromkeys(cells, (Status.CONFIRMED,))
    allowed = {cells[0]: {"value slots"}}
    return result(column, f"{column} {half}", half, dict(zip(cells, truth, strict=True)), allowed, Said(said, statuses))


ONE = made(
    "clean",
    0,
    [{"hop 1"}, {"hop 2"}, {"previous"}, set()],
    ours=[{"hop 1": ALWAYS, "value slots": ALWAYS}, {"hop 3": ALWAYS}, {"previous": ALWAYS}, {}],
    cosine=[{"hop 1": 0.9}, {"hop 2": 0.5}, {"previous": 0.7}, {"hop 1": 0.55}],
)
OTHER = made(
    "clean",
    1,
    [{"hop 1"}, set()],
    ours=[{"hop 1": ALWAYS}, {}],
    cosine=[{"hop 1": 0.8}, {"hop 1": 0.4}],
)


def row(found, way, column):
    return next(each for each in found if (each["way"], each["column"]) == (way, column))


def test_scores_by_hand():
    """Of hops ours says three, two of the three that there are; of previous the one. Slots may be said."""
    found = scores([ONE, OTHER])
    ours = row(found, OURS, "clean")
    assert ours["score"] == pytest.approx(3 / 4)
    assert ours["macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert (ours["precision"], ours["recall"], ours["cells"]) == (3 / 4, 3 / 4, 6)
    assert ours["low"] <= ours["score"] <= ours["high"]
    assert ours["macro_low"] <= ours["macro"] <= ours["macro_high"]
    assert [(each["cell"], each["so"], each["said"]) for each in wrong([ONE, OTHER])] == [("L0H1 @query", "hop 2", "hop 3")]


def test_each_half_is_scored_by_the_threshold_that_is_best_on_the_other():
    """In the second case the look has 0.8 and the other head 0.4; in the first all three looks are said from 0.5 on."""
    assert thresholds([ONE, OTHER], "cosine") == pytest.approx((0.6, 0.5), abs=1e-3)
    cosine = row(scores([ONE, OTHER]), "cosine", "clean")
    assert (cosine["precision"], cosine["recall"]) == (1.0, 3 / 4)


def test_trained_models_have_thresholds_of_their_own():
    """A look has 0.4 there and nothing less; of compiled circuits what has 0.4 is none."""
    trained = [made(KNOWN, half, [{"hop 1"}, set()], ours=[{}, {}], cosine=[{"hop 1": 0.4}, {"hop 2": 0.1}]) for half in (0, 1)]
    null = made(NULLS, 0, [set()], ours=[{}], cosine=[{"hop 1": 0.4}])
    found = scores([ONE, OTHER, *trained, null])
    assert row(found, "cosine", KNOWN)["score"] == 1.0
    assert row(found, "cosine", "clean")["score"] == row(scores([ONE, OTHER]), "cosine", "clean")["score"] < 1
    assert row(found, "cosine", NULLS)["score"] == 0.0


@given(st.data())
def test_the_threshold_is_the_one_that_trying_each_by_itself_finds(data):
    """Of thresholds between all numbers the first with the best F1."""
    looks, n = st.sampled_from(["hop 1", "hop 2", "value slots"]), data.draw(st.integers(1, 6))
    truth = [{data.draw(looks)} if data.draw(st.booleans()) else set() for _ in range(n)]
    said = [data.draw(st.dictionaries(looks, st.integers(0, 4).map(lambda x: x / 4), max_size=2)) for _ in range(n)]
    one = made("clean", 1, truth, cosine=said)
    numbers = sorted({x for of in said for x in of.values()})
    tried = [min(numbers, default=0.0) - 0.0005, *((low + high) / 2 for low, high in pairwise(numbers))]

    def right(bar):
        cells = [({what for what, x in of.items() if x >= bar}, looks) for of, looks in zip(said, truth, strict=True)]
        first, looks = cells[0]
        cells[0] = (first - ({"value slots"} - looks) if looks else first, looks)
        hits, claims = sum(len(of & looks) for of, looks in cells), sum(len(of) + len(looks) for of, looks in cells)
        return hits / max(1, claims)

    assert thresholds([one], "cosine")[0] == pytest.approx(max(tried, key=right))


def test_of_nulls_heads_are_counted_of_which_something_is_said():
    null = made(NULLS, 0, [set()] * 4, ours=[{}] * 4, cosine=[{"hop 1": 0.95}, {}, {"hop 1": 0.1}, {"hop 2": 0.99}])
    found = scores([ONE, OTHER, null])
    assert row(found, "cosine", NULLS)["score"] == 0.5
    assert row(found, OURS, NULLS)["score"] == 0.0
    assert row(found, OURS, "clean")["score"] == row(scores([ONE, OTHER]), OURS, "clean")["score"]


def test_a_kind_that_is_nowhere_and_is_said_counts_against_who_says_it():
    said = {OURS: [{"hop 1": ALWAYS}, {"place": ALWAYS}], "labels": [{"hop 1": ALWAYS}, {}]}
    found = scores([made("clean", 0, [{"hop 1"}, set()], **said)])
    assert row(found, OURS, "clean")["score"] == pytest.approx(2 / 3)
    assert row(found, "labels", "clean")["score"] == row(found, OURS, "clean")["macro"] == 1.0


def test_copies_of_a_circuit_are_one_unit_of_the_interval():
    """A circuit and five decoys that hold its heads once more, all right, and another that is wrong: two units, not seven."""
    right, wrong_one = ({OURS: [{what: ALWAYS}]} for what in ("hop 1", "hop 2"))
    circuits = [*(replace(made("decoys", 0, [{"hop 1"}], **right), circuit=name, base="doubling") for name in "abcdef")]
    found = row(scores([*circuits, made("decoys", 1, [{"hop 1"}], **wrong_one)]), OURS, "decoys")
    assert found["score"] == pytest.approx(6 / 7)
    assert (found["low"], found["high"]) == (0.0, 1.0)


def test_a_circuit_of_which_nothing_is_judged_is_no_unit():
    """Eight circuits of eight heads, of which 0, 1, … 7 are right, and eight that are left open."""
    some = {right: [{"hop 1" if head < right else "hop 2": ALWAYS} for head in range(8)] for right in range(8)}
    judged = [replace(made("clean", 0, [{"hop 1"}] * 8, **{OURS: said}), base=str(right)) for right, said in some.items()]
    left_open = [replace(one, truth={}, statuses={}, base=f"{one.base}, left open") for one in judged]
    with_them, without = (row(scores(cases), OURS, "clean") for cases in ([*judged, *left_open], judged))
    assert with_them == without | {"cases": 16}


def test_a_circuit_that_holds_another_is_built_on_it_and_in_its_half():
    """Whose judged cells are all there once more, head by head, is a copy with something beside."""
    guise = Guise(seed=1, normalization=None, rotate=False, permute=False)
    every = {case.name: case for case in cases() if isinstance(case.of, Guise)}

    def looks(name):
        return {(cell, *some) for cell, some in subject(replace(every[name], column="clean", of=guise)).looks.items() if some}

    plain = {name: looks(name) for name in ("doubling", "tripling", "one hop per layer")}
    copies = {
        name: [base for base in plain if plain[base] <= looks(name)] for name in ("a: no output", "ya: no output", "d: split")
    }
    assert copies == {"a: no output": ["doubling"], "ya: no output": ["tripling"], "d: split": ["doubling"]}
    for name, bases in copies.items():
        assert [every[name].base] == bases
    for case in every.values():
        assert case.half == next(one.half for one in every.values() if one.base == case.base)


def test_a_head_confirmed_as_start_by_mistake_counts(checkpoints):
    """It is hop 1 at the query, which it knows by elimination, and labels confirm `start`."""
    case = next(case for case in cases(checkpoints / "known") if case.model == "chain-d1-three")
    one = subject(case)
    found = result(KNOWN, case.name, 0, one.looks, {}, said_of(one.model, one.task, one.seed, 128, 128), case.model)
    cell = next(cell for cell in found.truth if cell == "L1H0 @query")
    assert (found.truth[cell], found.statuses[cell]) == (["hop 1"], ("confirmed",))
    assert set(found.said[ALONE][cell]) == set(found.said[OURS][cell]) == {"start"}
    assert row(scores([found]), ALONE, KNOWN)["precision"] == 0.5
    assert {each["cell"]: each["said"] for each in wrong([found])}[cell] == "start"


def test_results_are_stored_and_read():
    assert Result.of(ONE.to_dict()) == ONE


def test_kinds_are_what_numbers_are_left_off():
    assert [kind(what) for what in ("hop -2", "condition 1", "value slots", "place", "symbols of key slots")] == [
        "hop",
        "condition",
        "value slots",
        "place",
        "symbols of key slots",
    ]


def test_every_circuit_is_a_case_in_both_halves_and_every_column_has_both():
    every = cases()
    assert len({case.slug for case in every}) == len(every)
    for name in ALL:
        assert len({case.half for case in every if case.name == name}) == 1
        assert len([case for case in every if case.name == name]) in (2, 3, 12)
    assert {case.half for case in every} == {0, 1}
    assert {case.column for case in every} == set(COLUMNS) - {DRAWN, KNOWN, UNSEEN, TAUGHT, LOOKING}
    nulls = [case for case in every if case.column == NULLS]
    assert len({cell[0] for cell in subject(nulls[0]).looks}) * len(nulls) > 1000


def test_known_models_of_one_recipe_are_one_circuit_of_one_half(checkpoints):
    found = [case for case in cases(checkpoints / "known") if case.column == KNOWN]
    names = {case.model for case in found}
    assert len(names) == len(found) >= 30
    halves = {}
    for case in found:
        assert case.model == case.name or case.model.startswith(f"{case.name}-seed-")
        assert case.name in names
        assert halves.setdefault(case.name, case.half) == case.half


def test_of_a_deep_known_model_one_cell_a_step_is_judged(checkpoints):
    """Four hops in five layers, one a layer: every other cell looks at nothing that matters."""
    (case,) = (case for case in cases(checkpoints / "known") if case.model == "chain-d4-guided")
    looks = subject(case).looks
    there = {cell[0].layer: (cell[1], what) for cell, what in looks.items() if what}
    hops = {layer: (QUERY, {f"hop {layer}"}) for layer in (1, 2, 3, 4)}
    assert there == {0: (Destination.VALUE, {"previous"})} | hops
    assert len(looks) == 5 * 2 * 3


def test_unseen_models_are_scored_by_themselves_and_with_the_others():
    """Two models of one recipe, the unseen one wrong: half of both, none of the unseen."""
    said = {OURS: [{"hop 1": ALWAYS}]}
    seen, unseen = (replace(made(KNOWN, 0, [truth], **said), circuit="one") for truth in ({"hop 1"}, {"hop 2"}))
    found = scores([replace(seen, model="one"), replace(unseen, model="one-seed-2")])
    assert row(found, OURS, KNOWN)["score"] == 0.5
    assert row(found, OURS, KNOWN)["low"] == row(found, OURS, KNOWN)["high"] == 0.5
    assert row(found, OURS, UNSEEN)["score"] == 0.0
    assert row(found, OURS, UNSEEN)["cases"] == 1


def test_guided_models_are_scored_by_themselves_and_with_the_others():
    """One that had no guide is wrong, one that had is right."""
    said = {OURS: [{"hop 1": ALWAYS}]}
    alone, taught = (made(KNOWN, 0, [truth], **said) for truth in ({"hop 2"}, {"hop 1"}))
    found = scores([replace(alone, model="chain-d2"), replace(taught, model="chain-d2-guided-seed-2")])
    assert row(found, OURS, KNOWN)["score"] == 0.5
    assert (row(found, OURS, TAUGHT)["score"], row(found, OURS, TAUGHT)["cases"]) == (1.0, 1)


@pytest.mark.parametrize("name", ["k: mixed", "o: distance", "a: no output", "t: never on", *LEFT_OPEN])
def test_what_is_so_follows_from_the_construction(name):
    case = next(case for case in cases() if case.name == name)
    looks = subject(case).looks
    said = {what for some in looks.values() for what in some}
    wanted = {
        "k: mixed": {"hop 1", "hop 2", "previous"},
        "o: distance": {"hop 1", "hop 2", "hop 4", "previous", "distance"},
        "a: no output": {"hop 1", "hop 2", "hop 4", "previous"},
        "h: ambiguous": set(),
        "t: never on": {"hop 1", "previous"},
        "g: diffuse": set(),
    }
    assert said == wanted[name]


def test_a_case_of_a_blurred_circuit_is_less_sharp():
    guise = Guise(seed=1, normalization=None, noise=0.1)
    assert blurred("doubling", CIRCUITS["doubling"](), guise).sharpness < guise.sharpness
    case = Case("blurred", "doubling", "doubling", 0, guise, CIRCUITS["doubling"]())
    made = subject(case)
    assert any(made.looks.values())
    assert {what for some in made.allowed.values() for what in some} == {"value slots"}
    assert made.model.cfg.n_layers == len(CIRCUITS["doubling"]().layers)


def test_heads_that_do_not_look_at_their_source_are_left_out_of_a_column_of_their_own():
    known = made(KNOWN, 0, [{"hop 1"}, {"hop 2"}], **{OURS: [{"hop 1": ALWAYS}, {}]})
    assert row(scores([known]), OURS, KNOWN)["recall"] == 0.5
    found = scores([known], {(known.model, "L0H1 @query")})
    assert row(found, OURS, KNOWN)["recall"] == 0.5
    assert row(found, OURS, LOOKING)["recall"] == row(found, OURS, LOOKING)["precision"] == 1.0
    assert row(found, OURS, LOOKING)["cells"] == row(found, OURS, KNOWN)["cells"] - 1
