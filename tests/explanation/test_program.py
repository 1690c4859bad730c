"""Programs read off the labels: they run like the model they were read from, and mechanisms are named right."""

import pytest

from stackheads import Analysis, analyze
from stackheads.explanation.mechanism import name_mechanism
from stackheads.explanation.program import agreement, extract_program
from stackheads.explanation.reach import reach
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


def test_nothing_confirmed_is_no_program(checkpoints):
    analysis = analyze(checkpoints / "cycle-d4-l4-final", examples=64, progress=False)
    assert (analysis.mechanism, analysis.program, analysis.program_agreement) == ("none", None, None)
