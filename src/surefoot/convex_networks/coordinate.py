"""Algorithm 3.2 of the paper: ADMM whose u-step is randomised block coordinate descent, for any smooth convex loss.

    repeat: g = loss'(F u); for a random block i, u_i <- u_i - t [ X'D_i g + rho (u_i - v_i + lam_i + X'E_i (E_i X u_i - s_i + nu_i)) ]

with t = 1 / (L |X|^2 + rho (1 + |X|^2)), L the curvature of the loss. The inner loop ends when the change falls below a tolerance
that shrinks with the outer count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from surefoot.convex_networks.kernel import Iterate
from surefoot.core.random import Streams
from surefoot.numerics.losses import Loss


@dataclass
class CoordinateKernel:
    """One outer iteration on tensors; the state is the ADMM's, with t and kappa unused.

    Args:
        features, signs, targets, loss, weight: as in `Kernel`.
        sweeps: most passes over the blocks in an outer iteration.
    """

    features: Tensor
    signs: Tensor
    targets: Tensor
    loss: Loss
    weight: float
    sweeps: int = 4

    def __post_init__(self) -> None:
        curvature = self.loss.constants.curvature
        if not np.isfinite(curvature):
            raise ValueError(
                f"coordinate descent needs a smooth loss, not {type(self.loss).__name__}; use solver='admm'"
            )
        self.patterns = (self.signs > 0).to(self.features)
        self.reach = float(torch.linalg.matrix_norm(self.features, 2)) ** 2
        self.curvature = 2 * curvature  # the v- and w-blocks of a pattern move together
        self.scores = torch.zeros_like(self.targets)

    def start(self, rho: float) -> Iterate:
        C, n = self.targets.shape
        zero = self.features.new_zeros(C, 2, len(self.signs), self.features.shape[1])
        a = self.features.new_zeros(C, 2, len(self.signs), n)
        return Iterate(zero, zero.clone(), a, torch.zeros_like(self.targets), torch.zeros_like(self.targets), rho)

    def step(self, at: Iterate, count: int, streams: Streams) -> None:
        """Outer iteration number `count`, in place; blocks come from the stream ("block", count)."""
        X, rho = self.features, at.rho
        u = at.v.clone()
        s_less_nu = at.a.abs()
        scores = ((u[:, 0] - u[:, 1]) @ X.T * self.patterns).sum(dim=1)
        length = 1.0 / (self.curvature * self.reach + rho * (1 + self.reach))
        generator = streams.numpy("block", count)
        blocks = len(self.signs)
        for _ in range(self.sweeps):
            largest = 0.0
            for i in generator.integers(0, blocks, blocks):
                g = self.loss.derivative(scores, self.targets)
                pushed = (g * self.patterns[i]) @ X
                now = u[:, :, i]
                cone = ((now @ X.T) * self.signs[i] - s_less_nu[:, :, i]) * self.signs[i]
                change = rho * (now - at.v[:, :, i] + at.pull[:, :, i] + cone @ X)
                change[:, 0] += pushed
                change[:, 1] -= pushed
                change *= -length
                u[:, :, i] = now + change
                scores = scores + ((change[:, 0] - change[:, 1]) @ X.T) * self.patterns[i]
                largest = max(largest, float(change.abs().max()))
            if largest <= 1e-3 / (1.0 + count) ** 1.2:
                break
        b = u + at.pull
        size = torch.linalg.vector_norm(b, dim=-1, keepdim=True)
        v = b * (1 - (self.weight / rho) / size.clamp(min=torch.finfo(b.dtype).tiny)).clamp(min=0)
        at.a = (u @ X.T) * self.signs + at.a.clamp(max=0)
        at.v, at.pull, self.scores = v, b - v, scores

    def multipliers(self, at: Iterate) -> tuple[Tensor, Tensor]:
        """(z, p) as in `Kernel`; z is minus the loss's slope at F u."""
        return -self.loss.derivative(self.scores, self.targets), -at.rho * at.a.clamp(max=0)
