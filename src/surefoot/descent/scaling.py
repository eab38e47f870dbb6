"""Well-scaled coordinates for a method's state, and its rate on quadratics.

The state is written in s_i proportional to C (A - I)^i xi, the output and its differences, which does not depend on the
coordinates the method is given in; s_0 carries the factor sqrt(m), because the distance to the minimiser is 1 / sqrt(m)
long where gradients have length 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from surefoot.descent.problem import FixedStep

Array = npt.NDArray[np.float64]

__all__ = ["quadratic_rate", "state_coordinates"]

# A row of C (A - I)^i that has lost this much to cancellation is noise.
CANCELLED = 1e-10


def quadratic_rate(method: FixedStep, *, samples: int = 200) -> float:
    """Largest spectral radius of A + c B C over curvatures c in [m, L]: the rate on quadratics.

    Always a lower bound on the rate over F_{m,L}. The grid is uniform and geometric and holds both ends.
    """
    A, B, C = method.scaled().arrays()
    m = float(method.m / method.L)
    grid = np.concatenate([np.geomspace(m, 1.0, samples), np.linspace(m, 1.0, samples)])
    closed_loops = A + grid[:, None, None] * np.outer(B, C)
    return float(_spectral_radii(closed_loops).max())


def _spectral_radii(matrices: Array) -> Array:
    """Spectral radii (k,) of matrices (k, n, n); in closed form up to two rows, where it is a search's first cost."""
    if matrices.shape[-1] == 1:
        return np.abs(matrices[:, 0, 0])
    if matrices.shape[-1] > 2:
        return np.abs(np.linalg.eigvals(matrices)).max(axis=1)
    half = (matrices[:, 0, 0] + matrices[:, 1, 1]) / 2
    determinant = matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]
    apart = half**2 - determinant
    real = np.abs(half) + np.sqrt(np.maximum(apart, 0.0))
    return np.where(apart >= 0, real, np.sqrt(np.maximum(determinant, 0.0)))


def state_coordinates(method: FixedStep) -> Array:
    """Rows (n, n) that map a state to (sqrt(m) y, differences of y), each at the scale of its response.

    Falls back on the fixed point and its orthogonal complement where the output does not see the whole state, as for
    a method whose pole cancels a zero: C (A - I)^i is then rounding and no direction.
    """
    A, B, C = method.arrays()
    size = method.order
    moved = A - np.eye(size)

    def at_scale(row: Array) -> Array:
        responses = [abs(float(row @ np.linalg.matrix_power(A, j) @ B)) for j in range(size)]
        return row / max(responses) if max(responses) > 0 else row

    rows = [np.sqrt(float(method.m)) * C]
    row = C
    for _ in range(1, size):
        following = row @ moved
        if np.abs(following).max() <= CANCELLED * float((np.abs(row) @ np.abs(moved)).max()):
            break
        row = following
        rows.append(at_scale(row))
    if len(rows) == size:
        coordinates = _few_bits(np.array(rows))
        lengths = np.linalg.norm(coordinates, axis=1)
        if lengths.min() > 0 and np.linalg.cond(coordinates / lengths[:, None]) < 1e6:
            return coordinates
    point = np.array([float(entry) for entry in method.fixed_point])
    complement = np.linalg.svd(point[None, :])[2][1:]
    along = np.sqrt(float(method.m)) * point / float(point @ point)
    return _few_bits(np.vstack([along, *map(at_scale, complement)]))


def _few_bits(matrix: Array) -> Array:
    """Entries rounded to 12 bits: coordinates are free, and short ones keep the exact proofs short."""
    mantissa, exponent = np.frexp(matrix)
    return np.ldexp(np.round(mantissa * 4096) / 4096, exponent)
