"""A structured interior-point solver for the pattern program, plain and robust, with every loss of the package.

    min  sum_k phi_k(f_k, pi_k) + beta sum_j tau_j   s.t.  |u_j| <= tau_j,  G_j u_j >= 1'r_j,  r_j >= |e o u_j|  for the 2P blocks j,

with zeta_k = sum_i D_i[k] (v_i - w_i), f_k = x_k'zeta_k and pi_k >= |e o zeta_k|_1 (without radii e the r and pi are not there), by a
primal-dual predictor-corrector (Nesterov-Todd scaling of the norm cones). All variables but the u are eliminated row by row. What is
left is block diagonal plus sum_k (row k's curvature), and is solved through one matrix: n x n, or Pd x Pd where that is cheaper or the
problem is robust. An iteration costs O(n P d^2) and the smaller of O(n^2 P d + n^3) and O(n (Pd)^2 + (Pd)^3), whatever the dP x dP
system would cost. Iterates keep every slack positive, so each is a feasible point and its objective an upper bound.

Arrays over patterns and rows are worked through in lots of patterns; only the multipliers p (2P, n) are kept, in a file that is mapped
into memory where they would not fit.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from surefoot.convex_networks.absolute import Absolute
from surefoot.convex_networks.newton import Move
from surefoot.convex_networks.outer import outer_function
from surefoot.convex_networks.patterns import sign_lots
from surefoot.convex_networks.problem import PatternProgram
from surefoot.convex_networks.robust import dual_value, soft, worst_loss

SCRATCH = 256 << 20
"""Bytes of scratch for lots and products, where memory allows."""

NEAR = 1e-3
"""Relative gap from which the best point is kept, in case rounding spoils later ones."""

HOLD = 1e-2
"""Relative gap from which steps that only remove the dual residual are taken where it matters."""


@dataclass
class Central:
    """A primal-dual point for one target column.

    Attributes:
        u: (J, d) weights, the P adding blocks first, then the P subtracting ones.
        tau: (J,) bounds of their norms.
        p: (2, P, n) cone multipliers.
        y0, y: (J,), (J, d) multipliers of the norm cones.
        more: g, cap of the loss's pieces; wall_* and row_* (r, above, below) of the absolute values.
        done: nothing is to be gained any more (converged, or the arithmetic ends).
    """

    u: Tensor
    tau: Tensor
    p: Tensor
    y0: Tensor
    y: Tensor
    more: dict[str, Tensor] = field(default_factory=dict)
    done: bool = False

    def absolute(self, which: str) -> Absolute:
        return Absolute(*(self.more[f"{which}_{name}"] for name in ("r", "above", "below")))


@dataclass
class Interior:
    """The solver for one pattern set and one target column.

    Args:
        problem: the program.
        column: which target.
        directions: (P, d), strictly inside their patterns' cones (the robust ones, with radii).
        scratch: bytes that a lot of patterns may take.
        in_memory: bytes up to which the multipliers stay in memory.
    """

    problem: PatternProgram
    column: int
    directions: Tensor
    scratch: int = SCRATCH
    in_memory: int = 1 << 62

    def __post_init__(self) -> None:
        self._held = 0
        self._best: tuple[float, tuple[float, float], Central] | None = None
        X = self.features = self.problem.features
        self.target, self.weight = self.problem.targets[:, self.column], self.problem.weight
        self.loss, self.outer_function = self.problem.loss, outer_function(self.problem, self.column)
        n, d = X.shape
        self.robust = self.problem.robust
        radii = X.new_zeros(d) if self.problem.radii is None else self.problem.radii.to(X)
        self.active = torch.nonzero(radii > 0).flatten()
        self.radii = radii[self.active]
        self.live = torch.ones_like(X[:, 0]) if self.robust else (X != 0).any(dim=1).to(X)
        self.eye = torch.eye(d, dtype=X.dtype, device=X.device)
        self.count = len(self.directions)
        self.by_rows = not self.robust and n <= self.count * d
        self.outer = (X[:, :, None] * X[:, None, :]).reshape(n, d * d)

    # ---- operators ---------------------------------------------------------------------------------------------
    def lots(self) -> Iterator[tuple[slice, Tensor]]:
        """Lots of patterns with their signs (b, n)."""
        return sign_lots(self.features, self.directions, self.scratch)

    def zeta(self, u: Tensor) -> Tensor:
        """sum_i D_i[k] (v_i - w_i): (n, d)."""
        total = torch.zeros_like(self.features)
        difference = u[: self.count] - u[self.count :]
        for part, E in self.lots():
            total.addmm_((E > 0).to(E).T, difference[part])
        return total

    def spread(self, h: Tensor) -> Tensor:
        """sum_k D_i[k] h_k for every block, with its side: (J, d) from h (n, d)."""
        found = torch.cat([(E > 0).to(E) @ h for _, E in self.lots()])
        return torch.cat([found, -found])

    def both(self, blocks: Tensor) -> Tensor:
        return blocks.reshape(2, self.count, *blocks.shape[1:])

    def start(self) -> Central:
        """A point on no particular path: every block along its direction, which should be central in its cone."""
        X, P, e, act = self.features, self.count, self.radii, self.active
        n, J = len(X), 2 * P
        zero = torch.zeros_like(self.target)
        level = float(worst_loss(self.problem, zero, zero, self.target).sum())
        level = level if level > 0 else self.weight
        u = torch.cat([self.directions, self.directions]) * (level / (J * self.weight))
        aim = level / (J * n)
        p = self._array(2, P, n)
        tiny = torch.finfo(X.dtype).tiny
        tau = 2 * torch.linalg.vector_norm(u, dim=1)
        at = Central(u, tau, p, torch.full_like(tau, self.weight), torch.zeros_like(u))
        U = self.both(u)
        extents = [X.new_zeros(2, P, len(act))]
        if self.robust:
            room = X.new_zeros(2, P, len(act))
            for part, E in self.lots():
                s = (U[:, part] @ X.T) * E - (U[:, part][..., act].abs() @ e)[..., None]
                least = s.amin(dim=-1, keepdim=True)
                room[:, part] = torch.minimum(least / (2 * len(act)), 2 / s.reciprocal().sum(dim=-1, keepdim=True))
            extents = [e * U[..., act].abs() + room]
        for part, E in self.lots():
            s = (U[:, part] @ X.T) * E - extents[0][:, part].sum(dim=-1, keepdim=True)
            p[:, part] = torch.where(self.live > 0, aim / s.clamp(min=tiny), 0.0)
        if self.robust:
            half = 0.5 * p.sum(dim=-1).reshape(J, 1).expand(J, len(act))
            at.more |= {"wall_r": extents[0].reshape(J, -1), "wall_above": half.clone(), "wall_below": half.clone()}
        z = self.zeta(u)
        f = (z * X).sum(dim=1)
        pi = zero
        if self.robust:
            width = e * z[:, act].abs()
            r = width + (float(width.mean()) + 0.1 / len(act))
            pi = r.sum(dim=1)
            at.more["row_r"] = r
        at.more |= self.outer_function.start(f, pi)
        if self.robust:
            _, slope = self.outer_function.slopes(at.more, f, pi)
            half = (0.5 * slope)[:, None].expand_as(at.more["row_r"])
            at.more |= {"row_above": half.clone(), "row_below": half.clone()}
        return at

    def _array(self, *shape: int) -> Tensor:
        """Zeros; in a file of their own, mapped into memory, where they take more than `in_memory` bytes."""
        X, size = self.features, math.prod(shape)
        if size * X.element_size() <= self.in_memory or X.device.type != "cpu":
            return X.new_zeros(*shape)
        with tempfile.TemporaryDirectory(prefix="surefoot-") as folder:  # the mapping outlives the name
            path = Path(folder) / "multipliers"
            with path.open("wb") as stream:
                stream.truncate(size * X.element_size())
            return torch.from_file(str(path), shared=True, size=size, dtype=X.dtype).view(*shape)

    def _copy(self, array: Tensor) -> Tensor:
        return self._array(*array.shape).copy_(array)

    # ---- bounds ------------------------------------------------------------------------------------------------
    def multipliers(self, at: Central) -> tuple[Tensor, Tensor, Tensor | None]:
        """(z (n,), spread (n,), tilt (n, d) or None): row k's gradient in zeta is -z_k x_k + tilt_k, |tilt| <= e spread."""
        zeta = self.zeta(at.u)
        f = (zeta * self.features).sum(dim=1)
        if not self.robust:
            slope, _ = self.outer_function.slopes(at.more, f, torch.zeros_like(f))
            return -slope, slope.abs(), None
        slope, spread = self.outer_function.slopes(at.more, f, at.more["row_r"].sum(dim=1))
        tilt = torch.zeros_like(self.features)
        room = self.radii * spread[:, None]
        tilt[:, self.active] = (self.radii * (at.more["row_above"] - at.more["row_below"])).clamp(-room, room)
        return -slope, spread, tilt

    def bounds(self, at: Central) -> tuple[float, float]:
        """(objective of the feasible point, dual value of the multipliers after scaling them into their balls)."""
        X = self.features
        zeta = self.zeta(at.u)
        pen = zeta[:, self.active].abs() @ self.radii
        z, spread, tilt = self.multipliers(at)
        h = -z[:, None] * X if tilt is None else tilt - z[:, None] * X
        largest = 0.0
        for part, E in self.lots():
            pushed = (E > 0).to(E) @ h
            for side, sign in ((0, 1.0), (1, -1.0)):
                p = at.p[side, part]
                vector = sign * pushed - (p * E) @ X
                if self.robust:
                    vector[:, self.active] = soft(vector[:, self.active], self.radii * p.sum(dim=1, keepdim=True))
                largest = max(largest, float(torch.linalg.vector_norm(vector, dim=1).max()))
        theta = min(1.0, self.weight / max(largest, torch.finfo(X.dtype).tiny))
        loss = worst_loss(self.problem, (zeta * X).sum(dim=1), pen, self.target).sum()
        upper = float(loss + self.weight * torch.linalg.vector_norm(at.u, dim=1).sum())
        return upper, dual_value(self.problem, theta * z, theta * spread, self.target)

    # ---- the iteration -----------------------------------------------------------------------------------------
    def step(self, at: Central, tolerance: float) -> tuple[float, float]:
        """One iteration, in place; returns the bounds at the point it started from."""
        upper, lower = self.bounds(at)
        if upper - lower <= tolerance * abs(upper):
            at.done = True
            return upper, lower
        gap = (upper - lower) / max(abs(upper), torch.finfo(at.u.dtype).tiny)
        if self._best is not None and gap > 30 * self._best[0]:  # rounding has taken over: back to the best point
            _, bounds, kept = self._best
            at.u, at.tau, at.y0, at.y, at.more = kept.u, kept.tau, kept.y0, kept.y, kept.more
            at.p.copy_(kept.p)
            at.done, self._best = True, None
            return bounds
        if gap < NEAR and (self._best is None or gap < self._best[0]):
            kept = Central(at.u, at.tau, self._copy(at.p), at.y0, at.y, dict(at.more))
            self._best = (gap, (upper, lower), kept)
        try:
            move = Move(self, at)
            # rounding in long steps shows as a dual residual, and that costs bound: remove it before going on
            worst = float(torch.linalg.vector_norm(move.ru, dim=1).max()) / self.weight
            moved = move.hold() if gap < HOLD and worst > 0.2 * gap and self._held < 3 else move.make()
            self._held = self._held + 1 if gap < HOLD and worst > 0.2 * gap and self._held < 3 else 0
        except (torch.linalg.LinAlgError, ArithmeticError):  # pyright: ignore[reportPrivateImportUsage] the weights span more than the arithmetic holds
            moved = False
        at.done = not moved
        return upper, lower
