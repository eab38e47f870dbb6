"""What Drop-Muon is run on: a network with training and test data, or least squares in several matrices with exact constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from surefoot.core.problem import Constant
from surefoot.records.fingerprint import fingerprint

__all__ = ["LeastSquares", "MuonTask", "least_squares"]


@dataclass(frozen=True)
class MuonTask:
    """A network to train.

    Args:
        make: a fresh module, always with the same start.
        x, y: training inputs (n, ...) and labels (n,), or (n, length) for a language model.
        x_test, y_test: apart from training.
        layers: module -> its layers in order (modules), or None to find them.
        identity: what defines network and start, for the fingerprint.
    """

    make: Callable[[], nn.Module]
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    identity: Mapping[str, object]
    layers: Callable[[nn.Module], list[nn.Module]] | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x_test) != len(self.y_test):
            raise ValueError(f"{len(self.x)} inputs with {len(self.y)} labels; expected as many")
        if not len(self.x) or not len(self.x_test):
            raise ValueError("there is no training or no test sample")
        if self.x.is_floating_point() and not torch.isfinite(self.x).all():
            raise ValueError("the inputs hold NaN or infinite values; clean them first")
        if len(torch.unique(self.y)) < 2:
            raise ValueError("all training labels are the same; a classifier needs at least two classes")

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy."""
        logits = model(x)
        return nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())

    def right(self, model: nn.Module) -> Tensor:
        """Whether each test label is the most probable one (n_test, ...)."""
        model.eval()
        with torch.no_grad():
            parts = [model(x).argmax(-1) for x in self.x_test.split(500)]
        model.train()
        return torch.cat(parts) == self.y_test

    def fingerprint(self) -> str:
        return fingerprint(dict(self.identity), self.x, self.y, self.x_test, self.y_test)


@dataclass(frozen=True)
class LeastSquares:
    """``f(X_1, ..., X_b) = |sum_i A_i X_i B_i - C|_F^2 / 2``, smooth along layer i with ``L_i = rank b |A_i|^2 |B_i|^2`` in the spectral norm.

    For steps G: ``|sum A_i G_i B_i|_F^2 <= b sum |A_i G_i B_i|_F^2`` and each is at most rank times its squared spectral norm,
    rank <= min(rows, columns of C).

    Args:
        left: A (b, r, m); right: B (b, n, c); target: C (r, c). float64.
    """

    left: Tensor
    right: Tensor
    target: Tensor

    def value(self, X: Tensor) -> Tensor:
        """f of X (b, m, n)."""
        return ((self.left @ X @ self.right).sum(0) - self.target).square().sum() / 2

    @property
    def smoothness(self) -> tuple[Constant, ...]:
        """L_i, from singular values rounded up."""
        rank, b = min(self.target.shape), len(self.left)
        up = 1 + 1e-12
        norms = torch.linalg.matrix_norm(self.left, 2) ** 2 * torch.linalg.matrix_norm(self.right, 2) ** 2
        return tuple(Constant(float(rank * b * n * up), "exact", "rank b |A_i|^2 |B_i|^2") for n in norms)

    def fingerprint(self) -> str:
        return fingerprint(self.left, self.right, self.target)


def least_squares(layers: int = 4, seed: int = 0, spread: float = 4.0) -> LeastSquares:
    """A random instance whose layers become rougher with depth: |A_i| grows by `spread` from first to last."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.linspace(1.0, spread, layers, dtype=torch.float64) ** 0.5
    A = torch.randn(layers, 3, 5, generator=generator, dtype=torch.float64) * sizes[:, None, None]
    B = torch.randn(layers, 4, 3, generator=generator, dtype=torch.float64)
    return LeastSquares(A, B, torch.randn(3, 3, generator=generator, dtype=torch.float64))
