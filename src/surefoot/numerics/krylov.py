"""Krylov methods on matrix-vector products: linear systems, extreme eigenpairs, spectral densities.

Operators are plain functions from a vector ``(n,)`` to a vector ``(n,)`` and must be symmetric. Everything runs in
the dtype and on the device of the vector that is given. The Lanczos process itself is in ``lanczos.py``.

References:
    M. Hestenes and E. Stiefel, "Methods of conjugate gradients", 1952.
    C. Paige and M. Saunders, "Solution of sparse indefinite systems of linear equations", 1975 (MINRES).
    Y. Saad, "Numerical methods for large eigenvalue problems", 2011.
    S. Ubaru, J. Chen and Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surefoot.numerics.lanczos import Lanczos, Matvec, lanczos

__all__ = [
    "EigenPairs",
    "LinearSolution",
    "SpectralQuadrature",
    "conjugate_gradient",
    "extreme_eigenpairs",
    "lanczos_relative_gap",
    "minres",
    "spectral_quadrature",
]

Outcome = Literal["converged", "step_limit", "negative_curvature", "least_squares"]


@dataclass(frozen=True)
class LinearSolution:
    """What a linear solver left.

    Args:
        x: the solution ``(n,)``.
        residual_norm: ``|b - A x|``, computed anew at the end, not carried along.
        steps: matrix-vector products inside the iteration.
        outcome: ``converged``; ``step_limit``; ``negative_curvature`` (CG: the operator is not positive definite, ``x``
            is the last iterate before); ``least_squares`` (MINRES: no solution exists, ``x`` minimises the residual).
        curvature: CG only: the least Rayleigh quotient ``p'Ap / p'p`` of a search direction.
    """

    x: Tensor
    residual_norm: float
    steps: int
    outcome: Outcome
    curvature: float = math.nan

    @property
    def converged(self) -> bool:
        """Whether the residual asked for was reached."""
        return self.outcome == "converged"


def conjugate_gradient(
    matvec: Matvec,
    b: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-10,
    steps: int | None = None,
    preconditioner: Matvec | None = None,
) -> LinearSolution:
    """Solve ``A x = b`` with ``A`` symmetric positive definite, by preconditioned conjugate gradients.

    Args:
        matvec: ``v -> A v``.
        b: right-hand side ``(n,)``.
        start: first iterate; zero if None.
        tolerance: stop when ``|b - A x| <= tolerance |b|``.
        steps: most steps; ``10 n`` if None.
        preconditioner: ``v -> M^-1 v`` with ``M`` positive definite near ``A``.

    Returns:
        The solution; its outcome says whether the residual was reached or ``A`` was found indefinite.
    """
    x = torch.zeros_like(b) if start is None else start.clone()
    r = b - matvec(x) if start is not None else b.clone()
    z = r if preconditioner is None else preconditioner(r)
    p, rz = z.clone(), torch.dot(r, z)
    goal = tolerance * torch.linalg.vector_norm(b).item()
    limit = 10 * b.numel() if steps is None else steps
    outcome: Outcome = "step_limit"
    curvature, step = math.inf, 0
    while True:
        if torch.linalg.vector_norm(r).item() <= goal:
            outcome = "converged"
            break
        if step == limit:
            break
        Ap = matvec(p)
        step += 1
        bend = torch.dot(p, Ap)
        curvature = min(curvature, (bend / torch.dot(p, p)).item())
        if bend.item() <= 0:
            outcome = "negative_curvature"
            break
        length = rz / bend
        x = x + length * p
        r = r - length * Ap
        z = r if preconditioner is None else preconditioner(r)
        rz, previous = torch.dot(r, z), rz
        p = z + (rz / previous) * p
    residual_norm = torch.linalg.vector_norm(b - matvec(x)).item()
    return LinearSolution(x, residual_norm, step, outcome, curvature)


def minres(matvec: Matvec, b: Tensor, *, tolerance: float = 1e-10, steps: int | None = None) -> LinearSolution:
    """Minimise ``|b - A x|`` with ``A`` symmetric, indefinite or singular, by MINRES from zero.

    For a consistent singular system the result is the solution of least norm. For an inconsistent one the iterates
    would drift along the null space, so the iteration also stops when ``|A r| <= tolerance |A| |r|``.

    Args:
        matvec: ``v -> A v``.
        b: right-hand side ``(n,)``.
        tolerance: relative to ``|b|`` for the residual, and to ``|A| |r|`` for ``A r``.
        steps: most steps; ``10 n`` if None.

    Returns:
        The solution; its outcome says whether the residual was reached or only minimised.
    """
    beta = torch.linalg.vector_norm(b).item()
    limit = 10 * b.numel() if steps is None else steps
    goal = tolerance * beta
    x = torch.zeros_like(b)
    outcome: Outcome = "converged" if beta == 0 else "step_limit"
    v_old, v = torch.zeros_like(b), b / beta if beta > 0 else b
    d_old, d = torch.zeros_like(b), torch.zeros_like(b)
    # rotations of the two columns before, and the residual norm that they leave
    cos_old, sin_old, cos, sin, residual, size = 1.0, 0.0, 1.0, 0.0, beta, 0.0
    offdiagonal, step = 0.0, 0
    while outcome == "step_limit" and step < limit:
        w = matvec(v)
        step += 1
        diagonal = torch.dot(v, w).item()
        w = w - diagonal * v - offdiagonal * v_old
        following = torch.linalg.vector_norm(w).item()
        size = max(size, math.hypot(offdiagonal, diagonal, following))
        far, turned = sin_old * offdiagonal, cos_old * offdiagonal
        near, pivot = cos * turned + sin * diagonal, -sin * turned + cos * diagonal
        if math.hypot(pivot, cos * following) <= tolerance * size:
            outcome = "least_squares"  # A r is already 0 at the iterate before this step
            break
        length = math.hypot(pivot, following)
        cos_old, sin_old, cos, sin = cos, sin, pivot / length, following / length
        d_old, d = d, (v - near * d - far * d_old) / length
        x = x + (cos * residual) * d
        # the sign stays with the residual so that the next step's length has the right one
        residual = -sin * residual
        if abs(residual) <= goal:
            outcome = "converged"
            break
        v_old, v, offdiagonal = v, w / following, following
    residual_norm = torch.linalg.vector_norm(b - matvec(x)).item()
    return LinearSolution(x, residual_norm, step, outcome)


@dataclass(frozen=True)
class EigenPairs:
    """Approximate eigenpairs with a proof of nearness.

    Args:
        values: Ritz values ``(k,)``, the wanted end first.
        vectors: unit vectors ``(n, k)``.
        residuals: ``|A v - value v|`` computed anew ``(k,)``: the interval ``value +- residual`` holds an eigenvalue
            of ``A``. That it is the extreme one is only likely, see `lanczos_relative_gap`.
        steps: matrix-vector products used by the iteration.
        converged: whether all residuals are within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    steps: int
    converged: bool


