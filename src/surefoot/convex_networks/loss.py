"""The losses that the convex programs take: sums over rows, by name.

`logistic` is the published cross-entropy with a factor of two, log(1 + exp(-2 y z)); the others are those of
`surefoot.numerics.losses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from surefoot.numerics.losses import Hinge, Huber, Logistic, Loss, LossConstants, Pinball, Squared
from surefoot.numerics.losses.base import Labels

LossName = Literal["squared", "logistic", "hinge", "huber", "quantile"]
NAMES: tuple[str, ...] = get_args(LossName)


@dataclass(frozen=True)
class TwofoldLogistic(Loss):
    """Cross-entropy of labels -1 and +1 at twice the score: ``log(1 + exp(-2 y z))``."""

    labels: ClassVar[Labels] = "binary"

    @property
    def constants(self) -> LossConstants:
        return LossConstants(lipschitz=2.0, curvature=1.0, curvature_floor=0.0, self_concordance=2.0)

    def value(self, z: Tensor, y: Tensor) -> Tensor:
        return Logistic().value(2 * z, y)

    def derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return 2 * Logistic().derivative(2 * z, y)

    def second_derivative(self, z: Tensor, y: Tensor) -> Tensor:
        return 4 * Logistic().second_derivative(2 * z, y)

    def conjugate(self, u: Tensor, y: Tensor) -> Tensor:
        return Logistic().conjugate(u / 2, y)

    def prox(self, v: Tensor, y: Tensor, step: float | Tensor) -> Tensor:
        """Safeguarded Newton on ``z - v - 2 step y sigmoid(-2 y z) = 0``, with the margin as unknown."""
        start = y * v
        step = torch.as_tensor(step, dtype=v.dtype, device=v.device)
        low, high = start, start + 2 * step
        margin = torch.minimum(torch.maximum(start, torch.zeros_like(start)), high)
        for _ in range(50):
            miss = torch.sigmoid(-2 * margin)
            value = margin - start - 2 * step * miss
            low = torch.where(value < 0, margin, low)
            high = torch.where(value > 0, margin, high)
            newton = margin - value / (1 + 4 * step * miss * (1 - miss))
            following = torch.where((newton >= low) & (newton <= high), newton, 0.5 * (low + high))
            moved = (following - margin).abs().max()
            margin = following
            if float(moved) <= 1e-15 * (1.0 + float(margin.abs().max())):
                break
        return y * margin

    def exp_concavity(self, radius: float) -> float:
        return Logistic().exp_concavity(2 * radius)


def named_loss(name: str, *, knee: float = 1.0, quantile: float = 0.5) -> Loss:
    """The loss of that name.

    Args:
        name: "squared" (z - y)^2 / 2, "logistic" log(1 + exp(-2 y z)), "hinge" max(0, 1 - y z), "huber", "quantile".
        knee: of "huber", in the targets' unit.
        quantile: level of "quantile".

    Raises:
        ValueError: no such loss; the names there are.
    """
    made: Mapping[str, Loss] = {"squared": Squared(), "logistic": TwofoldLogistic(), "hinge": Hinge()}
    if name == "huber":
        return Huber(knee)
    if name == "quantile":
        return Pinball(quantile)
    if name not in made:
        raise ValueError(f"loss is {name!r}; expected one of {', '.join(NAMES)}")
    return made[name]
