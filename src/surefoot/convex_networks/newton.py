"""One predictor-corrector step of the interior-point solver: the Newton system, its factors, and its directions.

Every variable but the blocks u is eliminated row by row and block by block; the matrix that is left is block diagonal plus
sum_k (row k's curvature), and is solved through one factor, n x n or Pd x Pd.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from scipy.linalg import blas
from torch import Tensor

from surefoot.convex_networks.absolute import AbsoluteStep, reach
from surefoot.convex_networks.norm_cones import NormScaling, cone_reach

if TYPE_CHECKING:
    from surefoot.convex_networks.interior import Central, Interior

products: Any = blas  # the compiled module carries no types

REFINEMENTS = 5
"""Most, of every Newton direction: the matrices span many orders of magnitude near the end."""

HELD = -1.0  # the target that leaves complementarity as it is


class Move:
    """One predictor-corrector step from a point."""

    def __init__(self, solver: Interior, at: Central) -> None:
        self.solver, self.at = solver, at
        X, self.U = solver.features, solver.both(at.u)
        self.zeta = solver.zeta(at.u)
        self.f = (self.zeta * X).sum(dim=1)
        self.pi = at.more["row_r"].sum(dim=1) if solver.robust else torch.zeros_like(self.f)
        self.slope, self.spread = solver.outer_function.slopes(at.more, self.f, self.pi)
        self.curvature = solver.outer_function.linearise(at.more, self.f, self.pi)
        self.scale = NormScaling(at.tau, at.u, at.y0, at.y)
        self.rows: AbsoluteStep | None = None
        self.walls: AbsoluteStep | None = None
        self.wall_pi = torch.zeros_like(at.tau)
        if solver.robust:
            act = solver.active
            self.rows = AbsoluteStep(at.absolute("row"), solver.radii, self.zeta[:, act], self.spread)
            self.walls = AbsoluteStep(at.absolute("wall"), solver.radii, at.u[:, act], at.p.sum(dim=-1).flatten())
            self.wall_pi = at.more["wall_r"].sum(dim=1)
        self._blocks()
        self._coupling()

    def _slack(self, part: slice, E: Tensor) -> Tensor:
        """Slacks (2, b, n) of a lot's walls; 1 on rows that bind nothing."""
        s = (self.U[:, part] @ self.solver.features.T) * E
        if self.solver.robust:
            return s - self.solver.both(self.wall_pi)[:, part, None]
        return torch.where(self.solver.live > 0, s, 1.0)

    def _blocks(self) -> None:
        """Every block's gradient and the Cholesky factor of its matrix."""
        solver, at = self.solver, self.at
        X, act = solver.features, solver.active
        n, d = X.shape
        h = self.slope[:, None] * X
        if self.rows is not None:
            h[:, act] += self.rows.pull()
        pushed = solver.spread(h)
        self.ru = pushed - at.y
        if self.walls is not None:
            self.ru[:, act] += self.walls.pull()
        self.rt = solver.weight - at.y0
        H = self.scale.reduced(solver.eye)
        gap = 0.0
        self.gamma, self.nearest, self.rest = (torch.zeros_like(at.u) for _ in range(3))
        self.bend = torch.zeros_like(at.tau)
        RU, HH = solver.both(self.ru), solver.both(H)
        for part, E in solver.lots():
            s, p = self._slack(part, E), at.p[:, part]
            q = p / s
            gap += float((s * p).sum())
            RU[:, part] -= (p * E) @ X
            if solver.robust:
                self._binding(part, E, q, HH)
            else:
                HH[:, part] += (q @ solver.outer).reshape(*q.shape[:2], d, d)
        pairs = 2 * solver.count * (int(solver.live.sum()) + 1) + n * solver.outer_function.pairs_per_row
        gap += float((at.tau * at.y0 + (at.u * at.y).sum(dim=1)).sum()) + solver.outer_function.gap(at.more)
        if self.walls is not None and self.rows is not None:
            gap += float(self.walls.gap() + self.rows.gap())
            pairs += 2 * len(act) * (2 * solver.count + n)
            self.wall_b = torch.zeros_like(at.u)
            self.wall_b[:, act] = self.walls.b
            lead = self.bend[:, None] * (self.wall_b + self.nearest) + self.rest
            den = self.bend * (1 + self.walls.inverse * self.bend)
            H += lead[:, :, None] * lead[:, None, :] / den[:, None, None]
            H[:, act, act] += self.walls.diagonal
        self.gap, self.mu = gap, gap / pairs
        if not gap > 0:
            raise ArithmeticError("the products of slacks and multipliers are below rounding")
        H.diagonal(dim1=1, dim2=2).mul_(1 + 1e-13)
        self.L = torch.linalg.cholesky(H)

    def _binding(self, part: slice, E: Tensor, q: Tensor, HH: Tensor) -> None:
        """The robust walls' part of the blocks, sum_k q_k (g_k - mean)(g_k - mean)', taken about the row g* that binds most.

        The stiffest row's own direction is free, since r can give way; subtracting it from X'QX would leave rounding only.
        """
        solver = self.solver
        X = solver.features
        d = X.shape[1]
        top, place = q.max(dim=-1, keepdim=True)
        others = q.scatter(-1, place, 0.0)
        nearest = X[place[..., 0]] * E.expand_as(q).gather(-1, place)
        weight, first = others.sum(dim=-1, keepdim=True), (others * E) @ X
        rest = first - weight * nearest
        second = (others @ solver.outer).reshape(*q.shape[:2], d, d)
        mixed = first[..., :, None] * nearest[..., None, :]
        second = (
            second - mixed - mixed.transpose(-1, -2) + weight[..., None] * nearest[..., :, None] * nearest[..., None, :]
        )
        HH[:, part] += second - rest[..., :, None] * rest[..., None, :] / (weight + top)[..., None]
        for store, value in ((self.gamma, first + top * nearest), (self.nearest, nearest), (self.rest, rest)):
            solver.both(store)[:, part] = value
        solver.both(self.bend)[:, part] = (weight + top)[..., 0]

    # ---- the coupled system ------------------------------------------------------------------------------------
    def _coupling(self) -> None:
        solver, curvature = self.solver, self.curvature
        X, P = solver.features, solver.count
        n, d = X.shape
        self._row_parts()
        if solver.by_rows:
            self.root = curvature.ff.sqrt()
            total = torch.eye(n, dtype=X.dtype, device=X.device)
            each = max(1, solver.scratch // (8 * n * d))
            first, second = solver.both(self.L)
            for part, E in solver.lots():
                D = (E > 0).to(E) * self.root
                for a in range(part.start, part.stop, each):
                    lot = slice(a, min(part.stop, a + each))
                    # the two blocks of a pattern push the same rows: (V^-1 + W^-1) = R'R, one product instead of two
                    eyes = solver.eye.expand(lot.stop - lot.start, d, d)
                    inverses = [torch.linalg.solve_triangular(L[lot], eyes, upper=False) for L in (first, second)]
                    R = torch.linalg.qr(
                        torch.cat(inverses, dim=1), mode="r"
                    ).R  # not by the sum: blocks span many orders
                    A = (R.reshape(-1, d) @ X.T).reshape(-1, d, n) * D[a - part.start : lot.stop - part.start, None, :]
                    _add_gram(total, A.reshape(-1, n))
            self.factor = torch.linalg.cholesky(total)
            return
        # The two blocks of a pattern in series are (V^-1 + W^-1)^-1 = Z Z' with V = L L', Z = L inner^-T. Scaled by Z the matrix is the
        # identity plus what the rows add, which keeps its factor accurate when the blocks span many orders of magnitude.
        L, other = solver.both(self.L)
        ratio = torch.linalg.solve_triangular(other, L, upper=False)
        inner = torch.linalg.cholesky(solver.eye + ratio.transpose(1, 2) @ ratio)
        self.Zt = torch.linalg.solve_triangular(inner, L.transpose(1, 2), upper=False)
        unscale = inner.transpose(1, 2) @ torch.linalg.solve_triangular(L, solver.eye.expand(P, d, d), upper=False)
        total = torch.eye(P * d, dtype=X.dtype, device=X.device)
        inside = torch.cat([(E > 0).to(E) for _, E in solver.lots()])  # (P, n): this form holds (Pd)^2 numbers anyway
        each = max(1, solver.scratch // (8 * P * d))
        flat = unscale.reshape(P * d, d)
        for vectors in self.vectors:
            for a in range(0, n, each):
                lot = slice(a, min(n, a + each))
                A = (vectors[lot] @ flat.T).reshape(-1, P, d) * inside.T[lot, :, None]
                _add_gram(total, A.reshape(-1, P * d))
        if self.rows is not None:
            act = unscale[:, :, solver.active]
            between = torch.stack([(inside * w) @ inside.T for w in self.rows.diagonal.T], dim=2)  # (P, P, a)
            grid = total.view(P, d, P * d)
            for i in range(P):
                grid[i] += act[i] @ (between[i][:, None, :] * act).reshape(P * d, -1).T
        self.factor = torch.linalg.cholesky(total)  # reads the lower triangle

    def _row_parts(self) -> None:
        """Row k's curvature in zeta: diagonal (rows.diagonal) plus the sum of v v' over `vectors` (each (n, d))."""
        X, c = self.solver.features, self.curvature
        if self.rows is None:
            self.vectors = [c.ff.sqrt()[:, None] * X]
            return
        # Phi after r is eliminated, (Phi^-1 + S e e')^-1, factored as [x, -b] L L' [x, -b]'
        den = 1 + self.rows.inverse * c.pp
        ff, fp = (c.ff + self.rows.inverse * c.determinant) / den, c.fp / den
        b = torch.zeros_like(X)
        b[:, self.solver.active] = -self.rows.b
        tiny = torch.finfo(X.dtype).tiny
        first = ff.clamp(min=0).sqrt()
        lower = torch.where(first > 0, fp / first.clamp(min=tiny), 0.0)
        second = torch.where(ff > 0, c.determinant / den / ff.clamp(min=tiny), 0.0).sqrt()
        self.vectors = [first[:, None] * X + lower[:, None] * b]
        if bool((second > 0).any()):
            self.vectors.append(second[:, None] * b)

    def _curve(self, dzeta: Tensor) -> Tensor:
        """The rows' curvature applied to a change of zeta (n, d)."""
        total = sum((v * (v * dzeta).sum(dim=1, keepdim=True) for v in self.vectors), torch.zeros_like(dzeta))
        if self.rows is not None:
            act = self.solver.active
            total[:, act] += self.rows.diagonal * dzeta[:, act]
        return total

    def solve(self, r: Tensor) -> Tensor:
        """The Newton matrix's inverse applied to r (J, d), refined against rounding."""
        x = self._solve(r)
        rest = r - self._apply(x)
        size = float(torch.linalg.vector_norm(rest))
        whole = float(torch.linalg.vector_norm(r))
        for _ in range(REFINEMENTS):
            if size <= 1e-11 * whole:
                break
            trial = x + self._solve(rest)
            rest = r - self._apply(trial)
            before, size = size, float(torch.linalg.vector_norm(rest))
            if not size < before:
                break
            x = trial
            if size > 0.3 * before:
                break
        return x

    def _apply(self, x: Tensor) -> Tensor:
        """The Newton matrix applied to x (J, d)."""
        blocks = self.L @ (self.L.transpose(1, 2) @ x[:, :, None])
        return blocks[:, :, 0] + self.solver.spread(self._curve(self.solver.zeta(x)))

    def _solve(self, r: Tensor) -> Tensor:
        solver, P = self.solver, self.solver.count
        x = torch.cholesky_solve(r[:, :, None], self.L)[:, :, 0]
        if solver.by_rows:
            scores = (solver.zeta(x) * solver.features).sum(dim=1)
            k = torch.cholesky_solve((self.root * scores)[:, None], self.factor)[:, 0]
            back = solver.spread((self.root * k)[:, None] * solver.features)
        else:
            c = (self.Zt @ (x[:P] - x[P:])[:, :, None]).reshape(-1, 1)
            c = c - torch.cholesky_solve(c, self.factor)
            back = (self.Zt.transpose(1, 2) @ c.reshape(P, -1, 1))[:, :, 0]
            back = torch.cat([back, -back])
        return x - torch.cholesky_solve(back[:, :, None], self.L)[:, :, 0]

    # ---- directions --------------------------------------------------------------------------------------------
    def _cone_targets(self, part: slice, E: Tensor, m: float, before: tuple[Tensor, Tensor] | None) -> Tensor:
        """(2, b, n) complementarity targets of the walls: aim at zero, or at m with the affine step's correction."""
        s, p = self._slack(part, E), self.at.p[:, part]
        if m == HELD:
            return torch.zeros_like(p)
        if before is None:
            return -p
        ds, dp = self._wall_change(part, E, before, -p)
        return torch.where(self.solver.live > 0, (m - ds * dp) / s - p, 0.0)

    def _wall_change(self, part: slice, E: Tensor, du: tuple[Tensor, Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        s, p = self._slack(part, E), self.at.p[:, part]
        ds = (self.solver.both(du[0])[:, part] @ self.solver.features.T) * E
        if self.solver.robust:
            ds = ds - self.solver.both(du[1])[:, part, None]
        return ds, targets - p / s * ds

    def _direction(self, m: float, before: dict[str, Any] | None) -> dict[str, Any]:
        """The Newton direction towards complementarity m, with the second-order terms of the step `before`."""
        solver, at = self.solver, self.at
        X, act = solver.features, solver.active
        outer = solver.outer_function
        right = -self.ru
        R = solver.both(right)
        sums = torch.zeros_like(at.tau)
        S = solver.both(sums)
        earlier = None if before is None else before["walls"]
        for part, E in solver.lots():
            cp = self._cone_targets(part, E, m, earlier)
            R[:, part] += (cp * E) @ X
            S[:, part] = cp.sum(dim=-1)
        if m == HELD:
            ct, cu = torch.zeros_like(at.y0), torch.zeros_like(at.y)
        elif before is None:
            ct, cu = -at.y0, -at.y
        else:
            ct, cu = self.scale.correction(m, before["tau"], before["u"], before["y0"], before["y"])
            ct, cu = ct - at.y0, cu - at.y
        right += cu - self.scale.cross * ((ct - self.rt) / self.scale.corner)[:, None]
        base_f, base_pi = outer.aim(outer.targets(at.more, m, None if before is None else before["pieces"], m == HELD))
        h = base_f[:, None] * X
        if self.rows is not None and self.walls is not None:
            for which, step, base, bend in (
                ("row", self.rows, base_pi, self.curvature.pp), ("wall", self.walls, sums, self.bend),
            ):  # fmt: skip
                step.aim(self._absolute_targets(step, m, None if before is None else before[which]), base, bend)
            den = 1 + self.rows.inverse * self.curvature.pp
            lift = self.rows.rho / den
            h = h + (self.curvature.fp * lift)[:, None] * X
            h[:, act] += self.rows.push + self.rows.b * self.rows.R - self.rows.b * (self.curvature.pp * lift)[:, None]
            lift = self.walls.rho / (1 + self.walls.inverse * self.bend)
            right[:, act] -= self.walls.push + self.walls.b * self.walls.R
            right += (self.wall_b * self.bend[:, None] + self.gamma) * lift[:, None]
        du = self.solve(right - solver.spread(h))
        dt = (ct - self.rt - (self.scale.cross * du).sum(dim=1)) / self.scale.corner
        d0, dy = self.scale.inverse_square(dt, du)
        found: dict[str, Any] = {"u": du, "tau": dt, "y0": ct - d0, "y": cu - dy, "m": m, "earlier": earlier}
        dzeta = solver.zeta(du)
        df = (dzeta * X).sum(dim=1)
        dpi, wall_pi = torch.zeros_like(df), torch.zeros_like(dt)
        if self.rows is not None and self.walls is not None:
            found["row_x"], found["wall_x"] = dzeta[:, act], du[:, act]
            dpi, *found["row"] = self.rows.change(found["row_x"], self.curvature.fp * df)
            wall_pi, *found["wall"] = self.walls.change(found["wall_x"], -(self.gamma * du).sum(dim=1))
        found["pieces"] = outer.change(df, dpi)
        found["walls"] = (du, wall_pi)
        return found

    @staticmethod
    def _absolute_targets(step: AbsoluteStep, m: float, before: Any) -> tuple[Tensor, Tensor]:
        at = step.at
        if m == HELD:
            return torch.zeros_like(at.above), torch.zeros_like(at.below)
        if before is None:
            return -at.above, -at.below
        ds_up, ds_down, dup, ddown = before[3], before[4], before[1], before[2]
        return ((m - ds_up * dup) / step.room_above - at.above, (m - ds_down * ddown) / step.room_below - at.below)

    def _lengths(self, found: dict[str, Any]) -> tuple[float, Any]:
        """Step to the border, and what the gap becomes at a length, as a function."""
        solver, at = self.solver, self.at
        outer = solver.outer_function
        pairs: list[tuple[Tensor, Tensor]] = []
        for which, step in (("row", self.rows), ("wall", self.walls)):
            if step is not None:
                found[which] += list(step.slack_changes(found[f"{which}_x"], found[which][0]))
                _, dup, ddown, ds_up, ds_down = found[which]
                pairs += [(step.at.above, dup), (step.at.below, ddown), (step.room_above, ds_up), (step.room_below, ds_down)]  # fmt: skip
        pairs += outer.pairs(at.more, found["pieces"])
        length = min(reach(pairs) if pairs else float("inf"), cone_reach(at.tau, at.u, found["tau"], found["u"]))
        length = min(length, cone_reach(at.y0, at.y, found["y0"], found["y"]))
        sums = [0.0, 0.0, 0.0]
        for part, E in solver.lots():
            cp = self._cone_targets(part, E, found["m"], found["earlier"])
            ds, dp = self._wall_change(part, E, found["walls"], cp)
            s, p = self._slack(part, E), at.p[:, part]
            length = min(length, reach([(s, ds), (p, dp)]))
            sums = [sums[0] + float((s * p).sum()), sums[1] + float((s * dp + ds * p).sum()), sums[2] + float((ds * dp).sum())]  # fmt: skip

        def ahead(by: float) -> float:
            total = sums[0] + by * sums[1] + by * by * sums[2]
            total += float(((at.tau + by * found["tau"]) * (at.y0 + by * found["y0"])).sum())
            total += float(((at.u + by * found["u"]) * (at.y + by * found["y"])).sum())
            for which, step in (("row", self.rows), ("wall", self.walls)):
                if step is not None:
                    _, dup, ddown, ds_up, ds_down = found[which]
                    total += float(((step.room_above + by * ds_up) * (step.at.above + by * dup)).sum())
                    total += float(((step.room_below + by * ds_down) * (step.at.below + by * ddown)).sum())
            return total + outer.ahead(at.more, found["pieces"], by)

        return length, ahead

    def make(self) -> bool:
        """Predict, correct, and move; False where no step is left."""
        affine = self._direction(0.0, None)
        length, ahead = self._lengths(affine)
        m = max(1e-6, (max(ahead(min(1.0, length)), 0.0) / self.gap) ** 3) * self.mu
        return self._advance(self._direction(m, affine))

    def hold(self) -> bool:
        """A step that removes the residuals and leaves the products as they are, to first order."""
        return self._advance(self._direction(HELD, None))

    def _advance(self, full: dict[str, Any]) -> bool:
        solver, at = self.solver, self.at
        length, _ = self._lengths(full)
        length = min(1.0, 0.99 * length)
        u = at.u + length * full["u"]
        fresh_pi = self.wall_pi + length * full["walls"][1]
        if length < 1e-8 or not bool(torch.isfinite(u).all()):
            return False
        U, X = solver.both(u), solver.features
        for part, E in solver.lots():  # inside, also after rounding
            s = (U[:, part] @ X.T) * E - (solver.both(fresh_pi)[:, part, None] if solver.robust else 0.0)
            if float(torch.where(solver.live > 0, s, torch.inf).amin()) <= 0:
                return False
        for part, E in solver.lots():
            cp = self._cone_targets(part, E, full["m"], full["earlier"])
            _, dp = self._wall_change(part, E, full["walls"], cp)
            at.p[:, part] += length * dp
        for which in ("row", "wall") if solver.robust else ():
            for name, change in zip(("r", "above", "below"), full[which][:3], strict=True):
                at.more[f"{which}_{name}"] = at.more[f"{which}_{name}"] + length * change
        solver.outer_function.advance(at.more, full["pieces"], length)
        at.u = u
        at.tau, at.y0, at.y = at.tau + length * full["tau"], at.y0 + length * full["y0"], at.y + length * full["y"]
        return True


def _add_gram(total: Tensor, A: Tensor) -> None:
    """The lower triangle of total += A'A; BLAS's symmetric product does half the work of a general one."""
    if total.device.type != "cpu" or total.dtype != torch.float64:
        total.addmm_(A.T, A)
        return
    # a row-major lower triangle is a column-major upper one
    products.dsyrk(1.0, A.contiguous().numpy().T, beta=1.0, c=total.numpy().T, lower=0, overwrite_c=1)
