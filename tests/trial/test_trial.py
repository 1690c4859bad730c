"""Labels on trial: right ones of known circuits pass everything, wrong and missing ones are found out."""

import json
from dataclasses import replace

import pytest
import torch

from stackheads import Analysis, analyze
from stackheads.errors import ConfigError
from stackheads.explanation.program import extract_program
from stackheads.interventions import destination_rows
from stackheads.labelling.bench import Label, make_bench, read_labels
from stackheads.labelling.roles import candidate_roles, role_targets
from stackheads.labelling.thresholds import Thresholds
from stackheads.models.hooks import analysing
from stackheads.seeds import Stream
from stackheads.tasks import Cycle
from stackheads.trial.redirection import _experiments, redirection
from stackheads.trial.sufficiency import sufficiency, unexplained
from stackheads.types import Destination, HeadId, Role
from stackheads.validation.further import SMALL
from stackheads.validation.specimens import Guise, specimen

NAMES = ["one hop per layer", "doubling", "tripling"]
EXAMPLES = 64


@pytest.fixture(scope="module")
def known():
    """A circuit of each mechanism, with LayerNorm, its analysis and its trial."""
    found = {}
    for name in NAMES:
        made = specimen(name, SMALL[name](), Guise(seed=5, idle=int(name != "doubling")))
        analysis = analyze(made.model, made.task, examples=EXAMPLES, progress=False, explain=False)
        found[name] = (made, analysis, analysis.trial(examples=EXAMPLES))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_right_labels_are_sufficient(known, name):
    made, _, trial = known[name]
    rows = trial.sufficiency
    assert set(rows["variant"]) == {"ideal", "resample", "own", "live"}
    assert rows["frozen"].between(0.95, 1.05).all()
    assert rows.query("variant == 'resample'")["recovered"].between(0.95, 1.05).all()
    assert (rows["accuracy"] == 1).all()
    assert list(trial.recovered()) == list(made.task.readout_hops)


