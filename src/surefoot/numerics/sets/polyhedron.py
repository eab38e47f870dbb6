"""Polyhedra given by inequalities and equations, by interior-point quadratic programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import clarabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

__all__ = ["Polyhedron"]

Array = NDArray[np.float64]
_clarabel: Any = clarabel  # the compiled module carries no types
_INFEASIBLE = ("PrimalInfeasible", "AlmostPrimalInfeasible")
_UNBOUNDED = ("DualInfeasible", "AlmostDualInfeasible")


@dataclass(frozen=True, eq=False)
class Polyhedron:
    """The polyhedron ``G x <= h, A x = b``.

    Projection and support are solved by Clarabel, one problem a point, in float64: the support to relative
    accuracy 1e-11, the projection exactly up to rounding wherever the active face could be confirmed.

    Args:
        G: matrix ``(m, n)``.
        h: right-hand side ``(m,)``.
        A: matrix ``(p, n)`` of the equations, or None.
        b: right-hand side ``(p,)``, or None.

    Raises:
        ValueError: if shapes disagree, or the polyhedron is empty.
    """

    G: Tensor
    h: Tensor
    A: Tensor | None = None
    b: Tensor | None = None

    def __post_init__(self) -> None:
        if self.G.ndim != 2 or self.h.shape != self.G.shape[:1]:
            raise ValueError(
                f"Polyhedron needs G of shape (m, n) and h of shape (m,), got {tuple(self.G.shape)} and "
                f"{tuple(self.h.shape)}."
            )
        if (self.A is None) != (self.b is None):
            raise ValueError("Polyhedron needs both A and b for its equations, or neither.")
        if self.A is not None and self.b is not None:
            expected = (self.b.shape[0], self.G.shape[1])
            if self.b.ndim != 1 or self.A.shape != expected:
                raise ValueError(f"A must have shape {expected} to fit b and G, got {tuple(self.A.shape)}.")
        self._solve(np.ones(self.G.shape[1]), np.zeros(self.G.shape[1]))

    @cached_property
    def _program(self) -> tuple[Any, Array, list[Any]]:
        """Constraint matrix, right-hand side and cones; equations first."""
        G, h = _numpy(self.G), _numpy(self.h)
        if self.A is None or self.b is None:
            return sparse.csc_matrix(G), h, [_clarabel.NonnegativeConeT(len(h))]
        rows = sparse.csc_matrix(np.vstack([_numpy(self.A), G]))
        cones = [_clarabel.ZeroConeT(self.b.shape[0]), _clarabel.NonnegativeConeT(len(h))]
        return rows, np.concatenate([_numpy(self.b), h]), cones

    def _solve(self, quadratic: Array, linear: Array) -> tuple[Array, Array] | None:
        """Minimise ``x' diag(quadratic) x / 2 + linear' x``: minimiser and multipliers; None if unbounded."""
        rows, bounds, cones = self._program
        settings = _clarabel.DefaultSettings()
        settings.verbose = False
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
        curvature = sparse.csc_matrix(sparse.diags_array(quadratic))
        solution = _clarabel.DefaultSolver(curvature, linear, rows, bounds, cones, settings).solve()
        status = str(solution.status)
        if status in _INFEASIBLE:
            raise ValueError("The polyhedron is empty: no x satisfies G x <= h and A x = b.")
        if status in _UNBOUNDED:
            return None
        if status not in ("Solved", "AlmostSolved"):
            raise ArithmeticError(f"Clarabel stopped with {status} on a program over this polyhedron.")
        return np.asarray(solution.x, dtype=np.float64), np.asarray(solution.z, dtype=np.float64)

    def _project_point(self, point: Array) -> Array:
        """Project by an interior-point program, then exactly onto the face that it found active.

        An interior-point answer is only as near as the root of its gap. The exact projection on the face
        replaces it where it proves itself: inside the polyhedron, with multipliers of the right sign.
        """
        solved = self._solve(np.ones_like(point), -point)
        if solved is None:
            raise ArithmeticError("Clarabel called a projection unbounded; check G and h for infinities.")
        nearest, multipliers = solved
        rows, bounds, _ = self._program
        equations = 0 if self.b is None else self.b.shape[0]
        slack = bounds - rows @ nearest
        active = np.flatnonzero((np.arange(len(bounds)) < equations) | (multipliers > slack))
        face, offset = rows[active].toarray(), bounds[active]
        inverse = np.linalg.pinv(face)
        exact = point - inverse @ (face @ point - offset)
        forces = inverse.T @ (point - exact)
        scale = 1 + np.abs(point).max() + np.abs(bounds).max()
        inside = bool((rows @ exact <= bounds + 1e-13 * scale).all())
        pushed_inwards = bool((forces[active >= equations] >= -1e-12 * scale).all())
        return exact if inside and pushed_inwards else nearest

    @cached_property
    def diameter(self) -> float:
        """Diagonal of the bounding box, an upper bound: the exact diameter is NP-hard."""
        unit = torch.eye(self.G.shape[1], dtype=torch.float64)
        return torch.linalg.vector_norm(self.support(unit) + self.support(-unit)).item()

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, for each point ``(..., n)``; points already inside are returned as they are."""
        points = _numpy(x).reshape(-1, x.shape[-1])
        nearest = np.empty_like(points)
        for i, point in enumerate(points):
            nearest[i] = point if self.contains(torch.from_numpy(point)) else self._project_point(point)
        return torch.from_numpy(nearest.reshape(tuple(x.shape))).to(dtype=x.dtype, device=x.device)

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        """Whether all points satisfy every inequality and equation within ``tol``."""
        fits = bool((x @ self.G.to(x).T <= self.h.to(x) + tol).all())
        if self.A is None or self.b is None:
            return fits
        return fits and bool(((x @ self.A.to(x).T - self.b.to(x)).abs() <= tol).all())

    def distance(self, x: Tensor) -> Tensor:
        """Euclidean distance of each point to the polyhedron."""
        return torch.linalg.vector_norm(x - self.project(x), dim=-1)

    def support(self, g: Tensor) -> Tensor:
        """``sup <x, g>`` by one linear program a row of ``g``."""
        rows = _numpy(g).reshape(-1, g.shape[-1])
        values = np.empty(len(rows))
        for i, row in enumerate(rows):
            solved = self._solve(np.zeros_like(row), -row)
            values[i] = math.inf if solved is None else row @ solved[0]
        return torch.from_numpy(values.reshape(tuple(g.shape[:-1]))).to(dtype=g.dtype, device=g.device)


def _numpy(x: Tensor) -> Array:
    return x.detach().to(device="cpu", dtype=torch.float64).numpy()
