"""The arithmetic of the checkers, over a square root of the covariance that stands in for the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.causal.verify.evidence import Case

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def square_root(covariance: Array) -> Array:
    """Y with Y'Y = S, standing in for the data divided by sqrt(n)."""
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def levels(data: Array, weights: Array, equal: bool, floor: float) -> tuple[Array, Array]:
    """Residual vectors and the noise levels that minimise the score at `weights`."""
    residual = np.column_stack([data[:, j] - data @ weights[:, j] for j in range(data.shape[1])])
    squares = (residual**2).sum(axis=0)
    level = np.array([squares.mean()]) if equal else squares
    return residual, np.maximum(np.sqrt(level), floor)


def primal_value(residual: Array, noise: Array, weights: Array, penalty: Array) -> float:
    squares = (residual**2).sum(axis=0)
    levels = np.broadcast_to(noise, squares.shape)
    return float(
        sum(s / (2 * v) + v / 2 for s, v in zip(squares, levels, strict=True)) + (penalty * abs(weights)).sum()
    )


def dual_value(
    data: Array, residual: Array, noise: Array, weights: Array, case: Case, lam: float, forward: Mask
) -> float:
    """Dual value of the scaled residuals: with theta in units of 1/(n lam), the sheet's formula in these units.

    A dual point is V with |x_i'V_j| <= lam on allowed penalised edges, and ||V_j|| <= 1 (unequal) or ||V||_F <= sqrt(d);
    its value is <X, V> + floor/2 (d - ||V||^2). Where an edge bears no penalty, x_i'V_j must vanish, so V_j is projected.
    """
    equal, floor = len(noise) == 1, case.floor
    columns: list[Array] = []
    ratios: list[float] = []
    for j in range(data.shape[1]):
        allowed = np.flatnonzero(forward[:, j] & case.allowed[:, j])
        vector = residual[:, j] / (noise[0] if equal else noise[j])
        free = [i for i in allowed if case.required[i, j]]
        if free:
            basis = np.linalg.qr(data[:, free])[0]
            vector = vector - basis @ (basis.T @ vector)
        bound = [i for i in allowed if not case.required[i, j]]
        pull = np.abs(data[:, bound].T @ vector).max(initial=0.0)
        columns.append(vector)
        ratios.append(max(float(pull) / lam, 0.0 if equal else float(np.linalg.norm(vector)), 1.0))
    dual = np.column_stack(columns)
    if equal:
        shrink = max(*ratios, float(np.linalg.norm(dual)) / np.sqrt(dual.shape[1]))
        dual = dual / shrink
    else:
        dual = dual / np.array(ratios)
    return float((data * dual).sum() + floor / 2 * (dual.shape[1] - (dual**2).sum()))


def eliminated(covariance: Array, order: tuple[int, ...]) -> Array:
    """Conditional variances along the order by Gaussian elimination, pivot by pivot."""
    work = covariance[np.ix_(order, order)].copy()
    pivots = np.empty(len(work))
    for k in range(len(work)):
        pivots[k] = work[k, k]
        if pivots[k] <= 0.0:
            return pivots[: k + 1]
        work[k + 1 :, k + 1 :] -= work[k + 1 :, k : k + 1] * work[k : k + 1, k + 1 :] / pivots[k]
    return pivots


def forward_edges(order: tuple[int, ...]) -> Mask:
    place = {node: k for k, node in enumerate(order)}
    return np.array([[place[i] < place[j] for j in range(len(order))] for i in range(len(order))])
