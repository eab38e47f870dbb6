"""Exact proofs checked again by another road than the solver's.

The quadratic forms are found by running the method on unit vectors in exact rationals and polarising, the interpolation
inequality is the textbook's unsplit one, and signs come from characteristic polynomials instead of LDL'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from surefoot.descent.problem import FixedStep
from surefoot.numerics.rationals import fraction_from, principal_signs_semidefinite, spectral_radius_at_least

Vector = list[Fraction]
Pairs = dict[tuple[int, int], Fraction]

__all__ = ["LyapunovProof", "UnprovedError", "check_exact_cycle", "check_obstruction", "check_quadratic_floor"]

ZERO, ONE = Fraction(0), Fraction(1)


class UnprovedError(ValueError):
    """A proof does not hold; the text says where."""


class _Window:
    """A window of the method in exact numbers, L = 1: run it on a vector, read off what happens."""

    def __init__(self, system: FixedStep, memory: int) -> None:
        if not 0 <= memory <= 6:
            raise UnprovedError(f"a memory of {memory} is out of range")
        self.system, self.memory = system.scaled(), memory
        self.size = system.order + memory + 2

    def run(self, w: Vector) -> tuple[list[Vector], Vector, Vector]:
        """States, outputs and gradients of the window that starts in w[:n] with the gradients w[n:]."""
        order, system = self.system.order, self.system
        states, outputs = [list(w[:order])], []
        for u in w[order:]:
            xi = states[-1]
            outputs.append(sum((c * x for c, x in zip(system.C, xi, strict=True)), ZERO))
            states.append(
                [
                    sum((a * x for a, x in zip(row, xi, strict=True)), b * u)
                    for row, b in zip(system.A, system.B, strict=True)
                ]
            )
        return states, outputs, list(w[order:])

    def weighted(self, w: Vector, weights: Pairs, points: int) -> Fraction:
        """sum weights_ij q_ij without the values f_i - f_j; index ``points`` is the minimiser."""
        _, outputs, gradients = self.run(w)
        y = [*outputs[:points], ZERO]
        u = [*gradients[:points], ZERO]
        m, total = self.system.m, ZERO
        for (i, j), weight in weights.items():
            dy, du = y[i] - y[j], u[i] - u[j]
            bracket = du**2 + m * dy**2 + 2 * m * (u[j] - u[i]) * dy
            total += weight * (-u[j] * dy - bracket / (2 * (1 - m)))
        return total


def _polarised(form: Callable[[Vector], Fraction], size: int) -> list[Vector]:
    """The symmetric matrix of a quadratic form, from its values at unit vectors and their sums."""
    unit = [[ONE if i == j else ZERO for j in range(size)] for i in range(size)]
    diagonal = [form(e) for e in unit]
    matrix = [[ZERO] * size for _ in range(size)]
    for i in range(size):
        matrix[i][i] = diagonal[i]
        for j in range(i):
            both = form([a + b for a, b in zip(unit[i], unit[j], strict=True)])
            matrix[i][j] = matrix[j][i] = (both - diagonal[i] - diagonal[j]) / 2
    return matrix


def _never_positive(form: Callable[[Vector], Fraction], size: int, what: str) -> None:
    if not principal_signs_semidefinite([[-x for x in row] for row in _polarised(form, size)]):
        raise UnprovedError(f"the {what} inequality is violated by some trajectory")


def _pairs(content: Mapping[str, str], points: int, what: str) -> Pairs:
    """Multipliers, which must be non-negative, on existing points."""
    pairs: Pairs = {}
    for key, text in content.items():
        i, j = (int(part) for part in key.split(","))
        value = fraction_from(text)
        if value < 0 or i == j or not (0 <= i <= points and 0 <= j <= points):
            raise UnprovedError(f"the multiplier {what}[{key}] = {text} is negative or out of place")
        pairs[i, j] = value
    return pairs


def _values(pairs: Pairs, points: int) -> Vector:
    totals = [ZERO] * (points + 1)
    for (i, j), weight in pairs.items():
        totals[i] += weight
        totals[j] -= weight
    return totals[:points]


def _same_system(content: Mapping[str, Any], system: FixedStep) -> None:
    stored = FixedStep.from_json(content)
    if stored.fingerprint() != system.fingerprint():
        raise UnprovedError("the proof is about another method or other constants")


class LyapunovProof:
    """The Lyapunov function of a proof, checked on construction for form."""

    def __init__(self, proof: Mapping[str, Any], system: FixedStep) -> None:
        _same_system(proof["method"], system)
        self.window = _Window(system, int(proof["memory"]))
        self.points = self.window.memory + 1
        inner = self.window.size - 1
        self.P = [[fraction_from(x) for x in row] for row in proof["P"]]
        self.p = [fraction_from(x) for x in proof["p"]]
        if len(self.p) != self.points or [len(row) for row in self.P] != [inner] * inner:
            raise UnprovedError("P or p has the wrong size")
        if any(self.P[i][j] != self.P[j][i] for i in range(inner) for j in range(i)):
            raise UnprovedError("P is not symmetric")
        self.rho = fraction_from(proof["rho"])

    def part(self, x: Vector) -> Fraction:
        return sum((a * b * self.P[i][j] for i, a in enumerate(x) if a for j, b in enumerate(x) if b), ZERO)

    def check_rate(self, proof: Mapping[str, Any]) -> Fraction:
        """Decrease and positivity; returns the proved rate."""
        window, memory, order = self.window, self.window.memory, self.window.system.order
        if not 0 < self.rho <= 1:
            raise UnprovedError("the rate is not in (0, 1]")
        lam = _pairs(proof["lam"], memory + 2, "lam")
        mu = _pairs(proof["mu"], memory + 1, "mu")
        square = self.rho**2
        rise = [*[ZERO] * (memory + 2)]
        for t, weight in enumerate(self.p):
            rise[t + 1] += weight
            rise[t] -= square * weight
        if any(a + b for a, b in zip(rise, _values(lam, memory + 2), strict=True)):
            raise UnprovedError("function values are left over in the decrease")
        if any(a - b for a, b in zip(_values(mu, memory + 1), self.p, strict=True)):
            raise UnprovedError("function values are left over in the positivity")

        def decrease(w: Vector) -> Fraction:
            states, _, gradients = window.run(w)
            later = [*states[1], *gradients[1:]]
            return self.part(later) - square * self.part(w[:-1]) + window.weighted(w, lam, memory + 2)

        def positivity(w: Vector) -> Fraction:
            states, _, _ = window.run([*w, ZERO])
            length = sum((x * x for x in states[memory]), ZERO)
            return length - self.part(w) + window.weighted([*w, ZERO], mu, memory + 1)

        _never_positive(decrease, window.size, "decrease")
        _never_positive(positivity, order + memory + 1, "positivity")
        return self.rho

    def check_transient(self, proof: Mapping[str, Any]) -> Fraction:
        """V at the start is at most c |state|^2; returns c."""
        window, memory, order = self.window, self.window.memory, self.window.system.order
        bound = fraction_from(proof["transient"])
        nu = _pairs(proof["nu"], memory + 1, "nu")
        if any(a + b for a, b in zip(_values(nu, memory + 1), self.p, strict=True)):
            raise UnprovedError("function values are left over in the transient bound")

        def start(w: Vector) -> Fraction:
            length = sum((x * x for x in w[:order]), ZERO)
            return self.part(w) - bound * length + window.weighted([*w, ZERO], nu, memory + 1)

        _never_positive(start, order + memory + 1, "transient")
        return bound


def check_obstruction(content: Mapping[str, Any], system: FixedStep) -> Fraction:
    """No Lyapunov function of this memory has the rate; returns that rate."""
    _same_system(content["method"], system)
    window = _Window(system, int(content["memory"]))
    memory, size = window.memory, window.size
    rho = fraction_from(content["rho"])
    Z = [[fraction_from(x) for x in row] for row in content["Z"]]
    f = [fraction_from(x) for x in content["f"]]
    if [len(row) for row in Z] != [size] * size or len(f) != memory + 2 or not 0 < rho <= 1:
        raise UnprovedError("the moments have the wrong size, or the rate is not in (0, 1]")
    unit = [[ONE if i == j else ZERO for j in range(size)] for i in range(size)]
    later = [[*states[1], *gradients[1:]] for states, _, gradients in map(window.run, unit)]
    inner = size - 1
    W = [
        [
            sum((later[a][i] * Z[a][b] * later[b][j] for a in range(size) for b in range(size)), ZERO)
            - rho**2 * Z[i][j]
            for j in range(inner)
        ]
        for i in range(inner)
    ]
    if any(Z[i][j] != Z[j][i] for i in range(size) for j in range(i)):
        raise UnprovedError("the moment matrix is not symmetric")
    if not (principal_signs_semidefinite(Z) and principal_signs_semidefinite(W)):
        raise UnprovedError("the moments are not those of any trajectory")
    rise = [late - rho**2 * early for early, late in pairwise(f)]
    for moments, values in ((Z, f), (W, rise)):
        _admissible(window, moments, values)
    length = _polarised(lambda w: sum((x * x for x in window.run([*w, ZERO])[0][memory]), ZERO), inner)
    if _paired(length, W) <= 0:
        raise UnprovedError("the moments do not grow")
    return rho


def _admissible(window: _Window, moments: list[Vector], values: Vector) -> None:
    points, size = len(values), len(moments)
    padding = [ZERO] * (window.size - size)
    extended = [*values, ZERO]
    for i in range(points + 1):
        for j in range(points + 1):
            if i == j:
                continue
            form = _polarised(lambda w, pair=(i, j): window.weighted([*w, *padding], {pair: ONE}, points), size)
            if extended[i] - extended[j] + _paired(form, moments) < 0:
                raise UnprovedError(f"the moments break the interpolation inequality ({i}, {j})")


def _paired(left: Sequence[Vector], right: Sequence[Vector]) -> Fraction:
    return sum((a * b for u, v in zip(left, right, strict=True) for a, b in zip(u, v, strict=True)), ZERO)


def check_quadratic_floor(floor: Fraction, system: FixedStep) -> None:
    """Some quadratic function of the class slows the method to this rate at least."""
    if floor <= 0:
        return
    for curvature in (system.m, system.L):
        closed = [
            [a + curvature * b * c for a, c in zip(row, system.C, strict=True)]
            for row, b in zip(system.A, system.B, strict=True)
        ]
        if len(closed) == 2:
            # Jury's conditions for both roots inside the circle of this radius.
            trace, det = closed[0][0] + closed[1][1], closed[0][0] * closed[1][1] - closed[0][1] * closed[1][0]
            if not (abs(det) < floor**2 and abs(trace) * floor < floor**2 + det):
                return
        elif spectral_radius_at_least(closed, floor):
            return
    raise UnprovedError("no quadratic function of the class is that slow")


def check_exact_cycle(content: Mapping[str, Any], system: FixedStep) -> tuple[Fraction, int]:
    """Exact closure, interpolation, and distance from the minimiser; returns the smallest slack and the period."""
    _same_system(content["method"], system)
    scaled = system.scaled()
    states = [[[fraction_from(x) for x in v] for v in state] for state in content["states"]]
    u = [[fraction_from(x) for x in v] for v in content["gradients"]]
    f = [fraction_from(x) for x in content["values"]]
    period, dim = len(f), len(u[0])
    if period < 2 or not len(states) == len(u) == period or any(len(v) != dim for v in u):
        raise UnprovedError("the cycle's points, gradients and values do not fit together")
    y: list[Vector] = []
    for k, state in enumerate(states):
        following = states[(k + 1) % period]
        for a in range(dim):
            xi = [vector[a] for vector in state]
            reached = [
                sum((w * x for w, x in zip(row, xi, strict=True)), b * u[k][a])
                for row, b in zip(scaled.A, scaled.B, strict=True)
            ]
            if reached != [vector[a] for vector in following]:
                raise UnprovedError(f"point {k} of the cycle does not lead to the next one")
        y.append([sum((c * v[a] for c, v in zip(scaled.C, state, strict=True)), ZERO) for a in range(dim)])
    if not any(any(point) for point in y):
        raise UnprovedError("the cycle rests at the minimiser")
    y, u, f = [*y, [ZERO] * dim], [*u, [ZERO] * dim], [*f, ZERO]
    m = scaled.m
    slack = min(
        f[i] - f[j] - sum((u[j][a] * (y[i][a] - y[j][a]) for a in range(dim)), ZERO) - bracket / (2 * (1 - m))
        for i in range(period + 1)
        for j in range(period + 1)
        if i != j
        for bracket in [
            sum(
                (
                    (u[i][a] - u[j][a]) ** 2
                    + m * (y[i][a] - y[j][a]) ** 2
                    - 2 * m * (u[j][a] - u[i][a]) * (y[j][a] - y[i][a])
                    for a in range(dim)
                ),
                ZERO,
            )
        ]
    )
    if slack < 0:
        raise UnprovedError("no function of the class interpolates the cycle")
    return slack, period
