"""Strategy sets other than boxes: against a convex solver, and refused where they do not fit."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.games.play import ProjectedPlay
from surefoot.games.problem import SmoothGame, game_from_costs, quadratic_game
from surefoot.games.proofs import enclosed_projection
from surefoot.games.verify import CHECKS
from surefoot.games.verify_sets import exact, nearest
from surefoot.numerics.intervals import Interval
from surefoot.numerics.sets import Ball, Box, FreeSpace, L1Ball, Product, Simplex

J = np.array([
    [2, 0.3, 0, 0.2, 0.1], [0.3, 2, 0, 0.1, -0.3], [0, 0, 2, 0.3, 0.2], [0.2, 0.1, 0.3, 1.5, 0.2], [0.1, -0.3, 0.2, 0.2, 1.5]
])  # fmt: skip
OFFSET = np.array([-1.0, 0.4, 0.5, -4.0, 2.0])
CENTRE = torch.tensor([0.2, 0.1], dtype=torch.float64)


def potential_game() -> SmoothGame:
    """A symmetric Jacobian makes it one convex problem, so that its equilibrium is that problem's minimiser."""
    return quadratic_game(J, OFFSET, (3, 2), sets=[Simplex(), Ball(1.0, CENTRE)])


def test_equilibrium_of_a_potential_game_is_the_convex_minimiser() -> None:
    game = potential_game()
    result = solve(game, ProjectedPlay(tolerance=1e-12))
    truth: Any = minimize(
        lambda x: 0.5 * x @ J @ x + OFFSET @ x, result.answer + 0.01, jac=lambda x: J @ x + OFFSET, method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda x: x[:3].sum() - 1}, {"type": "ineq", "fun": lambda x: x[:3]},
            {"type": "ineq", "fun": lambda x: 1 - ((x[3:] - CENTRE.numpy()) ** 2).sum()},
        ], options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert result.answer == pytest.approx(truth.x, abs=1e-6)
    certificate: Any = result.certificate
    assert certificate.claim("error").value < 1e-11
    assert certificate.claim("regret").value < 1e-12
    assert {v.verdict for v in verify(certificate, CHECKS, game, result.answer)} == {"confirmed"}
    moved = result.answer + np.array([1e-6, -1e-6, 0, 0, 0])
    assert "refuted" in {v.verdict for v in verify(certificate, CHECKS, game, moved)}
    bad = dataclasses.replace(certificate, evidence={**certificate.evidence})
    bad.evidence["witness.npz"] = {**bad.evidence["witness.npz"], "regret": bad.evidence["witness.npz"]["regret"] / 1e9}
    assert "refuted" in {v.verdict for v in verify(bad, CHECKS, game, result.answer)}


def test_two_ways_to_project_enclose_each_other() -> None:
    game = potential_game()
    generator = np.random.default_rng(0)
    for _ in range(100):
        point = generator.normal(size=5) * generator.choice([0.3, 1.0, 5.0])
        found = enclosed_projection(game, Interval(point - 1e-9, point + 1e-9))
        truth = [p for i, own in enumerate(game.slices) for p in nearest(game, i, exact(point)[own])]
        for low, high, p in zip(found.low, found.high, truth, strict=True):
            assert Fraction(float(low)) - Fraction(1, 2**70) <= p <= Fraction(float(high)) + Fraction(1, 2**70)
        assert (found.high - found.low).max() < 1e-7
        assert found.mid == pytest.approx(game.project(point), abs=1e-8)


def test_boxes_given_as_sets_are_boxes() -> None:
    both = [
        quadratic_game(J[:2, :2], OFFSET[:2], (1, 1), sets=[Box(torch.tensor([-0.1]), 0.2), FreeSpace()]),
        quadratic_game(J[:2, :2], OFFSET[:2], (1, 1), lower=[-0.1, -np.inf], upper=[0.2, np.inf]),
    ]
    answers = [solve(game, ProjectedPlay()).answer for game in both]
    assert answers[0] == pytest.approx(answers[1], abs=1e-12)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (Ball(1.0), "no product of one set a player"),
        (Product([Ball(1.0)], [5]), "no product of one set a player"),
        ([Simplex()], "one set a player"),
        ([Simplex(), L1Ball(1.0)], "player 2's strategy set is a L1Ball"),
    ],
)
def test_sets_that_do_not_fit_are_refused(sets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quadratic_game(J, OFFSET, (3, 2), sets=sets)


def test_sets_and_ends_together_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        quadratic_game(J, OFFSET, (3, 2), lower=0.0, sets=[Simplex(), Ball(1.0)])


def test_region_defaults_to_the_sets() -> None:
    game = game_from_costs((2, 1), [lambda x: x[0] ** 2 + x[1] ** 2 + 0.1 * x[0] * x[2], lambda x: x[2] ** 2 - x[2] * x[0]], sets=[Simplex(), Ball(2.0)])  # fmt: skip
    result = solve(game, ProjectedPlay())
    # by symmetry of player 1 up to the small coupling: 2 a + 0.1 c = 2 b, a + b = 1, 2 c = a
    a = 1 / (2 + 0.05 / 2)
    assert result.answer == pytest.approx([a, 1 - a, a / 2], abs=1e-8)
    certificate: Any = result.certificate
    assert certificate.claim("existence").outcome == "holds"
    assert {v.verdict for v in verify(certificate, CHECKS, game, result.answer)} == {"confirmed"}
