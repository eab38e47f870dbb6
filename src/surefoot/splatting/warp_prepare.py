"""The Warp source of `rasterize.py` that walks convexes: projection, hull, exact support, lists of tiles, and the adjoint.

For CPU and CUDA. Imported only where Warp is installed; Warp reads the annotations, so they are not deferred. `reference.py` is what
all this is tested against.
"""

# ruff: noqa: UP018, RUF046 (Warp takes int(0) for a variable and 0 for a constant)

# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import warp as wp

wp.set_module_options({"enable_backward": False})

MOST_CORNERS = wp.constant(20)  # of the image's rectangle cut by sixteen half-planes
TURN = wp.constant(1e-5)  # sine of a turn that counts as straight
SLACK = wp.constant(1e-5)  # of culling tests, relative to the terms of d: far above their rounding errors
LEAST = wp.constant(1e-4)  # pixels; a smaller shadow has no area

ints = wp.types.vector(length=16, dtype=wp.int32)
floats = wp.types.vector(length=16, dtype=wp.float32)
corners = wp.types.vector(length=20, dtype=wp.float32)


@wp.func
def turn_of(ax: float, ay: float, bx: float, by: float):
    """The cross product of a and b; 0 where the turn is straight within `TURN`."""
    cross = ax * by - ay * bx
    size = wp.sqrt((ax * ax + ay * ay) * (bx * bx + by * by))
    if wp.abs(cross) <= TURN * size:
        return 0.0
    return cross


@wp.func
def hull(xs: floats, ys: floats, n: int):
    """Monotone chain: indices of the strict hull in positive turn, and how many."""
    order = ints()
    for i in range(n):
        j = int(i)
        while j > 0:
            p = order[j - 1]
            if xs[p] < xs[i] or (xs[p] == xs[i] and ys[p] <= ys[i]):
                break
            order[j] = p
            j -= 1
        order[j] = i
    chain = ints()
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
        if m < 16:
            chain[m] = at
            m += 1
        else:
            m = 17  # the closing point of a hull of sixteen
    if m == 17:
        m = 16
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


