"""Which edges to use how often: the least total gossip rate, with a certified gap.

    minimise sum_e lambda_e   subject to   Lambda >= u pi,  R_e(Lambda) <= u for all edges e,  lambda >= 0,  u free,

so that chi1 chi2 <= 1/2 [a convex form of the paper's relaxation; demanding R_e <= u also of edges whose best rate is 0 makes it
a restriction]. Solved by Newton's method on its logarithmic barrier, whose Hessian has a closed form in G = B' Lambda^+ B:
dR_e / dlambda_f = -G_ef^2.

Lower bound. For any zero-sum vectors q_k with weights a_k >= 0 and, for edges e, vectors v_e with weights s_e >= 0 such that

    sum_k a_k (q_k' b_f)^2 + sum_e s_e (v_e' b_f)^2 <= 1 for every edge f,    sum_k a_k |q_k|^2 >= sum_e s_e,

every feasible point has sum lambda >= 2 sum_e s_e v_e' b_e, because R_e >= 2 v' b_e - v' Lambda v for every v. The barrier's own
multipliers give such weights; they are scaled until both conditions hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from surefoot.decentralized.graphs import Edges, rate_matrix, resistances, scaled_to, slowness, uniform_rates

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class RateDesign:
    """Rates with chi1 chi2 <= product and the proof of how good they are.

    Attributes:
        rates: (E,).
        total: their sum.
        lower: no rates of the convex program have a smaller sum.
        modes: (r, n) vectors sqrt(a_k) q_k of the lower bound.
        potentials: (E, n) vectors v_e.
        weights: (E,) s_e.
        steps: Newton steps.
    """

    rates: Array
    total: float
    lower: float
    modes: Array
    potentials: Array
    weights: Array
    steps: int

    @property
    def gap(self) -> float:
        """(total - lower) / lower."""
        return self.total / self.lower - 1


def lower_bound(edges: Edges, modes: Array, potentials: Array, weights: Array) -> tuple[float, float, float]:
    """(value, load, balance) of multipliers: the bound 2 sum s_e v_e' b_e holds for product 1/2 if load <= 1 and balance >= 0."""
    i, j = edges[:, 0], edges[:, 1]
    load = ((modes[:, i] - modes[:, j]) ** 2).sum(axis=0)
    load = load + (weights[:, None] * (potentials[:, i] - potentials[:, j]) ** 2).sum(axis=0)
    own = potentials[np.arange(len(edges)), i] - potentials[np.arange(len(edges)), j]
    return 2 * float(weights @ own), float(load.max()), float((modes**2).sum() - weights.sum())


def optimal_rates(nodes: int, edges: Edges, product: float = 0.5, tolerance: float = 1e-4) -> RateDesign:
    """The least total rate with chi1 chi2 <= product, to a relative gap of `tolerance`.

    The program scales: rates for another product are those for 1/2 times sqrt(1 / (2 product)).

    Raises:
        ValueError: fewer than two nodes (nothing to agree on).
        RuntimeError: the gap is not reached.
    """
    if nodes < 2:
        raise ValueError("a graph of one node has no rates to choose")
    rates, u = uniform_rates(nodes, edges), 0.0
    chi1, chi2 = slowness(nodes, edges, rates)
    rates = rates * math.sqrt(2 * chi1 * chi2)  # lambda_2 = max R / 2 ...
    low, high = 1 / slowness(nodes, edges, rates)[0], float(resistances(nodes, edges, rates).max())
    # scale so that lambda_2 exceeds max R by a margin, and put u between them
    rates = rates * math.sqrt(2 * high / low)
    low, high = 1 / slowness(nodes, edges, rates)[0], float(resistances(nodes, edges, rates).max())
    u = math.sqrt(low * high)
    factor = math.sqrt(0.5 / product)
    sharpness, steps = 1.0 / rates.sum(), 0
    best: RateDesign | None = None
    while steps < 2000:
        rates, u, used = _centre(nodes, edges, rates, u, sharpness)
        steps += used
        candidate = _finish(nodes, edges, rates, u, sharpness, steps, product, factor)
        if best is None or candidate.gap < best.gap:
            best = candidate
        if best.gap <= tolerance:
            return best
        if sharpness * rates.sum() > 1e14:
            break
        sharpness *= 8.0
    assert best is not None
    raise RuntimeError(
        f"the gossip rates reached a relative gap of {best.gap:.2e}, not {tolerance:g}; use uniform rates"
    )


