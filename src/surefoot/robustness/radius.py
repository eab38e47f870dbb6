"""Certified radii: the inverse of the Gaussian-smoothed ramp, which no smoothed L-Lipschitz function can outrun.

For ``h: R^d -> [0, 1]`` with Lipschitz constant L, smoothed by ``N(0, sigma^2 I)``, the ramp of slope L gives

    G_L(t)  = E clip(L (t + sigma Z) + 1/2, 0, 1) = L sigma (H((t + a) / sigma) - H((t - a) / sigma)),   a = 1 / (2 L),
    H(z) = z Phi(z) + phi(z),     G_inf(t) = Phi(t / sigma),

and ``G_L^-1(h~)`` is 1-Lipschitz: among such functions with a given smoothed value the ramp has the steepest smoothed slope.
So a value p of the top class is worth the distance ``G_L^-1(p)``. At L = inf this is Cohen's ``sigma Phi^-1(p)``, at sigma -> 0
the ramp's own ``(p - 1/2) / L``; in between it is larger than both that and ``(p - 1/2) / L(h~)``.

Every radius here is rounded towards zero: probabilities are taken as given, the inverse is bracketed with the error of its
evaluation counted against the radius.

References:
    Cohen, Rosenfeld, Kolter, Certified adversarial robustness via randomized smoothing, 2019.
    Delattre, Araujo, Barthelemy, Allauzen, The Lipschitz-variance-margin tradeoff, 2024 (R1, R2 and the role of L).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from surefoot.numerics.borders import require_positive, require_probability

__all__ = [
    "inverse_ramp", "largest_radius", "lipschitz_radius", "margin_radius", "one_class_radius", "smoothed_lipschitz",
    "smoothed_ramp", "two_class_radius",
]  # fmt: skip

Array = NDArray[np.float64]
HALVINGS = 64
FARTHEST = 38.0  # standard deviations; beyond it the tail underflows
SLACK = 1e-13  # relative error allowed to the evaluation of the tail, times 1 + (u - w)^2; a tenth of it was found in 50 digits


def smoothed_ramp(distance: ArrayLike, sigma: float, lipschitz: ArrayLike = math.inf) -> Array:
    """``G_L(t)``: the smoothed value at distance ``t`` from the middle of a ramp of slope L.

    Args:
        distance: signed distances t, in the unit of sigma.
        sigma: standard deviation of the noise.
        lipschitz: L > 0, in 1 / unit; inf for a step.
    """
    t, slope = np.broadcast_arrays(np.asarray(distance, dtype=np.float64), np.asarray(lipschitz, dtype=np.float64))
    tail = _tail(np.abs(t) / sigma, 1 / (2 * slope * sigma))
    return np.where(t > 0, 1.0 - tail, tail)


def inverse_ramp(
    probability: ArrayLike, sigma: float, lipschitz: ArrayLike = math.inf, *, upward: bool = False
) -> Array:
    """``G_L^-1(p)``, never above the true value (never below it if `upward`).

    Args:
        probability: smoothed values p in [0, 1]; 0 and 1 give -inf and inf.
        sigma: standard deviation of the noise.
        lipschitz: L > 0; inf where nothing is known.

    Raises:
        ValueError: a probability outside [0, 1] or NaN, sigma or L not positive.
    """
    require_positive("sigma", sigma)
    p, slope = np.broadcast_arrays(np.asarray(probability, dtype=np.float64), np.asarray(lipschitz, dtype=np.float64))
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("probabilities must lie in [0, 1] without NaN; clip confidence bounds first")
    if not np.all(slope > 0):
        raise ValueError("a Lipschitz constant must be positive; give inf where none is known")
    flat_p, flat_slope = p.ravel(), slope.ravel()
    small = np.minimum(flat_p, 1.0 - flat_p)  # exact: 1 - p has no rounding for p >= 1/2
    mirrored = flat_p > 0.5
    outwards = mirrored != upward  # whether the distance of the tail may be understated
    distance = np.empty_like(flat_p)
    for outward in (False, True):
        rows = outwards == outward
        step = rows & np.isinf(flat_slope)
        distance[step] = _inverse_step(small[step], understate=outward)
        if (ramp := rows & ~np.isinf(flat_slope)).any():
            distance[ramp] = _inverse_tail(small[ramp], 1 / (2 * flat_slope[ramp] * sigma), understate=outward)
    signed = np.where(mirrored, distance, -distance) * sigma
    moved = np.nextafter(signed, np.inf if upward else -np.inf)
    return np.where(np.isinf(signed), signed, moved).reshape(p.shape)


def one_class_radius(lower: ArrayLike, sigma: float, lipschitz: ArrayLike = math.inf) -> Array:
    """R3 and its Lipschitz refinement: ``G_L^-1(p_A)`` where ``p_A > 1/2``, else 0.

    Args:
        lower: lower confidence bounds of the top class.
        lipschitz: of the top class's coordinate.
    """
    return np.maximum(inverse_ramp(lower, sigma, lipschitz), 0.0)


def two_class_radius(lower: ArrayLike, upper: ArrayLike, sigma: float, lipschitz: ArrayLike = math.inf) -> Array:
    """R2 and its Lipschitz refinement: ``(G_L^-1(p_A) - G_L^-1(p_B)) / 2`` where ``p_A > p_B``, else 0.

    Args:
        lower: lower bounds of the top class.
        upper: upper bounds of every other class, that is of the largest of them.
        lipschitz: of a coordinate.
    """
    low, high = np.broadcast_arrays(np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64))
    first, second = inverse_ramp(low, sigma, lipschitz), inverse_ramp(high, sigma, lipschitz, upward=True)
    with np.errstate(invalid="ignore"):  # inf - inf, where the classes are not apart
        radius = np.nextafter((first - second) / 2, -np.inf)
    return np.where(low > high, np.maximum(radius, 0.0), 0.0)


def margin_radius(margin: ArrayLike, sigma: float, lipschitz: ArrayLike = math.inf) -> Array:
    """``G^-1((1 + M) / 2)`` with slope ``L_F / sqrt(2)``, from a lower bound of the margin ``M = p_A - max p_k`` alone.

    Args:
        margin: lower bounds in [-1, 1].
        lipschitz: L_F of the whole map to the simplex, L2 to L2.
    """
    value = np.clip((1 + np.asarray(margin, dtype=np.float64)) / 2, 0.0, 1.0)
    value = np.maximum(np.nextafter(value, -np.inf), 0.0)
    slope = np.nextafter(np.asarray(lipschitz, dtype=np.float64) / math.sqrt(2), np.inf)
    return np.maximum(inverse_ramp(value, sigma, slope), 0.0)


def smoothed_lipschitz(lipschitz: ArrayLike, sigma: float, mass: float = 1.0) -> Array:
    """Lipschitz constant of a smoothed ``h: R^d -> [0, r]``: ``L erf(r / (2 sqrt(2) L sigma))``; r / (sigma sqrt(2 pi)) at inf."""
    slope = np.asarray(lipschitz, dtype=np.float64)
    finite = np.where(np.isinf(slope), 1.0, slope)
    bound = finite * special.erf(mass / (2 * math.sqrt(2) * finite * sigma))
    return np.where(np.isinf(slope), mass / (sigma * math.sqrt(2 * math.pi)), bound)


def lipschitz_radius(margin: ArrayLike, sigma: float, lipschitz: float = math.inf) -> Array:
    """R1: ``M / (sqrt(2) L(F~))`` with the vector map's L, at most ``1 / (sigma sqrt(pi))`` after smoothing."""
    constant = min(lipschitz, 1 / (sigma * math.sqrt(math.pi)))
    return np.maximum(np.asarray(margin, dtype=np.float64) / (math.sqrt(2) * constant), 0.0)


