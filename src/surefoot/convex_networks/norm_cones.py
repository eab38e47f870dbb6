"""Norm cones |u| <= tau in blocks: Nesterov-Todd scaling and steps to the border.

References:
    Andersen, Dahl, Vandenberghe, Interior-point methods for large-scale cone programming, 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor


class NormScaling:
    """Nesterov-Todd scaling W of the pairs (tau, u), (y0, y) in norm cones: W y = W^-1 u."""

    def __init__(self, tau: Tensor, u: Tensor, y0: Tensor, y: Tensor) -> None:
        here, there = _determinant(tau, u), _determinant(y0, y)
        a0, a = tau / here.sqrt(), u / here.sqrt()[:, None]
        b0, b = y0 / there.sqrt(), y / there.sqrt()[:, None]
        gamma = ((1 + a0 * b0 + (a * b).sum(dim=1)) / 2).sqrt()
        self.w0, self.w = (a0 + b0) / (2 * gamma), (a - b) / (2 * gamma)[:, None]
        self.square = (here / there).sqrt()
        self.point = (y0, y)
        self.corner = (2 * self.w0.square() - 1) / self.square
        self.cross = -2 * (self.w0 / self.square)[:, None] * self.w

    def reduced(self, eye: Tensor) -> Tensor:
        """W^-2 with tau eliminated: (J, d, d)."""
        weight = 2 / self.square - 4 * (self.w0 / self.square).square() / self.corner
        return eye / self.square[:, None, None] + (weight[:, None] * self.w)[:, :, None] * self.w[:, None, :]

    def inverse_square(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """W^-2 (t, x)."""
        dot = (self.w * x).sum(dim=1, keepdim=True)
        rest = self.cross * t[:, None] + (x + 2 * self.w * dot) / self.square[:, None]
        return self.corner * t + (self.cross * x).sum(dim=1), rest

    def apply(self, t: Tensor, x: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """W (t, x) or W^-1 (t, x)."""
        w = -self.w if inverse else self.w
        size = self.square.rsqrt() if inverse else self.square.sqrt()
        dot = (w * x).sum(dim=1)
        return size * (self.w0 * t + dot), size[:, None] * (w * t[:, None] + x + w * (dot / (1 + self.w0))[:, None])

    def correction(self, m: float, dt: Tensor, du: Tensor, d0: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """W^-1 (lambda \\ (m e - (W^-1 du) o (W dy)))."""
        l0, lv = self.apply(*self.point, inverse=False)
        a0, a = self.apply(dt, du, inverse=True)
        b0, b = self.apply(d0, dy, inverse=False)
        c0, c = m - (a0 * b0 + (a * b).sum(dim=1)), -(a0[:, None] * b + b0[:, None] * a)
        x0 = (l0 * c0 - (lv * c).sum(dim=1)) / _determinant(l0, lv)
        return self.apply(x0, (c - lv * x0[:, None]) / l0[:, None], inverse=True)


def _determinant(t: Tensor, x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=1)
    return (t - size) * (t + size)


def cone_reach(t: Tensor, x: Tensor, dt: Tensor, dx: Tensor) -> float:
    """Largest step that keeps (t, x) + step (dt, dx) in the norm cones."""
    far = torch.finfo(t.dtype).max
    A, B, C = dt.square() - dx.square().sum(dim=1), t * dt - (x * dx).sum(dim=1), _determinant(t, x)
    inner = B.square() - A * C
    q = -(B + torch.where(B >= 0, 1.0, -1.0) * inner.clamp(min=0).sqrt())
    first, second = torch.where(A != 0, q / A, far), torch.where(q != 0, C / q, far)
    root = torch.minimum(torch.where(first > 0, first, far), torch.where(second > 0, second, far))
    root = torch.where(inner < 0, far, root)
    return float(torch.minimum(root, torch.where(dt < 0, -t / dt, far)).min())
