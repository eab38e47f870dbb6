"""Claims about an answer (no randomness in them) and about the rate of the method that found it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.certificate import Certificate, Claim, Premise, capped
from surefoot.core.problem import Consensus
from surefoot.decentralized.constants import Constants, Rate, certified_rate
from surefoot.decentralized.graphs import slowness
from surefoot.decentralized.problem import Network
from surefoot.decentralized.rates import lower_bound
from surefoot.decentralized.solution import Agreement

if TYPE_CHECKING:
    from surefoot.decentralized.event_gossip import GossipState

Array = np.ndarray[Any, np.dtype[np.float64]]
CARD = "dadao"
FAILURE = 0.05
"""Failure probability of the claim about the time that suffices."""


def premise(net: Network) -> Premise:
    text = f"every node's loss is {net.mu:.6g}-strongly convex and {net.smoothness:.6g}-smooth"
    return Premise(text, net.known)  # type: ignore[arg-type]


def answer_claims(net: Network, answer: Agreement, tolerance: float) -> tuple[list[Claim], Mapping[str, Any]]:
    """Distances of the answer by strong convexity: |xbar - x*| <= |gbar(xbar)| / mu, and every node's gap."""
    taken = (premise(net),)
    proved = capped("proved", taken)
    mean = answer.mean
    local = np.array([net.gradient(i, mean) for i in range(net.nodes)])
    norms, gaps = np.linalg.norm(local, axis=1), np.linalg.norm(answer.points - mean, axis=1)
    size = float(np.linalg.norm(local.mean(axis=0))) + float(net.rounding(mean).mean())
    distance, gap = size / net.mu, float(gaps.max()) * (1 + 1e-12)
    bound = tolerance or None

    def judged(value: float) -> dict[str, Any]:
        if not math.isfinite(value) or (bound is not None and value > bound):
            return {"outcome": "fails", "reason": f"it is {value:.3g}, above the tolerance"}
        return {}

    claims = [
        Claim(
            name="distance", value=distance, bound=bound, kind=proved, premises=taken, check="distance", **judged(distance),
            statement="The Euclidean distance of the nodes' mean to the minimiser, by strong convexity from the mean gradient there.",
            evidence=("answer", "nodes.csv"),
        ),
        Claim(
            name="node-distance", value=distance + gap, bound=bound, kind=proved, premises=taken, check="node-distance",
            **judged(distance + gap), evidence=("answer", "nodes.csv"),
            statement="The largest distance of any node's point to the minimiser (its gap to the mean, plus the mean's distance).",
        ),
        Claim(
            name="suboptimality", value=size**2 / (2 * net.mu), kind=proved, premises=taken, check="suboptimality",
            statement="The mean loss at the nodes' mean exceeds the least mean loss by at most this.", evidence=("answer",),
        ),
    ]  # fmt: skip
    return claims, {"nodes.csv": {"node": np.arange(net.nodes), "gap": gaps, "gradient_norm": norms}}


def potential_at_start(net: Network, c: Constants, rate: Rate, chi1: float, start: Array) -> float:
    """An upper bound of Phi(0) for x = xt = start and all else 0, from the data alone.

    With s the mean of the start and r = |mean gradient at s| / mu: |x_i - x*| <= |x_i - s| + r, |x*| <= |s| + r and
    |grad f_i(x*)| <= |grad f_i(s)| + L r.
    """
    centre = start.mean(axis=0)
    local = np.array([net.gradient(i, centre) for i in range(net.nodes)])
    radius = float(np.linalg.norm(local.mean(axis=0))) / net.mu
    away = np.linalg.norm(start - centre, axis=1) + radius
    slopes = np.linalg.norm(local, axis=1) + net.smoothness * radius
    size = float(np.linalg.norm(centre)) + radius
    b, at = 2 * c.gamma_twin / c.eta, c.gamma_twin / (c.theta * c.nu)
    return float(
        (1 + b * (net.smoothness - c.nu) / 2) * (away**2).sum()
        + (at + rate.y_weight) * ((slopes + c.nu * size) ** 2).sum()
        + c.gamma_twin / (c.alpha * c.nu) * net.nodes * (c.nu * size) ** 2
        + c.gamma_twin / (c.nu * c.beta_twin) * chi1 * (slopes**2).sum()
    )


def mean_square_factor(net: Network, c: Constants) -> float:
    """|X - X*|^2 <= factor Phi, since b D_i >= b (mu - nu) / 2 |x_i - x*|^2."""
    return c.eta / (c.gamma_twin * (net.mu - c.nu))


