"""Small-gain certificates against closed forms, published numbers and random checks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.games.certify import certify_region
from surefoot.games.expressions import exp, log, log_sum_exp, sin, softmax, tanh, variables
from surefoot.games.field import Field
from surefoot.games.metrics import paired_margin
from surefoot.games.models import COURNOT_EQUILIBRIUM, cournot_game, orthogonal_game, price_game, toy_game
from surefoot.games.play import ProjectedPlay
from surefoot.games.problem import game_from_costs, game_from_pseudo_gradient, quadratic_game
from surefoot.games.region import bound_region
from surefoot.games.small_gain import (
    Bounds,
    best_weights,
    classical_steps,
    euler_steps,
    lipschitz,
    margin,
    per_player_steps,
    perron_margin,
    timescale_band,
    weight_bands,
)
from surefoot.games.verify import CHECKS
from surefoot.games.verify_jets import evaluate
from surefoot.numerics.intervals import Interval
from surefoot.testing import SPOILS, spoil_tree


def test_toy_closed_forms() -> None:
    bounds = bound_region(toy_game()).bounds
    alpha, _ = perron_margin(bounds.comparison)
    weights = best_weights(bounds.comparison)
    assert alpha == pytest.approx(1 - 0.5**0.5, abs=1e-12)
    assert weights == pytest.approx([1, 200], rel=1e-9)
    assert lipschitz(bounds, weights) == pytest.approx(1 + 0.5**0.5, rel=1e-12)
    assert margin(bounds.comparison, np.ones(2)) == pytest.approx(-4.025, rel=1e-12)
    assert timescale_band((1, 1), (10, 0.05)) == pytest.approx((34.31457505, 1165.685425), rel=1e-9)
    assert weight_bands(bounds.comparison, weights)[1] == pytest.approx([34.31457505, 1165.685425], rel=1e-9)


@pytest.mark.parametrize(
    ("lam", "paper", "sharp"), [(0.25, 1.188939, 1.699558), (0.5, 0.705687, 1.477592), (1.0, 0.201010, 1.171573)]
)
def test_orthogonal_game_steps_are_the_true_threshold(lam: float, paper: float, sharp: float) -> None:
    bounds = bound_region(orthogonal_game(lam)).bounds
    weights = best_weights(bounds.comparison)
    rate, beta = margin(bounds.comparison, weights), lipschitz(bounds, weights)
    steps = euler_steps(bounds)
    J = orthogonal_game(lam).jacobian
    assert J is not None
    eigenvalues = np.linalg.eigvals(J)
    true = float((2 * eigenvalues.real / np.abs(eigenvalues) ** 2).min())
    assert steps.limit == pytest.approx(true, rel=1e-9)
    assert steps.limit == pytest.approx(sharp, abs=2e-6)
    assert classical_steps(rate, beta).euler == pytest.approx(paper, abs=2e-6)
    assert rate == pytest.approx(1 - lam * 0.5**0.5, abs=1e-12)


@pytest.mark.parametrize(("radius", "alpha"), [(0, 0.1302), (1, 0.0952), (2, 0.0597), (3, 0.0236)])
def test_cournot_margins_on_one_cell(radius: float, alpha: float) -> None:
    assert bound_region(cournot_game(radius), cells=1).alpha == pytest.approx(alpha, abs=5e-5)


def test_cournot_subdivision_reaches_twice_the_radius() -> None:
    assert not bound_region(cournot_game(4), cells=1).certified
    wide = bound_region(cournot_game(6), cells=512, share=0.2)
    assert wide.certified
    assert len(wide.low) > 1
    steps = euler_steps(bound_region(cournot_game(3), cells=1).bounds)
    assert steps.best == pytest.approx(1.811, abs=1e-3)
    assert steps.factor == pytest.approx(0.957, abs=5e-4)


def test_perron_weights_beat_random_ones_and_no_margin_exceeds_the_spectrum() -> None:
    generator = np.random.default_rng(0)
    for n in (2, 3, 6):
        L = generator.random((n, n)) * (1 - np.eye(n))
        K = (np.diag(generator.random(n) + n) - L)[None]
        best = margin(K, best_weights(K))
        assert best == pytest.approx(perron_margin(K)[0], abs=1e-10)
        assert best == pytest.approx(np.linalg.eigvals(K[0]).real.min(), abs=1e-10)
        assert all(margin(K, np.exp(generator.normal(size=n))) <= best + 1e-12 for _ in range(300))


def test_certified_steps_contract_on_a_nonlinear_game() -> None:
    """f_i = mu_i x_i^2 / 2 + sum_j L_ij x_i sin(x_j): constants known, factor never above q(h)."""
    generator = np.random.default_rng(1)
    mu, L = np.array([1.0, 2.0, 1.5]), generator.random((3, 3)) * 0.5 * (1 - np.eye(3))
    game = game_from_costs(
        (1, 1, 1),
        [lambda x, i=i: mu[i] / 2 * x[i] ** 2 + sum((float(L[i, j]) * x[i] * sin(x[j]) for j in range(3) if j != i), 0.0 * x[i]) for i in range(3)],
        region=(-1, 1), lower=-1, upper=1,
    )  # fmt: skip
    region = bound_region(game, cells=1)
    assert region.bounds.mu[0] == pytest.approx(mu, rel=1e-12)
    assert (region.bounds.coupling[0] <= L + 1e-12).all()
    field, steps = Field(game), euler_steps(region.bounds)
    for h in (steps.best, 0.3 * steps.limit):
        value, v = perron_margin(-region.bounds.euler(h))
        for _ in range(200):
            x, y = generator.uniform(-1, 1, (2, 3))
            moved = game.project(x - h * field.gradient(x)) - game.project(y - h * field.gradient(y))
            assert (np.abs(moved) / v).max() <= -value * (np.abs(x - y) / v).max() + 1e-12


def test_invariances() -> None:
    J = np.array([[2.0, 0.5], [-0.3, 1.0]])
    one, scaled = (bound_region(quadratic_game(c * J, None, (1, 1))) for c in (1.0, 3.0))
    assert scaled.alpha == pytest.approx(3 * one.alpha, rel=1e-12)
    assert euler_steps(scaled.bounds).limit == pytest.approx(euler_steps(one.bounds).limit / 3, rel=1e-9)
    swapped = bound_region(quadratic_game(J[::-1, ::-1], None, (1, 1)))
    assert swapped.alpha == pytest.approx(one.alpha, rel=1e-12)
    alone = bound_region(quadratic_game(np.diag([1.0, 4.0]), None, (2,)))
    assert euler_steps(alone.bounds).limit == pytest.approx(2 / 4, rel=1e-9)
    steps, factor = per_player_steps(one.bounds)
    assert steps == pytest.approx([0.5, 1.0])
    assert factor < 1


def test_zero_sum_coupling_costs_nothing_when_paired() -> None:
    game = quadratic_game(np.array([[1.0, 9.0], [-9.0, 1.0]]), None, (1, 1))
    assert not bound_region(game).certified
    assert game.jacobian is not None
    assert paired_margin(game.jacobian, game.slices, np.ones(2), np.ones(2)) == pytest.approx(1.0)


def test_intervals_hold_samples_and_jets_agree_with_symbols() -> None:
    x = variables(3)
    formula = (
        exp(x[0] * 0.3) * sin(x[1]) / (1 + x[2] ** 2)
        + log_sum_exp([x[0], x[1]])
        + tanh(x[2]) * softmax([x[1], x[2]])[0]
        + log(x[0] + 4)
    )
    game = game_from_costs((1, 1, 1), [lambda _: formula] * 3, region=(-1, 1))
    field, cells = Field(game), Interval(np.full((1, 3), -0.4), np.full((1, 3), 0.7))
    J = field.jacobian_interval(cells)
    points = np.random.default_rng(0).uniform(-0.4, 0.7, (1000, 3))
    sampled = field.jacobian(points)
    assert (sampled >= J.low - 1e-12).all()
    assert (sampled <= J.high + 1e-12).all()
    point = points[0]
    jet = evaluate([formula], Interval.point(point[None]))[0]
    assert jet.hessian is not None
    assert jet.hessian.mid[0] == pytest.approx(field.jacobian(point), abs=1e-12)
    step = 1e-6
    slopes = [(field.gradient(point + step * e) - field.gradient(point - step * e)) / (2 * step) for e in np.eye(3)]
    assert pytest.approx(field.jacobian(point), abs=1e-7) == np.array(slopes).T


@pytest.mark.parametrize("rates", ["common", "per-player"])
def test_cournot_is_found_with_a_true_error_bound(rates: str) -> None:
    result = solve(cournot_game(2), ProjectedPlay(rates=rates))  # type: ignore[arg-type]
    assert result.answer == pytest.approx(np.array(COURNOT_EQUILIBRIUM), abs=1e-7)
    assert result.certificate is not None
    assert result.certificate.claim("error").outcome == "holds"
    verdicts = verify(result.certificate, CHECKS, cournot_game(2), result.answer)
    assert {v.verdict for v in verdicts} == {"confirmed"}, verdicts


def test_a_region_is_certified_without_play() -> None:
    game = cournot_game(2)
    certificate = certify_region(game)
    assert certificate.claim("small-gain").outcome == "holds"
    assert {v.verdict for v in verify(certificate, CHECKS, game)} == {"confirmed"}
    assert certify_region(cournot_game(4), cells=1).claim("small-gain").outcome == "undecided"


def test_error_bound_covers_the_true_distance() -> None:
    game = quadratic_game(
        np.array([[2.0, 0.5, 0.1], [-0.3, 1.0, 0.2], [0.1, 0.4, 1.5]]), np.array([1.0, -2.0, 0.3]), (1, 1, 1)
    )
    assert game.jacobian is not None
    assert game.offset is not None
    truth = np.linalg.solve(game.jacobian, -game.offset)
    result = solve(game, ProjectedPlay(tolerance=1e-3))
    assert result.certificate is not None
    error = result.certificate.evidence["witness.npz"]["error"]
    assert (np.abs(result.answer - truth) <= error).all()
    assert error.max() < 0.01


def test_car_makers_find_the_observed_margins() -> None:
    """Costs are inferred from the shares, so the observed margins 1 / (a (1 - S)) are the equilibrium."""
    game = price_game(np.array([0.02, 0.01, 0.03, 0.05]), np.array([1, 1, 2, 3]), 0.4)
    result = solve(game, ProjectedPlay(tolerance=1e-10))
    assert result.answer == pytest.approx(1 / (0.4 * (1 - np.array([0.03, 0.03, 0.05]))), abs=1e-8)


def test_uncertified_games_say_so() -> None:
    result = solve(quadratic_game(np.array([[1.0, 3.0], [3.0, 1.0]]), None, (1, 1), lower=-1, upper=1), ProjectedPlay())
    assert result.certificate is not None
    claim = result.certificate.claim("small-gain")
    assert claim.outcome == "fails"
    assert "couple too strongly" in claim.reason
    assert result.certificate.claim("error").outcome == "undecided"
    coarse = solve(cournot_game(4), ProjectedPlay(cells=1)).certificate
    assert coarse is not None
    assert coarse.claim("small-gain").outcome == "undecided"


def test_spoiled_evidence_of_a_subdivided_game_is_refuted() -> None:
    game = cournot_game(4)
    result = solve(game, ProjectedPlay(cells=64, share=0.1))
    certificate = result.certificate
    assert certificate is not None
    assert len(certificate.evidence["cells.npz"]["low"]) > 1
    for name, arrays in certificate.evidence.items():
        for part, array in arrays.items():
            for how in SPOILS[1:2]:  # the others are tried on the card's tiny run
                spoiled = spoil_tree(array, how)
                if spoiled is None:
                    continue
                bad = dataclasses.replace(
                    certificate, evidence={**certificate.evidence, name: {**arrays, part: spoiled}}
                )
                assert any(v.verdict == "refuted" for v in verify(bad, CHECKS, game, result.answer, full=True)), (
                    name,
                    part,
                    how,
                )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: quadratic_game(np.ones((2, 3)), None, (1, 1)), "blocks"),
        (lambda: quadratic_game(np.array([[1, np.nan], [0, 1]]), None, (1, 1)), "NaN"),
        (lambda: quadratic_game(np.array([[1.0, 2.0], [0.0, 1.0]]), None, (2,)), "not symmetric"),
        (lambda: game_from_costs((1,), [lambda x: x[0] ** 2], region=(1, 0)), "empty"),
        (lambda: game_from_costs((1,), [lambda x: x[0] ** 2]), "finite box"),
        (lambda: game_from_costs((1, 1), [lambda x: x[0] ** 2], region=(0, 1)), "one a player"),
        (lambda: Bounds(np.array([[2.0]]), np.array([[1.0]]), np.zeros((1, 1, 1))), "mu > ell"),
        (lambda: Bounds(np.ones((1, 2)), np.ones((1, 2)), -np.ones((1, 2, 2))), "negative"),
        (
            lambda: bound_region(game_from_pseudo_gradient((2,), lambda x: [x[0] + x[1], x[1]], region=(0, 1))),
            "not symmetric",
        ),
        (lambda: solve(toy_game(), ProjectedPlay(), start=np.array([np.nan, 0])), "finite"),
        (
            lambda: solve(quadratic_game(np.eye(2), None, (1, 1), lower=0), ProjectedPlay(), start=np.array([-1.0, 0])),
            "outside",
        ),
    ],
)
def test_bad_input_is_refused_by_name(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
