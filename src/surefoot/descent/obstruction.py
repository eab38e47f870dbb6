"""The other side of the Lyapunov programs: moments that rule out every Lyapunov function at a rate.

References:
    See ``lyapunov``; this is its conic dual with a margin in every condition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surefoot.descent.lyapunov import LyapunovProgram, ParametricRows
from surefoot.numerics.conic import Cone, pack_symmetric, solve_conic, symmetric_basis, unpack_symmetric

Array = npt.NDArray[np.float64]

__all__ = ["Obstruction", "ObstructionProgram"]


@dataclass(frozen=True)
class Obstruction:
    """A candidate proof that no Lyapunov function exists at one rate, in scaled coordinates.

    Z (N, N) are second moments of w and h (l + 2,) mean values such that all interpolation inequalities hold
    while the moments of X grow: ``W = X_+ Z X_+' - rho^2 X Z X'`` is itself a moment matrix of a window.
    """

    rho: float
    margin: float
    Z: Array
    h: Array


class ObstructionProgram:
    """The programs in (Z, h, t) of one method and memory, split as constant + rho^2 * linear.

    Args:
        program: the Lyapunov programs that it is to prove infeasible.
    """

    def __init__(self, program: LyapunovProgram) -> None:
        window, inner, points = program.window, program.window - 1, program.memory + 2
        n_Z = window * (window + 1) // 2
        n_W = inner * (inner + 1) // 2
        _, _, n_lam, n_mu = program.sizes
        basis = symmetric_basis(window)
        W_then = program.then @ basis @ program.then.T
        W_now = basis[:, :inner, :inner]
        rows = 1 + n_lam + n_mu + n_Z + n_W
        fixed = np.zeros((rows, n_Z + points + 1))
        moving = np.zeros_like(fixed)
        fixed[0, :n_Z] = pack_symmetric(np.eye(window))
        top = 1 + n_lam
        fixed[1:top, :n_Z] = -pack_symmetric(program.lam_matrices)
        fixed[1:top, n_Z:-1] = -program.lam_values
        last = top + n_mu
        fixed[top:last, :n_Z] = -np.einsum("mab,kab->mk", program.mu_matrices, W_then)
        moving[top:last, :n_Z] = np.einsum("mab,kab->mk", program.mu_matrices, W_now)
        fixed[top:last, n_Z + 1 : -1] += -program.mu_values
        moving[top:last, n_Z:-2] += program.mu_values
        fixed[1:last, -1] = 1.0
        fixed[last : last + n_Z, :n_Z] = -np.eye(n_Z)
        fixed[last : last + n_Z, -1] = pack_symmetric(np.eye(window))
        fixed[last + n_Z :, :n_Z] = -pack_symmetric(W_then).T
        moving[last + n_Z :, :n_Z] = pack_symmetric(W_now).T
        fixed[last + n_Z :, -1] = pack_symmetric(np.eye(inner))
        self._rows = ParametricRows(fixed, moving)
        self._right = np.zeros(rows)
        self._right[0] = 1.0
        self._cost = np.zeros(n_Z + points + 1)
        self._cost[-1] = -1.0
        self._packed = n_Z
        self._cones: list[Cone] = [
            ("zero", 1),
            ("nonnegative", n_lam + n_mu),
            ("semidefinite", window),
            ("semidefinite", inner),
        ]

    def solve(self, rho: float, *, tolerance: float = 1e-11) -> Obstruction:
        """Moments with the largest margin in all conditions that forbid a Lyapunov function at this rate."""
        solution = solve_conic(self._cost, self._rows.at(rho**2), self._right, self._cones, tolerance=tolerance)
        n_Z = self._packed
        return Obstruction(
            rho=rho,
            margin=float(solution.x[-1]) if solution.solved else -np.inf,
            Z=unpack_symmetric(solution.x[:n_Z]),
            h=solution.x[n_Z:-1],
        )
