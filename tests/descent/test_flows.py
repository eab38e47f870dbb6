"""The continuous side: closed forms on quadratics, storage decrease, and the methods as steps of their flows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import jv, jvp, yv, yvp

from surefoot.descent import (
    discretisation_error,
    fixed_step,
    immersed_flow,
    integrate_flow,
    momentum_parameters,
    nesterov_splitting,
    triple_momentum_splitting,
)

M, S = 0.5, 0.04


class Logistic:
    """Mean logistic loss of a random table with a squared norm; minimiser by Newton's method written out here."""

    def __init__(self, ridge: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.X = rng.normal(size=(30, 3)) * np.array([1.0, 2.0, 0.5])
        self.y = np.where(rng.random(30) < 0.5, 1.0, -1.0)
        self.m = ridge
        self.L = float(np.linalg.norm(self.X, 2) ** 2) / 120 + ridge
        x = np.zeros(3)
        for _ in range(30):
            x = x - np.linalg.solve(self.hessian(x), self(x)[1])
        self.minimiser = x

    def __call__(self, x):
        margin = self.y * (self.X @ x)
        pull = 1 / (1 + np.exp(margin))
        gradient = -(self.X.T @ (self.y * pull)) / len(margin) + self.m * x
        return float(np.mean(np.logaddexp(0, -margin)) + 0.5 * self.m * x @ x), gradient

    def hessian(self, x):
        p = 1 / (1 + np.exp(-(self.X @ x)))
        return (self.X.T * (p * (1 - p))) @ self.X / len(p) + self.m * np.eye(3)


def quadratic(curvatures):
    h = np.asarray(curvatures, dtype=float)
    return lambda x: (0.5 * float(x @ (h * x)), h * x)


def damped(t, damping, stiffness, x0, v0):
    """x'' + damping x' + stiffness x = 0 from its characteristic roots."""
    roots = np.roots([1.0, damping, stiffness]).astype(complex)
    weights = np.linalg.solve(np.array([[1, 1], roots]), np.array([x0, v0], dtype=complex))
    return (weights[0] * np.exp(roots[0] * t) + weights[1] * np.exp(roots[1] * t)).real


@pytest.mark.parametrize("h", [0.5, 0.8, 20.0])
def test_flows_on_a_quadratic_have_closed_forms(h: float) -> None:
    f, root_m, root_s, q = quadratic([h]), math.sqrt(M), math.sqrt(S), math.sqrt(M * S)
    run = {
        name: integrate_flow(name, f, np.array([2.0]), 4.0, m=M, step_size=S)
        for name in ("gradient", "nesterov", "heavy-ball")
    }
    t = run["nesterov"].t
    # the two roots meet at h = m without the gradient's term: keep off the double root
    np.testing.assert_allclose(run["gradient"].x[:, 0], 2 * np.exp(-h * t), atol=1e-8)
    wanted = damped(t, 2 * root_m + root_s * h, (1 + q) * h, 2.0, -root_s * h * 2)
    np.testing.assert_allclose(run["nesterov"].x[:, 0], wanted, atol=1e-7)
    if h > M:
        omega = math.sqrt(h - M)
        swing = 2 * np.exp(-root_m * t) * (np.cos(omega * t) + root_m / omega * np.sin(omega * t))
        np.testing.assert_allclose(run["heavy-ball"].x[:, 0], swing, atol=1e-7)
    slow = integrate_flow("triple-momentum", f, np.array([2.0]), 4.0, m=M, step_size=0.0)
    np.testing.assert_allclose(slow.x[:, 0], damped(t, 3 * root_m, 2 * h, 2.0, 0.0), atol=1e-7)
    assert not run["heavy-ball"].dissipation.any()
    np.testing.assert_allclose(run["nesterov"].dissipation, root_s * (h * run["nesterov"].x[:, 0]) ** 2, rtol=1e-9)


def test_the_convex_flow_is_a_bessel_function() -> None:
    """x'' + (3/t) x' + h x = 0, at rest at t_0: x = (a J_1 + b Y_1)(sqrt(h) t) / t."""
    h, start = 3.0, 0.2
    w = math.sqrt(h)
    found = integrate_flow(
        "convex-nesterov", quadratic([h]), np.array([1.5]), 10.0, m=0.0, step_size=0.0, start_time=start
    )
    basis = np.array([[jv(1, w * start), yv(1, w * start)], [w * jvp(1, w * start), w * yvp(1, w * start)]])
    # x t = u and (x t)' = x at rest
    a, b = np.linalg.solve(basis, [1.5 * start, 1.5])
    np.testing.assert_allclose(found.x[:, 0], (a * jv(1, w * found.t) + b * yv(1, w * found.t)) / found.t, atol=1e-7)


@pytest.mark.parametrize("name", ["nesterov", "heavy-ball"])
@pytest.mark.parametrize("seed", [0, 1])
def test_storage_falls_at_its_rate_along_a_flow(name: str, seed: int) -> None:
    f = Logistic(0.1, seed)
    found = integrate_flow(name, f, np.array([3.0, -2.0, 1.0]), 20.0, m=f.m, step_size=1 / f.L, minimiser=f.minimiser)
    grown = found.storage * np.exp(math.sqrt(f.m) * found.t)
    assert found.storage[0] > 0.1
    assert np.all(np.diff(grown) <= 1e-7 * grown[:-1])


def test_storage_of_the_convex_flow_never_rises() -> None:
    f = quadratic([0.0, 0.01, 4.0])
    found = integrate_flow(
        "convex-nesterov",
        f,
        np.array([1.0, -3.0, 2.0]),
        60.0,
        m=0.0,
        step_size=0.0,
        start_time=0.1,
        minimiser=np.array([1.0, 0, 0]),
    )
    assert np.all(np.diff(found.storage) <= 1e-7 * found.storage[0])
    values = np.array([f(x)[0] for x in found.x])
    assert np.all(values * found.t**2 <= found.storage[0] * (1 + 1e-7))


def test_a_flow_repeats_bit_for_bit_and_goes_on_where_it_ended() -> None:
    f, start = Logistic(0.1), np.array([3.0, -2.0, 1.0])
    whole, again = (
        integrate_flow("nesterov", f, start, 4.0, m=f.m, step_size=0.1, samples=5, tolerance=1e-11) for _ in range(2)
    )
    assert np.array_equal(whole.x, again.x)
    assert np.array_equal(whole.z, again.z)
    first = integrate_flow("nesterov", f, start, 2.0, m=f.m, step_size=0.1, samples=3, tolerance=1e-11)
    rest = integrate_flow(
        "nesterov", f, first.x[-1], 2.0, m=f.m, step_size=0.1, second=first.z[-1], samples=3, tolerance=1e-11
    )
    np.testing.assert_allclose(rest.x, whole.x[2:], atol=1e-9)
    np.testing.assert_allclose(rest.z, whole.z[2:], atol=1e-9)


@pytest.mark.parametrize("feedback", [0.5, 3.0])
def test_immersion_decays_exactly_whatever_the_function(feedback: float) -> None:
    f, start = Logistic(0.1), np.array([1.0, -1.0, 2.0])

    def hvp(x, v):
        return f.hessian(x) @ v

    off = immersed_flow(f, hvp, start, np.array([1.0, 0.0, -1.0]), 3.0, flow_gain=2.0, feedback=feedback)
    np.testing.assert_allclose(off.storage, off.storage[0] * np.exp(-2 * feedback * off.t), rtol=1e-6)
    on = immersed_flow(f, hvp, start, -2 * f(start)[1], 3.0, flow_gain=2.0, feedback=feedback)
    flow = integrate_flow("gradient", f, start, 6.0, m=f.m, step_size=0.0)
    np.testing.assert_allclose(on.x, flow.x, atol=1e-7)
    assert on.off_manifold.max() < 1e-7


@pytest.mark.parametrize("name", ["nesterov", "triple-momentum"])
def test_the_distance_to_the_flow_is_of_first_order_in_the_root_of_the_step(name) -> None:
    f = Logistic(0.2)
    errors = [
        discretisation_error(name, f, np.array([1.0, 1.0, -1.0]), 3.0, m=f.m, step_size=0.1 / 4**k) for k in range(4)
    ]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all(np.abs(ratios - 2) < 0.35)
    assert abs(ratios[-1] - 2) < 0.12


def abc_run(name: str, f, start, steps: int, m: float, L: float):
    """Gradient points y_k and states x_k of the method as matrices."""
    A, B, C = fixed_step(name, m, L).arrays()
    xi = np.array([start, start])
    ys, xs = [], [start]
    for _ in range(steps):
        y = C @ xi
        ys.append(y)
        xi = A @ xi + np.outer(B, f(y)[1])
        xs.append(xi[0])
    return np.array(ys), np.array(xs)


def test_splitting_steps_are_the_methods() -> None:
    f, start = Logistic(0.05), np.array([2.0, -1.0, 0.5])
    y, x = abc_run("nag", f, start, 50, f.m, f.L)
    split = nesterov_splitting(f, start, 50, m=f.m, step_size=1 / f.L)
    np.testing.assert_allclose(split.y, y, atol=1e-13)
    np.testing.assert_allclose(split.x, x, atol=1e-13)
    y, x = abc_run("tmm", f, start, 50, f.m, f.L)
    split = triple_momentum_splitting(f, start, 50, m=f.m, step_size=1 / f.L)
    np.testing.assert_allclose(split.y, y, atol=1e-13)
    # z_{k+1} is the method's output after its k-th step, x_k + delta (x_k - x_{k-1})
    delta = momentum_parameters("tmm", f.m, f.L).output
    np.testing.assert_allclose(split.z[1:], x[1:] + delta * np.diff(x, axis=0), atol=1e-12)


def test_the_two_textbook_recursions() -> None:
    """Nesterov's with constant momentum (Lectures, 2.2.22) and Polyak's, written out."""
    f, start = Logistic(0.05, 3), np.array([2.0, -1.0, 0.5])
    q = math.sqrt(f.m / f.L)
    x, y, xs = start, start, [start]
    for _ in range(40):
        following = y - f(y)[1] / f.L
        y = following + (1 - q) / (1 + q) * (following - x)
        x = following
        xs.append(x)
    np.testing.assert_allclose(abc_run("nag", f, start, 40, f.m, f.L)[1], xs, atol=1e-13)
    alpha, beta = 4 / (math.sqrt(f.L) + math.sqrt(f.m)) ** 2, ((1 - q) / (1 + q)) ** 2
    xs = [start, start]
    for _ in range(40):
        xs.append(xs[-1] + beta * (xs[-1] - xs[-2]) - alpha * f(xs[-1])[1])
    np.testing.assert_allclose(abc_run("hb", f, start, 40, f.m, f.L)[1], xs[1:], atol=1e-13)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_discrete_storage_functions_fall_at_their_rates(seed: int) -> None:
    f, start = Logistic(0.02, seed), np.array([2.0, -1.0, 0.5])
    q, best, lowest = math.sqrt(f.m / f.L), f.minimiser, f(f.minimiser)[0]
    split = nesterov_splitting(f, start, 60, m=f.m, step_size=1 / f.L)
    E = np.array([f(x)[0] - lowest for x in split.x]) + 0.5 * f.m * np.sum((split.z - best) ** 2, axis=1)
    clear = E[:-1] > 1e-9 * E[0]
    assert clear.sum() > 20
    assert np.all((E[1:] <= (1 - q) * E[:-1] * (1 + 1e-6))[clear])
    split = triple_momentum_splitting(f, start, 60, m=f.m, step_size=1 / f.L)
    apart = split.y - best
    V = f.m * f.L * np.sum((split.z[1:] - best) ** 2, axis=1)
    V += (f.L - f.m) * (split.values - lowest - 0.5 * f.m * np.sum(apart**2, axis=1))
    V -= 0.5 * np.sum((split.gradients - f.m * apart) ** 2, axis=1)
    clear = V[:-1] > 1e-9 * V[0]
    assert clear.sum() > 20
    assert np.all((V[1:] <= (1 - q) ** 2 * V[:-1] * (1 + 1e-6))[clear])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "newton"}, "unknown flow"),
        ({"duration": -1.0}, "duration must be positive"),
        ({"duration": math.inf}, "duration must be positive"),
        ({"samples": 1}, "samples at least 2"),
        ({"m": 0.0}, "m > 0"),
        ({"step_size": -0.1}, "step_size >= 0"),
        ({"name": "convex-nesterov"}, "singular at t = 0"),
        ({"start": np.array([1.0, math.nan])}, "finite vectors"),
        ({"second": np.zeros(3)}, "one length"),
    ],
)
def test_bad_flows_are_named(options: dict, match: str) -> None:
    given = {"name": "nesterov", "start": np.ones(2), "duration": 1.0, "m": 0.5, "step_size": 0.1} | options
    name, start, duration = given.pop("name"), given.pop("start"), given.pop("duration")
    with pytest.raises(ValueError, match=match):
        integrate_flow(name, quadratic([1.0, 2.0]), start, duration, **given)


def test_bad_gains_and_steps_are_named() -> None:
    f = quadratic([1.0, 2.0])
    with pytest.raises(ValueError, match="positive gains"):
        immersed_flow(f, lambda x, v: v, np.ones(2), np.ones(2), 1.0, feedback=0.0)
    for options in ({"m": 0.0, "step_size": 0.1}, {"m": 1.0, "step_size": 2.0}, {"m": 1.0, "step_size": 0.0}):
        with pytest.raises(ValueError, match="m \\* step_size < 1"):
            nesterov_splitting(f, np.ones(2), 3, **options)
    with pytest.raises(RuntimeError, match="integrator stopped"):
        integrate_flow("gradient", lambda x: (0.0, -(x**2)), np.array([1.0]), 2.0, m=1.0, step_size=0.0)
