"""Proximal maps of the usual regularisers.

The proximal map of ``h`` at ``x`` with step ``t`` is ``argmin_z t h(z) + |z - x|^2 / 2``. Functions here take
``threshold = t times the weight of h``. Arguments may be complex where a modulus makes sense.

References:
    N. Parikh and S. Boyd, "Proximal algorithms", 2014.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["elastic_net", "group_soft_threshold", "nuclear_soft_threshold", "prox_of_conjugate", "soft_threshold"]


def soft_threshold(x: Tensor, threshold: float | Tensor, mask: Tensor | None = None) -> Tensor:
    """Proximal map of the l1 norm, ``sign(x) max(|x| - threshold, 0)``.

    Args:
        x: any shape, real or complex.
        threshold: a number, or a tensor that broadcasts to ``x`` (a weighted l1 norm).
        mask: True where a coordinate is penalised; None penalises all. Biases, for instance, are not.

    Returns:
        A tensor like ``x``; unpenalised coordinates are returned as they are.
    """
    shrunk = torch.sgn(x) * (x.abs() - threshold).clamp(min=0)
    return shrunk if mask is None else torch.where(mask, shrunk, x)


def group_soft_threshold(x: Tensor, threshold: float | Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Proximal map of the sum of Euclidean norms of groups, ``x max(1 - threshold / |x_group|, 0)``.

    Args:
        x: real or complex; a group is all entries along ``dim``.
        threshold: a number, or a tensor that broadcasts to the groups' norms (``dim`` kept with length 1).
        dim: axis or axes along which a group extends.

    Returns:
        A tensor like ``x``; groups of norm at most ``threshold`` become 0.
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    kept = (norm - threshold).clamp(min=0)
    return x * torch.where(norm > 0, kept / norm, torch.zeros_like(norm))


def nuclear_soft_threshold(x: Tensor, threshold: float) -> Tensor:
    """Proximal map of the nuclear norm: the singular values of ``(..., m, n)`` matrices, soft-thresholded."""
    u, sizes, vh = torch.linalg.svd(x, full_matrices=False)
    return (u * (sizes - threshold).clamp(min=0).unsqueeze(-2)) @ vh


def elastic_net(
    x: Tensor, l1_threshold: float | Tensor, l2_threshold: float | Tensor, mask: Tensor | None = None
) -> Tensor:
    """Proximal map of ``l1 |z|_1 + l2 |z|^2 / 2``: soft threshold, then shrinkage by ``1 / (1 + l2)``.

    Args:
        x: any shape, real or complex.
        l1_threshold: step times weight of the l1 norm.
        l2_threshold: step times weight of half the squared norm.
        mask: True where a coordinate is penalised, by both terms; None penalises all.

    Returns:
        A tensor like ``x``.
    """
    shrunk = soft_threshold(x, l1_threshold) / (1 + l2_threshold)
    return shrunk if mask is None else torch.where(mask, shrunk, x)


def prox_of_conjugate(prox: Callable[[Tensor, float], Tensor], x: Tensor, step: float) -> Tensor:
    """Proximal map of ``step h*`` from that of ``h``, by Moreau's identity ``x - step prox_{h / step}(x / step)``.

    Args:
        prox: ``(x, step)`` to the proximal map of ``step h`` at ``x``.
        x: where to evaluate.
        step: positive step on the conjugate.

    Returns:
        ``argmin_z step h*(z) + |z - x|^2 / 2``.
    """
    return x - step * prox(x / step, 1 / step)
