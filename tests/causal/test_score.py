"""Scores, gradients, acyclicity: finite differences and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.causal.score import (
    log_det_acyclicity,
    log_det_gradient,
    noise_levels,
    residual_variances,
    score,
    score_gradient,
    start_levels,
    stationarity,
)


def instance(seed: int, order: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(40, order)) @ rng.normal(size=(order, order))
    data -= data.mean(axis=0)
    return data.T @ data / 40, 0.25 * rng.normal(size=(order, order))


def difference_quotient(function, point: np.ndarray, step: float = 1e-6) -> np.ndarray:
    gradient = np.zeros_like(point)
    for place in np.ndindex(point.shape):
        shift = np.zeros_like(point)
        shift[place] = step
        gradient[place] = (function(point + shift) - function(point - shift)) / (2 * step)
    return gradient


@pytest.mark.parametrize("noise", [np.array([1.7]), np.linspace(0.5, 3.0, 6)], ids=["equal", "unequal"])
def test_score_gradient_is_the_difference_quotient(noise: np.ndarray) -> None:
    covariance, weights = instance(0)
    expected = difference_quotient(lambda w: score(covariance, w, noise, 0.0), weights)
    np.testing.assert_allclose(score_gradient(covariance, weights, noise), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_acyclicity_gradient_is_the_difference_quotient(scale: float) -> None:
    _, weights = instance(1)
    expected = difference_quotient(lambda w: log_det_acyclicity(w, scale), weights)
    np.testing.assert_allclose(log_det_gradient(weights, scale), expected, rtol=1e-6, atol=1e-7)


def test_acyclicity_of_a_two_cycle_has_its_closed_form() -> None:
    a, b = 0.7, -0.4
    assert log_det_acyclicity(np.array([[0, a], [b, 0]]), 1.0) == pytest.approx(-np.log(1 - a**2 * b**2), rel=1e-12)


def test_acyclicity_vanishes_exactly_on_dags_and_is_positive_elsewhere() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        shuffle = rng.permutation(7)
        dag = np.triu(rng.normal(size=(7, 7)) * 3, 1)[np.ix_(shuffle, shuffle)]
        assert abs(log_det_acyclicity(dag, 0.6)) < 1e-10
        cyclic = 0.2 * rng.normal(size=(7, 7))
        assert log_det_acyclicity(cyclic, 1.0) > 0


def test_acyclicity_is_infinite_where_the_determinant_changes_sign() -> None:
    assert log_det_acyclicity(np.array([[0, 1.5], [1.5, 0]]), 1.0) == np.inf


@pytest.mark.parametrize("variance", ["equal", "unequal"])
def test_no_other_noise_level_scores_better(variance) -> None:
    covariance, weights = instance(3)
    best = noise_levels(residual_variances(covariance, weights), variance, 1e-9)
    reached = score(covariance, weights, best, 0.05)
    rng = np.random.default_rng(0)
    for _ in range(100):
        other = best * np.exp(0.2 * rng.normal(size=best.shape))
        assert score(covariance, weights, other, 0.05) >= reached


def test_empty_graph_scores_the_sum_of_the_spreads() -> None:
    covariance, _ = instance(4)
    empty = np.zeros_like(covariance)
    start, floor = start_levels(covariance, "unequal")
    assert score(covariance, empty, start, 0.05) == pytest.approx(np.sqrt(np.diag(covariance)).sum(), rel=1e-14)
    assert floor == pytest.approx(0.01 * np.sqrt(np.diag(covariance)).min())
    assert start_levels(covariance, "equal")[0] == pytest.approx(np.sqrt(np.diag(covariance)).min())


def test_the_floor_holds_for_a_column_that_others_explain() -> None:
    assert noise_levels(np.array([0.0, 4.0]), "unequal", 0.1).tolist() == [0.1, 2.0]


def test_stationarity_is_zero_at_a_known_optimum() -> None:
    # two uncorrelated variables: W = 0 is optimal, and a correlation above lam sigma makes it lose optimality
    noise = np.ones(2)
    free = ~np.eye(2, dtype=bool)
    inside, outside = np.array([[1.0, 0.04], [0.04, 1.0]]), np.array([[1.0, 0.2], [0.2, 1.0]])
    assert stationarity(inside, np.zeros((2, 2)), noise, 0.05, 0.1, 1.0, allowed=free) == 0.0
    assert stationarity(outside, np.zeros((2, 2)), noise, 0.05, 0.1, 1.0, allowed=free) == pytest.approx(0.15 / 0.05)
