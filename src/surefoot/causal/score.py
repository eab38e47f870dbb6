"""CoLiDE's scores, their gradients, the closed-form noise levels and the log-det acyclicity function.

Symbols of the paper and their names here: W `weights` (i -> j in row i, column j), S `covariance` = X'X/n of the centred
table, sigma `noise_std`, sigma_0 `floor`, lam `sparsity`, s `acyclicity_scale`, R = (I - W)' S (I - W).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.causal.problem import Variance

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def residual_variances(covariance: Array, weights: Array) -> Array:
    """Diagonal of `R = (I - W)' S (I - W)`: the residual variance of every node, shape (d,)."""
    mixing = np.eye(len(weights)) - weights
    return np.einsum("ij,ij->j", mixing, covariance @ mixing)


def noise_levels(residual: Array, variance: Variance, floor: float) -> Array:
    """Noise standard deviations that minimise the score for fixed weights.

    `sigma = max(sqrt(tr R / d), sigma_0)` (equal, shape (1,)) or `sigma_j = max(sqrt(R_jj), sigma_0)` (unequal, (d,)).
    """
    level = residual.mean(keepdims=True) if variance == "equal" else residual
    return np.maximum(np.sqrt(np.maximum(level, 0.0)), floor)


def score(covariance: Array, weights: Array, noise_std: Array, sparsity: float, penalised: Mask | None = None) -> float:
    """The concomitant score, jointly convex in weights and noise; edges that are not `penalised` bear no l1 weight.

    Unequal variances: `1/2 sum_j (R_jj / sigma_j + sigma_j) + lam ||W||_1`; with one entry in `noise_std` this is the
    equal-variance score `tr R / (2 sigma) + d sigma / 2 + lam ||W||_1`.
    """
    residual = residual_variances(covariance, weights)
    fit = 0.5 * float(np.sum(residual / noise_std + noise_std))
    magnitude = np.abs(weights) if penalised is None else np.abs(weights) * penalised
    return fit + sparsity * float(magnitude.sum())


def score_gradient(covariance: Array, weights: Array, noise_std: Array) -> Array:
    """Gradient in W of the smooth part of the score: `-S (I - W) / sigma`, column j divided by sigma_j."""
    return -(covariance @ (np.eye(len(weights)) - weights)) / noise_std


def log_det_acyclicity(weights: Array, acyclicity_scale: float) -> float:
    """`h_s(W) = d log s - log det(s I - W o W)`: zero exactly for a DAG, infinite where the determinant is not positive.

    References:
        Bello, Aragam, Ravikumar, DAGMA, NeurIPS 2022.
    """
    order = len(weights)
    sign, log_det = np.linalg.slogdet(acyclicity_scale * np.eye(order) - weights * weights)
    if sign <= 0:
        return float("inf")
    return order * float(np.log(acyclicity_scale)) - float(log_det)


def log_det_gradient(weights: Array, acyclicity_scale: float) -> Array:
    """Gradient of `h_s`: `2 W o (s I - W o W)^-T`."""
    inverse = np.linalg.inv(acyclicity_scale * np.eye(len(weights)) - weights * weights)
    return 2.0 * weights * inverse.T


def start_levels(covariance: Array, variance: Variance) -> tuple[Array, float]:
    """Noise levels that the path starts from, and the floor `sigma_0 = min_j sd_j / 100`.

    Equal variances start from the smallest standard deviation, unequal ones from every column's own.
    """
    deviation = np.sqrt(np.diag(covariance))
    floor = 0.01 * float(deviation.min())
    start = deviation.min(keepdims=True) if variance == "equal" else deviation
    return start, floor


def stationarity(
    covariance: Array,
    weights: Array,
    noise_std: Array,
    sparsity: float,
    centre: float,
    acyclicity_scale: float,
    allowed: Mask | None = None,
    required: Mask | None = None,
) -> float:
    """Largest violation of the first-order conditions of `mu Score + h_s`, divided by mu lam (by mu if lam is zero).

    With G the gradient of the smooth part: `|G_ij + mu lam sign(W_ij)|` on the support, `max(|G_ij| - mu lam, 0)` off it;
    edges that are not allowed do not count, required ones bear no l1 weight.
    """
    gradient = centre * score_gradient(covariance, weights, noise_std) + log_det_gradient(weights, acyclicity_scale)
    threshold = np.full_like(weights, centre * sparsity)
    if required is not None:
        threshold[required] = 0.0
    on_support = np.abs(gradient + threshold * np.sign(weights))
    off_support = np.maximum(np.abs(gradient) - threshold, 0.0)
    violation = np.where(weights != 0.0, on_support, off_support)
    if allowed is not None:
        violation = np.where(allowed, violation, 0.0)
    return float(violation.max()) / (centre * (sparsity if sparsity > 0.0 else 1.0))
