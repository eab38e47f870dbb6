"""The claims of gossip and of A2CiD2 again: the contraction in exact rationals, the bounds from the problem's constants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from surefoot.core.certificate import Claim, Kind
from surefoot.core.verify import Dossier, Verdict, compare, refute
from surefoot.decentralized.problem import Network, network
from surefoot.decentralized.verify_answer import compare_table
from surefoot.decentralized.verify_graph import design_excess, proved_slowness, rates_of
from surefoot.decentralized.verify_rate import require_goal

Array = np.ndarray[Any, np.dtype[np.float64]]


def _net(dossier: Dossier) -> Network:
    return network(dossier.problem, convex=False)


def _mixing(net: Network, dossier: Dossier) -> tuple[dict[str, float], Mapping[str, Any], tuple[float, float]]:
    stored = dossier.evidence["dynamics.json"]
    letters = {name: float(value) for name, value in stored["mixing"].items()}
    if set(letters) != {"eta", "alpha", "alpha_twin"} or not all(map(math.isfinite, letters.values())):
        raise ValueError("the constants are not eta, alpha and alpha_twin, or not finite")
    return letters, stored, proved_slowness(net, rates_of(net, dossier), stored)


def gossip(claim: Claim, dossier: Dossier) -> Verdict:
    """chi1 chi2, both proved to be upper bounds."""
    _, _, chi = _mixing(_net(dossier), dossier)
    return compare(claim, chi[0] * chi[1], supports="proved", rtol=1e-12)


def contracts(letters: Mapping[str, Fraction], rho: Fraction, chi1: Fraction, chi2: Fraction) -> str:
    """'' if E Psi decays at rate rho on every graph with these chi1 and chi2; otherwise what fails.

    On a mode of Lambda with eigenvalue 1 / k, 1/k >= 1 / chi1, motion and exchanges leave at most -(2 eta - rho) a^2 + 2 c eta k a b - c (2 eta - rho) k b^2
    of w = a, v = b, which is negative semidefinite for all such k if it is for k = chi1; without momentum only <w, Lambda w> >= |w|^2 / chi1.
    """
    eta, alpha, twin = letters["eta"], letters["alpha"], letters["alpha_twin"]
    if eta < 0 or not 0 < alpha < 1 or twin <= 0 or rho <= 0:
        return "a constant is not in its range"
    if eta == 0:
        return "" if rho * chi1 <= 2 * alpha - 2 * alpha**2 else "plain averaging is slower than that"
    c = eta / twin
    if 2 * alpha**2 - 2 * alpha + 2 * chi2 * c * twin**2 > 0:
        return "an exchange can increase the function"
    room = 2 * eta - rho
    # the form [[room, -c eta k], [., c room k]] for k = chi1, and its determinant grows as k falls
    if room < 0 or room * c * room * chi1 < (c * eta * chi1) ** 2:
        return "the pull between x and its twin is too strong or too weak for this rate"
    return ""


def _proved(net: Network, dossier: Dossier) -> tuple[dict[str, float], Mapping[str, Any], float, float]:
    """Letters, what is stored, rho, and 1 + c chi1; the rate proved."""
    letters, stored, chi = _mixing(net, dossier)
    rho = float(stored["rho"])
    exact = {name: Fraction(value) for name, value in letters.items()}
    wrong = contracts(exact, Fraction(rho), Fraction(chi[0]), Fraction(chi[1]))
    if wrong:
        raise ValueError(f"the rate is not proved: {wrong}")
    if not contracts(exact, Fraction(rho * 1.001), Fraction(chi[0]), Fraction(chi[1])):
        raise ValueError("the rate is not that of these constants: a larger one holds")
    if not 0 <= float(stored["time"]) < math.inf:
        raise ValueError("the time is not finite")
    return letters, stored, rho, 1 + letters["eta"] / letters["alpha_twin"] * chi[0]


def rate(claim: Claim, dossier: Dossier) -> Verdict:
    """rho of Psi."""
    return compare(claim, _proved(_net(dossier), dossier)[2], supports="proved", rtol=1e-12)


def _first(dossier: Dossier) -> tuple[float, float, Mapping[str, Any]]:
    """(1 + c chi1) times the spread of the nodes' own minimisers, rho, and what is stored."""
    net = network(dossier.problem)
    if net.mu != net.smoothness:
        raise ValueError("the losses have more than one curvature: their minimiser is no average")
    _, stored, rho, weight = _proved(net, dossier)
    origin = torch.zeros(net.dim, dtype=torch.float64)
    own = np.array([-(o.value_and_grad(origin)[1] / net.mu).numpy() for o in net.objectives])
    total = sum(float((row - own.mean(axis=0)) @ (row - own.mean(axis=0))) for row in own)
    return weight * total, rho, stored


def mean_square(claim: Claim, dossier: Dossier) -> Verdict:
    """Psi(0) exp(-rho T)."""
    first, rho, stored = _first(dossier)
    return compare(claim, first * math.exp(-rho * float(stored["time"])), supports="proved", rtol=1e-6)


