"""The Warp source of `rasterize.py` that walks convexes: projection, hull, exact support, and the adjoint.

For CPU and CUDA. Imported only where Warp is installed; Warp reads the annotations, so they are not deferred. `reference.py` is what
all this is tested against.
"""

# ruff: noqa: UP018, RUF046 (Warp takes int(0) for a variable and 0 for a constant)

# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

import warp as wp

from surefoot.splatting.warp_hull import LEAST, cut_hull, floats, hull, offset_of, shift_of
from surefoot.splatting.warp_lists import SLACK, key_of

wp.set_module_options({"enable_backward": False})

MOST_CORNERS = wp.constant(20)  # of the image's rectangle cut by sixteen half-planes
MOST_CUTS = wp.constant(16)
HARDEST = wp.constant(
    1e15
)  # z delta and z sigma at most: products of the two stay finite, and no pixel is off an edge by so little
corners = wp.types.vector(length=20, dtype=wp.float32)


@wp.kernel(enable_backward=False)
def prepare(
    first: int,
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
    clip: int,
    tile: int,
    edges: wp.array2d(dtype=wp.vec3),
    ring: wp.array2d(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    box: wp.array(dtype=wp.vec4i),
    soft: wp.array(dtype=wp.vec4),
    key: wp.array(dtype=wp.int64),
    status: wp.array(dtype=wp.int32),
):
    """All of `count` (of edges; negative where the convex is hidden, by status 3), `key` and `status` is set, the rest where there are edges."""
    g = first + wp.tid()
    number = points.shape[0]
    n = points.shape[1]
    c = g // number
    i = g - c * number
    view = views[c]
    lens = lenses[c]
    count[g] = 0
    key[g] = key_of(wp.inf, g)
    status[g] = 1
    middle = wp.vec3()
    for k in range(n):
        middle += points[i, k]
    middle = middle / float(n)
    at = wp.transform_point(view, middle)
    z = at[2]
    o = opacity[i]
    nearest = float(wp.inf)
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
        spot = shift_of(at, offset, lens)
        xs[k] = (u - ox) + spot[0]
        ys[k] = (v - oy) + spot[1]
    if z <= near or (published == 0 and clip == 0 and nearest <= 0.01 * near):
        return
    m = int(0)
    if clip == 1 and nearest < near:
        nearest = near
        m = cut_hull(points, view, lens, i, middle, at, wp.vec2(u - ox, v - oy), near, g, edges, ring)
        if m < 0:
            return
        if m == 0:
            status[g] = 2
            return
    else:
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
        chain, around = hull(xs, ys, n)
        m = around
        if m < 3 or wp.max(most_x - least_x, most_y - least_y) < LEAST:
            status[g] = 2
            return
        for k in range(m):
            p = chain[k]
            q = chain[(k + 1) % m]
            ring[g, k] = 17 * p
            edges[g, k] = wp.vec3(ys[q] - ys[p], xs[p] - xs[q], xs[q] * ys[p] - xs[p] * ys[q])
    status[g] = 3
    count[g] = -m
    a = wp.min(z * delta[i] * sharpen[c], HARDEST)
    s = wp.min(z * sigma[i], HARDEST)
    limit = float(wp.inf)
    if tau > 0.0 and o > tau:
        limit = wp.log(o / tau - 1.0)
    margin = limit / (a * s)
    origin[g] = wp.vec2(ox, oy)
    soft[g] = wp.vec4(a, s, o, limit)
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
        for k in range(wp.min(m, MOST_CUTS)):  # fewer half-planes make a larger box
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
    key[g] = key_of(z, g)


@wp.kernel(enable_backward=False)
def unproject(
    first: int,
    points: wp.array2d(dtype=wp.vec3),
    delta: wp.array(dtype=float),
    sigma: wp.array(dtype=float),
    views: wp.array(dtype=wp.mat44),
    lenses: wp.array(dtype=wp.vec4),
    sharpen: wp.array(dtype=float),
    width: int,
    height: int,
    near: float,
    published: int,
    depth_gradient: int,
    ring: wp.array2d(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    origin: wp.array(dtype=wp.vec2),
    gather: int,
    pairs: wp.array(dtype=wp.int32),
    places: wp.array(dtype=wp.int32),
    slots: wp.array2d(dtype=wp.vec3),
    total: wp.array2d(dtype=wp.vec3),
    d_colors: wp.array(dtype=wp.vec3),
    d_points: wp.array2d(dtype=wp.vec3),
    d_delta: wp.array(dtype=float),
    d_sigma: wp.array(dtype=float),
    d_opacity: wp.array(dtype=float),
):
    """The adjoint of `prepare`: a thread is a primitive, and adds over the cameras.

    `total` holds the sums of colour, of opacity, z sigma and z delta, then of dL/dd (x, y, 1) of each edge; with `gather` it is added up
    here first, from the primitive's slots in the order of its tiles.
    """
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
            soften = wp.min(delta[i] * sharpen[c], HARDEST)
            sharp = wp.min(sigma[i], HARDEST)
            if gather == 1:
                for k in range(m + 2):
                    total[g, k] = wp.vec3()
                for pair in range(pairs[g], pairs[g + 1]):
                    for k in range(m + 2):
                        total[g, k] = total[g, k] + slots[places[pair], k]
            d_colors[g] = total[g, 0]
            d_o = total[g, 1][0]
            d_s = total[g, 1][1]
            d_a = total[g, 1][2]
            d_opacity[i] = d_opacity[i] + d_o
            d_sigma[i] = d_sigma[i] + z * d_s
            d_delta[i] = d_delta[i] + z * d_a * sharpen[c]
            d_z = float(0.0)
            if depth_gradient == 1:
                d_z = (sharp * d_s + soften * d_a) / float(n)
            start = wp.vec2(lens[0] * at[0] / z + lens[2] - origin[g][0], lens[1] * at[1] / z + lens[3] - origin[g][1])
            lx = floats()
            ly = floats()
            lz = floats()
            before = start + shift_of(at, offset_of(points, view, i, middle, near, z, ring[g, m - 1]), lens)
            here = start + shift_of(at, offset_of(points, view, i, middle, near, z, ring[g, 0]), lens)
            for k in range(m):
                code = ring[g, k]
                after = start + shift_of(at, offset_of(points, view, i, middle, near, z, ring[g, (k + 1) % m]), lens)
                h = (k + m - 1) % m  # the edge that ends here, and k begins
                ours = total[g, 2 + k]
                theirs = total[g, 2 + h]
                gx = (ours[1] - ours[2] * after[1]) - (theirs[1] - theirs[2] * before[1])
                gy = (ours[2] * after[0] - ours[0]) - (theirs[2] * before[0] - theirs[0])
                before = here
                here = after
                if published == 1:
                    gx = gx * 2.0 / float(width)
                    gy = gy * 2.0 / float(height)
                gx = gx * lens[0]
                gy = gy * lens[1]
                p = code // 16
                q = code % 16
                local = wp.transform_point(view, points[i, p])
                if p == q:
                    inverse = 1.0 / local[2]
                    lx[p] = lx[p] + gx * inverse
                    ly[p] = ly[p] + gy * inverse
                    lz[p] = lz[p] - (gx * local[0] + gy * local[1]) * inverse * inverse
                else:
                    step = wp.transform_vector(view, points[i, q] - points[i, p])
                    share = (near - local[2]) / step[2]
                    gx = gx / near
                    gy = gy / near
                    slope = (gx * step[0] + gy * step[1]) / step[2]
                    lx[p] = lx[p] + (1.0 - share) * gx
                    ly[p] = ly[p] + (1.0 - share) * gy
                    lz[p] = lz[p] - (1.0 - share) * slope
                    lx[q] = lx[q] + share * gx
                    ly[q] = ly[q] + share * gy
                    lz[q] = lz[q] - share * slope
            for k in range(n):
                d_local = wp.vec3(lx[k], ly[k], lz[k] + d_z)
                back = wp.vec3(
                    view[0, 0] * d_local[0] + view[1, 0] * d_local[1] + view[2, 0] * d_local[2],
                    view[0, 1] * d_local[0] + view[1, 1] * d_local[1] + view[2, 1] * d_local[2],
                    view[0, 2] * d_local[0] + view[1, 2] * d_local[1] + view[2, 2] * d_local[2],
                )
                d_points[i, k] = d_points[i, k] + back
