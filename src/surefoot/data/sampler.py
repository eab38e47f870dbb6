"""Which rows a step uses, as a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from surefoot.core.random import Streams

How = Literal["replacement", "epochs", "poisson", "stratified"]


@dataclass(frozen=True)
class Sampler:
    """Row indices for step k as a pure function of k, so that a resumed run sees the same batches.

    Args:
        streams: where the numbers come from.
        rows: number of rows n.
        batch: rows a step (expected rows for `poisson`).
        how: `replacement`, `epochs` (a fresh permutation an epoch, last batch kept short), `poisson`
            (each row with probability batch / n) or `stratified` (one row from each of `batch` equal
            blocks).
        name: the stream's name.
    """

    streams: Streams
    rows: int
    batch: int
    how: How = "epochs"
    name: str = "batch"

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise ValueError(f"how is {self.how!r}; expected one of {', '.join(get_args(How))}")
        if not 1 <= self.batch <= self.rows:
            raise ValueError(f"batch is {self.batch}; expected between 1 and the {self.rows} rows")

    def indices(self, k: int) -> np.ndarray:
        """Indices (b,) of the rows used at step k."""
        if self.how == "epochs":
            per_epoch = -(-self.rows // self.batch)
            epoch, place = divmod(k, per_epoch)
            order = self.streams.numpy(self.name, epoch).permutation(self.rows)
            return order[place * self.batch : (place + 1) * self.batch]
        rng = self.streams.numpy(self.name, k)
        if self.how == "poisson":
            return np.flatnonzero(rng.random(self.rows) < self.batch / self.rows)
        if self.how == "replacement":
            return rng.integers(0, self.rows, self.batch)
        edges = np.linspace(0, self.rows, self.batch + 1).astype(np.int64)
        return rng.integers(edges[:-1], edges[1:])
