"""A drawing of convexes in the plane: the line where each is half as opaque as it can be, as SVG.

{phi <= 0}, that is I >= 1/2, is convex and lies within the hull, at most log m / (z delta |edge|) pixels from an edge; a ray from the
middle meets its border once. SVG has no soft edges: where a convex is soft, the drawing is harder than the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.records.files import write_bytes
from surefoot.splatting.harmonics import SH0
from surefoot.splatting.problem import Picture, Trained
from surefoot.splatting.reference import edge_terms, hull_successors, project

__all__ = ["outlines", "write_svg"]

RAYS, HALVINGS = 48, 40
Array = np.ndarray[Any, np.dtype[Any]]


def outlines(scene: Trained, matrix: Array) -> tuple[Array, Array, Array]:
    """Where the convexes of a picture, seen through the matrix K ``(3, 3)``, are half as opaque as they can be.

    Returns:
        points on the border ``(N, 48, 2)`` (x, y) in pixels, the corner of the first pixel at (0, 0) (of the hull, for a convex that is
        nowhere so opaque); the opacity to fill with ``(N,)``; which convexes have an area ``(N,)``.
    """
    corners = project(
        torch.from_numpy(scene.points.astype(float)),
        torch.eye(4).double(),
        torch.from_numpy(np.asarray(matrix, dtype=float)),
    ).corners
    following = hull_successors(corners)
    used = following >= 0
    solid = used.sum(dim=1) >= 3
    terms = torch.where(used[..., None], edge_terms(corners, following), 0.0)
    delta = torch.from_numpy(scene.log_delta.astype(float)).exp()[:, None, None]

    def phi(at: Tensor) -> Tensor:
        d = torch.einsum("nkc,nrc->nrk", terms[..., :2], at) + terms[:, None, :, 2]
        return torch.logsumexp(torch.where(used[:, None], delta * d, -torch.inf), dim=2)

    weight = used.double()[..., None]
    middle = (corners * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
    angle = 2 * torch.pi * torch.arange(RAYS, dtype=torch.float64) / RAYS
    ray = torch.stack([angle.cos(), angle.sin()], dim=-1)[None]
    depth = -(torch.einsum("nkc,nrc->nrk", terms[..., :2], middle) + terms[:, None, :, 2])
    speed = torch.einsum("nkc,nrc->nrk", terms[..., :2], ray.expand(len(terms), -1, -1))
    far = torch.where(used[:, None] & (speed > 0), depth / speed, torch.inf).amin(dim=2)
    far = torch.where(solid[:, None] & far.isfinite(), far, 0.0)
    inside = torch.where(solid, phi(middle)[:, 0], 1.0)
    low, high = torch.zeros_like(far), far.clone()
    for _ in range(HALVINGS):
        half = (low + high) / 2
        within = phi(middle + half[..., None] * ray) <= 0
        low, high = torch.where(within, half, low), torch.where(within, high, half)
    found = middle + torch.where((inside < 0)[:, None], low, far)[..., None] * ray
    opacity = torch.sigmoid(torch.from_numpy(scene.opacity_logit.astype(float)))
    sigma = torch.from_numpy(scene.log_sigma.astype(float)).exp()
    filled = opacity * torch.sigmoid(-sigma * inside)  # of the middle
    return (found + 0.5).numpy(), filled.numpy(), solid.numpy()


def write_svg(path: Path, scene: Trained, problem: Picture) -> int:
    """Write the drawing, whole or not at all; how many shapes it has."""
    border, filled, solid = outlines(scene, problem.matrices[0])
    height, width = problem.photos[0].shape[:2]
    shades = np.clip(0.5 + SH0 * scene.sh0.astype(float), 0, 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<rect width="{width}" height="{height}" fill="{_shade(np.asarray(scene.background, dtype=float))}"/>',
    ]
    for n in reversed(np.flatnonzero(solid).tolist()):
        if filled[n] < 1 / 255:
            continue
        path_text = " ".join(f"{x:.2f},{y:.2f}" for x, y in border[n])
        lines.append(f'<polygon points="{path_text}" fill="{_shade(shades[n])}" fill-opacity="{filled[n]:.3f}"/>')
    lines.append("</svg>")
    write_bytes(path, ("\n".join(lines) + "\n").encode())
    return len(lines) - 3


def _shade(color: Array) -> str:
    red, green, blue = (round(255 * float(c)) for c in np.clip(color, 0, 1))
    return f"#{red:02x}{green:02x}{blue:02x}"
