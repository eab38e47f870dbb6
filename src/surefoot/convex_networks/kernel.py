"""One ADMM iteration of the pattern program on tensors, with every factorisation made once.

The splitting is u = v (group norms), G u = s >= 0 (cones), F u = t (loss), with scaled multipliers. Since (2D - I)^2 = I, the
matrix of the u-step is I + cone G'G + fit F'F with G'G block diagonal, all blocks X'X; by Woodbury it needs S = I + cone X'X
(d x d) and M = I / fit + 2 K o (D D'), K = X S^-1 X' (n x n), whatever the penalty and the loss.

The cone part keeps one array a = G u + nu instead of s and nu: s = max(a, 0), nu = min(a, 0), s - nu = |a|.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surefoot.numerics.losses import Loss


@dataclass
class Iterate:
    """Where the iteration stands.

    Attributes:
        v: (C, 2, P, d) exactly group-sparse weights, signs first: [.., 0] adds, [.., 1] subtracts.
        pull: (C, 2, P, d) scaled multiplier of u = v.
        a: (C, 2, P, n) cone part: slack where positive, scaled multiplier where negative.
        t: (C, n) predictions of the loss part.
        kappa: (C, n) scaled multiplier of F u = t.
        rho: penalty.
    """

    v: Tensor
    pull: Tensor
    a: Tensor
    t: Tensor
    kappa: Tensor
    rho: float


@dataclass
class Residuals:
    """Of the last iteration: violations of the three splittings, and of stationarity, with their scales."""

    primal: float = float("inf")
    dual: float = float("inf")
    primal_scale: float = 1.0
    dual_scale: float = 1.0


@dataclass
class Kernel:
    """The factorised iteration for one pattern set.

    Args:
        features: X (n, d).
        signs: (P, n), +1 where a row is in the pattern and -1 where not.
        targets: (C, n).
        loss: applied to each target row.
        weight: beta > 0.
        cone, fit: relative penalties of the cone and the loss splitting.
        lot: patterns worked on at a time, which bounds the scratch memory.
        dense: rows up to which M is factorised; beyond it the u-step uses preconditioned conjugate gradients.
        relaxation: over-relaxation of the splittings.
        published: Algorithm 3.1 as it stands: squared loss inside the u-step (t = y, kappa = 0; give fit = 1 / rho).
        iteration: number of the iteration, which sets the tolerance of conjugate gradients.
    """

    features: Tensor
    signs: Tensor
    targets: Tensor
    loss: Loss
    weight: float
    cone: float = 1.0
    fit: float = 1.0
    lot: int = 1 << 30
    dense: int = 5000
    relaxation: float = 1.6
    published: bool = False
    iteration: int = 0
    residuals: Residuals = field(default_factory=Residuals)

    def __post_init__(self) -> None:
        X = self.features
        n, d = X.shape
        self.patterns = (self.signs > 0).to(X.dtype)
        S = torch.eye(d, dtype=X.dtype, device=X.device) + self.cone * (X.T @ X)
        self.S_inverse = torch.cholesky_inverse(torch.linalg.cholesky(S))
        self.XS = X @ self.S_inverse
        self.M_inverse: Tensor | None = None
        if n <= self.dense:
            K = self.XS @ X.T
            M = 2 * K * (self.patterns.T @ self.patterns)
            M.diagonal().add_(1.0 / self.fit)
            self.M_inverse = torch.cholesky_inverse(torch.linalg.cholesky(M))
        self._diagonal: Tensor | None = None
        self.scores = torch.zeros_like(self.targets)

    # ---- operators ---------------------------------------------------------------------------------------------
    def lots(self) -> Iterator[slice]:
        count = len(self.signs)
        for start in range(0, count, self.lot):
            yield slice(start, min(count, start + self.lot))

    def predict(self, u: Tensor) -> Tensor:
        """F u = sum_i D_i X (u_i+ - u_i-): (C, n)."""
        total = torch.zeros_like(self.targets)
        for part in self.lots():
            difference = u[:, 0, part] - u[:, 1, part]
            total += ((difference @ self.features.T) * self.patterns[part]).sum(dim=1)
        return total

    def spread(self, r: Tensor) -> Tensor:
        """The +-part of F* r, X' D_i r: (C, P, d)."""
        return torch.cat([(r[:, None, :] * self.patterns[p]) @ self.features for p in self.lots()], dim=1)

    def cone_values(self, u: Tensor) -> Tensor:
        """G u: (C, 2, P, n)."""
        return (u @ self.features.T) * self.signs

    # ---- the iteration -----------------------------------------------------------------------------------------
    def start(self, rho: float) -> Iterate:
        C, n = self.targets.shape
        P, d = len(self.signs), self.features.shape[1]
        zero = self.features.new_zeros(C, 2, P, d)
        t = self.targets.clone() if self.published else torch.zeros_like(self.targets)
        a = self.features.new_zeros(C, 2, P, n)
        return Iterate(zero, zero.clone(), a, t, torch.zeros_like(self.targets), rho)

    def step(self, at: Iterate, measure: bool = False) -> None:
        """One iteration, in place; `measure` fills `residuals`."""
        X, over = self.features, self.relaxation
        lots = list(self.lots())
        x = torch.empty_like(at.v)
        residual = self.fit * (at.t - at.kappa)
        Fx = torch.zeros_like(self.targets)
        for part in lots:
            mixed = at.a[:, :, part].abs()
            mixed *= self.cone * self.signs[part]
            pushed = residual[:, None, :] * self.patterns[part]
            mixed[:, 0] += pushed
            mixed[:, 1] -= pushed
            right = at.v[:, :, part] - at.pull[:, :, part]
            right += mixed @ X
            x[:, :, part] = right @ self.S_inverse
            Fx += (((x[:, 0, part] - x[:, 1, part]) @ X.T) * self.patterns[part]).sum(dim=1)
        q = self.solve(Fx)
        Fu = q / self.fit
        b = x  # becomes u, then the argument of the group prox
        primal = dual_a = scale_p = torch.zeros((), dtype=X.dtype, device=X.device)
        for part in lots:
            step = (q[:, None, :] * self.patterns[part]) @ self.XS
            x[:, 0, part] -= step
            x[:, 1, part] += step
            Gu = (x[:, :, part] @ X.T) * self.signs[part]
            old = at.a[:, :, part]
            slack = old.clamp(min=0)
            if measure:
                new = torch.add(old - slack, Gu * over + (1 - over) * slack)
                fresh = new.clamp(min=0)
                primal = primal + self.cone * (Gu - fresh).square().sum()
                dual_a = dual_a + self.cone * (fresh - slack).square().sum()
                scale_p = scale_p + self.cone * fresh.square().sum()
                at.a[:, :, part] = new
            else:
                # a <- over Gu + (1 - over) slack + nu, with nu = a - slack
                old -= over * slack
                old.add_(Gu, alpha=over)
        u = x.clone() if measure else None
        b *= over
        b.add_(at.v, alpha=1 - over)
        b += at.pull
        size = torch.linalg.vector_norm(b, dim=-1, keepdim=True)
        shrink = (1 - (self.weight / at.rho) / size.clamp(min=torch.finfo(X.dtype).tiny)).clamp(min=0)
        v = b * shrink
        Fh = over * Fu + (1 - over) * at.t
        t = (
            self.loss.prox(Fh + at.kappa, self.targets, 1.0 / (at.rho * self.fit))
            if not self.published
            else self.targets
        )
        if measure:
            assert u is not None
            p2 = primal + (u - v).square().sum() + (0.0 if self.published else self.fit * (Fu - t).square().sum())
            d2 = dual_a + (v - at.v).square().sum() + self.fit * (t - at.t).square().sum()
            s2 = scale_p + v.square().sum() + self.fit * t.square().sum()
            pull, kappa = b - v, (at.kappa if self.published else at.kappa + Fh - t)
            m2 = pull.square().sum() + self.fit * kappa.square().sum() + self.cone * at.a.clamp(max=0).square().sum()
            root = [float(w.sqrt()) for w in (p2, d2, s2, m2)]
            self.residuals = Residuals(root[0], at.rho * root[1], root[2], at.rho * root[3])
        if not self.published:
            at.kappa = at.kappa + Fh - t
        self.scores = Fu
        at.pull = b - v
        at.v, at.t = v, t

    def solve(self, right: Tensor) -> Tensor:
        """q = M^-1 right, by the factor or by preconditioned conjugate gradients."""
        if self.M_inverse is not None:
            return right @ self.M_inverse
        return self._conjugate_gradients(right)

    def _apply_M(self, q: Tensor) -> Tensor:
        total = q / self.fit
        for part in self.lots():
            pushed = (q[:, None, :] * self.patterns[part]) @ self.XS
            total = total + 2 * ((pushed @ self.features.T) * self.patterns[part]).sum(dim=1)
        return total

    def _conjugate_gradients(self, right: Tensor) -> Tensor:
        """From the last solution (F u fit), with the diagonal of M as preconditioner, to a tolerance that tightens as (1 + k)^-1.2."""
        if self._diagonal is None:
            reach = (self.XS * self.features).sum(dim=1)
            self._diagonal = 1.0 / self.fit + 2 * reach * self.patterns.sum(dim=0)
        goal = max(1e-12, 1e-2 * (1.0 + self.iteration) ** -1.2) * float(torch.linalg.vector_norm(right))
        q = self.fit * self.scores
        r = right - self._apply_M(q)
        s = r / self._diagonal
        p, rs = s.clone(), (r * s).sum(dim=1, keepdim=True)
        for _ in range(200):
            if float(torch.linalg.vector_norm(r)) <= goal:
                break
            Mp = self._apply_M(p)
            length = rs / (p * Mp).sum(dim=1, keepdim=True).clamp(min=torch.finfo(r.dtype).tiny)
            q, r = q + length * p, r - length * Mp
            s = r / self._diagonal
            fresh = (r * s).sum(dim=1, keepdim=True)
            p, rs = s + fresh / rs.clamp(min=torch.finfo(r.dtype).tiny) * p, fresh
        return q

    def multipliers(self, at: Iterate) -> tuple[Tensor, Tensor]:
        """(z (C, n), p (C, 2, P, n)): the multiplier of the predictions, inside the conjugate's domain, and the cones' p >= 0."""
        p = (-at.rho * self.cone) * at.a.clamp(max=0)
        return (self.targets - self.scores if self.published else -at.rho * self.fit * at.kappa), p

    def rescale(self, at: Iterate, factor: float) -> None:
        """Multiply the penalty by `factor`; unscaled multipliers stay what they are."""
        at.rho *= factor
        at.pull /= factor
        at.kappa /= factor
        at.a = at.a.clamp(min=0) + at.a.clamp(max=0) / factor
