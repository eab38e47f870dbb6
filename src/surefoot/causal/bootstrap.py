"""How often an edge comes back when the rows are drawn again.

References:
    Friedman, Goldszmidt, Wyner, Data analysis with Bayesian networks: a bootstrap approach, 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import Table, table
from surefoot.core.random import Streams
from surefoot.core.solve import solve

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class EdgeStability:
    """Over the resamples: `frequency` (d, d) of each edge row -> column, mean and spread of its weight where it is present."""

    names: tuple[str, ...]
    frequency: Array
    mean_weight: Array
    std_weight: Array
    resamples: int

    def stable_edges(self, least: float = 0.8) -> list[tuple[str, str, float, float]]:
        """(source, target, frequency, mean weight) of the edges found in at least this fraction, most frequent first."""
        pairs = np.argwhere(self.frequency >= least)
        rows = [
            (self.names[i], self.names[j], float(self.frequency[i, j]), float(self.mean_weight[i, j])) for i, j in pairs
        ]
        return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))


def edge_stability(
    problem: Table,
    method: ConcomitantPath,
    *,
    resamples: int = 100,
    fraction: float | None = None,
    seed: int = 0,
    jobs: int = 1,
    backend: Literal["loky", "threading", "multiprocessing"] | None = None,
) -> EdgeStability:
    """Fit the method on resampled rows and count edges.

    Args:
        problem: a table that holds its rows.
        method: what to fit.
        resamples: number of fits.
        fraction: None draws n rows with replacement (bootstrap); a number in (0, 1) draws that part without (stability
            selection).
        seed: resample i uses the stream ("rows", i) of it, whatever the number of jobs.
        jobs: joblib workers; within `joblib.parallel_config` other backends (Dask, Ray) serve as well.
        backend: joblib backend; by default joblib's own choice.

    Raises:
        ValueError: the table holds no rows, or a fraction out of range.
    """
    from joblib import Parallel, delayed

    if problem.values is None:
        raise ValueError("the table holds moments only; a bootstrap needs its rows")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; expected at least 1")
    if fraction is not None and not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction is {fraction}; expected a number between 0 and 1, or None for a bootstrap")
    tasks = (delayed(_fit)(problem, method, fraction, seed, i) for i in range(resamples))
    fits: Any = Parallel(n_jobs=jobs, backend=backend)(tasks)
    weights = np.stack(list(fits))
    present = weights != 0.0
    count = present.sum(axis=0)
    mean = np.divide(weights.sum(axis=0), count, out=np.zeros(count.shape), where=count > 0)
    square = np.divide((weights**2).sum(axis=0), count, out=np.zeros(count.shape), where=count > 0)
    return EdgeStability(problem.names, count / resamples, mean, np.sqrt(np.maximum(square - mean**2, 0.0)), resamples)


def _fit(problem: Table, method: ConcomitantPath, fraction: float | None, seed: int, index: int) -> Array:
    assert problem.values is not None
    rng = Streams(seed).numpy("rows", index)
    rows = len(problem.values)
    if fraction is None:
        chosen = rng.integers(0, rows, rows)
    else:
        chosen = rng.choice(rows, max(2, int(fraction * rows)), replace=False)
    resampled = table(problem.values[chosen], problem.names, knowledge=problem.knowledge)
    return solve(resampled, method, certify=False).answer.adjacency