def extreme_eigenpairs(
    matvec: Matvec,
    start: Tensor,
    count: int = 1,
    *,
    end: Literal["largest", "smallest", "magnitude"] = "largest",
    tolerance: float = 1e-8,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> EigenPairs:
    """Extreme eigenpairs of a symmetric operator by Lanczos with full reorthogonalisation.

    Repeated eigenvalues are found too: where the Krylov space closes it is continued with a fresh random vector.

    Args:
        matvec: ``v -> A v``.
        start: start vector ``(n,)``, random for the statements on extremeness to hold.
        count: how many pairs.
        end: the largest, the smallest, or those of largest magnitude.
        tolerance: on each residual, relative to the largest Ritz value in magnitude.
        steps: most matrix-vector products; ``n`` if None. The basis of that many vectors is kept.
        generator: for the fresh vectors; needed on devices other than the CPU to be reproducible.

    Returns:
        The pairs, with residuals computed anew.

    Raises:
        ValueError: if more pairs are asked for than there are dimensions or steps.
    """
    n = start.numel()
    limit = min(n, n if steps is None else steps)
    if not 1 <= count <= limit:
        raise ValueError(f"count must lie between 1 and {limit} (dimension {n}, step limit {steps}), got {count}.")

    def fresh() -> Tensor:
        return torch.randn(n, generator=generator, dtype=start.dtype, device=start.device)

    run = lanczos(matvec, start, min(limit, count + 4), fresh=fresh)
    while True:
        values, coefficients = run.eigen()
        order = {"largest": values.neg(), "smallest": values, "magnitude": values.abs().neg()}[end].argsort()[:count]
        bounds = run.residual_bounds()[order]
        scale = values.abs().max().item()
        if bool((bounds <= tolerance * scale).all()) or run.steps >= limit:
            break
        run = run.extended(matvec, min(limit - run.steps, max(4, run.steps // 2)), fresh=fresh)
    vectors = (run.basis[: run.steps].T @ coefficients[:, order]).contiguous()
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=0)
    images = torch.stack([matvec(v) for v in vectors.T], dim=1)
    chosen = (vectors * images).sum(dim=0)
    residuals = torch.linalg.vector_norm(images - vectors * chosen, dim=0)
    return EigenPairs(chosen, vectors, residuals, run.steps, bool((residuals <= tolerance * scale).all()))


def lanczos_relative_gap(n: int, steps: int, failure_probability: float) -> float:
    """How far, at most, the largest eigenvalue lies above the largest Ritz value, relative to the spectrum's width.

    After ``steps`` products from a start uniform on the sphere, with probability at least
    ``1 - failure_probability``: ``lambda_max - theta <= gap (lambda_max - lambda_min)`` with
    ``gap = (log(1.648 sqrt(n) / failure_probability) / (2 steps - 1))^2``.

    Args:
        n: dimension.
        steps: matrix-vector products.
        failure_probability: between 0 and 1.

    Returns:
        The gap; 1 or more says nothing.

    References:
        J. Kuczynski and H. Wozniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with
        a random start", 1992, theorem 4.2.
    """
    if steps >= n:
        return 0.0
    return (math.log(1.648 * math.sqrt(n) / failure_probability) / (2 * steps - 1)) ** 2


@dataclass(frozen=True)
class SpectralQuadrature:
    """Quadrature for the spectrum of a symmetric operator: one Gauss rule a random probe.

    Args:
        nodes: Ritz values ``(probes, steps)``; rules of fewer nodes are padded with weight 0.
        weights: their weights ``(probes, steps)``, each row summing to 1.
        dimension: ``n``.
    """

    nodes: Tensor
    weights: Tensor
    dimension: int

    def trace(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Estimate ``tr f(A)`` and its standard error over the probes (nan with one probe)."""
        per_probe = self.dimension * (self.weights * function(self.nodes)).sum(dim=1)
        error = per_probe.std() / math.sqrt(len(per_probe)) if len(per_probe) > 1 else per_probe.new_tensor(math.nan)
        return per_probe.mean().item(), error.item()

    def density(self, t: Tensor, width: float) -> Tensor:
        """The spectral density at the points ``t``, each node widened to a Gaussian of that standard deviation."""
        z = (t.unsqueeze(-1) - self.nodes.flatten()) / width
        kernel = torch.exp(-0.5 * z.square()) / (width * math.sqrt(2 * math.pi))
        return kernel @ self.weights.flatten() / len(self.nodes)


def spectral_quadrature(
    matvec: Matvec, like: Tensor, *, probes: int = 10, steps: int = 60, generator: torch.Generator | None = None
) -> SpectralQuadrature:
    """Stochastic Lanczos quadrature: the spectrum seen from random directions.

    Args:
        matvec: ``v -> A v``.
        like: any vector ``(n,)`` of the dtype and device to work in.
        probes: number of random start vectors.
        steps: Lanczos steps a probe; each rule integrates polynomials to degree ``2 steps - 1`` exactly.
        generator: source of the probes.

    Returns:
        Nodes and weights.
    """
    n = like.numel()
    steps = min(steps, n)
    nodes = like.new_zeros(probes, steps)
    weights = like.new_zeros(probes, steps)
    for i in range(probes):
        start = torch.randn(n, generator=generator, dtype=like.dtype, device=like.device)
        run: Lanczos = lanczos(matvec, start, steps)
        values, coefficients = run.eigen()
        nodes[i, : len(values)] = values
        weights[i, : len(values)] = coefficients[0].square()
    return SpectralQuadrature(nodes, weights, n)
