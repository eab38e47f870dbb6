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
    """Consecutive events: `what` (b,) below n is a gradient at that node, n + e an exchange on edge e; `times` (b,).

    `rows` (b, batch), where gradients take only some rows, are the rows of the gradient's node.
    """

    what: np.ndarray[Any, np.dtype[np.int64]]
    times: Array
    rows: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def rows_of(self, k: int) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """The rows of event k; None for all."""
        return None if self.rows is None else self.rows[k]

    def __len__(self) -> int:
        return len(self.what)

    def before(self, end: float) -> Events:
        """Those before a time."""
        return self.first(int(np.searchsorted(self.times, end)))

    def first(self, count: int) -> Events:
        """So many of them."""
        return Events(self.what[:count], self.times[:count], None if self.rows is None else self.rows[:count])


@dataclass(frozen=True, eq=False)
class Clocks:
    """The superposed clocks of n nodes and E edges.

    Args:
        streams: where the numbers come from.
        nodes: n; every node takes one gradient a unit of time on average.
        rates: exchanges a unit of time on every edge (E,).
        index: leading numbers of every address: a replicate of an experiment has one of its own.
        batch: rows a gradient, drawn with replacement; 0 for all.
        sizes: rows that each node has (n,), where batch > 0.
    """

    streams: Streams
    nodes: int
    rates: Array
    index: tuple[int, ...] = ()
    batch: int = 0
    sizes: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def draw(self, first: int, count: int, time: float) -> Events:
        """Events `first`, `first + 1`, ... after an event (or start) at `time`."""
        weights = np.concatenate([np.ones(self.nodes), self.rates])
        upper = np.cumsum(weights)
        what, gaps, rows = [], [], []
        chunk, offset = divmod(first, CHUNK)
        wanted = count
        while wanted > 0:
            rng = self.streams.numpy("clocks", *self.index, chunk)
            marks = rng.random(CHUNK)[offset : offset + wanted]
            steps = rng.standard_exponential(CHUNK)[offset : offset + wanted]
            # a mark at the very end would point behind the last clock that fires
            what.append(np.minimum(np.searchsorted(upper, marks * upper[-1], side="right"), self._last(weights)))
            gaps.append(steps / upper[-1])
            if self.batch and self.sizes is not None:
                marks = self.streams.numpy("rows", *self.index, chunk).random((CHUNK, self.batch))
                owned = self.sizes[np.minimum(what[-1], self.nodes - 1)]
                rows.append((marks[offset : offset + len(steps)] * owned[:, None]).astype(np.int64))
            wanted -= len(steps)
            chunk, offset = chunk + 1, 0
        # a running sum, event after event, so that it does not depend on where a block begins
        times = np.add.accumulate(np.concatenate([[time], *gaps]))[1:]
        return Events(np.concatenate(what), times, np.concatenate(rows) if rows else None)

    @staticmethod
    def _last(weights: Array) -> int:
        return int(np.flatnonzero(weights)[-1])
