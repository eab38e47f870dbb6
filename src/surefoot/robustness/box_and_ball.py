"""The perturbations allowed for an image: x + delta in [0, 1] entrywise and |delta|_2 <= radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ProjectionName = Literal["shrink", "dykstra"]
SWEEPS = 500


@dataclass(frozen=True)
class BoxAndBall:
    """Entrywise limits and a Euclidean ball around 0, which the limits contain.

    Args:
        low, high: (C, H, W) with low <= 0 <= high, in the dtype of the perturbation.
        radius: > 0.
    """

    low: Tensor
    high: Tensor
    radius: float

    @classmethod
    def around(cls, images: Tensor, radius: float) -> BoxAndBall:
        """The set for one perturbation shared by images (m, C, H, W) in [0, 1].

        `high` is 1 - x rounded *down*, so that x + delta lies in [0, 1] exactly and not only up to rounding.
        """
        exact = 1.0 - images.double()
        room = exact.to(images.dtype)
        room = torch.where(room.double() > exact, torch.nextafter(room, torch.full_like(room, -torch.inf)), room)
        return cls((-images).amax(0), room.amin(0), radius)

    def clip(self, delta: Tensor) -> Tensor:
        """Nearest point of the box."""
        return torch.minimum(torch.maximum(delta, self.low), self.high)

    def shrink(self, delta: Tensor) -> Tensor:
        """Nearest point of the ball, rounded inwards; a box that holds 0 is not left by it."""
        norm = float(delta.double().norm())
        inwards = 1 - 2 * torch.finfo(delta.dtype).eps
        return delta if norm <= self.radius else delta * (self.radius / norm * inwards)

    def project(self, delta: Tensor, how: ProjectionName = "shrink") -> Tensor:
        """Clip then shrink (feasible, as published), or the nearest point of both by Dykstra's algorithm."""
        if how == "shrink":
            return self.shrink(self.clip(delta))
        return self.shrink(self.clip(self._nearest(delta.double()).to(delta.dtype)))

    def _nearest(self, point: Tensor) -> Tensor:
        """Dykstra's alternating projections with corrections, in float64, to 1e-10 of the radius."""
        wide = BoxAndBall(self.low.double(), self.high.double(), self.radius)
        box_correction, ball_correction = torch.zeros_like(point), torch.zeros_like(point)
        for _ in range(SWEEPS):
            boxed = wide.clip(point + box_correction)
            box_correction = point + box_correction - boxed
            fresh = wide.shrink(boxed + ball_correction)
            ball_correction = boxed + ball_correction - fresh
            moved = float((fresh - point).norm())
            point = fresh
            if moved <= 1e-10 * self.radius and float((fresh - boxed).norm()) <= 1e-10 * self.radius:
                break
        return point
