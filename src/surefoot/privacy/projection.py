"""Random projection for generalised linear models (algorithm 4): the search runs in k dimensions, whatever d is.

`Phi` (k, d) has entries N(0, 1/k) and is public. Records become `Phi x`, scaled down one by one to norm 2 |X| where they are
longer: a rule that looks at one record at a time, so privacy holds for every Phi and no part of delta is spent on it. The answer is
`Phi' u`; the final queries are made there, on the records themselves.

References:
    R. Arora et al., "Faster rates of convergence to stationary points in differentially private optimization", ICML 2023.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from surefoot.core.random import Streams
from surefoot.privacy.ledger import Budget
from surefoot.privacy.records import LinearRecords
from surefoot.privacy.risk import Penalty, PrivateRisk, bounded_rows


@dataclass(frozen=True)
class LiftedPenalty(Penalty):
    """The penalty of `Phi' u` as a function of u."""

    projection: Tensor | None = None

    def value(self, w: Tensor) -> float:
        assert self.projection is not None
        return Penalty(self.kind, self.weight, self.free).value(self.projection.T @ w)

    def gradient(self, w: Tensor) -> Tensor:
        assert self.projection is not None
        return self.projection @ Penalty(self.kind, self.weight, self.free).gradient(self.projection.T @ w)

    @property
    def smoothness(self) -> float:
        assert self.projection is not None
        stretch = float(torch.linalg.matrix_norm(self.projection, 2)) ** 2
        return Penalty(self.kind, self.weight).smoothness * stretch


def projection_matrix(dimension: int, dim: int, seed: int = 0) -> Tensor:
    """Phi (k, d) with entries N(0, 1/k); its seed is public, since Phi is drawn without looking at the records."""
    if dimension < 1:
        raise ValueError(f"the projection has dimension {dimension}; expected at least 1")
    numbers = Streams(seed).numpy("projection", dimension, dim).standard_normal((dimension, dim))
    return torch.from_numpy(numbers) / math.sqrt(dimension)


def projected_dimension(size: int, dim: int, budget: Budget, rank: int | None = None) -> int:
    """`k = min{ argmin_j g(j) + log(n) / sqrt(j), rank log(2n/delta) }`, `g(j) = (sqrt(j) / (n eps))^(2/3)` (both times L0), at most d.

    Args:
        rank: a public bound of the features' rank.
    """
    best = min(
        range(1, dim + 1),
        key=lambda j: (math.sqrt(j) / (size * budget.epsilon)) ** (2 / 3) + math.log(size) / math.sqrt(j),
    )
    limit = dim if rank is None else math.ceil(rank * math.log(2.0 * size / budget.delta))
    return max(1, min(best, limit, dim))


def with_projection(problem: PrivateRisk, projection: Tensor) -> PrivateRisk:
    """The same problem, searched over the rows of `projection`.

    Raises:
        ValueError: not a linear model, or shapes that do not fit.
    """
    if not isinstance(problem.records, LinearRecords):
        raise ValueError("random projections are for linear models; this problem has other records")
    if projection.ndim != 2 or projection.shape[1] != problem.dim:
        raise ValueError(f"the projection is {tuple(projection.shape)}; expected (k, {problem.dim})")
    return replace(problem, projection=projection.double())


def projected(problem: PrivateRisk) -> PrivateRisk:
    """The problem over u: records `Phi x` of norm at most 2 |X|, so Lipschitz 2 L0 and smooth 4 L1."""
    records, phi = problem.records, problem.projection
    assert isinstance(records, LinearRecords)
    assert phi is not None
    constants = records.model.loss.constants
    longest = math.sqrt(
        problem.record_smoothness / max(abs(constants.curvature), abs(constants.curvature_floor))
    )  # |X|
    rows = bounded_rows(records.model.features.double() @ phi.T, 2.0 * longest)
    penalty = problem.penalty
    return replace(
        problem,
        records=LinearRecords(replace(records.model, features=rows), records.chunk),
        record_gradient=2.0 * problem.record_gradient,
        record_smoothness=4.0 * problem.record_smoothness,
        penalty=LiftedPenalty(penalty.kind, penalty.weight, penalty.free, phi),
        start=None,
        projection=None,
    )
