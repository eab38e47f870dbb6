"""Poisson clocks: which gradient or exchange happens when.

All clocks together are one Poisson process of rate n + sum_e lambda_e whose events are, independently, a gradient at a node
(weight 1 each) or an exchange on an edge (weight lambda_e). Events are drawn in chunks by address, so that event k is the
same whatever was drawn at once and wherever a run was resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.core.random import Streams

Array = np.ndarray[Any, np.dtype[np.float64]]
CHUNK = 4096
"""Events an address."""


@dataclass(frozen=True, eq=False)
class Events:
    """Consecutive events: `what` (b,) below n is a gradient at that node, n + e an exchange on edge e; `times` (b,)."""

    what: np.ndarray[Any, np.dtype[np.int64]]
    times: Array

    def __len__(self) -> int:
        return len(self.what)

    def before(self, end: float) -> Events:
        """Those before a time."""
        count = int(np.searchsorted(self.times, end))
        return Events(self.what[:count], self.times[:count])


@dataclass(frozen=True, eq=False)
class Clocks:
    """The superposed clocks of n nodes and E edges.

    Args:
        streams: where the numbers come from.
        nodes: n; every node takes one gradient a unit of time on average.
        rates: exchanges a unit of time on every edge (E,).
        index: leading numbers of every address: a replicate of an experiment has one of its own.
    """

    streams: Streams
    nodes: int
    rates: Array
    index: tuple[int, ...] = ()

    def draw(self, first: int, count: int, time: float) -> Events:
        """Events `first`, `first + 1`, ... after an event (or start) at `time`."""
        weights = np.concatenate([np.ones(self.nodes), self.rates])
        upper = np.cumsum(weights)
        what, gaps = [], []
        chunk, offset = divmod(first, CHUNK)
        wanted = count
        while wanted > 0:
            rng = self.streams.numpy("clocks", *self.index, chunk)
            marks = rng.random(CHUNK)[offset : offset + wanted]
            steps = rng.standard_exponential(CHUNK)[offset : offset + wanted]
            # a mark at the very end would point behind the last clock that fires
            what.append(np.minimum(np.searchsorted(upper, marks * upper[-1], side="right"), self._last(weights)))
            gaps.append(steps / upper[-1])
            wanted -= len(steps)
            chunk, offset = chunk + 1, 0
        # a running sum, event after event, so that it does not depend on where a block begins
        times = np.add.accumulate(np.concatenate([[time], *gaps]))[1:]
        return Events(np.concatenate(what), times)

    @staticmethod
    def _last(weights: Array) -> int:
        return int(np.flatnonzero(weights)[-1])
