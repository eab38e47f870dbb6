"""The lasso min_a loss(A a, y) + beta |a|_1 of the sampled program: proximal gradient steps, and an interior point.

Interior point: a = p - q with p, q >= 0 and slacks s = beta +- A' loss'(A a) of the dual box; a predictor-corrector step solves one system
of n x n or N x N, whichever is smaller, O(min(n, N)^2 max(n, N)). Random ReLU neurons in few columns are nearly parallel, and proximal steps
then take tens of thousands of iterations; this takes about twenty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.numerics.losses import Loss
from surefoot.numerics.prox import soft_threshold

Arrays = dict[str, Tensor]


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
                f"the sampled program needs a smooth loss, not {type(self.loss).__name__}; take program 'cone' (ConvexTraining)"
            )
        self._step_length = 0.0

    @property
    def step_length(self) -> float:
        """1 / (curvature |A|^2), found when first asked for."""
        if not self._step_length:
            A = self.columns
            gram = A @ A.T if len(A) <= A.shape[1] else A.T @ A
            top = max(float(torch.linalg.eigvalsh(gram)[-1]), 1e-300) * (1 + 1e-12 * len(gram))
            self._step_length = 1.0 / (self.loss.constants.curvature * top)
        return self._step_length

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

    # ---- interior point, one target column at a time -----------------------------------------------------------
    def start(self, column: int) -> Arrays:
        """p, q and their slacks (N,): a = 0, and every product of the same size."""
        A, y = self.columns, self.targets[column]
        zero = torch.zeros_like(y)
        push = A.T @ self.loss.derivative(zero, y)
        slack = torch.full_like(push, max(self.weight, 1.1 * float(push.abs().max())))
        level = float(self.loss.value(zero, y).sum()) / (2 * len(push) * float(slack[0]))
        weight = torch.full_like(push, max(level, torch.finfo(A.dtype).tiny))
        return {"p": weight, "q": weight.clone(), "up": slack, "down": slack.clone()}

    def newton(self, at: Arrays, column: int) -> bool:
        """One predictor-corrector step, in place; False where none is left."""
        A, y = self.columns, self.targets[column]
        p, q, up, down = (at[name] for name in ("p", "q", "up", "down"))
        f = A @ (p - q)
        push = A.T @ self.loss.derivative(f, y)
        rest_up, rest_down = self.weight + push - up, self.weight - push - down
        bend = self.loss.second_derivative(f, y)
        theta = p / up + q / down
        n, N = A.shape
        by_rows = n <= N
        scaled = (bend.sqrt()[:, None] * A) * theta.sqrt()
        total = scaled @ scaled.T if by_rows else scaled.T @ scaled
        total.diagonal().add_(1.0)
        factor, failed = torch.linalg.cholesky_ex(total)
        if int(failed):
            return False

        def direction(c_up: Tensor, c_down: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            e = c_up / up - c_down / down - (p / up) * rest_up + (q / down) * rest_down
            if by_rows:
                k = torch.cholesky_solve((bend.sqrt() * (A @ e))[:, None], factor)[:, 0]
                g = A.T @ (bend.sqrt() * k)
            else:
                moved = theta.sqrt() * torch.cholesky_solve((e / theta.sqrt())[:, None], factor)[:, 0]
                g = A.T @ (bend * (A @ moved))
            d_up, d_down = g + rest_up, rest_down - g
            return (c_up - p * d_up) / up, (c_down - q * d_down) / down, d_up, d_down

        def reach(moves: tuple[Tensor, ...]) -> float:
            length = 1.0
            for value, move in zip((p, q, up, down), moves, strict=True):
                shrinking = move < 0
                if bool(shrinking.any()):
                    length = min(length, 0.99 * float((-value[shrinking] / move[shrinking]).min()))
            return length

        mu = float((p @ up + q @ down) / (2 * N))
        affine = direction(-p * up, -q * down)
        by = reach(affine)
        ahead = float((p + by * affine[0]) @ (up + by * affine[2]) + (q + by * affine[1]) @ (down + by * affine[3])) / (
            2 * N
        )
        aim = max(1e-6, (max(ahead, 0.0) / mu) ** 3) * mu
        full = direction(aim - affine[0] * affine[2] - p * up, aim - affine[1] * affine[3] - q * down)
        by = reach(full)
        if by < 1e-10 or not all(bool(torch.isfinite(move).all()) for move in full):
            return False
        for name, value, move in zip(("p", "q", "up", "down"), (p, q, up, down), full, strict=True):
            at[name] = value + by * move
        return True
