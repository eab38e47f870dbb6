"""The claims of a graph that changes over time again: every window's inequality and every change's price in exact rationals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, Verdict, compare, refute
from surefoot.decentralized.problem import Network
from surefoot.decentralized.schedule import Schedule
from surefoot.decentralized.verify_answer import kind_of, network_of
from surefoot.decentralized.verify_graph import design_excess, dominates, proved_slowness_of
from surefoot.decentralized.verify_rate import ENGINES, decays, eleven_letters, potential, require_goal

Array = np.ndarray[Any, np.dtype[np.float64]]


def _schedule(net: Network) -> Schedule:
    if net.schedule is None:
        raise ValueError("the graph of this problem does not change over time")
    return net.schedule


def _rates(net: Network, dossier: Dossier) -> Array:
    """The answer's rates of every window, which fire only where the window has edges, and their means."""
    schedule = _schedule(net)
    rates = np.asarray(dossier.answer.windows, dtype=np.float64)
    if rates.shape != schedule.rates.shape or not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError("the answer's rates of the windows have another shape, or are not finite numbers >= 0")
    if (rates[schedule.rates == 0] > 0).any():
        raise ValueError("an edge fires in a window in which it is not there")
    total = float(schedule.durations.sum())
    mean = np.array([sum(t * r for t, r in zip(schedule.durations, column, strict=True)) / total for column in rates.T])
    if not np.allclose(mean, np.asarray(dossier.answer.rates, dtype=np.float64), rtol=1e-9, atol=0):
        raise ValueError("the answer's rates are not the means of its windows' rates")
    return rates


def _slowness(net: Network, dossier: Dossier, stored: Mapping[str, Any]) -> list[tuple[float, float]]:
    rates = _rates(net, dossier)
    chi1, chi2 = stored["chi1"], stored["chi2"]
    if not len(chi1) == len(chi2) == len(rates):
        raise ValueError("there are not as many chi1 and chi2 as windows")
    return [
        proved_slowness_of(net.nodes, net.edges[row > 0], row[row > 0], float(a), float(b))
        for row, a, b in zip(rates, chi1, chi2, strict=True)
    ]


def gossip(claim: Claim, dossier: Dossier) -> Verdict:
    """The largest chi1 chi2 over the windows, all proved to be upper bounds."""
    net = network_of(dossier)
    chi = _slowness(net, dossier, dossier.evidence["dynamics.json"])
    return compare(claim, max(a * b for a, b in chi), supports="proved", rtol=1e-12)


@dataclass(frozen=True, eq=False)
class _Proved:
    constants: Mapping[str, float]
    stored: Mapping[str, Any]
    chi1: float
    logs: list[float]
    durations: list[float]

    @property
    def rho(self) -> float:
        return float(self.stored["rho"])

    @property
    def decay(self) -> float:
        return self.rho - sum(self.logs) / sum(self.durations)


def _dynamics(net: Network, dossier: Dossier) -> tuple[dict[str, float], Mapping[str, Any], list[tuple[float, float]]]:
    stored = dossier.evidence["dynamics.json"]
    if stored["engine"] not in ENGINES:
        raise ValueError(f"there is no engine {stored['engine']!r}")
    chi = _slowness(net, dossier, stored)
    twins, restarts = stored["beta_twins"], stored["restarts"]
    if not len(twins) == len(restarts) == len(chi) or not all(isinstance(r, bool) for r in restarts):
        raise ValueError("there are not as many beta_twins and restarts as windows")
    constants = eleven_letters(stored)
    if constants["beta_twin"] != twins[0]:
        raise ValueError("beta_twin is not that of the first window")
    return constants, stored, chi


def _proved(net: Network, dossier: Dossier) -> _Proved:
    constants, stored, chi = _dynamics(net, dossier)
    rates, durations = _rates(net, dossier), _schedule(net).durations.tolist()
    exact = {name: Fraction(value) for name, value in constants.items()}
    rho, weight = Fraction(float(stored["rho"])), Fraction(float(stored["y_weight"]))
    twins = [Fraction(float(twin)) for twin in stored["beta_twins"]]
    prices = [float(g) for g in stored["prices"]]
    if len(prices) != len(chi) or not all(1 <= g < math.inf for g in prices):
        raise ValueError("there are not as many prices as windows, or one is below 1")
    for k, (chi1, chi2) in enumerate(chi):
        own = {**exact, "beta_twin": twins[k]}
        wrong = decays(own, rho, weight, (Fraction(net.mu), Fraction(net.smoothness)), (Fraction(chi1), Fraction(chi2)))
        if wrong:
            raise ValueError(f"the rate is not proved in window {k}: {wrong}")
        if stored["restarts"][k]:
            # |z|^2 <= (1 + p) |w|^2 + (1 + 1/p) |y|^2 with p = c / bt, against c |w|^2 + bt |y|^2
            ct, cw = (
                exact["gamma_twin"] / (exact["nu"] * twins[k]),
                exact["gamma_twin"] / (exact["alpha"] * exact["nu"]),
            )
            least = 1 + ct * Fraction(chi1) * (1 / cw + 1 / weight)
            if Fraction(prices[k]) < least:
                raise ValueError(f"the restart at window {k} costs {float(least):.6g}, not {prices[k]:.6g}")
        elif not dominates(
            net.nodes, net.edges, rates[k], prices[k] * float(twins[k]), rates[k - 1], float(twins[k - 1])
        ):
            raise ValueError(f"the price {prices[k]:.6g} of going on into window {k} is not proved")
        if prices[k] > 1.001 and _cheaper(net, stored, rates, twins, prices, k, chi1, exact, weight):
            raise ValueError(f"the price {prices[k]:.6g} of window {k} is not that of this change")
    return _Proved(constants, stored, chi[0][0], [math.log(g) for g in prices], durations)


