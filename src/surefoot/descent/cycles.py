"""Disproof of convergence: a cycle of a fixed-step method on some function of F_{m,L}, in exact rationals.

A method has no rate on F_{m,L} if it can run in a circle: points y_0, ..., y_{K-1} away from the minimiser,
gradients u_k and values f_k that some f in F_{m,L} interpolates, with xi_{k+1} = A xi_k + B u_k and xi_K = xi_0.

Search. Averaging a cycle over its K starting points, in a space of K times the dimension, gives one whose
Gram matrix is circulant and whose values are all equal. So one may look among rotations only: each harmonic
omega = 2 pi l / K contributes a plane in which u turns at angle omega and y = H(e^{i omega}) u, with
H(z) = C (z I - A)^{-1} B, and the unknown Gram matrix becomes the vector of non-negative weights of the
harmonics (and of one constant direction). All interpolation inequalities are linear in it: the small
semidefinite program over Gram matrices is a linear program with about K/2 unknowns, and loses nothing.

References:
    Taylor, Hendrickx, Glineur, Smooth strongly convex interpolation, Math. Program. 2017.
    Goujaud, Taylor, Dieuleveut, Provable non-accelerations of the heavy-ball method, 2023 (cycles of heavy ball).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog

from surefoot.descent.momentum import momentum_parameters
from surefoot.descent.problem import FixedStep
from surefoot.numerics.rationals import fraction_from, fraction_text, null_space, round_to_bits

Array = npt.NDArray[np.float64]
Vector = tuple[Fraction, ...]

__all__ = ["Cycle", "find_cycle", "heavy_ball_cycle_slack", "heavy_ball_threshold"]

LONGEST = 12
# Below this margin of the linear program (at unit weight) a cycle is not looked for in rationals.
SMALLEST_MARGIN = 1e-11
BITS = 60
ZERO = Fraction(0)


@dataclass(frozen=True)
class Cycle:
    """A proved cycle of a method on a function of F_{m,L}, in units where L = 1; the minimiser is 0, f* = 0.

    Attributes:
        method: the method, in the user's units.
        states: K states, each n vectors of the d-dimensional space.
        gradients: K gradients u_k (d,), in units where L = 1.
        values: K function values f_k, in units where L = 1.
    """

    method: FixedStep
    states: tuple[tuple[Vector, ...], ...]
    gradients: tuple[Vector, ...]
    values: Vector

    @property
    def period(self) -> int:
        """Number K of points."""
        return len(self.values)

    @property
    def points(self) -> tuple[Vector, ...]:
        """The K points y_k = C xi_k at which the gradient is taken."""
        return tuple(
            tuple(
                sum((c * vector[a] for c, vector in zip(self.method.C, state, strict=True)), ZERO)
                for a in range(len(state[0]))
            )
            for state in self.states
        )

    def closes(self) -> bool:
        """Exact: each state follows from the one before, and the first one from the last."""
        scaled = self.method.scaled()
        for k, state in enumerate(self.states):
            following = self.states[(k + 1) % self.period]
            for i, row in enumerate(scaled.A):
                for a, gradient in enumerate(self.gradients[k]):
                    reached = scaled.B[i] * gradient
                    reached += sum((w * vector[a] for w, vector in zip(row, state, strict=True)), ZERO)
                    if reached != following[i][a]:
                        return False
        return True

    def slack(self) -> Fraction:
        """Smallest interpolation inequality q_ij over all pairs of points, the minimiser included."""
        m = self.method.m / self.method.L
        zero = (ZERO,) * len(self.gradients[0])
        points = [*self.points, zero]
        gradients = [*self.gradients, zero]
        values = [*self.values, ZERO]
        slacks: list[Fraction] = []
        for i in range(self.period + 1):
            for j in range(self.period + 1):
                if i == j:
                    continue
                apart = [a - b for a, b in zip(points[i], points[j], strict=True)]
                bend = [a - b - m * d for a, b, d in zip(gradients[i], gradients[j], apart, strict=True)]
                rise = values[i] - values[j] - _inner(gradients[j], apart)
                slacks.append(rise - m / 2 * _inner(apart, apart) - _inner(bend, bend) / (2 * (1 - m)))
        return min(slacks)

    def is_proof(self) -> bool:
        """Exact test: the cycle closes, a function of F_{m,L} interpolates it, and it stays off the minimiser."""
        return self.closes() and self.slack() >= 0 and any(any(point) for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """All numbers as text "a/b"."""
        return {
            "kind": "cycle",
            "method": self.method.to_json(),
            "states": [[[fraction_text(x) for x in vector] for vector in state] for state in self.states],
            "gradients": [[fraction_text(x) for x in vector] for vector in self.gradients],
            "values": [fraction_text(x) for x in self.values],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cycle:
        """Read the form of ``to_json``."""
        return cls(
            method=FixedStep.from_json(content["method"]),
            states=tuple(
                tuple(tuple(fraction_from(x) for x in vector) for vector in state) for state in content["states"]
            ),
            gradients=tuple(tuple(fraction_from(x) for x in vector) for vector in content["gradients"]),
            values=tuple(fraction_from(x) for x in content["values"]),
        )


def find_cycle(method: FixedStep, *, periods: Sequence[int] = tuple(range(2, LONGEST + 1))) -> Cycle | None:
    """Shortest cycle of a method on a function of F_{m,L}, proved in rationals; None where none was found.

    The search over a period is complete: if the method has any cycle of that period with strict
    interpolation inequalities, in any dimension, the linear program finds one.

    Args:
        method: the method with its constants.
        periods: lengths to try, in this order; 2 to 60 each.

    Returns:
        A proved ``Cycle``, or None. None proves nothing: the method may still fail otherwise.

    Raises:
        ValueError: a period is out of range.
    """
    if any(not 2 <= period <= 60 for period in periods):
        raise ValueError(f"periods must lie in 2 to 60, got {list(periods)}")
    for period in periods:
        weights = _circulant_weights(method.scaled(), period)
        if weights is None:
            continue
        cycle = _exact_cycle(method, period, *weights)
        if cycle is not None and cycle.is_proof():
            return cycle
    return None


def _frequencies(period: int) -> Array:
    return 2 * np.pi * np.arange(1, period // 2 + 1) / period


def _steady_states(method: FixedStep, period: int) -> Any:
    """Complex steady states (frequencies, n) for the input e^{i omega k}; None at a resonance of A."""
    A, B, _ = method.arrays()
    turned = np.exp(1j * _frequencies(period))[:, None, None] * np.eye(method.order) - A
    if np.linalg.cond(turned).max() > 1e12:
        return None
    return np.linalg.solve(turned, np.broadcast_to(B.astype(complex)[:, None], (len(turned), method.order, 1)))[..., 0]


def _circulant_weights(method: FixedStep, period: int) -> tuple[Array, float] | None:
    """Weights of harmonics, squared constant offset and common value with the largest common slack."""
    steady: Any = _steady_states(method, period)
    if steady is None:
        return None
    m = float(method.m)
    transfer = steady @ method.arrays()[2]
    lags = np.arange(period)
    turn: Any = np.exp(1j * np.outer(lags, _frequencies(period)))
    # Rows over lag d = i - j: inner products of the two points at that lag, one column a harmonic.
    uu, yy = turn.real, np.abs(transfer) ** 2 * turn.real
    y_late_u = (transfer * turn).real
    u_late_y = (np.conj(transfer) * turn).real
    bent = 1 / (2 * (1 - m))
    u_squared, y_squared, u_y = uu[0], yy[0], y_late_u[0]
    du_squared, dy_squared = 2 * (uu[0] - uu[1:]), 2 * (yy[0] - yy[1:])
    du_dy = 2 * u_y - y_late_u[1:] - u_late_y[1:]
    # q_ij with i at lag d after j; its constant offset drops out of all differences.
    pairs = -(y_late_u[1:] - u_y) - bent * (du_squared + m * dy_squared - 2 * m * du_dy)
    below = -bent * (u_squared + m * y_squared - 2 * m * u_y)
    above = u_y + below
    offset = -bent * (m - m**2) - m**2 * bent
    rows = np.vstack([pairs, below, above])
    columns = np.zeros((len(rows), 3))
    columns[-2:, 0] = offset
    columns[-2, 1], columns[-1, 1] = 1.0, -1.0
    columns[:, 2] = -1.0
    harmonics = rows.shape[1]
    answer = linprog(
        c=np.array([0.0] * (harmonics + 2) + [-1.0]),
        A_ub=-np.hstack([rows, columns]),
        b_ub=np.zeros(len(rows)),
        A_eq=np.array([[1.0] * (harmonics + 1) + [0.0, 0.0]]),
        b_eq=np.ones(1),
        bounds=[(0, None)] * (harmonics + 1) + [(None, None), (None, 1.0)],
        method="highs",
    )
    if answer.status != 0 or answer.x[-1] <= SMALLEST_MARGIN:
        return None
    return answer.x[: harmonics + 1], float(answer.x[-2])


def _exact_cycle(method: FixedStep, period: int, weights: Array, value: float) -> Cycle | None:
    """Round a float cycle to rationals that close exactly."""
    scaled = method.scaled()
    steady = _steady_states(scaled, period)
    if steady is None:
        return None
    closing = null_space(_closure(scaled, period))
    steps = np.arange(period)
    coordinates: list[tuple[Array, Array]] = []
    for weight, omega, state in zip(weights[:-1], _frequencies(period), steady, strict=True):
        if weight < 1e-9 * float(weights.max()):
            continue
        turn: Any = np.exp(1j * omega * steps) * math.sqrt(weight)
        coordinates.append((state.real * math.sqrt(weight), turn.real))
        if 2 * omega < 2 * np.pi * (1 - 1e-9):
            coordinates.append((state.imag * math.sqrt(weight), turn.imag))
    if weights[-1] > 1e-9 * float(weights.max()):
        point = np.array([float(entry) for entry in method.fixed_point])
        coordinates.append((point * math.sqrt(weights[-1]), np.zeros(period)))
    columns = [_rounded_solution(closing, np.concatenate(pair), method.order) for pair in coordinates]
    states = [tuple(tuple(column[i] for column in columns) for i in range(method.order))]
    gradients = [tuple(column[method.order + k] for column in columns) for k in range(period)]
    for gradient in gradients[:-1]:
        states.append(
            tuple(
                tuple(
                    sum((w * vector[a] for w, vector in zip(row, states[-1], strict=True)), ZERO) + push * gradient[a]
                    for a in range(len(columns))
                )
                for row, push in zip(scaled.A, scaled.B, strict=True)
            )
        )
    common = round_to_bits(value, BITS)
    return Cycle(method, tuple(states), tuple(gradients), (common,) * period)


def _closure(method: FixedStep, period: int) -> list[list[Fraction]]:
    """Rows of xi_K - xi_0 = 0 over the unknowns (xi_0, u_0, ..., u_{K-1}) of one coordinate."""
    order = method.order
    size = order + period
    state = [[Fraction(int(i == j)) for j in range(size)] for i in range(order)]
    for k in range(period):
        state = [
            [
                sum((w * other[j] for w, other in zip(row, state, strict=True)), ZERO)
                + (push if j == order + k else ZERO)
                for j in range(size)
            ]
            for row, push in zip(method.A, method.B, strict=True)
        ]
    return [[entry - int(i == j) for j, entry in enumerate(row)] for i, row in enumerate(state)]


def _rounded_solution(basis: list[list[Fraction]], wanted: Array, order: int) -> list[Fraction]:
    """The combination of null vectors whose free entries are the rounded wanted ones."""
    solution = [ZERO] * len(wanted)
    for vector in basis:
        # Each null vector has a single free column: the last one where it is 1 and no other vector is non-zero.
        free = next(
            j
            for j, entry in enumerate(vector)
            if entry == 1 and all(other is vector or other[j] == 0 for other in basis)
        )
        weight = round_to_bits(float(wanted[free]), BITS)
        solution = [a + weight * b for a, b in zip(solution, vector, strict=True)]
    return solution


def _inner(left: Sequence[Fraction], right: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(left, right, strict=True)), ZERO)


def heavy_ball_cycle_slack(kappa: float, period: int) -> float:
    """Closed-form slack of the regular K-gon as a cycle of heavy ball with Polyak's parameters, L = 1.

    Points x_k = (cos 2 pi k / K, sin 2 pi k / K), u_k = ((1 + beta) x_k - beta x_{k-1} - x_{k+1}) / alpha. The
    cycle exists on F_{m,L} exactly where the slack is not negative: the smaller of the slacks between two points
    and of the room that both inequalities with the minimiser leave for the common value.

    Args:
        kappa: condition number L / m.
        period: K >= 3.
    """
    if period < 3 or not kappa > 1:
        raise ValueError(f"expected kappa > 1 and a period of at least 3, got {kappa} and {period}")
    m = 1.0 / kappa
    chosen = momentum_parameters("hb", m, 1.0)
    angles = 2 * np.pi * np.arange(-1, period + 1) / period
    x = np.column_stack([np.cos(angles), np.sin(angles)])
    before, here, after = x[:-2], x[1:-1], x[2:]
    u = ((1 + chosen.momentum) * here - chosen.momentum * before - after) / chosen.step_size

    def room(first: Array, second: Array, slope: Array, other: Array) -> float:
        """R_ij + u_j (y_i - y_j) for values left out."""
        apart, change = first - second, slope - other
        bent = change @ change + m * apart @ apart - 2 * m * change @ apart
        return float(other @ apart + bent / (2 * (1 - m)))

    between = [-room(here[i], here[0], u[i], u[0]) for i in range(1, period)]
    zero = np.zeros(2)
    lowest = room(here[0], zero, u[0], zero)
    highest = -room(zero, here[0], zero, u[0])
    return min(min(between), highest - lowest)


def heavy_ball_threshold(period: int) -> float:
    """Smallest condition number from which heavy ball with Polyak's parameters has a cycle of this period."""
    low, high = 1.01, 4.0
    while heavy_ball_cycle_slack(high, period) < 0:
        low, high = high, 2 * high
        if high > 1e12:
            raise ValueError(f"no condition number below 1e12 has a cycle of period {period}")
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if heavy_ball_cycle_slack(middle, period) < 0:
            low = middle
        else:
            high = middle
    return high
