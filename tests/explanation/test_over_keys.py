"""Walks over key slots: known ones get their labels, program, mechanism and selectors; without keys as sources it is said."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from forked import stackheads_text as run

from stackheads import Analysis, analyze
from stackheads.errors import ConfigError
from stackheads.explanation.mechanism import name_mechanism
from stackheads.explanation.program import program_of
from stackheads.labelling.scrubbed import hypotheses
from stackheads.models import load, save_checkpoint
from stackheads.programs.compiler import compile_layers
from stackheads.programs.mechanisms import OVER_KEYS
from stackheads.programs.program import Program, Step
from stackheads.tables import records
from stackheads.tasks import Conditional, Cycle, Retrieval, with_keys
from stackheads.types import Destination, Role, Slot
from stackheads.validation.drawn import separately
from stackheads.validation.specimens import Guise, specimen

QUERY, VALUE, KEY = Destination.QUERY, Destination.VALUE, Destination.KEY
EXAMPLES = 256


def task_of(hops):
    return Cycle(symbols=2 * hops + 2, max_hops=hops, supervision="chain", keys=True)


CHAINS = Retrieval(chains=2, max_hops=3, order="shuffled", supervision="chain", attention_dir="bidirectional", keys=True)
WALKS = {"a cycle": ("one hop per layer", task_of(2)), "ahead": ("doubling", task_of(4)), "chains": ("doubling", CHAINS)}


@pytest.fixture(scope="module", params=WALKS)
def known(request):
    """The name of a walk over keys, the circuit, and its analysis."""
    name, task = WALKS[request.param]
    hops = task.max_hops
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


def reach_of(layers, at_keys=(), at_values=()):
    """Probes that read these hops at key slots, and at value slots, each after a layer, and nothing else."""
    read = {place: {} for place in Destination} | {KEY: dict(at_keys), VALUE: dict(at_values)}
    rows = [(layer, str(place), read[place].get(layer, [])) for layer in range(-1, layers) for place in Destination]
    return pd.DataFrame(rows, columns=["layer", "destination", "hops"])


@pytest.mark.parametrize(
    ("task", "at_keys", "at_values", "hinted"),
    [
        (Cycle(symbols=8, max_hops=4), {0: [1], 1: [1, 2]}, {}, "they read 1, 2 at key slots"),
        (Cycle(symbols=8, max_hops=4), {1: [-1]}, {3: [1]}, "they read -1 at key slots"),
        (Cycle(symbols=8, max_hops=4), {1: [1]}, {1: [-1], 2: []}, None),
        (Cycle(symbols=8, max_hops=4), {3: [1, 2]}, {}, None),
        (Cycle(symbols=8, max_hops=4), {1: [0]}, {}, None),
        (Cycle(symbols=8, max_hops=4, keys=True), {1: [1]}, {}, None),
        (Cycle(symbols=8, max_hops=4, attention_dir="causal"), {1: [1]}, {}, None),
        (Conditional(symbols=6, max_hops=2), {1: [1]}, {}, None),
    ],
)
def test_keys_are_hinted_at_where_later_heads_may_look_at_them(task, at_keys, at_values, hinted):
    reason = name_mechanism(None, task, reach_of(4, at_keys, at_values)).reason
    assert (hinted or "") in reason
    assert ("keys as sources" in reason) == (hinted is not None)


@pytest.mark.parametrize("name", ["cycle-d4-l3", "cycle-d4-l4-curriculum"])
def test_a_walk_over_values_keeps_its_labels_but_for_duplicates_and_the_start(checkpoints, name):
    """Keys are rivals then, and no head that is labelled is taken for one that looks at them."""
    checkpoint = load(checkpoints / name)
    plain = analyze(checkpoint, examples=EXAMPLES, progress=False)
    keyed = analyze(checkpoint, with_keys(checkpoint.task), examples=EXAMPLES, progress=False)
    cells = [
        {
            (row["head"], row["destination"]): (row["status"], row["role"], row["hop"])
            for row in records(each.labels)
            if row["role"] not in (None, "start")
        }
        for each in (plain, keyed)
    ]
    assert cells[0].keys() == cells[1].keys()
    for cell, (status, role, hop) in cells[0].items():
        assert cells[1][cell] in ([(status, "key", 0), (status, "hop", 0)] if role == "duplicate" else [(status, role, hop)])
    assert plain.mechanism == keyed.mechanism
    assert "keys as sources" not in plain.mechanism_reason
    assert plain.model == keyed.model == analyze(checkpoints / name, examples=32, progress=False, explain=False).model


def test_heads_of_keys_are_listed_beside_those_of_hops(known, tmp_path):
    _, _, analysis = known
    own = [f"{head}" for head in analysis.hops[1]]
    assert {head for heads in analysis.keys.values() for head in heads}.isdisjoint(own)
    assert analysis.keys[0]
    analysis.save(tmp_path / "saved")
    assert Analysis.load(tmp_path / "saved").keys == analysis.keys
    assert json.loads(analysis.to_json())["keys"] == {str(hop): heads for hop, heads in analysis.keys.items()}


def test_an_analysis_with_keys_does_not_go_on_with_a_task_without(known, tmp_path):
    _, made, analysis = known
    analysis.save(tmp_path / "saved")
    loaded, plain = Analysis.load(tmp_path / "saved"), made.task.model_copy(update={"keys": False})
    for call in (loaded.trial, loaded.selectors, loaded.by_gate):
        with pytest.raises(ConfigError, match=r"are of a task with key -?\d, got .*, which has none: give the task that it"):
            call(made.model, plain)
    unnamed = replace(loaded, labels=loaded.labels.assign(role=None, hop=pd.NA))  # what a head resembles most is asked, too
    with pytest.raises(ConfigError, match=r"are of a task with key -?\d"):
        unnamed.trial(made.model, plain)
    assert loaded.trial(made.model, made.task, examples=64).redirected == 1.0


def walk(task, *steps):
    """The labels of a circuit, by cell."""
    steps = [Step(layer, Role(*role), (place,)) for layer, role, place in steps]
    made = specimen("a walk", separately(Program(tuple(steps)), task), Guise(seed=3, normalization=None))
    analysis = analyze(made.model, task, examples=EXAMPLES, progress=False, explain=False)
    return made, {(row["head"], row["destination"]): row for row in records(analysis.labels)}


def test_a_head_that_looks_at_the_key_before_is_not_said_to_look_at_the_start():
    """On a cycle the start is some key; where it is key -1, and has no other name, all attention on that is on the start."""
    task = Cycle(symbols=8, max_hops=6, supervision="chain", keys=True)
    made, rows = walk(
        task,
        (0, ("previous",), VALUE),
        (1, ("hop", 0), KEY),
        (2, ("key", -1), KEY),
        (2, ("key", 0), QUERY),
        (3, ("key", -1), QUERY),
        (4, ("key", -3), QUERY),
    )
    for (head, place), truth in made.truth.items():
        row = rows[str(head), str(place)]
        if truth.status == "confirmed":
            assert (row["status"], row["role"], row["hop"]) == ("confirmed", truth.role.name, truth.role.hop)
        else:
            assert row["status"] != "confirmed"
    assert any(truth.role == Role("key", -1) and truth.status == "confirmed" for truth in made.truth.values())


def test_in_a_layout_that_always_is_the_same_no_key_is_told_from_its_place():
    task = Cycle(symbols=8, max_hops=2, order="sorted", supervision="chain", keys=True)
    name, hops = "one hop per layer", 2
    made = specimen(name, separately(OVER_KEYS[name](hops), task), Guise(seed=3))
    labels = analyze(made.model, task, examples=EXAMPLES, progress=False, explain=False).labels
    at_query = labels[labels["destination"] == "query"]
    assert not (at_query["status"] == "confirmed").any()
    assert at_query["reason"].str.contains("always in the same place").sum() == 2


def test_what_a_head_carries_is_called_the_hop_and_not_the_key_that_holds_the_same():
    task = task_of(3)
    batch = task.sample(64, torch.Generator().manual_seed(0))
    found, _ = hypotheses(task, batch, batch.slots == Slot.QUERY)
    named = {role: one.roles for one in found for role in one.roles}
    assert named[Role("key", 2)][0] == named[Role("hop", 2)][0] == Role("hop", 2)


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
    steps = (Step(2, Role("key", 1), (QUERY,)), Step(3, Role("key", 2), (QUERY,)))
    assert named((*OWN[1:], *steps), task_of(3)).name == "one hop per layer"


@pytest.mark.parametrize("look", [Role("key", 1), Role("hop", 2)])
def test_that_a_key_looks_further_is_one_at_whatever_slot(look):
    steps = (Step(1, look, (KEY,)), Step(2, Role("key", 0), (QUERY,)), Step(3, Role("key", 2), (QUERY,)))
    found = named((*OWN[:2], *steps), task_of(4))
    assert found.name == "doubling"
    assert "key slots that look ahead" in found.reason


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
