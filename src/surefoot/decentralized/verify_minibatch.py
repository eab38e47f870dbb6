"""The claims of mini-batches again: the inequality with the noise in exact rationals, the variance of the rows from the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, Verdict, compare, refute
from surefoot.decentralized.problem import Network
from surefoot.decentralized.verify_answer import kind_of, local_gradients, network_of
from surefoot.decentralized.verify_rate import decays, dynamics, potential

Array = np.ndarray[Any, np.dtype[np.float64]]


def _curvatures(net: Network) -> list[Array]:
    """The curvature bound of every row's loss, node by node."""
    if net.rows is None:
        raise ValueError("the losses have no rows")
    return [np.array([local.loss.constants.curvature * float(a @ a) for a in local.features]) for local in net.rows]


def _proved(claim: Claim, net: Network, dossier: Dossier) -> tuple[dict[str, float], Mapping[str, Any], float]:
    """Constants, what is stored, and chi1, after proving the rate.

    Raises:
        ValueError: it is not proved.
    """
    constants, stored, chi = dynamics(net, dossier)
    batch, tau, growth = stored["batch"], float(stored["tau"]), float(stored["growth"])
    if not isinstance(batch, int) or batch < 1 or not 0 < tau < math.inf:
        raise ValueError(f"batch is {batch} and tau is {tau}")
    if claim.name == "rate" and f"from {batch} rows" not in claim.statement:
        raise ValueError("the statement speaks of another batch")
    least = (1 + 1 / tau) * 2 / batch * max(float(rows.max()) for rows in _curvatures(net))
    if not least <= growth <= least * (1 + 1e-9):
        raise ValueError(f"the growth of the noise is {least:.12g}, not {growth:.12g}")
    assert net.rows is not None
    if constants["nu"] > min(local.ridge for local in net.rows):
        raise ValueError("nu exceeds a ridge, so that the rows' distances are not covered")
    exact = {name: Fraction(value) for name, value in constants.items()}
    rho, weight = Fraction(float(stored["rho"])), Fraction(float(stored["y_weight"]))
    wrong = decays(
        exact, rho, weight, (Fraction(net.mu), Fraction(net.smoothness)), (Fraction(chi[0]), Fraction(chi[1])), Fraction(growth)
    )  # fmt: skip
    if wrong:
        raise ValueError(f"the rate is not proved: {wrong}")
    return constants, stored, chi[0]


def rate(claim: Claim, dossier: Dossier) -> Verdict:
    """The Lyapunov inequality with noise."""
    net = network_of(dossier)
    if claim.outcome == "undecided":
        stored = dynamics(net, dossier)[1]
        if f"from {stored['batch']} rows" not in claim.statement:
            return refute(claim, "the statement speaks of another batch")
        return compare(claim, None, supports=kind_of(net), undecided="rho" not in stored)
    _, stored, _ = _proved(claim, net, dossier)
    return compare(claim, float(stored["rho"]), supports=kind_of(net), rtol=1e-12)


def _floor(net: Network, c: Mapping[str, float], stored: Mapping[str, Any]) -> float:
    """2 / (b m) C S / rho with the variances bounded from the stored point, summed over the rows one by one."""
    mean = np.asarray(stored["reference"], dtype=np.float64)
    if mean.shape != (net.dim,) or not np.isfinite(mean).all():
        raise ValueError("the point of reference has the wrong shape or is not finite")
    slope = local_gradients(net, mean).mean(axis=0)
    radius = (math.sqrt(float(slope @ slope)) + float(net.rounding(mean).mean())) / net.mu
    total = 0.0
    assert net.rows is not None
    for local, bend in zip(net.rows, _curvatures(net), strict=True):
        z, y = torch.from_numpy(local.features @ mean), torch.from_numpy(local.targets)
        each = local.features * local.loss.derivative(z, y).numpy()[:, None]
        variance = float(((each - each.mean(axis=0)) ** 2).sum(axis=1).mean())
        total += (math.sqrt(variance) + radius * math.sqrt(float((bend**2).mean()))) ** 2
    total *= (1 + float(stored["tau"])) / int(stored["batch"])
    b, at = 2 * c["gamma_twin"] / c["eta"], c["gamma_twin"] / (c["theta"] * c["nu"])
    weight = b * (net.smoothness - c["nu"]) * c["gamma"] ** 2 / 2 + c["gamma_twin"] ** 2 + at * c["delta"] ** 2
    return 2 / (b * (net.mu - c["nu"])) * weight * total / float(stored["rho"])


def floor(claim: Claim, dossier: Dossier) -> Verdict:
    """What the noise leaves."""
    net = network_of(dossier)
    c, stored, _ = _proved(claim, net, dossier)
    return compare(claim, _floor(net, c, stored), supports=kind_of(net), rtol=1e-6)


def mean_square(claim: Claim, dossier: Dossier) -> Verdict:
    """factor Phi(0) exp(-rho T) + floor (1 - exp(-rho T))."""
    net = network_of(dossier)
    c, stored, chi1 = _proved(claim, net, dossier)
    time, rho = float(stored["time"]), float(stored["rho"])
    if not 0 <= time < math.inf:
        return refute(claim, "the time is not finite")
    share = math.exp(-rho * time)
    value = potential(net, c, stored, chi1, dossier) * share + _floor(net, c, stored) * (1 - share)
    return compare(claim, value, supports=kind_of(net), rtol=1e-6)
