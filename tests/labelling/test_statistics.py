"""Shares and intervals against formulas and against their own meaning: what holds at once for all that was tried."""

import math

import pytest
import torch
from scipy import stats

from stackheads.labelling.statistics import (
    Resampling,
    bootstrap_counts,
    exceeded,
    exceeding,
    mean_interval,
    normal,
    resampling,
    rounded_up,
    shares,
    student,
    unseen,
    wilson,
)


def resampled(n, seed=0, draws=1000, confidence=0.99):
    return resampling(n, draws, confidence, torch.Generator().manual_seed(seed))


def one(n, moved, gap, **settings):
    found = resampled(n, **settings).shares(moved[:, None], gap[:, None], torch.ones(n, 1, dtype=torch.bool))
    return found.at(0)


def test_a_share_is_a_ratio_of_sums():
    moved, gap = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 2.0])
    assert one(3, moved, gap).value == pytest.approx(6 / 8)
    assert shares(moved, gap).item() == pytest.approx(6 / 8)


def test_an_empty_gap_has_no_share():
    assert shares(torch.ones(3), torch.zeros(3)).item() == 0
    assert len(resampled(8).shares(torch.ones(8, 0), torch.ones(8, 0), torch.ones(8, 0, dtype=torch.bool))) == 0


def test_a_constant_share_has_an_interval_of_no_width():
    gap = torch.rand(50, generator=torch.Generator().manual_seed(0)) + 0.5
    estimate = one(50, 0.3 * gap, gap)
    assert (estimate.low, estimate.high) == (pytest.approx(0.3), pytest.approx(0.3))


def test_the_standard_error_is_that_of_single_examples_left_out():
    """The jackknife's, which knows nothing of the formula."""
    generator = torch.Generator().manual_seed(0)
    gap = 3 + torch.rand(200, generator=generator).double()
    moved = 0.2 * gap + torch.randn(200, generator=generator).double()
    found = resampled(200).shares(moved[:, None], gap[:, None], torch.ones(200, 1, dtype=torch.bool))
    without = torch.stack([(moved.sum() - moved[i]) / (gap.sum() - gap[i]) for i in range(200)])
    jackknife = (199 / 200 * (without - without.mean()).square().sum()).sqrt().item()
    assert found.se.item() == pytest.approx(jackknife, rel=0.02)


def experiment(generator, n, tried, alike, skew):
    """Shares of which all are 0.2, some asked rarely, their noise alike from one to the next or skewed."""
    gap = 1 + torch.rand(n, tried, generator=generator).double()
    common = torch.randn(n, 1, generator=generator).double()
    noise = alike * common + (1 - alike) * torch.randn(n, tried, generator=generator).double()
    noise = noise.exp() - math.exp(0.5) if skew else noise
    asked = torch.rand(n, tried, generator=generator) < torch.linspace(1, 0.3, tried)
    asked[:16] = True
    return 0.2 * gap + noise, gap, asked


@pytest.mark.parametrize(("n", "tried", "alike"), [(32, 8, 0.0), (32, 8, 0.9), (128, 1, 0.0), (128, 32, 0.5)])
def test_intervals_hold_for_all_that_was_tried_as_often_as_they_say(n, tried, alike):
    """1 % may miss: of 400 no more than 11, which a right interval exceeds once in a thousand."""
    generator = torch.Generator().manual_seed(n + tried)
    draws, missed = resampled(n), 0
    for _ in range(400):
        found = draws.shares(*experiment(generator, n, tried, alike, skew=False))
        missed += bool(((found.low > 0.2) | (found.high < 0.2)).any())
    assert missed <= 11


def test_shares_that_are_alike_cost_hardly_more_than_one():
    """Max-t knows that they are; Bonferroni would take 32 times the error."""
    generator = torch.Generator().manual_seed(0)
    n, draws = 256, resampled(256)
    moved, gap, _ = experiment(generator, n, 32, alike=0.98, skew=False)
    everywhere = torch.ones(n, 32, dtype=torch.bool)
    together = draws.shares(moved, gap, everywhere)
    alone = draws.shares(moved[:, :1], gap[:, :1], everywhere[:, :1])
    assert together.high[0] - together.low[0] < 1.15 * (alone.high[0] - alone.low[0])


@pytest.mark.parametrize("n", [32, 256])
def test_p_values_are_uniform_where_nothing_moves(n):
    """Kolmogorov and Smirnov, over 300 experiments of 12 readouts asked unequally often."""
    generator, values = torch.Generator().manual_seed(n), []
    for number in range(300):
        moved, gap, asked = experiment(generator, n, 12, alike=0.5, skew=False)
        values.append(resampled(n, seed=number, draws=400).shares(moved - 0.2 * gap, gap, asked).p_value)
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_a_share_asked_rarely_is_judged_by_its_own_student_distribution():
    """Two shares with the same spread, one asked in 16 and one in 512 examples: its bound is more errors wide."""
    n, generator = 512, torch.Generator().manual_seed(0)
    moved, gap = torch.randn(n, 2, generator=generator).double(), torch.ones(n, 2).double()
    asked = torch.ones(n, 2, dtype=torch.bool)
    asked[16:, 1] = False
    found = resampled(n).shares(moved, gap, asked)
    width = (found.high - found.low) / found.se
    assert found.examples.tolist() == [512, 16]
    assert width[1] > 1.15 * width[0]