def largest_radius(n: int, alpha: float, sigma: float) -> float:
    """``sigma Phi^-1(alpha^(1/n))``: what n draws can certify at most, when all of them agree."""
    require_probability("alpha", alpha)
    return float(one_class_radius(alpha ** (1 / n), sigma))


# ---- the tail of the smoothed ramp ------------------------------------------------------------------------------
def _tail(u: Array, w: Array) -> Array:
    """``G(-u sigma)`` for u >= 0, with the ramp's half width w = a / sigma; see `_error`."""
    u = np.minimum(u, 2 * FARTHEST + w)
    series = w * np.maximum(u, 1.0) < 0.02
    wide = np.where(series, 1.0, w)
    direct = (_below(u - wide) - _below(u + wide)) / (2 * wide)
    density = np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    second, fourth = u, u**3 - 3 * u  # derivatives of Phi at -u over the density
    sixth = u**5 - 10 * u**3 + 15 * u
    near = np.where(series, w, 0.0)
    local = special.ndtr(-u) + density * near**2 * (second / 6 + near**2 * (fourth / 120 + near**2 * sixth / 5040))
    return np.where(series, local, direct)


def _error(u: Array, w: Array) -> Array:
    """Bound of the tail's relative error: the cancellation in Mills' ratio, and the rounding of u - w."""
    z = np.maximum(u - w, 0.0)
    return SLACK * (1 + z**2) + 4 * np.finfo(np.float64).eps * np.maximum(u, w) * (1 + z)


def _below(z: Array) -> Array:
    """``H(-z) = E max(Z - z, 0)``, through Mills' ratio where z is positive."""
    far = np.maximum(z, 0.0)
    mills = math.sqrt(math.pi / 2) * special.erfcx(far / math.sqrt(2))
    positive = np.exp(-(far**2) / 2) / math.sqrt(2 * math.pi) * (1 - far * mills)
    near = np.minimum(z, 0.0)
    negative = np.exp(-(near**2) / 2) / math.sqrt(2 * math.pi) - near * special.ndtr(-near)
    return np.where(z > 0, positive, negative)


def _inverse_tail(p: Array, w: Array, *, understate: bool) -> Array:
    """u >= 0 with ``tail(u) = p`` for p <= 1/2, understated or overstated, by bisection on a bound of the tail."""
    low, high = np.zeros_like(p), FARTHEST + w
    sign = -1.0 if understate else 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        value = _tail(middle, w) * (1 + sign * _error(middle, w))
        above = value > p  # the root lies further out
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    found = low if understate else high
    empty: Any = np.inf
    return np.where(p > 0, found, empty)


def _inverse_step(p: Array, *, understate: bool) -> Array:
    """u >= 0 with ``Phi(-u) = p`` for p <= 1/2."""
    u = -special.ndtri(p)
    slack = 4e-15 * (1 + u)
    with np.errstate(invalid="ignore"):  # inf - inf, where p = 0
        moved = np.maximum(u - slack, 0.0) if understate else u + slack
    return np.where(np.isinf(u), u, moved)