def test_what_single_examples_keep_is_in_shares_of_the_mean_gap_also_where_the_model_is_wrong():
    """The gap of an example that it gets wrong may be next to nothing, and a share of that any number."""
    made = specimen("one hop per layer", SMALL["one hop per layer"](), Guise(seed=5, noise=1.0))
    bench = make_bench(made.model, made.task, EXAMPLES, 0, Thresholds())
    clean, chance, count = bench.baseline.clean.margin, bench.baseline.chance.margin, bench.baseline.count
    medians, tenths = map(torch.tensor, bench.single_examples(clean))
    gap = bench.baseline.gap.sum(dim=0) / count.sum(dim=0)
    reached = ((clean - chance.sum(dim=0) / count.sum(dim=0)).abs().amax(dim=0) / gap.abs()).float()
    assert bool((bench.baseline.accuracy < 0.9).any())
    assert bool((tenths <= medians).all())
    assert bool((tenths.abs() <= reached * 1.001).all())
    half = bench.single_examples((clean + chance.sum(dim=0) / count.sum(dim=0) * count) / 2)[1]
    assert half == pytest.approx((tenths / 2).tolist(), abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_right_labels_predict_where_answers_go(known, name):
    _, _, trial = known[name]
    assert trial.redirected is not None
    assert trial.redirected > 0.95
    assert trial.held is None or trial.held > 0.95
    assert trial.unpredicted == []


def test_a_redirected_last_hop_moves_its_answer_by_as_much(known):
    """One hop per layer: hop 3 pointed at hop 2 answers hop 2, and nothing else changes."""
    _, _, trial = known["one hop per layer"]
    rows = trial.redirection.query("hop == 3 and to == 2").set_index("readout")
    assert (rows.loc[3, "changed"], rows.loc[3, "fulfilled"]) == (EXAMPLES, 1.0)
    assert (rows.loc[[1, 2], "changed"] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_the_labels_need_breaks_and_the_rest_stays(known, name):
    _, _, trial = known[name]
    rows = trial.necessity.dropna(subset=["needs"])
    needed = rows["needs"].astype(bool)
    assert rows[needed]["destroyed"].min() > 0.5
    assert rows[~needed]["destroyed"].max() < 0.1
    assert rows["joint_over_sum"].dropna().max() < 1.05


def test_idle_heads_can_have_a_constant_pattern_and_hop_heads_their_map(known):
    made, analysis, trial = known["tripling"]
    rows = trial.fixed.merge(analysis.labels[["head", "destination", "status", "role"]], on=["head", "destination"])
    replaced = rows.set_index(["head", "destination"])["replacement"]
    idle = [(str(head), str(place)) for (head, place), truth in made.truth.items() if truth.status == "none"]
    assert len(idle) == 5 * 3
    assert (replaced[idle] == "constant").all()
    hops = rows.query("status == 'confirmed' and role == 'hop'")
    assert len(hops) == 5
    assert (hops["constant_loss"] > 0.3).all()
    assert hops["replacement"].str.startswith("hop").all()
    assert trial.replaced_at_once > 0.95


def test_what_interchange_found_is_said_in_a_sentence(known):
    _, _, trial = known["tripling"]
    assert any("with different labels keep" in sentence for sentence in trial.exchanged)
    assert all(sentence in repr(trial) for sentence in trial.exchanged)


def test_a_head_without_its_label_is_missed_and_named(known):
    made, analysis, right = known["tripling"]
    labels = analysis.labels.copy()
    there = (labels["role"] == "hop") & (labels["hop"] == 3) & (labels["destination"] == "query")
    labels.loc[there, ["status", "role", "hop"]] = ["causal-unclassified", None, None]
    bench, parsed = make_bench(made.model, made.task, EXAMPLES, 0, analysis.thresholds, Stream.TRIAL), read_labels(labels)
    with analysing(made.model):
        trial = replace(right, sufficiency=sufficiency(bench, parsed), unexplained=unexplained(bench, parsed))
    assert trial.recovered("ideal")[4] < 0.2
    assert trial.recovered("live")[4] > 0.95
    first = trial.unexplained.iloc[0]
    assert (first["head"], first["destination"]) == tuple(labels[there].iloc[0][["head", "destination"]])
    assert first["adds"] > 0.8


def test_a_wrong_hop_is_found_out(known):
    """Hop 2 called hop 3: neither is the answer there when heads look where it says, nor does the program say what happens."""
    made, analysis, right = known["one hop per layer"]
    labels = analysis.labels.copy()
    labels.loc[(labels["role"] == "hop") & (labels["hop"] == 2), "hop"] = 3
    bench, parsed = make_bench(made.model, made.task, EXAMPLES, 0, analysis.thresholds, Stream.TRIAL), read_labels(labels)
    with analysing(made.model):
        moved = redirection(bench, parsed, extract_program(labels, made.task))
        trial = replace(right, sufficiency=sufficiency(bench, parsed), redirection=moved)
    assert trial.recovered("ideal")[2] < 0.5
    assert 2 in trial.unpredicted


def test_only_what_an_answer_can_hear_of_and_labels_predict_is_redirected(known):
    """Of a step that finds its source no more nothing is predicted; at value slots of the last layer nothing is heard."""
    made, analysis, right = known["one hop per layer"]
    assert set(zip(right.redirection["hop"], right.redirection["destination"], strict=True)) == {
        (1, "query"),
        (2, "query"),
        (3, "query"),
    }
    bench = make_bench(made.model, made.task, EXAMPLES, 0, analysis.thresholds, Stream.TRIAL)
    last = f"L{made.model.cfg.n_layers - 1}"
    at_value, lost = analysis.labels.copy(), analysis.labels.copy()
    hop = (at_value["role"] == "hop") & (at_value["hop"] == 3)
    beside = at_value["head"].isin(at_value[hop]["head"]) & (at_value["destination"] == "value")
    at_value.loc[beside, ["status", "role", "hop"]] = ["confirmed", "hop", 3]
    lost.loc[lost["role"] == "previous", "status"] = "undecided"
    with analysing(made.model):
        same = redirection(bench, read_labels(at_value), extract_program(at_value, made.task))
        none = redirection(bench, read_labels(lost), extract_program(lost, made.task))
    assert at_value[hop]["head"].str.startswith(last).all()
    assert same.equals(redirection(bench, read_labels(analysis.labels), extract_program(analysis.labels, made.task)))
    assert none.empty


@pytest.mark.parametrize("keys", [False, True])
def test_nothing_is_redirected_to_where_nothing_stands(keys):
    """At value slots the key before has one name of two, and where a task tells keys apart hop 0 is the slot itself."""
    task = Cycle(symbols=8, max_hops=3, keys=keys)
    there = task.sample(16, torch.Generator().manual_seed(0))
    labels = [
        Label(HeadId(0, 0), place, role, "confirmed")
        for role in candidate_roles(task)
        for place in (Destination.QUERY, Destination.VALUE)
    ]
    asked = _experiments(task, labels, there)
    assert (Role("hop", 1), Destination.VALUE, Role("hop", 2)) in asked
    for _, place, new in asked:
        rows = destination_rows(there, place)[..., None]
        assert (role_targets(task, there, [new])[0] & rows).any()
    pointed = {place: (Role("hop", 1), place, Role("hop", 0)) in asked for place in (Destination.QUERY, Destination.VALUE)}
    assert pointed == {Destination.QUERY: keys, Destination.VALUE: False}


def test_a_trial_is_plain_data_and_a_loaded_analysis_needs_its_model(known, tmp_path):
    made, analysis, trial = known["one hop per layer"]
    assert json.loads(json.dumps(trial.to_dict(), allow_nan=False))["recovered"]["resample"]["1"] == pytest.approx(1, abs=0.05)
    assert "redirection: the predicted new answer" in repr(trial)
    analysis.save(tmp_path / "a")
    loaded = Analysis.load(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"trial\(model, task\)"):
        loaded.trial()
    assert loaded.trial(made.model, made.task, examples=EXAMPLES).to_dict() == trial.to_dict()


def test_nothing_confirmed_is_nothing_sufficient(checkpoints):
    analysis = analyze(checkpoints / "cycle-d4-l4-final", examples=64, progress=False)
    trial = analysis.trial(examples=64)
    assert trial.redirected is None
    assert [len(table) for table in (trial.redirection, trial.necessity, trial.fixed)] == [0, 0, 0]
    assert trial.recovered() == {}  # no answer, so no share of it
