"""The linear motion of a node between events, in closed form.

Between events the six vectors of a node follow

    dx/dt  = eta (xt - x)              dy/dt  = alpha (yt - y)                  dz/dt  = alpha (zt - z)
    dxt/dt = etat (x - xt)             dyt/dt = -theta (y + z + nu xt)          dzt/dt = alphat (z - zt)

which is a 6 x 6 system, the same for every coordinate. Its eigenvalue 0 is double, so that numerical diagonalisation
fails; the pairs (x, xt) and (z, zt) relax by one exponential each and drive the damped oscillation of (y, yt).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from surefoot.decentralized.constants import Constants

Array = np.ndarray[Any, np.dtype[np.float64]]
ORDER = ("x", "xt", "y", "yt", "z", "zt")
"""The six vectors of a node, in the order of every array of states (n, 6, d)."""


def generator(constants: Constants) -> Array:
    """The 6 x 6 matrix of the motion, for tests and for reading."""
    c = constants
    return np.array([
        [-c.eta, c.eta, 0, 0, 0, 0],
        [c.eta_twin, -c.eta_twin, 0, 0, 0, 0],
        [0, 0, -c.alpha, c.alpha, 0, 0],
        [0, -c.theta * c.nu, -c.theta, 0, -c.theta, 0],
        [0, 0, 0, 0, -c.alpha, c.alpha],
        [0, 0, 0, 0, c.alpha_twin, -c.alpha_twin],
    ])  # fmt: skip


def oscillation(constants: Constants) -> float:
    """alpha theta - alpha^2 / 4: positive for an oscillating, negative for an overdamped (y, yt)."""
    return constants.alpha * constants.theta - 0.25 * constants.alpha**2


def require_no_resonance(constants: Constants) -> None:
    """Refuse constants for which a relaxation rate is also a root of the (y, yt) motion: the closed form divides by zero.

    Raises:
        ValueError: with the two rates.
    """
    c = constants
    for name, rate in (("eta + eta_twin", c.eta + c.eta_twin), ("alpha + alpha_twin", c.alpha + c.alpha_twin)):
        if abs(rate**2 - c.alpha * rate + c.alpha * c.theta) <= 1e-9 * (rate**2 + c.alpha * c.theta):
            raise ValueError(
                f"{name} = {rate:.6g} is in resonance with the motion of y (alpha = {c.alpha:.6g}, theta = {c.theta:.6g}); change one of them slightly"
            )


def flow_rows(constants: Constants, elapsed: Array) -> Array:
    """The four blocks of exp(generator t) that are not zero, as rows (b, 20).

    Args:
        elapsed: times t (b,), >= 0.

    Returns:
        Columns: x <- x, xt (2); xt <- x, xt (2); z <- z, zt (2); zt <- z, zt (2); y <- x, xt, y, yt, z, zt (6); yt <- the same (6).
    """
    c = constants
    t = np.asarray(elapsed, dtype=np.float64)
    rx, rz = c.eta + c.eta_twin, c.alpha + c.alpha_twin
    ex, ez = np.exp(-rx * t), np.exp(-rz * t)
    damped = np.exp(-0.5 * c.alpha * t)
    square = oscillation(c)
    omega = math.sqrt(abs(square))
    if square > 0:
        cosine, sine = damped * np.cos(omega * t), damped * np.sin(omega * t) / omega
    elif square < 0:
        cosine, sine = damped * np.cosh(omega * t), damped * np.sinh(omega * t) / omega
    else:
        cosine, sine = damped, damped * t
    p, q = cosine - 0.5 * c.alpha * sine, c.alpha * sine  # y <- y, yt
    r, s = -c.theta * sine, cosine + 0.5 * c.alpha * sine  # yt <- y, yt
    still, still_twin = 1 - p - q, 1 - r - s  # y and yt <- a constant that both have
    # particular solutions driven by unit pz and px
    y1, w1 = _driven(c, c.alpha, rz)
    y2, w2 = _driven(c, -c.nu * c.eta_twin, rx)
    z1, z1_twin = y1 * ez - p * y1 - q * w1, w1 * ez - r * y1 - s * w1
    x2, x2_twin = y2 * ex - p * y2 - q * w2, w2 * ex - r * y2 - s * w2
    rows = np.empty((len(t), 20))
    for start, slow, twin, rate, decay in ((0, c.eta_twin, c.eta, rx, ex), (4, c.alpha_twin, c.alpha, rz, ez)):
        # x' = xb + eta px ex, xt' = xb - etat px ex with xb = (etat x + eta xt) / rx, px = (x - xt) / rx
        rows[:, start] = (slow + twin * decay) / rate
        rows[:, start + 1] = (twin - twin * decay) / rate
        rows[:, start + 2] = (slow - slow * decay) / rate
        rows[:, start + 3] = (twin + slow * decay) / rate
    for start, constant, x, y, yt, z in ((8, still, x2, p, q, z1), (14, still_twin, x2_twin, r, s, z1_twin)):
        # y' = yinf still + px x2 + pz z1 + p y + q yt with yinf = -(zb + nu xb)
        rows[:, start] = (-c.nu * c.eta_twin * constant + x) / rx
        rows[:, start + 1] = (-c.nu * c.eta * constant - x) / rx
        rows[:, start + 2] = y
        rows[:, start + 3] = yt
        rows[:, start + 4] = (-c.alpha_twin * constant + z) / rz
        rows[:, start + 5] = (-c.alpha * constant - z) / rz
    return rows


def _driven(c: Constants, force: float, rate: float) -> tuple[float, float]:
    """(Y, W) of the particular solution (Y, W) e^(-rate t) of (y, yt) when y + z + nu xt is driven by force e^(-rate t)."""
    Y = -c.theta * force / (c.theta - rate + rate**2 / c.alpha)
    return Y, Y * (1 - rate / c.alpha)


TO = np.array([0, 0, 1, 1, 4, 4, 5, 5, *[2] * 6, *[3] * 6])
FROM = np.array([0, 1, 0, 1, 4, 5, 4, 5, *range(6), *range(6)])


def flow_matrices(constants: Constants, elapsed: Array) -> Array:
    """exp(generator t) for times (b,), as matrices (b, 6, 6)."""
    matrices = np.zeros((len(elapsed), 6, 6))
    matrices[:, TO, FROM] = flow_rows(constants, elapsed)
    return matrices


def flowed(constants: Constants, values: Array, elapsed: Array) -> Array:
    """States (b, 6, d) moved by their own elapsed times (b,)."""
    return np.matmul(flow_matrices(constants, elapsed), values)
