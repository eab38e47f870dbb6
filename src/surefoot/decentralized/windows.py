"""What a run does on a graph that changes over time (`schedule`), and the price of a change.

In window k the Lyapunov function is Phi_k, with Lambda_k in its last term and its own beta_twin; it decays at rho in every
window with the same constants otherwise. When window l follows k, the last term alone changes, and there are two ways to bound it:

    keep     zt stays:       Phi_l <= g Phi_k  if  ct_l Lambda_l^+ <= g ct_k Lambda_k^+,  that is  beta_twin_k Lambda_k <= g beta_twin_l Lambda_l
    restart  zt := z:        Phi_l <= g Phi_k  with  g = 1 + ct_l chi1_l (1/c + 1/bt),  as  |z|^2 <= (1 + p) |y + z|^2 + (1 + 1/p) |y|^2

A restart costs no message, and its price does not depend on how different the graphs are. Over a cycle of length T the function decays
at rho - (sum of log g) / T a unit of time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from surefoot.decentralized.constants import Constants, Rate, certified_rate, require_curvature, search_switching
from surefoot.decentralized.graphs import Edges, rate_matrix, slowness

Array = np.ndarray[Any, np.dtype[np.float64]]
PADDING = 1e-6
"""By how much prices are rounded up, so that a factorisation in floats can prove them."""


def keep_price(nodes: int, edges: Edges, before: Array, after: Array, twin_before: float, twin_after: float) -> float:
    """The least g with beta_twin_k Lambda_k <= g beta_twin_l Lambda_l."""
    basis = np.linalg.qr(np.column_stack([np.ones(nodes), np.eye(nodes)[:, :-1]]))[0][:, 1:]
    old, new = (basis.T @ rate_matrix(nodes, edges, rates) @ basis for rates in (before, after))
    root = np.linalg.inv(np.linalg.cholesky(new))
    return float(np.linalg.eigvalsh(root @ old @ root.T)[-1]) * twin_before / twin_after


def restart_price(c: Constants, y_weight: float, chi1: float) -> float:
    """1 + ct chi1 (1/c + 1/bt)."""
    ct, cw = c.gamma_twin / (c.nu * c.beta_twin), c.gamma_twin / (c.alpha * c.nu)
    return 1 + ct * chi1 * (1 / cw + 1 / y_weight)


@dataclass(frozen=True, eq=False)
class Switching:
    """How a run goes through its windows.

    Attributes:
        rates: (K, E).
        durations: (K,).
        twins: beta_twin of every window (K,).
        restarts: whether zt restarts at z when window k begins (K,).
    """

    rates: Array
    durations: Array
    twins: Array
    restarts: np.ndarray[Any, np.dtype[np.bool_]]

    def constants(self, c: Constants, window: int) -> Constants:
        return replace(c, beta_twin=float(self.twins[window]))

    @property
    def mean_rates(self) -> Array:
        return mean_rates(self.rates, self.durations)


def mean_rates(rates: Array, durations: Array) -> Array:
    """Rates (E,) on average over a cycle."""
    return (durations / durations.sum()) @ rates


def window_slowness(nodes: int, edges: Edges, rates: Array) -> Array:
    """(chi1, chi2) of every window, (K, 2), of the edges that fire in it."""
    return np.array([slowness(nodes, edges[row > 0], row[row > 0]) for row in rates])


def switching_constants(
    mu: float, smoothness: float, nodes: int, edges: Edges, rates: Array, durations: Array
) -> tuple[Constants, Array]:
    """Constants with (nearly) the largest certified decay over a cycle, and every window's beta_twin.

    Raises:
        ValueError: see `require_curvature`.
    """
    require_curvature(mu, smoothness)
    chi = window_slowness(nodes, edges, rates)
    products = chi[:, 0] * chi[:, 1]
    # beta_twin is proportional to 1 / chi2, whatever the other constants are
    keeps = [
        keep_price(nodes, edges, rates[k - 1], rates[k], 1 / chi[k - 1, 1], 1 / chi[k, 1]) for k in range(len(chi))
    ]
    unit, rho = search_switching(smoothness / mu, tuple(map(float, products)), tuple(keeps), float(durations.sum()))
    nu, alpha, eta, theta, gamma, gamma_twin, delta = unit
    twins = 1 / (4 * alpha * chi[:, 1]) * (1 - 1e-9)
    letters = Constants(
        nu=nu * smoothness, eta=eta, eta_twin=rho, alpha=alpha, alpha_twin=rho, theta=theta, beta=0.5, beta_twin=float(twins[0]),
        gamma=gamma / smoothness, gamma_twin=gamma_twin / smoothness, delta=delta,
    )  # fmt: skip
    return letters, twins


def choose_restarts(
    c: Constants, twins: Array, mu: float, smoothness: float, nodes: int, edges: Edges, rates: Array
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Restart where that is the cheaper way into a window; nowhere, where no rate is certified at all."""
    plain = Switching(rates, np.ones(len(rates)), twins, np.zeros(len(rates), dtype=bool))
    chi = window_slowness(nodes, edges, rates) * (1 + 1e-10)
    rate = window_rate(c, plain, mu, smoothness, chi)
    if rate is None:
        return plain.restarts
    restart = replace(plain, restarts=~plain.restarts)
    kept, fresh = (prices(c, s, rate, nodes, edges, chi) for s in (plain, restart))
    return fresh < kept


def window_rate(c: Constants, switching: Switching, mu: float, smoothness: float, chi: Array) -> Rate | None:
    """The rate that holds in every window, by the worst of them; its y_weight serves all."""
    found = [certified_rate(switching.constants(c, k), mu, smoothness, *map(float, chi[k])) for k in range(len(chi))]
    if any(rate is None for rate in found):
        return None
    return min((rate for rate in found if rate is not None), key=lambda rate: rate.rho)


def prices(c: Constants, switching: Switching, rate: Rate, nodes: int, edges: Edges, chi: Array) -> Array:
    """The factor g that Phi may grow by when window k begins, (K,), rounded up."""
    found = []
    for k, restarts in enumerate(switching.restarts):
        if restarts:
            g = restart_price(switching.constants(c, k), rate.y_weight, float(chi[k, 0]))
        else:
            g = keep_price(
                nodes, edges, switching.rates[k - 1], switching.rates[k], switching.twins[k - 1], switching.twins[k]
            )
        found.append(max(1.0, g) * (1 + PADDING))
    return np.array(found)


# ---- what follows -----------------------------------------------------------------------------------------------


def paid(log_prices: Array, durations: Array, time: float) -> float:
    """Sum of the log-prices of all changes up to `time`."""
    total, end, window = 0.0, float(durations[0]), 0
    while end <= time:
        window = (window + 1) % len(durations)
        total += float(log_prices[window])
        end += float(durations[window])
    return total


def time_from_which(need: float, rho: float, log_prices: Array, durations: Array) -> float:
    """A time from which on rho t - paid(t) >= need.

    Just after the changes the difference lies below the line of its mean slope by at most `debt`.
    """
    slope = rho - float(log_prices.sum() / durations.sum())
    debt, spent, at = 0.0, 0.0, 0.0
    for k in range(1, len(durations) + 1):
        at += float(durations[k - 1])
        spent += float(log_prices[k % len(durations)])
        debt = max(debt, spent - (rho - slope) * at)
    return max(0.0, (need + debt) / slope) if slope > 0 else math.inf
