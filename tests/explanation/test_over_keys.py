"""Walks over key slots: known ones get their labels, program, mechanism and selectors; without keys as sources it is said."""

import pandas as pd
import pytest
from forked import stackheads_text as run

from stackheads import Analysis, analyze
from stackheads.explanation.mechanism import name_mechanism
from stackheads.explanation.program import program_of
from stackheads.models import load, save_checkpoint
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import OVER_KEYS
from stackheads.programs.program import Step
from stackheads.tasks import Conditional, Cycle, with_keys
from stackheads.types import Destination, Role
from stackheads.validation.drawn import separately
from stackheads.validation.specimens import Guise, specimen

QUERY, VALUE, KEY = Destination.QUERY, Destination.VALUE, Destination.KEY
EXAMPLES = 256


def task_of(hops):
    return Cycle(symbols=2 * hops + 2, max_hops=hops, supervision="chain", keys=True)


@pytest.fixture(scope="module", params=[("one hop per layer", 2), ("doubling", 4)], ids=lambda each: each[0])
def known(request):
    """The name of a walk over keys, the circuit, and its analysis."""
    name, hops = request.param
    task = task_of(hops)
    made = specimen(name, separately(OVER_KEYS[name](hops), task), Guise(seed=5, idle=1))
    return name, made, analyze(made.model, task, examples=EXAMPLES, progress=False)


def test_every_head_that_carries_is_confirmed_and_no_other(known):
    _, made, analysis = known
    labels = analysis.labels.astype({"hop": object})
    confirmed = labels[labels["status"] == "confirmed"]
    found = {
        (row["head"], row["destination"]): str(Role(row["role"], None if pd.isna(row["hop"]) else int(row["hop"])))
        for _, row in confirmed.iterrows()
    }
    right = {(str(head), str(place)): str(one.role) for (head, place), one in made.truth.items() if one.status == "confirmed"}
    assert found == right
    assert "hop 1" in right.values(), "a key's own value"
    assert len(confirmed) == len(found)


def test_program_and_mechanism_are_read_back(known):
    name, made, analysis = known
    assert analysis.mechanism == name
    assert analysis.program_agreement == dict.fromkeys(made.task.readout_hops, 1.0)
    assert "layer 0: hop 1 @key" in str(analysis.program)
    assert ("key slots that look ahead" in analysis.mechanism_reason) == (name == "doubling")


def test_the_labels_pass_their_trial(known):
    _, _, analysis = known
    trial = analysis.trial(examples=64)
    resampled = trial.sufficiency.query("variant == 'resample'")
    assert resampled["recovered"].between(0.95, 1.05).all()
    assert trial.redirected == 1.0
    assert trial.unpredicted == []
    keys = trial.redirection.query("role == 'key' and changed > 0")
    assert len(keys)
    assert (keys["fulfilled"] == 1).all()
    assert set(trial.redirection.query("destination == 'key'")["role"]) <= {"key"}
    needed = trial.necessity[trial.necessity["needs"].eq(True)]
    assert needed["destroyed"].min() > 0.5


def test_selectors_name_the_same_walk(known):
    name, _, analysis = known
    found = analysis.selectors(examples=EXAMPLES, fitted_to="attention", progress=False)
    assert found.mechanism == name
    assert min(found.recovered(found.levels[0]).values()) > 0.9


def test_without_keys_as_sources_the_reason_says_what_may_help(known):
    """And a model that walks over values is told no such thing."""
    _, made, analysis = known
    plain = analyze(made.model, made.task.model_copy(update={"keys": False}), examples=EXAMPLES, progress=False)
    assert plain.mechanism in ("none", "other")
    hops = sorted(set(analysis.reach.query("destination == 'key'")["hops"].iloc[-1]) - {0})
    said = f"they read {', '.join(map(str, hops))} at key slots and none at value slots: with keys as sources"
    assert said in plain.mechanism_reason
    assert "keys as sources" not in analysis.mechanism_reason


def test_a_walk_over_values_has_the_labels_that_it_has_without_keys(checkpoints):
    """Keys are rivals then, and none is taken for a source."""
    columns = ["head", "destination", "status", "role", "hop"]
    checkpoint = load(checkpoints / "cycle-d4-l3")
    plain = analyze(checkpoint, examples=EXAMPLES, progress=False)
    keyed = analyze(checkpoint, with_keys(checkpoint.task), examples=EXAMPLES, progress=False)
    pd.testing.assert_frame_equal(plain.labels[columns], keyed.labels[columns])
    assert (plain.mechanism, keyed.mechanism) == ("tripling", "tripling")
    assert plain.model == keyed.model == analyze(checkpoints / "cycle-d4-l3", examples=32, progress=False, explain=False).model


def reach_of(layers, at_keys=()):
    """Probes that read nothing but this at key slots."""
    rows = [(layer, str(place), list(at_keys) if place == KEY else []) for layer in range(layers) for place in Destination]
    return pd.DataFrame(rows, columns=["layer", "destination", "hops"])


def named(steps, task):
    return name_mechanism(program_of(steps, {}, task), task, reach_of(4))


OWN = (Step(0, Role("previous"), (VALUE,)), Step(0, Role("hop", 1), (KEY,)), Step(1, Role("key", 0), (QUERY,)))


def test_windows_that_grow_both_ways_are_tripling_only_at_one_kind_of_slot():
    task = task_of(3)
    ahead, back = Step(1, Role("key", 1), (KEY,)), Step(1, Role("hop", -1), (VALUE,))
    last = Step(2, Role("key", 1), (QUERY,))
    apart = named((*OWN, ahead, back, last), task)
    assert apart.name == "doubling"
    assert "value slots that look back and key slots that look ahead" in apart.reason
    last = Step(3, Role("key", 1), (QUERY,))
    both = named((*OWN, back, Step(1, Role("hop", 0), (KEY,)), Step(2, Role("key", -2), (KEY,)), ahead, last), task)
    assert both.name == "tripling"
    assert "grow backward (key -2 @key)" in both.reason


def test_that_a_key_looks_at_its_own_value_is_no_look_ahead():
    walk = (Step(2, Role("key", 1), (QUERY,)), Step(3, Role("key", 2), (QUERY,)))
    assert named((*OWN[1:], *walk), task_of(3)).name == "one hop per layer"


def test_tasks_with_conditions_have_no_words_still():
    task = Conditional(symbols=6, max_hops=1)
    extracted = program_of([Step(1, Role("condition", 1), (QUERY,)), Step(2, Role("hop", 1), (QUERY,))], {}, task)
    assert extracted.listed
    assert not extracted.program.steps


def test_the_command_takes_keys(tmp_path):
    """What it finds is what `analyze` finds, and is read back."""
    task = task_of(3)
    made = separately(OVER_KEYS["doubling"](3), task)
    model, config = compile_layers(made.layers, task, readouts=made.readouts)
    save_checkpoint(tmp_path / "walk", model, task.model_copy(update={"keys": False}), config, {"seed": 0})
    argv = ["analyze", tmp_path / "walk", "--keys", "--examples", "128", "--output-dir", tmp_path / "out", "--quiet"]
    result = run(*argv)
    assert result.returncode == 0, result.stderr
    loaded = Analysis.load(tmp_path / "out")
    assert loaded.task["keys"] is True
    assert loaded.mechanism == "doubling"
    assert loaded.model["name"] == "walk"
