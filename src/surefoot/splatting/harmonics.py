"""Colours that depend on the direction of sight: real spherical harmonics up to degree 3.

c = max(0, 1/2 + sum_lm Y_lm(d) coefficient_lm), d the unit vector from the camera to the convex.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SH0", "harmonics", "shade"]

SH0 = 0.28209479177387814
SH1 = 0.4886025119029199
SH2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
SH3 = (
    -0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154, -0.4570457994644658, 1.445305721320277,
    -0.5900435899266435,
)  # fmt: skip


def harmonics(direction: Tensor, degree: int) -> Tensor:
    """Values ``(..., (degree + 1)^2)`` for unit vectors ``(..., 3)``, in the order (and with the signs) of Gaussian splatting."""
    x, y, z = direction.unbind(-1)
    terms = [torch.full_like(x, SH0)]
    if degree >= 1:
        terms += [-SH1 * y, SH1 * z, -SH1 * x]
    if degree >= 2:
        terms += [
            SH2[0] * x * y, SH2[1] * y * z, SH2[2] * (2 * z * z - x * x - y * y), SH2[3] * x * z, SH2[4] * (x * x - y * y),
        ]  # fmt: skip
    if degree >= 3:
        terms += [
            SH3[0] * y * (3 * x * x - y * y), SH3[1] * x * y * z, SH3[2] * y * (4 * z * z - x * x - y * y),
            SH3[3] * z * (2 * z * z - 3 * x * x - 3 * y * y), SH3[4] * x * (4 * z * z - x * x - y * y),
            SH3[5] * z * (x * x - y * y), SH3[6] * x * (x * x - 3 * y * y),
        ]  # fmt: skip
    return torch.stack(terms, dim=-1)


def shade(points: Tensor, sh0: Tensor, sh_rest: Tensor, degree: int, views: Tensor) -> Tensor:
    """Colours ``(C, N, 3)`` of convexes ``(N, K, 3)`` seen from cameras ``(C, 4, 4)``; ``(N, 3)`` at degree 0, where they are the same.

    Args:
        sh0: ``(N, 3)``.
        sh_rest: ``(N, M, 3)`` with M >= (degree + 1)^2 - 1.
    """
    flat = 0.5 + SH0 * sh0
    if degree == 0:
        return flat.clamp(min=0.0)
    centres = -(views[:, :3, :3].transpose(1, 2) @ views[:, :3, 3:])[..., 0].to(points.dtype)
    direction = points.mean(dim=1) - centres[:, None]
    direction = direction / direction.norm(dim=-1, keepdim=True)
    values = harmonics(direction, degree)[..., 1:]
    return (flat + torch.einsum("cnm,nmd->cnd", values, sh_rest[:, : values.shape[-1]])).clamp(min=0.0)
