"""The convex fit for one order: closed forms, scikit-learn's lasso, and the duality gap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from surefoot.causal.active_set import _feature_sign, lasso
from surefoot.causal.order_refit import compatible_edges, refit_order
from surefoot.causal.problem import table
from surefoot.causal.score import noise_levels, residual_variances, score, start_levels
from surefoot.causal.simulate import equal_variance_model, unequal_variance_model

FLOOR = 1e-3


def data(seed: int = 0, order: int = 8):
    model = unequal_variance_model(seed, order, 2, rows=150)
    problem = table(model.values)
    centred = model.values - model.values.mean(axis=0)
    return problem.covariance, centred, list(model.order)


@pytest.mark.parametrize("seed", range(6))
def test_lasso_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(60, 12)) @ (np.eye(12) + 0.6 * rng.normal(size=(12, 12)))
    target = design[:, :4].sum(axis=1) + rng.normal(size=60)
    for level in (0.02, 0.3, 2.0):
        expected = Lasso(alpha=level, fit_intercept=False, tol=1e-12, max_iter=500_000).fit(design, target).coef_
        gram, pull = design.T @ design / 60, design.T @ target / 60
        penalty = np.full(12, level)
        np.testing.assert_allclose(lasso(gram, pull, penalty, np.zeros(12)), expected, atol=1e-6)
        np.testing.assert_allclose(_feature_sign(gram, pull, penalty, rng.normal(size=12)), expected, atol=1e-6)


@pytest.mark.parametrize("variance", ["equal", "unequal"])
def test_every_column_is_scikit_learns_lasso_at_its_noise_level(variance) -> None:
    covariance, centred, order = data()
    fit = refit_order(covariance, order, variance, 0.1, FLOOR)
    levels = np.broadcast_to(fit.noise_std, len(order))
    for place, node in enumerate(order):
        earlier = order[:place]
        if earlier:
            model = Lasso(alpha=0.1 * levels[node], fit_intercept=False, tol=1e-12, max_iter=500_000)
            expected = model.fit(centred[:, earlier], centred[:, node]).coef_
            np.testing.assert_allclose(fit.weights[earlier, node], expected, atol=1e-6)
    np.testing.assert_allclose(
        fit.noise_std, noise_levels(residual_variances(covariance, fit.weights), variance, FLOOR), rtol=1e-8
    )


@pytest.mark.parametrize("variance", ["equal", "unequal"])
def test_small_sparsity_gives_least_squares(variance) -> None:
    covariance, centred, order = data(1)
    fit = refit_order(covariance, order, variance, 1e-10, FLOOR)
    for place, node in enumerate(order[1:], start=1):
        earlier = order[:place]
        expected = np.linalg.lstsq(centred[:, earlier], centred[:, node], rcond=None)[0]
        np.testing.assert_allclose(fit.weights[earlier, node], expected, atol=1e-8)


def test_the_graph_empties_at_the_known_sparsity() -> None:
    covariance, _, order = data(2)
    deviation = np.sqrt(np.diag(covariance))
    reachable = compatible_edges(order)
    largest = float(np.max(np.where(reachable, np.abs(covariance) / deviation, 0.0)))
    assert not refit_order(covariance, order, "unequal", largest * 1.0001, FLOOR).weights.any()
    assert refit_order(covariance, order, "unequal", largest * 0.999, FLOOR).weights.any()


@pytest.mark.parametrize("variance", ["equal", "unequal"])
@pytest.mark.parametrize("sparsity", [0.01, 0.05, 1.0])
def test_the_dual_is_below_every_graph_of_the_order(variance, sparsity: float) -> None:
    covariance, _, order = data(3)
    fit = refit_order(covariance, order, variance, sparsity, FLOOR)
    assert fit.relative_gap <= 1e-8
    rng = np.random.default_rng(0)
    forward = compatible_edges(order)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(30):
            weights = np.where(forward, fit.weights + size * rng.normal(size=forward.shape), 0.0)
            noise = noise_levels(residual_variances(covariance, weights), variance, FLOOR)
            assert score(covariance, weights, noise, sparsity) >= fit.dual


@pytest.mark.parametrize("seed", range(3))
def test_strongly_correlated_predecessors_do_not_stop_the_gap_from_closing(seed: int) -> None:
    model = equal_variance_model(seed, 40)  # spreads differ several hundredfold
    covariance = table(model.values).covariance
    fit = refit_order(covariance, list(model.order), "equal", 0.05, start_levels(covariance, "equal")[1])
    assert abs(fit.relative_gap) <= 1e-6


def test_a_column_that_is_a_sum_of_others_hits_the_floor() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 3))
    values[:, 2] = values[:, 0] + values[:, 1]
    covariance = table(values).covariance
    fit = refit_order(covariance, [0, 1, 2], "unequal", 0.01, 0.05)
    assert fit.noise_std[2] == pytest.approx(0.05)
    assert fit.relative_gap <= 1e-6


def test_masks_are_kept_and_required_edges_bear_no_penalty() -> None:
    covariance, centred, order = data(4)
    first, second, third = order[:3]
    allowed, penalised = np.ones((8, 8), dtype=bool), np.ones((8, 8), dtype=bool)
    allowed[first, third] = False
    penalised[second, third] = False
    fit = refit_order(covariance, order, "unequal", 0.05, FLOOR, allowed, penalised)
    assert fit.weights[first, third] == 0.0
    plain = np.linalg.lstsq(centred[:, [second]], centred[:, third], rcond=None)[0][0]
    assert fit.weights[second, third] == pytest.approx(plain, rel=1e-9)  # its only possible parent, unpenalised
    assert abs(fit.relative_gap) <= 1e-6
