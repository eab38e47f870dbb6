"""Linear models: one table, one loss, and every kind of problem that they are at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from surefoot.core.problem import Consensus, Constant, FiniteSum, Objective, Stream
from surefoot.numerics.losses import Loss
from surefoot.records.fingerprint import fingerprint


@dataclass(frozen=True)
class LinearModel:
    """f(x) = (1/n) sum_i loss(a_i' x, y_i) + (ridge/2) |x|^2 with exact constants.

    Args:
        features: A (n, d), dense or sparse CSR, float.
        targets: y (n,); -1 or +1 for classification losses.
        loss: from `surefoot.numerics.losses`.
        ridge: weight of the quadratic term, >= 0.
    """

    features: Tensor
    targets: Tensor
    loss: Loss
    ridge: float = 0.0

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.targets.shape != (self.features.shape[0],):
            raise ValueError(
                f"features {tuple(self.features.shape)} and targets {tuple(self.targets.shape)}: expected (n, d) and (n,)"
            )
        if not self.ridge >= 0:
            raise ValueError(f"ridge is {self.ridge}; expected a number >= 0")
        values = self.features.values() if self.features.layout == torch.sparse_csr else self.features
        if not (torch.isfinite(values).all() and torch.isfinite(self.targets).all()):
            raise ValueError("features or targets hold NaN or infinite values; clean or impute them first")

    def fingerprint(self) -> str:
        return fingerprint(self.features, self.targets, self.loss, self.ridge)

    @cached_property
    def gram_norm(self) -> float:
        """An upper bound of the largest eigenvalue of A'A/n (symmetric eigensolver, padded by its error)."""
        rows, cols = self.features.shape
        dense = self.features.to_dense().double()
        gram = dense.T @ dense if cols <= rows else dense @ dense.T
        top = float(torch.linalg.eigvalsh(gram)[-1])
        return top / rows * (1 + 1e-12 * max(rows, cols))

    @cached_property
    def constants(self) -> Mapping[str, Constant]:
        curvature = self.loss.constants
        found: dict[str, Constant] = {}
        if curvature.convex:
            found["strong_convexity"] = Constant(self.ridge, "exact", "ridge term of a convex loss")
        if curvature.smooth:
            found["smoothness"] = Constant(
                curvature.curvature * self.gram_norm + self.ridge,
                "exact",
                "largest eigenvalue of A'A/n times the loss's curvature",
            )
        return found

    @property
    def objective(self) -> Objective:
        """The whole mean, with Hessian products."""
        A, y, loss, ridge = self.features, self.targets, self.loss, self.ridge
        n = A.shape[0]

        def value_and_grad(x: Tensor) -> tuple[Tensor, Tensor]:
            z = A @ x
            return loss.value(z, y).mean() + 0.5 * ridge * (x @ x), A.T @ loss.derivative(z, y) / n + ridge * x

        def hvp(x: Tensor, v: Tensor) -> Tensor:
            return A.T @ (loss.second_derivative(A @ x, y) * (A @ v)) / n + ridge * v

        return Objective(value_and_grad, A.shape[1], hvp=hvp, constants=self.constants, identity=self._identity())

    @property
    def finite_sum(self) -> FiniteSum:
        """Addressed by row; each term carries the whole ridge."""
        A, y, loss, ridge = self.features, self.targets, self.loss, self.ridge

        def per_sample_grad(x: Tensor, rows: Tensor) -> Tensor:
            picked = A[rows] if A.layout == torch.strided else torch.index_select(A, 0, rows).to_dense()
            return picked * loss.derivative(picked @ x, y[rows])[:, None] + ridge * x

        def value_and_grad(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            picked = A[rows] if A.layout == torch.strided else torch.index_select(A, 0, rows).to_dense()
            z = picked @ x
            gradient = picked.T @ loss.derivative(z, y[rows]) / len(rows) + ridge * x
            return loss.value(z, y[rows]).mean() + 0.5 * ridge * (x @ x), gradient

        return FiniteSum(
            A.shape[0], A.shape[1], value_and_grad, per_sample_grad, constants=self.constants, identity=self._identity()
        )

    @property
    def stream(self) -> Stream:
        """The rows in their order, one a round."""
        total = self.finite_sum

        def gradient(t: int, x: Tensor) -> Tensor:
            return total.value_and_grad(x, torch.tensor([t]))[1]

        return Stream(gradient, total.dim, total.terms, constants=self.constants, identity=self._identity())

    def consensus(self, graph: Any, rows: Sequence[Tensor]) -> Consensus:
        """One objective a node: node i of `graph` keeps the rows `rows[i]`."""
        parts = [LinearModel(self.features[r], self.targets[r], self.loss, self.ridge).objective for r in rows]
        return Consensus(tuple(parts), graph)

    def _identity(self) -> Mapping[str, object]:
        return {"features": self.features, "targets": self.targets, "loss": self.loss, "ridge": self.ridge}
