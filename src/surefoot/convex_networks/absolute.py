"""Absolute values inside an interior-point method: r >= |e o x| for every row of a batch, with r eliminated.

The outer function depends on r through pi = sum(r) only, so that a row costs a diagonal and one scalar: with slacks s+- = r -+ e x,
multipliers m+-, w = m / s, S = w+ + w-, c = e (w- - w+), b = c / S, and an outer function whose derivative in pi changes by
lin + bend pi + base,

    pi = (sum(R / S) - b'dx - sum(1/S) lin) / (1 + sum(1/S) bend),   dr = (R - c dx - lin - bend pi) / S.

It serves the cones' walls (x = u_j, one row a block) and the samples' penalties (x = zeta_k, one row a sample).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Absolute:
    """A point: r, and the multipliers of r - e x >= 0 and r + e x >= 0, all (B, a)."""

    r: Tensor
    above: Tensor
    below: Tensor


class AbsoluteStep:
    """The linearised relations at a point.

    Args:
        at: the point, strictly inside.
        radii: e (a,).
        x: (B, a).
        slope: (B,) derivative of the outer function in pi.
    """

    def __init__(self, at: Absolute, radii: Tensor, x: Tensor, slope: Tensor) -> None:
        self.at, self.radii = at, radii
        self.room_above, self.room_below = at.r - radii * x, at.r + radii * x
        up, down = at.above / self.room_above, at.below / self.room_below
        self.up, self.down = up, down
        self.S = up + down
        self.c = radii * (down - up)
        self.b = self.c / self.S
        self.inverse = (1 / self.S).sum(dim=1)
        self.diagonal = 4 * radii.square() * up * down / self.S
        self.residual = slope[:, None] - at.above - at.below

    def gap(self) -> Tensor:
        """Sum of the products of slacks and multipliers."""
        return (self.room_above * self.at.above).sum() + (self.room_below * self.at.below).sum()

    def pull(self) -> Tensor:
        """What the multipliers add to the gradient in x: e (m+ - m-)."""
        return self.radii * (self.at.above - self.at.below)

    def aim(self, targets: tuple[Tensor, Tensor], base: Tensor, bend: Tensor) -> None:
        """Set the right sides: complementarity targets c+-, and the outer function's base and bend (B,)."""
        self.targets, self.bend = targets, bend
        self.R = targets[0] + targets[1] - self.residual - base[:, None]
        self.rho = (self.R / self.S).sum(dim=1)
        self.push = self.radii * (targets[0] - targets[1])

    def change(self, dx: Tensor, lin: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(change of pi (B,), dr, dm+, dm-) for a change of x."""
        pi = (self.rho - (self.b * dx).sum(dim=1) - self.inverse * lin) / (1 + self.inverse * self.bend)
        dr = (self.R - self.c * dx - (lin + self.bend * pi)[:, None]) / self.S
        dup = self.targets[0] - self.up * (dr - self.radii * dx)
        ddown = self.targets[1] - self.down * (dr + self.radii * dx)
        return pi, dr, dup, ddown

    def slack_changes(self, dx: Tensor, dr: Tensor) -> tuple[Tensor, Tensor]:
        return dr - self.radii * dx, dr + self.radii * dx


def reach(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Largest step that keeps every value of the (value, change) pairs positive."""
    far = torch.finfo(pairs[0][0].dtype).max if pairs else 0.0
    best = far
    for value, change in pairs:
        if value.numel():
            best = min(best, float(torch.where(change < 0, -value / change, far).amin()))
    return best