def sufficient_time(claim: Claim, dossier: Dossier) -> Verdict:
    """log(Psi(0) / (goal^2 p)) / rho, by Ville's inequality."""
    first, rho, stored = _first(dossier)
    goal, failure = require_goal(claim, stored)
    value = max(0.0, math.log(first / (goal**2 * failure)) / rho) if first else 0.0
    return compare(claim, value, supports="proved", rtol=1e-6)


def design(claim: Claim, dossier: Dossier) -> Verdict:
    """The total rate over the lower bound of the multipliers."""
    net, found = _net(dossier), dossier.evidence["design.npz"]
    parts = (np.asarray(found[name], dtype=np.float64) for name in ("modes", "potentials", "weights"))
    value = design_excess(net.nodes, net.edges, rates_of(net, dossier), *parts)
    return compare(claim, value, supports="proved", bound=1e-2, rtol=1e-5, atol=1e-8)


# ---- A2CiD2 -----------------------------------------------------------------------------------------------------


def _answer(net: Network, dossier: Dossier) -> tuple[float, float]:
    """Norm of the mean gradient at the mean and the largest gap, after comparing the table of nodes."""
    points = np.asarray(dossier.answer.points, dtype=np.float64)
    if points.shape != (net.nodes, net.dim) or not np.isfinite(points).all():
        raise ValueError(f"the answer's points have shape {points.shape} or are not finite")
    mean = points.sum(axis=0) / net.nodes
    at = torch.from_numpy(np.ascontiguousarray(mean))
    local = np.array([o.value_and_grad(at)[1].numpy() for o in net.objectives])
    gaps, norms = np.sqrt(((points - mean) ** 2).sum(axis=1)), np.sqrt((local**2).sum(axis=1))
    compare_table(dossier, points, gaps, norms, 1e-12)
    return float(np.sqrt((local.mean(axis=0) ** 2).sum())), float(gaps.max())


def slope(claim: Claim, dossier: Dossier) -> Verdict:
    """The mean gradient at the nodes' mean."""
    return compare(claim, _answer(_net(dossier), dossier)[0], supports="proved", rtol=1e-6, atol=1e-12)


def gap(claim: Claim, dossier: Dossier) -> Verdict:
    """The largest distance to the mean."""
    return compare(claim, _answer(_net(dossier), dossier)[1], supports="proved", rtol=1e-6, atol=1e-14)


def _known(net: Network, names: tuple[str, ...]) -> Kind:
    kinds = {objective.constant(name).known for objective in net.objectives for name in names}
    return "measured" if "estimated" in kinds else "proved"


def _spread(net: Network, dossier: Dossier) -> tuple[float, Mapping[str, Any], float, str, Array]:
    _, stored, rho, weight = _proved(net, dossier)
    sampled, s = stored["sampled"], float(stored["step_size"])
    if not isinstance(sampled, bool) or not 0 < s < math.inf:
        raise ValueError(f"sampled is {sampled} and the step is {s}")
    name = "row_gradient_bound" if sampled else "gradient_bound"
    G = max(objective.constant(name).value for objective in net.objectives)
    start = np.asarray(dossier.evidence["start.npz"]["start"], dtype=np.float64)
    if start.shape != (net.nodes, net.dim) or not np.isfinite(start).all():
        raise ValueError("the start has the wrong shape or is not finite")
    first = weight * float(((start - start.mean(axis=0)) ** 2).sum())
    # the larger root of rho N^2 = 2 S N + S^2
    S = s * G * math.sqrt(net.nodes * weight)
    root = (2 * S + math.sqrt(4 * S * S + 4 * rho * S * S)) / (2 * rho)
    return max(first, root**2), stored, G, name, start


def spread(claim: Claim, dossier: Dossier) -> Verdict:
    """The fixed point of d/dt E Psi <= -rho E Psi + 2 S E[Psi]^(1/2) + S^2."""
    net = _net(dossier)
    value, _, _, name, _ = _spread(net, dossier)
    return compare(claim, value, supports=_known(net, (name,)), rtol=1e-6)


def stationarity(claim: Claim, dossier: Dossier) -> Verdict:
    """2 (f(start) - inf f) / (s T) + L^2 N^2 / n + L s G^2 / n."""
    net = _net(dossier)
    value, stored, G, name, start = _spread(net, dossier)
    time, s = float(stored["time"]), float(stored["step_size"])
    if not time > 0:
        return refute(claim, "nothing was run")
    L = max(objective.constant("smoothness").value for objective in net.objectives)
    at = torch.from_numpy(np.ascontiguousarray(start.mean(axis=0)))
    excess = sum(float(o.value_and_grad(at)[0]) - o.constant("minimum").value for o in net.objectives) / net.nodes
    bound = 2 * excess / (s * time) + (L * L * value + L * s * G * G) / net.nodes
    return compare(claim, bound, supports=_known(net, (name, "smoothness", "minimum")), rtol=1e-6)
