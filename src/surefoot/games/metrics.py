"""Norms beyond one weight a player and coupling norms alone: pairs of couplings taken together, and block matrices by an LMI.

Both are for Jacobians that are known as matrices. Skew coupling (zero-sum games) has large norms but turns no distance larger, so
    C_ii = w_i mu_i,  C_ij = -|w_i J_ij + w_j J_ji'|_2 / 2
is never worse than the small-gain condition. A block-diagonal P > 0 with P J_k + J_k' P >= 2 a P at vertex Jacobians J_k is the best
that a norm of independent players can do; projections onto strategy sets would have to be in that norm.

References:
    S. Boyd et al., "Linear matrix inequalities in system and control theory", 1994.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize

from surefoot.numerics.conic import Cone, pack_symmetric, solve_conic
from surefoot.numerics.interval_matrices import eigenvalue_bounds, spectral_norm_bound
from surefoot.numerics.intervals import Interval, sqrt

Array = np.ndarray[Any, np.dtype[Any]]
LEAST = 1e-6
"""Least eigenvalue allowed in P, whose trace is d."""


# ---- pairs of couplings ---------------------------------------------------------------------------------------------


def paired_margin(jacobian: Array, blocks: Sequence[slice], mu: Array, weights: Array) -> float:
    """Contraction rate in the w-norm for one J when the two couplings of a pair are taken together."""
    n = len(blocks)
    C = np.diag(weights * mu)
    for i in range(n):
        for j in range(i):
            pair = weights[i] * jacobian[blocks[i], blocks[j]] + weights[j] * jacobian[blocks[j], blocks[i]].T
            C[i, j] = C[j, i] = -0.5 * np.linalg.norm(pair, 2)
    root = np.sqrt(weights)
    return float(np.linalg.eigvalsh(C / np.outer(root, root)).min())


def paired_weights(jacobian: Array, blocks: Sequence[slice], mu: Array, start: Array) -> Array:
    """Weights with the largest `paired_margin` found by a direct search from `start` and from equal ones; least weight 1."""

    def loss(z: Array) -> float:
        return -paired_margin(jacobian, blocks, mu, np.exp(z))

    candidates = [np.zeros(len(mu)), np.log(start)]
    best = min(candidates, key=loss)
    found = minimize(loss, best, method="Nelder-Mead", options={"maxiter": 60 * len(mu)})
    z = found.x if found.fun < loss(best) - 1e-9 * abs(loss(best)) else best
    return np.exp(z - z.min())


def proved_paired_margin(jacobian: Array, blocks: Sequence[slice], weights: Array) -> float:
    """A lower bound of the `paired_margin`, proved with outward rounding."""
    n = len(blocks)
    low, high = np.zeros((n, n)), np.zeros((n, n))
    for i, rows in enumerate(blocks):
        low[i, i] = high[i, i] = weights[i] * eigenvalue_bounds(jacobian[rows, rows])[0]
        low[i, i] = np.nextafter(low[i, i], -np.inf)
        for j, columns in enumerate(blocks[:i]):
            pair = (
                Interval.point(jacobian[rows, columns]) * weights[i]
                + Interval.point(jacobian[columns, rows].T) * weights[j]
            )
            low[i, j] = low[j, i] = -0.5 * (spectral_norm_bound(pair) if pair.magnitude.any() else 0.0)
    high = np.maximum(low, high * np.eye(n) + low * (1 - np.eye(n)))
    root = sqrt(Interval.point(weights))
    return eigenvalue_bounds(Interval(low, high) / (root.reshape(-1, 1) * root.reshape(1, -1)))[0]


def proved_lipschitz(jacobian: Array, blocks: Sequence[slice], weights: Array) -> float:
    """An upper bound of |W^1/2 J W^-1/2|_2."""
    root = sqrt(
        Interval.point(np.concatenate([np.full(b.stop - b.start, w) for b, w in zip(blocks, weights, strict=True)]))
    )
    return spectral_norm_bound(Interval.point(jacobian) * (root.reshape(-1, 1) / root.reshape(1, -1)))


# ---- block matrices -------------------------------------------------------------------------------------------------


def block_metric(jacobians: Sequence[Array], blocks: Sequence[slice], *, steps: int = 30) -> tuple[Array, float] | None:
    """P = blockdiag(P_i) and the largest a found with P J_k + J_k' P >= 2 a P for all k; None if no a > 0 was found.

    Bisection on a; for each a one semidefinite program asks for the largest least eigenvalue. By linearity in J the inequality
    holds on the whole convex hull of the J_k.

    Args:
        jacobians: the vertices J_k (d, d).
        blocks: where each player's strategies are.
        steps: of the bisection.

    Returns:
        P with trace d, and a proved with outward rounding.
    """
    low, high = 0.0, min(float(np.linalg.eigvals(J).real.min()) for J in jacobians)
    best: Array | None = None
    if high <= 0:
        return None
    for step in range(steps):
        middle = 0.5 * (low + high) if step else 1e-6 * high
        P = _feasible(jacobians, blocks, middle)
        if P is None:
            if not step:
                return None
            high = middle
        else:
            low, best = middle, P
        if high - low <= 1e-9 * high:
            break
    if best is None:
        return None
    proved = proved_rate(best, jacobians)
    return (best, proved) if proved > 0 else None


def proved_rate(P: Array, jacobians: Sequence[Array]) -> float:
    """A lower bound of a for this P: P - J-inequality and P > 0 proved by intervals; -inf if P > 0 is not proved."""
    if eigenvalue_bounds(P)[0] <= 0:
        return -np.inf
    root = np.linalg.cholesky(P)
    estimate = min(
        float(np.linalg.eigvalsh(np.linalg.solve(root, np.linalg.solve(root, 0.5 * (P @ J + J.T @ P)).T)).min())
        for J in jacobians
    )
    room = 1e-9 * max(1.0, abs(estimate))
    for _ in range(20):
        rate = estimate - room
        products = [Interval.point(P) @ J for J in jacobians]
        if all(eigenvalue_bounds(A + A.T - Interval.point(P) * (2 * rate))[0] >= 0 for A in products):
            return rate
        room *= 4
    return -np.inf


def _feasible(jacobians: Sequence[Array], blocks: Sequence[slice], rate: float) -> Array | None:
    """P of trace d, P >= LEAST, with P J + J'P - 2 rate P >= t for the largest t; None if t <= 0."""
    d = blocks[-1].stop
    basis = []
    for own in blocks:
        for i in range(own.start, own.stop):
            for j in range(own.start, i + 1):
                E = np.zeros((d, d))
                E[i, j] = E[j, i] = 1.0
                basis.append(E)
    eye = np.eye(d)
    # variables: entries of P, then t; rows: trace, P - LEAST I, and one matrix a vertex
    rows = [np.array([*(np.trace(E) for E in basis), 0.0])[None]]
    right: list[Array] = [np.array([float(d)])]
    cones: list[Cone] = [("zero", 1)]
    rows.append(-np.column_stack([*(pack_symmetric(E) for E in basis), np.zeros(d * (d + 1) // 2)]))
    right.append(pack_symmetric(-LEAST * eye))
    cones.append(("semidefinite", d))
    for J in jacobians:
        bent = [pack_symmetric(E @ J + J.T @ E - 2 * rate * E) for E in basis]
        rows.append(-np.column_stack([*bent, -pack_symmetric(eye)]))
        right.append(np.zeros(d * (d + 1) // 2))
        cones.append(("semidefinite", d))
    cost = np.zeros(len(basis) + 1)
    cost[-1] = -1.0
    # t is bounded, so that the program is
    rows.append(np.eye(len(cost))[-1:])
    right.append(np.array([1.0]))
    cones.append(("nonnegative", 1))
    found = solve_conic(cost, np.vstack(rows), np.concatenate(right), cones, tolerance=1e-10)
    if not found.solved or found.x[-1] <= 0:
        return None
    P = sum(v * E for v, E in zip(found.x[:-1], basis, strict=True))
    return np.asarray(P) * (d / np.trace(P))
