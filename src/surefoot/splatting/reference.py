"""The readable reference: every convex at every pixel in float64, differentiated by autograd. No kernel, no tiles, no lists.

For a camera, x = R p + t, u = fx X / Z + cx - 1/2, v = fy Y / Z + cy - 1/2 (pixel (i, j) has its centre at u = j, v = i):

    d_k(q) = (y2 - y1) q_x + (x1 - x2) q_y + x2 y1 - x1 y2      for the hull's edge from (x1, y1) to (x2, y2), in pixels^2
    phi(q) = log sum_k exp(z delta d_k(q))                                                                      (eq. 7)
    alpha(q) = min(0.99, o sigmoid(-z sigma phi(q)))                                                              (eq. 8)
    C(q) = sum_n c_n alpha_n prod_{i<n} (1 - alpha_i) + prod_n (1 - alpha_n) background, nearest centroid first    (eq. 5)

A convex whose centroid lies beyond the near plane but some of whose points do not is cut by that plane: what is seen is the hull of its
points with Z >= near and of the places where segments from them to the other points meet Z = near. Its z stays the centroid's.

References:
    Held et al., "3D Convex Splatting: Radiance Field Rendering with 3D Smooth Convexes" (2025), section 3.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Projected",
    "contributions",
    "hull_successors",
    "indicator",
    "project",
    "render_reference",
    "shadows",
    "visible",
]

Crossing = Literal["clip", "cull"]

TURN = 1e-5  # sine of a turn that counts as straight
LEAST = 1e-4  # pixels; a smaller shadow has no area
CLAMP = 0.99


class Projected(NamedTuple):
    """Corners ``(N, K', 2)`` in pixels, the centroids' depth ``(N,)``, the depths of what is seen ``(N, K)``."""

    corners: Tensor
    depth: Tensor
    depths: Tensor


def project(points: Tensor, view: Tensor, matrix: Tensor, near: float | None = None) -> Projected:
    """Pinhole projection of points ``(N, K, 3)``; with `near`, of what lies beyond that plane (then K' may differ from K)."""
    local = points @ view[:3, :3].T + view[:3, 3]
    depths = local[..., 2]
    seen = local if near is None else beyond(local, near)
    u = matrix[0, 0] * seen[..., 0] / seen[..., 2] + matrix[0, 2] - 0.5
    v = matrix[1, 1] * seen[..., 1] / seen[..., 2] + matrix[1, 2] - 0.5
    reach = depths if near is None else depths.clamp(min=near)
    return Projected(torch.stack([u, v], dim=-1), depths.mean(dim=1), reach)


def beyond(local: Tensor, near: float) -> Tensor:
    """Points ``(N, K', 3)`` whose hull is the part Z >= near of the hull of ``(N, K, 3)``, each of which has a point there.

    The points beyond the plane, then where segments from them to the others meet it; rows are filled up with copies of their first.
    """
    front = local[..., 2] >= near
    i, j = torch.triu_indices(local.shape[1], local.shape[1], 1)
    begin, end = local[:, i], local[:, j]
    crosses = front[:, i] != front[:, j]
    rise = torch.where(crosses, end[..., 2] - begin[..., 2], 1.0)
    share = (near - begin[..., 2]) / rise
    met = begin[..., :2] + share[..., None] * (end - begin)[..., :2]
    every = torch.cat([local, torch.cat([met, torch.full_like(met[..., :1], near)], dim=-1)], dim=1)
    valid = torch.cat([front, crosses], dim=1)
    order = torch.argsort(valid.to(torch.int8), dim=1, descending=True, stable=True)[:, : int(valid.sum(dim=1).max())]
    order = torch.where(torch.gather(valid, 1, order), order, order[:, :1])
    return torch.gather(every, 1, order[..., None].expand(-1, -1, 3))


def shadows(
    points: Tensor, view: Tensor, matrix: Tensor, near: float, crossing: Crossing = "clip"
) -> list[tuple[Tensor, Projected]]:
    """Rows ``(M,)`` of the convexes before the camera and their projection: those wholly beyond the near plane, then those it cuts.

    With ``crossing="cull"`` no convex is cut: those with a point at a hundredth of `near` or before are left out, the others are whole.
    """
    with torch.no_grad():
        depths = points @ view[2, :3] + view[2, 3]
        ahead = depths.mean(dim=1) > near
        whole = ahead & ((depths >= near) if crossing == "clip" else (depths > 0.01 * near)).all(dim=1)
        cut = ahead & ~whole if crossing == "clip" else torch.zeros_like(ahead)
    groups = [(whole.nonzero()[:, 0], None), (cut.nonzero()[:, 0], near)]
    return [(rows, project(points[rows], view, matrix, plane)) for rows, plane in groups if len(rows) or plane is None]


def hull_successors(corners: Tensor, turn: float = TURN) -> Tensor:
    """The next hull corner of each hull corner, counter-clockwise in (x, y), and -1 for points that are none: ``(N, K)``.

    From i to j runs an edge of the strict hull iff every other point lies to its left, or between them (a sine of at most `turn`, seen
    from i). A corner that is passed over so, but from which the next edge would also begin, is none. Should several such corners leave
    no closed ring, turns of any size count.
    """
    with torch.no_grad():
        number, many = corners.shape[:2]
        step = corners[:, None, :, :] - corners[:, :, None, :]  # (N, i, j): from i to j
        twin = (step == 0).all(dim=-1) & torch.ones(many, many, dtype=torch.bool).tril(
            -1
        )  # an earlier point at the same place
        single = ~twin.any(dim=2)  # the first of equal points stands for them
        square = (step * step).sum(dim=-1)
        length = square.sqrt()
        cross = step[..., :, None, 0] * step[..., None, :, 1] - step[..., :, None, 1] * step[..., None, :, 0]
        along = (step[..., :, None, :] * step[..., None, :, :]).sum(dim=-1)  # its (j, j) is `square` to the bit
        straight = cross.abs() <= turn * length[..., :, None] * length[..., None, :]
        between = straight & (along >= 0) & (along <= square[..., :, None])
        left = (cross > 0) & ~straight
        fits = (left | between | ~single[:, None, None, :]).all(dim=-1)
        fits &= single[:, :, None] & single[:, None, :] & (length > 0)
        extent = (corners.amax(dim=1) - corners.amin(dim=1)).amax(dim=1)
        flat = straight.flatten(1).all(dim=1) | (extent < LEAST)
        found = torch.where(fits.any(dim=2), fits.to(torch.int8).argmax(dim=2), torch.full((number, many), -1))
        found[flat] = -1
        empty = (found < 0).all(dim=1)
        for _ in range(many):
            reached = torch.zeros(number, many + 1, dtype=torch.bool)
            reached.scatter_(1, torch.where(found < 0, many, found), True)
            lone = (found >= 0) & ~reached[:, :many]
            if not lone.any():
                break
            found[lone] = -1
        torn = (found < 0).all(dim=1) & ~empty
        if turn > 0 and torn.any():
            found[torn] = hull_successors(corners[torn], 0.0)
        return found


def edge_terms(corners: Tensor, following: Tensor) -> Tensor:
    """Normals and offsets ``(N, K, 3)`` of the edges that start at each corner."""
    ends = torch.gather(corners, 1, following.clamp(min=0)[..., None].expand_as(corners))
    x1, y1, x2, y2 = corners[..., 0], corners[..., 1], ends[..., 0], ends[..., 1]
    return torch.stack([y2 - y1, x1 - x2, x2 * y1 - x1 * y2], dim=-1)


def indicator(
    corners: Tensor, depth: Tensor, delta: Tensor, sigma: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """phi and I = sigmoid(-z sigma phi) at pixels ``(Q, 2)`` (x, y), both ``(N, Q)``; and which convexes have an area ``(N,)``."""
    following = hull_successors(corners)
    used = following >= 0
    terms = edge_terms(corners, following)
    d = terms[..., :2] @ pixels.T + terms[..., 2:]  # (N, K, Q)
    exponent = torch.where(used[..., None], (depth * delta)[:, None, None] * d, -torch.inf)
    solid = used.sum(dim=1) >= 3
    phi = torch.logsumexp(torch.where(solid[:, None, None], exponent, torch.zeros_like(exponent)), dim=1)
    return phi, torch.sigmoid(-(depth * sigma)[:, None] * phi), solid


def visible(
    points: Tensor, delta: Tensor, sigma: Tensor, view: Tensor, matrix: Tensor, pixels: Tensor, near: float, crossing: Crossing = "clip"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Rows ``(M,)`` of the convexes before the camera, I ``(M, Q)`` at the pixels (0 without an area), z ``(M,)``, depths ``(M, K)``."""
    found = []
    for rows, shown in shadows(points, view, matrix, near, crossing):
        _, inside, solid = indicator(shown.corners, shown.depth, delta[rows], sigma[rows], pixels)
        found.append((rows, inside * solid[:, None], shown.depth, shown.depths))
    rows, inside, depth, depths = (torch.cat(part) for part in zip(*found, strict=True))
    place = torch.argsort(rows)
    return rows[place], inside[place], depth[place], depths[place]


class Contributions(NamedTuple):
    """Convexes before the camera, nearest first: places ``(M,)``, alpha ``(M, Q)``, transmittance in front ``(M + 1, Q)``, depths ``(M, K)``."""

    order: Tensor
    alpha: Tensor
    in_front: Tensor
    depths: Tensor


def contributions(
    points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, view: Tensor, matrix: Tensor, pixels: Tensor, *,
    near: float, threshold: float = 0.0, stop: float = 0.0, crossing: Crossing = "clip",
) -> Contributions:  # fmt: skip
    """What each convex contributes to pixels ``(Q, 2)``; delta as it holds for this camera."""
    order, inside, depth, depths = visible(points, delta, sigma, view, matrix, pixels, near, crossing)
    place = torch.argsort(depth.detach(), stable=True)
    order = order[place]
    alpha = (opacity[order, None] * inside[place]).clamp(max=CLAMP)
    alpha = torch.where(alpha >= threshold, alpha, torch.zeros_like(alpha))
    start = alpha.new_ones(1, len(pixels))
    in_front = torch.cumprod(torch.cat([start, 1 - alpha]), dim=0)
    if stop > 0:
        alpha = torch.where(in_front[:-1] >= stop, alpha, torch.zeros_like(alpha))
        in_front = torch.cumprod(torch.cat([start, 1 - alpha]), dim=0)
    return Contributions(order, alpha, in_front, depths[place])


def render_reference(
    points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, colors: Tensor, view: Tensor, matrix: Tensor,
    width: int, height: int, background: Tensor | None = None, *, focal: float | None = None, near: float = 0.2,
    threshold: float = 0.0, stop: float = 0.0, pixels: Tensor | None = None, crossing: Crossing = "clip",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Render one view.

    Args:
        points, delta, sigma, opacity, colors: ``(N, K, 3)``, ``(N,)``, ``(N,)``, ``(N,)``, ``(N, 3)``.
        view, matrix: ``(4, 4)`` world to camera, ``(3, 3)`` in pixels, the corner of the first pixel at (0, 0).
        focal: where delta holds for another focal length: delta is multiplied by focal^2 / (fx fy).
        threshold: contributions alpha below it are left out.
        stop: a pixel takes no more samples once its transmittance is below it.
        pixels: ``(Q, 2)`` (x, y); default all, row by row.
        crossing: "clip" cuts convexes by the near plane, "cull" leaves out those that reach behind the camera.

    Returns:
        colours ``(H, W, 3)`` (or ``(Q, 3)``) and transmittances ``(H, W)`` (or ``(Q,)``).
    """
    whole = pixels is None
    if pixels is None:
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
    pixels = pixels.to(points.dtype)
    back = torch.zeros(3, dtype=points.dtype) if background is None else background.to(points.dtype)
    if focal is not None:
        delta = delta * focal**2 / (matrix[0, 0] * matrix[1, 1])
    seen = contributions(
        points, delta, sigma, opacity, view, matrix, pixels, near=near, threshold=threshold, stop=stop, crossing=crossing
    )  # fmt: skip
    left = seen.in_front[-1]
    image = (seen.alpha * seen.in_front[:-1]).T @ colors[seen.order] + left[:, None] * back
    if whole:
        return image.reshape(height, width, 3), left.reshape(height, width)
    return image, left
