"""Lyapunov functions of fixed-step methods by small semidefinite programs, in well-scaled coordinates.

For a rate rho and memory l, search a symmetric P, a vector p and multipliers lam, mu >= 0 with

    V_k = X_k' P X_k + p'(h_{k-l}, ..., h_k),   X_k = (xi_{k-l}, g_{k-l}, ..., g_k),
    V_{k+1} - rho^2 V_k + sum lam_ij q_ij <= 0   on the points k-l, ..., k+1, *,
    |xi_k|^2 - V_k + sum mu_ij q_ij <= 0         on the points k-l, ..., k, *,

where q_ij >= 0 is the interpolation inequality of F_{m,L}. Both left sides are quadratic forms in
w = (xi_{k-l}, g_{k-l}, ..., g_{k+1}) with no part in the function values. The whole window is written in the
oldest state and the gradients since, so no relation between old points is lost for any memory.

Scaling. With L = 1 and the convex part split off, g = (grad f - m y) / (1 - m), h = (f - m y^2 / 2) / (1 -
m):

    q_ij = h_i - h_j - g_j (y_i - y_j) - (g_i - g_j)^2 / 2,

free of m and L. The state is written in s_i proportional to C (A - I)^i xi, the output and its differences,
which does not depend on the coordinates the method is given in; s_0 carries the factor sqrt(m), because the
distance to the minimiser is 1 / sqrt(m) long where gradients have length 1. In these units the programs stay
well conditioned up to condition numbers of 10^6; in plain ones they fail from 10^2 on.

References:
    Taylor, Van Scoy, Lessard, Lyapunov functions for first-order methods, ICML 2018.
    Taylor, Hendrickx, Glineur, Smooth strongly convex interpolation, Math. Program. 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from surefoot.descent.problem import FixedStep
from surefoot.descent.scaling import state_coordinates
from surefoot.numerics.conic import Cone, ConicSolution, pack_symmetric, solve_conic, symmetric_basis, unpack_symmetric

Array = npt.NDArray[np.float64]

__all__ = ["LyapunovPoint", "LyapunovProgram", "ParametricRows"]

# Each multiplier must exceed its share of the margin, so that rounding to rationals keeps all signs.
MULTIPLIER_SHARE = 0.1


@dataclass(frozen=True)
class LyapunovPoint:
    """A candidate at one rate: margin and, in scaled coordinates, P, p, lam, mu.

    ``margin > 0``: strictly feasible, a Lyapunov function exists; ``margin < 0``: none exists. ``slope`` is the
    derivative of the margin in rho^2, from the multipliers of the program.
    """

    rho: float
    margin: float
    slope: float
    P: Array
    p: Array
    lam: Array
    mu: Array


class LyapunovProgram:
    """The semidefinite programs of one method and memory, assembled once and solved at many rates.

    Args:
        method: the method; it is rescaled to L = 1 here.
        memory: number l >= 0 of past gradients and values in the Lyapunov function.
    """

    def __init__(self, method: FixedStep, memory: int = 0) -> None:
        if memory < 0 or memory > 6:
            raise ValueError(f"memory must be 0 to 6, got {memory}")
        self.method = method.scaled()
        self.memory = memory
        self.order = method.order
        self.window = self.order + memory + 2
        self.coordinates = state_coordinates(self.method)
        self.state_rows, self.output_rows = self._trajectory()
        self.decrease_pairs = _pairs(memory + 2)
        self.positivity_pairs = _pairs(memory + 1)
        self._assemble()

    def _trajectory(self) -> tuple[list[Array], Array]:
        """Scaled states (n, N) and outputs (l + 2, N) of the window, as rows over w."""
        A, B, C = self.method.arrays()
        m = float(self.method.m)
        to_scaled = self.coordinates
        from_scaled = np.linalg.inv(to_scaled)
        step = to_scaled @ (A + m * np.outer(B, C)) @ from_scaled
        push = to_scaled @ B * (1 - m)
        look = C @ from_scaled
        gradients = np.eye(self.window)[self.order :]
        states = [np.eye(self.window)[: self.order]]
        for gradient in gradients:
            states.append(step @ states[-1] + np.outer(push, gradient))
        return states, np.array([look @ state for state in states[:-1]])

    def _interpolation(self, pairs: list[tuple[int, int]]) -> tuple[Array, Array]:
        """Matrices (pairs, N, N) and value coefficients (pairs, l + 2) of q_ij; the last index is *."""
        points = self.memory + 2
        outputs = np.vstack([self.output_rows, np.zeros(self.window)])
        gradients = np.vstack([np.eye(self.window)[self.order :], np.zeros(self.window)])
        values = np.vstack([np.eye(points), np.zeros(points)])
        first, second = np.array(pairs).T
        apart = outputs[first] - outputs[second]
        change = gradients[first] - gradients[second]
        cross = np.einsum("ka,kb->kab", gradients[second], apart)
        matrices = -(cross + cross.transpose(0, 2, 1)) / 2 - np.einsum("ka,kb->kab", change, change) / 2
        return matrices, values[first] - values[second]

    def _assemble(self) -> None:
        """Coefficients of all unknowns (P, p, lam, mu) in both inequalities and in the value equations."""
        window, points = self.window, self.memory + 2
        inner = window - 1
        now = np.eye(window)[:inner]
        then = np.vstack([self.state_rows[1], np.eye(window)[self.order + 1 :]])
        basis = symmetric_basis(inner)
        lam_matrices, lam_values = self._interpolation(self.decrease_pairs)
        outer_pairs = [tuple(points if i == points - 1 else i for i in pair) for pair in self.positivity_pairs]
        mu_matrices, mu_values = self._interpolation([(i, j) for i, j in outer_pairs])
        self.P_now = now.T @ basis @ now
        self.P_then = then.T @ basis @ then
        self.lam_matrices, self.mu_matrices = lam_matrices, mu_matrices[:, :inner, :inner]
        self.lam_values, self.mu_values = lam_values, mu_values[:, : points - 1]
        self.sizes = (len(basis), points - 1, len(lam_matrices), len(mu_matrices))
        self.then = then
        self._assemble_margin()

    def _assemble_margin(self) -> None:
        """Rows of the margin program, split as constant + rho^2 * linear."""
        n_P, n_p, n_lam, n_mu = self.sizes
        unknowns = sum(self.sizes) + 1
        window, inner, points = self.window, self.window - 1, self.memory + 2
        decrease, positivity = window * (window + 1) // 2, inner * (inner + 1) // 2
        lam = slice(n_P + n_p, n_P + n_p + n_lam)
        mu = slice(n_P + n_p + n_lam, unknowns - 1)
        multipliers = slice(lam.start, mu.stop)
        equations = 2 * points - 1 + 1
        fixed = np.zeros((equations + n_lam + n_mu + decrease + positivity, unknowns))
        moving = np.zeros_like(fixed)
        shifts = np.eye(points)
        fixed[:points, n_P : lam.start] = shifts[:, 1:]
        moving[:points, n_P : lam.start] = -shifts[:, :-1]
        fixed[:points, lam] = self.lam_values.T
        fixed[points : equations - 1, n_P : lam.start] = -np.eye(points - 1)
        fixed[points : equations - 1, mu] = self.mu_values.T
        fixed[equations - 1, multipliers] = 1.0
        top = equations + n_lam + n_mu
        fixed[equations:top, multipliers] = -np.eye(n_lam + n_mu)
        fixed[equations:top, -1] = MULTIPLIER_SHARE
        lower = slice(top, top + decrease)
        fixed[lower, :n_P] = pack_symmetric(self.P_then).T
        moving[lower, :n_P] = -pack_symmetric(self.P_now).T
        fixed[lower, lam] = pack_symmetric(self.lam_matrices).T
        fixed[lower, -1] = pack_symmetric(np.eye(window))
        upper = slice(top + decrease, None)
        fixed[upper, :n_P] = -pack_symmetric(self.P_now[:, :inner, :inner]).T
        fixed[upper, mu] = pack_symmetric(self.mu_matrices).T
        fixed[upper, -1] = pack_symmetric(np.eye(inner))
        self._margin_rows = ParametricRows(fixed, moving)
        self._margin_right = np.zeros(len(fixed))
        self._margin_right[equations - 1] = 1.0
        self._margin_cost = np.zeros(unknowns)
        self._margin_cost[-1] = -1.0
        self._margin_cones: list[Cone] = [
            ("zero", equations),
            ("nonnegative", n_lam + n_mu),
            ("semidefinite", window),
            ("semidefinite", inner),
        ]

    def margin(self, rho: float, *, tolerance: float = 1e-9) -> LyapunovPoint:
        """Largest common margin t of both inequalities and of the multipliers, sum of multipliers = 1.

        Its sign decides whether a Lyapunov function exists at this rate.
        """
        solution = solve_conic(
            self._margin_cost, self._margin_rows.at(rho**2), self._margin_right, self._margin_cones, tolerance=tolerance
        )
        slope = -self._margin_rows.slope(solution.x, solution.z)
        return self._point(rho, solution, slope)

    def _point(self, rho: float, solution: ConicSolution, slope: float) -> LyapunovPoint:
        n_P, n_p, n_lam, _ = self.sizes
        x = solution.x
        return LyapunovPoint(
            rho=rho,
            margin=float(x[-1]) if solution.solved else -np.inf,
            slope=slope,
            P=unpack_symmetric(x[:n_P]),
            p=x[n_P : n_P + n_p],
            lam=x[n_P + n_p : n_P + n_p + n_lam],
            mu=x[n_P + n_p + n_lam : -1],
        )


class ParametricRows:
    """A sparse matrix ``fixed + r * moving`` whose pattern is found once."""

    def __init__(self, fixed: Array, moving: Array) -> None:
        self.shape = fixed.shape
        used = (fixed != 0) | (moving != 0)
        self._columns, self.indices = np.nonzero(used.T)
        self.indptr = np.concatenate([[0], np.cumsum(used.sum(axis=0))])
        self.fixed, self.moving = fixed[self.indices, self._columns], moving[self.indices, self._columns]

    def at(self, r: float) -> sparse.csc_matrix:
        data = self.fixed + r * self.moving
        return sparse.csc_matrix((data, self.indices, self.indptr), shape=self.shape)

    def slope(self, x: Array, z: Array) -> float:
        """``z' moving x``: with a dual optimum z, the derivative in r of the optimal value."""
        return float(np.sum(z[self.indices] * self.moving * x[self._columns]))


def _pairs(points: int) -> list[tuple[int, int]]:
    """Ordered pairs of different indices among the points 0 .. points - 1 and * = points."""
    return [(i, j) for i in range(points + 1) for j in range(points + 1) if i != j]
