"""The best weights for one causal order: a convex concomitant lasso, solved to a duality gap.

Given an order, only edges from earlier to later nodes are allowed and the score is convex in weights and noise together.
One sweep of coordinate descent updates row i of W for all nodes at once (they only meet through the noise level):

    w_ij <- soft((S E)_ij + S_ii w_ij, lam sigma_j) / S_ii,      sigma <- closed form.

A few sweeps give supports; from there every node's lasso is solved exactly by active sets, alternating with the noise level
that is optimal on these supports: with a = OLS and b = S_AA^-1 sign on the support A, the weights are a - lam sigma b and
sigma^2 = rho_OLS / (1 - lam^2 sign'b), numerator and denominator averaged over the nodes for equal variances. Coordinate
descent alone would need thousands of sweeps where predecessors are strongly correlated.

References:
    Ndiaye, Fercoq, Gramfort, Leclere, Salmon, Efficient smoothed concomitant lasso estimation, 2017 (the dual).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.causal.active_set import lasso
from surefoot.causal.score import Variance, noise_levels, residual_variances

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

WARM_SWEEPS = 5
EXACT_ROUNDS = 30


@dataclass(frozen=True)
class OrderFit:
    """Optimal weights for one order with the proof of it.

    `dual` is a lower bound of the score of every graph compatible with the order, `primal` the score of these weights;
    `gap = primal - dual` bounds how far they are from the best.
    """

    weights: Array
    noise_std: Array
    primal: float
    dual: float
    sweeps: int

    @property
    def gap(self) -> float:
        """Absolute duality gap."""
        return self.primal - self.dual

    @property
    def relative_gap(self) -> float:
        """Gap divided by the score."""
        return self.gap / max(abs(self.primal), float(np.finfo(np.float64).tiny))


def compatible_edges(order: Sequence[int]) -> Mask:
    """(d, d) mask of the edges row -> column that run forward in `order`."""
    position = np.empty(len(order), dtype=int)
    position[list(order)] = np.arange(len(order))
    return position[:, None] < position[None, :]


def refit_order(
    covariance: Array,
    order: Sequence[int],
    variance: Variance,
    sparsity: float,
    floor: float,
    allowed: Mask | None = None,
    penalised: Mask | None = None,
    tolerance: float = 1e-8,
    max_sweeps: int = 5000,
) -> OrderFit:
    """Minimise the concomitant score over the graphs compatible with an order.

    Args:
        covariance: (d, d).
        order: the nodes, causes first.
        variance: "equal" or "unequal" noise.
        sparsity: l1 weight, positive.
        floor: lower bound sigma_0 of the noise levels.
        allowed: (d, d), edges allowed besides by the order; all by default.
        penalised: (d, d), edges under the l1 weight; all by default.
        tolerance: relative duality gap at which to stop.
        max_sweeps: most sweeps of coordinate descent; the gap of what was reached is reported in any case.
    """
    edges = compatible_edges(order) if allowed is None else compatible_edges(order) & allowed
    penalty = sparsity * (np.ones_like(covariance) if penalised is None else penalised.astype(np.float64))
    weights = np.zeros_like(covariance)
    noise = noise_levels(np.diag(covariance).copy(), variance, floor)
    best = _fit(covariance, weights, edges, penalty, variance, floor, 0)
    for sweep in range(1, max_sweeps + 1):
        noise = _sweep(covariance, weights, noise, order, edges, penalty, variance, floor)
        if sweep != WARM_SWEEPS and sweep % 100:
            continue
        exact = _alternate_exactly(covariance, weights, noise, edges, penalty, variance, floor)
        reached = best.gap
        for candidate in (weights, exact):
            if candidate is not None:
                fit = _fit(covariance, candidate, edges, penalty, variance, floor, sweep)
                best = fit if fit.gap < best.gap else best
        # below the tolerance, or down to the rounding of the covariance: more sweeps find nothing
        if best.relative_gap <= tolerance or (exact is not None and best.gap > 0.5 * reached):
            break
    return best


def _alternate_exactly(
    covariance: Array, start: Array, noise: Array, edges: Mask, penalty: Array, variance: Variance, floor: float
) -> Array | None:
    """Alternate the exact lasso of every node with the noise level that is optimal on the supports found.

    None where a support has a singular covariance.
    """
    weights = start.copy()
    try:
        for _ in range(EXACT_ROUNDS):
            for j in range(len(covariance)):
                parents = np.flatnonzero(edges[:, j])
                if len(parents):
                    gram, pull = covariance[np.ix_(parents, parents)], covariance[parents, j]
                    level = noise[0] if len(noise) == 1 else noise[j]
                    weights[parents, j] = lasso(gram, pull, penalty[parents, j] * level, weights[parents, j])
            found = _support_noise(covariance, weights, penalty, variance, floor)
            if found is None:
                return weights
            settled = bool(np.all(np.abs(found - noise) <= 1e-12 * noise))
            noise = found
            if settled:
                return weights
    except np.linalg.LinAlgError:
        return None
    return weights


def _sweep(
    covariance: Array,
    weights: Array,
    noise: Array,
    order: Sequence[int],
    edges: Mask,
    penalty: Array,
    variance: Variance,
    floor: float,
) -> Array:
    """One pass over the rows of W, in place; returns the new noise levels."""
    product = covariance - covariance @ weights
    for i in order:
        targets = np.flatnonzero(edges[i])
        if not len(targets):
            continue
        curvature = covariance[i, i]
        old = weights[i, targets]
        pull = product[i, targets] + curvature * old
        level = noise if len(noise) == 1 else noise[targets]
        new = np.sign(pull) * np.maximum(np.abs(pull) - penalty[i, targets] * level, 0.0) / curvature
        change = new - old
        moved = change != 0.0
        if moved.any():
            product[:, targets[moved]] -= np.outer(covariance[:, i], change[moved])
            weights[i, targets] = new
    return noise_levels(residual_variances(covariance, weights), variance, floor)


def _support_noise(covariance: Array, weights: Array, penalty: Array, variance: Variance, floor: float) -> Array | None:
    """Noise levels of the joint optimum on the supports and signs of `weights`; None where no closed form applies."""
    residual, growth = residual_variances(covariance, weights), np.zeros(len(weights))
    for j in range(len(covariance)):
        support = np.flatnonzero(weights[:, j])
        if not len(support):
            continue
        block = covariance[np.ix_(support, support)]
        signed = penalty[support, j] * np.sign(weights[support, j])
        pull = covariance[support, j]
        least_squares, slope = np.linalg.solve(block, np.column_stack([pull, signed])).T
        residual[j] = covariance[j, j] - pull @ least_squares
        growth[j] = signed @ slope
    if variance == "equal":
        residual, growth = residual.mean(keepdims=True), growth.mean(keepdims=True)
    if np.any(growth >= 1.0) or np.any(residual <= 0.0):
        return None
    return np.maximum(np.sqrt(residual / (1.0 - growth)), floor)


def _fit(
    covariance: Array, weights: Array, edges: Mask, penalty: Array, variance: Variance, floor: float, sweeps: int
) -> OrderFit:
    """Primal and dual value at `weights`, from the covariance alone."""
    product = covariance - covariance @ weights
    residual = residual_variances(covariance, weights)
    noise = noise_levels(residual, variance, floor)
    levels = np.broadcast_to(noise, residual.shape)
    primal = 0.5 * float(np.sum(residual / levels + levels)) + float(np.sum(penalty * np.abs(weights)))
    correlation = np.where(edges, np.abs(product) / noise, 0.0)
    # an unpenalised edge demands exact orthogonality, which rounding cannot give: its slack is charged to the dual
    free = edges & (penalty == 0.0)
    slack = float(np.sum(np.where(free, correlation * np.abs(weights), 0.0)))
    ratio = np.divide(correlation, penalty, out=np.zeros_like(correlation), where=edges & (penalty > 0.0))
    if variance == "equal":
        shrink = max(1.0, float(ratio.max()), float(np.sqrt(residual.mean())) / float(noise[0]))
        fit = float(np.trace(product)) / (float(noise[0]) * shrink)
        size = float(residual.sum()) / (float(noise[0]) * shrink) ** 2
        dual = fit + 0.5 * floor * (len(residual) - size)
    else:
        shrinks = np.maximum(np.maximum(1.0, ratio.max(axis=0)), np.sqrt(np.maximum(residual, 0.0)) / noise)
        dual = float(np.sum(np.diag(product) / (noise * shrinks)))
        dual += 0.5 * floor * float(np.sum(1.0 - residual / (noise * shrinks) ** 2))
    return OrderFit(weights.copy(), noise, primal, dual - slack, sweeps)
