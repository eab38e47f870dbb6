"""Gradients from a few rows: what their noise does to the certified rate, and the floor it leaves.

A gradient at node i takes `batch` rows drawn with replacement, so that it is unbiased, with variance V_i(x) / batch, where V_i is the
variance of the row gradients. Let n_r be the gradient of row r's loss. As n_r(x) - n_r(x*) has mean square at most 2 L_i D_i(x) (rows
are convex and L_i-smooth; D_i >= their mean Bregman distance as nu <= ridge), for any tau > 0

    V_i(x) <= (1 + tau) V_i(x*) + (1 + 1/tau) 2 L_i D_i(x).

The noise xi enters the jumps of x, its twin and yt only through E |xi|^2, with the weight C = b M gamma^2 / 2 + gammat^2 + at delta^2. So Phi's
decay keeps its proof with A lowered by C growth, growth = max_i (1 + 1/tau) 2 L_i / batch (and b (eta - rho) >= C growth), and

    E Phi(t) <= exp(-rho t) Phi(0) + (1 - exp(-rho t)) C S / rho,     S = sum_i (1 + tau) V_i(x*) / batch.

V_i(x*) is bounded from any point p with |p - x*| <= r:  V_i(x*)^(1/2) <= V_i(p)^(1/2) + r (mean_r L_r^2)^(1/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from surefoot.decentralized.certify import potential_at_start
from surefoot.decentralized.constants import Constants, Rate, certified_rate, noise_weight
from surefoot.decentralized.graphs import slowness
from surefoot.decentralized.problem import Network

Array = np.ndarray[Any, np.dtype[np.float64]]
TAUS = (0.1, 0.3, 1.0, 3.0)
SETTLED = 0.01
"""A run may end when the bound's transient part is below this share of its floor."""


def require_rows(net: Network) -> None:
    """Refuse losses without rows.

    Raises:
        ValueError: the losses are no linear models, or the graph changes.
    """
    if net.rows is None:
        raise ValueError("mini-batches need losses with rows (linear models)")
    if net.schedule is not None:
        raise ValueError(
            "mini-batches run on one graph, and this one changes over time; take whole gradients (batch=0)"
        )


def row_curvatures(net: Network) -> tuple[Array, Array]:
    """L_i, the largest curvature of a row's loss, and the root of the mean of their squares, both (n,)."""
    assert net.rows is not None
    each = [local.loss.constants.curvature * (local.features**2).sum(axis=1) for local in net.rows]
    return np.array([rows.max() for rows in each]), np.array([math.sqrt(float((rows**2).mean())) for rows in each])


def row_variances(net: Network, x: Array) -> Array:
    """V_i(x) (n,): the variance of the row gradients about their mean."""
    assert net.rows is not None
    found = []
    for local in net.rows:
        z, y = torch.from_numpy(local.features @ x), torch.from_numpy(local.targets)
        slopes = local.loss.derivative(z, y).numpy()
        mean = slopes @ local.features / len(slopes)
        square = float((slopes**2 * (local.features**2).sum(axis=1)).mean())
        found.append(max(0.0, square - float(mean @ mean)))
    return np.array(found)


def growth(net: Network, batch: int, tau: float) -> float:
    """max_i (1 + 1/tau) 2 L_i / batch."""
    return (1 + 1 / tau) * 2 * float(row_curvatures(net)[0].max()) / batch


def noise_sum(net: Network, batch: int, tau: float, point: Array, radius: float) -> float:
    """A bound of S = sum_i (1 + tau) V_i(x*) / batch from a point within `radius` of x*."""
    roots = np.sqrt(row_variances(net, point)) + radius * row_curvatures(net)[1]
    return (1 + tau) * float((roots**2).sum()) / batch


def reference_point(net: Network, start: Array) -> Array:
    """A point near the minimiser, where the variance of the rows is looked at; any point would do for the proof."""
    from scipy.optimize import minimize

    def value_and_slope(x: Array) -> tuple[float, Array]:
        at = torch.from_numpy(np.ascontiguousarray(x))
        return float(np.mean([float(o.value_and_grad(at)[0]) for o in net.objectives])), net.mean_gradient(x)

    options = {"gtol": 1e-9 * net.smoothness, "maxiter": 500}
    return np.asarray(minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options).x)


@dataclass(frozen=True)
class Noise:
    """The certified decay with noise: tau, growth and rate, and what bounds the squared distances.

    Attributes:
        weight: C.
        factor: |X - X*|^2 <= factor Phi.
    """

    batch: int
    tau: float
    growth: float
    rate: Rate
    weight: float
    factor: float

    def floor(self, net: Network, point: Array, radius: float) -> float:
        """factor C S / rho: what the expected squared distances sum to in the end, at most."""
        return self.factor * self.weight * noise_sum(net, self.batch, self.tau, point, radius) / self.rate.rho


def certified_noise(
    net: Network, letters: Constants, chi1: float, chi2: float, batch: int, point: Array, radius: float
) -> Noise | None:
    """The tau with the least floor, rates rounded down; None where no rate is certified."""
    assert net.rows is not None
    if letters.nu > min(local.ridge for local in net.rows):
        return None
    found = []
    for tau in TAUS:
        more = growth(net, batch, tau) * (1 + 1e-12)
        rate = certified_rate(letters, net.mu, net.smoothness, chi1, chi2, more)
        if rate is None:
            continue
        rate = replace(rate, rho=rate.rho * (1 - 1e-7))
        weight = noise_weight(letters, net.smoothness) * (1 + 1e-12)
        factor = letters.eta / (letters.gamma_twin * (net.mu - letters.nu))
        found.append(Noise(batch, tau, more, rate, weight, factor))
    return min(found, key=lambda noise: noise.floor(net, point, radius)) if found else None


@dataclass(frozen=True)
class Bound:
    """What a running method knows of its bound: its noise (None where nothing is certified), transient part at time 0, and floor."""

    noise: Noise | None
    first: float
    floor: float

    @classmethod
    def of(cls, net: Network, letters: Constants, rates: Array, batch: int, start: Array) -> Bound:
        chi1, chi2 = (number * (1 + 1e-10) for number in slowness(net.nodes, net.edges, rates))
        point = reference_point(net, start.mean(axis=0))
        radius = float(np.linalg.norm(net.mean_gradient(point))) / net.mu
        noise = certified_noise(net, letters, chi1, chi2, batch, point, radius)
        if noise is None:
            return cls(None, 0.0, 0.0)
        first = noise.factor * potential_at_start(net, letters, noise.rate, chi1, start)
        return cls(noise, first, noise.floor(net, point, radius))

    def settled(self, time: float) -> bool:
        """Whether the transient part is below 1 % of the floor."""
        return self.noise is not None and self.first * math.exp(-self.noise.rate.rho * time) <= SETTLED * self.floor
