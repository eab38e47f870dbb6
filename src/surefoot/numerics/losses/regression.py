"""Losses for real labels: squared, Huber, pinball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.numerics.borders import require_positive
from surefoot.numerics.losses.base import Labels, Loss, LossConstants, restrict

__all__ = ["Huber", "Pinball", "Squared"]


@dataclass(frozen=True)
class Squared(Loss):
    """Squared loss ``(z - y)^2 / 2``."""

    labels: ClassVar[Labels] = "real"

    @property
    def constants(self) -> LossConstants:
        return LossConstants(lipschitz=math.inf, curvature=1.0, curvature_floor=1.0, self_concordance=0.0)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (z - y).square()

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return z - y

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(z - y)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        return u * y + 0.5 * u.square()

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        return (v + step * y) / (1 + step)

    def exp_concavity(self, radius: float) -> float:
        return radius**-2


@dataclass(frozen=True)
class Huber(Loss):
    """Huber loss: ``r^2 / 2`` for ``|r| <= knee``, else ``knee |r| - knee^2 / 2``, with ``r = z - y``.

    Args:
        knee: residual, in the label's unit, beyond which the loss grows linearly.
    """

    knee: float = 1.0

    def __post_init__(self) -> None:
        require_positive("knee", self.knee)

    labels: ClassVar[Labels] = "real"

    @property
    def constants(self) -> LossConstants:
        return LossConstants(lipschitz=self.knee, curvature=1.0, curvature_floor=0.0, self_concordance=math.inf)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        size = (z - y).abs()
        inner = size.clamp(max=self.knee)
        return inner * (size - 0.5 * inner)

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return (z - y).clamp(-self.knee, self.knee)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        r = z - y
        return (r.abs() < self.knee).to(r.dtype)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        return restrict(u * y + 0.5 * u.square(), u.abs() <= self.knee)

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        r = v - y
        return v - step * (r / (1 + step)).clamp(-self.knee, self.knee)

    def exp_concavity(self, radius: float) -> float:
        return radius**-2 if radius <= self.knee else 0.0


@dataclass(frozen=True)
class Pinball(Loss):
    """Pinball loss ``max(quantile (y - z), (1 - quantile) (z - y))``, least on average at that quantile.

    Args:
        quantile: level strictly between 0 and 1.
    """

    quantile: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie strictly between 0 and 1, got {self.quantile}.")

    labels: ClassVar[Labels] = "real"

    @property
    def constants(self) -> LossConstants:
        slope = max(self.quantile, 1 - self.quantile)
        return LossConstants(lipschitz=slope, curvature=math.inf, curvature_floor=0.0, self_concordance=math.inf)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        r = z - y
        return torch.maximum(-self.quantile * r, (1 - self.quantile) * r)

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        r = z - y
        return (1 - self.quantile) * (r > 0).to(r.dtype) - self.quantile * (r < 0).to(r.dtype)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(z - y)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        return restrict(u * y, (u >= -self.quantile) & (u <= 1 - self.quantile))

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        r = v - y
        above = (r - step * (1 - self.quantile)).clamp(min=0)
        below = (r + step * self.quantile).clamp(max=0)
        return y + above + below

    def exp_concavity(self, radius: float) -> float:
        return 0.0
