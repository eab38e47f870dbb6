"""The Warp source of `rasterize.py` for tiles: which convexes each lists, and what those it does not list could add.

For CPU and CUDA. Imported only where Warp is installed; Warp reads the annotations, so they are not deferred.
"""

# ruff: noqa: UP018, RUF046 (Warp takes int(0) for a variable and 0 for a constant)

# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import warp as wp

wp.set_module_options({"enable_backward": False})

SLACK = wp.constant(1e-5)  # of culling tests, relative to the terms of d: far above their rounding errors


@wp.func
def key_of(depth: float, g: int):
    """What sorts primitives by depth (positive, or infinite), then by number."""
    return (wp.int64(wp.cast(depth, wp.int32)) << wp.int64(32)) + wp.int64(g)


@wp.func
def primitive_of(key: wp.int64):
    return wp.int32(key & wp.int64(0x7FFFFFFF))


@wp.func
def nearest_of_tile(
    edges: wp.array2d(dtype=wp.vec3), g: int, m: int, x0: float, x1: float, y0: float, y1: float, margin: float
):
    """A lower bound of max_k d_k - margin over a rectangle (local coordinates), less its own rounding errors."""
    best = float(-wp.inf)
    for k in range(m):
        e = edges[g, k]
        least = wp.min(e[0] * x0, e[0] * x1) + wp.min(e[1] * y0, e[1] * y1) + e[2]
        scale = (
            wp.abs(e[0]) * wp.max(wp.abs(x0), wp.abs(x1))
            + wp.abs(e[1]) * wp.max(wp.abs(y0), wp.abs(y1))
            + wp.abs(e[2])
            + wp.abs(margin)
        )
        best = wp.max(best, least - margin - SLACK * scale)
    return best


@wp.func
def keeps(
    edges: wp.array2d(dtype=wp.vec3), g: int, m: int, origin: wp.vec2, soft: wp.vec4, tx: int, ty: int, tile: int,
    published: int,
):  # fmt: skip
    """Whether a tile can hold a pixel of alpha >= tau."""
    if published > 0 or not (soft[3] < wp.inf):
        return True
    x0 = float(tx * tile) - origin[0]
    y0 = float(ty * tile) - origin[1]
    size = float(tile - 1)
    return nearest_of_tile(edges, g, m, x0, x0 + size, y0, y0 + size, soft[3] / (soft[0] * soft[1])) <= 0.0


@wp.kernel(enable_backward=False)
def list_chunks(
    first: int,
    keys: wp.array(dtype=wp.int64),
    edges: wp.array2d(dtype=wp.vec3),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    box: wp.array(dtype=wp.vec4i),
    soft: wp.array(dtype=wp.vec4),
    number: int,
    across: int,
    down: int,
    tile: int,
    published: int,
    each: int,
    fill: int,
    places: wp.array2d(dtype=wp.int32),
    pairs: wp.array(dtype=wp.int32),
    ids: wp.array(dtype=wp.int32),
    slots: wp.array(dtype=wp.int32),
):
    """CPU: a thread owns a chunk of `each` primitives in depth order.

    First `places` receives how many of them each tile lists, and `pairs` how many tiles list each of them. Then `places` comes in as where
    the chunk's part of each tile's list begins, and `pairs` as where each primitive's slots do: `ids` receives the lists, `slots` their places
    of each primitive, tile by tile.
    """
    chunk = first + wp.tid()
    for rank in range(chunk * each, wp.min((chunk + 1) * each, keys.shape[0])):
        g = primitive_of(keys[rank])
        m = count[g]
        if m > 0:
            c = rank // number
            b = box[g]
            kept = int(0)
            for ty in range(b[2] // tile, b[3] // tile + 1):
                for tx in range(b[0] // tile, b[1] // tile + 1):
                    if keeps(edges, g, m, origin[g], soft[g], tx, ty, tile, published):
                        t = (c * down + ty) * across + tx
                        if fill == 1:
                            ids[places[chunk, t]] = g
                            slots[pairs[g] + kept] = places[chunk, t]
                        places[chunk, t] = places[chunk, t] + 1
                        kept += 1
            if fill == 0:
                pairs[g] = kept


@wp.kernel(enable_backward=False)
def list_pairs(
    first: int,
    keys: wp.array(dtype=wp.int64),
    edges: wp.array2d(dtype=wp.vec3),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    box: wp.array(dtype=wp.vec4i),
    soft: wp.array(dtype=wp.vec4),
    number: int,
    across: int,
    down: int,
    tile: int,
    published: int,
    fill: int,
    places: wp.array(dtype=wp.int32),
    ids: wp.array(dtype=wp.int32),
    tiles: wp.array(dtype=wp.int32),
):
    """CUDA: a thread is a primitive in depth order; a stable sort by tile follows. First counts, then fills."""
    rank = first + wp.tid()
    g = primitive_of(keys[rank])
    m = count[g]
    kept = int(0)
    if m > 0:
        c = rank // number
        b = box[g]
        start = int(0)
        if fill == 1:
            start = places[rank]
        for ty in range(b[2] // tile, b[3] // tile + 1):
            for tx in range(b[0] // tile, b[1] // tile + 1):
                if keeps(edges, g, m, origin[g], soft[g], tx, ty, tile, published):
                    if fill == 1:
                        ids[start + kept] = g
                        tiles[start + kept] = (c * down + ty) * across + tx
                    kept += 1
    if fill == 0:
        places[rank] = kept


@wp.kernel(enable_backward=False)
def bound_unlisted(
    first: int,
    edges: wp.array2d(dtype=wp.vec3),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    soft: wp.array(dtype=wp.vec4),
    status: wp.array(dtype=wp.int32),
    box: wp.array(dtype=wp.vec4i),
    number: int,
    across: int,
    down: int,
    tile: int,
    tau: float,
    total: wp.array(dtype=float),
):
    """For each tile, the sum over primitives that are not in its list of min(tau, o sigmoid(-z^2 sigma delta min max_k d_k)) >= alpha."""
    t = first + wp.tid()
    c = t // (across * down)
    ty = (t // across) % down
    tx = t % across
    bound = float(0.0)
    for i in range(number):
        g = c * number + i
        m = wp.abs(count[g])
        listed = bool(False)
        q = soft[g]
        if status[g] == 0:
            b = box[g]
            if tx >= b[0] // tile and tx <= b[1] // tile and ty >= b[2] // tile and ty <= b[3] // tile:
                listed = keeps(edges, g, m, origin[g], q, tx, ty, tile, 0)
        if (status[g] == 0 and not listed) or status[g] == 3:
            x0 = float(tx * tile) - origin[g][0]
            y0 = float(ty * tile) - origin[g][1]
            size = float(tile - 1)
            near = nearest_of_tile(edges, g, m, x0, x0 + size, y0, y0 + size, 0.0)
            bound += wp.min(tau, q[2] / (1.0 + wp.exp(wp.clamp(q[0] * q[1] * near, -80.0, 80.0))))
    total[t] = bound
