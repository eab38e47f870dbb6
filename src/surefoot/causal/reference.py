"""CoLiDE as it is written down: short, slow, and what the fast path is compared with.

Only numpy's own inverse and determinant; nothing of `kernel.py` is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.causal.score import (
    Variance,
    log_det_acyclicity,
    noise_levels,
    residual_variances,
    score,
    score_gradient,
    start_levels,
)

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Schedule:
    """The published schedule of the central path; `scales` are the values of s, one a stage."""

    scales: Sequence[float] = (1.0, 0.9, 0.8, 0.7)
    centre: float = 1.0
    centre_factor: float = 0.1
    warm_steps: int = 20_000
    last_steps: int = 70_000
    learning_rate: float = 3e-4
    checkpoint: int = 1000
    tolerance: float = 1e-6


def reference_path(
    covariance: Array, variance: Variance, sparsity: float = 0.05, schedule: Schedule | None = None
) -> tuple[Array, Array]:
    """Weights (d, d) and noise levels of the central path.

    For k = 0, 1, ...: minimise `mu_k Score + h_{s_k}` by Adam on the subgradient from the previous minimiser; a stage that
    leaves the domain of `h` starts again with half the rate and s + 0.1.

    References:
        Saboksayr, Mateos, Tepper, CoLiDE: Concomitant Linear DAG Estimation, ICLR 2024, algorithm 1.
    """
    plan = schedule or Schedule()
    noise, floor = start_levels(covariance, variance)
    weights = np.zeros_like(covariance)
    centre = plan.centre
    for k, scale in enumerate(plan.scales):
        steps = plan.last_steps if k == len(plan.scales) - 1 else plan.warm_steps
        rate, found = plan.learning_rate, None
        while found is None:
            found = _stage(covariance, variance, sparsity, floor, (weights, noise), centre, scale, steps, rate, plan)
            rate, scale = rate / 2, scale + 0.1
        weights, noise = found
        centre *= plan.centre_factor
    return weights, noise


def _stage(
    covariance: Array,
    variance: Variance,
    sparsity: float,
    floor: float,
    start: tuple[Array, Array],
    centre: float,
    scale: float,
    steps: int,
    rate: float,
    plan: Schedule,
    beta1: float = 0.99,
    beta2: float = 0.999,
) -> tuple[Array, Array] | None:
    weights, noise = start[0].copy(), start[1].copy()
    identity = np.eye(len(weights))
    first, second, direction = np.zeros_like(weights), np.zeros_like(weights), np.zeros_like(weights)
    previous = 1e16
    for t in range(1, steps + 1):
        inverse = np.linalg.inv(scale * identity - weights * weights)
        while inverse.min() < -1e-6:
            if t == 1 or scale <= 0.9:
                return None
            weights += rate * direction
            rate /= 2
            weights -= rate * direction
            noise = noise_levels(residual_variances(covariance, weights), variance, floor)
            inverse = np.linalg.inv(scale * identity - weights * weights)
        gradient = centre * (score_gradient(covariance, weights, noise) + sparsity * np.sign(weights))
        gradient += 2 * weights * inverse.T
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        direction = (first / (1 - beta1**t)) / (np.sqrt(second / (1 - beta2**t)) + 1e-8)
        weights -= rate * direction
        noise = noise_levels(residual_variances(covariance, weights), variance, floor)
        if t % plan.checkpoint == 0:
            objective = centre * score(covariance, weights, noise, sparsity)
            objective += log_det_acyclicity(weights, scale)
            if abs(previous - objective) <= plan.tolerance * abs(previous):
                break
            previous = objective
    return weights, noise
