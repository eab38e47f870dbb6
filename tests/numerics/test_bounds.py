"""Statistical bounds: exact coverage by enumeration where possible, else thousands of repeats with fixed seeds.

A coverage test that only asks for few misses would pass for a bound that says nothing, so each also asks for sharpness.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from surefoot.numerics.bounds import (
    binomial_p_value,
    clopper_pearson_interval,
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein_radius,
    hoeffding_radius,
    noncentral_norm_bound,
    paired_bootstrap,
)


def most_misses(repeats: int, probability: float) -> float:
    """Three standard deviations above the allowed count."""
    return repeats * probability + 3 * math.sqrt(repeats * probability * (1 - probability))


@pytest.mark.parametrize("n", [1, 7, 60])
@pytest.mark.parametrize("failure", [0.001, 0.05, 0.3])
def test_clopper_pearson_coverage_is_exact_by_enumeration(n: int, failure: float) -> None:
    k = np.arange(n + 1)
    lower, upper = clopper_pearson_lower(k, n, failure), clopper_pearson_upper(k, n, failure)
    worst = 0.0
    # just below a bound value is where coverage is least
    for p in np.concatenate([np.linspace(0.001, 0.999, 301), lower[1:] * (1 - 1e-9)]):
        chances = stats.binom.pmf(k, n, p)
        missed = chances[lower > p].sum()
        assert missed <= failure * (1 + 1e-9)
        assert chances[upper < p].sum() <= failure * (1 + 1e-9)
        worst = max(worst, missed)
    assert worst >= 0.999 * failure
    assert lower[0] == 0
    assert upper[-1] == 1


def test_clopper_pearson_matches_scipy_and_the_binomial_test() -> None:
    for k, n in [(0, 10), (3, 10), (10, 10), (997, 1000)]:
        theirs = stats.binomtest(k, n).proportion_ci(0.99, method="exact")
        low, high = clopper_pearson_interval(k, n, 0.01)
        assert float(low) == pytest.approx(theirs.low, rel=1e-10)
        assert float(high) == pytest.approx(theirs.high, rel=1e-10)
        for p in (0.0, 0.2, 0.9, 1.0):
            expected = stats.binomtest(k, n, p, alternative="greater").pvalue
            assert float(binomial_p_value(k, n, p)) == pytest.approx(expected, rel=1e-10, abs=1e-300)
    # the bound is the null probability at which the test's p-value is the failure probability
    assert float(binomial_p_value(13, 20, clopper_pearson_lower(13, 20, 0.02))) == pytest.approx(0.02, rel=1e-9)


def test_binomial_p_value_is_uniform_enough_under_the_null() -> None:
    k = np.arange(41)
    p_values = binomial_p_value(k, 40, 0.3)
    chances = stats.binom.pmf(k, 40, 0.3)
    for level in p_values:
        assert chances[p_values <= level].sum() == pytest.approx(level, rel=1e-9)


@pytest.mark.parametrize("n", [5, 40, 200])
def test_hoeffding_holds_by_enumeration_and_has_its_published_size(n: int) -> None:
    failure = 0.05
    radius = hoeffding_radius(n, failure)
    k = np.arange(n + 1)
    missed = max(stats.binom.pmf(k, n, p)[k / n - radius > p].sum() for p in np.linspace(0.01, 0.99, 99))
    assert missed <= failure
    assert missed >= failure / 20
    assert hoeffding_radius(100, 0.05) == pytest.approx(0.12238734153404082, rel=1e-12)
    assert hoeffding_radius(100, 0.05, width=4) == pytest.approx(4 * 0.12238734153404082, rel=1e-12)


def test_empirical_bernstein_covers_and_beats_hoeffding_on_small_variance() -> None:
    generator = np.random.default_rng(0)
    failure, n, repeats = 0.05, 200, 4000
    for a, b in [(1.0, 1.0), (0.1, 2.0), (20.0, 1.0)]:
        X = generator.beta(a, b, (repeats, n))
        radius = empirical_bernstein_radius(X.var(axis=1, ddof=1), n, failure)
        for side in (X.mean(axis=1) - radius > a / (a + b), X.mean(axis=1) + radius < a / (a + b)):
            assert side.sum() <= most_misses(repeats, failure)
    narrow = empirical_bernstein_radius(1e-4, 2000, failure)
    assert narrow < hoeffding_radius(2000, failure) / 3
    # asymptotically the Gaussian size with log(2 / p): a forgotten factor would show
    wide = empirical_bernstein_radius(0.25, 10**8, failure)
    assert wide == pytest.approx(math.sqrt(2 * 0.25 * math.log(40) / 1e8), rel=1e-2)


@pytest.mark.parametrize(("d", "norm"), [(1, 0.7), (10, 3.0), (1000, 20.0)])
@pytest.mark.parametrize("failure", [0.05, 0.2])
def test_noncentral_norm_bound_misses_exactly_as_often_as_stated(d: int, norm: float, failure: float) -> None:
    generator = np.random.default_rng(d)
    repeats, std = 4000, 2.0
    noise = std * generator.normal(size=(repeats, d))
    noise[:, 0] += norm * std
    bound = noncentral_norm_bound(np.linalg.norm(noise, axis=1), std, d, failure)
    misses = (bound < norm * std).sum()
    room = 3.5 * math.sqrt(repeats * failure * (1 - failure))
    assert abs(misses - repeats * failure) <= room


def test_noncentral_norm_bound_inverts_the_distribution_and_beats_the_triangle_inequality() -> None:
    observed, d, p = 37.0, 1000, 0.05
    bound = float(noncentral_norm_bound(observed, 1.0, d, p))
    assert stats.ncx2.cdf(observed**2, d, bound**2) == pytest.approx(p, rel=1e-8)
    assert bound < 0.5 * (observed + math.sqrt(stats.chi2.isf(p, d)))
    assert float(noncentral_norm_bound(0.0, 1.0, 50, p)) == 0
    # equivariance, and the normal limit in huge dimension
    assert float(noncentral_norm_bound(5 * observed, 5.0, d, p)) == pytest.approx(5 * bound, rel=1e-12)
    d = 10**7
    lam = float(noncentral_norm_bound(math.sqrt(d + 1e5), 1.0, d, p)) ** 2
    assert lam - 1.6448536 * math.sqrt(2 * (d + 2 * lam)) == pytest.approx(1e5, rel=2e-3)


def test_paired_bootstrap_covers_at_its_level() -> None:
    generator = np.random.default_rng(1)
    repeats, n = 2000, 40
    shared = generator.normal(size=(repeats, n)) * 10
    first = shared + generator.exponential(1.0, (repeats, n))
    second = shared + generator.normal(0.3, 0.5, (repeats, n))
    misses_low = misses_high = 0
    for a, b in zip(first, second, strict=True):
        interval = paired_bootstrap(a, b, failure_probability=0.1, resamples=399, generator=generator)
        misses_low += interval.low > 0.7
        misses_high += interval.high < 0.7
    # nominal 5% a side; at n = 40 with skewed differences BCa is known to run a little over
    assert 0.02 * repeats <= misses_low <= 0.09 * repeats
    assert 0.02 * repeats <= misses_high <= 0.11 * repeats


def test_paired_bootstrap_cancels_what_pairs_share_and_explains_mistakes() -> None:
    generator = np.random.default_rng(2)
    shared = 100 * generator.normal(size=50)
    noise = generator.normal(size=50)
    interval = paired_bootstrap(shared + noise, shared, generator=generator)
    assert interval.high - interval.low < 1
    assert interval.estimate == pytest.approx(noise.mean())
    assert interval.low <= interval.estimate <= interval.high
    classic = stats.ttest_rel(shared + noise, shared).confidence_interval(0.95)
    assert interval.low == pytest.approx(classic.low, abs=0.1)
    assert interval.high == pytest.approx(classic.high, abs=0.1)
    one_sided = paired_bootstrap(shared + noise, shared, generator=generator, alternative="greater")
    assert one_sided.high == math.inf
    same = paired_bootstrap(np.ones(3), np.zeros(3), generator=generator)
    assert (same.low, same.high) == (1.0, 1.0)
    with pytest.raises(ValueError, match="same length"):
        paired_bootstrap(np.ones(3), np.ones(4), generator=generator)
    with pytest.raises(ValueError, match="NaN"):
        paired_bootstrap(np.array([1.0, math.nan]), np.ones(2), generator=generator)


def test_bad_counts_and_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="successes <= trials"):
        clopper_pearson_lower(11, 10, 0.05)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        clopper_pearson_upper(1, 10, 0.0)
    with pytest.raises(ValueError, match="n must be at least 2"):
        empirical_bernstein_radius(0.1, 1, 0.05)
    with pytest.raises(ValueError, match="noise_std"):
        noncentral_norm_bound(1.0, 0.0, 3, 0.05)
