"""The Warp source of `kernel.py`. Imported only where Warp is installed; Warp reads the annotations, so they are not deferred."""

# pyright: reportInvalidTypeForm=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false

import warp as wp

wp.set_module_options({"enable_backward": False})

vec8 = wp.types.vector(length=8, dtype=wp.float64)


@wp.func
def move(values: wp.array(dtype=vec8), at: int, groups: int, t: wp.float64, c: wp.array(dtype=wp.float64)):
    """The closed form of `flow.flow_rows`, applied to one node; `c` is laid out by `kernel.py`."""
    nu, eta, etat, alpha, alphat, theta = c[0], c[1], c[2], c[3], c[4], c[5]
    square, omega, y1, w1, y2, w2 = c[11], c[12], c[13], c[14], c[15], c[16]
    one = wp.float64(1.0)
    half = wp.float64(0.5)
    rx = eta + etat
    rz = alpha + alphat
    ex = wp.exp(-rx * t)
    ez = wp.exp(-rz * t)
    damped = wp.exp(-half * alpha * t)
    cosine = damped
    sine = damped * t
    if square > wp.float64(0.0):
        cosine = damped * wp.cos(omega * t)
        sine = damped * wp.sin(omega * t) / omega
    elif square < wp.float64(0.0):
        cosine = damped * wp.cosh(omega * t)
        sine = damped * wp.sinh(omega * t) / omega
    p = cosine - half * alpha * sine
    q = alpha * sine
    r = -theta * sine
    s = cosine + half * alpha * sine
    still = one - p - q
    still_twin = one - r - s
    z1 = y1 * ez - p * y1 - q * w1
    z1t = w1 * ez - r * y1 - s * w1
    x2 = y2 * ex - p * y2 - q * w2
    x2t = w2 * ex - r * y2 - s * w2
    ix = one / rx
    iz = one / rz
    a0 = (etat + eta * ex) * ix
    a1 = (eta - eta * ex) * ix
    a2 = (etat - etat * ex) * ix
    a3 = (eta + etat * ex) * ix
    a4 = (alphat + alpha * ez) * iz
    a5 = (alpha - alpha * ez) * iz
    a6 = (alphat - alphat * ez) * iz
    a7 = (alpha + alphat * ez) * iz
    b0 = (x2 - nu * etat * still) * ix
    b1 = (-nu * eta * still - x2) * ix
    b4 = (z1 - alphat * still) * iz
    b5 = (-alpha * still - z1) * iz
    d0 = (x2t - nu * etat * still_twin) * ix
    d1 = (-nu * eta * still_twin - x2t) * ix
    d4 = (z1t - alphat * still_twin) * iz
    d5 = (-alpha * still_twin - z1t) * iz
    for g in range(groups):
        k = at + g
        x = values[k]
        xt = values[k + groups]
        y = values[k + 2 * groups]
        yt = values[k + 3 * groups]
        z = values[k + 4 * groups]
        zt = values[k + 5 * groups]
        values[k] = a0 * x + a1 * xt
        values[k + groups] = a2 * x + a3 * xt
        values[k + 4 * groups] = a4 * z + a5 * zt
        values[k + 5 * groups] = a6 * z + a7 * zt
        values[k + 2 * groups] = (b0 * x + b1 * xt) + (p * y + q * yt) + (b4 * z + b5 * zt)
        values[k + 3 * groups] = (d0 * x + d1 * xt) + (r * y + s * yt) + (d4 * z + d5 * zt)


@wp.kernel(enable_backward=False)
def advance(
    values: wp.array(dtype=vec8),
    clocks: wp.array(dtype=wp.float64),
    what: wp.array(dtype=wp.int32),
    times: wp.array(dtype=wp.float64),
    first_event: wp.array(dtype=wp.int32),
    ends: wp.array(dtype=wp.int32),
    constants: wp.array(dtype=wp.float64),
    rows: wp.array(dtype=vec8),
    targets: wp.array(dtype=wp.float64),
    first_row: wp.array(dtype=wp.int32),
    ridge: wp.array(dtype=wp.float64),
    scratch: wp.array(dtype=vec8),
    nodes: int,
    groups: int,
    kind: int,
    knee: wp.float64,
    picks: wp.array(dtype=wp.int32),
    batch: int,
):
    replica = wp.tid()
    base = replica * nodes
    own = replica * groups
    nu, beta, betat = constants[0], constants[6], constants[7]
    gamma, gammat, delta = constants[8], constants[9], constants[10]
    zero = wp.float64(0.0)
    one = wp.float64(1.0)
    for k in range(first_event[replica], first_event[replica + 1]):
        w = what[k]
        now = times[k]
        if w < nodes:
            at = (base + w) * 6 * groups
            move(values, at, groups, now - clocks[base + w], constants)
            clocks[base + w] = now
            begin = first_row[w]
            end = first_row[w + 1]
            if kind == 0:
                for g in range(groups):
                    part = vec8()
                    for j in range(8):
                        row = begin + g * 8 + j
                        if row < end:
                            total = -targets[row]
                            for h in range(groups):
                                total += wp.dot(rows[row * groups + h], values[at + h])
                            part[j] = total
                    scratch[own + g] = part
            else:
                for g in range(groups):
                    scratch[own + g] = vec8()
                count = end - begin
                if batch > 0:
                    count = batch
                for r in range(count):
                    row = begin + r
                    if batch > 0:
                        row = begin + picks[k * batch + r]
                    z = zero
                    for h in range(groups):
                        z += wp.dot(rows[row * groups + h], values[at + h])
                    y = targets[row]
                    slope = zero
                    if kind == 1:
                        margin = y * z
                        if margin >= zero:
                            small = wp.exp(-margin)
                            slope = -y * small / (one + small)
                        else:
                            slope = -y / (one + wp.exp(margin))
                    else:
                        slope = wp.clamp(z - y, -knee, knee)
                    for h in range(groups):
                        scratch[own + h] = scratch[own + h] + slope * rows[row * groups + h]
                scale = one / wp.float64(count)
                for g in range(groups):
                    scratch[own + g] = scale * scratch[own + g]
            shift = ridge[w] - nu
            for g in range(groups):
                e = scratch[own + g] + shift * values[at + g] - values[at + 3 * groups + g]
                values[at + g] = values[at + g] - gamma * e
                values[at + groups + g] = values[at + groups + g] - gammat * e
                values[at + 3 * groups + g] = values[at + 3 * groups + g] + delta * e
        else:
            i = base + ends[2 * (w - nodes)]
            j = base + ends[2 * (w - nodes) + 1]
            ai = i * 6 * groups
            aj = j * 6 * groups
            move(values, ai, groups, now - clocks[i], constants)
            move(values, aj, groups, now - clocks[j], constants)
            clocks[i] = now
            clocks[j] = now
            for g in range(groups):
                ki = ai + g
                kj = aj + g
                m = (values[ki + 2 * groups] + values[ki + 4 * groups]) - (
                    values[kj + 2 * groups] + values[kj + 4 * groups]
                )
                values[ki + 4 * groups] = values[ki + 4 * groups] - beta * m
                values[kj + 4 * groups] = values[kj + 4 * groups] + beta * m
                values[ki + 5 * groups] = values[ki + 5 * groups] - betat * m
                values[kj + 5 * groups] = values[kj + 5 * groups] + betat * m
