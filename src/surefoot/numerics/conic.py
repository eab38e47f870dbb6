"""Thin direct calls of the Clarabel interior-point solver: QP, SOCP and SDP without a modelling layer.

    minimise 0.5 x'P x + q'x   subject to   A x + s = b,  s in K,

with K a product of cones written as pairs: ``("zero", n)``, ``("nonnegative", n)``, ``("second_order", n)``
(first entry >= norm of the rest) and ``("semidefinite", n)`` (n x n, packed by ``pack_symmetric``). The dual
is ``P x + q + A'z = 0, z in K*`` with value ``-0.5 x'P x - b'z``. Residuals are recomputed here from the data
and do not rest on what the solver says of itself.

References:
    Goulart, Chen, Clarabel: an interior-point solver for conic programs with quadratic objectives, 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

import clarabel
import numpy as np
import numpy.typing as npt
from scipy import sparse

_clarabel: Any = clarabel  # the compiled module carries no types

ConeName = Literal["zero", "nonnegative", "second_order", "semidefinite"]
Cone = tuple[ConeName, int]
Array = npt.NDArray[np.float64]

__all__ = [
    "Cone",
    "ConicSolution",
    "cone_rows",
    "distance_outside",
    "pack_symmetric",
    "quadratic_program",
    "solve_conic",
    "symmetric_basis",
    "unpack_symmetric",
]


@dataclass(frozen=True)
class _Program:
    """The data of a conic program, kept with its solution for the residuals."""

    P: Any
    q: Array
    A: Any
    b: Array
    cones: tuple[Cone, ...]


@dataclass(frozen=True)
class ConicSolution:
    """Primal x, slack s, dual z of a conic program; residuals are computed from the data when asked for.

    Attributes:
        x: (n,) primal point.
        s: (rows,) slack of ``A x + s = b``.
        z: (rows,) multipliers.
        value: primal objective.
        dual_value: dual objective; equal to ``value`` at an optimum.
        status: the solver's own word.
        solved: the solver reached its tolerance, or nearly so.
        iterations: interior-point steps.
        program: the data that were solved.
    """

    x: Array
    s: Array
    z: Array
    value: float
    dual_value: float
    status: str
    solved: bool
    iterations: int
    program: _Program

    @property
    def gap(self) -> float:
        """Primal minus dual value."""
        return self.value - self.dual_value

    @cached_property
    def primal_residual(self) -> float:
        """Largest entry of ``A x + s - b`` or distance of s outside its cone."""
        data = self.program
        return max(_largest(data.A @ self.x + self.s - data.b), distance_outside(self.s, data.cones))

    @cached_property
    def dual_residual(self) -> float:
        """Largest entry of ``P x + q + A'z`` or distance of z outside the dual cone."""
        data = self.program
        slope = data.A.T @ self.z + data.q
        bent = slope if data.P is None else slope + data.P @ self.x
        return max(_largest(bent), distance_outside(self.z, data.cones, dual=True))


