"""Choosing rounds, restarts and the step before the data are seen, by a bound that holds in expectation.

With one record's gradient at most C1 long and its differences at most C2 times the distance (no clipping), L the smoothness of f,
`tau1^2 = d (C1 s1)^2` the noise of an anchor and `tau2^2 = d (C2 s2)^2` that of a difference per squared distance,

    eta L + (T - 1) tau2^2 eta^2 <= 1   implies   mean_r E|grad f(x_r)|^2 <= 2 gap / (eta R) + tau1^2,

from the descent lemma with `<g, v> = (|g|^2 + |v|^2 - |g - v|^2) / 2` and `E|v_r - g_r|^2 <= tau1^2 + tau2^2 eta^2 sum |v_k|^2` over the
phase. T = 1 is plain noisy gradient descent, so the plan's bound is never worse than the best one of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Known:
    """Public numbers that a plan rests on.

    Args:
        records: N, one over the largest weight of a record.
        dim: d.
        lipschitz: C1, no record's gradient is longer.
        record_smoothness: C2, no record's difference of gradients is longer than this times the distance.
        smoothness: L of f, at most C2 plus the ridge.
        gap: f(x_0) less the infimum of f.
        noise_gain: noise of the sum over that of a central server (local noise adds up).
    """

    records: float
    dim: int
    lipschitz: float
    record_smoothness: float
    smoothness: float
    gap: float
    noise_gain: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What to run, and the bound of the mean squared gradient norm that it has.

    `plain` is the best bound of noisy gradient descent without differences.
    """

    rounds: int
    restart: int
    step_length: float
    share: float
    bound: float
    plain: float


def stable(step_length: float, restart: int, smoothness: float, difference_noise: float) -> bool:
    """`eta L + (T - 1) tau2^2 eta^2 <= 1`; `difference_noise` is tau2^2."""
    return step_length * smoothness + (restart - 1) * difference_noise * step_length**2 <= 1.0 + 1e-12


def noise_squares(known: Known, mu: float, rounds: int, restart: int, share: float) -> tuple[float, float]:
    """(tau1^2, tau2^2) of an exactly calibrated run."""
    anchors = -(-rounds // restart)
    unit = known.dim * (2.0 * known.noise_gain / (known.records * mu)) ** 2
    first = unit * known.lipschitz**2 * anchors / share
    second = unit * known.record_smoothness**2 * (rounds - anchors) / (1.0 - share) if rounds > anchors else 0.0
    return first, second


def expected_square(known: Known, mu: float, plan: Plan) -> float:
    """The bound of `mean_r E|grad f(x_r)|^2`; infinite where the step is not stable."""
    first, second = noise_squares(known, mu, plan.rounds, plan.restart, plan.share)
    if not stable(plan.step_length, plan.restart, known.smoothness, second):
        return math.inf
    return 2.0 * known.gap / (plan.step_length * plan.rounds) + first


def planned(
    known: Known, mu: float, most_rounds: int = 2000, rounds: int | None = None, restart: int | None = None,
    step_length: float | None = None,
) -> Plan:  # fmt: skip
    """The plan with the least bound over a grid, what is given kept.

    For each R, T and eta the differences get the most noise that is stable, the anchors the rest.

    Args:
        mu: budget of the rounds (without the final query).
        most_rounds: R at most.

    Raises:
        ValueError: nothing on the grid is stable (the given step is too long).
    """
    counts = [rounds] if rounds else sorted({max(1, round(r)) for r in np.geomspace(1, most_rounds, 60)})
    best: Plan | None = None
    plain = math.inf
    for count in counts:
        restarts = [restart] if restart else sorted({round(t) for t in np.geomspace(1, count, 24)})
        for every in restarts:
            if every > count:
                continue
            found = _best_step(known, mu, count, every, step_length)
            if found is None:
                continue
            if every == 1:
                plain = min(plain, found.bound)
            if best is None or found.bound < best.bound:
                best = found
    if best is None:
        raise ValueError(
            f"no plan is stable: the step {step_length} with smoothness {known.smoothness:g} needs eta L < 1; shorten it"
        )
    if math.isinf(plain) and not restart:
        plain = best.bound
    return Plan(best.rounds, best.restart, best.step_length, best.share, best.bound, plain)


def _best_step(known: Known, mu: float, rounds: int, restart: int, step_length: float | None) -> Plan | None:
    anchors = -(-rounds // restart)
    limit = 1.0 / known.smoothness
    steps = (
        np.array([step_length]) if step_length else limit * np.concatenate((np.geomspace(1e-3, 0.9, 60), [0.95, 1.0]))
    )
    unit = known.dim * (2.0 * known.noise_gain / (known.records * mu)) ** 2
    if rounds == anchors:
        share = np.where(steps * known.smoothness <= 1.0 + 1e-12, 1.0, 0.0)
    else:
        room = np.clip(1.0 - steps * known.smoothness, 0.0, None)
        needed = unit * known.record_smoothness**2 * (rounds - anchors) * (restart - 1) * steps**2
        share = 1.0 - needed / np.where(room > 0, room, np.nan)
        share = np.where(share > 0, np.minimum(share, 0.999), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = 2.0 * known.gap / (steps * rounds) + unit * known.lipschitz**2 * anchors / share
    bounds = np.where((share > 0) & np.isfinite(bounds), bounds, np.inf)
    place = int(np.argmin(bounds))
    if not np.isfinite(bounds[place]):
        return None
    return Plan(rounds, restart, float(steps[place]), float(share[place]), float(bounds[place]), math.inf)
