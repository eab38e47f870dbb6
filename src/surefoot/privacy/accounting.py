"""From a ledger to what it cost: exact Gaussian DP where every release uses all its records, privacy loss distributions
(dp-accounting) where records were sampled.

Releases on disjoint parts of the records compose in parallel: a record meets those of its own part and those that used
all records, so the account is the worst part's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.privacy.gaussian_dp import OPTIMIZE, delta_of, epsilon_of
from surefoot.privacy.ledger import Budget, Entry, Neighbours

INTERVAL = 1e-4
"""Discretisation of the privacy loss; losses are rounded up, so the account is an upper bound."""


@dataclass(frozen=True)
class Account:
    """What a ledger costs. `mu` is None where sampling makes the run other than Gaussian DP."""

    mu: float | None
    delta: Callable[[float], float]
    epsilon: Callable[[float], float]

    def curve(self, epsilons: Sequence[float]) -> np.ndarray:
        """delta at each epsilon (m,)."""
        return np.array([self.delta(float(epsilon)) for epsilon in epsilons])


def account(entries: Sequence[Entry], neighbours: Neighbours) -> Account:
    """The cost of a ledger's entries.

    Raises:
        ImportError: sampled releases without dp-accounting installed.
    """
    parts = {entry.part for entry in entries if entry.part >= 0} or {-1}
    worst = [[e for e in entries if e.part in (-1, part)] for part in parts]
    worst = list({tuple((e.noise_multiplier, e.sampling, e.number) for e in group): group for group in worst}.values())
    if all(entry.sampling == 1.0 for entry in entries):
        mu = max((gaussian_mu(group, neighbours) for group in worst), default=0.0)
        return Account(mu, lambda epsilon: delta_of(mu, epsilon), lambda delta: epsilon_of(mu, delta))
    losses = [privacy_loss(group, neighbours, INTERVAL) for group in worst]
    return Account(
        None,
        lambda epsilon: max(float(loss.get_delta_for_epsilon(epsilon)) for loss in losses),
        lambda delta: max(float(loss.get_epsilon_for_delta(delta)) for loss in losses),
    )


def gaussian_mu(entries: Sequence[Entry], neighbours: Neighbours) -> float:
    """`mu = sqrt(sum_i n_i (k / noise_multiplier_i)^2)`; k = 2 for a replaced record (it may turn round), 1 for one more."""
    reach = 2.0 if neighbours == "replace" else 1.0
    return math.sqrt(math.fsum(e.number * (reach / e.noise_multiplier) ** 2 for e in entries))


def privacy_loss(entries: Sequence[Entry], neighbours: Neighbours, interval: float = INTERVAL) -> Any:
    """The privacy loss distribution of the composition, by dp-accounting."""
    try:
        import dp_accounting
        from dp_accounting.pld import privacy_loss_distribution as library
    except ImportError as error:
        raise ImportError(
            "accounting for sampled records needs dp-accounting: pip install 'surefoot[privacy]'; or use every record in "
            "every release"
        ) from error
    relations: Any = dp_accounting.NeighboringRelation
    relation = relations.REPLACE_ONE if neighbours == "replace" else relations.ADD_OR_REMOVE_ONE
    total = library.identity(value_discretization_interval=interval)
    for entry in entries:
        full = entry.sampling == 1.0
        one = library.from_gaussian_mechanism(
            standard_deviation=entry.noise_multiplier / (math.sqrt(entry.number) if full else 1.0),
            value_discretization_interval=interval,
            sampling_prob=entry.sampling,
            neighboring_relation=relation,
        )
        total = total.compose(one if full or entry.number == 1 else one.self_compose(entry.number))
    return total


def calibrated(budget: Budget, plan: Callable[[float], Sequence[Entry]]) -> float:
    """The least noise multiplier whose plan is within the budget.

    Args:
        plan: noise multiplier -> the entries of the whole schedule; more noise must cost less.

    Raises:
        ValueError: no multiplier up to 1e6 suffices.
    """

    def excess(log_multiplier: float) -> float:
        cost = account(plan(math.exp(log_multiplier)), budget.neighbours).delta(budget.epsilon)
        return math.log(max(cost, 1e-300)) - math.log(budget.delta)

    step, high = math.log(1.25), math.log(1e2)
    while excess(high) > 0.0:
        high += 10.0 * step
        if high > math.log(1e6):
            raise ValueError(
                f"epsilon {budget.epsilon:g} at delta {budget.delta:g} cannot be met by this schedule; release less, or allow more"
            )
    low = high - step
    while excess(low) <= 0.0:  # from above, since accounts of too little noise are dear
        low, high = low - step, low
    found = math.exp(float(OPTIMIZE.brentq(excess, low, high, xtol=1e-7, rtol=1e-9)))
    while account(plan(found), budget.neighbours).delta(budget.epsilon) > budget.delta:
        found *= 1.0 + 1e-8  # round towards privacy
    return found