def test_normal_and_student_are_each_others_inverse_and_near_the_exact_ones():
    df = torch.tensor([15, 30, 60, 500])
    for z in (1.0, 2.5, 3.5):
        t = student(torch.tensor(z).double(), df)
        assert normal(t, df).tolist() == pytest.approx([z] * 4)
        exact = stats.t.isf(stats.norm.sf(z), df.numpy())
        assert t.tolist() == pytest.approx(exact.tolist(), rel=0.02)


def test_how_often_t_is_exceeded_is_what_scipy_stats_says():
    df = torch.tensor([1, 2, 15, 511, 4095])
    for t in (-3.0, 0.0, 0.5, 4.0, 40.0):
        exact = stats.t.sf(t, df.numpy())
        assert exceeding(torch.full((3, 5), t).double(), df).tolist() == [pytest.approx(exact.tolist(), rel=1e-12)] * 3
    for share in (0.4, 5e-3, 1e-9):
        assert exceeded(share, df).tolist() == pytest.approx(stats.t.isf(share, df.numpy()).tolist(), rel=1e-9)


def test_mean_intervals_are_student_intervals():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(40, 1, generator=generator).double()
    mean, low, high = mean_interval(value, torch.ones(40, 1), 0.99, tests=1)
    expected = stats.ttest_1samp(value[:, 0].numpy(), 0).confidence_interval(0.99)
    assert mean.item() == pytest.approx(value.mean().item())
    assert (low.item(), high.item()) == (pytest.approx(expected.low), pytest.approx(expected.high))
    corrected = mean_interval(value, torch.ones(40, 1), 0.99, tests=10)
    wider = stats.ttest_1samp(value[:, 0].numpy(), 0).confidence_interval(0.999)
    assert corrected[1].item() == pytest.approx(wider.low)
    _, low, high = mean_interval(torch.ones(40, 1), torch.eye(40)[:, :1], 0.99, tests=1)
    assert (low.item(), high.item()) == (-math.inf, math.inf)


def test_what_no_example_showed():
    share = unseen(512, 0.99)
    assert (1 - share) ** 512 == pytest.approx(0.01)
    assert unseen(230, 0.99) < 0.02 < unseen(227, 0.99)


@pytest.mark.parametrize(("draws", "confidence"), [(1000, 0.99), (1000, 0.9975), (399, 0.9975), (400, 0.99), (99, 0.99)])
def test_the_bound_is_exceeded_by_the_next_draw_as_rarely_as_is_said(draws, confidence):
    """Of draws + 1 in any order the last lies above the k-th smallest of the others in (draws + 1 - k) orders of that many."""
    bound = Resampling(torch.zeros(0, 0), torch.zeros(0, 0), confidence).quantile(torch.arange(1.0, draws + 1))
    exceeded = (draws + 1 - float(bound)) / (draws + 1)
    assert exceeded <= 1 - confidence + 1e-12


def test_draws_are_the_shares_of_the_bootstrap_samples():
    generator = torch.Generator().manual_seed(0)
    moved, gap = torch.rand(20, 2, generator=generator).double(), 1 + torch.rand(20, 2, generator=generator).double()
    draws = resampled(20)
    found = draws.shares(moved, gap, torch.ones(20, 2, dtype=torch.bool))
    assert torch.allclose(found.draws[3], (draws.counts[3] @ moved) / (draws.counts[3] @ gap))


def test_bootstrap_samples_have_the_size_of_the_sample():
    counts = bootstrap_counts(20, 400, torch.Generator().manual_seed(0))
    assert (counts.sum(dim=1) == 20).all()
    assert counts.var() > 0


def test_wilson_by_formula():
    low, high = wilson(3, 16, 0.95)
    assert (low, high) == (pytest.approx(0.0659, abs=1e-4), pytest.approx(0.4301, abs=1e-4))
    for successes, n, confidence in ((0, 9, 0.95), (1, 9, 0.99), (5, 9, 0.9), (9, 9, 0.95), (400, 4096, 0.999)):
        exact = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
        assert wilson(successes, n, confidence) == (pytest.approx(exact.low, abs=1e-12), pytest.approx(exact.high, abs=1e-12))
    assert wilson(0, 0, 0.95) == (0.0, 1.0)
    assert wilson(16, 16, 0.95)[1] == 1.0


def test_rounding_up_to_a_power_of_two():
    assert [rounded_up(n) for n in (0.5, 1, 512, 513)] == [1, 1, 512, 1024]
