"""The Lanczos process with double reorthogonalisation, which can be stopped, looked at and continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Lanczos", "Matvec", "lanczos"]

Matvec = Callable[[Tensor], Tensor]
Enough = Callable[["Lanczos"], bool]


@dataclass(frozen=True)
class Lanczos:
    """A Lanczos decomposition ``A Q = Q T + b_m q_{m+1} e_m'`` of a symmetric operator.

    Args:
        diagonal: diagonal ``(m,)`` of ``T``.
        offdiagonal: ``(m,)``; the first ``m - 1`` stand beside the diagonal of ``T``, the last is ``b_m``. A zero
            inside marks where the Krylov space closed and was continued with a fresh vector.
        basis: orthonormal rows ``(m + 1, n)``; only ``m`` where the space closed for good.
    """

    diagonal: Tensor
    offdiagonal: Tensor
    basis: Tensor

    @property
    def steps(self) -> int:
        """Number of matrix-vector products so far."""
        return self.diagonal.numel()

    @property
    def closed(self) -> bool:
        """Whether the basis spans an invariant subspace, so that all Ritz values are eigenvalues."""
        return self.basis.shape[0] == self.steps

    def tridiagonal(self) -> Tensor:
        """``T`` as a dense matrix ``(m, m)``."""
        beside = self.offdiagonal[:-1]
        return torch.diag(self.diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of ``T`` in ascending order and its eigenvectors in columns."""
        values, vectors = torch.linalg.eigh(self.tridiagonal())
        return values, vectors

    def residual_bounds(self) -> Tensor:
        """Residual norm ``b_m |last entry of the eigenvector|`` of every Ritz pair, in the order of `eigen`."""
        return self.offdiagonal[-1] * self.eigen()[1][-1].abs()

    def ritz_vectors(self) -> Tensor:
        """Ritz vectors in columns ``(n, m)``, in the order of `eigen`."""
        return self.basis[: self.steps].T @ self.eigen()[1]

    def extended(
        self, matvec: Matvec, steps: int, fresh: Callable[[], Tensor] | None = None, enough: Enough | None = None
    ) -> Lanczos:
        """The same process, ``steps`` products further; fewer where the space closes and no ``fresh`` is given."""
        n = self.basis.shape[1]
        room = self.basis.new_empty(min(self.steps + steps, n) + 1, n)
        filled = self.basis.shape[0]
        room[:filled] = self.basis
        diagonal, offdiagonal, tensor = self.diagonal.tolist(), self.offdiagonal.tolist(), self.basis.new_tensor
        for k in range(self.steps, min(self.steps + steps, n)):
            if filled == k:
                replacement = None if fresh is None else _orthonormal(fresh(), room[:k])[0]
                if replacement is None:
                    break
                room[k], filled = replacement, k + 1
            image = matvec(room[k])
            diagonal.append(torch.dot(room[k], image).item())
            direction, length = _orthonormal(image, room[: k + 1])
            if direction is not None and k + 1 < n:
                room[k + 1], filled = direction, k + 2
                offdiagonal.append(length)
            else:
                offdiagonal.append(0.0)
            if enough is not None and enough(Lanczos(tensor(diagonal), tensor(offdiagonal), room[:filled])):
                break
        basis = room[:filled] if 2 * filled > len(room) else room[:filled].clone()  # let go of much unused memory
        return Lanczos(tensor(diagonal), tensor(offdiagonal), basis)


def lanczos(
    matvec: Matvec, start: Tensor, steps: int, fresh: Callable[[], Tensor] | None = None, enough: Enough | None = None
) -> Lanczos:
    """Run the Lanczos process with full reorthogonalisation, done twice.

    Args:
        matvec: ``v -> A v``, symmetric.
        start: start vector ``(n,)``, not zero.
        steps: most matrix-vector products; never more than ``n`` are made.
        fresh: gives a vector to go on with where the Krylov space closes; None stops there.
        enough: asked after every product with the decomposition so far; True stops.

    Returns:
        The decomposition.

    References:
        B. Parlett, "The symmetric eigenvalue problem", 1980 ("twice is enough").
    """
    first = (start / torch.linalg.vector_norm(start)).unsqueeze(0)
    return Lanczos(start.new_empty(0), start.new_empty(0), first).extended(matvec, steps, fresh, enough)


def _orthonormal(vector: Tensor, rows: Tensor) -> tuple[Tensor | None, float]:
    """Remove the components along orthonormal rows, twice, and normalise; None if only rounding is left."""
    before = torch.linalg.vector_norm(vector)
    for _ in range(2):
        vector = torch.addmv(vector, rows.T, rows @ vector, alpha=-1)
    length = torch.linalg.vector_norm(vector)
    # what survives two projections at this size is the rounding of the first
    if length.item() <= 10 * rows.shape[1] ** 0.5 * torch.finfo(vector.dtype).eps * before.item():
        return None, 0.0
    return vector / length, length.item()
