"""Disproofs: thresholds in closed form, exact cycles, explicit functions, completeness against a Gram program."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from surefoot.descent import (
    Cycle,
    HeavyBallTrap,
    InterpolatingFunction,
    certify,
    certify_rate,
    find_cycle,
    fixed_step,
    heavy_ball_cycle_slack,
    heavy_ball_threshold,
)
from surefoot.numerics.conic import pack_symmetric, solve_conic


@pytest.mark.parametrize(("period", "threshold"), [(3, 9 + 4 * math.sqrt(5)), (4, 25.2741), (5, 43.8657), (6, 76.2706)])
def test_thresholds_of_heavy_ball(period: int, threshold: float) -> None:
    assert heavy_ball_threshold(period) == pytest.approx(threshold, abs=1e-4)
    assert heavy_ball_cycle_slack(threshold - 0.01, period) < 0 < heavy_ball_cycle_slack(threshold + 0.01, period)


@pytest.mark.parametrize("kappa", [17.9, 17.94])
def test_heavy_ball_is_certified_below_the_threshold(kappa: float) -> None:
    found = certify_rate("hb", kappa=kappa)
    assert found.outcome == "certified"
    assert found.verified
    assert find_cycle(found.method) is None


@pytest.mark.parametrize("kappa", [17.945, 17.95, 25.0, 1e4])
def test_heavy_ball_cycles_above(kappa: float) -> None:
    found = certify_rate("hb", kappa=kappa)
    assert found.outcome == "disproved"
    assert found.cycle.period == 3
    assert found.cycle.is_proof()
    assert math.isnan(found.rho)
    assert Cycle.from_json(found.cycle.to_json()) == found.cycle


@pytest.mark.parametrize("memory", [1, 2])
def test_memory_does_not_move_the_threshold(memory: int) -> None:
    assert certify_rate("hb", kappa=17.93, memory=memory).verified
    assert not certify_rate("hb", kappa=17.95, memory=memory, disprove=False).verified


def test_methods_with_a_rate_have_no_cycle() -> None:
    for name in ("gd", "nag", "tmm", "rmm"):
        assert find_cycle(fixed_step(name, 0.02, 1.0)) is None


def test_too_long_steps_come_with_a_two_cycle() -> None:
    found = certify([[1]], ["-5/2"], [1], "1/10", 1)
    assert found.outcome == "disproved"
    assert found.cycle.period == 2
    points = found.cycle.points
    assert all(a == -b for a, b in zip(*points, strict=True))


def test_a_method_that_neither_proof_reaches_is_undecided() -> None:
    # Momentum 1: a frictionless oscillator, marginally stable on every quadratic, at an angle of no short period.
    found = certify([[2, -1], [1, 0]], ["-1/97", 0], [1, 0], "999/1000", 1)
    assert found.outcome in ("undecided", "disproved")
    assert not found.verified


@pytest.mark.parametrize("what", ["states", "gradients", "values"])
def test_a_spoiled_cycle_is_no_proof(what: str) -> None:
    cycle = find_cycle(fixed_step("hb", 0.04, 1.0))
    assert cycle is not None
    if what == "states":
        spoiled = tuple(tuple(tuple(2 * x for x in v) for v in state) for state in cycle.states)
    elif what == "gradients":
        spoiled = tuple(tuple(-x for x in v) for v in cycle.gradients)
    else:
        spoiled = tuple(3 * x for x in cycle.values)
    assert not replace(cycle, **{what: spoiled}).is_proof()
    rest = replace(
        cycle,
        states=tuple(tuple(tuple(Fraction(0) for _ in v) for v in state) for state in cycle.states),
        gradients=tuple(tuple(Fraction(0) for _ in v) for v in cycle.gradients),
        values=tuple(Fraction(0) for _ in cycle.values),
    )
    assert rest.slack() == 0
    assert not rest.is_proof()


def _gram_margin(kappa: float, period: int) -> float:
    """The cycle as a semidefinite program over the whole Gram matrix, no symmetry used (heavy ball)."""
    m = 1 / kappa
    A, B, C = fixed_step("hb", m, 1.0).arrays()
    size = 2 + period  # xi_0 (two states), u_0 .. u_{K-1}
    state = np.eye(size)[:2]
    outputs, gradients = [], np.eye(size)[2:]
    for k in range(period):
        outputs.append(C @ state)
        state = A @ state + np.outer(B, gradients[k])
    closing = state - np.eye(size)[:2]
    y = np.vstack([outputs, np.zeros(size)])
    u = np.vstack([gradients, np.zeros(size)])
    # Unknowns: Gram matrix (packed), values f, and the common slack t to be as large as possible.
    packed = size * (size + 1) // 2
    unknowns = packed + period + 1
    rows: list[np.ndarray] = []
    right: list[float] = []

    def row(form: np.ndarray, values: np.ndarray, slack: float) -> np.ndarray:
        return np.concatenate([pack_symmetric((form + form.T) / 2), values, [slack]])

    rows.append(row(np.eye(size), np.zeros(period), 0.0))
    right.append(1.0)
    for i in range(2):
        for k in range(size):
            rows.append(row(np.outer(closing[i], np.eye(size)[k]), np.zeros(period), 0.0))
            right.append(0.0)
    equalities = len(rows)
    heights = np.vstack([np.eye(period), np.zeros(period)])
    for i in range(period + 1):
        for j in range(period + 1):
            if i != j:
                dy, bend = y[i] - y[j], u[i] - u[j] - m * (y[i] - y[j])
                form = np.outer(u[j], dy) + m / 2 * np.outer(dy, dy) + np.outer(bend, bend) / (2 * (1 - m))
                rows.append(row(form, heights[j] - heights[i], 1.0))
                right.append(0.0)
    rows.append(row(np.zeros((size, size)), np.zeros(period), 1.0))
    right.append(1.0)
    signs = len(rows) - equalities
    semidefinite = np.hstack([-np.eye(packed), np.zeros((packed, period + 1))])
    answer = solve_conic(
        np.append(np.zeros(unknowns - 1), -1.0),
        np.vstack([*rows, semidefinite]),
        np.concatenate([right, np.zeros(packed)]),
        [("zero", equalities), ("nonnegative", signs), ("semidefinite", size)],
    )
    assert answer.solved
    return -answer.value


@pytest.mark.parametrize(("kappa", "exists"), [(15.0, False), (20.0, True)])
def test_the_linear_program_loses_nothing_against_the_gram_program(kappa: float, exists: bool) -> None:
    assert (_gram_margin(kappa, 3) > 1e-6) is exists
    assert (find_cycle(fixed_step("hb", 1 / kappa, 1.0), periods=(3,)) is not None) is exists


def test_the_interpolating_function_is_one_and_traps_the_method() -> None:
    m, L = 1.0, 25.0
    cycle = find_cycle(fixed_step("hb", m, L))
    assert cycle is not None
    f = InterpolatingFunction.from_cycle(cycle)
    for point, gradient, value in zip(f.points, f.gradients, f.values, strict=True):
        found, slope = f.value_and_grad(point)
        assert found == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(slope, gradient, atol=1e-9)
    rng = np.random.default_rng(0)
    for _ in range(40):
        x, y = rng.normal(size=(2, 2)) * 2
        (fx, gx), (fy, gy) = f.value_and_grad(x), f.value_and_grad(y)
        bend = gx - gy - m * (x - y)
        gap = fx - fy - gy @ (x - y) - m / 2 * (x - y) @ (x - y) - bend @ bend / (2 * (L - m))
        assert gap >= -1e-8
        h = 1e-5
        numeric = [(f.value_and_grad(x + h * e)[0] - f.value_and_grad(x - h * e)[0]) / (2 * h) for e in np.eye(2)]
        np.testing.assert_allclose(gx, numeric, atol=1e-4)
    A, B, C = cycle.method.arrays()
    state = np.array([[float(x) for x in v] for v in cycle.states[0]])
    for _ in range(60):
        state = A @ state + np.outer(B, f.value_and_grad(C @ state)[1])
    np.testing.assert_allclose(state[0], [float(x) for x in cycle.points[0]], atol=1e-6)


def test_the_one_dimensional_trap_is_exact() -> None:
    trap = HeavyBallTrap()
    path = [*trap.cycle, *trap.cycle]
    for k in range(1, 4):
        following = path[k] + trap.momentum * (path[k] - path[k - 1]) - trap.step_size * trap.gradient(path[k])
        assert following == path[k + 1]
    for start in (3.07, 3.3, 3.46):
        assert sorted(trap.run(start, 3000)[-3:]) == pytest.approx(sorted(map(float, trap.cycle)), abs=1e-10)
    for start in (3.0, 3.5):
        assert abs(trap.run(start, 400)[-1]) < 1e-12
    for knot in (Fraction(1), Fraction(2)):
        below = knot - Fraction(1, 10**9)
        assert abs(trap.value(knot) - trap.value(below)) < 1e-7
        assert abs(trap.gradient(knot) - trap.gradient(below)) < 1e-7
