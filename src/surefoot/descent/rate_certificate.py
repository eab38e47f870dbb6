"""Exact proofs of rates: a Lyapunov function, or the proof that none exists, in rational numbers.

With L = 1, m = m / L and B times L, in the plain coordinates of the method, a ``RateCertificate`` holds
rationals with

    V_k = X_k' P X_k + p'(f_{k-l}, ..., f_k),   X_k = (xi_{k-l}, u_{k-l}, ..., u_k),
    (decrease)    V_{k+1} - rho^2 V_k + sum lam_ij q_ij  is a negative semidefinite form, free of values,
    (positivity)  |xi_k|^2 - V_k + sum mu_ij q_ij        is a negative semidefinite form, free of values,
    q_ij = f_i - f_j - u_j (y_i - y_j) - m/2 (y_i - y_j)^2 - (u_i - u_j - m (y_i - y_j))^2 / (2 (1 - m)),

so that |xi_k - e x*| <= rho^(k-l) sqrt(V_l) for every f in F_{m,L} and any dimension. A third inequality bounds
the start,

    (transient)   V_l - c |xi_0|^2 + sum nu_ij q_ij  is a negative semidefinite form, free of values,

and then |xi_k - e x*| <= sqrt(c) rho^(k-l) |xi_0 - e x*|. Floats from the solver are
only a suggestion: they are rounded to short rationals, the value equations are solved exactly, and both forms
are tested by an exact LDL'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from surefoot.descent.lyapunov import LyapunovPoint, LyapunovProgram, Obstruction
from surefoot.descent.problem import FixedStep
from surefoot.numerics.rationals import (
    fraction_from,
    fraction_text,
    is_positive_semidefinite,
    matmul,
    round_to_bits,
    transpose,
)

Rows = list[list[Fraction]]
Pair = tuple[int, int]

__all__ = ["ObstructionCertificate", "RateCertificate", "prove_obstruction", "prove_rate", "with_transient"]

# 2^-48 = 4e-15 is far below every margin that the solver resolves and keeps the rationals short.
BITS = 48
ZERO = Fraction(0)


@dataclass(frozen=True)
class RateCertificate:
    """A proved rate: |xi_k - e x*| <= rho^k sqrt(V_0) for all f in F_{m,L}.

    Attributes:
        method: the method, in the user's units.
        rho: the rate a step.
        memory: number of past points in V.
        P: (n + l + 1, n + l + 1) symmetric.
        p: (l + 1,) weights of f_{k-l}, ..., f_k.
        lam: multipliers of the decrease, a pair (i, j) of points a key; l + 2 stands for *.
        mu: multipliers of the positivity; l + 1 stands for *.
        transient: constant c of the start; None before ``with_transient``.
        nu: multipliers of the transient; l + 1 stands for *.
    """

    method: FixedStep
    rho: Fraction
    memory: int
    P: Rows
    p: list[Fraction]
    lam: dict[Pair, Fraction]
    mu: dict[Pair, Fraction]
    transient: Fraction | None = None
    nu: dict[Pair, Fraction] = field(default_factory=dict)

    def is_proof(self) -> bool:
        """Exact test of both inequalities, all value equations and all signs."""
        window = _Window(self.method, self.memory)
        if min(self.lam.values()) < 0 or min(self.mu.values()) < 0:
            return False
        if any(self._decrease_values()) or any(self._positivity_values()):
            return False
        if not is_positive_semidefinite(_negated(self._decrease_form(window))):
            return False
        return is_positive_semidefinite(_negated(self._positivity_form(window)))

    def bounds_transient(self) -> bool:
        """Exact test of the transient inequality."""
        if self.transient is None or min(self.nu.values()) < 0:
            return False
        balance = _value_balance(self.nu, self.memory + 1)
        if any(value + weight for value, weight in zip(balance, self.p, strict=True)):
            return False
        window = _Window(self.method, self.memory)
        form = [list(row) for row in self.P]
        for i in range(self.method.order):
            form[i][i] -= self.transient
        window.add_interpolation(form, self.nu, self.memory + 1)
        return is_positive_semidefinite(_negated(form))

    def _decrease_values(self) -> list[Fraction]:
        balance = _value_balance(self.lam, self.memory + 2)
        square = self.rho**2
        for t, weight in enumerate(self.p):
            balance[t + 1] += weight
            balance[t] -= square * weight
        return balance

    def _positivity_values(self) -> list[Fraction]:
        balance = _value_balance(self.mu, self.memory + 1)
        return [value - weight for value, weight in zip(balance, self.p, strict=True)]

    def _decrease_form(self, window: _Window) -> Rows:
        form = _congruence(window.then, self.P)
        square = self.rho**2
        inner = window.size - 1
        for i in range(inner):
            for j in range(inner):
                form[i][j] -= square * self.P[i][j]
        window.add_interpolation(form, self.lam, self.memory + 2)
        return form

    def _positivity_form(self, window: _Window) -> Rows:
        inner = window.size - 1
        form = [[-entry for entry in row] for row in self.P]
        for state in window.states[self.memory]:
            for i in range(inner):
                for j in range(inner):
                    form[i][j] += state[i] * state[j]
        window.add_interpolation(form, self.mu, self.memory + 1)
        return form

    def to_json(self) -> dict[str, Any]:
        """All numbers as text "a/b"."""
        more: dict[str, Any] = {}
        if self.transient is not None:
            more = {"transient": fraction_text(self.transient), "nu": _text_pairs(self.nu)}
        return {
            "kind": "rate",
            "method": self.method.to_json(),
            "rho": fraction_text(self.rho),
            "memory": self.memory,
            "P": _text_rows(self.P),
            "p": [fraction_text(entry) for entry in self.p],
            "lam": _text_pairs(self.lam),
            "mu": _text_pairs(self.mu),
            **more,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RateCertificate:
        """Read the form of ``to_json``."""
        return cls(
            method=FixedStep.from_json(content["method"]),
            rho=fraction_from(content["rho"]),
            memory=int(content["memory"]),
            P=[[fraction_from(entry) for entry in row] for row in content["P"]],
            p=[fraction_from(entry) for entry in content["p"]],
            lam=_read_pairs(content["lam"]),
            mu=_read_pairs(content["mu"]),
            transient=fraction_from(content["transient"]) if "transient" in content else None,
            nu=_read_pairs(content.get("nu", {})),
        )


@dataclass(frozen=True)
class ObstructionCertificate:
    """A proof that no Lyapunov function of this memory has the rate rho or a smaller one.

    Z are second moments of (xi_{k-l}, u_{k-l}, ..., u_{k+1}) and f mean values that satisfy every
    interpolation inequality, and so do the grown moments W = X_+ Z X_+' - rho^2 X Z X' with the values f_+ -
    rho^2 f. Any V that fits the two inequalities would have to fall on Z and to rise on it.

    Attributes:
        method: the method, in the user's units.
        rho: rate that is out of reach.
        memory: number of past points.
        Z: (N, N) symmetric positive semidefinite.
        f: (l + 2,) values.
    """

    method: FixedStep
    rho: Fraction
    memory: int
    Z: Rows
    f: list[Fraction]

    def is_proof(self) -> bool:
        """Exact test of all conditions."""
        window = _Window(self.method, self.memory)
        square = self.rho**2
        inner = window.size - 1
        grown = _congruence(transpose(window.then), self.Z)
        W = [[grown[i][j] - square * self.Z[i][j] for j in range(inner)] for i in range(inner)]
        rise = [late - square * early for early, late in pairwise(self.f)]
        if not (is_positive_semidefinite(self.Z) and is_positive_semidefinite(W)):
            return False
        if sum((_form_value(W, state[:inner]) for state in window.states[self.memory]), ZERO) <= 0:
            return False
        return window.admits(self.Z, self.f) and window.admits(W, rise)

    def to_json(self) -> dict[str, Any]:
        """All numbers as text "a/b"."""
        return {
            "kind": "obstruction",
            "method": self.method.to_json(),
            "rho": fraction_text(self.rho),
            "memory": self.memory,
            "Z": _text_rows(self.Z),
            "f": [fraction_text(entry) for entry in self.f],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ObstructionCertificate:
        """Read the form of ``to_json``."""
        return cls(
            method=FixedStep.from_json(content["method"]),
            rho=fraction_from(content["rho"]),
            memory=int(content["memory"]),
            Z=[[fraction_from(entry) for entry in row] for row in content["Z"]],
            f=[fraction_from(entry) for entry in content["f"]],
        )


class _Window:
    """States, outputs and gradients of l + 2 successive points as exact rows over (xi_{k-l}, u_{k-l}, ...)."""

    def __init__(self, method: FixedStep, memory: int) -> None:
        scaled = method.scaled()
        order, self.m = method.order, scaled.m
        self.size = order + memory + 2
        unit = [[Fraction(int(i == j)) for j in range(self.size)] for i in range(self.size)]
        self.gradients = unit[order:]
        self.states: list[Rows] = [unit[:order]]
        for gradient in self.gradients:
            moved = matmul(scaled.A, self.states[-1])
            self.states.append(
                [
                    [a + b * g for a, g in zip(row, gradient, strict=True)]
                    for row, b in zip(moved, scaled.B, strict=True)
                ]
            )
        self.outputs = [matmul([scaled.C], state)[0] for state in self.states[:-1]]
        self.then = [*self.states[1], *unit[order + 1 :]]

    def _rows(self, pair: Pair, points: int) -> tuple[list[Fraction], list[Fraction], list[Fraction]]:
        """y_i - y_j, u_j and u_i - u_j - m (y_i - y_j) over the window; index ``points`` is the minimiser."""
        zero = [ZERO] * self.size
        outputs, gradients = [*self.outputs[:points], zero], [*self.gradients[:points], zero]
        i, j = pair
        apart = [a - b for a, b in zip(outputs[i], outputs[j], strict=True)]
        bend = [a - b - self.m * d for a, b, d in zip(gradients[i], gradients[j], apart, strict=True)]
        return apart, gradients[j], bend

    def add_interpolation(self, form: Rows, multipliers: Mapping[Pair, Fraction], points: int) -> None:
        """Add the quadratic part of sum multipliers_ij q_ij to a symmetric form, in place."""
        half, bent = Fraction(1, 2), 1 / (2 * (1 - self.m))
        for pair, weight in multipliers.items():
            apart, slope, bend = self._rows(pair, points)
            for a in range(len(form)):
                for b in range(a, len(form)):
                    term = half * (slope[a] * apart[b] + slope[b] * apart[a] + self.m * apart[a] * apart[b])
                    term += bent * bend[a] * bend[b]
                    if term:
                        form[a][b] -= weight * term
                        if a != b:
                            form[b][a] -= weight * term

    def admits(self, moments: Rows, values: Sequence[Fraction]) -> bool:
        """All interpolation inequalities hold for these second moments and mean values."""
        points, size = len(values), len(moments)
        bent = 1 / (2 * (1 - self.m))
        extended = [*values, ZERO]
        for pair in [(i, j) for i in range(points + 1) for j in range(points + 1) if i != j]:
            apart, slope, bend = (row[:size] for row in self._rows(pair, points))
            gap = extended[pair[0]] - extended[pair[1]] - _form_value(moments, slope, apart)
            gap -= self.m / 2 * _form_value(moments, apart) + bent * _form_value(moments, bend)
            if gap < 0:
                return False
        return True


def prove_rate(program: LyapunovProgram, point: LyapunovPoint, rho: Fraction) -> RateCertificate | None:
    """Turn a float Lyapunov point into an exact proof of the rate ``rho``; None where rounding destroys it."""
    if not point.margin > 0:
        return None
    memory, m = program.memory, program.method.m
    weight = 1 - m
    mu = _rounded(program.positivity_pairs, point.mu)
    p = _value_balance(mu, memory + 1)
    lam = _rounded(program.decrease_pairs, point.lam)
    unfinished = RateCertificate(program.method, rho, memory, [], p, lam, mu)
    star = memory + 2
    for t, left in enumerate(unfinished._decrease_values()):
        key = (star, t) if left > 0 else (t, star)
        lam[key] += abs(left)
    window = _Window(program.method, memory)
    inner = window.size - 1
    rounded = [[round_to_bits(float(entry), BITS) for entry in row] for row in point.P]
    scaled_form = _congruence(_change_of_coordinates(program, window), rounded)
    P = [[weight * entry for entry in row] for row in scaled_form]
    for t in range(memory + 1):
        factor = m / 2 * p[t]
        for i in range(inner):
            for j in range(inner):
                P[i][j] -= factor * window.outputs[t][i] * window.outputs[t][j]
    # V >= c |xi|^2 with a power of two c below the float estimate; dividing all by c makes it 1.
    scale = 1 / _power_of_two_below(0.9 * point.margin * float(weight) / _state_gain(program))
    certificate = RateCertificate(
        method=program.method,
        rho=rho,
        memory=memory,
        P=[[scale * entry for entry in row] for row in P],
        p=[scale * entry for entry in p],
        lam={pair: scale * value for pair, value in lam.items()},
        mu={pair: scale * value for pair, value in mu.items()},
    )
    return certificate if certificate.is_proof() else None


def with_transient(program: LyapunovProgram, certificate: RateCertificate) -> RateCertificate:
    """Add the smallest provable constant c of the start; the certificate as it was if none can be proved."""
    to_scaled = _change_of_coordinates(program, _Window(program.method, program.memory))
    back = _inverse(to_scaled)
    scaled_P = _congruence(back, certificate.P)
    start = back[: program.order]
    length = matmul(transpose(start), start)
    P = np.array([[float(x) for x in row] for row in scaled_P])
    p = np.array([float(x) for x in certificate.p])
    squared_length = np.array([[float(x) for x in row] for row in length])
    star = program.memory + 1
    for room in (1.01, 1.1, 2.0, 10.0):
        bound, nu_values = program.transient(P, p, squared_length, room)
        if not (np.isfinite(bound) and np.isfinite(nu_values).all()):
            continue
        size = max(1.0, float(np.abs(nu_values).max()))
        nu = {
            pair: max(Fraction(size) * round_to_bits(float(value) / size, BITS), ZERO)
            for pair, value in zip(program.positivity_pairs, nu_values, strict=True)
        }
        left = [v + w for v, w in zip(_value_balance(nu, star), certificate.p, strict=True)]
        for t, excess in enumerate(left):
            nu[(star, t) if excess > 0 else (t, star)] += abs(excess)
        proved = replace(certificate, transient=_up(bound), nu=nu)
        if proved.bounds_transient():
            return proved
    return certificate


def _up(value: float) -> Fraction:
    """A short rational above a float, within 2^-20 of it relatively."""
    exponent = int(np.floor(np.log2(value))) - 20
    return Fraction(int(np.ceil(value / 2.0**exponent))) * Fraction(2) ** exponent


def prove_obstruction(program: LyapunovProgram, candidate: Obstruction, rho: Fraction) -> ObstructionCertificate | None:
    """Turn float moments into an exact proof that the rate ``rho`` has no Lyapunov function; None if it fails."""
    m, memory = program.method.m, program.memory
    window = _Window(program.method, memory)
    to_plain = _inverse(_change_of_coordinates(program, window, points=memory + 2))
    rounded = [[round_to_bits(float(entry), BITS) for entry in row] for row in candidate.Z]
    Z = _congruence(transpose(to_plain), rounded)
    weight = 1 - m
    f = [
        weight * round_to_bits(float(h), BITS) + m / 2 * _form_value(Z, window.outputs[t])
        for t, h in enumerate(candidate.h)
    ]
    certificate = ObstructionCertificate(program.method, rho, memory, Z, f)
    return certificate if certificate.is_proof() else None


def _change_of_coordinates(program: LyapunovProgram, window: _Window, points: int | None = None) -> Rows:
    """Rows that map (xi, u_0, ...) to the scaled (s, g_0, ...): s = S xi, g = (u - m y) / (1 - m)."""
    points = program.memory + 1 if points is None else points
    order, m = program.order, program.method.m
    size = order + points
    rows = [[Fraction(float(entry)) for entry in row] + [ZERO] * points for row in program.coordinates]
    for t in range(points):
        pairs = zip(window.gradients[t][:size], window.outputs[t][:size], strict=True)
        rows.append([(u - m * y) / (1 - m) for u, y in pairs])
    return rows


def _state_gain(program: LyapunovProgram) -> float:
    """Largest |xi_k|^2 over scaled X_k of length one."""
    inner = program.window - 1
    plain = np.linalg.inv(program.coordinates) @ program.state_rows[program.memory][:, :inner]
    return float(np.linalg.norm(plain, 2) ** 2)


def _power_of_two_below(value: float) -> Fraction:
    return Fraction(2) ** int(np.floor(np.log2(value)))


def _rounded(pairs: Sequence[Pair], values: np.ndarray) -> dict[Pair, Fraction]:
    return {pair: max(round_to_bits(float(value), BITS), ZERO) for pair, value in zip(pairs, values, strict=True)}


def _value_balance(multipliers: Mapping[Pair, Fraction], points: int) -> list[Fraction]:
    """Coefficient of each function value in sum multipliers_ij q_ij; the minimiser's value is 0."""
    balance = [ZERO] * (points + 1)
    for (i, j), weight in multipliers.items():
        balance[i] += weight
        balance[j] -= weight
    return balance[:points]


