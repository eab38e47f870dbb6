"""Ellipsoids, and balls seen in another metric: projections with one unknown multiplier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surefoot.numerics.borders import require_positive
from surefoot.numerics.roots import increasing_root
from surefoot.numerics.sets.base import Projectable, like

__all__ = ["WeightedBall", "project_ball_in_metric"]


@dataclass(frozen=True, eq=False)
class WeightedBall(Projectable):
    """The ellipsoid ``(x - centre)' H (x - centre) <= radius^2``.

    Args:
        H: symmetric positive semidefinite matrix ``(n, n)``.
        radius: radius in the norm of ``H``.
        centre: a number or a tensor ``(n,)``.

    Raises:
        ValueError: if ``H`` is not symmetric or has an eigenvalue below zero beyond rounding.
    """

    H: Tensor
    radius: float
    centre: float | Tensor = 0.0

    def __post_init__(self) -> None:
        require_positive("radius", self.radius)
        _require_psd("H", self.H, self._eigen[0])

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.H.double())
        return values, vectors

    @cached_property
    def _weights(self) -> Tensor:
        """Eigenvalues with those that are rounding of zero set to zero."""
        values = self._eigen[0]
        return torch.where(values > _rounding(values), values, torch.zeros_like(values))

    @property
    def diameter(self) -> float:
        least = self._weights.min().item()
        return 2 * self.radius / math.sqrt(least) if least > 0 else math.inf

    def _norm(self, x: Tensor) -> Tensor:
        along = (x - like(self.centre, x)) @ like(self._eigen[1], x)
        return torch.linalg.vector_norm(along * like(self._weights.sqrt(), x), dim=-1)

    def project(self, x: Tensor) -> Tensor:
        weights, vectors = like(self._weights, x), like(self._eigen[1], x)
        along = (x - like(self.centre, x)) @ vectors
        norm = self._norm(x).unsqueeze(-1)
        outside = norm > self.radius

        def inverse_norm(multiplier: Tensor) -> tuple[Tensor, Tensor]:
            shrunk = weights.sqrt() * along / (1 + multiplier * weights)
            size = torch.linalg.vector_norm(shrunk, dim=-1, keepdim=True)
            slope = (weights * shrunk.square() / (1 + multiplier * weights)).sum(dim=-1, keepdim=True)
            return 1 / size - 1 / self.radius, slope / size**3

        least = weights[weights > 0].min() if bool((weights > 0).any()) else weights.new_tensor(1.0)
        high = torch.where(outside, (norm / self.radius - 1) / least, 0.0)
        multiplier = increasing_root(inverse_norm, torch.zeros_like(high), high)
        moved = (along / (1 + multiplier * weights)) @ vectors.T + like(self.centre, x)
        return torch.where(outside, moved, x)

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        return bool((self._norm(x) <= self.radius + tol).all())

    def support(self, g: Tensor) -> Tensor:
        weights = like(self._weights, g)
        along = g @ like(self._eigen[1], g)
        flat = weights == 0
        room = 16 * torch.finfo(g.dtype).eps * torch.linalg.vector_norm(g, dim=-1, keepdim=True)
        unbounded = (flat & (along.abs() > room)).any(dim=-1)
        scaled = torch.where(flat, 0.0, along / torch.where(flat, 1.0, weights).sqrt())
        reach = (g * like(self.centre, g)).sum(dim=-1) + self.radius * torch.linalg.vector_norm(scaled, dim=-1)
        return torch.where(unbounded, math.inf, reach)


def project_ball_in_metric(x: Tensor, H: Tensor, radius: float) -> Tensor:
    """Nearest point of the Euclidean ball in the norm of ``H``.

    ``argmin (p - x)' H (p - x)`` over ``|p| <= radius``. Stationarity is ``H (p - x) + multiplier p = 0``
    with ``multiplier >= 0``. Online Newton methods project so.

    Args:
        x: points ``(..., n)``.
        H: symmetric positive definite matrix ``(n, n)``.
        radius: radius of the ball around 0.

    Returns:
        The projections ``(..., n)``.
    """
    weights, vectors = torch.linalg.eigh(H)
    along = x @ vectors
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    outside = norm > radius

    def inverse_norm(multiplier: Tensor) -> tuple[Tensor, Tensor]:
        shrunk = weights * along / (weights + multiplier)
        size = torch.linalg.vector_norm(shrunk, dim=-1, keepdim=True)
        slope = (shrunk.square() / (weights + multiplier)).sum(dim=-1, keepdim=True)
        return 1 / size - 1 / radius, slope / size**3

    high = torch.where(outside, weights.max() * (norm / radius - 1), 0.0)
    multiplier = increasing_root(inverse_norm, torch.zeros_like(high), high)
    return torch.where(outside, (weights * along / (weights + multiplier)) @ vectors.T, x)


def _rounding(values: Tensor) -> float:
    return values.abs().max().item() * values.numel() * torch.finfo(torch.float64).eps


def _require_psd(what: str, matrix: Tensor, eigenvalues: Tensor) -> None:
    if not torch.allclose(matrix, matrix.T, rtol=1e-10, atol=1e-12):
        raise ValueError(f"{what} must be symmetric; pass (H + H.T) / 2 if the difference is rounding.")
    if eigenvalues.min().item() < -_rounding(eigenvalues):
        raise ValueError(
            f"{what} must be positive semidefinite, its least eigenvalue is {eigenvalues.min().item():.3g}."
        )
