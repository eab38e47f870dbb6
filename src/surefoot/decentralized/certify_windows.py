"""Claims about a run on a graph that changes over time: the worst window's gossip, the decay over a cycle, and what follows."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.certificate import Claim, capped
from surefoot.decentralized.certify import FAILURE, mean_square_factor, potential_at_start, premise
from surefoot.decentralized.constants import Rate
from surefoot.decentralized.problem import Network
from surefoot.decentralized.rates import lower_bound
from surefoot.decentralized.windows import Switching, paid, prices, time_from_which, window_rate, window_slowness

if TYPE_CHECKING:
    from surefoot.decentralized.event_gossip import GossipState


def window_claims(
    net: Network, state: GossipState, switching: Switching, tolerance: float
) -> tuple[list[Claim], dict[str, Any]]:
    """The claims and their evidence."""
    chi = window_slowness(net.nodes, net.edges, switching.rates) * (1 + 1e-10)
    stored: dict[str, Any] = {
        "constants": asdict(state.letters), "engine": state.engine, "chi1": chi[:, 0].tolist(), "chi2": chi[:, 1].tolist(),
        "beta_twins": switching.twins.tolist(), "restarts": switching.restarts.tolist(),
    }  # fmt: skip
    claims = [
        Claim(
            name="gossip", value=float(chi.prod(axis=1).max()), kind="proved", check="gossip-windows", evidence=("answer", "dynamics.json"),
            statement="The largest chi1 chi2 of any window's rates: slowness of the graph times half its largest resistance over firing edges.",
        )
    ]  # fmt: skip
    found = window_rate(state.letters, switching, net.mu, net.smoothness, chi)
    evidence: dict[str, Any] = {}
    rate, log_prices, decay = None, np.zeros(0), 0.0
    if found is not None:
        rate = replace(found, rho=found.rho * (1 - 1e-7))
        log_prices = np.log(prices(state.letters, switching, rate, net.nodes, net.edges, chi))
        decay = rate.rho - float(log_prices.sum() / switching.durations.sum())
    if rate is None or decay <= 0:
        reason = "the Lyapunov conditions hold for no rate in some window with these constants and rates"
        if rate is not None:
            reason = (
                f"the changes cost more ({log_prices.sum():.3g} a cycle) than the windows gain ({rate.rho * switching.durations.sum():.3g}): "
                "longer windows or a smaller product are needed"
            )
        claims.append(
            Claim(
                name="rate", value=None, kind="proved", outcome="undecided", check="rate-windows", evidence=("dynamics.json",),
                reason=reason, scope="expectation", premises=(premise(net),), statement=RATE_STATEMENT,
            )
        )  # fmt: skip
    else:
        more = _rate_claims(net, state, switching, rate, log_prices, float(chi[0, 0]), tolerance)
        claims += more[0]
        stored |= more[1]
        evidence["start.npz"] = {"start": state.start}
    if state.design:
        claims.append(_design_claim(net, state, switching))
        evidence["design.npz"] = dict(state.design)
    return claims, {**evidence, "dynamics.json": stored}


RATE_STATEMENT = (
    "Over whole cycles of the windows, with the price of every change, the expected Lyapunov function decays at least by exp(-rate) a unit of "
    "time (one gradient a node)."
)


def _rate_claims(
    net: Network, state: GossipState, switching: Switching, rate: Rate, log_prices: np.ndarray, chi1: float, tolerance: float
) -> tuple[list[Claim], dict[str, Any]]:  # fmt: skip
    taken = (premise(net),)
    shared: dict[str, Any] = {"kind": capped("proved", taken), "premises": taken}
    letters, durations = switching.constants(state.letters, 0), switching.durations
    factor = mean_square_factor(net, letters) * potential_at_start(net, letters, rate, chi1, state.start) * (1 + 1e-9)
    goal = tolerance or 1e-8
    suffices = time_from_which(math.log(factor / (goal**2 * FAILURE)), rate.rho, log_prices, durations)
    claims = [
        Claim(
            name="rate", value=rate.rho - float(log_prices.sum() / durations.sum()), scope="expectation", check="rate-windows",
            evidence=("answer", "dynamics.json"), statement=RATE_STATEMENT, **shared,
        ),
        Claim(
            name="mean-square", value=factor * math.exp(paid(log_prices, durations, state.time) - rate.rho * state.time), scope="expectation",
            check="mean-square-windows", evidence=("answer", "dynamics.json", "start.npz"), **shared,
            statement="Before the run: the expected sum over the nodes of squared distances to the minimiser at its end.",
        ),
        Claim(
            name="time-that-suffices", value=suffices, scope="probability", check="time-windows",
            evidence=("answer", "dynamics.json", "start.npz"), **shared,
            statement=f"Before the run: with probability {1 - FAILURE:g} every node is within {goal:g} of the minimiser from this time on.",
        ),
    ]  # fmt: skip
    stored = {
        "rho": rate.rho, "y_weight": rate.y_weight, "prices": np.exp(log_prices).tolist(), "time": state.time, "goal": goal, "failure": FAILURE,
    }  # fmt: skip
    return claims, stored


def _design_claim(net: Network, state: GossipState, switching: Switching) -> Claim:
    chi, worst = window_slowness(net.nodes, net.edges, switching.rates), -math.inf
    for k, rates in enumerate(switching.rates):
        part = [state.design[f"{name}_{k}"] for name in ("modes", "potentials", "weights")]
        assert net.schedule is not None
        value = lower_bound(net.edges[net.schedule.present[k]], *part)[0]
        worst = max(worst, float(rates.sum()) / (value * math.sqrt(0.5 / float(chi[k].prod()))) - 1)
    return Claim(
        name="rates-optimal", value=worst, bound=1e-2, kind="proved", check="design-windows", evidence=("answer", "design.npz"),
        statement="The largest relative excess, over the windows, of the total gossip rate over a lower bound for all rates with the same "
        "chi1 chi2 whose resistances are bounded on every edge of the window.",
    )  # fmt: skip