def _centre(nodes: int, edges: Edges, rates: Array, u: float, sharpness: float) -> tuple[Array, float, int]:
    """Newton on sharpness * sum lambda - log det(Lambda - u) - sum log(u - R) - sum log lambda."""
    basis = _basis(nodes)
    differences = basis[edges[:, 0]].T - basis[edges[:, 1]].T  # (n - 1, E): V' b_e

    def barrier(point: Array) -> float:
        trial, level = point[:-1], point[-1]
        if (trial <= 0).any() or level <= 0:
            return math.inf
        matrix = (differences * trial) @ differences.T
        try:
            factor = np.linalg.cholesky(matrix - level * np.eye(nodes - 1))
            solved = cho_solve(cho_factor(matrix), differences)
        except np.linalg.LinAlgError:
            return math.inf
        room = level - (differences * solved).sum(axis=0)
        if (room <= 0).any():
            return math.inf
        return float(
            sharpness * trial.sum() - 2 * np.log(np.diag(factor)).sum() - np.log(room).sum() - np.log(trial).sum()
        )

    point = np.append(rates, u)
    value = barrier(point)
    for step in range(1, 80):
        gradient, hessian = _derivatives(differences, point, sharpness)
        scale = 1 / np.sqrt(np.diag(hessian))
        move = -scale * cho_solve(
            cho_factor(hessian * scale[:, None] * scale + 1e-15 * np.eye(len(scale))), scale * gradient
        )
        decrement = -float(gradient @ move)
        if decrement < 1e-10:
            return point[:-1], float(point[-1]), step
        length = 1.0
        while length > 1e-12:
            trial = barrier(point + length * move)
            if trial <= value - 0.1 * length * decrement:
                break
            length *= 0.5
        else:  # rounding: the step no longer decreases the barrier
            return point[:-1], float(point[-1]), step
        point, value = point + length * move, trial
    return point[:-1], float(point[-1]), 80


def _derivatives(differences: Array, point: Array, sharpness: float) -> tuple[Array, Array]:
    rates, u = point[:-1], point[-1]
    size = len(differences)
    matrix = (differences * rates) @ differences.T
    shifted = np.linalg.inv(matrix - u * np.eye(size))
    K = differences.T @ shifted @ differences
    G = differences.T @ np.linalg.solve(matrix, differences)
    squared = G * G
    room = u - np.diag(G)
    gradient = np.append(
        sharpness - np.diag(K) - squared @ (1 / room) - 1 / rates, np.trace(shifted) - (1 / room).sum()
    )
    hessian = np.empty((len(point), len(point)))
    weighted = squared / room[:, None]
    hessian[:-1, :-1] = K * K + weighted.T @ weighted + 2 * G * ((G / room) @ G) + np.diag(1 / rates**2)
    mixed = -((shifted @ differences) ** 2).sum(axis=0) + (squared / room[:, None] ** 2).sum(axis=0)
    hessian[-1, :-1] = hessian[:-1, -1] = mixed
    hessian[-1, -1] = float((shifted * shifted).sum()) + (1 / room**2).sum()
    return gradient, 0.5 * (hessian + hessian.T)


def _basis(nodes: int) -> Array:
    """Orthonormal columns (n, n - 1) of the zero-sum vectors (Helmert)."""
    basis = np.zeros((nodes, nodes - 1))
    for k in range(1, nodes):
        basis[:k, k - 1] = 1 / math.sqrt(k * (k + 1))
        basis[k, k - 1] = -k / math.sqrt(k * (k + 1))
    return basis


def _finish(
    nodes: int, edges: Edges, rates: Array, u: float, sharpness: float, steps: int, product: float, factor: float
) -> RateDesign:
    """Rates that fire or do not, and multipliers scaled to be valid, from a point of the central path."""
    kept = np.where(rates > 1e-7 * rates.max(), rates, 0.0)
    final = scaled_to(nodes, edges, kept, product)
    basis = _basis(nodes)
    matrix = basis.T @ rate_matrix(nodes, edges, rates) @ basis
    values, vectors = np.linalg.eigh(matrix)
    modes = (basis @ (vectors / np.sqrt(sharpness * (values - u)))).T
    differences = basis[edges[:, 0]].T - basis[edges[:, 1]].T
    potentials = (basis @ np.linalg.solve(matrix, differences)).T
    weights = 1 / (sharpness * (u - resistances(nodes, edges, rates)))
    modes, potentials, weights = scaled_multipliers(edges, modes, potentials, weights)
    lower = lower_bound(edges, modes, potentials, weights)[0] * factor
    return RateDesign(final, float(final.sum()), lower, modes, potentials, weights, steps)


def scaled_multipliers(edges: Edges, modes: Array, potentials: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Multipliers scaled so that every edge's load is at most 1 and the balance is not negative, whatever they were."""
    # v -> t v, s -> s / t^2 keeps the loads and multiplies the bound by 1 / t: choose t for the balance, then the loads
    t = math.sqrt(float(weights.sum() / (modes**2).sum())) * (1 + 1e-12)
    potentials, weights = potentials * t, weights / t**2
    load = lower_bound(edges, modes, potentials, weights)[1] * (1 + 1e-12)
    modes, weights = modes / math.sqrt(load), weights / load
    # only q q' matters: by convention the entry of largest size is positive
    largest = modes[np.arange(len(modes)), np.abs(modes).argmax(axis=1)]
    return modes * np.sign(largest)[:, None], potentials, weights
