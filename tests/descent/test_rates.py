"""Certified rates against closed forms, published numbers, another theory, and simulation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from surefoot.descent import FixedStep, RateCertificate, certify, certify_rate, fixed_step, iqc_rate, read_method
from surefoot.descent.lyapunov import LyapunovProgram
from surefoot.descent.rate_proofs import with_transient
from surefoot.descent.scaling import quadratic_rate

# Two independent computations (a prototype and AutoLyap where kappa <= 100).
PUBLISHED = {
    "nag": {2: 0.36607, 4: 0.58214, 10: 0.751821, 25: 0.849622, 100: 0.927933, 1000: 0.97807, 10000: 0.99320},
    "nag-quadratic": {2: 0.31982, 4: 0.53314, 10: 0.71576, 25: 0.82617, 100: 0.91644},
    "hb": {2: 0.33611, 4: 0.58960, 10: 0.86041},
}


@pytest.mark.parametrize("kappa", [2.0, 10.0, 100.0, 1e3, 1e4])
def test_exact_rates_of_gradient_descent_and_triple_momentum(kappa: float) -> None:
    for name, truth in (("gd", (kappa - 1) / (kappa + 1)), ("tmm", 1 - 1 / math.sqrt(kappa))):
        found = certify_rate(name, kappa=kappa)
        assert abs(found.rho - truth) <= 1e-5
        assert found.verified
        assert found.outcome == "certified"
        assert found.rho >= quadratic_rate(found.method) - 1e-12
        assert found.rho - found.lower <= 1e-5
        assert found.floor_by == "quadratic"


@pytest.mark.parametrize(("name", "kappa"), [(n, k) for n, row in PUBLISHED.items() for k in row])
def test_published_rates_with_proofs_on_both_sides(name: str, kappa: float) -> None:
    found = certify_rate(name, kappa=float(kappa))
    # The table of nag-quadratic and hb is rounded to five digits from another program.
    assert found.rho == pytest.approx(PUBLISHED[name][kappa], abs=6e-5)
    assert found.proof is not None
    assert found.proof.is_proof()
    assert found.obstruction is not None
    assert found.obstruction.is_proof()
    assert 0 < found.rho - found.lower <= 1e-5


@pytest.mark.parametrize("kappa", [3.0, 10.0, 1000.0, 10000.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
def test_robust_momentum_has_the_rate_it_was_asked_for(kappa: float, share: float) -> None:
    """At its slow end it is gradient descent in disguise: the output does not see the second state."""
    fastest, slowest = 1 - math.sqrt(1 / kappa), 1 - 1 / kappa
    wanted = fastest + share * (slowest - fastest)
    found = certify_rate("rmm", kappa=kappa, rate=wanted)
    assert found.verified
    assert found.rho == pytest.approx(wanted, abs=5e-6)
    assert found.lower >= wanted - 1e-5


@pytest.mark.parametrize(("alpha", "rate"), [(0.5, 0.88730), (0.25, 0.95054)])
def test_small_step_heavy_ball(alpha: float, rate: float) -> None:
    m, L = 0.1, 1.0
    beta = math.sqrt((1 - alpha * m) * (1 - alpha * L))
    found = certify([[1 + beta, -beta], [1, 0]], [-alpha, 0], [1, 0], m, L)
    assert found.rho == pytest.approx(rate, abs=2e-5)
    assert found.rho <= math.sqrt(1 - alpha * m)


@pytest.mark.parametrize("name", ["gd", "nag", "hb"])
def test_integral_quadratic_constraints_agree(name: str) -> None:
    for kappa in (4.0, 10.0):
        assert iqc_rate(fixed_step(name, 1 / kappa, 1.0)) == pytest.approx(
            certify_rate(name, kappa=kappa).rho, abs=1e-5
        )


def test_rates_do_not_depend_on_units_or_coordinates() -> None:
    reference = certify_rate("nag", kappa=25.0).rho
    assert certify_rate("nag", m=3.0, L=75.0).rho == pytest.approx(reference, abs=3e-6)
    A, B, C = fixed_step("nag", 0.04, 1.0).arrays()
    for T in (np.array([[1.0, 0.0], [1.0, -1.0]]), np.diag([1.0, 1e4]), np.array([[2.0, 1.0], [0.5, -3.0]])):
        back = np.linalg.inv(T)
        moved = certify(T @ A @ back, T @ B, C @ back, 0.04, 1.0)
        assert moved.rho == pytest.approx(reference, abs=3e-6)
        assert moved.verified
        assert moved.method.rounding < 1e-11


def test_memory_never_hurts() -> None:
    for name, kappa in (("hb", 10.0), ("nag", 10.0), ("tmm", 25.0)):
        rates = [certify_rate(name, kappa=kappa, memory=memory) for memory in (0, 1, 2)]
        assert all(rate.verified for rate in rates)
        assert all(later.rho <= earlier.rho + 3e-6 for earlier, later in pairwise(rates))
        assert rates[-1].rho >= quadratic_rate(rates[0].method) - 1e-9


def test_three_states() -> None:
    """A method with one more momentum term; gradient descent hidden in three states has its own rate."""
    kappa = 10.0
    alpha = 2 / (1 + 1 / kappa)
    hidden = certify([[1, 0, 0], [1, 0, 0], [0, 1, 0]], [-alpha, 0, 0], [1, 0, 0], 1 / kappa, 1.0)
    assert hidden.rho == pytest.approx((kappa - 1) / (kappa + 1), abs=1e-5)
    longer = certify([[1.3, -0.2, -0.1], [1, 0, 0], [0, 1, 0]], [-1, 0, 0], [1, 0, 0], "1/10", 1)
    assert longer.verified
    assert quadratic_rate(longer.method) <= longer.rho < 1


def _worst_contraction(name: str, kappa: float, proof: RateCertificate) -> float:
    """Largest V_{k+1} / V_k over random piecewise-quadratic 1-D functions; exact f and its integral."""
    rng = np.random.default_rng(7)
    A, B, C = fixed_step(name, 1 / kappa, 1.0).arrays()
    P, p = np.array([[float(x) for x in row] for row in proof.P]), float(proof.p[0])
    worst = 0.0
    for _ in range(150):
        knots = np.sort(np.concatenate([[0.0], rng.normal(size=4) * 2]))
        slopes = np.where(rng.random(6) < 0.5, 1 / kappa, 1.0)
        edges = np.concatenate([[-100.0], knots, [100.0]])
        at_knots = np.concatenate([[0.0], np.cumsum(slopes * np.diff(edges))])
        zero = np.interp(0.0, edges, at_knots)

        def gradient(y: float, edges=edges, at_knots=at_knots, zero=zero) -> float:
            return float(np.interp(y, edges, at_knots) - zero)

        def value(y: float, edges=edges, gradient=gradient) -> float:
            stops = np.concatenate([[0.0], np.sort(edges[(edges > min(0, y)) & (edges < max(0, y))]), [y]])
            stops = np.sort(stops) if y >= 0 else np.sort(stops)[::-1]
            return float(sum(0.5 * (gradient(a) + gradient(b)) * (b - a) for a, b in pairwise(stops)))

        xi = rng.normal(size=len(B)) * 3
        previous = None
        for _ in range(25):
            y = float(C @ xi)
            u = gradient(y)
            X = np.append(xi, u)
            storage = float(X @ P @ X) + p * value(y)
            if previous is not None and previous > 1e-9:
                worst = max(worst, storage / previous)
            previous, xi = storage, A @ xi + B * u
    return worst


@pytest.mark.parametrize(("name", "kappa"), [("nag", 10.0), ("tmm", 10.0), ("hb", 10.0), ("gd", 4.0)])
def test_no_random_function_contracts_slower_than_proved(name: str, kappa: float) -> None:
    found = certify_rate(name, kappa=kappa)
    assert found.proof is not None
    worst = _worst_contraction(name, kappa, found.proof)
    assert 0.2 * found.rho**2 < worst <= found.rho**2 * (1 + 1e-7)


@pytest.mark.parametrize("field", ["P", "p", "lam", "mu", "rho"])
@pytest.mark.parametrize("name", ["nag", "tmm"])
def test_a_spoiled_proof_is_none(name: str, field: str) -> None:
    proof = certify_rate(name, kappa=10.0).proof
    assert proof is not None
    assert proof.is_proof()
    value = getattr(proof, field)
    if field == "P":
        spoiled = [[2 * x for x in row] for row in value]
    elif field == "p":
        spoiled = [2 * x for x in value]
    elif field == "rho":
        spoiled = value - Fraction(1, 50000)
    else:
        spoiled = {pair: 2 * x for pair, x in value.items()}
    assert not replace(proof, **{field: spoiled}).is_proof()
    assert RateCertificate.from_json(json.loads(json.dumps(proof.to_json()))) == proof


@pytest.mark.parametrize("name", ["gd", "nag", "tmm", "hb", "rmm"])
def test_transient_constant_bounds_runs(name: str) -> None:
    kappa = 10.0
    found = certify_rate(name, kappa=kappa)
    assert found.proof is not None
    bounded = with_transient(LyapunovProgram(found.method), found.proof)
    assert bounded.transient is not None
    assert bounded.bounds_transient()
    assert not replace(bounded, transient=bounded.transient / 2).bounds_transient()
    A, B, C = found.method.arrays()
    rng = np.random.default_rng(3)
    constant = math.sqrt(bounded.transient)
    for curvature in (0.1, 0.3, 1.0):
        xi = first = rng.normal(size=len(B))
        for k in range(1, 40):
            xi = A @ xi + B * curvature * float(C @ xi)
            assert np.linalg.norm(xi) <= constant * found.rho**k * np.linalg.norm(first)


def test_the_constant_of_gradient_descent_is_one() -> None:
    """|x_k - x*| <= rho^k |x_0 - x*| is its theorem; 1.01 is the room that the proof takes."""
    for kappa in (2.0, 100.0, 1e4):
        found = certify_rate("gd", kappa=kappa)
        assert found.proof is not None
        bounded = with_transient(LyapunovProgram(found.method), found.proof)
        assert bounded.transient is not None
        assert 1 <= bounded.transient <= 1.011
        assert bounded.rho == found.proof.rho
        assert bounded.is_proof()


def test_method_files(tmp_path) -> None:
    path = tmp_path / "method.json"
    path.write_text('{"name": "mine", "A": [[1.4, -0.4], [1, 0]], "B": [-1, 0], "C": [1.4, -0.4], "m": "1/10", "L": 1}')
    method = read_method(path)
    assert method.A[0] == (Fraction(7, 5), Fraction(-2, 5))
    assert method.rounding == 0
    assert FixedStep.from_json(method.to_json()) == method
    assert certify_rate(method).verified
    for text, match in (
        ("[1]", "one JSON object"),
        ("{", "not JSON"),
        ('{"A": 1}', "lacks"),
        ("null", "one JSON object"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=match):
            read_method(path)


@pytest.mark.parametrize(
    ("A", "B", "C", "m", "L", "match"),
    [
        ([[1]], [-1], [1], 0, 1, "m must be positive"),
        ([[1]], [-1], [1], 1, 1, "smaller than L"),
        ([[1]], [-1], [1], 0.1, math.inf, "finite"),
        ([[math.nan]], [-1], [1], 0.1, 1, "finite"),
        ([[1, 0]], [-1], [1], 0.1, 1, "square"),
        ([[1]], [-1, 0], [1], 0.1, 1, "one entry for each"),
        ([[1]], [0], [1], 0.1, 1, "never uses the gradient"),
        ([[0.5]], [-1], [1], 0.1, 1, "no fixed point"),
        ([[1, 0], [0, 0.5]], [-1, 0], [0, 1], 0.1, 1, "C e = 0"),
        ("text", [-1], [1], 0.1, 1, "must be a matrix"),
    ],
)
def test_bad_methods_are_named(A, B, C, m, L, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        certify(A, B, C, m, L)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kappa": 1.0}, "larger than 1"),
        ({}, "needs kappa"),
        ({"kappa": 2.0, "m": 1.0}, "not both"),
        ({"kappa": 2.0, "tolerance": 1.0}, "tolerance"),
        ({"kappa": 2.0, "memory": 9}, "memory"),
        ({"kappa": 2.0, "step_size": 1.0}, "step_size"),
        ({"kappa": 2.0, "rate": 0.5}, "rate can be chosen"),
    ],
)
def test_bad_options_are_named(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        certify_rate("nag", **options)
