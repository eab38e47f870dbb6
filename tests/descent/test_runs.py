"""Momentum methods run on real losses: against scipy, with their claims, budgets, borders and resumed runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from sklearn.datasets import load_breast_cancer

from surefoot import Budget, Constant, Objective, solve
from surefoot.catalog import find
from surefoot.core.method import Status
from surefoot.core.rundir import RunDir
from surefoot.core.verify import verify
from surefoot.descent import (
    GradientDescent,
    HeavyBall,
    Nesterov,
    RateSearch,
    RobustMomentum,
    TripleMomentum,
    fixed_step,
    known_rate,
    minimize,
    momentum_parameters,
)
from surefoot.descent.tables import logistic_model
from surefoot.descent.verify import CHECKS
from surefoot.records.inputs import Inputs

RIDGE = 0.02


@pytest.fixture(scope="module")
def model():
    data = load_breast_cancer()
    return logistic_model(np.asarray(data.data)[:200, :6], 2.0 * np.asarray(data.target)[:200] - 1, RIDGE)


@pytest.fixture(scope="module")
def reference(model):
    """Minimum by scipy's trust-region Newton, from the same numbers in numpy."""
    A, y = model.features.numpy(), model.targets.numpy()

    def value(x):
        return np.mean(np.logaddexp(0, -y * (A @ x))) + 0.5 * RIDGE * x @ x

    def slope(x):
        return -A.T @ (y / (1 + np.exp(y * (A @ x)))) / len(y) + RIDGE * x

    def hessian(x):
        p = 1 / (1 + np.exp(-A @ x))
        return (A.T * (p * (1 - p))) @ A / len(y) + RIDGE * np.eye(A.shape[1])

    found = scipy_minimize(value, np.zeros(A.shape[1]), jac=slope, hess=hessian, method="trust-exact", tol=1e-12)
    return found.x, value, slope


def constants(model):
    return (model.constants[name].value for name in ("strong_convexity", "smoothness"))


METHODS = [GradientDescent, Nesterov, TripleMomentum, RobustMomentum, HeavyBall]


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_find_scipys_minimum_and_bound_their_gap(model, reference, method) -> None:
    best, value, _ = reference
    result = solve(model.objective, method(tolerance=1e-13), budget=Budget(steps=5000))
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(result.answer.numpy(), best, atol=1e-5)
    gap = next(claim for claim in result.certificate.claims if claim.name.startswith("gap"))
    assert value(result.answer.numpy()) - value(best) <= float(gap.value) + 1e-15
    assert all(v.verdict == "confirmed" for v in verify(result.certificate, CHECKS, model.objective, result.answer))


def test_momentum_needs_fewer_steps_in_the_order_of_theory(model) -> None:
    steps = {
        method.scheme: solve(model.objective, method(tolerance=1e-10), budget=Budget(steps=5000), certify=False).steps
        for method in METHODS
    }
    # gradient descent pays kappa, the accelerated methods its root
    m, L = constants(model)
    assert L / m > 40
    assert steps["gd"] > 2 * max(steps["nag"], steps["tmm"], steps["hb"])


def test_storage_claims_hold_and_spoiled_runs_are_refuted(model) -> None:
    for method in (GradientDescent, Nesterov, TripleMomentum):
        result = solve(model.objective, method(tolerance=1e-9), budget=Budget(steps=400))
        name = f"storage-{method.scheme}"
        claim = next(c for c in result.certificate.claims if c.name == name)
        assert claim.outcome == "holds"
        assert 0 < float(claim.value) <= 1 + 1e-6

        def judged(certificate, name=name, answer=result.answer):
            return {v.claim: v.verdict for v in verify(certificate, CHECKS, model.objective, answer)}[name]

        assert judged(result.certificate) == "confirmed"
        trace = result.certificate.evidence["trace.npz"]
        moved = trace[method.scheme].copy()
        moved[5] *= 1.001
        for spoiled in (
            {**trace, method.scheme: moved},
            {**trace, method.scheme: trace[method.scheme][::-1].copy()},
            {**trace, "minimiser": trace["minimiser"] + 0.01},
            {**trace, "minimiser": -trace["minimiser"]},
        ):
            evidence = {**result.certificate.evidence, "trace.npz": spoiled}
            assert judged(dataclasses.replace(result.certificate, evidence=evidence)) == "refuted"
        claims = tuple(
            dataclasses.replace(c, value=0.5 * float(c.value)) if c.name == name else c
            for c in result.certificate.claims
        )
        assert judged(dataclasses.replace(result.certificate, claims=claims)) == "refuted"


