"""max over |u| <= 1 of z'(X u)_+ for rows of rank at most 3: all cells of the arrangement are visited.

z'(X u)_+ is linear on every cell, so its maximum over the unit ball lies at a cell's own gradient direction, inside an arc between two
cells, or at a vertex. Walking once around the great circle of every row visits every arc and both cells beside it; the
gradient changes by one row at each crossing. O(n^2 log n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

MOST_ROWS = 4000
"""Above this many distinct rows the walk is not tried (a few minutes)."""


@dataclass(frozen=True, eq=False)
class Peak:
    """The maximum over the ball: an upper bound that holds in exact arithmetic, and the best direction found."""

    upper: float
    value: float
    direction: Array


def reduced(features: Array) -> tuple[Array, Array, float]:
    """Coordinates of the rows in their own span: (A (n, r), basis (d, r), largest distance of a row from its image)."""
    left, sizes, right = np.linalg.svd(features, full_matrices=False)
    rank = (
        int(np.sum(sizes > max(features.shape) * np.finfo(float).eps * sizes[0])) if sizes.size and sizes[0] > 0 else 0
    )
    A = left[:, :rank] * sizes[:rank]
    rest = features - A @ right[:rank]
    return A, right[:rank].T, float(np.sqrt((rest * rest).sum(axis=1)).max(initial=0.0))


def merged(A: Array) -> tuple[Array, Any, Array]:
    """Rows that lie on one line taken together.

    Returns:
        (lines (l, r) of unit length, line of each row (n,), signed length of each row on it (n,)); zero rows have length 0.
    """
    size = np.linalg.norm(A, axis=1)
    live = size > 0
    unit = np.where(live[:, None], A / np.where(live, size, 1.0)[:, None], 0.0)
    lead = np.argmax(np.abs(unit) > 1e-9, axis=1)
    side = np.where(np.take_along_axis(unit, lead[:, None], 1)[:, 0] < 0, -1.0, 1.0)
    canonical = np.round(unit * side[:, None], 12) + 0.0
    _, first, member = np.unique(canonical[live], axis=0, return_index=True, return_inverse=True)
    of = np.full(len(A), -1)
    of[live] = member.ravel()
    lines = (unit * side[:, None])[live][first]
    return lines, of, np.where(live, size * side, 0.0)


def peak(features: Array, z: Array) -> Peak:
    """The maximum of z'(X u)_+ over the unit ball.

    Args:
        features: X (n, d) of rank at most 3.
        z: (n,).

    Raises:
        ValueError: the rank is above 3, or there are more than MOST_ROWS distinct rows.
    """
    A, basis, rest = reduced(features)
    rank = A.shape[1]
    if rank > 3:
        raise ValueError(f"the rows have rank {rank}; all arrangements are visited up to rank 3")
    pad = float(np.abs(z).sum()) * (rest + 64 * np.finfo(float).eps * float(np.linalg.norm(A, axis=1).max(initial=0.0)))
    if rank == 0:
        return Peak(pad, 0.0, np.zeros(features.shape[1]))
    lines, of, length = merged(A)
    if len(lines) > MOST_ROWS:
        raise ValueError(f"{len(lines)} distinct rows; all arrangements are visited up to {MOST_ROWS}")
    # z'(Xu)_+ = sum_l up_l (q_l'u)_+ + down_l (-q_l'u)_+ over the lines q_l
    up, down = np.zeros(len(lines)), np.zeros(len(lines))
    plus, minus = length > 0, length < 0
    np.add.at(up, of[plus], z[plus] * length[plus])
    np.add.at(down, of[minus], -z[minus] * length[minus])
    # a row's own direction against its line's: what merging moved it by
    moved = float(np.sum(np.abs(z) * np.linalg.norm(A - length[:, None] * lines[of], axis=1)))
    pad += moved
    best, where, upper = _search(lines, up, down)
    return Peak(upper + pad, best, basis @ where)


def _value(lines: Array, up: Array, down: Array, u: Array) -> Array:
    """sum_l up (q'u)_+ + down (-q'u)_+ at directions (k, r)."""
    t = u @ lines.T
    return np.maximum(t, 0.0) @ up + np.maximum(-t, 0.0) @ down


def _search(lines: Array, up: Array, down: Array) -> tuple[float, Array, float]:
    rank = lines.shape[1]
    if rank == 1:
        ends = np.array([[1.0], [-1.0]])
        values = _value(lines, up, down, ends)
        place = int(np.argmax(values))
        return max(0.0, float(values[place])), ends[place] * (values[place] > 0), max(0.0, float(values[place]))
    tracker = _Tracker(lines, up, down)
    if rank == 2:
        tracker.circle(np.eye(2), lines, up, down)
    else:
        for k, axis in enumerate(lines):
            frame = _frame(axis)
            others = np.delete(np.arange(len(lines)), k)
            flat = lines[others] @ frame.T
            tracker.circle(frame, flat, up[others], down[others], beside=(axis * up[k], -axis * down[k]), rest=others)
    return tracker.finish()


def _frame(axis: Array) -> Array:
    """Two unit vectors (2, 3) that span the plane orthogonal to `axis`."""
    first = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(axis, first)])


class _Tracker:
    """Keeps the best direction, and an upper bound over all that was visited."""

    def __init__(self, lines: Array, up: Array, down: Array) -> None:
        self.lines, self.up, self.down = lines, up, down
        self.best, self.where, self.upper = 0.0, np.zeros(lines.shape[1]), 0.0
        self.cells: list[tuple[Array, Array]] = []

    def offer(self, directions: Array, bounds: Array | None = None) -> None:
        values = _value(self.lines, self.up, self.down, directions)
        place = int(np.argmax(values))
        if values[place] > self.best:
            self.best, self.where = float(values[place]), directions[place]
        self.upper = max(self.upper, float(values.max()), -np.inf if bounds is None else float(bounds.max()))

    def circle(
        self, frame: Array, flat: Array, up: Array, down: Array, beside: tuple[Array, Array] | None = None,
        rest: Any = None,
    ) -> None:  # fmt: skip
        """Visit all arcs of one circle (spanned by `frame`), and the cells on both sides of each.

        Args:
            flat: (l, 2) the other lines in the circle's plane.
            up, down: (l,) their weights.
            beside: gradients that this circle's own line adds on its two sides (none in the plane).
            rest: their numbers in the full list.
        """
        lines = self.lines if rest is None else self.lines[rest]
        angle = np.arctan2(flat[:, 1], flat[:, 0])
        crossings = np.mod(np.concatenate([angle + np.pi / 2, angle - np.pi / 2]), 2 * np.pi)
        # at angle + pi/2 a line's product turns from + to -, at angle - pi/2 from - to +
        into = np.concatenate([-np.ones(len(flat)), np.ones(len(flat))])
        which = np.concatenate([np.arange(len(flat)), np.arange(len(flat))])
        order = np.argsort(crossings, kind="stable")
        crossings, into, which = crossings[order], into[order], which[order]
        if len(crossings) == 0:
            starts, ends = np.array([0.0]), np.array([2 * np.pi])
            gradients = np.zeros((1, lines.shape[1]))
        else:
            starts = crossings
            ends = np.append(crossings[1:], crossings[0] + 2 * np.pi)
            middle = (starts[-1] + ends[-1]) / 2
            inside = flat @ np.array([np.cos(middle), np.sin(middle)])
            first = (np.where(inside > 0, up, 0.0) @ lines) - (np.where(inside <= 0, down, 0.0) @ lines)
            # crossing a line upwards: its part changes from -down q to up q
            change = (into * (up[which] + down[which]))[:, None] * lines[which]
            gradients = first + np.cumsum(change, axis=0)
        plane = gradients @ frame.T
        peaks = np.arctan2(plane[:, 1], plane[:, 0])
        ahead = np.mod(peaks - starts, 2 * np.pi)
        within = ahead <= ends - starts + 1e-9
        size = np.linalg.norm(plane, axis=1)
        at = np.where(within, peaks, starts)
        bounds = np.where(within, size, plane[:, 0] * np.cos(starts) + plane[:, 1] * np.sin(starts))
        self.offer(np.stack([np.cos(at), np.sin(at)], axis=1) @ frame, bounds)
        if beside is not None:
            for own in beside:
                cells = gradients + own
                sizes = np.linalg.norm(cells, axis=1)
                hopeful = sizes > self.best
                if hopeful.any():
                    self.cells.append((sizes[hopeful], cells[hopeful]))

    def finish(self) -> tuple[float, Array, float]:
        """Cells whose gradient lies in them (up to rounding) count with its length."""
        if self.cells:
            sizes = np.concatenate([s for s, _ in self.cells])
            gradients = np.concatenate([g for _, g in self.cells])
            keep = np.flatnonzero(sizes > self.upper)
            keep = keep[np.argsort(-sizes[keep])]
            for lot in np.array_split(keep, max(1, len(keep) * len(self.lines) // 4_000_000 + 1)):
                if len(lot) == 0 or sizes[lot].max() <= self.upper:
                    continue
                directions = gradients[lot] / sizes[lot][:, None]
                values = _value(self.lines, self.up, self.down, directions)
                # in its cell the value is the gradient's length; outside, the cell's maximum lies on an arc, visited above
                own = np.where(values >= sizes[lot] * (1 - 1e-9), sizes[lot], -np.inf)
                self.offer(directions, own)
        return self.best, self.where, max(self.upper, self.best)
