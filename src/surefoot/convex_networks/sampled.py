"""The sampled convex program: directions are drawn, and only the output weights are learnt (a lasso on random ReLU features).

    min_a  loss(A a, y) + beta |a|_1,   A = (X U')_+,  U (N, d) unit rows,

by accelerated proximal gradient steps with restarts. Since |u| = 1, the network with weights u sqrt|a|, sign(a) sqrt|a| has exactly
this objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.numerics.losses import Loss
from surefoot.numerics.prox import soft_threshold


@dataclass
class Lasso:
    """The iteration for all target columns at once.

    Args:
        columns: A (n, N).
        targets: (C, n).
        loss: convex; smooth for proximal gradients.
        weight: beta.
    """

    columns: Tensor
    targets: Tensor
    loss: Loss
    weight: float

    def __post_init__(self) -> None:
        curvature = self.loss.constants.curvature
        if not curvature < float("inf"):
            raise ValueError(
                f"the sampled program needs a smooth loss, not {type(self.loss).__name__}; use program='exact'"
            )
        A = self.columns
        gram = A @ A.T if len(A) <= A.shape[1] else A.T @ A
        self.step_length = 1.0 / (
            curvature * max(float(torch.linalg.eigvalsh(gram)[-1]), 1e-300) * (1 + 1e-12 * len(gram))
        )

    def objective(self, a: Tensor) -> float:
        return float(self.loss.value(a @ self.columns.T, self.targets).sum() + self.weight * a.abs().sum())

    def dual(self, a: Tensor) -> tuple[float, Tensor]:
        """(dual value, z (C, n)): each column's slope scaled until |A'z| <= beta."""
        z = -self.loss.derivative(a @ self.columns.T, self.targets)
        largest = (z @ self.columns).abs().amax(dim=1, keepdim=True)
        z = z * (self.weight / largest.clamp(min=self.weight))
        return -float(self.loss.conjugate(-z, self.targets).sum()), z

    def step(self, a: Tensor, look: Tensor, momentum: float) -> tuple[Tensor, Tensor, float]:
        """One step: (a, extrapolated point, momentum) to the next; momentum starts anew where it points uphill."""
        slope = self.loss.derivative(look @ self.columns.T, self.targets) @ self.columns
        fresh = soft_threshold(look - self.step_length * slope, self.step_length * self.weight)
        if float(((look - fresh) * (fresh - a)).sum()) > 0:
            return fresh, fresh, 1.0
        following = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        return fresh, fresh + ((momentum - 1) / following) * (fresh - a), following