@wp.kernel(enable_backward=False)
def prepare(
    points: wp.array2d(dtype=wp.vec3),
    delta: wp.array(dtype=float),
    sigma: wp.array(dtype=float),
    opacity: wp.array(dtype=float),
    views: wp.array(dtype=wp.mat44),
    lenses: wp.array(dtype=wp.vec4),
    sharpen: wp.array(dtype=float),
    width: int,
    height: int,
    near: float,
    tau: float,
    published: int,
    tile: int,
    first: int,
    edges: wp.array2d(dtype=wp.vec3),
    ring: wp.array2d(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    box: wp.array(dtype=wp.vec4i),
    soft: wp.array(dtype=wp.vec4),
    depth: wp.array(dtype=float),
    reach: wp.array(dtype=wp.vec2),
    status: wp.array(dtype=wp.int32),
):
    g = first + wp.tid()
    number = points.shape[0]
    n = points.shape[1]
    c = g // number
    i = g - c * number
    view = views[c]
    lens = lenses[c]
    count[g] = 0
    depth[g] = wp.inf
    status[g] = 1
    middle = wp.vec3()
    for k in range(n):
        middle += points[i, k]
    middle = middle / float(n)
    at = wp.transform_point(view, middle)
    z = at[2]
    o = opacity[i]
    nearest = float(wp.inf)
    farthest = float(-wp.inf)
    xs = floats()
    ys = floats()
    u = lens[0] * at[0] / z + lens[2]
    v = lens[1] * at[1] / z + lens[3]
    ox = wp.round(u)
    oy = wp.round(v)
    for k in range(n):
        offset = wp.transform_vector(view, points[i, k] - middle)
        zk = z + offset[2]
        nearest = wp.min(nearest, zk)
        farthest = wp.max(farthest, zk)
        xs[k] = (u - ox) + lens[0] * (offset[0] * z - at[0] * offset[2]) / (zk * z)
        ys[k] = (v - oy) + lens[1] * (offset[1] * z - at[1] * offset[2]) / (zk * z)
    if z <= near or (published == 0 and nearest <= 0.01 * near):
        return
    most_x = float(xs[0])
    least_x = float(xs[0])
    most_y = float(ys[0])
    least_y = float(ys[0])
    for k in range(n):
        if not (wp.abs(xs[k]) < 1.0e7 and wp.abs(ys[k]) < 1.0e7):
            return
        most_x = wp.max(most_x, xs[k])
        least_x = wp.min(least_x, xs[k])
        most_y = wp.max(most_y, ys[k])
        least_y = wp.min(least_y, ys[k])
    chain, m = hull(xs, ys, n)
    if m < 3 or wp.max(most_x - least_x, most_y - least_y) < LEAST:
        status[g] = 2
        return
    status[g] = 3
    a = z * delta[i] * sharpen[c]
    s = z * sigma[i]
    limit = float(wp.inf)
    if tau > 0.0 and o > tau:
        limit = wp.log(o / tau - 1.0)
    margin = limit / (a * s)
    origin[g] = wp.vec2(ox, oy)
    soft[g] = wp.vec4(a, s, o, limit)
    reach[g] = wp.vec2(nearest, farthest)
    for k in range(m):
        p = chain[k]
        q = chain[(k + 1) % m]
        ring[g, k] = p
        edges[g, k] = wp.vec3(ys[q] - ys[p], xs[p] - xs[q], xs[q] * ys[p] - xs[p] * ys[q])
    if o <= tau:
        return
    left = -ox
    right = float(width - 1) - ox
    top = -oy
    bottom = float(height - 1) - oy
    if published == 1:
        cx = u - ox
        cy = v - oy
        far = float(0.0)
        for k in range(n):
            far = wp.max(far, wp.sqrt((xs[k] - cx) * (xs[k] - cx) + (ys[k] - cy) * (ys[k] - cy)))
        if far > 10000.0:
            return
        total = float(0.0)
        pairs = int(0)
        for k in range(1, m):
            e = edges[g, k - 1]
            f = edges[g, k]
            cross = e[0] * f[1] - e[1] * f[0]
            angle = wp.atan2(cross, e[0] * f[0] + e[1] * f[1])
            if angle > 0.1 and angle < 3.0:
                shift = 2.1 / (a * s)
                e2 = shift - e[2]
                f2 = shift - f[2]
                off_x = (e2 * f[1] - f2 * e[1]) / cross - cx
                off_y = (e[0] * f2 - f[0] * e2) / cross - cy
                total += wp.sqrt(off_x * off_x + off_y * off_y)
                pairs += 1
        if pairs == 0:
            return
        radius = wp.ceil(wp.max(1.1 * far, total / float(pairs)))
        side = float(tile)
        low_x = wp.floor((u - radius) / side) * side
        high_x = wp.floor((u + radius) / side) * side + side - 1.0
        low_y = wp.floor((v - radius) / side) * side
        high_y = wp.floor((v + radius) / side) * side + side - 1.0
        if high_x < 0.0 or high_y < 0.0 or low_x > float(width - 1) or low_y > float(height - 1):
            return
        box[g] = wp.vec4i(
            int(wp.max(low_x, 0.0)),
            int(wp.min(high_x, float(width - 1))),
            int(wp.max(low_y, 0.0)),
            int(wp.min(high_y, float(height - 1))),
        )
    elif margin < wp.inf and published == 0:
        px = corners()
        py = corners()
        px[0] = left
        px[1] = right
        px[2] = right
        px[3] = left
        py[0] = top
        py[1] = top
        py[2] = bottom
        py[3] = bottom
        size = int(4)
        wide = wp.max(wp.abs(left), wp.abs(right))
        tall = wp.max(wp.abs(top), wp.abs(bottom))
        for k in range(m):
            e = edges[g, k]
            most = margin + SLACK * (wp.abs(e[0]) * wide + wp.abs(e[1]) * tall + wp.abs(e[2]) + wp.abs(margin))
            nx = corners()
            ny = corners()
            fresh = int(0)
            for j in range(size):
                h = (j + 1) % size
                dj = e[0] * px[j] + e[1] * py[j] + e[2] - most
                dh = e[0] * px[h] + e[1] * py[h] + e[2] - most
                if dj <= 0.0 and fresh < MOST_CORNERS:
                    nx[fresh] = px[j]
                    ny[fresh] = py[j]
                    fresh += 1
                if (dj <= 0.0) != (dh <= 0.0) and fresh < MOST_CORNERS:
                    t = dj / (dj - dh)
                    nx[fresh] = px[j] + t * (px[h] - px[j])
                    ny[fresh] = py[j] + t * (py[h] - py[j])
                    fresh += 1
            px = nx
            py = ny
            size = fresh
            if size == 0:
                return
        x0 = float(px[0])
        x1 = float(px[0])
        y0 = float(py[0])
        y1 = float(py[0])
        for j in range(1, size):
            x0 = wp.min(x0, px[j])
            x1 = wp.max(x1, px[j])
            y0 = wp.min(y0, py[j])
            y1 = wp.max(y1, py[j])
        box[g] = wp.vec4i(
            wp.max(int(wp.floor(x0 + ox - 0.01)), 0),
            wp.min(int(wp.ceil(x1 + ox + 0.01)), width - 1),
            wp.max(int(wp.floor(y0 + oy - 0.01)), 0),
            wp.min(int(wp.ceil(y1 + oy + 0.01)), height - 1),
        )
    else:
        box[g] = wp.vec4i(0, width - 1, 0, height - 1)
    status[g] = 0
    count[g] = m
    depth[g] = z


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
def list_rows(
    order: wp.array(dtype=wp.int32),
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
    first: int,
    fill: int,
    places: wp.array(dtype=wp.int32),
    ids: wp.array(dtype=wp.int32),
):
    """CPU: a thread owns a row of tiles and walks all primitives in depth order, so lists come out sorted. First counts, then fills."""
    band = first + wp.tid()
    c = band // down
    ty = band - c * down
    for rank in range(number):
        g = order[c * number + rank]
        m = count[g]
        if m == 0:
            return  # the hidden ones come last
        b = box[g]
        if ty < b[2] // tile or ty > b[3] // tile:
            continue
        for tx in range(b[0] // tile, b[1] // tile + 1):
            if keeps(edges, g, m, origin[g], soft[g], tx, ty, tile, published):
                t = band * across + tx
                if fill == 1:
                    ids[places[t]] = g
                places[t] = places[t] + 1


@wp.kernel(enable_backward=False)
def list_pairs(
    order: wp.array(dtype=wp.int32),
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
    first: int,
    fill: int,
    places: wp.array(dtype=wp.int32),
    ids: wp.array(dtype=wp.int32),
    tiles: wp.array(dtype=wp.int32),
):
    """CUDA: a thread is a primitive in depth order; a stable sort by tile follows. First counts, then fills."""
    rank = first + wp.tid()
    g = order[rank]
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
def gather_slots(
    slots: wp.array2d(dtype=float),
    ids: wp.array(dtype=wp.int32),
    pairs: int,
    each: int,
    first: int,
    total: wp.array2d(dtype=float),
):
    """CPU: a thread owns `each` primitives and adds their pairs' slots in the order of the pairs."""
    lowest = (first + wp.tid()) * each
    for p in range(pairs):
        g = ids[p]
        if g >= lowest and g < lowest + each:
            for f in range(slots.shape[1]):
                total[g, f] = total[g, f] + slots[p, f]


@wp.kernel(enable_backward=False)
def unproject(
    points: wp.array2d(dtype=wp.vec3),
    delta: wp.array(dtype=float),
    sigma: wp.array(dtype=float),
    views: wp.array(dtype=wp.mat44),
    lenses: wp.array(dtype=wp.vec4),
    sharpen: wp.array(dtype=float),
    width: int,
    height: int,
    published: int,
    depth_gradient: int,
    first: int,
    ring: wp.array2d(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    total: wp.array2d(dtype=float),
    d_points: wp.array2d(dtype=wp.vec3),
    d_delta: wp.array(dtype=float),
    d_sigma: wp.array(dtype=float),
    d_opacity: wp.array(dtype=float),
):
    """The adjoint of `prepare`: a thread is a primitive, and adds over the cameras."""
    i = first + wp.tid()
    number = points.shape[0]
    n = points.shape[1]
    middle = wp.vec3()
    for k in range(n):
        middle += points[i, k]
    middle = middle / float(n)
    for c in range(views.shape[0]):
        g = c * number + i
        m = count[g]
        if m > 0:
            view = views[c]
            lens = lenses[c]
            at = wp.transform_point(view, middle)
            z = at[2]
            soften = delta[i] * sharpen[c]
            d_o = total[g, 3 * n + 3]
            d_s = total[g, 3 * n + 4]
            d_a = total[g, 3 * n + 5]
            d_opacity[i] = d_opacity[i] + d_o
            d_sigma[i] = d_sigma[i] + z * d_s
            d_delta[i] = d_delta[i] + z * d_a * sharpen[c]
            d_z = float(0.0)
            if depth_gradient == 1:
                d_z = (sigma[i] * d_s + soften * d_a) / float(n)
            u = lens[0] * at[0] / z + lens[2] - origin[g][0]
            v = lens[1] * at[1] / z + lens[3] - origin[g][1]
            xs = floats()
            ys = floats()
            dx = floats()
            dy = floats()
            for k in range(n):
                offset = wp.transform_vector(view, points[i, k] - middle)
                zk = z + offset[2]
                xs[k] = u + lens[0] * (offset[0] * z - at[0] * offset[2]) / (zk * z)
                ys[k] = v + lens[1] * (offset[1] * z - at[1] * offset[2]) / (zk * z)
            for k in range(m):
                p = ring[g, k]
                q = ring[g, (k + 1) % m]
                a = total[g, 3 * k]
                b = total[g, 3 * k + 1]
                e = total[g, 3 * k + 2]
                dx[p] = dx[p] + (b - e * ys[q])
                dy[p] = dy[p] + (e * xs[q] - a)
                dx[q] = dx[q] + (e * ys[p] - b)
                dy[q] = dy[q] + (a - e * xs[p])
            for k in range(n):
                gx = dx[k]
                gy = dy[k]
                if published == 1:
                    gx = gx * 2.0 / float(width)
                    gy = gy * 2.0 / float(height)
                local = wp.transform_point(view, points[i, k])
                inverse = 1.0 / local[2]
                d_local = wp.vec3(
                    gx * lens[0] * inverse,
                    gy * lens[1] * inverse,
                    d_z - (gx * lens[0] * local[0] + gy * lens[1] * local[1]) * inverse * inverse,
                )
                back = wp.vec3(
                    view[0, 0] * d_local[0] + view[1, 0] * d_local[1] + view[2, 0] * d_local[2],
                    view[0, 1] * d_local[0] + view[1, 1] * d_local[1] + view[2, 1] * d_local[2],
                    view[0, 2] * d_local[0] + view[1, 2] * d_local[1] + view[2, 2] * d_local[2],
                )
                d_points[i, k] = d_points[i, k] + back


@wp.kernel(enable_backward=False)
def bound_unlisted(
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
    first: int,
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
        m = int(count[g])
        listed = bool(False)
        q = soft[g]
        if status[g] == 0:
            b = box[g]
            if tx >= b[0] // tile and tx <= b[1] // tile and ty >= b[2] // tile and ty <= b[3] // tile:
                listed = keeps(edges, g, m, origin[g], q, tx, ty, tile, 0)
        if (status[g] == 0 and not listed) or status[g] == 3:
            if status[g] == 3:
                m = int(0)
                for k in range(edges.shape[1]):
                    e = edges[g, k]
                    if e[0] != 0.0 or e[1] != 0.0:
                        m += 1
            x0 = float(tx * tile) - origin[g][0]
            y0 = float(ty * tile) - origin[g][1]
            size = float(tile - 1)
            near = nearest_of_tile(edges, g, m, x0, x0 + size, y0, y0 + size, 0.0)
            bound += wp.min(tau, q[2] / (1.0 + wp.exp(wp.clamp(q[0] * q[1] * near, -80.0, 80.0))))
    total[t] = bound
