"""Rates by integral quadratic constraints, the older road: kept for comparison with the Lyapunov programs.

The weighted off-by-one constraint of F_{m,L} with its filter (state z_{k+1} = u_k - L y_k, here L = 1),

    psi_k = (L y_k - u_k + rb^2 z_k, u_k - m y_k),   M = [[0, 1], [1, 0]],   rb = rho,

gives the rate rho wherever a P > 0 and a lam >= 0 exist with

    [A^ B^]' P [A^ B^] - rho^2 diag(P, 0) + lam [C^ D^]' M [C^ D^] <= 0.

It is sufficient only, it says nothing in the negative, and nothing is proved in exact arithmetic here.

References:
    Lessard, Recht, Packard, Analysis and design of optimization algorithms via integral quadratic constraints,
    SIAM J. Optim. 2016, Lemma 10 and Theorem 4.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from surefoot.descent.problem import FixedStep
from surefoot.descent.scaling import quadratic_rate, state_coordinates
from surefoot.numerics.conic import Cone, pack_symmetric, solve_conic, unpack_symmetric

Array = npt.NDArray[np.float64]

__all__ = ["iqc_margin", "iqc_rate"]

# A margin above the solver's error at its tolerance of 1e-10.
FEASIBLE = 1e-10


def iqc_margin(method: FixedStep, rho: float) -> float:
    """Largest common margin of P and of the matrix inequality at this rate (trace P + lam = 1); > 0: feasible.

    Args:
        method: the method.
        rho: rate, 0 < rho <= 1.
    """
    scaled = method.scaled()
    m = float(scaled.m)
    to_scaled = state_coordinates(scaled)
    plain_A, plain_B, plain_C = scaled.arrays()
    back = np.linalg.inv(to_scaled)
    A, B, C = to_scaled @ plain_A @ back, to_scaled @ plain_B, plain_C @ back
    order = len(B)
    state = order + 1
    step = np.zeros((state, state + 1))
    step[:order, :order], step[:order, -1] = A, B
    step[order, :order], step[order, -1] = -C, 1.0
    look = np.zeros((2, state + 1))
    look[0, :order], look[0, order], look[0, -1] = C, rho**2, -1.0
    look[1, :order], look[1, -1] = -m * C, 1.0
    supply = look.T @ np.array([[0.0, 1.0], [1.0, 0.0]]) @ look
    now = np.eye(state + 1)[:state]
    n_P, n_M = state * (state + 1) // 2, (state + 1) * (state + 2) // 2
    basis = np.array([unpack_symmetric(row) for row in np.eye(n_P)])
    change = step.T @ basis @ step - rho**2 * now.T @ basis @ now
    rows = np.zeros((1 + 1 + n_P + n_M, n_P + 2))
    rows[0, :n_P], rows[0, n_P] = pack_symmetric(np.eye(state)), 1.0
    rows[1, n_P], rows[1, -1] = -1.0, 0.1
    rows[2 : 2 + n_P, :n_P], rows[2 : 2 + n_P, -1] = -np.eye(n_P), pack_symmetric(np.eye(state))
    rows[2 + n_P :, :n_P] = pack_symmetric(change).T
    rows[2 + n_P :, n_P] = pack_symmetric(supply)
    rows[2 + n_P :, -1] = pack_symmetric(np.eye(state + 1))
    right = np.zeros(len(rows))
    right[0] = 1.0
    cones: list[Cone] = [("zero", 1), ("nonnegative", 1), ("semidefinite", state), ("semidefinite", state + 1)]
    cost = np.zeros(n_P + 2)
    cost[-1] = -1.0
    solution = solve_conic(cost, rows, right, cones, tolerance=1e-10)
    return float(solution.x[-1]) if solution.solved else -math.inf


def iqc_rate(method: FixedStep, *, tolerance: float = 1e-6) -> float:
    """Smallest rate that the weighted off-by-one constraint supports (float, by bisection); NaN if none does.

    Args:
        method: the method.
        tolerance: on the rate.
    """
    low = quadratic_rate(method)
    # At rate 1 itself the filter is only marginally stable and the inequality is never strict.
    tops = [1 - (1 - low) * share for share in (1e-3, 1e-2, 0.1, 0.3, 0.5, 0.7, 0.9)]
    high = next((top for top in tops if iqc_margin(method, top) > FEASIBLE), math.nan)
    while high - low > tolerance:
        middle = (low + high) / 2
        if iqc_margin(method, middle) > FEASIBLE:
            high = middle
        else:
            low = middle
    return high
