"""How much noise DIFF2 needs: exactly, or as published.

Full-batch rounds are Gaussian releases whose noise stands in a fixed ratio to what one record contributes, so a run is exactly
mu-GDP with `mu^2 = NA (2 / m1)^2 + ND (2 / m2)^2` (+ the final query), NA anchors, ND differences, m noise multipliers: noise
standard deviation over one record's share, `m1 = N s1`, `m2 = N s2` in the paper's symbols.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from surefoot.privacy.accounting import calibrated
from surefoot.privacy.ledger import Budget, Entry

Compat = Literal["surefoot", "paper"]
STABILITY = 0.5
"""kappa: `C2 s2 eta sqrt(d T) <= kappa` keeps the noise of differences from feeding itself."""


@dataclass(frozen=True)
class Schedule:
    """When what is released.

    Args:
        rounds: R.
        restart: T: every T-th round is an anchor, those between are differences.
        inner: K: gradient steps a round (the first by the server's estimate, K - 1 on one client's records).
        sampling: rates b / n_p (P,) of the inner steps' batches; () without inner steps.
    """

    rounds: int
    restart: int
    inner: int = 1
    sampling: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; expected at least 1")
        if not 1 <= self.restart <= self.rounds:
            raise ValueError(
                f"restart is {self.restart}; expected 1 (plain noisy gradients) to the number of rounds, {self.rounds}"
            )

    @property
    def anchors(self) -> int:
        """NA = ceil(R / T)."""
        return -(-self.rounds // self.restart)

    @property
    def differences(self) -> int:
        """ND = R - NA."""
        return self.rounds - self.anchors

    def local(self, client: int) -> int:
        """Inner steps that a client makes in all: it is on turn every P rounds."""
        turns = -(-(self.rounds - client) // len(self.sampling)) if self.sampling else 0
        return turns * (self.inner - 1)


@dataclass(frozen=True)
class Multipliers:
    """Noise standard deviation over one record's share; 0 where there is no such release."""

    anchor: float
    difference: float = 0.0
    local: float = 0.0
    query: float = 0.0


def published(epsilon: float, delta: float, rounds: int, restart: int, split: float) -> Multipliers:
    """The official code's noise: one order of Renyi DP, `alpha = 1 + ceil(2 ln(1/delta) / eps)`, half of epsilon for the conversion.

    `m1^2 = 4 u alpha R / (T eps)`, `m2^2 = 4 u / (u - 1) alpha R / eps`; with T = 1 `m1^2 = 4 alpha R / eps`.

    Raises:
        ValueError: a split u <= 1.
    """
    if not split > 1.0:
        raise ValueError(f"the budget split u is {split}; expected a number > 1 (published: 1.25)")
    order = 1 + math.ceil(2.0 * math.log(1.0 / delta) / epsilon)
    if restart == 1:
        return Multipliers(math.sqrt(4.0 * order * rounds / epsilon))
    anchor = math.sqrt(4.0 * split * order * rounds / (restart * epsilon))
    return Multipliers(anchor, math.sqrt(4.0 * split / (split - 1.0) * order * rounds / epsilon))


def anchors_share(
    schedule: Schedule, mu: float, records: float, dim: int, step_length: float, clip_difference: float
) -> float:
    """w: the part of mu^2 left for the anchors when differences get the most noise that is harmless.

    `s2 = kappa / (C2 eta sqrt(d T))` costs `(1 - w) mu^2 = ND (2 / (N s2))^2`. Below 0.2 the run would be unstable or its anchors
    too noisy: a shorter step or a smaller T is needed.
    """
    if not schedule.differences:
        return 1.0
    harmless = STABILITY / (clip_difference * step_length * math.sqrt(dim * schedule.restart))
    return 1.0 - schedule.differences * (2.0 / (records * harmless)) ** 2 / mu**2


@lru_cache(maxsize=64)
def exact(budget: Budget, schedule: Schedule, share: float, query_share: float = 0.0, local_share: float = 0.25) -> Multipliers:  # fmt: skip
    """The least noise: the account of the whole run meets the budget exactly.

    Args:
        share: w, the anchors' part of what is left for the rounds.
        query_share: h, the final query's part of mu^2.
        local_share: part of the rounds' mu^2 that inner steps get (a guess of the ratio; the account decides the scale).

    Raises:
        ValueError: shares outside (0, 1).
    """
    if not 0.0 < share <= 1.0 or not 0.0 <= query_share < 1.0:
        raise ValueError(
            f"shares are {share:g} (anchors) and {query_share:g} (final query); expected (0, 1] and [0, 1)"
        )
    if schedule.differences and share == 1.0:
        raise ValueError("all of the budget is for the anchors, but there are differences; give a share below 1")
    total = budget.mu**2
    rounds = (1.0 - query_share) * total * (1.0 - (local_share if schedule.sampling else 0.0))
    found = Multipliers(
        anchor=2.0 * math.sqrt(schedule.anchors / (share * rounds)),
        difference=2.0 * math.sqrt(schedule.differences / ((1.0 - share) * rounds)) if schedule.differences else 0.0,
        query=2.0 / math.sqrt(query_share * total) if query_share else 0.0,
    )
    if not schedule.sampling:
        return found
    # sampled inner steps: of full batches they would cost steps (2 / m)^2, of a share q about q^2 of that
    busiest = max(range(len(schedule.sampling)), key=lambda p: schedule.local(p) * schedule.sampling[p] ** 2)
    cost = schedule.local(busiest) * (2.0 * schedule.sampling[busiest]) ** 2
    local = max(0.6, math.sqrt(cost / (local_share * (1.0 - query_share) * total)))

    def scaled(factor: float) -> Multipliers:
        return Multipliers(found.anchor * factor, found.difference * factor, local * factor, found.query * factor)

    first_tried = 80.0  # `calibrated` comes down from 100 in small steps, and every account is dear
    factor = calibrated(budget, lambda tried: entries(schedule, scaled(tried / first_tried), (busiest,)))
    return scaled(factor / first_tried)


def entries(schedule: Schedule, noise: Multipliers, parts: Sequence[int], more: Sequence[Entry] = ()) -> list[Entry]:
    """The whole run as a ledger's entries, once for every disjoint part of the records."""
    found: list[Entry] = []
    for part in parts:
        found.append(Entry("anchor", noise.anchor, 1.0, part, schedule.anchors))
        if schedule.differences:
            found.append(Entry("difference", noise.difference, 1.0, part, schedule.differences))
        if schedule.sampling and (number := schedule.local(part)):
            found.append(Entry("local", noise.local, schedule.sampling[part], part, number))
        if noise.query:
            found.append(Entry("final query", noise.query, 1.0, part, 1))
    return [*found, *more]
