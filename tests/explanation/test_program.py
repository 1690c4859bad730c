"""Programs read off the labels: they run like the model they were read from, and mechanisms are named right."""

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackheads import Analysis, analyze
from stackheads.explanation.mechanism import lacking, name_mechanism
from stackheads.explanation.program import agreement, extract_program, program_of
from stackheads.explanation.reach import reach
from stackheads.programs.mechanisms import MECHANISMS, OVER_KEYS
from stackheads.programs.program import START, Program, possible_part
from stackheads.tasks import Cycle, Retrieval, with_keys
from stackheads.types import Gate, Role
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
    assert mechanism.reason.endswith("could find their source by: hop -1 at value slots (hop -1 @value in layer 1)")


CYCLE = Cycle(symbols=13, max_hops=5, supervision="chain")
CHAINS = Retrieval(chains=2, max_hops=5, supervision="chain", attention_dir="bidirectional")
WALKS = [(task, make) for task in (CYCLE, CHAINS) for make in MECHANISMS.values()]
WALKS += [(with_keys(task), make) for task in (CYCLE, CHAINS) for make in OVER_KEYS.values()]


def known_by(steps, task):
    """What each place knows before the first layer, and after each."""
    return [dict(START), *possible_part(Program(tuple(steps)), task.same_offset)[2]]


def read_by_probes(known):
    """What probes read where each place knows this."""
    rows = [(layer - 1, str(place), tuple(found - {0})) for layer, each in enumerate(known) for place, found in each.items()]
    return pd.DataFrame(rows, columns=["layer", "destination", "hops"])


@given(st.sampled_from(WALKS), st.integers(2, 6), st.data())
@settings(max_examples=80)
def test_what_steps_lack_is_known_in_the_model_and_brought_by_no_step_that_is_known(walk, hops, data):
    task, make = walk
    whole = [replace(step, destinations=(place,)) for step in make(hops).steps for place in step.destinations]
    missing = data.draw(st.sets(st.sampled_from(whole), min_size=1, max_size=2))
    right = known_by(whole, task)
    extracted = program_of([step for step in whole if step not in missing], {}, task)
    if extracted is None:
        return
    brought = [dict(START), *extracted.windows]
    for lack in lacking(extracted, task, read_by_probes(right)):
        assert lack.step in extracted.dropped
        for place, offset in lack.ways:
            assert offset in right[lack.step.layer][place]
            assert offset not in brought[min(lack.step.layer, len(brought) - 1)][place]


@pytest.mark.parametrize("name", OVER_KEYS)
def test_of_a_walk_over_keys_whose_first_step_at_the_query_is_missing_one_thing_is_lacking(name):
    """What later steps bring once it is known is not said to be lacking."""
    task, whole = with_keys(CYCLE), OVER_KEYS[name](5).steps
    extracted = program_of([step for step in whole if step.role != Role("key", 0)], {}, task)
    heard = read_by_probes(known_by(whole, task))
    assert [str(lack) for lack in lacking(extracted, task, heard)] == ["hop 1 at the query (key 1 @query in layer 2)"]
    mechanism = name_mechanism(extracted, task, heard)
    assert mechanism.name == "other"
    assert mechanism.reason.endswith("could find their source by: hop 1 at the query (key 1 @query in layer 2)")
    assert lacking(extracted, task, heard[heard["destination"] != "query"]) == (), "no probe reads it"


@pytest.mark.parametrize(
    ("gated", "lack"),
    [(1, "hop 3 at the query (key 3 @query in layer 3)"), (3, "hop 1 at the query (key 1 @query in layer 2)")],
)
def test_steps_that_hold_at_times_only_are_not_asked_what_they_lack(gated, lack):
    """Nor do they bring what others lack: of the other steps each is told."""
    task, whole = with_keys(CYCLE), OVER_KEYS["doubling"](5).steps
    known = [step for step in whole if step.role != Role("key", 0)]
    steps = [replace(step, gate=Gate("own symbol", (0, 1))) if step.role == Role("key", gated) else step for step in known]
    extracted = program_of(steps, {"own symbol": set(range(13))}, task)
    assert any(step.gate for step in extracted.dropped)
    assert [str(each) for each in lacking(extracted, task, read_by_probes(known_by(whole, task)))] == [lack]


def test_nothing_confirmed_is_no_program(checkpoints):
    analysis = analyze(checkpoints / "cycle-d4-l4-final", examples=64, progress=False)
    assert (analysis.mechanism, analysis.program, analysis.program_agreement) == ("none", None, None)
