"""Stopping early: the certificate of one radius, from a gambler's capital that is valid at any time.

The radius r needs ``(1 + p_A - p_b) / 2 > p0 = Phi(r / sigma)`` for every bucket b of other classes. A draw is worth ``X = 1`` if it is
of class A, 0 if of bucket b, 1/2 otherwise. Capital ``prod (1 + l_j (X_j - p0))`` with bets ``l_j`` that look at earlier draws only is a
supermartingale where the mean is at most p0, so it ever reaches ``m / alpha`` with probability at most ``alpha / m``; once it has done so
against all m buckets the radius is certified.

References:
    Waudby-Smith, Ramdas, Estimating means of bounded random variables by betting, 2024 (approximate growth-rate adaptive bets).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Capital", "null_mean"]

Array = NDArray[np.float64]


def null_mean(target: float, sigma: float) -> float:
    """p0, rounded up."""
    from surefoot.robustness.radius import smoothed_ramp

    return float(min(np.nextafter(float(smoothed_ramp(target, sigma)) * (1 + 1e-14), 2), 1.0))


@dataclass
class Capital:
    """The gambler's books against each bucket, carried from block to block.

    Attributes:
        seen: draws so far.
        total, square: sums of X - p0 and of (X - p0)^2, (m,).
        log_capital: (m,) now, and `highest` so far.
    """

    seen: int
    total: Array
    square: Array
    log_capital: Array
    highest: Array

    @classmethod
    def start(cls, groups: int) -> Capital:
        """Before the first draw."""
        return cls(0, np.zeros(groups), np.zeros(groups), np.zeros(groups), np.zeros(groups))

    def bet(self, places: Any, null: float, goal: float) -> int | None:
        """Take a block of draws in their order.

        Args:
            places: (rows,) the bucket of each draw's class; 0 is the top class.
            null: p0.
            goal: log capital at which a bucket is refuted.

        Returns:
            The number of draws, counted from the very first, after which all buckets had been refuted; None if not yet.
        """
        groups = len(self.total)
        bucket = np.arange(1, groups + 1)[:, None]
        value = np.where(places == 0, 1.0, np.where(places == bucket, 0.0, 0.5)) - null  # (m, rows)
        count = self.seen + np.arange(len(places))  # before each draw
        total = self.total[:, None] + np.cumsum(value, axis=1) - value
        square = self.square[:, None] + np.cumsum(value**2, axis=1) - value**2
        mean, second = total / (count + 1), (square + 0.25) / (count + 1)
        bets = np.clip(mean / second, 0.0, 0.75 / null)
        logs = self.log_capital[:, None] + np.cumsum(np.log1p(bets * value), axis=1)
        highest = np.maximum(np.maximum.accumulate(logs, axis=1), self.highest[:, None])
        self.total, self.square = self.total + value.sum(axis=1), self.square + (value**2).sum(axis=1)
        self.log_capital, self.highest = logs[:, -1], highest[:, -1]
        done = np.flatnonzero((highest >= goal).all(axis=0))
        before, self.seen = self.seen, self.seen + len(places)
        return None if not len(done) else before + int(done[0]) + 1
