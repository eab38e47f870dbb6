"""The Lyapunov function of a given rate with the smallest constant of the start.

At a fixed rate everything is linear, so that P, p, all multipliers and c are found at once:

    minimise c  subject to  V_{k+1} - rho^2 V_k + sum lam_ij q_ij <= 0,   |xi_k|^2 - V_k + sum mu_ij q_ij <= 0,
                            V_l - c |xi_0|^2 + sum nu_ij q_ij <= 0,

in the scaled coordinates and values of ``lyapunov``, |xi| being the plain state. A second solve gives up a little of c for
a margin in every inequality, which rounding to rationals needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surefoot.descent.lyapunov import MULTIPLIER_SHARE, LyapunovPoint, LyapunovProgram
from surefoot.numerics.conic import Cone, pack_symmetric, solve_conic, unpack_symmetric

Array = npt.NDArray[np.float64]

__all__ = ["Start", "StartProgram"]


# c is measured in this unit: constants of 10^2 to 10^8 are common near the best rate.
UNIT = 1e6


@dataclass(frozen=True)
class Start:
    """A Lyapunov function for ``|xi_k|^2 / length <= V_k`` and ``V_l <= bound |xi_0|^2 / length``, with its margin."""

    point: LyapunovPoint
    nu: Array
    bound: float
    length: float


class StartProgram:
    """The programs of one method and memory.

    Args:
        program: its Lyapunov programs, whose matrices are used.
    """

    def __init__(self, program: LyapunovProgram) -> None:
        self._program = program
        inner = program.window - 1
        plain = np.linalg.inv(program.coordinates)
        later = (plain @ program.state_rows[program.memory])[:, :inner]
        first = (plain @ program.state_rows[0])[:, :inner]
        self.length = float(np.linalg.norm(later, 2) ** 2)
        self._later, self._first = later.T @ later / self.length, first.T @ first / self.length

    def _rows(self, rho: float) -> tuple[Array, Array, list[Cone], Array]:
        """A, b and cones over (P, p, lam, mu, nu, c), and the column of a common margin."""
        program = self._program
        n_P, n_p, n_lam, n_mu = program.sizes
        window, inner, points = program.window, program.window - 1, program.memory + 2
        lam = slice(n_P + n_p, n_P + n_p + n_lam)
        mu = slice(lam.stop, lam.stop + n_mu)
        nu = slice(mu.stop, mu.stop + n_mu)
        signs = n_lam + 2 * n_mu
        sizes = [3 * points - 2, signs, window * (window + 1) // 2, *[inner * (inner + 1) // 2] * 2]
        ends = np.cumsum(sizes)
        A, b, margin = np.zeros((ends[-1], nu.stop + 1)), np.zeros(ends[-1]), np.zeros(ends[-1])
        shifts = np.eye(points)
        A[:points, n_P : lam.start] = shifts[:, 1:] - rho**2 * shifts[:, :-1]
        A[:points, lam] = program.lam_values.T
        for block, values, sign in ((mu, program.mu_values, -1.0), (nu, program.mu_values, 1.0)):
            rows = slice(points, 2 * points - 1) if block is mu else slice(2 * points - 1, ends[0])
            A[rows, n_P : lam.start] = sign * np.eye(points - 1)
            A[rows, block] = values.T
        A[ends[0] : ends[1], lam.start : nu.stop] = -np.eye(signs)
        margin[ends[0] : ends[1]] = MULTIPLIER_SHARE
        decrease, positive, start = (slice(ends[i], ends[i + 1]) for i in (1, 2, 3))
        inside = program.P_now[:, :inner, :inner]
        A[decrease, :n_P] = pack_symmetric(program.P_then - rho**2 * program.P_now).T
        A[decrease, lam] = pack_symmetric(program.lam_matrices).T
        margin[decrease] = pack_symmetric(np.eye(window))
        A[positive, :n_P] = -pack_symmetric(inside).T
        A[positive, mu] = pack_symmetric(program.mu_matrices).T
        b[positive] = -pack_symmetric(self._later)
        A[start, :n_P] = pack_symmetric(inside).T
        A[start, nu] = pack_symmetric(program.mu_matrices).T
        A[start, -1] = -UNIT * pack_symmetric(self._first)
        margin[positive] = margin[start] = pack_symmetric(np.eye(inner))
        cones: list[Cone] = [
            ("zero", sizes[0]),
            ("nonnegative", signs),
            ("semidefinite", window),
            ("semidefinite", inner),
            ("semidefinite", inner),
        ]
        return A, b, cones, margin

    def solve(self, rho: float, rooms: tuple[float, ...]) -> Iterator[Start]:
        """Candidates at this rate, one for each factor > 1 on the smallest c; none where the solver finds no c."""
        program = self._program
        n_P, n_p, n_lam, n_mu = program.sizes
        A, b, cones, margin = self._rows(rho)
        cost = np.zeros(A.shape[1])
        cost[-1] = 1.0
        best = solve_conic(cost, A, b, cones)
        # Where the method's own constant grows without bound towards this rate, the solver stops early; what it then
        # holds may still do with more room, and the proof decides.
        if not best.x[-1] > 0:
            return
        for room in rooms:
            scaled = room * float(best.x[-1])
            roomy = np.column_stack([A[:, :-1], margin])
            answer = solve_conic(-cost, roomy, b - scaled * A[:, -1], cones, tolerance=1e-11)
            x = answer.x
            point = LyapunovPoint(
                rho=rho,
                margin=float(x[-1]) if answer.solved else -np.inf,
                slope=np.nan,
                P=unpack_symmetric(x[:n_P]),
                p=x[n_P : n_P + n_p],
                lam=x[n_P + n_p : n_P + n_p + n_lam],
                mu=x[n_P + n_p + n_lam : n_P + n_p + n_lam + n_mu],
            )
            yield Start(point, x[n_P + n_p + n_lam + n_mu : -1], UNIT * scaled, self.length)