def test_a_step_that_is_too_long_has_no_storage_claim() -> None:
    """The storage's theorem is about the tuned step; with a longer one the run grows, and no rate is certified."""
    h = torch.tensor([1.0, 10.0], dtype=torch.float64)
    objective = quadratic(h)
    result = solve(objective, GradientDescent(step_size=0.15, tolerance=1e-8), budget=Budget(steps=100))
    names = {claim.name for claim in result.certificate.claims}
    assert "rate-gd" in names
    assert "storage-gd" not in names
    bad = solve(objective, GradientDescent(step_size=0.25), torch.ones(2), budget=Budget(steps=30))
    claims = {claim.name: claim for claim in bad.certificate.claims}
    assert "cycle-gd" in claims
    assert "rate-gd" not in claims
    assert float(claims["gap-gd"].value) > 1


def quadratic(h: torch.Tensor) -> Objective:
    return Objective(
        value_and_grad=lambda x: (0.5 * (h * x**2).sum(), h * x),
        dim=len(h),
        constants={
            "strong_convexity": Constant(float(h.min()), "exact"),
            "smoothness": Constant(float(h.max()), "exact"),
        },
        minimiser=torch.zeros(len(h), dtype=torch.float64),
        identity={"h": h},
    )


def test_backtracking_finds_a_smoothness_and_says_that_it_is_estimated() -> None:
    h = torch.tensor([0.1, 3.0], dtype=torch.float64)
    start = torch.tensor([1.0, 1.0], dtype=torch.float64)
    method = Nesterov(smoothness=0.2, backtracking=True, tolerance=1e-14)
    lanes = []
    result = solve(
        quadratic(h),
        method,
        start,
        budget=Budget(steps=500),
        watch=[lambda moment: lanes.append(moment.state.lane.smoothness)],
    )
    assert result.status is Status.CONVERGED
    # 0.2, 0.4, ... : the first that is at least 3 is 3.2; the descent lemma may be met a factor two earlier
    assert lanes[-1] in (1.6, 3.2)
    assert np.all(np.diff(lanes) >= 0)
    assert result.counts["value"] >= result.steps
    assert result.counts["gradient"] > result.steps
    assert not [claim for claim in result.certificate.claims if claim.name.startswith("rate")]


def test_backtracking_gives_up_where_nothing_descends() -> None:
    """A value that grows at every call."""
    constants = quadratic(torch.tensor([0.1, 3.0], dtype=torch.float64)).constants
    calls = iter(range(1, 1000))
    objective = Objective(lambda x: (torch.tensor(float(next(calls))), torch.ones_like(x)), 2, constants=constants)
    with pytest.raises(ValueError, match="is the gradient that of the value"):
        solve(
            objective,
            Nesterov(smoothness=0.2, backtracking=True),
            torch.ones(2, dtype=torch.float64),
            budget=Budget(steps=5),
        )


