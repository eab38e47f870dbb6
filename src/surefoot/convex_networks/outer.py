"""The loss of one row as a function phi(f, pi) of its score f and of what a perturbation can move the score by, pi >= 0.

phi(f, pi) = max over |delta| <= pi of loss(f + delta): without radii pi = 0. Two forms for the interior-point method:

- `Smooth`: loss(f - y pi) for losses with two derivatives (and squared loss where pi = 0);
- `Pieces`: max over g >= 0, s = sum_l g_l <= cap of sum_l g_l (alpha_l f + kappa_l pi + const_l) - q s^2 / 2, which is hinge, quantile
  (q = 0, cap = 1), Huber (q = 1, cap = knee) and the worst-case squared loss (q = 1, no cap).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.convex_networks.problem import PatternProgram
from surefoot.numerics.losses import Loss

Arrays = dict[str, Tensor]


@dataclass
class Curvature:
    """Second derivatives of phi as seen after the inner variables are eliminated, each (n,)."""

    ff: Tensor
    fp: Tensor
    pp: Tensor
    determinant: Tensor


class Smooth:
    """A loss with two derivatives.

    Args:
        loss, target: (n,) labels.
        robust: whether pi takes part.
    """

    def __init__(self, loss: Loss, target: Tensor, robust: bool) -> None:
        self.loss, self.target = loss, target
        self.side = target if robust else torch.zeros_like(target)  # score moves by -y pi

    @property
    def pairs_per_row(self) -> int:
        return 0

    def start(self, f: Tensor, pi: Tensor) -> Arrays:
        return {}

    def slopes(self, at: Arrays, f: Tensor, pi: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.loss.derivative(f - self.side * pi, self.target)
        return slope, -self.side * slope

    def linearise(self, at: Arrays, f: Tensor, pi: Tensor) -> Curvature:
        bend = self.loss.second_derivative(f - self.side * pi, self.target)
        return Curvature(bend, -self.side * bend, self.side.square() * bend, torch.zeros_like(bend))

    def gap(self, at: Arrays) -> float:
        return 0.0

    def aim(self, targets: Any) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.target), torch.zeros_like(self.target)

    def targets(self, at: Arrays, m: float, moved: Any, held: bool) -> Any:
        return None

    def change(self, df: Tensor, dpi: Tensor) -> Any:
        return None

    def pairs(self, at: Arrays, moved: Any) -> list[tuple[Tensor, Tensor]]:
        return []

    def ahead(self, at: Arrays, moved: Any, length: float) -> float:
        return 0.0

    def advance(self, at: Arrays, moved: Any, length: float) -> None:
        return None


class Pieces:
    """Piecewise linear or linear-quadratic losses; the state is g (l, n) and, with a cap, its multiplier `cap` (n,).

    Args:
        alpha, kappa, const: (l, n) rows of the affine pieces.
        q: curvature in s.
        cap: largest s, or infinity.
    """

    def __init__(self, alpha: Tensor, kappa: Tensor, const: Tensor, q: float, cap: float) -> None:
        self.alpha, self.kappa, self.const, self.q, self.cap = alpha, kappa, const, q, cap
        self.capped = cap < float("inf")

    @property
    def pairs_per_row(self) -> int:
        return len(self.alpha) + int(self.capped)

    def _affine(self, f: Tensor, pi: Tensor) -> Tensor:
        return self.alpha * f + self.kappa * pi + self.const

    def start(self, f: Tensor, pi: Tensor) -> Arrays:
        affine = self._affine(f, pi)
        top = affine.amax(dim=0)
        margin = float(affine.abs().mean()) or 1.0
        pieces = len(affine)
        if not self.capped:  # t = s
            g = ((top.clamp(min=0) + margin) / pieces).expand(pieces, -1).clone()
            return {"g": g}
        s = 0.5 * self.cap
        g = torch.full_like(affine, s / pieces)
        return {"g": g, "cap": (top - self.q * s).clamp(min=0) + margin}

    def slopes(self, at: Arrays, f: Tensor, pi: Tensor) -> tuple[Tensor, Tensor]:
        return (self.alpha * at["g"]).sum(dim=0), (self.kappa * at["g"]).sum(dim=0)

    def linearise(self, at: Arrays, f: Tensor, pi: Tensor) -> Curvature:
        g = at["g"]
        s = g.sum(dim=0)
        t = self.q * s + at["cap"] if self.capped else self.q * s
        self.slack = t - self._affine(f, pi)
        self.theta = g / self.slack
        self.room = self.cap - s
        self.omega = at["cap"] / self.room if self.capped else torch.zeros_like(s)
        self.Q = self.q + self.omega
        self.denominator = 1 + self.Q * self.theta.sum(dim=0)
        # A'[diag(theta) - theta theta' Q / denominator] A, in the form without cancellation
        rows = torch.stack([self.alpha, self.kappa])
        plain = (self.theta * rows[:, None] * rows[None, :]).sum(dim=2)
        if len(self.alpha) == 2:
            difference = rows[:, 0] - rows[:, 1]
            plain = plain + (self.Q * self.theta.prod(dim=0)) * difference[:, None] * difference[None, :]
        plain = plain / self.denominator
        determinant = torch.zeros_like(f)
        if len(self.alpha) == 2:
            area = self.alpha[0] * self.kappa[1] - self.alpha[1] * self.kappa[0]
            determinant = area.square() * self.theta.prod(dim=0) / self.denominator
        return Curvature(plain[0, 0], plain[0, 1], plain[1, 1], determinant)

    def gap(self, at: Arrays) -> float:
        total = float((self.slack * at["g"]).sum())
        return total + (float((self.room * at["cap"]).sum()) if self.capped else 0.0)

    def targets(self, at: Arrays, m: float, moved: Any, held: bool) -> Any:
        """Complementarity targets after the affine step `moved` (None: aim at zero; `held`: stay)."""
        g = at["g"]
        if held:
            return torch.zeros_like(g), torch.zeros_like(self.room)
        if moved is None:
            return -g, (-at["cap"] if self.capped else torch.zeros_like(self.room))
        dg, dslack, droom, dcap = moved
        first = (m - dg * dslack) / self.slack - g
        second = (m - droom * dcap) / self.room - at["cap"] if self.capped else torch.zeros_like(self.room)
        return first, second

    def aim(self, targets: Any) -> tuple[Tensor, Tensor]:
        """Set the targets; returns the base changes of both slopes."""
        self.c, self.c_cap = targets
        crossed = torch.zeros_like(self.c)
        if len(self.c) == 2:  # sum over the other piece m of theta_m c_l - theta_l c_m
            crossed = self.theta.flip(0) * self.c - self.theta * self.c.flip(0)
        self.base = (self.c + self.Q * crossed - self.theta * self.c_cap) / self.denominator
        return (self.alpha * self.base).sum(dim=0), (self.kappa * self.base).sum(dim=0)

    def change(self, df: Tensor, dpi: Tensor) -> Any:
        """(dg, change of the slacks, change of the room under the cap, change of its multiplier)."""
        daff = self.alpha * df + self.kappa * dpi
        apart = torch.zeros_like(daff)
        if len(daff) == 2:
            apart = self.Q * self.theta.flip(0) * (daff - daff.flip(0))
        dg = self.base + self.theta * (daff + apart) / self.denominator
        dslack = (self.Q * self.c.sum(dim=0) + self.c_cap - apart - daff) / self.denominator
        ds = dg.sum(dim=0)
        return dg, dslack, -ds, self.c_cap + self.omega * ds

    def pairs(self, at: Arrays, moved: Any) -> list[tuple[Tensor, Tensor]]:
        dg, dslack, droom, dcap = moved
        found = [(at["g"], dg), (self.slack, dslack)]
        return [*found, (self.room, droom), (at["cap"], dcap)] if self.capped else found

    def ahead(self, at: Arrays, moved: Any, length: float) -> float:
        dg, dslack, droom, dcap = moved
        total = ((self.slack + length * dslack) * (at["g"] + length * dg)).sum()
        if self.capped:
            total = total + ((self.room + length * droom) * (at["cap"] + length * dcap)).sum()
        return float(total)

    def advance(self, at: Arrays, moved: Any, length: float) -> None:
        at["g"] = at["g"] + length * moved[0]
        if self.capped:
            at["cap"] = at["cap"] + length * moved[3]


def outer_function(problem: PatternProgram, column: int) -> Smooth | Pieces:
    """The form that fits the problem's loss."""
    y, name, robust = problem.targets[:, column], problem.loss_name, problem.robust
    one = torch.ones_like(y)
    if name == "logistic" or (name == "squared" and not robust):
        return Smooth(problem.loss, y, robust)
    if name == "hinge":
        return Pieces(-y[None], one[None], one[None], 0.0, 1.0)
    if name == "quantile":
        level = problem.loss_options.get("quantile", 0.5)
        weights = torch.stack([(1 - level) * one, -level * one])
        return Pieces(weights, weights.abs(), -weights * y, 0.0, 1.0)
    sides = torch.stack([one, -one])
    cap = problem.loss_options.get("knee", 1.0) if name == "huber" else float("inf")
    return Pieces(sides, sides.abs(), -sides * y, 1.0, cap)
