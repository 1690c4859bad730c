"""Programs read off the labels: they run like the model they were read from, and mechanisms are named right."""

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads import Analysis, analyze
from stackheads.explanation.mechanism import name_mechanism
from stackheads.explanation.program import agreement, extract_program, program_of
from stackheads.explanation.reach import reach
from stackheads.programs.mechanisms import MECHANISMS, OVER_KEYS
from stackheads.programs.program import Program, possible_part
from stackheads.tasks import Cycle, with_keys
from stackheads.types import Role
from stackheads.validation.further import SMALL
from stackheads.validation.specimens import Guise, specimen


@pytest.mark.parametrize("normalization", ["LN", None])
@pytest.mark.parametrize("name", ["one hop per layer", "doubling", "tripling"])
def test_compiled_circuits_are_read_back(name, normalization):
    made = specimen(name, SMALL[name](), Guise(seed=11, idle=1, normalization=normalization))
    labels = analyze(made.model, made.task, examples=128, progress=False, explain=False).labels
    extracted = extract_program(labels, made.task)
    assert extracted is not None
    assert name_mechanism(extracted, made.task, reach(made.model, made.task, 0)).name == name
    assert agreement(extracted, made.model, made.task) == dict.fromkeys(made.task.readout_hops, 1.0)


def test_the_program_of_a_trained_model_answers_like_it(checkpoints, tmp_path):
    analysis = analyze(checkpoints / "cycle-d4-l3", examples=256, progress=False)
    assert analysis.mechanism == "tripling"
    assert analysis.program_agreement is not None
    assert min(analysis.program_agreement.values()) > 0.99
    assert "layer 2: hop 1 @query, hop 1 @value, hop 3 @query, hop 3 @value" in str(analysis.program)
    analysis.save(tmp_path / "a")
    assert Analysis.load(tmp_path / "a").program_agreement == analysis.program_agreement


def test_steps_that_nothing_confirmed_explains_are_left_out_and_named(checkpoints):
    """Without the previous-token head no hop head can find its source."""
    analysis = analyze(checkpoints / "cycle-d4-l3", examples=128, progress=False)
    labels = analysis.labels[analysis.labels["role"] != "previous"]
    made = specimen("tripling", SMALL["tripling"](), Guise())
    extracted = extract_program(labels, made.task)
    assert extracted is not None
    assert len(extracted.dropped) == 7
    assert "left out" in str(extracted)
    assert analysis.reach is not None
    mechanism = name_mechanism(extracted, made.task, analysis.reach)
    assert mechanism.name == "other"
    assert "nothing confirmed lets them find their source" in mechanism.reason
    assert "no confirmed head brings, what sources can be found by: hop -1 at value slots (" in mechanism.reason
    assert mechanism.reason.endswith("; given these, tripling")


CYCLE = Cycle(symbols=13, max_hops=5, supervision="chain")
WALKS = [(CYCLE, make) for make in MECHANISMS.values()] + [(with_keys(CYCLE), make) for make in OVER_KEYS.values()]


def read_by_probes(windows):
    """What probes read where each place knows what the steps of a program bring it."""
    known = [dict.fromkeys(windows[0], frozenset({0})), *windows]
    rows = [(layer - 1, str(place), tuple(found - {0})) for layer, each in enumerate(known) for place, found in each.items()]
    return pd.DataFrame(rows, columns=["layer", "destination", "hops"])


@given(st.sampled_from(WALKS), st.data())
@settings(max_examples=60)
def test_where_a_step_is_missing_what_is_read_in_its_place_is_named_and_the_mechanism_given_that_is_the_right_one(walk, data):
    task, make = walk
    whole = [replace(step, destinations=(place,)) for step in make(5).steps for place in step.destinations]
    missing = data.draw(st.sampled_from(whole))
    heard = read_by_probes(possible_part(Program(tuple(whole)), task.same_offset)[2])
    right = name_mechanism(program_of(whole, {}, task), task, heard)
    extracted = program_of([step for step in whole if step != missing], {}, task)
    found = name_mechanism(extracted, task, heard)
    assert found.name in ("other", right.name)
    if found.name == "other" and "given these" in found.reason:
        assert found.reason.endswith(f"; given these, {right.name}")
    said = "no confirmed head brings" in found.reason
    assert not said or extracted.dropped
    assert said or missing.role.name != "previous", "by what value slots learn at first all others are found"


@pytest.mark.parametrize("name", OVER_KEYS)
def test_a_walk_over_keys_whose_first_step_at_the_query_is_missing_is_the_walk_given_that(name):
    """As in most of the runs on a cycle that have no mechanism's name by labels."""
    task, whole = with_keys(CYCLE), OVER_KEYS[name](5).steps
    heard = read_by_probes(possible_part(Program(whole), task.same_offset)[2])
    known = program_of([step for step in whole if step.role != Role("key", 0)], {}, task)
    found = name_mechanism(known, task, heard)
    assert found.name == "other"
    assert "hop 1 at the query (key 1 @query in layer 2" in found.reason
    assert found.reason.endswith(f"; given these, {name}")


def test_nothing_confirmed_is_no_program(checkpoints):
    analysis = analyze(checkpoints / "cycle-d4-l4-final", examples=64, progress=False)
    assert (analysis.mechanism, analysis.program, analysis.program_agreement) == ("none", None, None)
