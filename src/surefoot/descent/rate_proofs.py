"""From floats of the solver to exact proofs.

Floats are only a suggestion: they are rounded to short rationals in the scaled coordinates of the program, taken to the
plain ones exactly, the value equations are solved exactly, and the certificate tests itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from surefoot.descent.exact_window import ExactWindow, Pair, value_balance
from surefoot.descent.lyapunov import LyapunovPoint, LyapunovProgram
from surefoot.descent.obstruction import Obstruction
from surefoot.descent.rate_certificate import ObstructionCertificate, RateCertificate
from surefoot.numerics.rational_matrices import RationalMatrix
from surefoot.numerics.rationals import round_to_bits

Rows = list[list[Fraction]]

__all__ = ["prove_obstruction", "prove_rate", "with_transient"]

# 2^-48 = 4e-15 is far below every margin that the solver resolves and keeps the rationals short.
BITS = 48
ZERO = Fraction(0)


def prove_rate(program: LyapunovProgram, point: LyapunovPoint, rho: Fraction) -> RateCertificate | None:
    """Turn a float Lyapunov point into an exact proof of the rate ``rho``; None where rounding destroys it."""
    if not point.margin > 0:
        return None
    memory, m = program.memory, program.method.m
    weight = 1 - m
    mu = _rounded(program.positivity_pairs, point.mu)
    p = value_balance(mu, memory + 1)
    lam = _rounded(program.decrease_pairs, point.lam)
    unfinished = RateCertificate(program.method, rho, memory, [], p, lam, mu)
    star = memory + 2
    for t, left in enumerate(unfinished.decrease_values()):
        key = (star, t) if left > 0 else (t, star)
        lam[key] += abs(left)
    window = ExactWindow(program.method, memory)
    P = _rounded_matrix(point.P).congruence(_to_scaled(program, window)).times(weight)
    outputs = window.outputs.part(slice(memory + 1), slice(window.size - 1))
    P -= _diagonal(p).congruence(outputs).times(m / 2)
    # V >= c |xi|^2 with a power of two c below the float estimate; dividing all by c makes it 1.
    scale = 1 / _power_of_two_below(0.9 * point.margin * float(weight) / _state_gain(program))
    certificate = RateCertificate(
        method=program.method,
        rho=rho,
        memory=memory,
        P=P.times(scale).fractions(),
        p=[scale * entry for entry in p],
        lam={pair: scale * value for pair, value in lam.items()},
        mu={pair: scale * value for pair, value in mu.items()},
    )
    return certificate if certificate.holds_on(window) else None


def with_transient(program: LyapunovProgram, certificate: RateCertificate) -> RateCertificate:
    """Add the smallest provable constant c of the start; the certificate as it was if none can be proved.

    The Lyapunov function is first exchanged for one of the same rate that stays farther above |xi|^2, where there is one.
    """
    settled = prove_rate(program, program.settle(program.margin(float(certificate.rho))), certificate.rho)
    if settled is not None:
        certificate = replace(settled, method=certificate.method)
    star = program.memory + 1
    back = _to_plain(program, star)
    scaled_P = RationalMatrix.of(certificate.P).congruence(back).fractions()
    start = back.part(slice(program.order), slice(None))
    P = np.array([[float(x) for x in row] for row in scaled_P])
    p = np.array([float(x) for x in certificate.p])
    squared_length = np.array([[float(x) for x in row] for row in (start.T @ start).fractions()])
    for room in (1.01, 1.1, 2.0, 10.0):
        bound, nu_values = program.transient(P, p, squared_length, room)
        if not (np.isfinite(bound) and np.isfinite(nu_values).all()):
            continue
        size = max(1.0, float(np.abs(nu_values).max()))
        nu = {
            pair: max(Fraction(size) * round_to_bits(float(value) / size, BITS), ZERO)
            for pair, value in zip(program.positivity_pairs, nu_values, strict=True)
        }
        left = [v + w for v, w in zip(value_balance(nu, star), certificate.p, strict=True)]
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
    window = ExactWindow(program.method, memory)
    moments = _rounded_matrix(candidate.Z).congruence(_to_plain(program, memory + 2).T)
    heights = moments.congruence(window.outputs.T)
    weight = 1 - m
    f = [weight * round_to_bits(float(h), BITS) + m / 2 * heights.entry(t, t) for t, h in enumerate(candidate.h)]
    certificate = ObstructionCertificate(program.method, rho, memory, moments.fractions(), f)
    return certificate if certificate.holds_on(window) else None


def _to_scaled(program: LyapunovProgram, window: ExactWindow) -> RationalMatrix:
    """Rows that map (xi, u_0, ..., u_l) to the scaled (s, g_0, ..., g_l): s = S xi, g = (u - m y) / (1 - m)."""
    points, m = program.memory + 1, program.method.m
    columns = slice(program.order + points)
    state = RationalMatrix.from_floats(program.coordinates.tolist()) @ window.states[0].part(slice(None), columns)
    outputs, gradients = (rows.part(slice(points), columns) for rows in (window.outputs, window.gradients))
    return state.over((gradients - outputs.times(m)).times(1 / (1 - m)))


def _to_plain(program: LyapunovProgram, points: int) -> RationalMatrix:
    """The inverse of ``_to_scaled`` for so many points: the window run in u = (1 - m) g + m y."""
    method, m = program.method, program.method.m
    A, C = RationalMatrix.of(method.A), RationalMatrix.of([method.C])
    B = RationalMatrix.of([[entry] for entry in method.B])
    columns = program.order + points
    unit = RationalMatrix([[int(i == j) for j in range(columns)] for i in range(columns)])
    coordinates = [[Fraction(float(entry)) for entry in row] for row in program.coordinates]
    state = RationalMatrix.of(_inverse(coordinates)) @ unit.part(slice(program.order), slice(None))
    rows = state
    for t in range(points):
        g = unit.part(slice(program.order + t, program.order + t + 1), slice(None))
        u = g.times(1 - m) + (C @ state).times(m)
        rows = rows.over(u)
        state = A @ state + B @ u
    return rows


def _rounded_matrix(values: np.ndarray) -> RationalMatrix:
    """A float matrix rounded to multiples of 2^-BITS."""
    return RationalMatrix([[round(Fraction(float(x)) * (1 << BITS)) for x in row] for row in values], 1 << BITS)


def _diagonal(values: Sequence[Fraction]) -> RationalMatrix:
    return RationalMatrix.of(
        [[value if i == j else ZERO for j in range(len(values))] for i, value in enumerate(values)]
    )


def _state_gain(program: LyapunovProgram) -> float:
    """Largest |xi_k|^2 over scaled X_k of length one."""
    inner = program.window - 1
    plain = np.linalg.inv(program.coordinates) @ program.state_rows[program.memory][:, :inner]
    return float(np.linalg.norm(plain, 2) ** 2)


def _power_of_two_below(value: float) -> Fraction:
    return Fraction(2) ** int(np.floor(np.log2(value)))


def _rounded(pairs: Sequence[Pair], values: np.ndarray) -> dict[Pair, Fraction]:
    return {pair: max(round_to_bits(float(value), BITS), ZERO) for pair, value in zip(pairs, values, strict=True)}


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
