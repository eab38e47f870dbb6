"""Bounds from non-negative martingales: valid at every time at once, so one may look and stop at will.

All rest on Ville's inequality: a non-negative supermartingale that starts at ``M`` ever reaches ``M / p`` with
probability at most ``p``. Observations lie along the last axis.

References:
    J. Ville, "Étude critique de la notion de collectif", 1939.
    H. Robbins, "Statistical methods related to the law of the iterated logarithm", 1970 (mixtures).
    I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", 2024.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from surefoot.numerics.borders import require_probability

__all__ = [
    "anytime_p_value",
    "betting_log_capital",
    "betting_lower_bound",
    "betting_upper_bound",
    "gaussian_confidence_sequence",
    "mixture_norm_bound",
    "ville_threshold",
]

Array = NDArray[np.float64]


def ville_threshold(start: float, failure_probability: float) -> float:
    """Level that a non-negative supermartingale from ``start`` ever reaches with at most that probability."""
    require_probability("failure_probability", failure_probability)
    return start / failure_probability


def anytime_p_value(log_capital: ArrayLike) -> Array:
    """P-value valid at every stopping time: ``min(1, 1 / largest capital so far)`` along the last axis.

    Args:
        log_capital: logarithms of a capital process that starts at 1 and is a supermartingale under the null.

    Returns:
        P-values ``(..., n)``, non-increasing along the last axis.
    """
    highest = np.maximum.accumulate(np.asarray(log_capital, dtype=np.float64), axis=-1)
    return np.exp(-np.maximum(highest, 0.0))


def betting_log_capital(
    values: ArrayLike, mean: ArrayLike, failure_probability: float, horizon: int | None = None
) -> Array:
    """Log capital of a gambler who bets that the mean of values in [0, 1] is above ``mean``.

    Capital ``prod_j (1 + l_j (X_j - mean))``, a martingale if the mean is ``mean`` and a supermartingale if it is
    less, whatever the distribution. The bets ``l_j = min(sqrt(2 log(1/p) / (n v_{j-1})), 0.75 / mean)`` follow the
    variance ``v`` seen so far and never risk ruin.

    Args:
        values: observations in [0, 1], ``(..., n)``, in the order they came.
        mean: candidate means ``(...)``.
        failure_probability: ``p``, for which the bets are tuned; the capital is fair for any.
        horizon: sample size that the bets are tuned for; ``n`` if None. Prefixes of one stream need the same horizon.

    Returns:
        The log capital after each observation, ``(..., n)``.
    """
    X = _unit_values(values)
    require_probability("failure_probability", failure_probability)
    m = np.asarray(mean, dtype=np.float64)[..., np.newaxis]
    bets = np.minimum(_bets(X, failure_probability, horizon), 0.75 / np.maximum(m, np.finfo(np.float64).tiny))
    return np.cumsum(np.log1p(bets * (X - m)), axis=-1)


def betting_lower_bound(
    values: ArrayLike, failure_probability: float, horizon: int | None = None, resolution: float = 1e-12
) -> Array:
    """Lower bound of the mean of independent values in [0, 1], by the hedged capital of a gambler.

    All means against which the capital ever reached ``1 / p`` are refuted; the capital falls with the mean, so the
    refuted ones lie below one point, found by bisection. Valid at any sample size and stopping time for values
    whose conditional mean is constant.

    Args:
        values: observations in [0, 1], ``(..., n)``, in the order they came.
        failure_probability: chance ``p`` that the bound exceeds the mean.
        horizon: see `betting_log_capital`.
        resolution: width of the brackets; a wider one is found sooner and costs at most so much.

    Returns:
        The bounds ``(...)``: lower ends of brackets of that width.
    """
    X = _unit_values(values)
    require_probability("failure_probability", failure_probability)
    bets, goal = _bets(X, failure_probability, horizon), -math.log(failure_probability)
    low, high = np.zeros(X.shape[:-1]), np.ones(X.shape[:-1])
    for _ in range(max(1, math.ceil(-math.log2(resolution)))):
        middle = 0.5 * (low + high)
        m = middle[..., np.newaxis]
        capital = np.cumsum(np.log1p(np.minimum(bets, 0.75 / m) * (X - m)), axis=-1)
        refuted = capital.max(axis=-1) >= goal
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return low


def betting_upper_bound(
    values: ArrayLike, failure_probability: float, horizon: int | None = None, resolution: float = 1e-12
) -> Array:
    """Upper bound of the mean of independent values in [0, 1]; see `betting_lower_bound`."""
    return 1.0 - betting_lower_bound(1.0 - _unit_values(values), failure_probability, horizon, resolution)


def mixture_norm_bound(
    variance: ArrayLike, mixing_variance: float, dimension: int, failure_probability: float
) -> Array:
    """Bound of the norm of a martingale with Gaussian increments, at all times at once, by mixing over directions.

    With increments ``N(0, r_t^2 I)`` given the past and ``V_t = sum r_s^2``, with probability at least ``1 - p``
    for all ``t``: ``|M_t|^2 <= (V_t + tau) (d log(1 + V_t / tau) + 2 log(1 / p))``. The same holds for sub-Gaussian
    increments with these variance proxies.

    Args:
        variance: ``V_t``, per coordinate.
        mixing_variance: ``tau > 0``, fixed beforehand; best near the ``V_t`` of interest divided by a few.
        dimension: ``d``.
        failure_probability: ``p``, for all times together.

    Returns:
        Bounds of ``|M_t|``.
    """
    require_probability("failure_probability", failure_probability)
    if not mixing_variance > 0:
        raise ValueError(f"mixing_variance must be positive, got {mixing_variance}.")
    V = np.asarray(variance, dtype=np.float64)
    if not np.all(V >= 0):
        raise ValueError("variance must be non-negative.")
    spread = dimension * np.log1p(V / mixing_variance) - 2 * math.log(failure_probability)
    return np.sqrt((V + mixing_variance) * spread)


def gaussian_confidence_sequence(
    values: ArrayLike, std: float, failure_probability: float, mixing_variance: float | None = None
) -> tuple[Array, Array]:
    """Two-sided bounds of a mean that hold at all times at once, for sub-Gaussian observations.

    Args:
        values: observations ``(..., n)``, in the order they came.
        std: sub-Gaussian scale of each observation around its mean; half the range for bounded ones.
        failure_probability: chance that any of the intervals misses the mean.
        mixing_variance: see `mixture_norm_bound`; ``std^2 n / 4`` if None, narrow near the end of the sample.

    Returns:
        Lower and upper ends after each observation, ``(..., n)``; they may be intersected along the way.
    """
    X = np.asarray(values, dtype=np.float64)
    count = np.arange(1, X.shape[-1] + 1)
    mixing = std**2 * X.shape[-1] / 4 if mixing_variance is None else mixing_variance
    radius = mixture_norm_bound(std**2 * count, mixing, 1, failure_probability) / count
    running = np.cumsum(X, axis=-1) / count
    return running - radius, running + radius


def _bets(X: Array, failure_probability: float, horizon: int | None) -> Array:
    """Bets before their cap; bet ``j`` looks at observations before ``j`` only."""
    n = X.shape[-1]
    count = np.arange(1, n + 1)
    running = (0.5 + np.cumsum(X, axis=-1)) / (count + 1)
    variance = (0.25 + np.cumsum((X - running) ** 2, axis=-1)) / (count + 1)
    before = np.concatenate([np.full((*X.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    return np.sqrt(-2 * math.log(failure_probability) / ((n if horizon is None else horizon) * before))


def _unit_values(values: ArrayLike) -> Array:
    X = np.asarray(values, dtype=np.float64)
    if X.ndim == 0 or X.shape[-1] == 0:
        raise ValueError("The betting bound needs at least one observation along the last axis.")
    if not np.all((X >= 0) & (X <= 1)):
        raise ValueError("The betting bound needs values in [0, 1] without NaN; rescale by the known range first.")
    return X