def _congruence(rows: Rows, middle: Rows) -> Rows:
    """``rows' middle rows``."""
    return matmul(transpose(rows), matmul(middle, rows))


def _form_value(matrix: Rows, left: Sequence[Fraction], right: Sequence[Fraction] | None = None) -> Fraction:
    second = left if right is None else right
    return sum((a * b * matrix[i][j] for i, a in enumerate(left) if a for j, b in enumerate(second) if b), ZERO)


def _inverse(matrix: Rows) -> Rows:
    """Exact inverse by Gauss-Jordan elimination of [matrix, I]."""
    size = len(matrix)
    work = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        source = next(i for i in range(column, size) if work[i][column])
        work[column], work[source] = work[source], work[column]
        lead = work[column][column]
        work[column] = [entry / lead for entry in work[column]]
        for i in range(size):
            factor = work[i][column]
            if i != column and factor:
                work[i] = [a - factor * b for a, b in zip(work[i], work[column], strict=True)]
    return [row[size:] for row in work]


def _negated(matrix: Rows) -> Rows:
    return [[-entry for entry in row] for row in matrix]


def _text_rows(matrix: Rows) -> list[list[str]]:
    return [[fraction_text(entry) for entry in row] for row in matrix]


def _text_pairs(pairs: Mapping[Pair, Fraction]) -> dict[str, str]:
    return {f"{i},{j}": fraction_text(value) for (i, j), value in pairs.items()}


def _read_pairs(content: Mapping[str, str]) -> dict[Pair, Fraction]:
    pairs: dict[Pair, Fraction] = {}
    for key, value in content.items():
        first, second = key.split(",")
        pairs[int(first), int(second)] = fraction_from(value)
    return pairs
