"""The lasso on a Gram matrix, solved exactly by active sets.

    minimise over w   1/2 w'Gw - p'w + sum_i a_i |w_i|

First the primal-dual active set iteration (a semismooth Newton method: a handful of linear solves, but it may cycle), then,
where it did not settle, the feature-sign search, which lowers the objective at every move and therefore ends.

References:
    Hintermuller, Ito, Kunisch, The primal-dual active set strategy as a semismooth Newton method, 2003.
    Lee, Battle, Raina, Ng, Efficient sparse coding algorithms, 2007 (feature-sign search).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

PRIMAL_DUAL_STEPS = 40
SLACK = 1e-10


def lasso(gram: Array, pull: Array, penalty: Array, start: Array) -> Array:
    """Minimiser w (k,) of `1/2 w'Gw - p'w + sum a_i |w_i|`.

    Args:
        gram: (k, k) symmetric, positive definite on every support that is met.
        pull: (k,), p.
        penalty: (k,), a, nonnegative.
        start: (k,) warm start.

    Raises:
        numpy.linalg.LinAlgError: a support with a singular Gram matrix was met.
    """
    if not len(pull):
        return start.copy()
    settled = _primal_dual(gram, pull, penalty, start)
    return _feature_sign(gram, pull, penalty, start) if settled is None else settled


def _solve_support(gram: Array, pull: Array, penalty: Array, support: Mask, signs: Array) -> Array:
    weights = np.zeros_like(pull)
    if support.any():
        right = pull[support] - penalty[support] * signs[support]
        weights[support] = np.linalg.solve(gram[np.ix_(support, support)], right)
    return weights


def _primal_dual(gram: Array, pull: Array, penalty: Array, start: Array) -> Array | None:
    """Guess support and signs from `w + (p - Gw)/G_ii`, solve, repeat until the guess repeats; None if it never does."""
    curvature = np.diag(gram)
    shifted = start * curvature + pull - gram @ start
    previous: tuple[bytes, bytes] | None = None
    for _ in range(PRIMAL_DUAL_STEPS):
        support = (np.abs(shifted) > penalty) | (penalty == 0.0)
        signs = np.sign(shifted)
        guess = (support.tobytes(), signs[support].tobytes())
        weights = _solve_support(gram, pull, penalty, support, signs)
        if guess == previous:
            return weights
        previous = guess
        shifted = weights * curvature + pull - gram @ weights
    return None


def _feature_sign(gram: Array, pull: Array, penalty: Array, start: Array) -> Array:
    """Activate the worst violator, move to the minimiser of its orthant or to the best zero crossing on the way."""
    weights = start.copy()
    slack = SLACK * float(np.abs(pull).max(initial=1.0))
    signs = np.sign(weights)
    support = (weights != 0.0) | (penalty == 0.0)
    for _ in range(20 * len(pull) + 100):
        weights, support, signs, crossed = _move(gram, pull, penalty, weights, support, signs)
        if crossed:
            continue
        slope = gram @ weights - pull
        violation = np.where(support, 0.0, np.abs(slope) - penalty)
        worst = int(np.argmax(violation))
        if violation[worst] <= slack:
            return weights
        support[worst], signs[worst] = True, -np.sign(slope[worst])
    return weights


def _move(
    gram: Array, pull: Array, penalty: Array, weights: Array, support: Mask, signs: Array
) -> tuple[Array, Mask, Array, bool]:
    target = _solve_support(gram, pull, penalty, support, signs)
    direction = target - weights
    flipped = support & (penalty > 0.0) & (signs * target < 0.0)
    if not flipped.any():
        return target, support, signs, False
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = np.where(flipped & (weights != 0.0), -weights / direction, np.inf)
    places = np.unique(np.append(crossing[(crossing > 0.0) & (crossing < 1.0)], 1.0))
    line = weights[:, None] + direction[:, None] * places
    curvature, slope = float(direction @ gram @ direction), float((gram @ weights - pull) @ direction)
    values = 0.5 * curvature * places**2 + slope * places + penalty @ np.abs(line)
    best = int(np.argmin(values))
    moved = line[:, best]
    moved[np.abs(crossing - places[best]) <= 1e-14] = 0.0
    support = (moved != 0.0) | (penalty == 0.0)
    return moved, support, np.where(support, np.sign(moved), 0.0), True
