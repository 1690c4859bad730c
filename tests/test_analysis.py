"""`analyze()` on shipped and untrained models: what it finds, what it must not find, and what it leaves behind."""

import json
from inspect import unwrap

import numpy as np
import pandas as pd
import pytest
import torch

from stackheads import Analysis, analyze, load
from stackheads.errors import CheckpointError, ConfigError, InterventionError, StackheadsWarning, TaskMismatchError
from stackheads.interventions import ablate, recorded
from stackheads.labelling.readouts import make_scorer, measure_baseline
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import build
from stackheads.report import page
from stackheads.tasks import Cycle, labelling_batch
from stackheads.trial.trial import put_on_trial
from stackheads.types import HeadId

COLUMNS = ["head", "layer", "destination", "selector", "role", "hop", "gate", "share", "status", "pattern", "rival"]
COLUMNS += ["effect", "effect_low", "effect_high", "accuracy_effect", "write", "reason"]


@pytest.fixture(scope="module")
def analysis(checkpoints):
    return analyze(checkpoints / "cycle-d4-l3", examples=256, progress=False)


def test_the_known_circuit_is_confirmed(analysis):
    """What the attention maps of this checkpoint show by eye: previous token, then hop 1 and hop -1, then hops 1 and 3."""
    found = {
        (row.head, row.destination): (row.role if pd.isna(row.hop) else row.hop)
        for row in analysis.labels.itertuples()
        if row.status == "confirmed"
    }
    assert found == KNOWN_CIRCUIT


KNOWN_CIRCUIT = {
    ("L0H1", "value"): "previous",
    ("L1H0", "query"): 1,
    ("L1H0", "value"): 1,
    ("L1H1", "value"): -1,
    ("L2H0", "query"): 3,
    ("L2H0", "value"): 3,
    ("L2H1", "query"): 1,
    ("L2H1", "value"): 1,
}


def test_another_seed_confirms_the_same_heads(analysis, checkpoints):
    other = analyze(checkpoints / "cycle-d4-l3", examples=256, seed=1, progress=False, explain=False)
    assert other.hops == analysis.hops
    assert not other.labels["effect"].equals(analysis.labels["effect"])


def test_the_same_seed_gives_the_same_analysis(analysis, checkpoints):
    again = analyze(checkpoints / "cycle-d4-l3", examples=256, progress=False)
    assert again.to_json() == analysis.to_json()


def test_the_columns_are_the_documented_ones(analysis):
    assert list(analysis.labels.columns[: len(COLUMNS)]) == COLUMNS
    assert len(analysis.labels) == 3 * 2 * 3
    assert set(analysis.labels["status"]) <= {
        "confirmed", "redundant", "opposing", "pattern-only", "causal-unclassified", "undecided", "none"
    }  # fmt: skip


def test_effects_and_accuracy_are_those_of_a_plain_ablation(analysis, checkpoints):
    """One cell again, from the definitions: run, ablate, compare margins."""
    checkpoint = load(checkpoints / "cycle-d4-l3")
    batch = labelling_batch(checkpoint.task, 256, 0)
    clean = recorded(checkpoint.model, batch)
    ablated = ablate(checkpoint.model, clean, [HeadId(1, 0)], "query")

    def margin(logits, targets):
        answers = logits[:, -1].unflatten(-1, (4, 8))[:, 3]
        right = answers.gather(1, targets[:, None]).squeeze(1)
        return right - (answers.sum(dim=1) - right) / 7

    targets = batch.targets[:, -1, 3]
    unrelated = margin(clean.run.logits.roll(-1, dims=0), targets)
    gap = margin(clean.run.logits, targets) - unrelated
    expected = ((margin(clean.run.logits, targets) - margin(ablated, targets)).sum() / gap.sum()).item()
    cell = analysis.effects.query(
        "head == 'L1H0' and destination == 'query' and ablation == 'resample' and readout == 'hop 4 @query'"
    )
    assert cell["effect"].item() == pytest.approx(expected, abs=1e-5)
    assert analysis.accuracy == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}


