"""Thresholds that can't be bars are refused when they are made."""

import math
from inspect import unwrap

import pytest

from stackheads.errors import ConfigError
from stackheads.labelling.measure import corrected, look_sizes
from stackheads.labelling.thresholds import Thresholds, default_or, least_draws


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("confidence", "null_p") for value in (0, 1, 1.5, -0.1, math.nan)),
        *(
            (name, value)
            for name in ("min_effect", "pattern_margin", "emerged_accuracy")
            for value in (0, -1, math.inf, math.nan)
        ),
        *((name, value) for name in ("min_rows", "min_asked", "resampling_draws") for value in (0, -1, 32.0, True)),
        ("min_effect", "0.02"),
        ("min_write", None),
        ("redundant_factor", True),
    ],
)
def test_what_is_no_bar_is_refused_in_a_line(name, value):
    with pytest.raises(ConfigError, match=f"threshold {name} is .*, got .*: correct it") as caught:
        unwrap(Thresholds.__init__)(object.__new__(Thresholds), **{name: value})  # whose types nobody checks before
    assert "\n" not in str(caught.value)


def test_a_whole_number_is_a_bar_and_one_example_may_be_enough():
    made = Thresholds(redundant_factor=2, min_rows=1, confidence=0.999)
    assert (made.redundant_factor, made.min_rows) == (2, 1)


@pytest.mark.parametrize(("confidence", "least"), [(0.5, 1), (0.9, 9), (0.99, 99), (0.9975, 399), (0.999, 999)])
def test_fewer_draws_than_a_confidence_needs_are_refused(confidence, least):
    """Of n draws and the next the next is the largest in one of n + 1 orders."""
    assert Thresholds(resampling_draws=least, confidence=confidence).resampling_draws == least_draws(confidence)
    if least > 1:
        with pytest.raises(
            ConfigError, match=f"resampling_draws is {least} or more .* {confidence}, got {least - 1}: draw more"
        ):
            Thresholds(resampling_draws=least - 1, confidence=confidence)


@pytest.mark.parametrize(("budget", "least"), [(512, 99), (1024, 199), (4096, 399)])
def test_looks_that_share_a_confidence_need_more_draws_than_one_alone(budget, least):
    looks = len(look_sizes(budget))
    assert corrected(Thresholds(resampling_draws=least), looks).resampling_draws == least
    if looks > 1:
        with pytest.raises(ConfigError, match=f"resampling_draws is {least} or more"):
            corrected(Thresholds(resampling_draws=least - 1), looks)


@pytest.mark.parametrize("given", [{}, 0, "", (), {"min_effect": 0.1}, Thresholds])
def test_what_are_no_thresholds_are_not_taken_for_none(given):
    with pytest.raises(ConfigError, match="thresholds are a Thresholds"):
        default_or(given)


def test_none_means_the_default():
    assert default_or(None) == Thresholds()
    assert default_or(Thresholds(min_rows=9)).min_rows == 9
