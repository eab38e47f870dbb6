"""The Warp source of `rasterize.py` that walks pixels: compositing and its adjoint, written by hand.

A *strip* is `LANES` neighbouring pixels of a row: sixteen on the CPU, where the compiler turns lanes into vector instructions, one on
CUDA, where a thread is a pixel. A tile's strips lie one after another. A thread walks the list of its tile, in depth order, for all
strips that it owns. Imported only where Warp is installed; Warp reads the annotations, so they are not deferred.
"""

# ruff: noqa: UP018, RUF046 (Warp takes int(0) for a variable and 0 for a constant)
# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from types import SimpleNamespace
from typing import Any

import warp as wp

wp.set_module_options({"enable_backward": False})

CLAMP = wp.constant(0.99)
ROUNDING = wp.constant(2.4e-7)  # four roundings to float32, in the error bound


def shading(lanes: int) -> Any:
    """The kernels that walk pixels, for strips of `lanes` pixels."""
    LANES = wp.constant(lanes)
    V = wp.types.vector(length=lanes, dtype=wp.float32)
    Whole = wp.types.vector(length=lanes, dtype=wp.int32)

    @wp.func
    def exponential(x: V):
        """exp for x <= 88, with a relative error of 1e-7; exactly 1 at 0."""
        out = V()
        for lane in range(LANES):
            y = wp.max(x[lane], -87.0)
            n = wp.floor(y * 1.44269504 + 0.5)
            f = y - n * 0.693145751953125
            f = f - n * 1.428606820309417e-06
            p = 1.9875691500e-4
            p = p * f + 1.3981999507e-3
            p = p * f + 8.3334519073e-3
            p = p * f + 4.1665795894e-2
            p = p * f + 1.6666665459e-1
            p = p * f + 5.0000001201e-1
            p = p * f * f + f + 1.0
            out[lane] = p * wp.cast((wp.int32(n) + 127) << 23, wp.float32)
        return out

    @wp.func
    def logarithm(x: V):
        """log for 1 <= x <= 16, with an absolute error of 2e-7."""
        out = V()
        for lane in range(LANES):
            bits = wp.cast(x[lane] * 0.70710678, wp.int32)
            n = (bits >> 23) - 126
            f = x[lane] * wp.cast((127 - n) << 23, wp.float32) - 1.0
            p = 7.0376836292e-2
            p = p * f - 1.1514610310e-1
            p = p * f + 1.1676998740e-1
            p = p * f - 1.2420140846e-1
            p = p * f + 1.4249322787e-1
            p = p * f - 1.6668057665e-1
            p = p * f + 2.0000714765e-1
            p = p * f - 2.4999993993e-1
            p = p * f + 3.3333331174e-1
            out[lane] = f - 0.5 * f * f + f * f * f * p + wp.float32(n) * 0.69314718
        return out

    @wp.func
    def inside_of(phi: V, s: float):
        """sigmoid(-s phi), without overflow."""
        small = V()
        for lane in range(LANES):
            small[lane] = -wp.abs(s * phi[lane])
        small = exponential(small)
        out = V()
        for lane in range(LANES):
            share = 1.0 / (1.0 + small[lane])
            out[lane] = wp.where(phi[lane] <= 0.0, share, small[lane] * share)
        return out

    @wp.func
    def highest(edges: wp.array2d(dtype=wp.vec3), g: int, m: int, x: V, y: float):
        """max_k d_k."""
        top = V(-3.0e38)
        for k in range(m):
            e = edges[g, k]
            d = x * e[0] + V(e[1] * y + e[2])
            for lane in range(LANES):
                top[lane] = wp.where(d[lane] > top[lane], d[lane], top[lane])  # wp.max minds NaN, lane by lane
        return top

    @wp.func
    def rounding_of(edges: wp.array2d(dtype=wp.vec3), g: int, m: int, x: V, y: float, extent: float):
        """The largest sum of the sizes of d_k's terms, and of what its corners, known to a rounding of the image's extent, can move it."""
        most = V(0.0)
        for k in range(m):
            e = edges[g, k]
            rest = wp.abs(e[1] * y) + wp.abs(e[2]) + (wp.abs(e[0]) + wp.abs(e[1])) * extent
            for lane in range(LANES):
                size = wp.abs(e[0] * x[lane]) + rest
                most[lane] = wp.where(size > most[lane], size, most[lane])
        return most

    @wp.func
    def lowest_of(x: V):
        """The least lane."""
        least = x
        for half in range(LANES // 2):
            least[half] = wp.where(x[half + LANES // 2] < x[half], x[half + LANES // 2], x[half])
        out = least[0]
        for lane in range(1, LANES // 2):
            out = wp.where(least[lane] < out, least[lane], out)
        return out

    @wp.func
    def spread(edges: wp.array2d(dtype=wp.vec3), g: int, m: int, x: V, y: float, top: V, a: float):
        """sum_k exp(a (d_k - top))."""
        total = V(0.0)
        for k in range(m):
            e = edges[g, k]
            total = total + exponential((x * e[0] + V(e[1] * y + e[2]) - top) * a)
        return total

    @wp.func
    def lane_sum(x: V):
        total = float(0.0)
        if LANES == 16:
            half = V()
            for lane in range(LANES // 2):
                half[lane] = x[lane] + x[lane + LANES // 2]
            for lane in range(LANES // 4):
                half[lane] = half[lane] + half[lane + LANES // 4]
            for lane in range(LANES // 4):
                total += half[lane]
        else:
            for lane in range(LANES):
                total += x[lane]
        return total

    @wp.kernel(enable_backward=False, module="unique")
    def forward(
        starts: wp.array(dtype=wp.int32),
        ids: wp.array(dtype=wp.int32),
        edges: wp.array2d(dtype=wp.vec3),
        count: wp.array(dtype=wp.int32),
        origin: wp.array(dtype=wp.vec2),
        box: wp.array(dtype=wp.vec4i),
        soft: wp.array(dtype=wp.vec4),
        colors: wp.array(dtype=wp.vec3),
        across: int,
        down: int,
        tile: int,
        strips: int,
        each: int,
        tau: float,
        stop: float,
        published: int,
        bounding: int,
        first: int,
        red: wp.array(dtype=V),
        green: wp.array(dtype=V),
        blue: wp.array(dtype=V),
        left: wp.array(dtype=V),
        last: wp.array(dtype=Whole),
        missed: wp.array(dtype=V),
    ):
        """`left` comes in as 1, or -1 for lanes outside the image; a lane that has stopped is negative."""
        job = wp.tid() + first
        groups = strips // each
        t = job // groups
        begin = (job - t * groups) * each
        ty = (t // across) % down
        tx = t % across
        per_row = strips // tile
        alive = int(each)
        paper = wp.where(published == 1, 1.0, 0.0)
        for p in range(starts[t], starts[t + 1]):
            if alive == 0:
                break
            g = ids[p]
            m = count[g]
            b = box[g]
            q = soft[g]
            a = q[0]
            s = q[1]
            limit = q[3]
            low = begin
            high = begin + each
            if bounding == 0:
                low = wp.max(low, (b[2] - ty * tile) * per_row)
                high = wp.min(high, (b[3] - ty * tile + 1) * per_row)
            for strip in range(low, high):
                at = t * strips + strip
                x0 = float(tx * tile + (strip % per_row) * LANES) - origin[g][0]
                y = float(ty * tile + strip // per_row) - origin[g][1]
                x = V()
                for lane in range(LANES):
                    x[lane] = x0 + float(lane)
                top = highest(edges, g, m, x, y)
                if bounding == 0 and lowest_of(top) * a * s > limit:
                    continue
                T = left[at]
                if lowest_of(-T) >= 0.0:
                    continue
                total = spread(edges, g, m, x, y, top, a)
                inside = inside_of(top * a + logarithm(total), s)
                alpha = V()
                lost = V()
                after = V()
                latest = last[at]
                for lane in range(LANES):
                    value = wp.min(CLAMP, q[2] * inside[lane])
                    value = wp.where(T[lane] > 0.0, value, 0.0)
                    seen = wp.where(value >= tau, value, 0.0)
                    lost[lane] = (value - seen) * T[lane]
                    rest = T[lane] - T[lane] * seen
                    ends = wp.where(rest < stop, seen, 0.0)  # no `and`: it would branch, lane by lane
                    drops = ends * paper
                    seen = wp.where(drops > 0.0, 0.0, seen)
                    rest = wp.where(drops > 0.0, T[lane], rest)
                    after[lane] = wp.where(ends > 0.0, -rest, rest)
                    alpha[lane] = seen * T[lane]
                    latest[lane] = wp.where(seen > 0.0, p + 1, latest[lane])
                color = colors[g]
                red[at] = red[at] + alpha * color[0]
                green[at] = green[at] + alpha * color[1]
                blue[at] = blue[at] + alpha * color[2]
                left[at] = after
                last[at] = latest
                if bounding == 1:
                    off = rounding_of(edges, g, m, x, y, float(across * tile)) * (ROUNDING * q[2] * s * a)
                    for lane in range(LANES):
                        slip = wp.min(off[lane] * inside[lane] * (1.0 - inside[lane]), 1.0)
                        lost[lane] = lost[lane] + wp.where(T[lane] > 0.0, T[lane], 0.0) * slip
                    missed[at] = missed[at] + lost
                if lowest_of(-after) >= 0.0:
                    alive -= 1

    @wp.kernel(enable_backward=False, module="unique")
    def backward(
        starts: wp.array(dtype=wp.int32),
        ids: wp.array(dtype=wp.int32),
        edges: wp.array2d(dtype=wp.vec3),
        count: wp.array(dtype=wp.int32),
        origin: wp.array(dtype=wp.vec2),
        box: wp.array(dtype=wp.vec4i),
        soft: wp.array(dtype=wp.vec4),
        colors: wp.array(dtype=wp.vec3),
        across: int,
        down: int,
        tile: int,
        strips: int,
        each: int,
        tau: float,
        published: int,
        first: int,
        red: wp.array(dtype=V),
        green: wp.array(dtype=V),
        blue: wp.array(dtype=V),
        clear: wp.array(dtype=V),
        left: wp.array(dtype=V),
        last: wp.array(dtype=Whole),
        d_red: wp.array(dtype=V),
        d_green: wp.array(dtype=V),
        d_blue: wp.array(dtype=V),
        d_left: wp.array(dtype=V),
        sums: wp.array2d(dtype=V),
        slots: wp.array2d(dtype=float),
    ):
        """Back to front. `red`, `green`, `blue` hold the colour behind (at first the background), `clear` the transmittance behind
        (at first 1), `left` the transmittance in front of what is behind (at first at the end); all are used up. A pair's slot
        receives, for each edge, the sums of dL/dd (x, y, 1), then of colour, opacity, z sigma, z delta. A job's row of `sums` holds, for
        each edge, those over strips of dL/dd (1, y), and, last, exp(a (d_k - top)) of the strip at hand."""
        job = wp.tid() + first
        groups = strips // each
        t = job // groups
        begin = (job - t * groups) * each
        ty = (t // across) % down
        tx = t % across
        per_row = strips // tile
        points = edges.shape[1]
        most = wp.where(
            published == 1, 2.0, float(CLAMP)
        )  # a clamped alpha has no gradient, except in the published code
        until = int(0)
        for strip in range(begin, begin + each):
            until = wp.max(until, wp.max(last[t * strips + strip]))
        for back in range(until - starts[t]):
            p = until - 1 - back
            g = ids[p]
            m = count[g]
            b = box[g]
            q = soft[g]
            a = q[0]
            s = q[1]
            o = q[2]
            color = colors[g]
            for k in range(2 * m):
                sums[job, k] = V(0.0)
            sum_r = V(0.0)
            sum_g = V(0.0)
            sum_b = V(0.0)
            sum_o = V(0.0)
            sum_s = V(0.0)
            sum_a = V(0.0)
            low = wp.max(begin, (b[2] - ty * tile) * per_row)
            high = wp.min(begin + each, (b[3] - ty * tile + 1) * per_row)
            touched = int(0)
            x = V()
            column = int(-1)
            for strip in range(low, high):
                at = t * strips + strip
                if per_row > 1 and touched == 1 and strip % per_row != column:
                    # another column of strips: the sums of x must not mix
                    for k in range(m):
                        wp.atomic_add(slots, p, 3 * k, lane_sum(wp.cw_mul(sums[job, 2 * k], x)))
                        wp.atomic_add(slots, p, 3 * k + 1, lane_sum(sums[job, 2 * k + 1]))
                        wp.atomic_add(slots, p, 3 * k + 2, lane_sum(sums[job, 2 * k]))
                        sums[job, 2 * k] = V(0.0)
                        sums[job, 2 * k + 1] = V(0.0)
                column = strip % per_row
                x0 = float(tx * tile + column * LANES) - origin[g][0]
                y = float(ty * tile + strip // per_row) - origin[g][1]
                for lane in range(LANES):
                    x[lane] = x0 + float(lane)
                top = highest(edges, g, m, x, y)
                if lowest_of(top) * a * s > q[3]:
                    continue
                total = V(0.0)
                for k in range(m):
                    e = edges[g, k]
                    power = exponential((x * e[0] + V(e[1] * y + e[2]) - top) * a)
                    sums[job, 2 * points + k] = power
                    total = total + power
                phi = top * a + logarithm(total)
                inside = inside_of(phi, s)
                alpha = V()
                latest = last[at]
                for lane in range(LANES):
                    value = wp.min(CLAMP, o * inside[lane])
                    value = wp.where(value >= tau, value, 0.0)
                    alpha[lane] = wp.where(p < latest[lane], value, 0.0)
                if lowest_of(-alpha) == 0.0:
                    continue
                touched = 1
                kept = V(1.0) - alpha
                front = wp.cw_div(left[at], kept)
                left[at] = front
                r = red[at]
                gr = green[at]
                bl = blue[at]
                cl = clear[at]
                weight = wp.cw_mul(alpha, front)
                d_r = d_red[at]
                d_g = d_green[at]
                d_b = d_blue[at]
                sum_r = sum_r + wp.cw_mul(weight, d_r)
                sum_g = sum_g + wp.cw_mul(weight, d_g)
                sum_b = sum_b + wp.cw_mul(weight, d_b)
                change = (
                    wp.cw_mul(V(color[0]) - r, d_r)
                    + wp.cw_mul(V(color[1]) - gr, d_g)
                    + wp.cw_mul(V(color[2]) - bl, d_b)
                    - wp.cw_mul(cl, d_left[at])
                )
                change = wp.cw_mul(front, change)
                red[at] = alpha * color[0] + wp.cw_mul(kept, r)
                green[at] = alpha * color[1] + wp.cw_mul(kept, gr)
                blue[at] = alpha * color[2] + wp.cw_mul(kept, bl)
                clear[at] = wp.cw_mul(kept, cl)
                for lane in range(LANES):
                    free = wp.where(o * inside[lane] <= most, change[lane], 0.0)
                    change[lane] = wp.where(alpha[lane] > 0.0, free, 0.0)
                sum_o = sum_o + wp.cw_mul(change, inside)
                d_u = wp.cw_mul(change, wp.cw_mul(inside, inside) - inside) * o
                sum_s = sum_s + wp.cw_mul(d_u, phi)
                d_phi = wp.cw_div(d_u * s, total)
                for k in range(m):
                    e = edges[g, k]
                    d = x * e[0] + V(e[1] * y + e[2])
                    share = wp.cw_mul(d_phi, sums[job, 2 * points + k])
                    sum_a = sum_a + wp.cw_mul(share, d)
                    share = share * a
                    sums[job, 2 * k] = sums[job, 2 * k] + share
                    sums[job, 2 * k + 1] = sums[job, 2 * k + 1] + share * y
            if touched == 1:
                for k in range(m):
                    wp.atomic_add(slots, p, 3 * k, lane_sum(wp.cw_mul(sums[job, 2 * k], x)))
                    wp.atomic_add(slots, p, 3 * k + 1, lane_sum(sums[job, 2 * k + 1]))
                    wp.atomic_add(slots, p, 3 * k + 2, lane_sum(sums[job, 2 * k]))
                wp.atomic_add(slots, p, 3 * points, lane_sum(sum_r))
                wp.atomic_add(slots, p, 3 * points + 1, lane_sum(sum_g))
                wp.atomic_add(slots, p, 3 * points + 2, lane_sum(sum_b))
                wp.atomic_add(slots, p, 3 * points + 3, lane_sum(sum_o))
                wp.atomic_add(slots, p, 3 * points + 4, lane_sum(sum_s))
                wp.atomic_add(slots, p, 3 * points + 5, lane_sum(sum_a))

    return SimpleNamespace(lanes=lanes, vector=V, whole=Whole, forward=forward, backward=backward)
