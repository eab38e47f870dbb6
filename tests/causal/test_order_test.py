"""Orders under equal noise: the bound over all orders, the tests, and the greedy order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from surefoot.causal.order_test import (
    bartlett_statistic,
    brown_forsythe_statistic,
    conditional_variances,
    degrees_of_freedom,
    greedy_order,
    order_excess,
    order_residuals,
    test_order,
)
from surefoot.causal.problem import table
from surefoot.causal.simulate import equal_variance_model


def test_excess_is_nonnegative_for_all_orders_and_least_for_a_true_one() -> None:
    model = equal_variance_model(1, 5, 1, rows=5000)
    covariance = table(model.values).covariance
    excesses = {order: order_excess(covariance, order) for order in itertools.permutations(range(5))}
    assert min(excesses.values()) >= 0.0
    assert order_excess(covariance, model.order) < 0.01
    volume = np.prod(conditional_variances(covariance, (0, 1, 2, 3, 4)))
    for order in excesses:
        assert np.prod(conditional_variances(covariance, order)) == pytest.approx(volume, rel=1e-10)
    assert volume == pytest.approx(np.linalg.det(covariance), rel=1e-10)


def test_excess_vanishes_in_the_population() -> None:
    weights = np.array([[0, 2.0, -1.0], [0, 0, 1.5], [0, 0, 0]])
    mixing = np.linalg.inv(np.eye(3) - weights)
    covariance = 4.0 * mixing.T @ mixing
    assert order_excess(covariance, (0, 1, 2)) == pytest.approx(0.0, abs=1e-13)
    assert order_excess(covariance, (2, 1, 0)) > 0.1


def test_residuals_are_those_of_least_squares() -> None:
    model = equal_variance_model(2, 6, 2, rows=100)
    residuals = order_residuals(model.values, model.order)
    centred = model.values - model.values.mean(axis=0)
    for place, node in enumerate(model.order):
        earlier = centred[:, list(model.order[:place])]
        expected = centred[:, node]
        if place:
            expected = expected - earlier @ np.linalg.lstsq(earlier, expected, rcond=None)[0]
        np.testing.assert_allclose(residuals[:, place], expected, atol=1e-9)
    spread = (residuals**2).mean(axis=0)
    np.testing.assert_allclose(spread, conditional_variances(table(model.values).covariance, model.order), rtol=1e-9)


def test_bartlett_is_scipys_on_groups_of_these_sizes_and_variances() -> None:
    rng = np.random.default_rng(0)
    rows, variances = 30, np.array([1.0, 1.4, 0.7, 2.0])
    freedom = degrees_of_freedom(rows, 4).astype(int)
    groups = []
    for nu, variance in zip(freedom, variances, strict=True):
        sample = rng.normal(size=nu + 1)
        unbiased = rows * variance / nu
        groups.append((sample - sample.mean()) / sample.std(ddof=1) * np.sqrt(unbiased))
    statistic, critical = bartlett_statistic(variances, rows)
    expected = stats.bartlett(*groups)
    assert statistic == pytest.approx(expected.statistic, rel=1e-10)
    assert stats.chi2.sf(critical, 3) == pytest.approx(0.01)


def test_brown_forsythe_ignores_the_order_of_the_rows() -> None:
    residuals = np.random.default_rng(1).laplace(size=(50, 4))
    assert brown_forsythe_statistic(residuals)[0] == pytest.approx(
        brown_forsythe_statistic(np.sort(residuals, axis=0))[0]
    )


@pytest.mark.parametrize("noise", ["normal", "laplace"])
def test_true_orders_are_seldom_refuted_and_reversed_ones_always(noise) -> None:
    """At the 1 % level 120 true orders are refuted about once; ten times would happen with probability below 1e-6."""
    refuted = 0
    for seed in range(120):
        model = equal_variance_model(seed, 8, 2, rows=300, noise=noise)
        covariance = table(model.values).covariance
        found = test_order(covariance, model.order, 300, model.values)
        assert found.brown_forsythe_p_value is not None
        refuted += found.brown_forsythe_p_value < 0.01
        backwards = test_order(covariance, model.order[::-1], 300, model.values)
        assert backwards.brown_forsythe_p_value is not None
        if np.count_nonzero(model.weights) > 8:
            assert backwards.brown_forsythe_p_value < 0.01
    assert refuted < 10


def test_greedy_order_is_a_causal_order() -> None:
    for seed in range(5):
        model = equal_variance_model(seed, 15, 3, rows=2000)
        order = greedy_order(table(model.values).covariance)
        place = np.argsort(order)
        sources, targets = np.nonzero(model.weights)
        assert (place[sources] < place[targets]).all()


def test_greedy_order_waits_for_what_must_come_first() -> None:
    before = np.zeros((3, 3), dtype=bool)
    before[2, 0] = True
    assert greedy_order(np.diag([1.0, 2.0, 3.0]), before) == [1, 2, 0]


def test_impossible_tests_say_why() -> None:
    rng = np.random.default_rng(3)
    few = rng.normal(size=(5, 4))
    assert "more rows" in test_order(table(few).covariance, range(4), 5).reason
    twice = rng.normal(size=(50, 2))[:, [0, 1, 0]]
    found = test_order(table(twice).covariance, range(3), 50)
    assert "singular" in found.reason
    assert found.excess is None
