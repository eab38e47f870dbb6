"""Pairwise averaging with a continuous momentum: the motion, the constants and the certified rate that gossip and A2CiD2 share.

Every node keeps x and its twin. Between events

    dx = eta (xt - x) dt,   dxt = eta (x - xt) dt,

and an exchange on (i, j) moves x by alpha and xt by alpha_twin times the difference m = x_i - x_j. Let w and v be what x and xt differ from
their means by, and

    Psi = |w|^2 + c v' Lambda^+ v,   c = eta / alpha_twin.

The motion adds 2 eta <w, v - w> and 2 c eta <v, w - v> in Lambda^+; the exchanges (2 alpha^2 - 2 alpha) <w, Lambda w>, -2 c alpha_twin <v, w> and
at most 2 chi2 c alpha_twin^2 <w, Lambda w>. The cross terms cancel, and what is left is at most -rho Psi if

    2 alpha^2 - 2 alpha + 2 chi2 c alpha_twin^2 <= 0   and   c eta^2 chi1 <= (2 eta - rho)^2,  rho <= 2 eta.

The published constants eta = 1 / (2 sqrt(chi1 chi2)), alpha = 1/2, alpha_twin = sqrt(chi1 / chi2) / 2 satisfy both with rho = eta; no others
satisfy them with more. Without momentum (eta = 0, no twin) rho = 2 (alpha - alpha^2) / chi1 = 1 / (2 chi1).

References:
    Even, Berthier, Bach, Flammarion, Hendrikx, Gaillard, Massoulie, Taylor, "A continuized view on Nesterov acceleration for stochastic
    gradient descent and randomized gossip", NeurIPS 2021.  Nabli, Belilovsky, Oyallon, "A2CiD2: Accelerating asynchronous communication in
    decentralized deep learning", NeurIPS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Mixing:
    """eta pulls x and its twin together; alpha and alpha_twin are the shares of a difference that an exchange moves."""

    eta: float
    alpha: float
    alpha_twin: float

    @property
    def share(self) -> float:
        """c, the weight of the twin in Psi; 0 without momentum."""
        return self.eta / self.alpha_twin if self.eta else 0.0


def mixing_constants(chi1: float, chi2: float, momentum: bool = True) -> Mixing:
    """The published constants; without momentum plain pairwise averaging. A single node has nothing to mix."""
    if not momentum or not chi1:
        return Mixing(0.0, 0.5, 0.5)
    # a little less than the published pull, so that rounding does not matter
    eta = (1 - 1e-9) / (2 * math.sqrt(chi1 * chi2))
    return Mixing(eta, 0.5, eta * chi1)


def mixing_rate(mixing: Mixing, chi1: float, chi2: float) -> float:
    """The largest rho of the conditions; 0 where they hold for none."""
    if not chi1:
        return math.inf
    c = mixing.share
    if 2 * mixing.alpha**2 - 2 * mixing.alpha + 2 * chi2 * c * mixing.alpha_twin**2 > 0:
        return 0.0
    if not mixing.eta:
        return 2 * (mixing.alpha - mixing.alpha**2) / chi1
    return max(0.0, 2 * mixing.eta - mixing.eta * math.sqrt(c * chi1))


def moved(mixing: Mixing, values: Array, elapsed: Any) -> Array:
    """Values (..., 2, d) after their elapsed times (...): the mean of x and its twin stays, their difference shrinks by exp(-2 eta t)."""
    if not mixing.eta:
        return values
    middle = values.mean(axis=-2, keepdims=True)
    return middle + (values - middle) * np.exp(-2 * mixing.eta * np.asarray(elapsed))[..., None, None]


def meet(mixing: Mixing, values: Array, clocks: Array, ends: Sequence[int], time: float) -> None:
    """An exchange between the two `ends` at `time`, in place: values (n, 2, d), clocks (n,)."""
    i, j = ends
    both = moved(mixing, values[[i, j]], time - clocks[[i, j]])
    m = both[0, 0] - both[1, 0]
    step = np.array([mixing.alpha, mixing.alpha_twin])[:, None] * m
    values[i], values[j] = both[0] - step, both[1] + step
    clocks[i] = clocks[j] = time