def test_backtracking_stays_where_the_function_is_defined() -> None:
    """-log(1 - x^2) is not a number beyond 1 in size; its curvature is at least 2."""

    def barrier(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return -torch.log(1 - x @ x), 2 * x / (1 - x @ x)

    objective = Objective(barrier, 1, constants={"strong_convexity": Constant(2.0, "exact")})
    start = torch.tensor([0.99], dtype=torch.float64)
    result = solve(objective, Nesterov(smoothness=2.1, backtracking=True), start, budget=Budget(steps=3000))
    assert result.status is Status.CONVERGED
    assert abs(float(result.answer)) < 1e-5


def test_a_race_is_resumed_bit_for_bit(tmp_path) -> None:
    card = find("acceleration")
    options = card.options(methods=("nag", "tmm"), kappas=(10.0,), steps=60, ridge=0.05)
    problem = card.load(options, Inputs({}))
    whole = card.run(options, problem, None)
    folder = tmp_path / "run"
    card.run(dataclasses.replace(options, steps=23), problem, RunDir.create(folder))
    resumed = card.run(options, problem, RunDir.create(folder, resume=True))
    assert resumed.steps == whole.steps
    for name in ("nag", "tmm"):
        assert np.array_equal(resumed.answer["coefficients"][name], whole.answer["coefficients"][name])
    assert np.array_equal(resumed.answer["rates"]["nag"], whole.answer["rates"]["nag"])


def test_the_rate_search_as_a_method_gives_a_certificate() -> None:
    problem = fixed_step("nag", 0.04, 1.0)
    result = solve(problem, RateSearch(), budget=Budget(steps=50))
    assert result.status is Status.CONVERGED
    assert result.answer.rho == pytest.approx(0.849622, abs=5e-6)
    assert result.counts["sdp"] == result.answer.solves <= 9
    columns = result.history.columns()
    low, high = columns["low"], columns["high"]
    assert np.all(np.diff(low) >= 0)
    assert high[-1] - low[-1] <= 1e-6
    assert all(v.verdict == "confirmed" for v in verify(result.certificate, CHECKS, problem, result.answer))


# ---- minimize -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["gd", "nag", "tmm", "rmm", "hb"])
def test_minimize_agrees_with_scipy(model, reference, method: str) -> None:
    best, value, slope = reference
    m, L = constants(model)
    found = minimize(value, np.zeros(len(best)), slope, method=method, m=m, L=L, tol=1e-12)
    assert found.success
    assert found.status == 0
    np.testing.assert_allclose(found.x, best, atol=1e-5)
    assert found.fun == pytest.approx(value(best), abs=1e-11)
    assert found.fun - value(best) <= found.gap <= 1e-8
    np.testing.assert_allclose(found.jac, slope(found.x), atol=1e-14)
    assert found.njev >= found.nit > 5
    assert {claim.name.split("-")[0] for claim in found.certificate.claims} >= {"gap"}
    again = minimize(lambda x: (value(x), slope(x)), np.zeros(len(best)), method=method, m=m, L=L, tol=1e-12)
    assert np.array_equal(again.x, found.x)


def test_minimize_stops_at_its_budget_passes_args_and_calls_back() -> None:
    h, seen = np.array([1.0, 50.0]), []
    found = minimize(
        lambda x, scale, shift: 0.5 * scale * (x - shift) @ (h * (x - shift)),
        [4.0, 4.0],
        lambda x, scale, shift: scale * h * (x - shift),
        method="nag",
        m=2.0,
        L=100.0,
        args=(2.0, 3.0),
        maxiter=7,
        callback=seen.append,
    )
    assert not found.success
    assert found.status == 1
    assert found.nit == len(seen) == 7
    assert "7 steps" in found.message
    # the last point seen is x_k, the method's answer for Nesterov
    np.testing.assert_array_equal(seen[-1], found.x)
    assert found.gap >= found.fun > 0


def test_minimize_backtracks_from_a_small_guess() -> None:
    h = np.array([1.0, 30.0])
    found = minimize(lambda x: (0.5 * x @ (h * x), h * x), [1.0, 1.0], m=1.0, L=2.0, method="nag", backtracking=True)
    assert found.success
    assert np.abs(found.x).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "newton"}, "unknown method 'newton'; expected one of gd"),
        ({"x0": [[1.0, 2.0]]}, "x0 must be a vector"),
        ({"x0": [1.0, math.nan]}, "NaN or infinite"),
        ({"m": 0.0}, "m must be positive"),
        ({"m": 20.0}, "smaller than L"),
        ({"L": math.nan}, "finite"),
        ({"jac": lambda x: np.ones(3)}, r"gradient has shape \(3,\); expected \(2,\)"),
    ],
)
def test_minimize_names_what_is_wrong(options: dict, match: str) -> None:
    given = {"x0": [1.0, 1.0], "jac": lambda x: x, "m": 1.0, "L": 10.0} | options
    with pytest.raises(ValueError, match=match):
        minimize(lambda x: 0.5 * x @ x, given.pop("x0"), given.pop("jac"), **given)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"tolerance": -1.0}, "tolerance >= 0"), ({"trace": -1}, "trace >= 0"), ({"block": 0}, "block >= 1")],
)
def test_bad_methods_are_named(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Nesterov(**options)
    with pytest.raises(ValueError, match=r"the start has shape \(3,\); expected \(2,\)"):
        solve(quadratic(torch.tensor([1.0, 2.0])), Nesterov(), torch.ones(3), budget=Budget(steps=1))


def test_parameters_against_the_literature() -> None:
    m, L = 1.0, 100.0
    q, r = 0.1, 0.9
    assert momentum_parameters("nag", m, L).momentum == pytest.approx((1 - q) / (1 + q))
    assert momentum_parameters("hb", m, L).step_size == pytest.approx(4 / 11**2)
    assert momentum_parameters("hb", m, L).momentum == pytest.approx((9 / 11) ** 2)
    tmm = momentum_parameters("tmm", m, L)
    assert (tmm.step_size, tmm.momentum) == pytest.approx((1.9 / L, r**2 / (2 - r)))
    assert (tmm.extrapolation, tmm.output) == pytest.approx((r**2 / ((1 + r) * (2 - r)), r**2 / (1 - r**2)))
    # robust momentum at its fast end is triple momentum, at its slow end gradient descent with step 1 / L in disguise
    fast = momentum_parameters("rmm", m, L, rate=r)
    assert dataclasses.astuple(fast) == pytest.approx(dataclasses.astuple(tmm))
    with pytest.raises(ValueError, match="rate must lie in"):
        momentum_parameters("rmm", m, L, rate=0.5)
    with pytest.raises(ValueError, match="newton"):
        momentum_parameters("newton", m, L)
    assert known_rate("gd", m, L) == pytest.approx(99 / 101)
    assert known_rate("gd", m, L, step_size=1 / L) == pytest.approx(0.99)
    assert known_rate("nag", m, L) == pytest.approx(math.sqrt(0.9))
    assert known_rate("tmm", m, L) == pytest.approx(0.9)
    assert known_rate("rmm", m, L, rate=0.95) == 0.95
    assert math.isnan(known_rate("hb", m, L))
