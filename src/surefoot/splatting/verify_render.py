"""Single pixels of a scene by brute force in numpy, float64: what the checkers compare renders with.

Shares nothing with the renderers: hulls by gift wrapping over all convexes at once, edges by normalised distances times lengths,
compositing by the logarithm of the transmittance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["BruteForce", "PixelColumn", "differences"]

Array = np.ndarray[Any, np.dtype[Any]]
STRAIGHT = 1e-5  # sine of a turn that counts as straight
AREALESS = 1e-4  # pixels
CLAMP = 0.99
NEGLIGIBLE = 1e-15  # an alpha at no pixel larger than this is left out of what pixels see
AT_ONCE = 1024  # convexes whose terms at all pixels are held together: they should stay in the cache
STEP = 1e-6  # of central differences, in logarithms and coefficients; of points, relative to the convex
FIELDS = ("points", "log_delta", "log_sigma", "opacity_logit", "sh0", "sh_rest")
SH = (0.28209479177387814, 0.4886025119029199)


@dataclass(frozen=True, eq=False)
class PixelColumn:
    """What Q pixels see of M convexes, nearest first: ``(M, Q)`` alphas and transmittances in front of them, ``(M, 3)`` colours, ``(M, 2)``
    depth ranges, ``(M,)`` their places in the scene."""

    alpha: Array
    front: Array
    colors: Array
    reach: Array
    order: Array

    def image(self, background: Array) -> Array:
        """``(Q, 3)``."""
        return (self.alpha * self.front).T @ self.colors + self.left[:, None] * background

    @property
    def left(self) -> Array:
        return self.front[-1] * (1 - self.alpha[-1]) if len(self.alpha) else np.ones(self.alpha.shape[1])

    def ordered_share(self) -> float:
        """Share of the composited weight at pixels' neighbouring contributors whose depth ranges do not meet."""
        total = apart = 0.0
        weight = self.alpha * self.front
        for q in range(weight.shape[1]):
            seen = np.flatnonzero(weight[:, q] > 0)
            if len(seen) < 2:
                apart += weight[seen, q].sum()
                total += weight[seen, q].sum()
                continue
            fine = self.reach[seen[:-1], 1] <= self.reach[seen[1:], 0]
            both = np.concatenate([[True], fine]) & np.concatenate([fine, [True]])
            apart += weight[seen[both], q].sum()
            total += weight[seen, q].sum()
        return apart / total if total > 0 else 1.0


