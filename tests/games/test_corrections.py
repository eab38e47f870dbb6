"""Faults of the published code and traps of the method, each with what is done instead."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from surefoot.core.problem import Game
from surefoot.core.solve import Budget, solve
from surefoot.games.expressions import cos
from surefoot.games.markov import (
    NaturalPolicyGradient,
    coordination_game,
    field_jacobian,
    fisher,
    natural_field,
    policies,
)
from surefoot.games.models import toy_game
from surefoot.games.play import ProjectedPlay
from surefoot.games.problem import game_from_costs, quadratic_game
from surefoot.games.proofs import proved_margin
from surefoot.games.region import bound_region, sample_bounds
from surefoot.games.small_gain import Bounds, lipschitz, margin, perron_margin


def test_samples_at_corners_miss_what_intervals_hold() -> None:
    """f = x^2/2 + cos(3 x)/10 on [-1, 1]: the least curvature 1 - 0.9 is in the middle, not at the corners."""
    game = game_from_costs((1,), [lambda x: x[0] ** 2 / 2 + 0.1 * cos(3 * x[0])], region=(-1, 1))
    proved = bound_region(game, cells=64, share=0.9).bounds.mu.min()
    black_box = Game(blocks=(1,), pseudo_gradient=lambda x: x - 0.3 * torch.sin(3 * x))
    sampled = sample_bounds(black_box, np.array([[-1.0], [1.0]]))
    assert proved <= 0.1 + 1e-12
    assert sampled.mu[0, 0] > 1.5
    assert sampled.known == "sampled"  # an estimate; certificates are made of proved bounds only


def test_weights_have_no_part_in_policy_gradients() -> None:
    """So a sweep over them would validate nothing, and no band is claimed from play."""
    assert "weights" not in {f.name for f in dataclasses.fields(NaturalPolicyGradient)}
    certificate: Any = solve(coordination_game(), NaturalPolicyGradient()).certificate
    assert not [c.name for c in certificate.claims if "band" in c.name]
    assert {c.kind for c in certificate.claims} == {"measured"}


def test_a_zero_of_the_field_may_be_no_equilibrium() -> None:
    """Player 1 is at a maximum of its cost at 0, where the field vanishes."""
    game = quadratic_game(np.array([[-1.0, 0.2], [0.1, 2.0]]), None, (1, 1), lower=-1, upper=1)
    result = solve(game, ProjectedPlay(), start=np.zeros(2), budget=Budget(steps=50))
    certificate: Any = result.certificate
    claim = certificate.claim("small-gain")
    assert claim.outcome == "fails"
    assert "player 1's own curvature is not positive" in claim.reason
    assert certificate.claim("error").outcome == "undecided"


def test_the_natural_field_bends_away_from_equilibria() -> None:
    """Its Jacobian is G^+ DF at the equilibrium only; elsewhere the derivative of G^+ counts, so claims are local."""
    game = coordination_game()

    def apart(theta: np.ndarray) -> float:
        step = 1e-6
        true = np.array([(natural_field(game, theta + step * e) - natural_field(game, theta - step * e)) / (2 * step) for e in np.eye(8)]).T  # fmt: skip
        G = np.zeros((8, 8))
        G[:4, :4], G[4:, 4:] = (np.linalg.pinv(fisher(p)) for p in policies(game, theta))
        return float(np.abs(true - G @ field_jacobian(game, theta)).max())

    assert apart(np.zeros(8)) < 1e-8
    assert apart(np.array([0.8, 0, 0, 0.3, 0, 0.5, 0.2, 0])) > 1e-2
    certificate: Any = solve(game, NaturalPolicyGradient()).certificate
    assert "at the policies found" in certificate.claim("local-margin").statement


def test_rate_and_lipschitz_constant_are_of_one_norm() -> None:
    game = toy_game()
    certificate: Any = solve(game, ProjectedPlay(), start=np.array([0.15, -0.15])).certificate
    bounds = bound_region(game).bounds
    w = certificate.evidence["witness.npz"]["weights"]
    one_norm = 2 * margin(bounds.comparison, w) / lipschitz(bounds, w) ** 2
    assert certificate.claim("classical-step").value == pytest.approx(one_norm, rel=1e-12)
    mixed = 2 * margin(bounds.comparison, w) / lipschitz(bounds, np.ones(2)) ** 2
    assert abs(mixed - one_norm) > 0.1 * one_norm


def test_existence_needs_the_ball_inside_the_region() -> None:
    """The equilibrium x = 2 lies outside the region [0, 1], whose end is no end of the strategy set."""
    game = game_from_costs((1,), [lambda x: (x[0] - 2) ** 2 + 0.1 * cos(x[0])], region=(0, 1))
    certificate: Any = solve(game, ProjectedPlay(), start=np.array([0.5])).certificate
    assert certificate.claim("existence").outcome == "undecided"
    assert certificate.claim("error").outcome == "undecided"
    assert certificate.claim("contraction").outcome == "undecided"
    assert "left the certified region" in certificate.claim("contraction").reason


def test_weights_and_witnesses_are_scaled_and_survive_nearly_reducible_couplings() -> None:
    J = np.array([[1.0, 1e-9, 0.0], [0.3, 1.0, 1e-12], [0.2, 0.4, 1.0]])
    game = quadratic_game(J, np.array([1.0, 0.0, -1.0]), (1, 1, 1))
    certificate: Any = solve(game, ProjectedPlay()).certificate
    witness = certificate.evidence["witness.npz"]
    assert witness["weights"].min() == 1
    assert witness["vector"].max() == 1
    assert (witness["vector"] > 0).all()
    assert 0 < certificate.claim("small-gain").value <= np.linalg.eigvals(J).real.min() + 1e-12


def test_the_proved_rate_never_exceeds_the_exact_one() -> None:
    generator = np.random.default_rng(3)
    for _ in range(30):
        L = generator.random((3, 3)) * (1 - np.eye(3))
        bounds = Bounds(generator.random((1, 3)) + 2, np.full((1, 3), 5.0), L[None])
        _, v = perron_margin(bounds.comparison)
        exact = min(
            (Fraction(float(bounds.mu[0, i])) * Fraction(float(v[i])) - sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(L[i], v, strict=True)))
            / Fraction(float(v[i]))
            for i in range(3)
        )  # fmt: skip
        assert Fraction(proved_margin(bounds, v)) <= exact


def test_claims_about_equilibria_are_about_the_region() -> None:
    certificate: Any = solve(toy_game(), ProjectedPlay(), start=np.array([0.1, 0.1])).certificate
    assert "region" in certificate.claim("existence").statement
    assert "within the region" in certificate.claim("regret").statement
