"""Claims about a run with gradients from a few rows: the rate that survives the noise, the floor, and the mean square at the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.certificate import Claim, capped
from surefoot.decentralized.certify import potential_at_start, premise
from surefoot.decentralized.minibatch import certified_noise, reference_point
from surefoot.decentralized.problem import Network
from surefoot.decentralized.solution import Agreement

if TYPE_CHECKING:
    from surefoot.decentralized.event_gossip import GossipState

RATE = "With gradients from {} rows the expected Lyapunov function decays at least by exp(-rate) a unit of time (one gradient a node) towards its floor."
FLOOR = "In the end the expected sum over the nodes of squared distances to the minimiser is at most this, whatever the start."


def noise_claims(
    net: Network, state: GossipState, answer: Agreement, batch: int, chi1: float, chi2: float
) -> tuple[list[Claim], dict[str, Any]]:
    """The claims, and what they store beside the constants."""
    taken = (premise(net),)
    shared: dict[str, Any] = {"kind": capped("proved", taken), "premises": taken, "scope": "expectation"}
    point = reference_point(net, answer.mean)
    distance = float(np.linalg.norm(net.mean_gradient(point))) + float(net.rounding(point).mean())
    noise = certified_noise(net, state.letters, chi1, chi2, batch, point, distance / net.mu * (1 + 1e-9))
    if noise is None:
        reason = "the Lyapunov conditions hold for no rate with these constants, rates and this noise"
        undecided = Claim(
            name="rate", value=None, outcome="undecided", check="rate-batch", evidence=("answer", "dynamics.json"), reason=reason,
            statement=RATE.format(batch), **shared,
        )  # fmt: skip
        return [undecided], {"batch": batch}
    floor = noise.floor(net, point, distance / net.mu * (1 + 1e-9)) * (1 + 1e-9)
    first = noise.factor * potential_at_start(net, state.letters, noise.rate, chi1, state.start) * (1 + 1e-9)
    rho = noise.rate.rho
    claims = [
        Claim(
            name="rate", value=rho, check="rate-batch", evidence=("answer", "dynamics.json"), statement=RATE.format(batch), **shared,
        ),
        Claim(name="noise-floor", value=floor, check="floor-batch", evidence=("dynamics.json",), statement=FLOOR, **shared),
        Claim(
            name="mean-square", value=first * math.exp(-rho * state.time) - floor * math.expm1(-rho * state.time), check="mean-square-batch",
            evidence=("dynamics.json", "start.npz"), **shared,
            statement="Before the run: the expected sum over the nodes of squared distances to the minimiser at its end.",
        ),
    ]  # fmt: skip
    return claims, {
        "rho": rho, "y_weight": noise.rate.y_weight, "time": state.time, "batch": batch, "tau": noise.tau, "growth": noise.growth,
        "reference": point.tolist(),
    }  # fmt: skip
