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
from surefoot.descent.start_program import StartProgram
from surefoot.numerics.rational_matrices import RationalMatrix
from surefoot.numerics.rationals import round_to_bits

Rows = list[list[Fraction]]

__all__ = ["prove_obstruction", "prove_rate", "with_transient"]

# 2^-48 = 4e-15 is far below every margin that the solver resolves and keeps the rationals short.
BITS = 48
# Factors on the smallest constant of the start, for a margin that survives rounding.
ROOMS = (1.01, 1.1, 2.0, 10.0)
ZERO = Fraction(0)


def prove_rate(program: LyapunovProgram, point: LyapunovPoint, rho: Fraction) -> RateCertificate | None:
    """Turn a float Lyapunov point into an exact proof of the rate ``rho``; None where rounding destroys it."""
    if not point.margin > 0:
        return None
    # V >= c |xi|^2 with a power of two c below the float estimate; dividing all by c makes it 1.
    share = 0.9 * point.margin * float(1 - program.method.m) / _state_gain(program)
    window = ExactWindow(program.method, program.memory)
    certificate = _rational(program, window, point, rho, 1 / _power_of_two_below(share))
    return certificate if certificate.holds_on(window) else None


def _rational(
    program: LyapunovProgram, window: ExactWindow, point: LyapunovPoint, rho: Fraction, scale: Fraction
) -> RateCertificate:
    """The point in plain coordinates and short rationals, times ``scale``, with its value equations solved."""
    memory, m = program.memory, program.method.m
    mu = _rounded(program.positivity_pairs, point.mu)
    p = value_balance(mu, memory + 1)
    lam = _rounded(program.decrease_pairs, point.lam)
    unfinished = RateCertificate(program.method, rho, memory, [], p, lam, mu)
    _balance(lam, unfinished.decrease_values(), memory + 2)
    P = _rounded_matrix(point.P).congruence(_to_scaled(program, window)).times(1 - m)
    outputs = window.outputs.part(slice(memory + 1), slice(window.size - 1))
    P -= _diagonal(p).congruence(outputs).times(m / 2)
    return RateCertificate(
        method=program.method,
        rho=rho,
        memory=memory,
        P=P.times(scale).fractions(),
        p=[scale * entry for entry in p],
        lam={pair: scale * value for pair, value in lam.items()},
        mu={pair: scale * value for pair, value in mu.items()},
    )


def _balance(multipliers: dict[Pair, Fraction], left: Sequence[Fraction], star: int) -> None:
    """Add to the multipliers with the minimiser what takes the left-over function values away."""
    for t, excess in enumerate(left):
        multipliers[(star, t) if excess > 0 else (t, star)] += abs(excess)


def with_transient(program: LyapunovProgram, certificate: RateCertificate) -> RateCertificate:
    """The proof of the same rate with the smallest provable constant c of the start.

    The Lyapunov function is exchanged for the one with the smallest c; where none can be proved, the certificate comes back
    as it was.
    """
    window = ExactWindow(program.method, program.memory)
    star = program.memory + 1
    for start in StartProgram(program).solve(float(certificate.rho), ROOMS):
        if not start.point.margin > 0:
            continue
        wanted = start.length / float(1 - program.method.m)
        scale = _up(wanted)
        found = _rational(program, window, start.point, certificate.rho, scale)
        nu = {pair: scale * value for pair, value in _rounded(program.positivity_pairs, start.nu).items()}
        _balance(nu, [v + w for v, w in zip(value_balance(nu, star), found.p, strict=True)], star)
        proved = replace(found, method=certificate.method, transient=_up(start.bound * float(scale) / wanted), nu=nu)
        if proved.holds_on(window) and proved.bounds_transient():
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
