"""A structured interior-point solver for the pattern program with a twice differentiable loss.

    min  loss(F u, y) + beta sum_j tau_j   s.t.  |u_j| <= tau_j,  G_j u_j >= 0   for the 2P blocks j

by a primal-dual predictor-corrector (Nesterov-Todd scaling of the norm cones). Its Newton matrix is block diagonal plus F' L F with L
diagonal, so it is solved through one n x n matrix: an iteration costs O(n^2 P d + n P d^2 + n^3), whatever the dP x dP system would
cost. Iterates keep G u > 0 exactly, so every one of them is a feasible point and its objective an upper bound.

References:
    Andersen, Dahl, Vandenberghe, Interior-point methods for large-scale cone programming, 2011 (the scaling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.linalg import blas
from torch import Tensor

from surefoot.numerics.losses import Loss

products: Any = blas  # the compiled module carries no types
SCRATCH = 1 << 25
"""Numbers of scratch for the n x n product (256 MiB)."""


@dataclass
class Central:
    """A primal-dual point for one target column.

    Attributes:
        u: (J, d) weights, the P adding blocks first, then the P subtracting ones.
        tau: (J,) bounds of their norms.
        p: (J, n) cone multipliers.
        y0, y: (J,), (J, d) multipliers of the norm cones.
        done: nothing is to be gained any more (converged, or the arithmetic ends).
    """

    u: Tensor
    tau: Tensor
    p: Tensor
    y0: Tensor
    y: Tensor
    done: bool = False


@dataclass
class Interior:
    """The solver for one pattern set and one target column.

    Args:
        features: X (n, d).
        signs: (P, n), +1 in the pattern, -1 outside.
        target: (n,).
        loss: twice differentiable.
        weight: beta.
    """

    features: Tensor
    signs: Tensor
    target: Tensor
    loss: Loss
    weight: float

    def __post_init__(self) -> None:
        X = self.features
        n, d = X.shape
        P = len(self.signs)
        inside = (self.signs > 0).to(X)
        self.live = (X != 0).any(dim=1).to(X)
        self.E = torch.cat([self.signs, self.signs])
        self.D = torch.cat([inside, inside])
        self.side = torch.cat([torch.ones(P), -torch.ones(P)]).to(X)
        self.outer = (X[:, :, None] * X[:, None, :]).reshape(n, d * d)
        self.eye = torch.eye(d, dtype=X.dtype, device=X.device)

    # ---- operators ---------------------------------------------------------------------------------------------
    def predict(self, u: Tensor) -> Tensor:
        return ((u @ self.features.T) * self.D * self.side[:, None]).sum(dim=0)

    def spread(self, r: Tensor) -> Tensor:
        return ((r[None] * self.D) @ self.features) * self.side[:, None]

    def cone_values(self, u: Tensor) -> Tensor:
        return (u @ self.features.T) * self.E

    def start(self, directions: Tensor) -> Central:
        """A point on no particular path: every block along its direction (P, d), which should be central in its cone."""
        n = len(self.features)
        u = torch.cat([directions, directions])
        J = len(u)
        level = float(self.loss.value(torch.zeros_like(self.target), self.target).sum())
        level = level if level > 0 else self.weight
        u = u * (level / (J * self.weight))
        slack = self.cone_values(u)
        p = torch.where(self.live > 0, level / (J * n) / slack.clamp(min=torch.finfo(u.dtype).tiny), 0.0)
        tau = 2 * torch.linalg.vector_norm(u, dim=1)
        return Central(u, tau, p, torch.full_like(tau, self.weight), torch.zeros_like(u))

    def bounds(self, at: Central) -> tuple[float, float]:
        """(objective of the feasible point, dual value of the multipliers after scaling them into their balls)."""
        f = self.predict(at.u)
        slope = self.loss.derivative(f, self.target)
        norms = torch.linalg.vector_norm(self.spread(slope) - (at.p * self.E) @ self.features, dim=1)
        theta = min(1.0, self.weight / max(float(norms.max()), torch.finfo(f.dtype).tiny))
        upper = float(self.loss.value(f, self.target).sum() + self.weight * torch.linalg.vector_norm(at.u, dim=1).sum())
        return upper, -float(self.loss.conjugate(theta * slope, self.target).sum())

    # ---- the iteration -----------------------------------------------------------------------------------------
    def step(self, at: Central, tolerance: float) -> tuple[float, float]:
        """One iteration, in place; returns the bounds at the point it started from."""
        upper, lower = self.bounds(at)
        if upper - lower <= tolerance * abs(upper):
            at.done = True
            return upper, lower
        try:
            moved = self._move(at)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage] the weights span more than the arithmetic holds
            moved = False
        at.done = not moved
        return upper, lower

    def _move(self, at: Central) -> bool:
        X, u, tau, p = self.features, at.u, at.tau, at.p
        J, d = len(u), X.shape[1]
        s = torch.where(self.live > 0, self.cone_values(u), 1.0)
        f = self.predict(u)
        slope, bend = self.loss.derivative(f, self.target), self.loss.second_derivative(f, self.target)
        ru = self.spread(slope) - (p * self.E) @ X - at.y
        rt = self.weight - at.y0
        gap = float((s * p).sum() + (tau * at.y0 + (u * at.y).sum(dim=1)).sum())
        mu = gap / (J * (int(self.live.sum()) + 1))
        scale = _Scaling(tau, u, at.y0, at.y)
        q = p / s
        H = (q @ self.outer).reshape(J, d, d) + scale.reduced(self.eye)
        H.diagonal(dim1=1, dim2=2).mul_(1 + 1e-13)
        L = torch.linalg.cholesky(H)
        root = bend.sqrt()
        factor = self._coupling(L, root)

        def solve(r: Tensor) -> Tensor:
            x = torch.cholesky_solve(r[:, :, None], L)[:, :, 0]
            k = torch.cholesky_solve((root * self.predict(x))[:, None], factor)[:, 0]
            return x - torch.cholesky_solve(self.spread(root * k)[:, :, None], L)[:, :, 0]

        def direction(cp: Tensor, ct: Tensor, cu: Tensor) -> tuple[Tensor, ...]:
            right = -ru + (cp * self.E) @ X + cu - scale.cross * ((ct - rt) / scale.corner)[:, None]
            du = solve(right)
            dt = (ct - rt - (scale.cross * du).sum(dim=1)) / scale.corner
            ds = self.cone_values(du)
            d0, dy = scale.inverse_square(dt, du)
            return du, dt, ds, cp - q * ds, ct - d0, cu - dy

        affine = direction(-p, -at.y0, -at.y)
        length = min(1.0, self._reach(at, s, affine))
        du, dt, ds, dp, d0, dy = affine
        ahead = ((s + length * ds) * (p + length * dp)).sum()
        ahead = (
            ahead
            + ((tau + length * dt) * (at.y0 + length * d0)).sum()
            + ((u + length * du) * (at.y + length * dy)).sum()
        )
        m = max(1e-6, (max(float(ahead), 0.0) / gap) ** 3) * mu
        c0, cu = scale.correction(m, dt, du, d0, dy)
        cp = torch.where(self.live > 0, (m - ds * dp) / s, 0.0)
        full = direction(cp - p, c0 - at.y0, cu - at.y)
        length = min(1.0, 0.99 * self._reach(at, s, full))
        du, dt, _, dp, d0, dy = full
        ahead_u = u + length * du
        if length < 1e-8 or not bool(torch.isfinite(ahead_u).all()) or float(self._least(ahead_u)) <= 0:
            return False
        at.u, at.tau, at.p, at.y0, at.y = (
            ahead_u,
            tau + length * dt,
            p + length * dp,
            at.y0 + length * d0,
            at.y + length * dy,
        )
        return True

    def _least(self, u: Tensor) -> Tensor:
        return torch.where(self.live > 0, self.cone_values(u), torch.inf).amin()

    def _coupling(self, L: Tensor, root: Tensor) -> Tensor:
        """Cholesky factor of I + L^1/2 F H^-1 F' L^1/2, summed over lots of blocks."""
        X = self.features
        n, d = X.shape
        total = torch.eye(n, dtype=X.dtype, device=X.device)
        lot = max(1, SCRATCH // (n * d))
        for a in range(0, len(L), lot):
            part = L[a : a + lot]
            inverse = torch.linalg.solve_triangular(part, self.eye.expand(len(part), d, d), upper=False)
            A = (inverse.reshape(-1, d) @ X.T).reshape(len(part), d, n) * (self.D[a : a + lot] * root)[:, None, :]
            _add_gram(total, A.reshape(-1, n))
        return torch.linalg.cholesky(total)

    def _reach(self, at: Central, s: Tensor, move: tuple[Tensor, ...]) -> float:
        du, dt, ds, dp, d0, dy = move
        far = torch.finfo(s.dtype).max
        walls = torch.minimum(torch.where(ds < 0, -s / ds, far).amin(), torch.where(dp < 0, -at.p / dp, far).amin())
        return min(float(walls), _cone_reach(at.tau, at.u, dt, du), _cone_reach(at.y0, at.y, d0, dy))


def _add_gram(total: Tensor, A: Tensor) -> None:
    """The lower triangle of total += A'A; BLAS's symmetric product does half the work of a general one."""
    if total.device.type != "cpu" or total.dtype != torch.float64:
        total.addmm_(A.T, A)
        return
    # a row-major lower triangle is a column-major upper one
    products.dsyrk(1.0, A.contiguous().numpy().T, beta=1.0, c=total.numpy().T, lower=0, overwrite_c=1)


class _Scaling:
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


def _cone_reach(t: Tensor, x: Tensor, dt: Tensor, dx: Tensor) -> float:
    """Largest step that keeps (t, x) + step (dt, dx) in the norm cones."""
    far = torch.finfo(t.dtype).max
    A, B, C = dt.square() - dx.square().sum(dim=1), t * dt - (x * dx).sum(dim=1), _determinant(t, x)
    inner = B.square() - A * C
    q = -(B + torch.where(B >= 0, 1.0, -1.0) * inner.clamp(min=0).sqrt())
    first, second = torch.where(A != 0, q / A, far), torch.where(q != 0, C / q, far)
    root = torch.minimum(torch.where(first > 0, first, far), torch.where(second > 0, second, far))
    root = torch.where(inner < 0, far, root)
    return float(torch.minimum(root, torch.where(dt < 0, -t / dt, far)).min())
