"""Norms beyond the small-gain one: zero-sum coupling, block matrices, and Runge-Kutta steps one by one."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.games.expressions import sin
from surefoot.games.field import Field
from surefoot.games.metrics import block_metric, proved_paired_margin, proved_rate
from surefoot.games.models import cournot_game, toy_game
from surefoot.games.play import ProjectedPlay
from surefoot.games.problem import game_from_costs, quadratic_game
from surefoot.games.region import bound_region
from surefoot.games.small_gain import best_weights, classical_steps, lipschitz, margin, published_weights
from surefoot.games.stages import enlarged, reach_of_stages, step_factor
from surefoot.games.verify import CHECKS
from surefoot.testing import SPOILS, spoil_tree

ZERO_SUM = np.array([[1.0, 9.0], [-9.0, 1.0]])
EXPANDING = np.array([[0.0001, -0.337, 0.249], [0.345, 0.6931, 0.627], [-0.248, -0.495, 0.7381]])
"""Its symmetric part is positive (least eigenvalue 7.7e-5), yet one RK4 step at 2.5 / beta expands."""


def rk4_matrix(J: np.ndarray, h: float) -> np.ndarray:
    z = -h * J
    return np.eye(len(J)) + z + z @ z / 2 + z @ z @ z / 6 + z @ z @ z @ z / 24


def slices(*blocks: int) -> list[slice]:
    ends = np.cumsum([0, *blocks])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]


@pytest.mark.parametrize("lower", [-np.inf, 0.5])
def test_zero_sum_games_are_played_with_a_certificate(lower: float) -> None:
    game = quadratic_game(ZERO_SUM, np.array([1.0, -2.0]), (1, 1), lower=lower, upper=np.inf if lower < 0 else 3.0)
    result = solve(game, ProjectedPlay(tolerance=1e-10))
    # on [0.5, 3]^2: F_2 < 0 wherever x_1 >= 0.5 and x_2 <= 3, so x_2 = 3; then F_1 > 0, so x_1 = 0.5
    truth = np.linalg.solve(ZERO_SUM, [-1.0, 2.0]) if lower < 0 else np.array([0.5, 3.0])
    certificate: Any = result.certificate
    assert (np.abs(result.answer - truth) <= certificate.evidence["paired.npz"]["error"]).all()
    assert certificate.claim("small-gain").outcome == "fails"
    assert certificate.claim("paired-step").outcome == "holds"
    assert certificate.claim("error").value < 1e-9
    assert {v.verdict for v in verify(certificate, CHECKS, game, result.answer)} == {"confirmed"}
    for name in ("paired.npz", "block.npz"):
        for part, array in certificate.evidence[name].items():
            for how in SPOILS:
                if (spoiled := spoil_tree(array, how)) is not None:
                    bad = dataclasses.replace(
                        certificate,
                        evidence={**certificate.evidence, name: {**certificate.evidence[name], part: spoiled}},
                    )
                    assert "refuted" in {v.verdict for v in verify(bad, CHECKS, game, result.answer)}, (name, part, how)


def test_paired_rate_is_a_lower_bound_of_the_true_one() -> None:
    generator = np.random.default_rng(4)
    for _ in range(20):
        J = generator.normal(size=(4, 4)) + 4 * np.eye(4)
        J[:2, :2], J[2:, 2:] = J[:2, :2] + J[:2, :2].T, J[2:, 2:] + J[2:, 2:].T
        w = np.exp(generator.normal(size=2))
        root = np.sqrt(np.repeat(w, 2))
        true = np.linalg.eigvalsh(0.5 * (J * (root[:, None] / root) + (J * (root[:, None] / root)).T))[0]
        assert proved_paired_margin(J, slices(2, 2), w) <= true + 1e-12


def test_block_matrices_reach_the_spectrum_where_two_players_can_be_balanced() -> None:
    for J in (ZERO_SUM, np.asarray(toy_game().jacobian)):
        found = block_metric([J], slices(1, 1))
        assert found is not None
        assert found[1] == pytest.approx(np.linalg.eigvals(J).real.min(), rel=1e-7)
    # for the hull of two vertices the rate is proved for every matrix between them
    pair = [np.array([[1.0, 3.0], [-1.0, 1.0]]), np.array([[1.0, 1.0], [-2.0, 1.0]])]
    found = block_metric(pair, slices(1, 1))
    assert found is not None
    P, rate = found
    for share in np.linspace(0, 1, 11):
        J = share * pair[0] + (1 - share) * pair[1]
        assert np.linalg.eigvalsh(P @ J + J.T @ P - 2 * rate * P)[0] >= -1e-12
    assert block_metric([np.array([[1.0, 3.0], [3.0, 1.0]])], slices(1, 1)) is None
    assert proved_rate(-np.eye(2), [np.eye(2)]) == -np.inf


# ---- Runge-Kutta ----------------------------------------------------------------------------------------------------


def test_the_published_guideline_is_no_contraction_of_single_steps() -> None:
    beta = np.linalg.norm(EXPANDING, 2)
    assert np.linalg.eigvalsh(0.5 * (EXPANDING + EXPANDING.T))[0] > 0
    P = rk4_matrix(EXPANDING, 2.5 / beta)
    assert np.linalg.norm(P, 2) > 1.15
    assert np.abs(np.linalg.eigvals(P)).max() < 1  # asymptotically stable all the same
    alpha = float(np.linalg.eigvalsh(0.5 * (EXPANDING + EXPANDING.T))[0])
    steps = classical_steps(alpha, float(beta))
    assert np.linalg.norm(rk4_matrix(EXPANDING, 0.999 * steps.rk4_linear), 2) < 1
    assert (
        np.linalg.norm(rk4_matrix(EXPANDING, 0.5 * steps.rk4), 2)
        <= step_factor(alpha, float(beta), 0.5 * steps.rk4) + 1e-15
    )


def test_the_tableau_of_classical_runge_kutta_is_contractive_in_the_unit_circle() -> None:
    """M + diag(b) >= 0 in rationals (so the factor is proved), and no smaller multiple of diag(b) will do."""
    half, third, sixth = Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)
    a = [[0, 0, 0, 0], [half, 0, 0, 0], [0, half, 0, 0], [0, 0, 1, 0]]
    b = [sixth, third, third, sixth]
    M = [[b[i] * a[i][j] + b[j] * a[j][i] - b[i] * b[j] for j in range(4)] for i in range(4)]

    def least_pivot(scale: Fraction) -> Fraction:
        rows = [[M[i][j] + (scale * b[i] if i == j else 0) for j in range(4)] for i in range(4)]
        pivots = []
        for k in range(4):
            pivots.append(rows[k][k])
            for i in range(k + 1, 4):
                if rows[k][k] == 0:
                    assert rows[i][k] == 0  # a zero pivot of a semidefinite matrix has a zero column
                    continue
                ratio = rows[i][k] / rows[k][k]
                rows[i] = [x - ratio * y for x, y in zip(rows[i], rows[k], strict=True)]
        return min(pivots)

    assert least_pivot(Fraction(1)) >= 0
    assert least_pivot(Fraction(99, 100)) < 0


def test_single_step_bounds_hold_on_random_linear_games() -> None:
    generator = np.random.default_rng(5)
    for _ in range(50):
        A = generator.normal(size=(4, 4))
        J = A - A.T + 0.3 * np.diag(generator.random(4) + 0.1)
        alpha, beta = float(np.linalg.eigvalsh(0.5 * (J + J.T))[0]), float(np.linalg.norm(J, 2))
        steps = classical_steps(alpha, beta)
        for h in (0.3 * steps.rk4, 0.9 * steps.rk4):
            assert np.linalg.norm(rk4_matrix(J, h), 2) <= step_factor(alpha, beta, h) + 1e-14
        assert np.linalg.norm(rk4_matrix(J, steps.rk4_linear * 0.999), 2) < 1
        assert step_factor(alpha, beta, 1.01 * steps.rk4) == 1.0


def test_stages_stay_in_the_enlarged_region() -> None:
    """The equilibrium (2, 1.9) is outside the region, so that stages leave it."""
    game = game_from_costs(
        (1, 1), [lambda x: (x[0] - 2) ** 2 / 2 + 0.1 * sin(x[0] * x[1]), lambda x: (x[1] - 1.9) ** 2 / 2 + 0.2 * x[0] * x[1]], region=(0, 1)
    )  # fmt: skip
    field, h = Field(game), 0.4
    reach = reach_of_stages(game, field, h)
    assert reach is not None
    wide = enlarged(game, reach)
    assert wide.region is not None
    points = np.random.default_rng(0).random((500, 2))
    k1 = -field.gradient(points)
    k2 = -field.gradient(points + 0.5 * h * k1)
    k3 = -field.gradient(points + 0.5 * h * k2)
    outside = 0
    for stage in (points + 0.5 * h * k1, points + 0.5 * h * k2, points + h * k3):
        assert ((stage >= wide.region[0]) & (stage <= wide.region[1])).all()
        outside += int(((stage < 0) | (stage > 1)).any(axis=1).sum())
    assert outside > 50  # the region itself would not do


def test_runge_kutta_play_says_what_is_certified_of_single_steps() -> None:
    game = cournot_game(1)
    result = solve(game, ProjectedPlay(integrator="rk4"))
    certificate: Any = result.certificate
    claim = certificate.claim("runge-kutta-contraction")
    assert claim.outcome == "holds"
    assert claim.kind == "proved"
    assert claim.value < 1
    assert {v.verdict for v in verify(certificate, CHECKS, game, result.answer)} == {"confirmed"}
    for part, array in certificate.evidence["enlarged.npz"].items():
        for how in ("double", "nan"):
            bad = {**certificate.evidence["enlarged.npz"], part: spoil_tree(array, how)}
            spoiled = dataclasses.replace(certificate, evidence={**certificate.evidence, "enlarged.npz": bad})
            assert "refuted" in {v.verdict for v in verify(spoiled, CHECKS, game, result.answer, full=True)}, (
                part,
                how,
            )


def test_where_stages_leave_the_domain_single_steps_stay_undecided() -> None:
    game = game_from_costs((1,), [lambda x: x[0] - 3 * x[0] ** 0.5], region=(0.5, 4.0), lower=0.0)
    result = solve(game, ProjectedPlay(integrator="rk4", step_length=2.0))
    certificate: Any = result.certificate
    claim = certificate.claim("runge-kutta-contraction")
    assert claim.outcome == "undecided"
    assert "stages" in claim.reason


# ---- the published behaviour ------------------------------------------------------------------------------------------


def test_compat_takes_the_published_weights_and_steps() -> None:
    game = toy_game()
    bounds = bound_region(game).bounds
    w = published_weights(bounds)
    assert w[1] / w[0] in np.logspace(-1, 4, 161)
    assert margin(bounds.comparison, best_weights(bounds.comparison)) >= margin(bounds.comparison, w)
    start = np.array([0.15, -0.15])
    paper = solve(game, ProjectedPlay(compat="paper"), start=start)
    ours = solve(game, ProjectedPlay(), start=start)
    rate, beta = margin(bounds.comparison, w), lipschitz(bounds, w)
    assert paper.answer == pytest.approx([0, 0], abs=1e-8)
    assert paper.steps > 5 * ours.steps
    certificate: Any = paper.certificate
    assert certificate.evidence["witness.npz"]["step"][0] == pytest.approx(rate / beta**2, rel=1e-12)
    runge: Any = solve(game, ProjectedPlay(compat="paper", integrator="rk4"), start=start).certificate
    assert runge.claim("runge-kutta-contraction").outcome == "undecided"
    market: Any = solve(cournot_game(1), ProjectedPlay(compat="paper", tolerance=1e-3)).certificate
    assert market.evidence["witness.npz"]["step"][0] == pytest.approx(
        market.claim("classical-step").value / 2, rel=1e-9
    )
    with pytest.raises(ValueError, match="two players"):
        published_weights(bound_region(cournot_game(1)).bounds)