def test_an_untrained_model_gets_no_label(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    for seed in range(3):
        untrained = build(checkpoint.config, checkpoint.task, seed=seed)
        labels = analyze(untrained, checkpoint.task, examples=1024, progress=False, explain=False).labels
        assert set(labels["status"]) <= {"none", "pattern-only"}
        assert "answers nothing" in labels["reason"].iloc[0]


def test_a_chance_model_has_no_open_readout(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    batch = checkpoint.task.sample(128, torch.Generator().manual_seed(0))
    scorer = make_scorer(checkpoint.task, batch)
    trained = measure_baseline(scorer, recorded(checkpoint.model, batch), Thresholds())
    untrained = measure_baseline(scorer, recorded(build(checkpoint.config, checkpoint.task), batch), Thresholds())
    assert trained.open.all()
    assert not untrained.open.any()
    assert trained.chance_accuracy.max() < 0.3


def test_the_model_is_left_as_it_was(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    model = checkpoint.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    analyze(model, checkpoint.task, examples=32, progress=False, explain=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())


def test_saved_analyses_load_back_equal(analysis, tmp_path):
    analysis.save(tmp_path / "a")
    loaded = Analysis.load(tmp_path / "a")
    assert loaded.to_json() == analysis.to_json()
    pd.testing.assert_frame_equal(loaded.labels, analysis.labels)
    assert loaded.hops == analysis.hops
    analysis.to_json(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["accuracy"] == {"1": 1.0, "2": 1.0, "3": 1.0, "4": 1.0}
    assert content["hops"]["3"] == ["L2H0"]
    with pytest.raises(CheckpointError, match="a saved analysis is a folder"):
        Analysis.load(tmp_path)


def test_it_shows_itself_in_a_notebook(analysis):
    page = analysis._repr_html_()
    assert "cycle-d4-l3" in page
    assert page.count("<tr") == 1 + 18
    assert "NA" not in page[: page.index("</table>")]
    assert "0.95</td>" in page or "1.00</td>" in page
    assert "hop 3: L2H0 @query" in repr(analysis)


def test_bad_requests_are_refused(checkpoints):
    path = checkpoints / "cycle-d4-l3"
    checkpoint = load(path)
    with pytest.raises(ConfigError, match=r"at least 16 for an interval, or .auto., got 0"):
        analyze(path, examples=0)
    with pytest.raises(ConfigError, match="torch can use here, got 'abacus'"):
        analyze(path, device="abacus")
    assert analyze(checkpoint, examples=32, progress=False, explain=False).accuracy
    with pytest.raises(ConfigError, match=r"a model is a HookedTransformer .* got DataParallel: give the model inside"):
        analyze(torch.nn.DataParallel(checkpoint.model), checkpoint.task)
    with pytest.raises(ConfigError, match="needs a task"):
        analyze(checkpoint.model)
    with pytest.raises(TaskMismatchError, match="needs a context of 17"):
        analyze(build(checkpoint.config, Cycle(symbols=7, max_hops=4)), checkpoint.task)
    with pytest.raises(TaskMismatchError, match="attention_dir = causal"):
        analyze(path, Cycle(symbols=8, max_hops=4, attention_dir="causal"))


unchecked = unwrap(analyze)
"""As users call it, whose types nobody checks before it does."""


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda found, it: unchecked(it, thresholds="strict"), "thresholds are a Thresholds"),
        (lambda found, it: unchecked(it, thresholds={}), "thresholds are a Thresholds"),
        (lambda found, it: unchecked(it, screen=True), "screen is a Screen"),
        (lambda found, it: unchecked(it, budget="1000"), "a budget must be a whole number, at least 16, got '1000'"),
        (lambda found, it: unchecked(it, examples="64"), "or 'auto', got '64'"),
        (lambda found, it: found.trial(examples=0), "at least 16, got 0"),
        (lambda found, it: found.selectors(examples=-5), "at least 1, got -5"),
        (lambda found, it: found.by_gate(examples=3), "at least 16, got 3"),
        (lambda found, it: found.trial(one_layer(it), it.task), r"3 layers of 2 heads, got a model of 1 layers of 2"),
        (lambda found, it: unwrap(page.to_html)(found, "page.html", trial=True), r"analysis\.trial\(\) gave, got bool"),
        (lambda found, it: unwrap(page.to_html)(found, "page.html", selectors=found), r"selectors\(\) gave, got Analysis"),
        (lambda found, it: found.to_json("."), "this output is a file"),
        (lambda found, it: found.to_json("/proc/labels.json"), "must be writable"),
        (lambda found, it: found.save("/proc/labels"), "must be writable"),
    ],
)
def test_arguments_of_other_kinds_are_refused_in_one_line_and_write_nothing(
    analysis, checkpoints, tmp_path, monkeypatch, call, rule
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rule) as caught:
        call(analysis, load(checkpoints / "cycle-d4-l3"))
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def one_layer(checkpoint):
    return build(checkpoint.config.model_copy(update={"layers": 1}), checkpoint.task)


def test_whole_numbers_of_any_kind_are_numbers_of_examples_and_seeds(checkpoints):
    path = checkpoints / "cycle-d4-l3"
    given = unchecked(path, examples=np.int64(32), seed=np.uint8(3), progress=False, explain=False)
    found = analyze(path, examples=32, seed=3, progress=False, explain=False)
    assert given.to_json() == found.to_json()
    tried = (unwrap(put_on_trial)(*it.subject, it.labels, kind(32), kind(3)) for it, kind in ((given, np.int64), (found, int)))
    assert json.dumps(next(tried).to_dict()) == json.dumps(next(tried).to_dict())


def test_a_model_without_numbers_is_refused(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    with pytest.raises(ConfigError, match=r"weights must hold numbers, embed\.W_E is on the meta device"):
        analyze(checkpoint.model.to("meta", print_details=False), checkpoint.task)


def test_every_destination_with_positions_is_looked_at(analysis):
    assert set(analysis.labels["destination"]) == {"query", "value", "key"}


def test_saving_never_replaces_a_folder_of_another_kind(checkpoints, tmp_path):
    import shutil

    folder = tmp_path / "mine"
    shutil.copytree(checkpoints / "cycle-d4-l4-final", folder)
    analysis = analyze(folder, examples=32, progress=False, explain=False)
    with pytest.raises(ConfigError, match=r"only replaced if it is empty or holds analysis\.json"):
        analysis.save(folder)
    assert (folder / "model.safetensors").exists()
    analysis.save(tmp_path / "other")
    (tmp_path / "other" / "notes.txt").write_text("kept")
    (tmp_path / "other" / "trial.json").write_text("of the analysis before")
    analysis.save(tmp_path / "other")
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"analysis.json", "labels.csv", "notes.txt"}


def test_a_hook_of_the_users_own_is_part_of_the_model(checkpoints):
    """A head silenced by a permanent hook is a head whose output is zero: the same labels as with its W_O at zero."""
    hooked, zeroed = (load(checkpoints / "cycle-d4-l3") for _ in range(2))

    def silence(z, hook):
        z = z.clone()
        z[:, :, 0] = 0
        return z

    hooked.model.add_hook("blocks.2.attn.hook_z", silence, is_permanent=True)
    zeroed.model.blocks[2].attn.W_O.data[0] = 0
    with pytest.warns(StackheadsWarning, match="running the model through its own hooks"):
        one = analyze(hooked, examples=256, progress=False, explain=False).labels
    other = analyze(zeroed, examples=256, progress=False, explain=False).labels
    same = one["head"] != "L2H0"  # whose own pattern is there in both, and moves nothing
    columns = ["head", "destination", "status", "role", "hop"]
    pd.testing.assert_frame_equal(one[same][columns], other[same][columns])


@pytest.mark.parametrize("name", ["cycle-d4-l3", "known/cycle-d1-seed-2010"])
def test_autocast_does_not_leak_in(name, checkpoints):
    """Nor into what heads carry, of which the second has some."""
    path, asked = checkpoints / name, {"examples": 128, "progress": False, "explain": False, "carried": True}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = analyze(path, **asked)
    assert inside.to_json() == analyze(path, **asked).to_json()
    assert inside.carried.empty == (name == "cycle-d4-l3")


def test_a_model_with_a_weight_that_is_not_a_number_is_refused(checkpoints):
    checkpoint = load(checkpoints / "cycle-d4-l3")
    checkpoint.model.blocks[1].attn.W_Q.data[0, 0, 0] = float("nan")
    with pytest.raises(InterventionError, match=r"weights must be finite, blocks\.1\.attn\.W_Q is not"):
        analyze(checkpoint, examples=32, progress=False)


def changed(checkpoint):
    with torch.no_grad():
        for weight in checkpoint.model.parameters():
            weight.mul_(0.5)


def test_what_is_given_goes_on_with_what_was_analysed(checkpoints):
    """A model without a task, or a task without a model, is never put aside for the ones that were analysed."""
    checkpoint = load(checkpoints / "cycle-d4-l3")
    found = analyze(checkpoint, examples=64, explain=False, progress=False)
    other = build(checkpoint.config, checkpoint.task, seed=5)
    assert found.trial(other, examples=64).sufficiency.equals(found.trial(other, checkpoint.task, examples=64).sufficiency)
    assert not found.trial(other, examples=64).sufficiency.equals(found.trial(examples=64).sufficiency)
    larger = build(checkpoint.config.model_copy(update={"layers": 4}), checkpoint.task)
    for ask in (found.trial, found.by_gate):
        with pytest.raises(ConfigError, match="analysis is of 3 layers"):
            ask(larger)
        with pytest.raises(ConfigError, match="a model is a HookedTransformer"):
            ask("no model")
        with pytest.raises(TaskMismatchError, match="needs d_vocab"):
            ask(task=Cycle(symbols=6, max_hops=4))


def test_an_analysis_does_not_go_on_with_a_model_that_was_trained_on(checkpoints, tmp_path):
    checkpoint, as_it_was = load(checkpoints / "cycle-d4-l3"), load(checkpoints / "cycle-d4-l3")
    found = analyze(checkpoint, examples=64, explain=False, progress=False)
    tried = found.trial(examples=64).sufficiency
    found.save(tmp_path / "saved")
    changed(checkpoint)
    for ask in (found.trial, found.selectors, found.by_gate):
        with pytest.raises(ConfigError, match="its weights have changed since"):
            ask()
    with pytest.raises(ConfigError, match="the model was trained on since"):
        found.show()
    assert found.trial(as_it_was.model, examples=64).sufficiency.equals(tried)
    assert page.page(found) == page.page(Analysis.load(tmp_path / "saved"))
    assert "Attention is shown where the model is at hand" in found._repr_html_()


def test_a_loaded_analysis_says_what_is_missing(analysis, checkpoints, tmp_path):
    analysis.save(tmp_path / "saved")
    loaded, checkpoint = Analysis.load(tmp_path / "saved"), load(checkpoints / "cycle-d4-l3")
    for given, said in (
        ({}, "none"),
        ({"model": checkpoint.model}, "a model alone"),
        ({"task": checkpoint.task}, "a task alone"),
    ):
        with pytest.raises(ConfigError, match=f"no model and task to go on with, got {said}"):
            loaded.trial(**given)
