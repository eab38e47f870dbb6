"""Quantiles of the smoothed ramp by quadrature, and a gambler's capital bet again: what the checkers need for bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

__all__ = ["betting_refutes", "quantile_interval"]

Array = np.ndarray[Any, np.dtype[Any]]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(40)
PANELS = 40


def _smoothed(t: float, sigma: float, slope: float) -> tuple[float, float]:
    """G_L(t) and 1 - G_L(t): the mean of Phi over a window of width 1 / L, by Gauss-Legendre panels."""
    if math.isinf(slope):
        return float(special.erfc(-t / sigma / math.sqrt(2)) / 2), float(special.erfc(t / sigma / math.sqrt(2)) / 2)
    half = 1 / (2 * slope)
    low, high = max(t - half, -40 * sigma), min(t + half, 40 * sigma)
    ends = np.linspace(low, max(high, low), PANELS + 1)
    centres, reach = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2
    points = (centres[:, None] + reach[:, None] * NODES) / sigma / math.sqrt(2)
    scale = WEIGHTS * reach[:, None] / (2 * half)
    inside, outside = float((scale * special.erfc(-points) / 2).sum()), float((scale * special.erfc(points) / 2).sum())
    above, below = max(t + half - max(high, -40 * sigma), 0.0), max(min(low, 40 * sigma) - (t - half), 0.0)
    return inside + above / (2 * half), outside + below / (2 * half)


def quantile_interval(probability: float, sigma: float, slope: float) -> tuple[float, float]:
    """An interval around the t with ``G_L(t) = p``, by bisection; infinite ends for p = 0 and 1."""
    if not 0 <= probability <= 1:
        raise ValueError(f"{probability} is no probability")
    if probability in (0.0, 1.0):
        t = math.inf if probability else -math.inf
        return t, t
    far = 40 * sigma + (0 if math.isinf(slope) else 1 / slope)
    low, high = -far, far
    for _ in range(70):
        middle = (low + high) / 2
        inside, outside = _smoothed(middle, sigma, slope)
        below = inside < probability if probability <= 0.5 else outside > 1 - probability
        low, high = (middle, high) if below else (low, middle)
    room = 1e-11 * (sigma + abs(low))
    return low - room, high + room


def betting_refutes(values: Array, alpha: float, mean: float) -> bool:
    """Whether a gambler who bets that the mean is above `mean` ever multiplies its capital by 1 / alpha.

    The bets are ``min(sqrt(2 ln(1 / alpha) / (n v)), 0.75 / mean)`` with the variance v of the earlier draws, shrunk towards 1 / 4.
    """
    if mean <= 0:
        return True
    n, level = len(values), 2 * math.log(1 / alpha)
    total, square, capital, variance = 0.5, 0.25, 0.0, 0.25
    goal = math.log(1 / alpha)
    for j, value in enumerate(values.tolist()):
        bet = min(math.sqrt(level / (n * variance)), 0.75 / mean)
        capital += math.log1p(bet * (value - mean))
        if capital >= goal:
            return True
        total += value
        square += (value - total / (j + 2)) ** 2
        variance = square / (j + 2)
    return False
