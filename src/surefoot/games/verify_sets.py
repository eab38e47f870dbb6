"""The checkers' projections onto strategy sets, in exact rationals, and what a player could gain within its set."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.games.problem import SmoothGame
from surefoot.numerics.intervals import Interval
from surefoot.numerics.rationals import sqrt_bounds
from surefoot.numerics.sets import Ball, Simplex

Array = np.ndarray[Any, np.dtype[Any]]
ZERO = Fraction(0)


def exact(x: Array) -> list[Fraction]:
    """Floats as the rationals they stand for."""
    return [Fraction(float(v)) for v in x]


def nearest(game: SmoothGame, i: int, point: Sequence[Fraction]) -> list[Fraction]:
    """The projection of a point onto player i's set (of a ball to 2^-80)."""
    own, each = game.slices[i], game.sets[i] if game.sets else None
    if isinstance(each, Simplex):
        ordered, total, theta = sorted(point, reverse=True), ZERO, ZERO
        for count, value in enumerate(ordered, 1):
            total += value
            if value * count > total - Fraction(each.mass):
                theta = (total - Fraction(each.mass)) / count
        return [max(v - theta, ZERO) for v in point]
    if isinstance(each, Ball):
        centre = exact(np.broadcast_to(np.asarray(each.centre, dtype=np.float64), len(point)))
        away = [p - c for p, c in zip(point, centre, strict=True)]
        size = _length(away)
        ratio = min(Fraction(1), Fraction(each.radius) / size) if size else Fraction(1)
        return [c + a * ratio for c, a in zip(centre, away, strict=True)]
    ends = zip(game.lower[own], game.upper[own], point, strict=True)
    return [min(max(p, _end(low, p)), _end(high, p)) for low, high, p in ends]


def _end(value: float, otherwise: Fraction) -> Fraction:
    return Fraction(float(value)) if np.isfinite(value) else otherwise


def _length(d: Sequence[Fraction]) -> Fraction:
    """Upper bound of the Euclidean length, to 2^-80 of itself."""
    largest = max((abs(v) for v in d), default=ZERO)
    return largest * sqrt_bounds(sum(((v / largest) ** 2 for v in d), ZERO))[1] if largest else ZERO


def distances(game: SmoothGame, x: Array) -> list[Fraction]:
    """How far each player's strategies are from its set."""
    points = exact(x)
    return [
        _length([p - q for p, q in zip(points[own], nearest(game, i, points[own]), strict=True)])
        for i, own in enumerate(game.slices)
    ]


def moves(game: SmoothGame, x: Array, gradient: Interval, step: Array) -> Array:
    """Upper bounds (N,) of |x - Proj(x - h F(x))| for all F within the enclosure: a projection moves points no further apart."""
    points, middle = exact(x), exact(gradient.mid)
    found = []
    for i, own in enumerate(game.slices):
        h = exact(step[own])
        target = [p - s * g for p, s, g in zip(points[own], h, middle[own], strict=True)]
        move = _length([p - q for p, q in zip(points[own], nearest(game, i, target), strict=True)])
        spread = [
            s * max(Fraction(float(b)) - m, m - Fraction(float(a)))
            for s, a, b, m in zip(h, gradient.low[own], gradient.high[own], middle[own], strict=True)
        ]
        each = game.sets[i] if game.sets else None
        inexact = Fraction(each.radius) / 2**78 if isinstance(each, Ball) else ZERO
        found.append(float(np.nextafter(float(move + _length(spread) + inexact), np.inf)))
    return np.array(found)


def most_gained(
    game: SmoothGame, i: int, x: Array, gradient: Interval, mu: Fraction, ends: Sequence[tuple[float, float]]
) -> Fraction:
    """Upper bound of -g d - mu d^2 / 2 over the admissible moves d, coordinate by coordinate, or over a ball as a whole."""
    each = game.sets[i] if game.sets else None
    low, high, point = exact(gradient.low), exact(gradient.high), exact(x)
    shift, gain = ZERO, ZERO
    if isinstance(each, Simplex):
        # subtracting one number from all entries of g changes nothing where probabilities keep their sum
        shift = sum(((a + b) / 2 * p for a, b, p in zip(low, high, point, strict=True)), ZERO) / sum(point, ZERO)
        gain = abs(shift) * abs(sum(point, ZERO) - Fraction(each.mass))
    for a, b, p, (least, most) in zip(low, high, point, ends, strict=True):
        best = ZERO
        for g in (a - shift, b - shift):
            d = -g / mu
            d = max(d, Fraction(float(least)) - p) if np.isfinite(least) else d
            d = min(d, Fraction(float(most)) - p) if np.isfinite(most) else d
            best = max(best, -g * d - mu * d * d / 2)
        gain += best
    if isinstance(each, Ball):
        centre = exact(np.broadcast_to(np.asarray(each.centre, dtype=np.float64), len(point)))
        size = _length([max(abs(a), abs(b)) for a, b in zip(low, high, strict=True)])
        slope = sum((max(a * (p - c), b * (p - c)) for a, b, p, c in zip(low, high, point, centre, strict=True)), ZERO)
        gain = min(gain, max(ZERO, Fraction(each.radius) * size + slope))
    return gain
