"""Shares and intervals against formulas and against their own meaning: coverage and no gain from choosing."""

import pytest
import torch

from stackheads.analysis.statistics import Estimate, bootstrap, halves, shares


def boot(n, draws=400, seed=0):
    return bootstrap(n, draws, 0.95, torch.Generator().manual_seed(seed), torch.device("cpu"))


def test_a_share_is_a_ratio_of_sums():
    moved, gap = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 2.0])
    assert boot(3).share(moved, gap).value == pytest.approx(6 / 8)
    assert shares(moved, gap).item() == pytest.approx(6 / 8)


def test_an_empty_gap_has_no_share():
    estimate = boot(3).share(torch.ones(3), torch.zeros(3))
    assert estimate.value == 0
    assert not estimate.above(0.0)
    assert not estimate.below(0.0)
    assert shares(torch.ones(3), torch.zeros(3)).item() == 0


def test_a_constant_share_has_an_interval_of_no_width():
    gap = torch.rand(50, generator=torch.Generator().manual_seed(0)) + 0.5
    estimate = boot(50).share(0.3 * gap, gap)
    assert (estimate.low, estimate.high) == (pytest.approx(0.3), pytest.approx(0.3))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    draws = boot(100)
    covered = 0
    for _ in range(300):
        gap = 1 + torch.rand(100, generator=generator)
        estimate = draws.share(0.2 * gap + torch.randn(100, generator=generator), gap)
        covered += estimate.low <= 0.2 <= estimate.high
    assert 0.90 <= covered / 300 <= 0.98


def test_bootstrap_samples_have_the_size_of_the_sample():
    counts = boot(20).counts
    assert (counts.sum(dim=1) == 20).all()
    assert counts.var() > 0


def test_halves_are_disjoint_and_complete():
    one, other = halves(7)
    assert [*range(7)[one], *range(7)[other]] == list(range(7))


@pytest.mark.parametrize(
    ("estimate", "above", "below"),
    [
        (Estimate(0.5, 0.4, 0.6), True, False),
        (Estimate(0.5, -0.1, 0.9), False, False),
        (Estimate(0.01, 0.005, 0.02), False, False),
        (Estimate(-0.5, -0.6, -0.4), False, True),
        (Estimate(-0.5, -0.9, 0.1), False, False),
    ],
)
def test_evidence_needs_size_and_sign(estimate, above, below):
    assert estimate.above(0.02) == above
    assert estimate.below(0.02) == below
