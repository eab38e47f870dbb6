"""Orders under equal noise variances: the excess over the bound that holds for all orders, two tests, and the repair.

For an order pi let v_j be the variance of a node given its predecessors: the squared Cholesky diagonal of the permuted
covariance. `prod v_j = det S` whatever the order, so by the inequality of the means `mean v_j >= det(S)^(1/d)` for all d!
orders, and `kappa(pi) = mean(v) / det(S)^(1/d) - 1 >= 0` measures how far an order is from equal variances.

References:
    Peters, Buhlmann, Identifiability of Gaussian structural equation models with equal error variances, 2014.
    Chen, Drton, Wang, On causal discovery with an equal-variance assumption, Biometrika 2019 (the greedy order).
    Bartlett 1937; Brown and Forsythe 1974 (the tests).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg, stats

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

LEVEL = 0.01
SINGULAR = 1e-12
"""Conditional variances below this fraction of the marginal ones are rounding."""


@dataclass(frozen=True)
class OrderTest:
    """What the data say about one order under equal noise variances.

    A large p-value means "not refuted", not "proved". Fields are None where the test cannot be made; `reason` says why.
    """

    excess: float | None
    bartlett_p_value: float | None
    brown_forsythe_p_value: float | None
    reason: str = ""


def conditional_variances(covariance: Array, order: Sequence[int]) -> Array:
    """Variance of each node given its predecessors, listed along `order`: the squared Cholesky diagonal."""
    permuted = covariance[np.ix_(list(order), list(order))]
    return np.diag(linalg.cholesky(permuted, lower=True)) ** 2


def order_excess(covariance: Array, order: Sequence[int]) -> float:
    """`kappa = mean(v) / det(S)^(1/d) - 1`: zero exactly when all conditional variances agree."""
    variances = conditional_variances(covariance, order)
    return float(np.mean(variances) / np.exp(np.mean(np.log(variances))) - 1.0)


def degrees_of_freedom(rows: int, count: int) -> Array:
    """`n - 1 - (j - 1)` for the j-th variable of an order: rows less the mean and the j - 1 predecessors."""
    return rows - 1.0 - np.arange(count, dtype=np.float64)


def bartlett_statistic(variances: Array, rows: int) -> tuple[float, float]:
    """Bartlett's statistic for equal conditional variances under Gaussian noise, and its 1 % critical value.

    `T = [N log(sum nu_j s_j^2 / N) - sum nu_j log s_j^2] / C` with `s_j^2 = n v_j / nu_j`, chi-squared with d - 1 degrees;
    `C = 1 + (sum 1/nu_j - 1/N) / (3 (d - 1))` is Bartlett's correction.

    Args:
        variances: (d,) conditional variances along the order.
        rows: number n of observations.
    """
    freedom = degrees_of_freedom(rows, len(variances))
    unbiased = rows * variances / freedom
    total = freedom.sum()
    statistic = total * np.log(np.sum(freedom * unbiased) / total) - np.sum(freedom * np.log(unbiased))
    correction = 1.0 + (np.sum(1.0 / freedom) - 1.0 / total) / (3.0 * (len(variances) - 1.0))
    return float(statistic / correction), float(stats.chi2.isf(LEVEL, len(variances) - 1))


def order_residuals(values: Array, order: Sequence[int]) -> Array:
    """Residual of each column given its predecessors, (n, d) along `order`, by QR of the centred, ordered table."""
    ordered = values[:, list(order)]
    basis, triangle = np.linalg.qr(ordered - ordered.mean(axis=0))
    return basis * np.diag(triangle)


def brown_forsythe_statistic(residuals: Array) -> tuple[float, float]:
    """Brown and Forsythe's statistic for equal spread, and its 1 % critical value; it bears heavy-tailed noise.

    Column j is scaled by `sqrt(n / nu_j)` for the degrees of freedom that its j - 1 predecessors took.

    Args:
        residuals: (n, d) output of `order_residuals`; the rows of a column may come in any order.
    """
    rows, variables = residuals.shape
    scaled = residuals * np.sqrt(rows / degrees_of_freedom(rows, variables))
    statistic = float(stats.levene(*scaled.T, center="median").statistic)
    return statistic, float(stats.f.isf(LEVEL, variables - 1, variables * (rows - 1)))


def obstacle(covariance: Array, order: Sequence[int], rows: int) -> str:
    """Why the order cannot be tested, or ''."""
    if rows <= len(order) + 1:
        return f"the test needs more rows than variables + 1: there are {rows} rows and {len(order)} variables"
    try:
        variances = conditional_variances(covariance, order)
    except linalg.LinAlgError:
        return "the covariance is singular: a column is a combination of others"
    if np.any(variances <= SINGULAR * np.diag(covariance)[list(order)]):
        return "the covariance is singular to rounding: a column is a combination of others"
    return ""


def test_order(  # not a test of ours: the name is the field's
    covariance: Array, order: Sequence[int], rows: int, values: Array | None = None,  # noqa: PT028 (as above)
) -> OrderTest:  # fmt: skip
    """Excess and both tests for one order.

    Args:
        covariance: (d, d) biased covariance.
        order: the nodes, causes first.
        rows: number n of observations; the tests need n > d + 1.
        values: (m, d) the table, or rows of it, for the test of Brown and Forsythe.
    """
    reason = obstacle(covariance, order, rows)
    if reason:
        return OrderTest(None, None, None, reason)
    variances = conditional_variances(covariance, order)
    bartlett, _ = bartlett_statistic(variances, rows)
    spread = None
    if values is not None and len(values) > len(order) + 1:
        statistic, _ = brown_forsythe_statistic(order_residuals(values, order))
        spread = float(stats.f.sf(statistic, len(order) - 1, len(order) * (len(values) - 1)))
    excess = order_excess(covariance, order)
    return OrderTest(excess, float(stats.chi2.sf(bartlett, len(order) - 1)), spread)


test_order.__test__ = False  # type: ignore[attr-defined]  # the name is the field's; pytest must not collect it


def greedy_order(covariance: Array, before: Mask | None = None) -> list[int]:
    """Take, again and again, the variable of smallest variance given those already taken.

    Each choice downdates the covariance by rank one, O(d^3) in all.

    Args:
        covariance: (d, d).
        before: (d, d), True where row has to be taken before column (required edges, tiers); acyclic.
    """
    remaining = covariance.astype(np.float64).copy()
    untaken = np.ones(len(covariance), dtype=bool)
    waits = np.zeros(covariance.shape, dtype=bool) if before is None else before
    order: list[int] = []
    for _ in range(len(covariance)):
        free = untaken & ~(waits & untaken[:, None]).any(axis=0)
        node = int(np.argmin(np.where(free, np.diag(remaining), np.inf)))
        order.append(node)
        untaken[node] = False
        pivot = remaining[node, node]
        if pivot > 0.0:
            remaining -= np.outer(remaining[:, node], remaining[node]) / pivot
    return order
