"""Which convexes a few pixels can see at all: a cheap bound on alpha, so that the reference need not walk a whole scene for them.

phi >= z delta max_k d_k, so alpha <= o exp(-z^2 sigma delta max_k d_k) where that is positive.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.splatting.problem import Trained
from surefoot.splatting.reference import Contributions, contributions, edge_terms, hull_successors, shadows

__all__ = ["NEGLIGIBLE", "Seen", "reaching", "see", "transmittances"]

NEGLIGIBLE = 1e-14
AT_ONCE = 1024  # convexes whose terms at all pixels are held together: they should stay in the cache


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
            lowest = shown.depth[solid] ** 2 * sigma[rows] * delta[rows]
            for first in range(0, len(rows), AT_ONCE):
                part = slice(first, first + AT_ONCE)
                top = terms.new_full((len(lowest[part]), len(pixels)), -torch.inf)
                for k in range(terms.shape[1]):
                    offset = torch.where(used[part, k], terms[part, k, 2], -torch.inf)
                    slope = torch.where(used[part, k, None], terms[part, k, :2], 0.0)
                    torch.maximum(top, torch.addmm(offset[:, None], slope, pixels.T), out=top)
                lowest[part] *= top.amin(dim=1)
            found.append(rows[opacity[rows] * torch.exp(-lowest.clamp(min=0)) >= NEGLIGIBLE])
    return torch.cat(found).sort().values


class Seen(NamedTuple):
    """What some pixels see of a scene: rows ``(M,)`` of the convexes that reach them, and their contributions without any threshold (their
    `order` counts within `rows`)."""

    rows: Tensor
    exact: Contributions

    def ruled(self, threshold: float, stop: float = 0.0) -> Contributions:
        """The contributions by the renderer's rules."""
        alpha = torch.where(self.exact.alpha >= threshold, self.exact.alpha, 0.0)
        in_front = transmittances(alpha)
        if stop > 0:
            alpha = torch.where(in_front[:-1] >= stop, alpha, 0.0)
            in_front = transmittances(alpha)
        return self.exact._replace(alpha=alpha, in_front=in_front)


def transmittances(alpha: Tensor) -> Tensor:
    """In front of each of M layers ``(M, Q)``, and behind the last, ``(M + 1, Q)``."""
    return torch.cumprod(torch.cat([alpha.new_ones(1, alpha.shape[1]), 1 - alpha]), dim=0)


def see(tensors: dict[str, Tensor], scene: Trained, view: Tensor, matrix: Tensor, pixels: Tensor) -> Seen:
    """What pixels ``(Q, 2)`` see of a scene whose `tensors` are in float64."""
    delta = tensors["log_delta"].exp() * scene.focal**2 / (matrix[0, 0] * matrix[1, 1])
    geometry = (tensors["points"], delta, tensors["log_sigma"].exp(), torch.sigmoid(tensors["opacity_logit"]))
    rows = reaching(*geometry, view, matrix, pixels, scene.near)
    points, delta, sigma, opacity = (t[rows] for t in geometry)
    return Seen(rows, contributions(points, delta, sigma, opacity, view, matrix, pixels, near=scene.near))
