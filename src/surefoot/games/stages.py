"""Runge-Kutta steps one by one: their stages leave the region, so the bounds must hold on a larger one.

The stages of a step from x are x + h k / 2 and x + h k with k = -F at earlier stages, so they lie within h max |F| of x, the largest F
taken where the stages lie. On a box that contains all of them the rate alpha and the Lipschitz constant beta of one w-norm give, for
h <= 2 alpha / beta^2 (radius of circle contractivity 1), a step that contracts by q^2 = 1 - (alpha h / 3)(1 - h beta^2 / (2 alpha)).

References:
    G. Dahlquist and R. Jeltsch, "Generalized disks of contractivity for explicit and implicit Runge-Kutta methods", 1979.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.games.field import Field
from surefoot.games.problem import SmoothGame
from surefoot.games.region import RegionBounds, bound_region
from surefoot.games.small_gain import best_weights, classical_steps, lipschitz, margin
from surefoot.numerics.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Stages:
    """What is known about single Runge-Kutta steps.

    Args:
        step: the length.
        factor: of one step in the w-norm; 1 where nothing is certified.
        weights: w; None where nothing is certified.
        reach: how far stages get from the step's start (d,).
        region: bounds on the region enlarged by that; for quadratic games the region itself, whose bounds hold everywhere.
        reason: why single steps are not certified, or "".
    """

    step: float
    factor: float
    weights: Array | None
    reach: Array
    region: RegionBounds
    reason: str = ""


def step_factor(alpha: float, beta: float, step: float) -> float:
    """q of one Runge-Kutta step; 1 where h > 2 alpha / beta^2."""
    inside = 1 - step * beta**2 / (2 * alpha)
    return math.sqrt(max(0.0, 1 - alpha * step / 3 * inside)) if alpha > 0 and inside > 0 else 1.0


def enlarge(
    game: SmoothGame, field: Field, region: RegionBounds, step: float | None, *, cells: int, share: float
) -> Stages:
    """The step, bounds on where its stages may lie, and the factor that follows.

    Args:
        game, field, region: the game and its certified region.
        step: the length; None takes the best one of the enlarged region that is no longer than the region's own.
    """
    alpha, beta, _ = _constants(region)
    chosen = step or (alpha / beta**2 if alpha > 0 else 0.5 / beta)
    if game.region is None or game.jacobian is not None:
        return _stages(chosen, np.zeros(game.size), region)
    reach = reach_of_stages(game, field, chosen)
    if reach is None:
        return Stages(
            chosen, 1.0, None, np.zeros(game.size), region, "where the stages of a step may lie could not be bounded"
        )
    wide = bound_region(enlarged(game, reach), cells=cells, share=share, field=field)
    alpha, beta, _ = _constants(wide)
    if alpha <= 0:
        return Stages(chosen, 1.0, None, reach, wide, "no rate is certified where the stages of a step may lie")
    return _stages(step or min(chosen, alpha / beta**2), reach, wide)


def _constants(region: RegionBounds) -> tuple[float, float, Array]:
    weights = best_weights(region.bounds.comparison)
    return margin(region.bounds.comparison, weights), lipschitz(region.bounds, weights), weights


def _stages(step: float, reach: Array, region: RegionBounds) -> Stages:
    alpha, beta, weights = _constants(region)
    factor = step_factor(alpha, beta, step)
    reason = (
        ""
        if factor < 1
        else f"the step is longer than {classical_steps(alpha, beta).rk4 if alpha > 0 else 0.0:.4g}, up to which single steps contract"
    )
    return Stages(step, factor, weights if factor < 1 else None, reach, region, reason)


def enlarged(game: SmoothGame, reach: Array) -> SmoothGame:
    """The game on its region plus and minus the reach; stages are not projected, so the strategy sets do not cut it."""
    assert game.region is not None
    free = np.full(game.size, np.inf)
    region = np.stack([np.nextafter(game.region[0] - reach, -np.inf), np.nextafter(game.region[1] + reach, np.inf)])
    return dataclasses.replace(game, region=region, lower=-free, upper=free, sets=())


def reach_of_stages(game: SmoothGame, field: Field, step: float) -> Array | None:
    """r (d,) with h |F| <= r wherever within r of the region; None if none was found (or F is not defined there)."""
    assert game.region is not None
    reach = np.zeros(game.size)
    for growth in (1.0, 1.25, 1.5, 2.0, 3.0):
        try:
            largest = field.gradient_box(Interval(game.region[0] - reach, game.region[1] + reach)).magnitude
        except ValueError:
            return None  # a formula is not defined on the larger box
        needed = np.nextafter(step * largest * (1 + 2e-6), np.inf)  # the checker's enclosure may be a little wider
        if not np.isfinite(needed).all():
            return None
        if (needed <= reach).all():
            return reach
        reach = growth * needed
    return None
