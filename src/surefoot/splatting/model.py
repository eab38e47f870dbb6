"""The convexes' parameters: how they start, how they split, how they go.

Raw parameters, N convexes of K points: points, ln delta, ln sigma, the opacity's logit, spherical harmonics, and the logit mu of a mask
m = 1[sigmoid(mu) > threshold] (its gradient is sigmoid's) that a small penalty drives down.

References:
    Held et al., "3D Convex Splatting" (2025), sections 3 and 4 and its supplement.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.splatting.harmonics import SH0, shade
from surefoot.splatting.rasterize import Rendering, Settings, rasterize

__all__ = ["NAMES", "directions", "keep", "mask", "render", "split", "start_parameters"]

NAMES = ("points", "log_delta", "log_sigma", "opacity_logit", "sh0", "sh_rest", "mask_logit")
NEAREST = 3
LEAST_SPACING = 1e-7**0.5
SIZE = 1.2  # of a first convex, in mean spacings
OPACITY, MASK = 0.1, 1.0
Array = np.ndarray[Any, np.dtype[Any]]


def directions(corners: int) -> Array:
    """Points spread over the unit sphere, ``(corners, 3)``: h = 1 - 2k/(K-1), each turned on by pi (3 - sqrt 5)."""
    k = np.arange(corners)
    h = 1 - 2 * k / (corners - 1)
    rho, turn = np.sqrt(np.maximum(1 - h * h, 0.0)), math.pi * (3 - math.sqrt(5)) * k
    return np.stack([rho * np.cos(turn), rho * np.sin(turn), h], axis=1)


def start_parameters(
    points: Array,
    colors: Array,
    corners: int,
    sigma: float | Array,
    degree: int,
    opacity: float = OPACITY,
    delta: float | Array = 0.1,
    spacing: Array | None = None,
    size: float = SIZE,
    planes: Array | None = None,
) -> dict[str, Tensor]:
    """One convex a point, as large as the distance to its three nearest neighbours.

    Args:
        points, colors: ``(m, 3)`` and 8-bit ``(m, 3)``.
        corners: K.
        sigma: sharpness of all, or ``(m,)``.
        degree: of the spherical harmonics that are kept (0 to 3).
        delta: smoothness times the spacing, of all or ``(m,)``.
        spacing: ``(m,)``; None takes the root mean square of the distances to the three nearest.
        size: radius, in spacings.
        planes: ``(m, 2, 3)``; regular polygons in the planes of these two unit vectors. None: points spread over a ball.
    """
    apart = np.maximum(spacing_of(points) if spacing is None else spacing, LEAST_SPACING)
    spread = directions(corners)[None] if planes is None else polygon(corners) @ planes
    shape = points[:, None] + size * apart[:, None, None] * spread
    number = len(points)

    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32))

    return {
        "points": tensor(shape),
        "log_delta": tensor(np.log(delta / apart)),
        "log_sigma": tensor(np.log(sigma) + np.zeros(number)),
        "opacity_logit": torch.full((number,), math.log(opacity / (1 - opacity))),
        "sh0": tensor((colors / 255.0 - 0.5) / SH0),
        "sh_rest": torch.zeros(number, (degree + 1) ** 2 - 1, 3),
        "mask_logit": torch.full((number,), MASK),
    }


def polygon(corners: int) -> Array:
    """A regular polygon on the unit circle, ``(corners, 2)``; four corners make an upright square."""
    turn = 2 * math.pi * (np.arange(corners) + 0.5) / corners
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def spacing_of(points: Array) -> Array:
    """Root mean square of the distances to the three nearest."""
    from scipy.spatial import KDTree

    count = min(NEAREST + 1, len(points))
    if count < 2:
        return np.ones(len(points))
    distance = np.asarray(KDTree(points).query(points, count)[0])[:, 1:]
    return np.sqrt((distance**2).mean(axis=1))


def mask(logit: Tensor, threshold: float) -> Tensor:
    """1 where sigmoid(mu) > threshold, else 0, with the gradient of sigmoid(mu) (straight through)."""
    soft = torch.sigmoid(logit)
    return (soft > threshold).to(soft.dtype) + soft - soft.detach()


def render(
    parameters: dict[str, Tensor], views: Tensor, matrices: Tensor, size: tuple[int, int], settings: Settings,
    background: Tensor | None = None, *, degree: int, mask_threshold: float = 0.0, bounding: bool = False, weight: Tensor | None = None,
) -> tuple[Rendering, Tensor]:  # fmt: skip
    """Render views ``(C, 4, 4)`` with K ``(C, 3, 3)`` at (width, height); also the activated sigma (its gradient decides on splits).

    Opacities are multiplied by `weight` ``(N,)`` (and stay at most 1) where it is given.
    """
    sigma = parameters["log_sigma"].exp()
    if sigma.requires_grad:
        sigma.retain_grad()
    opacity = torch.sigmoid(parameters["opacity_logit"])
    if "mask_logit" in parameters:
        opacity = (opacity * mask(parameters["mask_logit"], mask_threshold)).clamp(0.0, 1.0)
    if weight is not None:
        opacity = (opacity * weight).clamp(max=1.0)
    colors = shade(parameters["points"], parameters["sh0"], parameters["sh_rest"], degree, views.float())
    shown = rasterize(
        parameters["points"], parameters["log_delta"].exp(), sigma, opacity, colors, views, matrices, *size, background, settings,
        bounding=bounding,
    )  # fmt: skip
    return shown, sigma


def split(parameters: dict[str, Tensor], chosen: Tensor, scale: float, exponent: float) -> dict[str, Tensor]:
    """The K children of each chosen convex: centred on its points, `scale` times its size, half as opaque, sigma^exponent.

    Child j has the points p_j + scale (p_k - centroid). sigma^exponent is sharper only for sigma < 1; above it stays.

    Args:
        chosen: places ``(n,)``.

    Returns:
        ``n K`` convexes.
    """
    points = parameters["points"][chosen]
    number, corners = points.shape[:2]
    offset = points - points.mean(dim=1, keepdim=True)
    children = {name: value[chosen].repeat_interleave(corners, dim=0) for name, value in parameters.items()}
    children["points"] = (points[:, :, None] + scale * offset[:, None]).reshape(number * corners, corners, 3)
    half = 0.5 * torch.sigmoid(children["opacity_logit"])
    children["opacity_logit"] = torch.logit(half)
    log_sigma = children["log_sigma"]
    children["log_sigma"] = torch.where(log_sigma < 0, exponent * log_sigma, log_sigma)
    return children


def keep(
    tables: list[dict[str, Tensor]], kept: Tensor, added: dict[str, Tensor] | None = None
) -> list[dict[str, Tensor]]:
    """Parameters and the moments that go with them, cut down to `kept` rows; `added` parameters get moments of zero."""
    out = []
    for place, table in enumerate(tables):
        fresh = {name: value[kept] for name, value in table.items()}
        if added is not None:
            fresh = {
                name: torch.cat([value, added[name] if place == 0 else torch.zeros_like(added[name])])
                for name, value in fresh.items()
            }
        out.append(fresh)
    return out
