"""The Warp source of `rasterize.py` for single convexes: the strict hull of projected points, whole or cut by the near plane.

For CPU and CUDA. Imported only where Warp is installed; Warp reads the annotations, so they are not deferred.
"""

# ruff: noqa: UP018, RUF046 (Warp takes int(0) for a variable and 0 for a constant)

# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from typing import Any

import warp as wp

wp.set_module_options({"enable_backward": False})

TURN = wp.constant(1e-5)  # sine of a turn that counts as straight
LEAST = wp.constant(1e-4)  # pixels; a smaller shadow has no area
MOST_CUT = 72  # points of a convex of sixteen that the near plane cuts: 8 beyond it and 64 on it
floats = wp.types.vector(length=16, dtype=wp.float32)
many_ints = wp.types.vector(length=MOST_CUT, dtype=wp.int32)
many_floats = wp.types.vector(length=MOST_CUT, dtype=wp.float32)


@wp.func
def turn_of(ax: float, ay: float, bx: float, by: float):
    """The cross product of a and b; 0 where the turn is straight within `TURN`."""
    cross = ax * by - ay * bx
    size = wp.sqrt((ax * ax + ay * ay) * (bx * bx + by * by))
    if wp.abs(cross) <= TURN * size:
        return 0.0
    return cross


def chains(length: int) -> Any:
    """The hull of up to `length` points."""
    LENGTH = wp.constant(length)
    Reals = wp.types.vector(length=length, dtype=wp.float32)
    Places = wp.types.vector(length=length, dtype=wp.int32)

    @wp.func
    def hull(xs: Reals, ys: Reals, n: int):
        """Monotone chain: indices of the strict hull in positive turn, and how many."""
        order = Places()
        for i in range(n):
            j = int(i)
            while j > 0:
                p = order[j - 1]
                if xs[p] < xs[i] or (xs[p] == xs[i] and ys[p] <= ys[i]):
                    break
                order[j] = p
                j -= 1
            order[j] = i
        chain = Places()
        m = int(0)
        least = int(1)
        for step in range(2 * n - 1):
            place = int(step)
            if step >= n:
                place = 2 * n - 2 - step
            at = order[place]
            if step == n:
                least = m
            while m > least:
                p = chain[m - 2]
                q = chain[m - 1]
                if turn_of(xs[q] - xs[p], ys[q] - ys[p], xs[at] - xs[p], ys[at] - ys[p]) > 0.0:
                    break
                m -= 1
            if m >= 1 and xs[chain[m - 1]] == xs[at] and ys[chain[m - 1]] == ys[at]:
                continue
            if m < LENGTH:
                chain[m] = at
                m += 1
            else:
                m = LENGTH + 1  # the closing point of a hull of all
        if m == LENGTH + 1:
            m = LENGTH
        elif m > 1 and chain[m - 1] == chain[0]:
            m -= 1
        if m > 3:  # the chain begins at its first point, which may lie on the edge that passes there
            p = chain[m - 1]
            q = chain[0]
            at = chain[1]
            if turn_of(xs[q] - xs[p], ys[q] - ys[p], xs[at] - xs[p], ys[at] - ys[p]) <= 0.0:
                m -= 1
                for i in range(m):
                    chain[i] = chain[i + 1]
        return chain, m

    return hull


hull = chains(16)
hull_of_cut = chains(MOST_CUT)


@wp.func
def offset_of(
    points: wp.array2d(dtype=wp.vec3), view: wp.mat44, i: int, middle: wp.vec3, near: float, z: float, code: int
):
    """Corner `code` = 16 a + b of convex i, in the camera's frame, from the centroid at depth z: its point a, or, where b differs, the
    place where the segment from point a to point b meets the near plane."""
    a = code // 16
    b = code % 16
    offset = wp.transform_vector(view, points[i, a] - middle)
    if a != b:
        other = wp.transform_vector(view, points[i, b] - middle)
        offset = offset + (near - z - offset[2]) / (other[2] - offset[2]) * (other - offset)
        offset[2] = near - z
    return offset


@wp.func
def shift_of(at: wp.vec3, offset: wp.vec3, lens: wp.vec4):
    """Where a point is seen, in pixels from where its convex's centroid `at` is seen."""
    z = at[2]
    depth = (z + offset[2]) * z
    return wp.vec2(
        lens[0] * (offset[0] * z - at[0] * offset[2]) / depth, lens[1] * (offset[1] * z - at[1] * offset[2]) / depth
    )


@wp.func
def cut_hull(
    points: wp.array2d(dtype=wp.vec3), view: wp.mat44, lens: wp.vec4, i: int, middle: wp.vec3, at: wp.vec3, start: wp.vec2, near: float,
    g: int, edges: wp.array2d(dtype=wp.vec3), ring: wp.array2d(dtype=wp.int32),
):  # fmt: skip
    """Ring and edges of a convex that the near plane cuts: how many; 0 without an area, -1 where a corner is too far away.

    The hull of the points beyond the plane and of where segments from them to the others meet it. Of K points, at most K - 1 are beyond,
    and at most 2 K - 4 edges of their polytope cross (they make a planar graph of two sides): no more than 3 K - 5 corners are seen.
    """
    n = points.shape[1]
    xs = many_floats()
    ys = many_floats()
    codes = many_ints()
    total = int(0)
    for a in range(n):
        if at[2] + wp.transform_vector(view, points[i, a] - middle)[2] >= near:
            for b in range(n):
                behind = at[2] + wp.transform_vector(view, points[i, b] - middle)[2] < near
                if behind or b == a:
                    spot = shift_of(at, offset_of(points, view, i, middle, near, at[2], 16 * a + b), lens) + start
                    if not (wp.abs(spot[0]) < 1.0e7 and wp.abs(spot[1]) < 1.0e7):
                        return -1
                    xs[total] = spot[0]
                    ys[total] = spot[1]
                    codes[total] = 16 * a + b
                    total += 1
    most_x = float(xs[0])
    least_x = float(xs[0])
    most_y = float(ys[0])
    least_y = float(ys[0])
    for k in range(total):
        most_x = wp.max(most_x, xs[k])
        least_x = wp.min(least_x, xs[k])
        most_y = wp.max(most_y, ys[k])
        least_y = wp.min(least_y, ys[k])
    chain, m = hull_of_cut(xs, ys, total)
    if m < 3 or m > edges.shape[1] or wp.max(most_x - least_x, most_y - least_y) < LEAST:
        return 0
    for k in range(m):
        p = chain[k]
        q = chain[(k + 1) % m]
        ring[g, k] = codes[p]
        edges[g, k] = wp.vec3(ys[q] - ys[p], xs[p] - xs[q], xs[q] * ys[p] - xs[p] * ys[q])
    return m
