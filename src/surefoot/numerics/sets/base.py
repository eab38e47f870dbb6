"""What every set offers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Projectable", "Set", "like"]


class Set(Protocol):
    """A non-empty closed convex set of points along the last axis."""

    @property
    def diameter(self) -> float:
        """Largest Euclidean distance between two points of the set; ``inf`` if unbounded."""
        ...

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set, for each point ``(..., n)``."""
        ...

    def contains(self, x: Tensor, tol: float = 0.0) -> bool:
        """Whether all points satisfy the set's constraints, each within ``tol`` in its own unit."""
        ...

    def distance(self, x: Tensor) -> Tensor:
        """Euclidean distance of each point ``(..., n)`` to the set, of shape ``(...)``."""
        ...

    def support(self, g: Tensor) -> Tensor:
        """``sup <x, g>`` over the set, for each ``g`` of shape ``(..., n)``; ``inf`` where unbounded."""
        ...


class Projectable:
    """Distance through projection, for sets that know no shorter way."""

    def project(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def distance(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x - self.project(x), dim=-1)


def like(value: float | Tensor, x: Tensor) -> Tensor:
    """The value as a tensor of the dtype and device of ``x``."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)
