"""What must be true of margins, norms, bounds and flows, whatever the code: closed forms, invariances, an ODE solver."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from surefoot.games.expressions import exp, sin
from surefoot.games.field import Field
from surefoot.games.models import cournot_game, toy_game
from surefoot.games.problem import SmoothGame, game_from_costs, quadratic_game
from surefoot.games.region import block_bounds, bound_region
from surefoot.games.small_gain import Bounds, best_weights, euler_steps, margin, perron_margin
from surefoot.numerics.intervals import Interval


def random_game(generator: np.random.Generator, blocks: tuple[int, ...], coupling: float) -> SmoothGame:
    d = sum(blocks)
    J = coupling * generator.normal(size=(d, d))
    ends = np.cumsum((0, *blocks))
    for a, b in itertools.pairwise(ends):
        R = generator.normal(size=(b - a, b - a))
        J[a:b, a:b] = R @ R.T + np.eye(b - a)
    return quadratic_game(J, generator.normal(size=d), blocks)


def test_margins_are_lower_bounds_of_the_truth() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        game = random_game(generator, (2, 1, 3), 0.15)
        J, K = np.asarray(game.jacobian), bound_region(game).bounds.comparison
        assert perron_margin(K)[0] <= np.linalg.eigvals(J).real.min() + 1e-10
        for w in (best_weights(K), np.exp(generator.normal(size=3))):
            root = np.sqrt(np.repeat(w, game.blocks))
            scaled = J * (root[:, None] / root)
            assert margin(K, w) <= np.linalg.eigvalsh(0.5 * (scaled + scaled.T))[0] + 1e-10


def test_the_toy_leaves_the_euclidean_ball_and_not_the_certified_one() -> None:
    J, x = np.asarray(toy_game().jacobian), np.array([0.15, -0.15])
    flow = solve_ivp(lambda _, y: -J @ y, (0, 12), x, rtol=1e-10, atol=1e-13, dense_output=True)
    path = flow.sol(np.linspace(0, 12, 2000))
    assert np.linalg.norm(path, axis=0).max() > 1.5 * np.linalg.norm(x)
    size = path[0] ** 2 + 200 * path[1] ** 2
    assert size.max() <= 4.5225 + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_weighted_distances_shrink_at_the_rate_along_the_flow(seed: int) -> None:
    """|x(t) - x*|_w e^(a t) does not increase, for a nonlinear game whose equilibrium is 0."""
    generator = np.random.default_rng(seed)
    L = 0.4 * generator.random((3, 3)) * (1 - np.eye(3))
    game = game_from_costs(
        (1, 1, 1),
        [
            lambda x, i=i: x[i] ** 2 * (1 + 0.2 * exp(-(x[i] ** 2))) / 2 + sum((float(L[i, j]) * x[i] * sin(x[j]) for j in range(3) if j != i), 0.0 * x[i])
            for i in range(3)
        ],
        region=(-0.8, 0.8),
    )  # fmt: skip
    region = bound_region(game, cells=64)
    w = best_weights(region.bounds.comparison)
    rate = margin(region.bounds.comparison, w)
    assert rate > 0
    field = Field(game)
    start = 0.3 * generator.uniform(-1, 1, 3) / np.sqrt(w)
    flow = solve_ivp(lambda _, y: -field.gradient(y), (0, 4), start, rtol=1e-10, atol=1e-14, dense_output=True)
    times = np.linspace(0, 4, 200)
    sizes = np.sqrt((w[:, None] * flow.sol(times) ** 2).sum(axis=0)) * np.exp(rate * times)
    assert (np.diff(sizes) <= 1e-7 * sizes[0]).all()


def test_inverse_of_the_comparison_matrix_bounds_distances_player_by_player() -> None:
    generator = np.random.default_rng(1)
    for _ in range(30):
        game = random_game(generator, (2, 1, 3), 0.1)
        K = bound_region(game).bounds.comparison[0]
        if perron_margin(K[None])[0] <= 0:
            continue
        J, g = np.asarray(game.jacobian), np.asarray(game.offset)
        x = generator.normal(size=6)
        away = x - np.linalg.solve(J, -g)
        residual = np.array([np.linalg.norm((J @ x + g)[s]) for s in game.slices])
        assert (
            np.array([np.linalg.norm(away[s]) for s in game.slices]) <= np.linalg.solve(K, residual) * (1 + 1e-9)
        ).all()


def test_scaling_one_cost_keeps_certifiability_and_turns_K_into_its_rows() -> None:
    game = cournot_game(1)
    scales = np.array([1.0, 3.0, 0.2, 10.0, 1.0])
    scaled = SmoothGame(
        game.blocks,
        game.lower,
        game.upper,
        game.region,
        tuple(float(c) * f for c, f in zip(scales, game.costs, strict=True)),
    )
    one, other = (bound_region(g, cells=1) for g in (game, scaled))
    assert other.bounds.comparison[0] == pytest.approx(scales[:, None] * one.bounds.comparison[0], rel=1e-10)
    assert one.certified
    assert other.certified
    assert not bound_region(cournot_game(4), cells=1).certified


def test_turning_a_block_and_permuting_players_change_nothing() -> None:
    generator = np.random.default_rng(2)
    game = random_game(generator, (3, 2), 0.2)
    J = np.asarray(game.jacobian)
    Q = np.zeros((5, 5))
    Q[:3, :3], Q[3:, 3:] = (np.linalg.qr(generator.normal(size=(k, k)))[0] for k in (3, 2))
    turned = Q.T @ J @ Q
    for own in game.slices:  # rounding must not spoil the symmetry
        turned[own, own] = 0.5 * (turned[own, own] + turned[own, own].T)
    one, other = bound_region(game), bound_region(quadratic_game(turned, None, (3, 2)))
    assert other.alpha == pytest.approx(one.alpha, rel=1e-10)
    order = [3, 4, 0, 1, 2]
    swapped = bound_region(quadratic_game(J[np.ix_(order, order)], None, (2, 3)))
    assert swapped.bounds.mu[0] == pytest.approx(one.bounds.mu[0, ::-1], rel=1e-12)
    assert euler_steps(swapped.bounds).limit == pytest.approx(euler_steps(one.bounds).limit, rel=1e-9)


def test_halving_cells_narrows_bounds_and_points_are_exact() -> None:
    game, generator = cournot_game(3), np.random.default_rng(3)
    field, (low, high) = Field(game), np.asarray(game.region)

    def widths(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found = field.jacobian_interval(Interval(a[None], b[None]))
        return found.high - found.low

    whole = widths(low, high)
    middle = 0.5 * (low + high)
    for part in (widths(low, middle), widths(middle, high)):
        assert (part <= whole * (1 + 1e-12)).all()
    enclosed = field.jacobian_interval(Interval(low[None], high[None]))
    points = low + generator.random((10_000, 5)) * (high - low)
    J = field.jacobian(points)
    assert (enclosed.low - 1e-13 <= J).all()
    assert (enclosed.high + 1e-13 >= J).all()
    point = points[0]
    at_point: Bounds = block_bounds(field.jacobian_interval(Interval.point(point[None])), game.slices)
    exact = field.jacobian(point)
    assert at_point.mu[0] == pytest.approx(np.diag(exact), rel=1e-12)
    assert at_point.coupling[0] == pytest.approx(np.abs(exact - np.diag(np.diag(exact))), rel=1e-11)