class BruteForce:
    """A scene before one camera.

    Args:
        scene: arrays as in `problem.Trained`.
        view, matrix: ``(4, 4)``, ``(3, 3)``.
    """

    def __init__(self, scene: Any, view: Array, matrix: Array) -> None:
        points = np.asarray(scene.points, dtype=float)
        if points.ndim != 3 or points.shape[2] != 3 or not np.isfinite(points).all():
            raise ValueError("the scene's points are no finite (N, K, 3)")
        local = points @ view[:3, :3].T + view[:3, 3]
        depth = local[:, :, 2].mean(axis=1)
        fits = depth > scene.near
        order = np.flatnonzero(fits)[np.argsort(depth[fits], kind="stable")]
        local = local[order]
        self.order = order
        self.depth = depth[order]
        self.reach = np.stack([local[:, :, 2].min(axis=1).clip(scene.near), local[:, :, 2].max(axis=1)], axis=1)
        local = before(local, scene.near)
        u = matrix[0, 0] * local[:, :, 0] / local[:, :, 2] + matrix[0, 2] - 0.5
        v = matrix[1, 1] * local[:, :, 1] / local[:, :, 2] + matrix[1, 2] - 0.5
        self.corners = np.stack([u, v], axis=-1)
        self.ring, self.count = wrapped(self.corners)
        self.ring = self.ring[:, : max(3, int(self.count.max(initial=0)))]
        scale = scene.focal**2 / (matrix[0, 0] * matrix[1, 1])
        self.soft = self.depth * np.exp(np.asarray(scene.log_delta, dtype=float)[order]) * scale
        self.sharp = self.depth * np.exp(np.asarray(scene.log_sigma, dtype=float)[order])
        self.opacity = 1 / (1 + np.exp(-np.asarray(scene.opacity_logit, dtype=float)[order]))
        self.colors = self._colors(scene, points[order].mean(axis=1), order, view)
        self.background = np.asarray(scene.background, dtype=float)
        self._last: tuple[Array, Array, Array] | None = None

    @staticmethod
    def _colors(scene: Any, middles: Array, order: Array, view: Array) -> Array:
        flat = 0.5 + SH[0] * np.asarray(scene.sh0, dtype=float)[order]
        rest = np.asarray(scene.sh_rest, dtype=float)[order]
        if rest.shape[1] == 0:
            return np.maximum(flat, 0.0)
        d = middles + view[:3, :3].T @ view[:3, 3]
        x, y, z = (d / np.linalg.norm(d, axis=1, keepdims=True)).T
        c2, c3 = np.sqrt(15 / np.pi) / 2, np.sqrt(35 / (2 * np.pi)) / 4
        terms = [-SH[1] * y, SH[1] * z, -SH[1] * x]
        terms += [
            c2 * x * y,
            -c2 * y * z,
            np.sqrt(5 / np.pi) / 4 * (3 * z * z - 1),
            -c2 * x * z,
            c2 / 2 * (x * x - y * y),
        ]
        five, seven = np.sqrt(21 / (2 * np.pi)) / 4, np.sqrt(7 / np.pi) / 4
        terms += [
            -c3 * y * (3 * x * x - y * y), np.sqrt(105 / np.pi) / 2 * x * y * z, -five * y * (5 * z * z - 1),
            seven * z * (5 * z * z - 3), -five * x * (5 * z * z - 1), np.sqrt(105 / np.pi) / 4 * z * (x * x - y * y),
            -c3 * x * (x * x - 3 * y * y),
        ]  # fmt: skip
        values = np.stack(terms[: rest.shape[1]], axis=1)
        return np.maximum(flat + np.einsum("nm,nmc->nc", values, rest), 0.0)

    def _edges(self, rows: Array) -> tuple[Array, Array, Array, Array]:
        """Of some convexes' edges ``(n, K)``: where they begin ``(n, K, 2)``, the unit normals, the lengths, and which there are."""
        ring, count = self.ring[rows], self.count[rows]
        k = np.arange(ring.shape[1])
        following = np.where(k + 1 < count[:, None], np.roll(ring, -1, axis=1), ring[:, :1])
        begin, end = (np.take_along_axis(self.corners[rows], i[..., None], axis=1) for i in (ring, following))
        step = end - begin
        length = np.hypot(step[..., 0], step[..., 1])
        normal = np.stack([step[..., 1], -step[..., 0]], axis=-1) / np.maximum(length, 1e-300)[..., None]
        return begin, normal, length, k < count[:, None]

    def _reaching(self, x: Array, y: Array) -> Array:
        """Convexes with an area whose alpha is at least 1e-15 at one of the pixels, as far as the largest of their edges' terms tells."""
        solid = np.flatnonzero(self.count >= 3)
        begin, normal, length, there = self._edges(solid)
        slope = np.where(there, self.soft[solid][:, None] * length, 0.0)
        offset = np.where(there, -slope * (normal * begin).sum(axis=-1), -np.inf)
        normal *= slope[..., None]
        place, lowest = np.stack([x, y]), np.full(len(solid), np.inf)
        for first in range(0, len(solid), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            top = np.full((len(lowest[part]), len(x)), -np.inf)
            for k in range(slope.shape[1]):
                term = normal[part, k] @ place
                term += offset[part, k, None]
                np.maximum(top, term, out=top)
            lowest[part] = top.min(axis=1, initial=np.inf)
        return solid[self.opacity[solid] * np.exp(-np.maximum(self.sharp[solid] * lowest, 0.0)) >= NEGLIGIBLE]

    def pixels(self, columns: Array, rows: Array, threshold: float = 0.0, stop: float = 0.0) -> PixelColumn:
        """Alphas of all convexes that matter at pixels (Q,), in exact arithmetic but for float64; with the renderer's rules where they are
        given. What the last pixels see is kept: rules are asked for one after the other."""
        asked = np.stack([columns, rows]).astype(float)
        if self._last is None or not np.array_equal(self._last[0], asked):
            self._last = (asked, *self._alphas(*asked))
        _, near, alpha = self._last
        if threshold > 0:
            alpha = np.where(alpha >= threshold, alpha, 0.0)
        front = np.exp(np.cumsum(np.log1p(-np.concatenate([np.zeros((1, alpha.shape[1])), alpha])), axis=0))[:-1]
        if stop > 0:
            alpha = np.where(front >= stop, alpha, 0.0)
        return PixelColumn(alpha, front, self.colors[near], self.reach[near], self.order[near])

    def _alphas(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Which convexes matter at the pixels, and their alphas ``(M, Q)``."""
        near = self._reaching(x, y)
        begin, normal, length, there = self._edges(near)
        terms = []
        for k in range(length.shape[1]):
            distance = normal[:, k, :1] * (x - begin[:, k, :1]) + normal[:, k, 1:] * (y - begin[:, k, 1:])
            terms.append(np.where(there[:, k, None], (self.soft[near] * length[:, k])[:, None] * distance, -np.inf))
        top = np.max(terms, axis=0, initial=-np.inf)
        phi = top + np.log(sum(np.exp(t - top) for t in terms))
        with np.errstate(over="ignore"):
            inside = 1 / (1 + np.exp(self.sharp[near][:, None] * phi))
        return near, np.minimum(self.opacity[near][:, None] * inside, CLAMP)

    def erosion(self) -> Array:
        """For each convex with an area, the largest over its edges of log m / (z delta |edge|): how far, in pixels, the half level may lie
        within the hull."""
        solid = np.flatnonzero(self.count >= 3)
        _, _, length, there = self._edges(solid)
        shortest = np.where(there, length, np.inf).min(axis=1, initial=np.inf)
        return np.log(self.count[solid]) / (self.soft[solid] * shortest)


def differences(
    scene: Any, view: Array, matrix: Array, column: PixelColumn, chosen: Array, pixels: tuple[Array, Array], weights: Array
) -> dict[str, Array]:  # fmt: skip
    """Central differences of f = sum_q weight_q C_q in each parameter of the chosen convexes, a copy of the convex for each.

    What is in front of a convex and behind it, and which samples count, stays as it is in `column` (M, Q), which shows them.
    """
    order = column.order
    places = {int(i): place for place, i in enumerate(order)}
    alone = sorted(chosen.tolist(), key=lambda i: places[i])
    behind = np.broadcast_to(np.asarray(scene.background, dtype=float), (column.alpha.shape[1], 3)).copy()
    backs, wanted = {}, {places[i] for i in alone}
    for place in range(len(order) - 1, min(wanted, default=len(order)) - 1, -1):
        if place in wanted:
            backs[place] = behind.copy()
        alpha = column.alpha[place][:, None]
        behind = alpha * column.colors[place] + (1 - alpha) * behind
    out = {}
    for name in FIELDS:
        values = np.asarray(getattr(scene, name), dtype=float)[chosen]
        out[name] = np.zeros_like(values)
        if values.size == 0:
            continue
        many = values[0].size
        copies = {
            n: np.repeat(np.asarray(getattr(scene, n), dtype=float)[chosen], 2 * many, axis=0) for n in FIELDS
        }  # fmt: skip
        step = np.full(len(chosen), STEP)
        if name == "points":
            step = STEP * np.ptp(values, axis=1).max(axis=1)
        moved = copies[name].reshape(len(chosen), many, 2, many)
        for p in range(many):
            moved[:, p, 0, p] += step
            moved[:, p, 1, p] -= step
        copies[name] = moved.reshape(copies[name].shape)
        brute = BruteForce(replace(scene, **copies), view, matrix)
        if len(brute.order) != len(copies[name]):
            raise ValueError("a chosen convex is not before the camera")
        found = brute.pixels(*pixels)
        alpha, color = np.zeros((len(brute.order), len(pixels[0]))), np.zeros((len(brute.order), 3))
        alpha[found.order], color[found.order] = found.alpha, found.colors
        value = np.empty(len(alpha))
        for place in range(len(alpha)):
            at = places[int(chosen[place // (2 * many)])]
            part = np.where(column.alpha[at] > 0, alpha[place], 0.0) * column.front[at]
            value[place] = (part[:, None] * (color[place] - backs[at]) * weights).sum()
        split = value.reshape(len(chosen), many, 2)
        out[name] = ((split[..., 0] - split[..., 1]) / (2 * step[:, None])).reshape(values.shape)
    return out


def before(local: Array, near: float) -> Array:
    """What of each hull of points ``(N, K, 3)`` lies at Z >= near, as the hull of ``(N, K', 3)``: where the plane cuts a hull, the points
    before it, and the ends there of their segments to each point behind. Each needs a point before the plane."""
    cut = np.flatnonzero((local[:, :, 2] < near).any(axis=1))
    lists = []
    for points in local[cut]:
        ahead, behind = points[points[:, 2] >= near], points[points[:, 2] < near]
        share = (ahead[:, None, 2] - near) / (ahead[:, None, 2] - behind[None, :, 2])
        ends = (1 - share)[..., None] * ahead[:, None] + share[..., None] * behind
        ends[..., 2] = near
        lists.append(np.concatenate([ahead, ends.reshape(-1, 3)]))
    most = max([local.shape[1], *map(len, lists)])
    out = np.concatenate([local, np.repeat(local[:, :1], most - local.shape[1], axis=1)], axis=1)
    for row, points in zip(cut, lists, strict=True):
        out[row] = np.concatenate([points, np.repeat(points[:1], most - len(points), axis=0)])
    return out


def wrapped(corners: Array) -> tuple[Array, Array]:
    """Gift wrapping of ``(N, K, 2)`` at once: indices of hull corners in positive turn ``(N, K)`` and how many ``(N,)``; 0 without area."""
    number, many = corners.shape[:2]
    rows = np.arange(number)
    start = np.lexsort((corners[:, :, 1], corners[:, :, 0]), axis=1)[:, 0] if number else np.zeros(0, dtype=int)
    ring = np.repeat(start[:, None], many, axis=1)
    count = np.zeros(number, dtype=int)
    at, going = start.copy(), np.ones(number, dtype=bool)
    for k in range(many):
        ring[going, k] = at[going]
        count[going] = k + 1
        here = corners[rows, at]
        step = corners - here[:, None]
        far = np.hypot(step[:, :, 0], step[:, :, 1])
        best = far.argmax(axis=1)
        best_step, best_far = step[rows, best], far[rows, best]
        for j in range(many):
            cross = best_step[:, 0] * step[:, j, 1] - best_step[:, 1] * step[:, j, 0]
            straight = np.abs(cross) <= STRAIGHT * best_far * far[:, j]
            right = (cross < 0) & ~straight & (far[:, j] > 0)
            farther = straight & (far[:, j] > best_far) & ((best_step * step[:, j]).sum(axis=1) > 0)
            better = right | farther
            best = np.where(better, j, best)
            best_step = np.where(better[:, None], step[:, j], best_step)
            best_far = np.where(better, far[:, j], best_far)
        closed = (corners[rows, best] == corners[rows, start]).all(axis=1)
        if k >= 2:  # an edge that passes the first corner ends at the second: the first is none
            passed = going & ~closed & (corners[rows, best] == corners[rows, ring[:, 1]]).all(axis=1)
            ring[passed, :k] = ring[passed, 1 : k + 1]
            count[passed] = k
            closed |= passed
        going &= ~closed
        at = best
    size = np.ptp(corners, axis=1).max(axis=1) if number else np.zeros(0)
    count[(count < 3) | (size < AREALESS)] = 0
    return ring, count
