"""Steepest descent in a norm: the polar factor, and the sharp operator of the spectral, max-entry and Euclidean norms.

For a norm |.| with dual |.|* the sharp operator is ``M# = argmax_X <M, X> - |X|^2 / 2``, so that ``|M#| = |M|*`` and
``<M, M#> = |M|*^2``; the minimiser of <M, X> over the ball of radius t is ``-t M# / |M|*``.

| norm | dual | M# |
|---|---|---|
| spectral, ``M = U S V'`` | nuclear | ``|M|_nuc U V'`` |
| largest entry ("sign") | sum of entries | ``|M|_1 sign(M)`` |
| Euclidean | Euclidean | ``M`` |

Newton-Schulz is not the exact polar factor: after five steps it leaves the singular values in about [0.68, 1.13], and of a matrix
that is nearly singular some near 0.2.

References:
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024 (the quintic's coefficients).
    Amsel, Persson, Musco, Gower, The Polar Express, 2025 (step-dependent coefficients).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "NORMS",
    "Norm",
    "as_matrix",
    "dual_norm",
    "nearly_dual_norm",
    "nearly_primal_norm",
    "newton_schulz",
    "polar",
    "polar_express",
    "primal_norm",
    "sharp",
]

Norm = Literal["spectral", "sign", "euclidean"]
NORMS: tuple[Norm, ...] = ("spectral", "sign", "euclidean")
QUINTIC = (3.4445, -4.7750, 2.0315)
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def as_matrix(values: Tensor) -> Tensor:
    """A matrix (out, everything else): convolution kernels flattened, vectors as one column."""
    return values if values.ndim == 2 else values.reshape(values.shape[0], -1) if values.ndim else values.reshape(1, 1)


def newton_schulz(
    matrix: Tensor, steps: int = 5, coefficients: tuple[float, float, float] = QUINTIC, eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Nearly the polar factor of a matrix (m, n), by `steps` quintic steps ``Z <- a Z + (b A + c A A) Z``, ``A = Z Z'``.

    The operations are those of ``torch.optim.Muon``, so that in its dtype (bfloat16) the bits are the same.

    Args:
        dtype: of the arithmetic and of what comes back; None is the matrix's own. float16 overflows.
    """
    return _iterated(matrix, [coefficients] * steps, eps, dtype)


def polar_express(matrix: Tensor, steps: int = 5, eps: float = 1e-7, dtype: torch.dtype | None = None) -> Tensor:
    """As `newton_schulz`, with the coefficients of the Polar Express, one triple a step (the last one repeats)."""
    triples = [POLAR_EXPRESS[min(i, len(POLAR_EXPRESS) - 1)] for i in range(steps)]
    return _iterated(matrix, triples, eps, dtype, margin=1.02)


def _iterated(
    matrix: Tensor,
    triples: list[tuple[float, float, float]],
    eps: float,
    dtype: torch.dtype | None,
    margin: float = 1.0,
) -> Tensor:
    factor = matrix.to(dtype or matrix.dtype)
    if factor.dtype == torch.float16:
        raise ValueError("Newton-Schulz overflows in float16; use bfloat16 or float32")
    tall = factor.shape[0] > factor.shape[1]
    factor = factor.T if tall else factor
    factor = factor / (factor.norm() * margin if margin != 1.0 else factor.norm()).clamp(min=eps)
    for a, b, c in triples:
        gram = factor @ factor.T
        factor = torch.addmm(factor, torch.addmm(gram, gram, gram, beta=b, alpha=c), factor, beta=a)
    return factor.T if tall else factor


def polar(matrix: Tensor) -> Tensor:
    """The exact polar factor U V' over the numerical range of a matrix; of the zero matrix it is zero."""
    U, S, Vh = torch.linalg.svd(matrix.to(torch.promote_types(matrix.dtype, torch.float32)), full_matrices=False)
    floor = S[:1].sum() * torch.finfo(S.dtype).eps * max(matrix.shape)
    return ((U * (floor < S).to(U.dtype)) @ Vh).to(matrix.dtype)


def dual_norm(values: Tensor, norm: Norm) -> Tensor:
    """|M|* by exact arithmetic: nuclear (of the flattened matrix), sum of entries, or Euclidean."""
    if norm == "spectral":
        return torch.linalg.svdvals(as_matrix(values)).sum()
    return values.abs().sum() if norm == "sign" else values.norm()


def primal_norm(values: Tensor, norm: Norm) -> Tensor:
    """|M|: spectral (of the flattened matrix), largest entry, or Euclidean."""
    if norm == "spectral":
        return torch.linalg.matrix_norm(as_matrix(values), 2)
    return values.abs().max() if norm == "sign" else values.norm()


def nearly_dual_norm(values: Tensor, norm: Norm) -> Tensor:
    """As `dual_norm`; the nuclear norm as <M, polar M> by the Polar Express, within a few per cent, by matrix products alone."""
    if norm != "spectral":
        return dual_norm(values, norm)
    M = as_matrix(values)
    return (M * polar_express(M)).sum()


def nearly_primal_norm(values: Tensor, norm: Norm, iterations: int = 12) -> Tensor:
    """As `primal_norm`; the spectral norm by power iteration, from below."""
    if norm != "spectral":
        return primal_norm(values, norm)
    M = as_matrix(values)
    v = M.T @ M.sum(dim=1) + M.abs().sum(dim=0)
    for _ in range(iterations):
        v = M.T @ (M @ (v / v.norm().clamp(min=1e-30)))
    return (M @ (v / v.norm().clamp(min=1e-30))).norm()


def sharp(values: Tensor, norm: Norm) -> Tensor:
    """M#, exactly; of the same shape."""
    if norm == "spectral":
        M = as_matrix(values)
        return (torch.linalg.svdvals(M).sum() * polar(M)).reshape(values.shape)
    return values.abs().sum() * values.sign() if norm == "sign" else values
