"""Mirror maps: potentials whose gradients carry points to dual points and back.

Points lie along the last axis and may be batched. Every map states its own constant: with ``D`` its Bregman
divergence, ``D(x, y) >= convexity / degree * norm(x - y)^degree``, so degree 2 is strong convexity.

References:
    A. Beck and M. Teboulle, "Mirror descent and nonlinear projected subgradient methods", 2003.
    S. Shalev-Shwartz, "Online learning and online convex optimization", 2012 (entropy, p-norms).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.numerics.borders import require_positive

__all__ = ["Entropy", "Euclidean", "Mirror", "PNorm", "PowerNorm"]


class Mirror(ABC):
    """A mirror map ``psi``."""

    @property
    def degree(self) -> float:
        """The power in the lower bound of the divergence; 2 for strongly convex maps."""
        return 2.0

    @property
    @abstractmethod
    def convexity(self) -> float:
        """The constant in the lower bound of the divergence."""

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """The norm in which the map is convex, of shape ``(...)`` for points ``(..., n)``."""

    @abstractmethod
    def dual_norm(self, g: Tensor) -> Tensor:
        """The dual of `norm`, which measures gradients."""

    @abstractmethod
    def potential(self, x: Tensor) -> Tensor:
        """``psi(x)``."""

    @abstractmethod
    def gradient(self, x: Tensor) -> Tensor:
        """The dual point ``grad psi(x)``."""

    @abstractmethod
    def inverse_gradient(self, z: Tensor) -> Tensor:
        """The point whose dual point is ``z``: the gradient of the conjugate ``psi*``."""

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """The Bregman divergence ``psi(x) - psi(y) - <grad psi(y), x - y>``."""
        return self.potential(x) - self.potential(y) - (self.gradient(y) * (x - y)).sum(dim=-1)

    def step(self, x: Tensor, gradient: Tensor, step_size: float | Tensor) -> Tensor:
        """One mirror step ``argmin_p <gradient, p> + D(p, x) / step_size``, without further constraints."""
        return self.inverse_gradient(self.gradient(x) - step_size * gradient)


@dataclass(frozen=True)
class Euclidean(Mirror):
    """The identity: ``|x|^2 / 2``."""

    @property
    def convexity(self) -> float:
        return 1.0

    def norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=-1)

    def dual_norm(self, g: Tensor) -> Tensor:
        return torch.linalg.vector_norm(g, dim=-1)

    def potential(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(dim=-1)

    def gradient(self, x: Tensor) -> Tensor:
        return x

    def inverse_gradient(self, z: Tensor) -> Tensor:
        return z

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (x - y).square().sum(dim=-1)


@dataclass(frozen=True)
class Entropy(Mirror):
    """Negative entropy ``sum x log x`` on the simplex of the given mass.

    Its inverse gradient stays on that simplex: ``mass softmax(z)``. Dual points that differ by a constant are
    the same point. Strongly convex in the l1 norm by Pinsker's inequality, with constant ``1 / mass``.

    Args:
        mass: the sum of the coordinates.
    """

    mass: float = 1.0

    def __post_init__(self) -> None:
        require_positive("mass", self.mass)

    @property
    def convexity(self) -> float:
        return 1 / self.mass

    def norm(self, x: Tensor) -> Tensor:
        return x.abs().sum(dim=-1)

    def dual_norm(self, g: Tensor) -> Tensor:
        return g.abs().amax(dim=-1)

    def potential(self, x: Tensor) -> Tensor:
        return torch.xlogy(x, x).sum(dim=-1)

    def gradient(self, x: Tensor) -> Tensor:
        return 1 + x.log()

    def inverse_gradient(self, z: Tensor) -> Tensor:
        return self.mass * torch.softmax(z, dim=-1)

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """The Kullback-Leibler divergence; ``inf`` where ``y`` is 0 and ``x`` is not."""
        ratio = torch.where(x > 0, x / y, torch.ones_like(x))
        return (torch.xlogy(x, ratio) - x + y).sum(dim=-1)


@dataclass(frozen=True)
class PNorm(Mirror):
    """``|x|_p^2 / (2 (p - 1))`` for ``1 < p <= 2``: strongly convex in the p-norm with constant 1.

    With ``p = 1 + 1 / log n`` it behaves like the l1 norm, at the price of a logarithm.

    Args:
        p: the exponent.
    """

    p: float

    def __post_init__(self) -> None:
        if not 1 < self.p <= 2:
            raise ValueError(f"p must lie in (1, 2], got {self.p}; the map is not strongly convex beyond.")

    @classmethod
    def for_dimension(cls, n: int) -> PNorm:
        """The map with ``p = 1 + 1 / log n``, suited to sparse points in ``n >= 3`` dimensions."""
        if n < 3:
            raise ValueError(f"p = 1 + 1 / log n needs n >= 3, got {n}; use Euclidean for so few dimensions.")
        return cls(1 + 1 / math.log(n))

    @property
    def convexity(self) -> float:
        return 1.0

    @property
    def _dual(self) -> float:
        return self.p / (self.p - 1)

    def norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, ord=self.p, dim=-1)

    def dual_norm(self, g: Tensor) -> Tensor:
        return torch.linalg.vector_norm(g, ord=self._dual, dim=-1)

    def potential(self, x: Tensor) -> Tensor:
        return self.norm(x).square() / (2 * (self.p - 1))

    def gradient(self, x: Tensor) -> Tensor:
        return _half_squared_norm_gradient(x, self.p) / (self.p - 1)

    def inverse_gradient(self, z: Tensor) -> Tensor:
        return _half_squared_norm_gradient(z * (self.p - 1), self._dual)


@dataclass(frozen=True)
class PowerNorm(Mirror):
    """``2^(r - 2) |x|^r / r`` for ``r >= 2``: uniformly convex of degree ``r`` in the Euclidean norm, constant 1.

    Mirror descent for gradients that have only ``r / (r - 1)`` moments runs in it.

    Args:
        power: the degree ``r``.

    References:
        Y. Nesterov, "Accelerating the cubic regularization of Newton's method", 2008 (the constant).
    """

    power: float

    def __post_init__(self) -> None:
        if not (self.power >= 2 and math.isfinite(self.power)):
            raise ValueError(f"power must be at least 2 and finite, got {self.power}.")

    @property
    def degree(self) -> float:
        return self.power

    @property
    def convexity(self) -> float:
        return 1.0

    @property
    def _scale(self) -> float:
        return 2.0 ** (self.power - 2)

    def norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=-1)

    def dual_norm(self, g: Tensor) -> Tensor:
        return torch.linalg.vector_norm(g, dim=-1)

    def potential(self, x: Tensor) -> Tensor:
        return self._scale * self.norm(x).pow(self.power) / self.power

    def gradient(self, x: Tensor) -> Tensor:
        return self._scale * x * self.norm(x).unsqueeze(-1).pow(self.power - 2)

    def inverse_gradient(self, z: Tensor) -> Tensor:
        size = self.norm(z).unsqueeze(-1)
        length = (size / self._scale).pow(1 / (self.power - 1))
        return torch.where(size > 0, z * (length / size), torch.zeros_like(z))


def _half_squared_norm_gradient(x: Tensor, p: float) -> Tensor:
    """Gradient of ``|x|_p^2 / 2``; scaled by the largest entry so that high powers neither over- nor underflow."""
    largest = x.abs().amax(dim=-1, keepdim=True)
    unit = torch.where(largest > 0, x / largest, torch.zeros_like(x))
    norm = torch.linalg.vector_norm(unit, ord=p, dim=-1, keepdim=True)
    direction = unit.sign() * unit.abs().pow(p - 1) * norm.pow(2 - p)
    return torch.where(largest > 0, largest * direction, torch.zeros_like(x))
