"""Losses for labels -1 and +1: logistic, sigmoid, hinge, smoothed hinge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from surefoot.numerics.borders import require_positive
from surefoot.numerics.losses.base import Labels, Loss, LossConstants, restrict
from surefoot.numerics.roots import increasing_root

__all__ = ["Hinge", "Logistic", "Sigmoid", "SmoothedHinge"]


@dataclass(frozen=True)
class Logistic(Loss):
    """Logistic loss ``log(1 + exp(-y z))`` for labels -1 and +1."""

    labels: ClassVar[Labels] = "binary"

    @property
    def constants(self) -> LossConstants:
        return LossConstants(lipschitz=1.0, curvature=0.25, curvature_floor=0.0, self_concordance=1.0)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        return -functional.logsigmoid(y * z)

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return -y * torch.sigmoid(-y * z)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        margin = y * z
        return torch.sigmoid(margin) * torch.sigmoid(-margin)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        weight = -y * u
        entropy = torch.xlogy(weight, weight) + torch.xlogy(1 - weight, 1 - weight)
        return restrict(entropy, (weight >= 0) & (weight <= 1))

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        start = y * v
        step = torch.as_tensor(step, dtype=start.dtype, device=start.device)

        def stationarity(margin: Tensor) -> tuple[Tensor, Tensor]:
            miss = torch.sigmoid(-margin)
            return margin - start - step * miss, 1 + step * miss * torch.sigmoid(margin)

        return y * increasing_root(stationarity, start, start + step)

    def exp_concavity(self, radius: float) -> float:
        return math.exp(-radius)


@dataclass(frozen=True)
class Sigmoid(Loss):
    """Sigmoid loss ``1 / (1 + exp(y z))`` for labels -1 and +1: bounded, smooth and not convex."""

    labels: ClassVar[Labels] = "binary"

    @property
    def constants(self) -> LossConstants:
        bend = 1 / (6 * math.sqrt(3))
        return LossConstants(lipschitz=0.25, curvature=bend, curvature_floor=-bend, self_concordance=math.inf)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(-y * z)

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        margin = y * z
        return -y * torch.sigmoid(margin) * torch.sigmoid(-margin)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        margin = y * z
        # 1 - 2 sigmoid(-m) = tanh(m / 2), without cancellation near 0
        return torch.sigmoid(margin) * torch.sigmoid(-margin) * torch.tanh(0.5 * margin)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        return restrict(torch.zeros_like(u * y), u == 0)

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        """The proximal map, single-valued only for ``step < 6 sqrt(3)``.

        Raises:
            ValueError: if ``step`` is at least ``6 sqrt(3)``: the prox problem may then have several minima.
        """
        start = y * v
        step = torch.as_tensor(step, dtype=start.dtype, device=start.device)
        if bool((step >= 6 * math.sqrt(3)).any()):
            raise ValueError(
                f"The sigmoid loss has a unique proximal point only for steps below {6 * math.sqrt(3):.4f}, "
                f"got {step.max().item():g}; use a smaller step."
            )

        def stationarity(margin: Tensor) -> tuple[Tensor, Tensor]:
            bell = torch.sigmoid(margin) * torch.sigmoid(-margin)
            return margin - start - step * bell, 1 + step * bell * torch.tanh(0.5 * margin)

        return y * increasing_root(stationarity, start, start + 0.25 * step)

    def exp_concavity(self, radius: float) -> float:
        return 0.0


@dataclass(frozen=True)
class Hinge(Loss):
    """Hinge loss ``max(0, 1 - y z)`` for labels -1 and +1."""

    labels: ClassVar[Labels] = "binary"

    @property
    def constants(self) -> LossConstants:
        return LossConstants(lipschitz=1.0, curvature=math.inf, curvature_floor=0.0, self_concordance=math.inf)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        return (1 - y * z).clamp(min=0)

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        margin = y * z
        return -y * (margin < 1).to(margin.dtype)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(y * z)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        slope = y * u
        return restrict(slope, (slope >= -1) & (slope <= 0))

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        step = torch.as_tensor(step, dtype=v.dtype, device=v.device)
        return v + y * torch.minimum((1 - y * v).clamp(min=0), step)

    def exp_concavity(self, radius: float) -> float:
        return 0.0


@dataclass(frozen=True)
class SmoothedHinge(Loss):
    """Hinge loss with a quadratic corner.

    With margin ``m = y z``: 0 for ``m >= 1``, ``(1 - m)^2 / (2 width)`` for ``1 - width <= m <= 1`` and
    ``1 - m - width / 2`` below.

    Args:
        width: length of the quadratic corner in units of the margin.
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        require_positive("width", self.width)

    labels: ClassVar[Labels] = "binary"

    @property
    def constants(self) -> LossConstants:
        return LossConstants(lipschitz=1.0, curvature=1 / self.width, curvature_floor=0.0, self_concordance=math.inf)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        short = (1 - y * z).clamp(min=0)
        corner = short.clamp(max=self.width)
        return corner * (short - 0.5 * corner) / self.width

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return -y * ((1 - y * z) / self.width).clamp(0, 1)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        short = 1 - y * z
        return ((short > 0) & (short < self.width)).to(short.dtype) / self.width

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        slope = y * u
        return restrict(slope + 0.5 * self.width * slope.square(), (slope >= -1) & (slope <= 0))

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        return v + step * y * ((1 - y * v) / (step + self.width)).clamp(0, 1)

    def exp_concavity(self, radius: float) -> float:
        # l'' / (l')^2 = width / (1 - m)^2 in the corner; on the linear part it is 0
        return self.width / (1 + radius) ** 2 if 1 + radius <= self.width else 0.0
