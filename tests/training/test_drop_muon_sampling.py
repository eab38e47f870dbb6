"""Distributions over layers: frequencies, the optimum, schedules, refusals."""

import warnings

import numpy as np
import pytest
from scipy.optimize import linprog

from surefoot.training.drop_muon_sampling import (
    Auto,
    Cutoffs,
    EachLayer,
    EpochShift,
    Full,
    Independent,
    Subsets,
    Uniform,
    as_schedule,
    epoch_shift,
    optimal_cutoffs,
    optimal_inclusion,
    predicted_ratio,
    steps_ratio,
)

DISTRIBUTIONS = [
    Uniform().at(0, 0, 5),
    Full().at(0, 0, 3),
    epoch_shift(6, 0.3),
    Cutoffs((0.2, 0.0, 0.8)),
    optimal_cutoffs([1, 4, 2, 8]),
    Independent((0.1, 0.5, 1.0)),
    Independent((0.3, 0.2, 0.4)),
    Subsets(4, {(0, 2): 0.25, (1, 2, 3): 0.5, (3,): 0.25}),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
def test_layers_come_as_often_as_promised(distribution):
    n, generator = 4000, np.random.default_rng(0)
    masks = np.array([distribution.draw(generator) for _ in range(n)])
    P = distribution.inclusion
    assert masks.any(axis=1).all()
    assert (np.abs(masks.mean(0) - P) <= 4 * np.sqrt(P * (1 - P) / n) + 1e-12).all()
    if isinstance(distribution, Cutoffs):  # suffixes
        assert (np.diff(masks.astype(int), axis=1) >= 0).all()


def test_the_sheet_s_optimum():
    assert optimal_inclusion([1, 4, 2, 8]).tolist() == [0.125, 0.5, 0.5, 1.0]
    assert optimal_cutoffs([1, 4, 2, 8]).p == (0.125, 0.375, 0.0, 0.5)
    assert optimal_inclusion([1, 4, 2, 8], suffix=False).tolist() == [0.125, 0.5, 0.25, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_the_optimum_is_that_of_a_linear_program(seed):
    """min over P of (C_f + c P) max_i L_i / P_i: with the maximum fixed at 1 it is linear in P / scale."""
    rng = np.random.default_rng(seed)
    L, c, forward = rng.uniform(0.5, 5, 6), rng.uniform(0.1, 2, 6), 1.5
    b = len(L)
    # with q = t P and t the number of steps (per 2 Delta / eps): q_i >= L_i, q non-decreasing, q_b = t
    fall = [np.eye(b)[i] - np.eye(b)[i + 1] for i in range(b - 1)]
    cost = c.copy()
    cost[-1] += forward
    best = linprog(cost, A_ub=fall, b_ub=np.zeros(b - 1), bounds=[(x, None) for x in L])
    assert best.x is not None
    P = optimal_inclusion(L)
    ours = (forward + P @ c) * (L / P).max()
    assert ours == pytest.approx(best.fun, rel=1e-9)
    full = (forward + c.sum()) * L.max()
    assert predicted_ratio(P, forward, c) == pytest.approx(ours / full)


def test_full_is_optimal_exactly_if_the_first_layer_is_least_smooth():
    assert optimal_cutoffs([3, 1, 2]).p == (1.0, 0.0, 0.0)
    assert optimal_cutoffs([1, 3, 2]).p[0] < 1


def test_shifts_from_shallow_to_deep():
    early, late = epoch_shift(4, 0.0), epoch_shift(4, 1.0)
    assert early.p == pytest.approx(late.p[::-1])
    assert early.p[0] / early.p[1] == pytest.approx(np.exp(0.5))
    schedule = EpochShift(10, steps_per_epoch=3)
    assert schedule.at(29, 0, 4).inclusion[0] < schedule.at(0, 0, 4).inclusion[0]
    assert schedule.at(3, 0, 4).p == EpochShift(10).at(99, 1, 4).p


def test_each_layer_by_its_own_coin():
    distribution = EachLayer().at(0, 0, 5)
    draws = np.array([distribution.draw(np.random.default_rng(k)) for k in range(4000)])
    assert draws[:, -1].all()
    assert np.abs(draws.mean(0) - distribution.inclusion).max() < 3 * 0.5 / np.sqrt(4000)
    assert np.abs(np.corrcoef(draws[:, :-1].T.astype(float)) - np.eye(4)).max() < 0.06
    assert EachLayer(0.7).at(3, 1, 1).draw(np.random.default_rng(0)).all()
    with pytest.raises(ValueError, match="probability"):
        EachLayer(0.0)


def test_auto_updates_everything_where_little_is_gained():
    auto = Auto(least_gain=0.03)
    costly, cheap = [2.0, 1.0, 1.0], [0.02, 1.0, 1.0]
    assert auto.choose([1, 2, 2], 1.0, costly).p == (0.5, 0.5, 0.0)
    assert auto.choose([1, 2, 2], 1.0, cheap).p == (1.0, 0.0, 0.0)


def test_auto_counts_the_steps_that_dropping_costs():
    """t |g| - L t^2 / (2 P) by hand: at a small radius dropping is free, at a large one it takes more steps than it saves."""
    L, g, P = [1.0, 2.0], [3.0, 3.0], [0.5, 1.0]
    assert steps_ratio(P, L, g, 1.0) == pytest.approx((6 - 1.5) / (6 - 1 - 1))
    assert steps_ratio(P, L, g, 1e-6) == pytest.approx(1.0, abs=1e-6)
    assert steps_ratio(P, L, g, 3.5) == np.inf
    auto = Auto()
    assert auto.choose(L, 1.0, [1.0, 1.0], g, 0.1).p == (0.5, 0.5)
    assert auto.choose(L, 1.0, [1.0, 1.0], g, 2.5).p == (1.0, 0.0)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ([0.5, 0.6], "sum to 1.1"),
        ([-0.5, 1.5], ">= 0"),
        ([float("nan"), 1.0], ">= 0"),
        ("epoch_shift", "EpochShift"),
        ("sometimes", "uniform"),
    ],
)
def test_bad_probabilities_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        as_schedule(bad)


def test_empty_and_unknown_layers_are_refused():
    with pytest.raises(ValueError, match="empty"):
        Subsets(3, {(): 1.0})
    with pytest.raises(ValueError, match="distinct layers"):
        Subsets(3, {(0, 3): 1.0})
    with pytest.raises(ValueError, match="0, 1"):
        Independent((0.0, 0.0))
    with pytest.raises(ValueError, match="> 0"):
        optimal_inclusion([1, 0])


def test_a_layer_that_is_never_trained_is_warned_about():
    with pytest.warns(UserWarning, match=r"layers \[0, 1\] are never trained"):
        Cutoffs((0.0, 0.0, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cutoffs((0.5, 0.0, 0.5))
