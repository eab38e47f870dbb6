"""The fast inner loop against the algorithm as it is written down, and against what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.causal.inverse import BlockInverse
from surefoot.causal.kernel import Event, InnerLoop, Position, Stage
from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import Table, table
from surefoot.causal.reference import Schedule, reference_path
from surefoot.causal.score import start_levels, stationarity
from surefoot.causal.simulate import equal_variance_model
from surefoot.core.method import Status
from surefoot.core.solve import solve


def problem(seed: int = 0, order: int = 8, degree: int = 2) -> Table:
    return table(equal_variance_model(seed, order, degree, rows=300).values)


@pytest.mark.parametrize("order", [1, 2, 7, 80, 81, 163, 200])
def test_block_inverse_is_the_inverse(order: int) -> None:
    rng = np.random.default_rng(order)
    matrix = np.eye(order) - (0.4 * rng.normal(size=(order, order)) / np.sqrt(order)) ** 2
    for layout in (matrix, np.asfortranarray(matrix), matrix.T):
        out = np.empty((order, order))
        assert BlockInverse(order)(layout.copy(order="K"), out)
        np.testing.assert_allclose(out @ layout, np.eye(order), atol=1e-12)


def test_block_inverse_says_when_a_block_is_singular() -> None:
    matrix = np.eye(100)
    matrix[3, 3] = 0.0
    assert not BlockInverse(100)(matrix, np.empty((100, 100)))


def restarts_of(found) -> int:
    return found.counts.get("restart", 0)


@pytest.mark.parametrize("variance", ["equal", "unequal"])
@pytest.mark.parametrize(
    ("rate", "scales"),
    [(3e-4, (1.0, 0.9)), (1.0, (0.95,)), (1.0, (0.9, 0.8))],
    ids=["smooth", "steps halved", "stages restarted"],
)
def test_path_equals_the_reference(variance, rate: float, scales: tuple[float, ...]) -> None:
    """The published loop, step for step: with halved steps (s > 0.9) and with restarted stages (s <= 0.9) too."""
    data = problem()
    plan = Schedule(scales, warm_steps=60, last_steps=60, learning_rate=rate, checkpoint=20, tolerance=0.0)
    weights, noise = reference_path(data.covariance, variance, 0.05, plan)
    kept = []
    method = ConcomitantPath(
        variance=variance, acyclicity_scales=scales, warm_steps=60, last_steps=60, learning_rate=rate, checkpoint=20,
        tolerance=0.0,
    )  # fmt: skip
    found = solve(data, method, certify=False, watch=[lambda moment: kept.append(moment.state)])
    position = kept[-1].position
    np.testing.assert_allclose(position.weights_in.T, weights, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(position.noise_std, noise, rtol=1e-9)
    if scales == (0.95,):
        assert position.learning_rate < rate, "the case is meant to halve steps"
    if scales == (0.9, 0.8):
        assert restarts_of(found) > 0, "the case is meant to restart a stage"


@pytest.mark.parametrize("order", [8, 170])
@pytest.mark.parametrize("solver", ["adam", "proximal"])
def test_cutting_a_stage_into_calls_changes_no_bit(order: int, solver) -> None:
    data = problem(1, order)
    start, floor = start_levels(data.covariance, "unequal")
    stage = Stage(1.0, 40, 10, 0.0)

    def run(cuts: list[int]) -> Position:
        loop = InnerLoop(data.covariance, 0.05, floor, solver)
        zero = np.zeros((order, order))
        position = Position(zero.copy(), start.copy(), zero.copy(), zero.copy(), zero.copy(), 3e-3, 1.0)
        events = [loop.advance(position, stage, steps) for steps in cuts]
        assert events[-1] is Event.STAGE_DONE
        return position

    whole, pieces = run([40]), run([1, 2, 30, 7])
    np.testing.assert_array_equal(whole.weights_in, pieces.weights_in)
    np.testing.assert_array_equal(whole.noise_std, pieces.noise_std)
    assert whole.objective == pieces.objective


def test_proximal_steps_reach_a_stationary_point_with_exact_zeros() -> None:
    data = problem(2, 6)
    method = ConcomitantPath(
        variance="equal",
        solver="proximal",
        acyclicity_scales=(1.0,),
        last_steps=30_000,
        learning_rate=1e-3,
        tolerance=0.0,
    )
    kept = []
    solve(data, method, certify=False, watch=[lambda moment: kept.append(moment.state)])
    position = kept[-1].position
    weights = position.weights_in.T
    free = ~np.eye(6, dtype=bool)
    assert stationarity(data.covariance, weights, position.noise_std, 0.05, 1.0, 1.0, allowed=free) < 1e-3
    off_diagonal = weights[free]
    assert 0 < np.sum(off_diagonal == 0.0) < off_diagonal.size


def test_relabelled_columns_give_the_relabelled_graph() -> None:
    data = problem(3)
    shuffle = np.random.default_rng(0).permutation(8)
    short = ConcomitantPath(variance="equal", acyclicity_scales=(1.0, 0.9), warm_steps=500, last_steps=500)
    straight = solve(data, short, certify=False).answer.adjacency
    assert data.values is not None
    turned = solve(table(data.values[:, shuffle]), short, certify=False).answer.adjacency
    np.testing.assert_allclose(turned, straight[np.ix_(shuffle, shuffle)], atol=1e-8)


def test_global_scaling_makes_units_irrelevant() -> None:
    values = equal_variance_model(4, 6, 2, rows=200).values
    short = ConcomitantPath(acyclicity_scales=(1.0,), last_steps=400)
    one, thousand = (solve(table(values * unit, scale="global"), short, certify=False).answer for unit in (1.0, 1000.0))
    np.testing.assert_allclose(one.adjacency, thousand.adjacency, atol=1e-9)
    np.testing.assert_allclose(one.noise_std, thousand.noise_std, rtol=1e-9)


def test_a_wild_rate_ends_with_a_reason_and_not_with_nan() -> None:
    method = ConcomitantPath(acyclicity_scales=(0.9,), last_steps=50, learning_rate=1e6)
    found = solve(problem(5), method, certify=False)
    assert found.status in (Status.CONVERGED, Status.SEARCH_FAILED)
    assert np.isfinite(found.answer.adjacency).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"acyclicity_scales": (1.0, 0.0)}, "acyclicity_scales"),
        ({"acyclicity_scales": ()}, "acyclicity_scales"),
        ({"variance": "ev"}, "expected one of equal, unequal"),
        ({"refine": "order"}, "rests on equal noise variances"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"warm_steps": 0}, "warm_steps"),
    ],
)
def test_bad_options_are_refused(options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConcomitantPath(**options)