def _cheaper(
    net: Network, stored: Mapping[str, Any], rates: Array, twins: list[Fraction], prices: list[float], k: int, chi1: float,
    exact: Mapping[str, Fraction], weight: Fraction,
) -> bool:  # fmt: skip
    """Whether a price a little smaller would do as well, so that the stored one is loose."""
    smaller = 1 + (prices[k] - 1) * 0.999
    if stored["restarts"][k]:
        ct, cw = exact["gamma_twin"] / (exact["nu"] * twins[k]), exact["gamma_twin"] / (exact["alpha"] * exact["nu"])
        return Fraction(smaller) >= 1 + ct * Fraction(chi1) * (1 / cw + 1 / weight)
    return dominates(net.nodes, net.edges, rates[k], smaller * float(twins[k]), rates[k - 1], float(twins[k - 1]))


def rate(claim: Claim, dossier: Dossier) -> Verdict:
    """rho of every window, less the prices of a cycle over its length."""
    net = network_of(dossier)
    if claim.outcome == "undecided":
        _, stored, _ = _dynamics(net, dossier)
        return compare(claim, None, supports=kind_of(net), undecided="rho" not in stored)
    found = _proved(net, dossier)
    if found.decay <= 0:
        return refute(claim, "the prices of a cycle exceed what its windows gain")
    return compare(claim, found.decay, supports=kind_of(net), rtol=1e-9)


def mean_square(claim: Claim, dossier: Dossier) -> Verdict:
    """factor Phi(0) exp(-rho T), times the prices of the changes until T."""
    net = network_of(dossier)
    found = _proved(net, dossier)
    time = float(found.stored["time"])
    if not 0 <= time < math.inf:
        return refute(claim, "the time is not finite")
    spent, end, k = 0.0, found.durations[0], 0
    while end <= time:
        k = (k + 1) % len(found.durations)
        spent, end = spent + found.logs[k], end + found.durations[k]
    value = potential(net, found.constants, found.stored, found.chi1, dossier) * math.exp(spent - found.rho * time)
    return compare(claim, value, supports=kind_of(net), rtol=1e-6)


def sufficient_time(claim: Claim, dossier: Dossier) -> Verdict:
    """From when on rho t - prices(t) stays above log(factor Phi(0) / (goal^2 p)), by Ville's inequality."""
    net = network_of(dossier)
    found = _proved(net, dossier)
    goal, failure = require_goal(claim, found.stored)
    need = math.log(potential(net, found.constants, found.stored, found.chi1, dossier) / (goal**2 * failure))
    debt, count = 0.0, len(found.durations)
    for changes in range(1, count + 1):
        at = sum(found.durations[:changes])
        debt = max(debt, sum(found.logs[k % count] for k in range(1, changes + 1)) - (found.rho - found.decay) * at)
    return compare(claim, max(0.0, (need + debt) / found.decay), supports=kind_of(net), rtol=1e-6)


def design(claim: Claim, dossier: Dossier) -> Verdict:
    """The largest excess over the windows."""
    net = network_of(dossier)
    schedule, rates, found = _schedule(net), _rates(net, dossier), dossier.evidence["design.npz"]
    worst = -math.inf
    for k, row in enumerate(rates):
        there = schedule.rates[k] > 0
        parts = tuple(np.asarray(found[f"{name}_{k}"], dtype=np.float64) for name in ("modes", "potentials", "weights"))
        excess = design_excess(net.nodes, net.edges[there], row[there], *parts)
        if excess < -1e-8:
            return refute(claim, f"the multipliers of window {k} bound no rates from below")
        worst = max(worst, excess)
    return compare(claim, worst, supports="proved", bound=1e-2, rtol=1e-5, atol=1e-8)
