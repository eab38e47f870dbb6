"""Anytime bounds: simulated streams are stopped at their worst moment, and misses counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from surefoot.numerics.anytime_bounds import (
    anytime_p_value,
    betting_log_capital,
    betting_lower_bound,
    betting_upper_bound,
    gaussian_confidence_sequence,
    mixture_norm_bound,
    ville_threshold,
)
from surefoot.numerics.bounds import empirical_bernstein_radius, hoeffding_radius

Array = NDArray[np.float64]
FAILURE = 0.05


def most_misses(repeats: int, probability: float) -> float:
    return repeats * probability + 3 * math.sqrt(repeats * probability * (1 - probability))


def test_ville_holds_and_is_nearly_attained_by_small_steps() -> None:
    generator = np.random.default_rng(0)
    repeats, steps, size = 4000, 3000, 0.1
    log_wealth = np.cumsum(size * generator.normal(size=(repeats, steps)) - size**2 / 2, axis=1)
    for p in (0.5, 0.1):
        crossed = (log_wealth.max(axis=1) >= math.log(ville_threshold(1.0, p))).mean()
        assert crossed <= p + 3 * math.sqrt(p * (1 - p) / repeats)
        assert crossed >= 0.8 * p
    p_values = anytime_p_value(log_wealth)
    assert (np.diff(p_values, axis=1) <= 0).all()
    assert (p_values[:, -1] <= 0.1).mean() <= 0.1 + 3 * math.sqrt(0.09 / repeats)


def sample(name: str, generator: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, float]:
    if name == "coin":
        return (generator.random(shape) < 0.5).astype(np.float64), 0.5
    if name == "rare":
        return (generator.random(shape) < 0.03).astype(np.float64), 0.03
    if name == "skewed":
        return generator.beta(0.2, 2.0, shape), 0.2 / 2.2
    return generator.beta(30.0, 10.0, shape), 0.75


@pytest.mark.parametrize("name", ["coin", "rare", "skewed", "narrow"])
def test_betting_bounds_cover(name: str) -> None:
    generator = np.random.default_rng(1)
    repeats, n = 6000, 200
    X, mean = sample(name, generator, (repeats, n))
    lower, upper = betting_lower_bound(X, FAILURE), betting_upper_bound(X, FAILURE)
    assert (lower > mean).sum() <= most_misses(repeats, FAILURE)
    assert (upper < mean).sum() <= most_misses(repeats, FAILURE)
    # a real chance to fail: at least one side comes within a few times of the allowance
    assert max((lower > mean).mean(), (upper < mean).mean()) >= FAILURE / 5
    if name in ("skewed", "narrow"):
        rival = X.mean(axis=1) - empirical_bernstein_radius(X.var(axis=1, ddof=1), n, FAILURE)
        assert (lower >= rival).mean() > 0.99
    assert np.median(X.mean(axis=1) - lower) <= 1.25 * hoeffding_radius(n, FAILURE)


def test_betting_capital_is_a_martingale_at_the_true_mean_and_crosses_rarely() -> None:
    generator = np.random.default_rng(2)
    X, mean = sample("skewed", generator, (20_000, 50))
    log_capital = betting_log_capital(X, mean, FAILURE)
    capital = np.exp(log_capital)
    error = capital[:, -1].std() / math.sqrt(len(X))
    assert abs(capital[:, -1].mean() - 1) <= 4 * error
    assert error < 0.04
    crossed = (log_capital.max(axis=1) >= -math.log(FAILURE)).sum()
    assert crossed <= most_misses(len(X), FAILURE)
    # against a mean that is too low the gambler grows rich
    assert np.median(betting_log_capital(X, mean / 3, FAILURE)[:, -1]) > 1


def test_betting_bound_is_the_inverse_of_its_capital_and_grows_with_nested_samples() -> None:
    X = np.random.default_rng(3).beta(2, 1, 300)
    bound = float(betting_lower_bound(X, FAILURE))
    goal = -math.log(FAILURE)
    assert betting_log_capital(X, bound - 1e-9, FAILURE).max() >= goal
    assert betting_log_capital(X, bound + 1e-9, FAILURE).max() < goal
    nested = [float(betting_lower_bound(X[:k], FAILURE, horizon=300)) for k in (20, 80, 200, 300)]
    assert nested == sorted(nested)
    assert nested[-1] == bound
    levels = [float(betting_lower_bound(X, p)) for p in (0.001, 0.05, 0.3)]
    assert levels == sorted(levels)


def test_betting_log_capital_follows_its_formula_written_as_a_loop() -> None:
    X = [0.3, 0.9, 0.0, 1.0, 0.4]
    m, n, p = 0.35, 5, 0.1
    total, seen, spread, expected = 0.0, 0.5, 0.25, []
    for j, x in enumerate(X, start=1):
        bet = min(math.sqrt(2 * math.log(1 / p) / (n * spread / j)), 0.75 / m)
        total += math.log(1 + bet * (x - m))
        expected.append(total)
        seen += x
        spread += (x - seen / (j + 1)) ** 2
    np.testing.assert_allclose(betting_log_capital(X, m, p), expected, rtol=1e-12)


@pytest.mark.parametrize("d", [1, 20])
def test_mixture_norm_bound_holds_at_all_times_of_adaptive_martingales(d: int) -> None:
    generator = np.random.default_rng(4)
    repeats, steps, tau, p = 3000, 300, 20.0, 0.1
    M, V = np.zeros((repeats, d)), np.zeros(repeats)
    crossed = np.zeros(repeats, dtype=bool)
    tightest = np.inf
    for _ in range(steps):
        # the next scale depends on the past: larger while the martingale is far out
        scale = np.where(np.linalg.norm(M, axis=1) > 0.8 * np.sqrt(V * d), 1.5, 0.5)
        M += scale[:, None] * generator.normal(size=(repeats, d))
        V += scale**2
        norm, bound = np.linalg.norm(M, axis=1), mixture_norm_bound(V, tau, d, p)
        crossed |= norm > bound
        tightest = min(tightest, float(np.median(bound / norm)))
    assert crossed.sum() <= most_misses(repeats, p)
    assert crossed.mean() >= p / 10
    assert tightest <= (7.0 if d == 1 else 1.6)


def test_gaussian_confidence_sequence_covers_at_all_times() -> None:
    generator = np.random.default_rng(5)
    repeats, n = 4000, 400
    X = 3.0 + 2.0 * generator.normal(size=(repeats, n))
    low, high = gaussian_confidence_sequence(X, 2.0, FAILURE)
    missed = ((low > 3.0) | (high < 3.0)).any(axis=1)
    assert missed.sum() <= most_misses(repeats, FAILURE)
    assert missed.mean() >= FAILURE / 10
    # the price of looking at all times: under twice the fixed-time interval at the end
    fixed = 1.96 * 2.0 / math.sqrt(n)
    assert fixed < (high[0, -1] - low[0, -1]) / 2 < 2 * fixed
    early = gaussian_confidence_sequence(X, 2.0, FAILURE, mixing_variance=4.0)
    assert (early[1] - early[0])[0, 2] < (high - low)[0, 2]


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        betting_lower_bound([0.5, 1.2], FAILURE)
    with pytest.raises(ValueError, match="at least one observation"):
        betting_lower_bound([], FAILURE)
    with pytest.raises(ValueError, match="strictly between"):
        mixture_norm_bound(1.0, 1.0, 2, 1.0)
    with pytest.raises(ValueError, match="mixing_variance"):
        mixture_norm_bound(1.0, 0.0, 2, 0.1)
