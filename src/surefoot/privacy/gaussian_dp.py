"""Gaussian differential privacy: closed forms between mu, epsilon and delta.

A release is mu-GDP when telling two neighbouring data sets apart from it is no easier than telling N(0, 1) from N(mu, 1).
Composition adds the squares: `mu^2 = sum_i (sensitivity_i / noise_std_i)^2`, also when each release is chosen after
seeing the earlier ones, as long as each *ratio* was fixed beforehand.

References:
    Dong, Roth, Su, Gaussian differential privacy, JRSS B 2022 (corollary 2.13).
    Balle, Wang, Improving the Gaussian mechanism for differential privacy, ICML 2018 (theorem 8).
"""

from __future__ import annotations

import math
from typing import Any

from scipy import optimize
from scipy.special import log_ndtr

OPTIMIZE: Any = optimize  # its stubs do not know scalar tolerances
LEAST_MU, MOST_MU = 1e-12, 1e6


def log_delta(mu: float, epsilon: float) -> float:
    """log delta(epsilon) of a mu-GDP release: `delta = Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2)`.

    Computed in logarithms, so that delta far below the least float still has one.

    Args:
        mu: > 0 (0 gives -inf: nothing was released).
        epsilon: >= 0.

    Raises:
        ValueError: a negative mu or epsilon, or NaN.
    """
    if not (mu >= 0.0 and epsilon >= 0.0):
        raise ValueError(f"mu is {mu} and epsilon {epsilon}; expected numbers >= 0")
    if mu == 0.0:
        return -math.inf
    if math.isinf(mu):
        return 0.0
    first = float(log_ndtr(-epsilon / mu + mu / 2.0))
    second = epsilon + float(log_ndtr(-epsilon / mu - mu / 2.0))
    gap = second - first  # < 0; its exponential is the share that the second term takes away
    return first + math.log(-math.expm1(gap)) if gap < 0.0 else -math.inf


def delta_of(mu: float, epsilon: float) -> float:
    """The least delta at which a mu-GDP release is (epsilon, delta)-DP; see `log_delta`."""
    return math.exp(log_delta(mu, epsilon))


def epsilon_of(mu: float, delta: float) -> float:
    """The least epsilon at which a mu-GDP release is (epsilon, delta)-DP; 0 where it is (0, delta)-DP already.

    Raises:
        ValueError: delta outside (0, 1).
    """
    _require_delta(delta)
    if mu == 0.0 or log_delta(mu, 0.0) <= math.log(delta):
        return 0.0
    most = mu * mu / 2.0 + mu * math.sqrt(2.0 * math.log(1.0 / delta)) + 1.0  # a tail bound that always suffices
    target = math.log(delta)
    return float(
        OPTIMIZE.brentq(lambda epsilon: log_delta(mu, epsilon) - target, 0.0, most, xtol=1e-14 * most, rtol=1e-14)
    )


def mu_for(epsilon: float, delta: float) -> float:
    """The largest mu whose releases are all (epsilon, delta)-DP: how much Gaussian signal the budget buys.

    Raises:
        ValueError: epsilon <= 0 or delta outside (0, 1).
    """
    _require_delta(delta)
    if not 0.0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; expected a finite number > 0 (1 is strict, 8 is loose)")
    target = math.log(delta)

    def excess(log_mu: float) -> float:
        return log_delta(math.exp(log_mu), epsilon) - target

    low, high = math.log(LEAST_MU), math.log(min(MOST_MU, 10.0 * (epsilon + 10.0)))
    while not excess(low) < 0.0:
        low -= 10.0
    found = math.exp(float(OPTIMIZE.brentq(excess, low, high, xtol=1e-14, rtol=1e-15)))
    while log_delta(found, epsilon) > target:  # round towards privacy
        found *= 1.0 - 2e-16
    return found


def _require_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta is {delta}; expected a number in (0, 1), well below one over the number of records")
