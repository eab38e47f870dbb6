"""Sets whose projection is a formula or a sort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surefoot.numerics.borders import require_positive
from surefoot.numerics.sets.base import Projectable, Set, like

__all__ = ["Affine", "Ball", "Box", "FreeSpace", "L1Ball", "Product", "Simplex"]


@dataclass(frozen=True)
class FreeSpace:
    """The whole space: no constraint."""

    @property
    def diameter(self) -> float:
        return math.inf

    def project(self, x: Tensor) -> Tensor:
        return x

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        return bool(torch.isfinite(x).all())

    def distance(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def support(self, g: Tensor) -> Tensor:
        return torch.where((g == 0).all(dim=-1), 0.0, math.inf).to(g.dtype)


@dataclass(frozen=True, eq=False)
class Box(Projectable):
    """The box ``low <= x <= high``, elementwise; either end may be infinite.

    Args:
        low: a number for all coordinates or a tensor ``(n,)``.
        high: the same.

    Raises:
        ValueError: if an upper end lies below its lower end, or an end is NaN.
    """

    low: float | Tensor
    high: float | Tensor

    def __post_init__(self) -> None:
        if not bool((torch.as_tensor(self.low) <= torch.as_tensor(self.high)).all()):
            raise ValueError("Box needs low <= high in every coordinate and no NaN; swap or correct the ends.")

    @property
    def diameter(self) -> float:
        """Length of the diagonal; one end must be a tensor, else the dimension is unknown."""
        width = torch.as_tensor(self.high, dtype=torch.float64) - torch.as_tensor(self.low, dtype=torch.float64)
        if width.ndim == 0 and math.isfinite(width.item()):
            raise ValueError(
                "A Box with plain numbers as ends does not know its dimension; give low or high as a tensor."
            )
        return torch.linalg.vector_norm(width).item()

    def project(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x, like(self.low, x)), like(self.high, x))

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        return bool(((x >= like(self.low, x) - tol) & (x <= like(self.high, x) + tol)).all())

    def support(self, g: Tensor) -> Tensor:
        end = torch.where(g > 0, like(self.high, g), like(self.low, g))
        return torch.where(g == 0, torch.zeros_like(g), g * end).sum(dim=-1)


@dataclass(frozen=True, eq=False)
class Ball(Projectable):
    """The Euclidean ball ``|x - centre| <= radius``."""

    radius: float
    centre: float | Tensor = 0.0

    def __post_init__(self) -> None:
        require_positive("radius", self.radius)

    @property
    def diameter(self) -> float:
        return 2 * self.radius

    def project(self, x: Tensor) -> Tensor:
        away = x - like(self.centre, x)
        norm = torch.linalg.vector_norm(away, dim=-1, keepdim=True)
        return torch.where(norm <= self.radius, x, x - away * (1 - self.radius / norm))

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        norm = torch.linalg.vector_norm(x - like(self.centre, x), dim=-1)
        return bool((norm <= self.radius + tol).all())

    def support(self, g: Tensor) -> Tensor:
        return (g * like(self.centre, g)).sum(dim=-1) + self.radius * torch.linalg.vector_norm(g, dim=-1)


@dataclass(frozen=True)
class Simplex(Projectable):
    """The simplex ``x >= 0, sum x = mass``.

    References:
        J. Duchi et al., "Efficient projections onto the l1-ball", ICML 2008 (projection by sorting).
    """

    mass: float = 1.0

    def __post_init__(self) -> None:
        require_positive("mass", self.mass)

    @property
    def diameter(self) -> float:
        """Distance between two corners (a simplex of one coordinate is a point)."""
        return math.sqrt(2) * self.mass

    def project(self, x: Tensor) -> Tensor:
        # a shift of all coordinates leaves the projection alone and keeps the cumulative sums small
        shifted = x - x.amax(dim=-1, keepdim=True)
        ordered = shifted.sort(dim=-1, descending=True).values
        count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
        threshold = (ordered.cumsum(dim=-1) - self.mass) / count
        active = (ordered > threshold).sum(dim=-1, keepdim=True)
        return (shifted - threshold.gather(-1, active - 1)).clamp(min=0)

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        return bool((x >= -tol).all()) and bool(((x.sum(dim=-1) - self.mass).abs() <= tol).all())

    def support(self, g: Tensor) -> Tensor:
        return self.mass * g.amax(dim=-1)


@dataclass(frozen=True)
class L1Ball(Projectable):
    """The cross-polytope ``sum |x| <= radius``."""

    radius: float = 1.0

    def __post_init__(self) -> None:
        require_positive("radius", self.radius)

    @property
    def diameter(self) -> float:
        return 2 * self.radius

    def project(self, x: Tensor) -> Tensor:
        size = x.abs()
        inside = size.sum(dim=-1, keepdim=True) <= self.radius
        return torch.where(inside, x, x.sign() * Simplex(self.radius).project(size))

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        return bool((x.abs().sum(dim=-1) <= self.radius + tol).all())

    def support(self, g: Tensor) -> Tensor:
        return self.radius * g.abs().amax(dim=-1)


@dataclass(frozen=True, eq=False)
class Affine(Projectable):
    """The solutions of ``A x = b``.

    Args:
        A: matrix ``(m, n)``; redundant rows are fine.
        b: right-hand side ``(m,)``.

    Raises:
        ValueError: if no solution exists (relative residual of the least-squares solution above 1e-8).
    """

    A: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        A, b = self.A.double(), self.b.double()
        residual = torch.linalg.vector_norm(A @ self._point - b).item()
        if residual > 1e-8 * max(1.0, torch.linalg.vector_norm(b).item()):
            raise ValueError(f"A x = b has no solution: the least residual is {residual:.3g}; check rows and b.")

    @cached_property
    def _row_basis(self) -> Tensor:
        _, sizes, rows = torch.linalg.svd(self.A.double(), full_matrices=False)
        cut = sizes.max() * max(self.A.shape) * torch.finfo(torch.float64).eps
        return rows[sizes > cut]

    @cached_property
    def _point(self) -> Tensor:
        return torch.linalg.pinv(self.A.double()) @ self.b.double()

    @property
    def diameter(self) -> float:
        return 0.0 if self._row_basis.shape[0] == self.A.shape[1] else math.inf

    def project(self, x: Tensor) -> Tensor:
        rows, point = like(self._row_basis, x), like(self._point, x)
        return x - (x - point) @ rows.T @ rows

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        return bool(((x @ like(self.A, x).T - like(self.b, x)).abs() <= tol).all())

    def support(self, g: Tensor) -> Tensor:
        rows, point = like(self._row_basis, g), like(self._point, g)
        outside = torch.linalg.vector_norm(g - g @ rows.T @ rows, dim=-1)
        # g is in the row space only up to the rounding of this very product
        room = 16 * torch.finfo(g.dtype).eps * g.shape[-1] * torch.linalg.vector_norm(g, dim=-1)
        return torch.where(outside <= room, g @ point, math.inf)


@dataclass(frozen=True, eq=False)
class Product:
    """The product of sets over consecutive stretches of the last axis.

    Args:
        sets: the factors, in order.
        sizes: how many coordinates each factor takes.

    Raises:
        ValueError: if there are not as many sizes as sets.
    """

    sets: Sequence[Set]
    sizes: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.sets) != len(self.sizes):
            raise ValueError(f"Product got {len(self.sets)} sets but {len(self.sizes)} sizes; give one size a set.")

    @property
    def diameter(self) -> float:
        return math.hypot(*(each.diameter for each in self.sets))

    def _pieces(self, x: Tensor) -> list[tuple[Set, Tensor]]:
        return list(zip(self.sets, x.split(list(self.sizes), dim=-1), strict=True))

    def project(self, x: Tensor) -> Tensor:
        return torch.cat([each.project(piece) for each, piece in self._pieces(x)], dim=-1)

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        return all(each.contains(piece, tol) for each, piece in self._pieces(x))

    def distance(self, x: Tensor) -> Tensor:
        parts = torch.stack([each.distance(piece) for each, piece in self._pieces(x)])
        return torch.linalg.vector_norm(parts, dim=0)

    def support(self, g: Tensor) -> Tensor:
        return torch.stack([each.support(piece) for each, piece in self._pieces(g)]).sum(dim=0)
