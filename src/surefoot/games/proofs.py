"""What the certificates prove with outward rounding: margins, factors of a step, moves, regrets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from surefoot.games.problem import SmoothGame
from surefoot.games.small_gain import Bounds
from surefoot.numerics.interval_matrices import eigenvalue_bounds
from surefoot.numerics.intervals import Interval, sqrt
from surefoot.numerics.sets import Ball, Box, Set, Simplex

Array = np.ndarray[Any, np.dtype[Any]]
EPS = float(np.finfo(np.float64).eps)


def proved_margin(bounds: Bounds, vector: Array) -> float:
    """The largest float a for which K_s v >= a v is proved on every cell."""
    product = Interval.point(bounds.mu) * vector - Interval.point(bounds.coupling) @ vector
    return float((product / vector).low.min())


def euler_product(bounds: Bounds, step: Array, vector: Array) -> Interval:
    """T_s vector of every cell (cells, N) for steps (N,), one a player."""
    low, high = 1.0 - Interval.point(step) * bounds.mu, 1.0 - Interval.point(step) * bounds.ell
    own = np.maximum(low.magnitude, high.magnitude)
    return Interval.point(own) * vector + (Interval.point(bounds.coupling) @ vector) * step


def proved_factor(bounds: Bounds, step: Array, vector: Array) -> float:
    """The smallest float q for which T_s v <= q v is proved on every cell."""
    return float((euler_product(bounds, step, vector) / vector).high.max())


def proved_metric_margin(bounds: Bounds, weights: Array) -> float:
    """A proved lower bound of a*(w) over all cells.

    Cells far above the smallest eigenvalue need no intervals: LAPACK's eigenvalues err by a few units of rounding of the norm.
    """
    root = np.sqrt(weights)
    K = bounds.comparison * (root[:, None] / root[None, :])
    symmetric = 0.5 * (K + np.swapaxes(K, -1, -2))
    values = np.linalg.eigvalsh(symmetric)[:, 0]
    near = np.flatnonzero(values <= values.min() + 1e-6 * np.abs(symmetric).max())[:64]
    ratio = sqrt(Interval.point(weights)).reshape(-1, 1) / sqrt(Interval.point(weights)).reshape(1, -1)
    proved = math.inf
    for cell in near:
        scaled = (Interval.point(np.diag(bounds.mu[cell])) - Interval.point(bounds.coupling[cell])) * ratio
        proved = min(proved, eigenvalue_bounds(0.5 * (scaled + scaled.T))[0])
    return proved


def moved(game: SmoothGame, gradient: Interval, x: Array, step: Array) -> Array:
    """Upper bounds (N,) of |x - Proj(x - h F(x))| blockwise."""
    return block_norms(game, enclosed_projection(game, x - gradient * step) - x)


def enclosed_projection(game: SmoothGame, target: Interval) -> Interval:
    """Where the projections of all points of a box (d,) onto the strategy sets lie."""
    if not game.sets:
        return Interval(game.project(target.low), game.project(target.high))
    parts = [_onto(each, target[own]) for each, own in zip(game.sets, game.slices, strict=True)]
    return Interval(np.concatenate([p.low for p in parts]), np.concatenate([p.high for p in parts]))


def _onto(each: Set, target: Interval) -> Interval:
    if isinstance(each, Ball):
        centre = np.broadcast_to(np.asarray(each.centre, dtype=np.float64), target.shape)
        away = target - centre
        ratio = each.radius / sqrt((away**2).sum())
        inside = Interval(np.minimum(np.maximum(ratio.low, 0.0), 1.0), np.minimum(np.maximum(ratio.high, 0.0), 1.0))
        return away * inside + centre
    if isinstance(each, Simplex):
        return _onto_simplex(each.mass, target)
    if isinstance(each, Box):
        low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), target.shape) for end in (each.low, each.high))
        return Interval(np.clip(target.low, low, high), np.clip(target.high, low, high))
    return target


def _onto_simplex(mass: float, target: Interval) -> Interval:
    """max(t - theta, 0), with proved ends of the theta at which the entries sum to the mass."""
    middle = torch.as_tensor(target.mid)
    projected = Simplex(mass).project(middle)
    theta = float((middle - projected)[projected > 0].mean())

    def sums(points: Array, at: float) -> Interval:
        shifted = Interval.point(points) - at
        return Interval(np.maximum(shifted.low, 0.0), np.maximum(shifted.high, 0.0)).sum()

    room = 4 * EPS * float(np.abs(target.mid).max() + mass)
    low, high = theta, theta
    while not sums(target.low, low).low >= mass:
        low, room = theta - room, 2 * room
    while not sums(target.high, high).high <= mass:
        high, room = theta + room, 2 * room
    return Interval(np.maximum((target - high).low, 0.0), np.maximum((target - low).high, 0.0))


def block_norms(game: SmoothGame, vector: Interval) -> Array:
    """Upper bounds (N,) of the Euclidean norms of the blocks."""
    squares = vector**2
    return np.array([float(sqrt(squares[s].sum()).high) for s in game.slices])


def regret_bounds(game: SmoothGame, gradient: Interval, x: Array, mu: Array) -> Array:
    """Upper bounds (N,) of what each player could still gain alone: max over y of -g (y - x) - mu |y - x|^2 / 2, g = F_i(x)."""
    low, high = (game.lower, game.upper) if game.region is None else (game.region[0], game.region[1])
    regret = np.empty(len(game.blocks))
    for i, own in enumerate(game.slices):
        each, g, extra = game.sets[i] if game.sets else None, gradient[own], 0.0
        if isinstance(each, Simplex):
            # within the simplex a common part of all entries of g changes nothing
            common = float((g.mid * x[own]).sum() / x[own].sum())
            g = g - common
            extra = float((abs(Interval.point(x[own]).sum() - each.mass) * abs(common)).high)
        free = -(g / mu[i])
        d = Interval(
            np.clip(free.low, low[own] - x[own], high[own] - x[own]),
            np.clip(free.high, low[own] - x[own], high[own] - x[own]),
        )
        gain = -(g * d) - 0.5 * mu[i] * d**2
        regret[i] = float((Interval(np.maximum(gain.low, 0.0), np.maximum(gain.high, 0.0)).sum() + extra).high)
        if isinstance(each, Ball):
            away = x[own] - np.broadcast_to(np.asarray(each.centre, dtype=np.float64), x[own].shape)
            regret[i] = min(regret[i], max(0.0, float((sqrt((g**2).sum()) * each.radius + (g * away).sum()).high)))
    return regret
