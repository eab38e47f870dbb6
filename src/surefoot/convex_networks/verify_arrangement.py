"""Whether z'(X u)_+ stays below a limit on the whole unit ball, for rows of rank at most 3: from the vertices of the arrangement.

A maximum lies in the relative interior of one face: a cell, an arc on a row's plane, or a vertex. There it equals the length of the
cell's gradient, of the gradient projected on the plane, or the vertex's own value, and its direction is that vector's. Every face has
a vertex (a direction orthogonal to two independent rows) at its corner, so the patterns around all vertices give all candidates; the
function is evaluated at each that is long enough to matter. (The solver walks along circles instead.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
TIE = 1e-9
MOST_PAIRS = 20_000_000


def above_limit(X: Array, z: Array, limit: float) -> str:
    """ "" if z'(X u)_+ <= limit for all |u| <= 1, else what is wrong.

    Args:
        X: (n, d) of rank at most 3.
        z: (n,).
        limit: > 0.
    """
    lines, up, down = _lines(X, z)
    rank = lines.shape[1]
    if rank > 3:
        return f"the rows have rank {rank}, and all arrangements are visited up to rank 3"
    if len(lines) ** 2 > MOST_PAIRS:
        return f"{len(lines)} distinct rows are too many to visit all arrangements"
    if rank == 0:
        return ""

    def value(u: Array) -> Array:
        t = u @ lines.T
        return np.maximum(t, 0.0) @ up + np.maximum(-t, 0.0) @ down

    worst = 0.0
    for candidates in _candidates(lines, up, down, rank):
        size = np.linalg.norm(candidates, axis=1)
        long = candidates[size > 0] / size[size > 0][:, None]
        matter = long[size[size > 0] > limit]  # a vertex comes with a huge length, so that it always counts
        if len(matter):
            worst = max(worst, float(value(matter).max()))
    return f"a direction prices at {worst:.9g}, above {limit:.9g}" if worst > limit else ""


def _lines(X: Array, z: Array) -> tuple[Array, Array, Array]:
    """Distinct lines through the origin in the rows' span, with the weights of (q'u)_+ and (-q'u)_+."""
    _, sizes, right = np.linalg.svd(X, full_matrices=False)
    rank = int(np.sum(sizes > max(X.shape) * np.finfo(float).eps * sizes[0])) if sizes.size and sizes[0] > 0 else 0
    A = X @ right[:rank].T
    length = np.linalg.norm(A, axis=1)
    A, z, length = A[length > 0], z[length > 0], length[length > 0]
    lines: list[Array] = []
    up: list[float] = []
    down: list[float] = []
    unit = A / length[:, None]
    left = np.arange(len(unit))
    while len(left):
        q = unit[left[0]]
        cosine = unit[left] @ q
        together = np.abs(cosine) > 0.5
        if rank > 1:
            together = np.linalg.norm(unit[left] - np.sign(cosine)[:, None] * q, axis=1) < 1e-11
        same, other = left[together & (cosine > 0)], left[together & (cosine < 0)]
        lines.append(q)
        up.append(float(np.sum(z[same] * length[same])))
        down.append(float(np.sum(z[other] * length[other])))
        left = left[~together]
    return np.array(lines).reshape(-1, rank), np.array(up), np.array(down)


def _candidates(lines: Array, up: Array, down: Array, rank: int) -> Any:
    """Vectors whose directions include every possible maximum, in lots."""
    if rank == 1:
        yield np.array([[1e150], [-1e150]])
        return
    count = len(lines)
    if rank == 2:
        for j in range(count):
            vertex = np.array([-lines[j, 1], lines[j, 0]])
            for v in (vertex, -vertex):
                base = _gradient(lines, up, down, (lines @ v)[None], np.array([j]))
                yield np.vstack([base + up[j] * lines[j], base - down[j] * lines[j], 1e150 * v[None]])
        return
    for j in range(count - 1):
        others = np.arange(j + 1, count)
        cross = np.cross(lines[j], lines[others])
        size = np.linalg.norm(cross, axis=1)
        cross, others = cross[size > 1e-12] / size[size > 1e-12][:, None], others[size > 1e-12]
        for side in (1.0, -1.0):
            v = side * cross
            products = v @ lines.T
            rows = np.arange(len(others))
            products[:, j] = 0.0
            products[rows, others] = 0.0
            tied = (np.abs(products) < TIE).sum(axis=1) > 2
            plain = np.flatnonzero(~tied)
            base = _gradient(lines, up, down, products[plain], None)
            yield 1e150 * v
            for wj in (up[j], -down[j]):
                for wk in (up, -down):
                    cell = base + wj * lines[j] + wk[others[plain]][:, None] * lines[others[plain]]
                    q = lines[others[plain]]
                    yield cell
                    yield cell - (cell @ lines[j])[:, None] * lines[j]
                    yield cell - (cell * q).sum(axis=1, keepdims=True) * q
            for place in np.flatnonzero(tied):
                yield _around(lines, up, down, v[place], products[place])


def _gradient(lines: Array, up: Array, down: Array, products: Array, leave: Any) -> Array:
    """sum of up q over lines with positive product, minus down q over negative ones; exact zeros and `leave` count nothing."""
    on, off = products > 0, products < 0
    if leave is not None:
        on[:, leave] = off[:, leave] = False
    return (on * up) @ lines - (off * down) @ lines


def _around(lines: Array, up: Array, down: Array, vertex: Array, products: Array) -> Array:
    """Candidates of all sectors around a vertex on more than two lines."""
    ties = np.flatnonzero(np.abs(products) < TIE)
    products = products.copy()
    products[ties] = 0.0
    base = _gradient(lines, up, down, products[None], None)[0]
    first = lines[ties[0]]
    second = np.cross(vertex, first)
    flat = lines[ties] @ np.stack([first, second], axis=1)
    edges = np.sort(
        np.mod(np.concatenate([np.arctan2(flat[:, 1], flat[:, 0]) + s * np.pi / 2 for s in (1, -1)]), 2 * np.pi)
    )
    middles = (edges + np.append(edges[1:], edges[0] + 2 * np.pi)) / 2
    found: list[Array] = []
    for angle in middles:
        side = flat @ np.array([np.cos(angle), np.sin(angle)])
        cell = base + (np.where(side > 0, up[ties], 0.0) - np.where(side < 0, down[ties], 0.0)) @ lines[ties]
        found.append(cell)
        found += [cell - (cell @ lines[j]) * lines[j] for j in ties]
    return np.array(found)
