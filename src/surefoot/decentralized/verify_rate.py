"""The certified rate again: the whole Lyapunov inequality as one exact quadratic form that is built from the dynamics, term by
term, not from the conditions that the solver uses; and the two bounds that follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, Verdict, compare, refute
from surefoot.decentralized.problem import Network
from surefoot.decentralized.verify_answer import kind_of, local_gradients, network_of
from surefoot.decentralized.verify_graph import proved_slowness, rates_of
from surefoot.numerics.rationals import is_positive_semidefinite

ENGINES = ("warp", "numpy", "reference")
LETTERS = (
    "nu", "eta", "eta_twin", "alpha", "alpha_twin", "theta", "beta", "beta_twin", "gamma", "gamma_twin", "delta",
)  # fmt: skip
VARIABLES = ("x", "xt", "y", "yt", "w", "g")
"""Centred variables of a node: w = y + z and g = grad f(x) - nu x."""


class _Form:
    """A quadratic form in VARIABLES, exactly."""

    def __init__(self) -> None:
        self.matrix = [[Fraction(0)] * len(VARIABLES) for _ in VARIABLES]

    def add(self, factor: Fraction, left: Mapping[str, int], right: Mapping[str, int]) -> None:
        """factor <left, right> for linear combinations of the variables."""
        for a, p in left.items():
            for b, q in right.items():
                i, j = VARIABLES.index(a), VARIABLES.index(b)
                self.matrix[i][j] += factor * p * q / 2
                self.matrix[j][i] += factor * p * q / 2


def decays(
    c: Mapping[str, Fraction],
    rho: Fraction,
    y_weight: Fraction,
    curvature: tuple[Fraction, Fraction],
    chi: tuple[Fraction, Fraction],
    noise: Fraction = Fraction(0),
) -> str:
    """'' if E Phi decays at rate rho for every problem and graph of these constants; otherwise what fails.

    The generator of Phi plus rho Phi is bounded by minus a quadratic form in the centred variables, term by term from the
    dynamics; the form is positive semidefinite. With `noise` gradients have a variance of at most noise D_i(x) beside a constant, which every
    jump term turns into its own share of Phi.
    """
    chi1, chi2 = chi
    m, M = curvature[0] - c["nu"], curvature[1] - c["nu"]
    if min(c.values()) <= 0 or m <= 0 or M <= 0 or rho <= 0 or y_weight < 0:
        return "a constant is not in its range"
    b = 2 * c["gamma_twin"] / c["eta"]
    at = c["gamma_twin"] / (c["theta"] * c["nu"])
    cw = c["gamma_twin"] / (c["alpha"] * c["nu"])
    ct = c["gamma_twin"] / (c["nu"] * c["beta_twin"])
    if cw * c["alpha"] != ct * c["beta_twin"]:
        return "the cross terms of zt and y + z do not cancel"
    if cw * (2 * c["beta"] ** 2 - 2 * c["beta"]) + 2 * chi2 * ct * c["beta_twin"] ** 2 > 0:
        return "an exchange can increase the function"
    if c["alpha_twin"] < rho or c["eta"] < rho:
        return "the twin of z or the coupling of x is slower than the rate"
    form = _Form()
    one = Fraction(1)
    x, xt, y, yt, w, g = ({name: 1} for name in VARIABLES)
    z, e = {"w": 1, "y": -1}, {"g": 1, "yt": -1}
    # |xt|^2: motion and gradient jump
    form.add(2 * c["eta_twin"], xt, {"x": 1, "xt": -1})
    form.add(-2 * c["gamma_twin"], xt, e)
    form.add(c["gamma_twin"] ** 2, e, e)
    # b D: motion along eta (xt - x), of which <g, x> = D(x, x*) + D(x*, x), and the jump of an M-smooth function
    form.add(b * c["eta"], g, xt)
    form.add(-b * c["gamma"], g, e)
    form.add(b * M * c["gamma"] ** 2 / 2, e, e)
    # at |yt|^2
    form.add(-2 * at * c["theta"], yt, {"w": 1})
    form.add(-2 * at * c["theta"] * c["nu"], yt, xt)
    form.add(2 * at * c["delta"], yt, e)
    form.add(at * c["delta"] ** 2, e, e)
    # bt |y|^2 and c |y + z|^2 (its part with zt has cancelled)
    form.add(2 * y_weight * c["alpha"], y, {"yt": 1, "y": -1})
    form.add(2 * cw * c["alpha"], w, {"yt": 1, "w": -1})
    # ct |zt|^2 in Lambda^+: 2 <zt, z - zt> <= |z|^2 - |zt|^2 and |z|^2 in Lambda^+ is at most chi1 |z|^2
    form.add(ct * c["alpha_twin"] * chi1, z, z)
    # rho Phi, but for D and zt
    for factor, v in ((one, xt), (at, yt), (y_weight, y), (cw, w)):
        form.add(rho * factor, v, v)
    # what is left of the Bregman distances, each at least m |x|^2 / 2 and at least |g|^2 / (2 M)
    spent = noise * (b * M * c["gamma"] ** 2 / 2 + c["gamma_twin"] ** 2 + at * c["delta"] ** 2)
    if b * (c["eta"] - rho) < spent:
        return "the noise of the gradients outweighs the decay of the distances"
    left = b * (c["eta"] - rho) - spent + b * c["eta"]
    share = 2 * c["eta_twin"] / (left * m)
    if not 0 <= share <= 1:
        return "the distances do not cover the twin of x"
    form.add(-left * share * m / 2, x, x)
    form.add(-left * (1 - share) / (2 * M), g, g)
    negated = [[-entry for entry in row] for row in form.matrix]
    return "" if is_positive_semidefinite(negated) else "the quadratic form of the decay is not negative semidefinite"


def eleven_letters(stored: Mapping[str, Any]) -> dict[str, float]:
    """The stored constants.

    Raises:
        ValueError: they are not the eleven letters, or not finite.
    """
    constants = {name: float(stored["constants"][name]) for name in LETTERS}
    if set(stored["constants"]) != set(LETTERS) or not all(map(math.isfinite, constants.values())):
        raise ValueError("the constants are not the eleven letters, or not finite")
    return constants


def dynamics(net: Network, dossier: Dossier) -> tuple[dict[str, float], Mapping[str, Any], tuple[float, float]]:
    """The constants, all that is stored, and (chi1, chi2), proved.

    Raises:
        ValueError: they are not what they should be.
    """
    stored = dossier.evidence["dynamics.json"]
    if stored["engine"] not in ENGINES:
        raise ValueError(f"there is no engine {stored['engine']!r}")
    return eleven_letters(stored), stored, proved_slowness(net, rates_of(net, dossier), stored)


def _proved_rate(net: Network, dossier: Dossier) -> tuple[dict[str, float], Mapping[str, Any], tuple[float, float]]:
    constants, stored, chi = dynamics(net, dossier)
    exact = {name: Fraction(value) for name, value in constants.items()}
    rho, weight = Fraction(float(stored["rho"])), Fraction(float(stored["y_weight"]))
    curvature = Fraction(net.mu), Fraction(net.smoothness)
    wrong = decays(exact, rho, weight, curvature, (Fraction(chi[0]), Fraction(chi[1])))
    if wrong:
        raise ValueError(f"the rate is not proved: {wrong}")
    return constants, stored, chi


def rate(claim: Claim, dossier: Dossier) -> Verdict:
    """The Lyapunov inequality in exact rationals, for the constants, the curvatures and the graph."""
    net = network_of(dossier)
    if claim.outcome == "undecided":
        dynamics(net, dossier)
        undecided = "rho" not in dossier.evidence["dynamics.json"]
        return compare(claim, None, supports=kind_of(net), undecided=undecided)
    _, stored, _ = _proved_rate(net, dossier)
    return compare(claim, float(stored["rho"]), supports=kind_of(net), rtol=1e-12)


def potential(net: Network, c: Mapping[str, float], stored: Mapping[str, Any], chi1: float, dossier: Dossier) -> float:
    """factor Phi(0) of the mean-square bound, from the gradients at the mean of the start."""
    start = np.asarray(dossier.evidence["start.npz"]["start"], dtype=np.float64)
    if start.shape != (net.nodes, net.dim) or not np.isfinite(start).all():
        raise ValueError("the start has the wrong shape or is not finite")
    centre = start.mean(axis=0)
    local = local_gradients(net, centre)
    radius = math.sqrt(float((local.mean(axis=0) ** 2).sum())) / net.mu
    total = 0.0
    b, at = 2 * c["gamma_twin"] / c["eta"], c["gamma_twin"] / (c["theta"] * c["nu"])
    size = math.sqrt(float(centre @ centre)) + radius
    for i in range(net.nodes):
        away = math.sqrt(float(((start[i] - centre) ** 2).sum())) + radius
        slope = math.sqrt(float(local[i] @ local[i])) + net.smoothness * radius
        total += (1 + b * (net.smoothness - c["nu"]) / 2) * away**2
        total += (at + float(stored["y_weight"])) * (slope + c["nu"] * size) ** 2
        total += c["gamma_twin"] * c["nu"] / c["alpha"] * size**2
        total += c["gamma_twin"] / (c["nu"] * c["beta_twin"]) * chi1 * slope**2
    return total * 2 / (b * (net.mu - c["nu"]))


def mean_square(claim: Claim, dossier: Dossier) -> Verdict:
    """factor Phi(0) exp(-rho T)."""
    net = network_of(dossier)
    c, stored, chi = _proved_rate(net, dossier)
    time = float(stored["time"])
    if not 0 <= time < math.inf:
        return refute(claim, "the time is not finite")
    value = potential(net, c, stored, chi[0], dossier) * math.exp(-float(stored["rho"]) * time)
    return compare(claim, value, supports=kind_of(net), rtol=1e-6)


def sufficient_time(claim: Claim, dossier: Dossier) -> Verdict:
    """log(factor Phi(0) / (goal^2 p)) / rho, by Ville's inequality for the supermartingale exp(rho t) Phi(t)."""
    net = network_of(dossier)
    c, stored, chi = _proved_rate(net, dossier)
    goal, failure = require_goal(claim, stored)
    value = math.log(potential(net, c, stored, chi[0], dossier) / (goal**2 * failure)) / float(stored["rho"])
    return compare(claim, value, supports=kind_of(net), rtol=1e-6)


def require_goal(claim: Claim, stored: Mapping[str, Any]) -> tuple[float, float]:
    """The stored goal and failure probability, which the statement must name.

    Raises:
        ValueError: it names others.
    """
    goal, failure = float(stored["goal"]), float(stored["failure"])
    if f"within {goal:g} " not in claim.statement or f"probability {1 - failure:g} " not in claim.statement:
        raise ValueError("the statement speaks of another goal or probability")
    return goal, failure
