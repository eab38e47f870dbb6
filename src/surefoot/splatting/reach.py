"""Which convexes a few pixels can see at all: a cheap bound on alpha, so that the reference need not walk a whole scene for them.

phi >= z delta max_k d_k, so alpha <= o exp(-z^2 sigma delta max_k d_k) where that is positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.splatting.problem import Trained
from surefoot.splatting.reference import edge_terms, hull_successors, shadows

__all__ = ["NEGLIGIBLE", "reaching", "seen_rows"]

NEGLIGIBLE = 1e-14


def reaching(
    points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, view: Tensor, matrix: Tensor, pixels: Tensor, near: float
) -> Tensor:  # fmt: skip
    """Rows ``(M,)`` of the convexes, rising, whose alpha may be 1e-14 or more at one of the pixels ``(Q, 2)``; delta as it holds for this camera."""
    found = []
    with torch.no_grad():
        for rows, shown in shadows(points, view, matrix, near):
            following = hull_successors(shown.corners)
            used = following >= 0
            solid = used.sum(dim=1) >= 3
            rows, terms, used = rows[solid], edge_terms(shown.corners, following)[solid], used[solid]
            top = terms.new_full((len(rows), len(pixels)), -torch.inf)
            for k in range(terms.shape[1]):
                offset = torch.where(used[:, k], terms[:, k, 2], -torch.inf)
                slope = torch.where(used[:, k, None], terms[:, k, :2], 0.0)
                torch.maximum(top, torch.addmm(offset[:, None], slope, pixels.T), out=top)
            lowest = top.amin(dim=1) * shown.depth[solid] ** 2 * sigma[rows] * delta[rows]
            found.append(rows[opacity[rows] * torch.exp(-lowest.clamp(min=0)) >= NEGLIGIBLE])
    return torch.cat(found).sort().values


def seen_rows(tensors: dict[str, Tensor], scene: Trained, view: Tensor, matrix: Tensor, pixels: Tensor) -> Tensor:
    """`reaching` for a scene's own tensors, in float64."""
    delta = tensors["log_delta"].exp() * scene.focal**2 / (matrix[0, 0] * matrix[1, 1])
    opacity = torch.sigmoid(tensors["opacity_logit"])
    return reaching(tensors["points"], delta, tensors["log_sigma"].exp(), opacity, view, matrix, pixels, scene.near)
