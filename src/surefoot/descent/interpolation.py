"""Explicit functions of F_{m,L}: one that interpolates given points, and a one-dimensional trap for heavy ball.

References:
    Taylor, Hendrickx, Glineur, Smooth strongly convex interpolation, Math. Program. 2017.
    Lessard, Recht, Packard, Analysis and design of optimization algorithms via integral quadratic constraints,
    SIAM J. Optim. 2016 (the one-dimensional function).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from surefoot.descent.cycles import Cycle
from surefoot.numerics.conic import quadratic_program

Array = npt.NDArray[np.float64]

__all__ = ["HeavyBallTrap", "InterpolatingFunction"]


@dataclass(frozen=True)
class InterpolatingFunction:
    """The smallest-upper function of F_{m,L} through given points, gradients and values.

    With the convex part split off, Lt = L - m, g_i = u_i - m y_i, phi_i = f_i - m |y_i|^2 / 2, c_i = y_i - g_i / Lt,

        f(x) = m |x|^2 / 2 + min over the simplex of Lt |x - sum l_i c_i|^2 / 2 + sum l_i (phi_i - |g_i|^2 / (2 Lt)),
        grad f(x) = m x + Lt (x - sum l_i c_i) at the minimising l.

    Args:
        points: (k, d) y_i.
        gradients: (k, d) u_i.
        values: (k,) f_i.
        m: strong convexity.
        L: smoothness.
    """

    points: Array
    gradients: Array
    values: Array
    m: float
    L: float

    @classmethod
    def from_cycle(cls, cycle: Cycle) -> InterpolatingFunction:
        """The function on which a method cycles, in the method's own units, with its minimum 0 at 0."""
        L = float(cycle.method.L)
        points = np.array([[float(x) for x in point] for point in cycle.points])
        gradients = L * np.array([[float(x) for x in gradient] for gradient in cycle.gradients])
        values = L * np.array([float(value) for value in cycle.values])
        zero = np.zeros((1, points.shape[1]))
        return cls(
            np.vstack([points, zero]), np.vstack([gradients, zero]), np.append(values, 0.0), float(cycle.method.m), L
        )

    def value_and_grad(self, x: Array) -> tuple[float, Array]:
        """f(x) and grad f(x) for x (d,)."""
        rest = self.L - self.m
        slopes = self.gradients - self.m * self.points
        heights = self.values - 0.5 * self.m * np.sum(self.points**2, axis=1)
        centres = self.points - slopes / rest
        offsets = heights - np.sum(slopes**2, axis=1) / (2 * rest)
        share = _simplex_minimum(centres, offsets / rest, np.asarray(x, dtype=np.float64))
        apart = x - share @ centres
        value = 0.5 * self.m * float(x @ x) + 0.5 * rest * float(apart @ apart) + float(share @ offsets)
        return value, self.m * x + rest * apart


def _simplex_minimum(centres: Array, offsets: Array, x: Array) -> Array:
    """argmin over the simplex of |x - l'C|^2 / 2 + l'b: interior point, then the exact solve on its support."""
    size = len(offsets)
    Gram = centres @ centres.T
    linear = offsets - centres @ x
    ones = np.ones((1, size))
    rough = quadratic_program(
        Gram, linear, upper=(-np.eye(size), np.zeros(size)), equal=(ones, np.ones(1)), tolerance=1e-12
    ).x
    share = np.clip(rough, 0.0, None) / np.clip(rough, 0.0, None).sum()
    for threshold in (1e-4, 1e-6, 1e-8):
        support = np.flatnonzero(share > threshold)
        system = np.zeros((len(support) + 1, len(support) + 1))
        system[:-1, :-1] = Gram[np.ix_(support, support)]
        system[:-1, -1] = system[-1, :-1] = 1.0
        solution = np.linalg.lstsq(system, np.append(-linear[support], 1.0), rcond=None)[0]
        polished = np.zeros(size)
        polished[support] = solution[:-1]
        # Optimality on the simplex: non-negative shares, and no index with a smaller slope than the support's.
        slopes = Gram @ polished + linear + solution[-1]
        if polished.min() >= -1e-12 and slopes.min() >= -1e-11 * max(1.0, float(np.abs(linear).max())):
            return polished
    return share


@dataclass(frozen=True)
class HeavyBallTrap:
    """The one-dimensional function with m = 1, L = 25 on which heavy ball with Polyak's parameters cycles.

        f'(x) = 25 x          for x < 1,
                x + 24        for 1 <= x < 2,
                25 x - 24     for x >= 2.

    f is continuously differentiable but not twice so at 1 and 2. From x_{-1} = x_0 in [3.07, 3.46] the iterates
    fall into the cycle 792/1225 -> -2208/1225 -> 2592/1225; from 3.0 or 3.5 they converge to 0.
    """

    m: float = 1.0
    L: float = 25.0
    step_size: Fraction = Fraction(1, 9)
    momentum: Fraction = Fraction(4, 9)
    cycle: tuple[Fraction, Fraction, Fraction] = (Fraction(792, 1225), Fraction(-2208, 1225), Fraction(2592, 1225))

    def value(self, x: float | Fraction) -> float | Fraction:
        """f(x), exact for a rational x."""
        if x < 1:
            return 25 * x * x / 2
        if x < 2:
            return x * x / 2 + 24 * x - 12
        return 25 * x * x / 2 - 24 * x + 36

    def gradient(self, x: float | Fraction) -> float | Fraction:
        """f'(x), exact for a rational x."""
        if x < 1:
            return 25 * x
        return x + 24 if x < 2 else 25 * x - 24

    def run(self, start: float, steps: int) -> list[float]:
        """Iterates x_0, ..., x_steps of heavy ball from x_{-1} = x_0 = start."""
        alpha, beta = float(self.step_size), float(self.momentum)
        path, before = [float(start)], float(start)
        for _ in range(steps):
            here = path[-1]
            path.append(here + beta * (here - before) - alpha * float(self.gradient(here)))
            before = here
        return path
