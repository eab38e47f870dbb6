"""The paper's Markov game: its published constants, and the corrections."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.games.markov import (
    NaturalPolicyGradient,
    coordination_game,
    field,
    field_jacobian,
    local_bounds,
    published_bounds,
)
from surefoot.games.problem import MarkovGame
from surefoot.games.small_gain import perron_margin, timescale_band
from surefoot.games.verify import CHECKS


def test_published_constants() -> None:
    bounds, beta = published_bounds(coordination_game(), np.zeros(8))
    assert beta == pytest.approx(1.5718, abs=5e-5)
    assert bounds.mu[0] == pytest.approx([0.9344, 0.9344], abs=5e-5)
    assert bounds.coupling[0, 0, 1] == pytest.approx(0.6009, abs=5e-5)
    assert perron_margin(bounds.comparison)[0] == pytest.approx(0.3334, abs=1e-4)
    band = timescale_band((bounds.mu[0, 0], bounds.mu[0, 1]), (bounds.coupling[0, 0, 1], bounds.coupling[0, 1, 0]))
    assert band == pytest.approx((0.133, 7.54), rel=5e-3)
    assert bounds.known == "sampled"


def test_derivatives_by_differences() -> None:
    game, theta = coordination_game(), np.random.default_rng(0).normal(size=8)
    J = field_jacobian(game, theta)
    step = 1e-6
    columns = [(field(game, theta + step * e) - field(game, theta - step * e)) / (2 * step) for e in np.eye(8)]
    assert pytest.approx(np.array(columns).T, abs=1e-8) == J


def test_small_curvature_is_kept() -> None:
    """The paper's code drops |eigenvalues| <= 1e-5; without the entropy the coordination game has none of its own at 0."""
    weak = local_bounds(coordination_game(entropy_weight=1e-7), np.zeros(8))
    assert weak.bounds.mu.shape == (1, 2)
    assert weak.bounds.mu.max() < 1e-5


def test_natural_gradient_finds_the_uniform_policies() -> None:
    game = coordination_game()
    result = solve(game, NaturalPolicyGradient())
    assert result.answer == pytest.approx(np.full(8, 0.5), abs=1e-9)
    assert result.certificate is not None
    assert {v.verdict for v in verify(result.certificate, CHECKS, game, result.answer)} == {"confirmed"}


def three_players() -> MarkovGame:
    """Three players, two states, 2, 3 and 2 actions."""
    generator = np.random.default_rng(3)
    transitions = generator.random((2, 2, 3, 2, 2)) + 0.3
    transitions /= transitions.sum(axis=-1, keepdims=True)
    return MarkovGame(transitions, 0.5 * generator.standard_normal((3, 2, 2, 3, 2)), np.array([0.7, 0.3]), 0.8)


def test_a_third_player_who_changes_nothing_changes_nothing() -> None:
    two = coordination_game()
    with_third = MarkovGame(
        np.repeat(two.transitions[:, :, :, None], 3, axis=3),
        np.concatenate([np.repeat(two.rewards[..., None], 3, axis=-1), np.zeros((1, 2, 2, 2, 3))]),
        two.start,
    )
    generator = np.random.default_rng(1)
    theta, extra = generator.normal(size=8), generator.normal(size=6)
    found = field(with_third, np.concatenate([theta, extra]))
    np.testing.assert_allclose(found[:8], field(two, theta), atol=1e-13)
    local, alone = local_bounds(with_third, np.zeros(14)).bounds, local_bounds(two, np.zeros(8)).bounds
    np.testing.assert_allclose(local.coupling[0, :2, :2], alone.coupling[0], atol=1e-12)
    assert np.abs(local.coupling[0, 2]).max() < 1e-12


def test_three_players_find_an_equilibrium_that_is_checked() -> None:
    game = three_players()
    theta = np.random.default_rng(0).normal(size=14)
    step = 1e-6
    columns = [(field(game, theta + step * e) - field(game, theta - step * e)) / (2 * step) for e in np.eye(14)]
    assert field_jacobian(game, theta) == pytest.approx(np.array(columns).T, abs=1e-8)
    result = solve(game, NaturalPolicyGradient())
    assert result.certificate is not None
    assert {c.name: c.outcome for c in result.certificate.claims}["regret"] == "holds"
    assert {v.verdict for v in verify(result.certificate, CHECKS, game, result.answer)} == {"confirmed"}
    with pytest.raises(ValueError, match="two players"):
        published_bounds(game, np.zeros(14))


def test_bad_markov_games_are_refused() -> None:
    good = coordination_game()
    with pytest.raises(ValueError, match="sum to 1"):
        MarkovGame(2 * good.transitions, good.rewards, good.start)
    with pytest.raises(ValueError, match="NaN"):
        MarkovGame(good.transitions, good.rewards * np.nan, good.start)
    with pytest.raises(ValueError, match="discount"):
        MarkovGame(good.transitions, good.rewards, good.start, discount=1.0)
    with pytest.raises(ValueError, match="at least two each"):
        MarkovGame(np.ones((1, 2, 1, 1)), np.zeros((2, 1, 2, 1)), np.ones(1))
