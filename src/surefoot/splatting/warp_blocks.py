"""The Warp source of `rasterize.py` for CUDA that walks pixels backwards: gradients are summed over a block before any is added in memory.

A thread is a pixel, a block 32 neighbouring ones of a tile: one warp, so that sums need no barrier. All of a block walk their tile's list
from the last convex that any of them shows; a convex that none shows is passed over, and of one that some show, the block adds each edge's
and each parameter's sum once, instead of 3 m + 6 additions a pixel. On the CPU the same source runs with blocks of one
(which the tests do), but there the strips of `warp_shade.py` are faster.
"""

# ruff: noqa: UP018 (Warp takes int(0) for a variable and 0 for a constant)
# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import warp as wp

wp.set_module_options({"enable_backward": False})

BLOCK = 32
CLAMP = wp.constant(0.99)


@wp.func
def add_sum(total: wp.array(dtype=wp.vec3), place: int, value: wp.vec3):
    """Adds the sum of `value` over the block."""
    wp.tile_atomic_add(total, wp.tile_sum(wp.tile(value, preserve_type=True)), offset=(place,))


@wp.kernel(enable_backward=False)
def backward_blocks(
    starts: wp.array(dtype=wp.int32),
    ids: wp.array(dtype=wp.int32),
    edges: wp.array2d(dtype=wp.vec3),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    box: wp.array(dtype=wp.vec4i),
    soft: wp.array(dtype=wp.vec4),
    colors: wp.array(dtype=wp.vec3),
    background: wp.array(dtype=wp.vec3),
    across: int,
    down: int,
    tile: int,
    width: int,
    height: int,
    published: int,
    tau: float,
    transmittance: wp.array(dtype=float),
    last: wp.array(dtype=wp.int32),
    d_image: wp.array(dtype=wp.vec3),
    d_left: wp.array(dtype=float),
    total: wp.array(dtype=wp.vec3),
):
    """Back to front, as `warp_shade.backward`. `transmittance` is that at the end. `total` receives, for each convex, the sums of
    colour, of opacity, z sigma and z delta, then of dL/dd (x, y, 1) of its edges."""
    at = wp.tid()
    pixels = tile * tile
    t = at // pixels
    inner = at - t * pixels
    c = t // (across * down)
    i = (t % across) * tile + inner % tile
    j = ((t // across) % down) * tile + inner // tile
    column = float(i)
    row = float(j)
    wide = edges.shape[1]
    begin = starts[t]
    back = background[c]
    clear = float(1.0)
    latest = int(begin)
    front = float(1.0)
    upstream = wp.vec3()
    upstream_left = float(0.0)
    if i < width and j < height:
        pixel = (c * height + j) * width + i
        latest = last[pixel]
        front = transmittance[pixel]
        upstream = d_image[pixel]
        upstream_left = d_left[pixel]
    until = wp.tile_max(wp.tile(latest))[0]
    for step in range(until - begin):
        p = until - 1 - step
        g = ids[p]
        m = count[g]
        q = soft[g]
        a = q[0]
        s = q[1]
        o = q[2]
        x = column - origin[g][0]
        y = row - origin[g][1]
        alpha = float(0.0)
        inside = float(0.0)
        top = float(-3.0e38)
        phi = float(0.0)
        scale = float(0.0)
        if p < latest:
            for k in range(m):
                e = edges[g, k]
                top = wp.max(top, e[0] * x + e[1] * y + e[2])
            if top * a * s <= q[3]:
                for k in range(m):
                    e = edges[g, k]
                    scale += wp.exp((e[0] * x + e[1] * y + e[2] - top) * a)
                phi = top * a + wp.log(scale)
                inside = 1.0 / (1.0 + wp.exp(wp.clamp(s * phi, -80.0, 80.0)))
                alpha = wp.min(CLAMP, o * inside)
                if alpha < tau:
                    alpha = 0.0
        if wp.tile_max(wp.tile(alpha))[0] > 0.0:
            color = colors[g]
            kept = 1.0 - alpha
            front = front / kept
            change = front * (wp.dot(color - back, upstream) - clear * upstream_left)
            d_shade = alpha * front * upstream
            back = alpha * color + kept * back
            clear = kept * clear
            if alpha == 0.0 or (published == 0 and o * inside > CLAMP):
                change = 0.0
            d_u = change * o * inside * (inside - 1.0)
            d_phi = float(0.0)
            if alpha > 0.0:
                d_phi = d_u * s / scale
            d_a = float(0.0)
            for k in range(m):
                e = edges[g, k]
                d = e[0] * x + e[1] * y + e[2]
                share = float(0.0)
                if alpha > 0.0:
                    share = d_phi * wp.exp((d - top) * a)
                    d_a += share * d
                    share = share * a
                add_sum(total, g * (wide + 2) + 2 + k, wp.vec3(share * x, share * y, share))
            add_sum(total, g * (wide + 2), d_shade)
            add_sum(total, g * (wide + 2) + 1, wp.vec3(change * inside, d_u * phi, d_a))
