"""The Warp source of `rasterize.py` that walks pixels: compositing and its adjoint, written by hand.

A *strip* is `LANES` neighbouring pixels of a row: sixteen on the CPU, where the compiler turns lanes into vector instructions, one on
CUDA, where a thread is a pixel. A tile's strips lie one after another. A thread walks the list of its tile, in depth order, for all
strips that it owns, in a work space of its own; pixels come in and go out as images. Imported only where Warp is installed; Warp reads the annotations, so they are not deferred.
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

    @wp.func
    def pixels_of(strip: int, t: int, across: int, down: int, tile: int, width: int, height: int):
        """The first pixel (camera, row, column, flat) of a strip of tile t, and how many of its lanes have one."""
        per_row = (tile + LANES - 1) // LANES
        inner = (strip % per_row) * LANES
        column = (t % across) * tile + inner
        row = ((t // across) % down) * tile + strip // per_row
        lanes = wp.min(wp.min(LANES, tile - inner), width - column)
        if row >= height or lanes < 0:
            lanes = 0
        return (t // (across * down) * height + row) * width + column, lanes

    @wp.func
    def show_strip(
        work: wp.array2d(dtype=V), latest: wp.array2d(dtype=Whole), job: int, r: int, back: wp.vec3, start: int, lanes: int,
        image: wp.array(dtype=wp.vec3), transmittance: wp.array(dtype=float), last: wp.array(dtype=wp.int32),
    ):  # fmt: skip
        """From a job's work space of `forward` to pixels."""
        red = work[job, 5 * r]
        green = work[job, 5 * r + 1]
        blue = work[job, 5 * r + 2]
        left = work[job, 5 * r + 3]
        place = latest[job, r]
        for lane in range(lanes):
            rest = wp.abs(left[lane])
            image[start + lane] = wp.vec3(red[lane], green[lane], blue[lane]) + rest * back
            transmittance[start + lane] = rest
            last[start + lane] = place[lane]

    @wp.func
    def show_lost(work: wp.array2d(dtype=V), job: int, r: int, start: int, lanes: int, lost: wp.array(dtype=float)):
        left = work[job, 5 * r + 3]
        missed = work[job, 5 * r + 4]
        for lane in range(lanes):
            lost[start + lane] = missed[lane] + wp.max(-left[lane], 0.0)

    @wp.func
    def work_of_strip(
        work: wp.array2d(dtype=V), latest: wp.array2d(dtype=Whole), t: int, strip: int, back: wp.vec3, start: int, lanes: int,
        transmittance: wp.array(dtype=float), last: wp.array(dtype=wp.int32), d_image: wp.array(dtype=wp.vec3), d_left: wp.array(dtype=float),
    ):  # fmt: skip
        """From pixels to a tile's work space of `backward`; where the last of their samples is."""
        left = V(1.0)
        red = V()
        green = V()
        blue = V()
        clear = V()
        place = Whole()
        for lane in range(lanes):
            left[lane] = transmittance[start + lane]
            upstream = d_image[start + lane]
            red[lane] = upstream[0]
            green[lane] = upstream[1]
            blue[lane] = upstream[2]
            clear[lane] = d_left[start + lane]
            place[lane] = last[start + lane]
        for k in range(3):
            work[t, 9 * strip + k] = V(back[k])
        work[t, 9 * strip + 3] = V(1.0)
        work[t, 9 * strip + 4] = left
        work[t, 9 * strip + 5] = red
        work[t, 9 * strip + 6] = green
        work[t, 9 * strip + 7] = blue
        work[t, 9 * strip + 8] = clear
        latest[t, strip] = place
        return wp.max(place)

    @wp.func
    def edge_sum(along: V, weighted: V, x: V):
        """The sums of dL/dd (x, y, 1) over lanes: from those of dL/dd and y dL/dd."""
        return wp.vec3(lane_sum(wp.cw_mul(along, x)), lane_sum(weighted), lane_sum(along))

    @wp.func
    def clear_slot(slots: wp.array2d(dtype=wp.vec3), slot: int, m: int):
        for k in range(m + 2):
            slots[slot, k] = wp.vec3()

    @wp.kernel(enable_backward=False, module="unique")
    def forward(
        first: int,
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
        strips: int,
        each: int,
        stop: float,
        bounding: int,
        work: wp.array2d(dtype=V),
        latest: wp.array2d(dtype=Whole),
        image: wp.array(dtype=wp.vec3),
        transmittance: wp.array(dtype=float),
        last: wp.array(dtype=wp.int32),
        lost: wp.array(dtype=float),
    ):
        """A job's row of `work` holds, for each strip, red, green, blue, the transmittance left (negative in a lane that has stopped or has
        no pixel) and, where `bounding`, what was missed. `last` receives the place after a pixel's last sample in the list, `lost`, for
        the bound, alpha T of what was left out."""
        job = wp.tid() + first
        groups = strips // each
        t = job // groups
        begin = (job - t * groups) * each
        ty = (t // across) % down
        tx = t % across
        per_row = strips // tile
        alive = int(0)
        for r in range(each):
            start, lanes = pixels_of(begin + r, t, across, down, tile, width, height)
            here = V(-1.0)
            for lane in range(LANES):
                here[lane] = wp.where(lane < lanes, 1.0, -1.0)
            alive += wp.min(lanes, 1)
            for k in range(3):
                work[job, 5 * r + k] = V(0.0)
            work[job, 5 * r + 3] = here
            work[job, 5 * r + 4] = V(0.0)
            latest[job, r] = Whole(0)
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
                at = 5 * (strip - begin)
                x0 = float(tx * tile + (strip % per_row) * LANES) - origin[g][0]
                y = float(ty * tile + strip // per_row) - origin[g][1]
                x = V()
                for lane in range(LANES):
                    x[lane] = x0 + float(lane)
                top = highest(edges, g, m, x, y)
                if bounding == 0 and lowest_of(top) * a * s > limit:
                    continue
                T = work[job, at + 3]
                if lowest_of(-T) >= 0.0:
                    continue
                total = spread(edges, g, m, x, y, top, a)
                inside = inside_of(top * a + logarithm(total), s)
                alpha = V()
                faint = V()
                after = V()
                until = latest[job, strip - begin]
                for lane in range(LANES):
                    value = wp.min(CLAMP, q[2] * inside[lane])
                    value = wp.where(T[lane] > 0.0, value, 0.0)
                    seen = wp.where(value >= tau, value, 0.0)
                    faint[lane] = (value - seen) * T[lane]
                    rest = T[lane] - T[lane] * seen
                    ends = wp.where(rest < stop, seen, 0.0)  # no `and`: it would branch, lane by lane
                    drops = ends * paper
                    seen = wp.where(drops > 0.0, 0.0, seen)
                    rest = wp.where(drops > 0.0, T[lane], rest)
                    after[lane] = wp.where(ends > 0.0, -rest, rest)
                    alpha[lane] = seen * T[lane]
                    until[lane] = wp.where(seen > 0.0, p + 1, until[lane])
                color = colors[g]
                for k in range(3):
                    work[job, at + k] = work[job, at + k] + alpha * color[k]
                work[job, at + 3] = after
                latest[job, strip - begin] = until
                if bounding == 1:
                    off = rounding_of(edges, g, m, x, y, float(across * tile)) * (ROUNDING * q[2] * s * a)
                    for lane in range(LANES):
                        slip = wp.min(off[lane] * inside[lane] * (1.0 - inside[lane]), 1.0)
                        faint[lane] = faint[lane] + wp.where(T[lane] > 0.0, T[lane], 0.0) * slip
                    work[job, at + 4] = work[job, at + 4] + faint
                if lowest_of(-after) >= 0.0:
                    alive -= 1
        for r in range(each):
            start, lanes = pixels_of(begin + r, t, across, down, tile, width, height)
            show_strip(work, latest, job, r, background[t // (across * down)], start, lanes, image, transmittance, last)
            if bounding == 1:
                show_lost(work, job, r, start, lanes, lost)

    @wp.kernel(enable_backward=False, module="unique")
    def backward(
        first: int,
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
        strips: int,
        transmittance: wp.array(dtype=float),
        last: wp.array(dtype=wp.int32),
        d_image: wp.array(dtype=wp.vec3),
        d_left: wp.array(dtype=float),
        work: wp.array2d(dtype=V),
        latest: wp.array2d(dtype=Whole),
        slots: wp.array2d(dtype=wp.vec3),
    ):
        """Back to front. A tile's row of `work` holds, for each strip, the colour behind (at first the background), the transmittance
        behind (at first 1), that in front of what is behind (at first at the end), and the gradients of colour and transmittance; then,
        for each edge, sums over strips of dL/dd (1, y), and, last, exp(a (d_k - top)) of the strip at hand. A pair's slot receives
        the sums of colour, of opacity, z sigma and z delta, then, for each edge, of dL/dd (x, y, 1)."""
        t = wp.tid() + first
        ty = (t // across) % down
        tx = t % across
        per_row = strips // tile
        points = edges.shape[1]
        sums = 9 * strips
        most = wp.where(
            published == 1, 2.0, float(CLAMP)
        )  # a clamped alpha has no gradient, except in the published code
        until = int(starts[t])
        beyond = background[t // (across * down)]
        for strip in range(strips):
            start, lanes = pixels_of(strip, t, across, down, tile, width, height)
            here = work_of_strip(work, latest, t, strip, beyond, start, lanes, transmittance, last, d_image, d_left)
            until = wp.max(until, here)
        for p in range(until, starts[t + 1]):
            clear_slot(slots, p, count[ids[p]])
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
            clear_slot(slots, p, m)
            for k in range(2 * m):
                work[t, sums + k] = V(0.0)
            sum_r = V(0.0)
            sum_g = V(0.0)
            sum_b = V(0.0)
            sum_o = V(0.0)
            sum_s = V(0.0)
            sum_a = V(0.0)
            low = wp.max(0, (b[2] - ty * tile) * per_row)
            high = wp.min(strips, (b[3] - ty * tile + 1) * per_row)
            touched = int(0)
            x = V()
            column = int(-1)
            for strip in range(low, high):
                at = 9 * strip
                if per_row > 1 and touched == 1 and strip % per_row != column:
                    # another column of strips: the sums of x must not mix
                    for k in range(m):
                        slots[p, 2 + k] = slots[p, 2 + k] + edge_sum(
                            work[t, sums + 2 * k], work[t, sums + 2 * k + 1], x
                        )
                        work[t, sums + 2 * k] = V(0.0)
                        work[t, sums + 2 * k + 1] = V(0.0)
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
                    work[t, sums + 2 * points + k] = power
                    total = total + power
                phi = top * a + logarithm(total)
                inside = inside_of(phi, s)
                alpha = V()
                ends = latest[t, strip]
                for lane in range(LANES):
                    value = wp.min(CLAMP, o * inside[lane])
                    value = wp.where(value >= tau, value, 0.0)
                    alpha[lane] = wp.where(p < ends[lane], value, 0.0)
                if lowest_of(-alpha) == 0.0:
                    continue
                touched = 1
                kept = V(1.0) - alpha
                front = wp.cw_div(work[t, at + 4], kept)
                work[t, at + 4] = front
                r = work[t, at + 0]
                gr = work[t, at + 1]
                bl = work[t, at + 2]
                cl = work[t, at + 3]
                weight = wp.cw_mul(alpha, front)
                d_r = work[t, at + 5]
                d_g = work[t, at + 6]
                d_b = work[t, at + 7]
                sum_r = sum_r + wp.cw_mul(weight, d_r)
                sum_g = sum_g + wp.cw_mul(weight, d_g)
                sum_b = sum_b + wp.cw_mul(weight, d_b)
                change = (
                    wp.cw_mul(V(color[0]) - r, d_r)
                    + wp.cw_mul(V(color[1]) - gr, d_g)
                    + wp.cw_mul(V(color[2]) - bl, d_b)
                    - wp.cw_mul(cl, work[t, at + 8])
                )
                change = wp.cw_mul(front, change)
                work[t, at + 0] = alpha * color[0] + wp.cw_mul(kept, r)
                work[t, at + 1] = alpha * color[1] + wp.cw_mul(kept, gr)
                work[t, at + 2] = alpha * color[2] + wp.cw_mul(kept, bl)
                work[t, at + 3] = wp.cw_mul(kept, cl)
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
                    share = wp.cw_mul(d_phi, work[t, sums + 2 * points + k])
                    sum_a = sum_a + wp.cw_mul(share, d)
                    share = share * a
                    work[t, sums + 2 * k] = work[t, sums + 2 * k] + share
                    work[t, sums + 2 * k + 1] = work[t, sums + 2 * k + 1] + share * y
            if touched == 1:
                for k in range(m):
                    slots[p, 2 + k] = slots[p, 2 + k] + edge_sum(work[t, sums + 2 * k], work[t, sums + 2 * k + 1], x)
                slots[p, 0] = wp.vec3(lane_sum(sum_r), lane_sum(sum_g), lane_sum(sum_b))
                slots[p, 1] = wp.vec3(lane_sum(sum_o), lane_sum(sum_s), lane_sum(sum_a))

    return SimpleNamespace(lanes=lanes, vector=V, whole=Whole, forward=forward, backward=backward)