@cache
def _packing(size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """Row, column and weight of each packed entry: upper triangle, column after column."""
    columns = np.repeat(np.arange(size), np.arange(1, size + 1))
    rows = np.concatenate([np.arange(k + 1) for k in range(size)])
    return rows, columns, np.where(rows == columns, 1.0, np.sqrt(2.0))


def pack_symmetric(matrix: Array) -> Array:
    """Pack symmetric matrices (..., n, n) into vectors (..., n(n+1)/2) with the same inner product.

    Upper triangle column after column, off-diagonal entries times sqrt 2: the order of the semidefinite cone.
    """
    rows, columns, weights = _packing(matrix.shape[-1])
    return matrix[..., rows, columns] * weights


def unpack_symmetric(vector: Array) -> Array:
    """The symmetric matrix (n, n) that ``pack_symmetric`` packs into this vector."""
    size = round((np.sqrt(8 * len(vector) + 1) - 1) / 2)
    rows, columns, weights = _packing(size)
    matrix = np.zeros((size, size))
    matrix[rows, columns] = vector / weights
    matrix[columns, rows] = matrix[rows, columns]
    return matrix


@cache
def symmetric_basis(size: int) -> Array:
    """(n(n+1)/2, n, n): the symmetric matrices that the unit vectors unpack to."""
    basis = np.array([unpack_symmetric(row) for row in np.eye(size * (size + 1) // 2)])
    basis.setflags(write=False)
    return basis


def cone_rows(cone: Cone) -> int:
    """Number of rows of A that a cone takes."""
    name, size = cone
    return size * (size + 1) // 2 if name == "semidefinite" else size


def distance_outside(vector: Array, cones: Sequence[Cone], *, dual: bool = False) -> float:
    """How far a vector sticks out of a product of cones (0 inside), in the largest entry or eigenvalue."""
    worst, start = 0.0, 0
    for cone in cones:
        part = vector[start : start + cone_rows(cone)]
        start += len(part)
        if len(part) == 0:
            continue
        if cone[0] == "zero":
            outside = 0.0 if dual else float(np.max(np.abs(part)))
        elif cone[0] == "nonnegative":
            outside = -float(np.min(part))
        elif cone[0] == "second_order":
            outside = float(np.linalg.norm(part[1:]) - part[0])
        else:
            outside = -float(np.linalg.eigvalsh(unpack_symmetric(part))[0])
        worst = max(worst, outside)
    return worst


@cache
def _clarabel_cone(cone: Cone) -> Any:
    name, size = cone
    kinds: dict[str, Any] = {
        "zero": _clarabel.ZeroConeT,
        "nonnegative": _clarabel.NonnegativeConeT,
        "second_order": _clarabel.SecondOrderConeT,
        "semidefinite": _clarabel.PSDTriangleConeT,
    }
    return kinds[name](size)


@cache
def _settings(tolerance: float, max_iterations: int) -> Any:
    settings: Any = _clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_iter = max_iterations
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    # Both rewrite the problem; the programs sent here are small, dense and have no empty rows.
    settings.presolve_enable = False
    settings.chordal_decomposition_enable = False
    settings.max_threads = 1
    return settings


def solve_conic(
    q: Array,
    A: Any,
    b: Array,
    cones: Sequence[Cone],
    *,
    P: Any = None,
    tolerance: float = 1e-9,
    max_iterations: int = 200,
) -> ConicSolution:
    """Minimise ``0.5 x'P x + q'x`` subject to ``b - A x`` in a product of cones.

    Args:
        q: (n,) linear cost.
        A: (rows, n) dense or scipy sparse matrix (csc is taken as it is).
        b: (rows,) right side.
        cones: cones in the order of the rows of A.
        P: (n, n) symmetric positive semidefinite, dense or sparse; None for a linear objective.
        tolerance: on the gap (absolute and relative) and both residuals.
        max_iterations: limit on interior-point steps.

    Returns:
        ConicSolution; look at ``solved`` and the residuals before using it.

    Raises:
        ValueError: shapes do not fit or data are not finite.
    """
    size = len(q)
    matrix: Any = A if isinstance(A, sparse.csc_matrix) else sparse.csc_matrix(A)
    rows = sum(cone_rows(cone) for cone in cones)
    if matrix.shape != (rows, size) or b.shape != (rows,):
        raise ValueError(f"expected A of shape ({rows}, {size}) and b of ({rows},), got {matrix.shape} and {b.shape}")
    if not (np.isfinite(matrix.data).all() and np.isfinite(b).all() and np.isfinite(q).all()):
        raise ValueError("expected finite data in q, A and b")
    curvature: Any = sparse.csc_matrix((size, size)) if P is None else sparse.csc_matrix(P)
    upper: Any = curvature if P is None else sparse.triu(curvature, format="csc")
    solver: Any = _clarabel.DefaultSolver(
        upper, q, matrix, b, [_clarabel_cone(cone) for cone in cones], _settings(tolerance, max_iterations)
    )
    raw: Any = solver.solve()
    x: Array = np.array(raw.x, dtype=np.float64)
    s: Array = np.array(raw.s, dtype=np.float64)
    z: Array = np.array(raw.z, dtype=np.float64)
    status = str(raw.status)
    quadratic = 0.0 if P is None else 0.5 * float(x @ (curvature @ x))
    return ConicSolution(
        x=x,
        s=s,
        z=z,
        value=quadratic + float(q @ x),
        dual_value=-quadratic - float(b @ z),
        status=status,
        solved=status in ("Solved", "AlmostSolved"),
        iterations=int(raw.iterations),
        program=_Program(None if P is None else curvature, q, matrix, b, tuple(cones)),
    )


def _largest(vector: Array) -> float:
    return float(np.max(np.abs(vector))) if len(vector) else 0.0


def quadratic_program(
    P: Array,
    q: Array,
    *,
    upper: tuple[Array, Array] | None = None,
    equal: tuple[Array, Array] | None = None,
    tolerance: float = 1e-9,
) -> ConicSolution:
    """Minimise ``0.5 x'P x + q'x`` subject to ``G x <= h`` and ``E x = f``.

    Args:
        P: (n, n) symmetric positive semidefinite.
        q: (n,).
        upper: (G, h) with G (k, n), h (k,).
        equal: (E, f) with E (j, n), f (j,).
        tolerance: as in ``solve_conic``.

    Returns:
        ConicSolution; its rows are the equalities first, then the inequalities.
    """
    size = len(q)
    E, f = equal if equal is not None else (np.zeros((0, size)), np.zeros(0))
    G, h = upper if upper is not None else (np.zeros((0, size)), np.zeros(0))
    cones: list[Cone] = [("zero", len(f)), ("nonnegative", len(h))]
    return solve_conic(
        q, np.vstack([E, G]), np.concatenate([f, h]), [cone for cone in cones if cone[1]], P=P, tolerance=tolerance
    )
