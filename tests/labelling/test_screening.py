"""Screening leaves the candidates' evidence as it is without, and says of which cells nothing but a guess is known."""

import pandas as pd
import pytest
import torch

from stackheads import Analysis, analyze, load
from stackheads.errors import ConfigError
from stackheads.interventions import recorded
from stackheads.labelling.readouts import make_scorer, measure_baseline
from stackheads.labelling.screening import Screen, guessed_effects
from stackheads.labelling.thresholds import Thresholds
from stackheads.models import ModelConfig, build
from stackheads.models.hooks import HeadEdit, all_heads, run_edited
from stackheads.tasks import Cycle
from stackheads.types import Destination

PLACES = [Destination.QUERY, Destination.VALUE, Destination.KEY]
SETTINGS = {"examples": 64, "progress": False, "explain": False}


@pytest.fixture(scope="module")
def path(checkpoints):
    return checkpoints / "cycle-d4-l3"


@pytest.fixture(scope="module")
def whole(path):
    return analyze(path, **SETTINGS)


@pytest.fixture(scope="module")
def screened(path):
    return analyze(path, **SETTINGS, screen=Screen(top=2, chunk=30))


def assert_same(found, expected):
    """The same labels; mean and zero ablations only where resample ablation found something."""
    beside = ["effect_mean", "effect_zero"]
    matters = expected["effect"].abs() >= 0.02
    pd.testing.assert_frame_equal(found[matters], expected[matters], atol=1e-5)
    columns = [name for name in expected.columns if name not in [*beside, "reason"]]
    pd.testing.assert_frame_equal(found[columns], expected[columns], atol=1e-5)  # rounding in single precision


def test_candidates_get_the_labels_they_get_without_screening(whole, screened):
    exact = screened.labels["evidence"] == "exact"
    assert 0 < exact.sum() < len(exact)
    assert_same(screened.labels[exact], whole.labels[exact])
    assert set(whole.labels["evidence"]) == {"exact"}


def test_every_cell_whose_pattern_passes_is_a_candidate(whole, screened):
    assert set(screened.labels.loc[whole.labels["role"].notna(), "evidence"]) == {"exact"}
    assert screened.hops == whole.hops


def test_nothing_is_claimed_of_the_others(screened):
    others = screened.labels[screened.labels["evidence"] == "screened"]
    assert set(others["status"]) == {"undecided"}
    assert others["effect_low"].isna().all()
    assert others["reason"].str.contains("not ablated").all()
    assert not set(zip(others["head"], others["destination"], strict=True)) & set(
        zip(screened.effects["head"], screened.effects["destination"], strict=True)
    )


def test_a_screen_wide_enough_changes_nothing(path, whole):
    everything = analyze(path, **SETTINGS, screen=Screen(top=1000))
    assert_same(everything.labels, whole.labels)


def test_of_a_model_that_answers_nothing_a_screen_says_what_a_whole_analysis_says():
    """There is nothing to destroy, and no intervention is needed to know it."""
    task = Cycle(symbols=4, max_hops=1)
    model = build(ModelConfig(layers=1, heads=2, d_model=8, d_head=4), task)
    whole, some = (analyze(model, task, **SETTINGS, screen=screen) for screen in (None, Screen(top=0)))
    assert not some.readouts["open"].any()
    assert set(some.labels["evidence"]) == {"exact"}
    assert_same(some.labels, whole.labels)


def test_the_guess_is_the_slope_of_the_ablation(path):
    """For a step so small that the model is linear, the exact effect is the guess; and parts of the examples add up."""
    checkpoint = load(path)
    model, task = checkpoint.model.double(), checkpoint.task
    batch = task.sample(32, torch.Generator().manual_seed(0))
    clean, scorer = recorded(model, batch), make_scorer(task, batch)
    baseline = measure_baseline(scorer, clean, Thresholds())
    found, again = (guessed_effects(model, clean, scorer, baseline, PLACES, chunk) for chunk in (32, 5))
    assert found == pytest.approx(again, abs=1e-9)
    step = 1e-2
    for head in all_heads(model)[::2]:
        for place in PLACES:
            rows, z = batch.slots == place.slot, clean.run.of(head)[2]
            change = step * (clean.matched.of(z) - z)
            on, back = (
                scorer.score(run_edited(model, batch.tokens, [HeadEdit(head, rows, z + sign * change)])).margin.sum(dim=0)
                for sign in (1, -1)
            )
            slopes = (back - on) / (2 * step) / baseline.gap.sum(dim=0)
            largest = slopes[slopes.abs().argmax()].item()
            assert found[head, place] == pytest.approx(largest, abs=1e-3)


def test_a_screened_analysis_is_saved_and_loaded(screened, tmp_path):
    screened.save(tmp_path / "saved")
    assert Analysis.load(tmp_path / "saved").to_json() == screened.to_json()


@pytest.mark.parametrize("settings", [{"top": -1}, {"chunk": 0}])
def test_a_screen_that_makes_no_sense_is_refused(settings):
    with pytest.raises(ConfigError, match=r"a screen's .* whole number"):
        Screen(**settings)