def certify_gossip(
    problem: Consensus, net: Network, state: GossipState, answer: Agreement, tolerance: float, batch: int = 0
) -> Certificate:
    """Everything that can be said after a run of `EventGossip`."""
    claims, evidence = answer_claims(net, answer, tolerance)
    if (switching := state.switching) is not None:
        from surefoot.decentralized.certify_windows import window_claims

        more, found_evidence = window_claims(net, state, switching, tolerance)
        return Certificate(CARD, (*claims, *more), problem.fingerprint(), {**evidence, **found_evidence})
    taken = (premise(net),)
    letters = state.letters
    chi1, chi2 = (number * (1 + 1e-10) for number in slowness(net.nodes, net.edges, state.rates))
    found = certified_rate(letters, net.mu, net.smoothness, chi1, chi2)
    stored: dict[str, Any] = {"constants": asdict(letters), "engine": state.engine, "chi1": chi1, "chi2": chi2}
    if net.nodes > 1:
        claims.append(
            Claim(
                name="gossip", value=chi1 * chi2, kind="proved", check="gossip", evidence=("answer", "dynamics.json"),
                statement="chi1 chi2 of the edges' rates: slowness of the graph times half its largest resistance over firing edges.",
            )
        )  # fmt: skip
    if batch:
        from surefoot.decentralized.certify_minibatch import noise_claims

        more = noise_claims(net, state, answer, batch, chi1, chi2)
        claims += more[0]
        stored |= more[1]
        evidence = {**evidence, "start.npz": {"start": state.start}} if "rho" in stored else evidence
    elif found is None:
        claims.append(
            Claim(
                name="rate", value=None, kind="proved", outcome="undecided", check="rate", evidence=("dynamics.json",),
                reason="the Lyapunov conditions hold for no rate with these constants and rates", scope="expectation", premises=taken,
                statement="The expected Lyapunov function decays by exp(-rate) a unit of time.",
            )
        )  # fmt: skip
    else:
        more = _rate_claims(net, state, letters, Rate(found.rho * (1 - 1e-7), found.k, found.y_weight), chi1, tolerance)
        claims += more[0]
        stored |= more[1]
        evidence = {**evidence, "start.npz": {"start": state.start}}
    if state.design:
        claims.append(_design_claim(net, state))
        evidence = {**evidence, "design.npz": dict(state.design)}
    return Certificate(CARD, tuple(claims), problem.fingerprint(), {**evidence, "dynamics.json": stored})


def _rate_claims(
    net: Network, state: GossipState, c: Constants, rate: Rate, chi1: float, tolerance: float
) -> tuple[list[Claim], dict[str, Any]]:
    taken = (premise(net),)
    proved = capped("proved", taken)
    potential = potential_at_start(net, c, rate, chi1, state.start) * (1 + 1e-9)
    factor = mean_square_factor(net, c) * potential
    goal = tolerance or 1e-8
    suffices = math.log(factor / (goal**2 * FAILURE)) / rate.rho
    shared: dict[str, Any] = {"kind": proved, "premises": taken}
    claims = [
        Claim(
            name="rate", value=rate.rho, scope="expectation", check="rate", evidence=("dynamics.json",), **shared,
            statement="The expected Lyapunov function decays at least by exp(-rate) a unit of time (one gradient a node).",
        ),
        Claim(
            name="mean-square", value=factor * math.exp(-rate.rho * state.time), scope="expectation", check="mean-square",
            evidence=("dynamics.json", "start.npz"), **shared,
            statement="Before the run: the expected sum over the nodes of squared distances to the minimiser at its end.",
        ),
        Claim(
            name="time-that-suffices", value=suffices, scope="probability", check="time", evidence=("dynamics.json", "start.npz"),
            **shared,
            statement=f"Before the run: with probability {1 - FAILURE:g} every node is within {goal:g} of the minimiser from this time on.",
        ),
    ]  # fmt: skip
    stored = {"rho": rate.rho, "y_weight": rate.y_weight, "time": state.time, "goal": goal, "failure": FAILURE}
    return claims, stored


def _design_claim(net: Network, state: GossipState) -> Claim:
    chi1, chi2 = slowness(net.nodes, net.edges, state.rates)
    design = state.design
    value = lower_bound(net.edges, design["modes"], design["potentials"], design["weights"])[0]
    lower = value * math.sqrt(0.5 / (chi1 * chi2))
    return Claim(
        name="rates-optimal", value=float(state.rates.sum()) / lower - 1, bound=1e-2, kind="proved", check="design",
        evidence=("answer", "design.npz"),
        statement="Relative excess of the total gossip rate over a lower bound for all rates with the same chi1 chi2 whose "
        "resistances are bounded on every edge of the graph.",
    )  # fmt: skip
