"""The repair of an order under equal noise variances, and the fit of a graph to an order.

The order of the path and the greedy order of Chen, Drton and Wang compete by their excess; the winner's parents are chosen
by an adaptive lasso with the Bayesian information criterion, cut at the threshold, and refitted by least squares.

References:
    Chen, Drton, Wang, On causal discovery with an equal-variance assumption, Biometrika 2019.
    Zou, The adaptive lasso and its oracle properties, 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.causal.knowledge import Knowledge
from surefoot.causal.order_test import greedy_order, order_excess

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Indices = np.ndarray[Any, np.dtype[np.intp]]


def repair_order(
    covariance: Array, rows: int, order: Sequence[int], threshold: float, knowledge: Knowledge
) -> tuple[list[int], Array]:
    """The order of smaller excess among `order` and the greedy one, and a graph fitted to it.

    Returns:
        The order and the (d, d) weights: least squares on the chosen parents.

    Raises:
        ValueError: the covariance is singular, so that no excess exists.
    """
    try:
        greedy = greedy_order(covariance, knowledge.before)
        best = min((list(order), greedy), key=lambda candidate: order_excess(covariance, candidate))
    except np.linalg.LinAlgError:
        raise ValueError(
            "refine='order' needs a covariance of full rank: a column is a combination of others, or there are fewer rows "
            "than columns; drop such columns, or use refine='none'"
        ) from None
    weights = np.zeros_like(covariance)
    for place, node in enumerate(best):
        earlier = np.array(best[:place], dtype=np.intp)
        if knowledge.allowed is not None:
            earlier = earlier[knowledge.allowed[earlier, node]]
        required = np.zeros(len(earlier), dtype=bool)
        if knowledge.required is not None:
            required = knowledge.required[earlier, node]
        parents, coefficients = choose_parents(covariance, rows, node, earlier, required)
        strong = (np.abs(coefficients) > threshold) | np.isin(parents, earlier[required])
        parents = parents[strong]
        if len(parents):
            weights[parents, node] = np.linalg.solve(covariance[np.ix_(parents, parents)], covariance[parents, node])
    return best, weights


def choose_parents(covariance: Array, rows: int, node: int, earlier: Indices, required: Mask) -> tuple[Indices, Array]:
    """Parents of a node among earlier ones by adaptive lasso and BIC, with the lasso's coefficients.

    The lasso is weighted by the inverse of the least-squares coefficients; along its path the support minimises
    `n log(rss / n) + df log n`, rss being that of least squares on the support.
    """
    from sklearn.linear_model import lars_path_gram

    if not len(earlier):
        return earlier, np.zeros(0)
    gram, pull = covariance[np.ix_(earlier, earlier)], covariance[earlier, node]
    least_squares = np.linalg.solve(gram, pull)
    weight = np.where(required, 1e6 * np.abs(least_squares).max(), np.abs(least_squares))
    with np.errstate(all="ignore"):
        _, _, path = lars_path_gram(
            Xy=rows * pull * weight, Gram=rows * gram * np.outer(weight, weight), n_samples=rows, method="lasso"
        )
    best = np.inf
    chosen: tuple[Indices, Any] = (earlier[:0], np.zeros(0))
    seen: set[bytes] = set()
    for column in path.T:
        support = (column != 0.0) | required
        if support.tobytes() in seen:
            continue
        seen.add(support.tobytes())
        size = int(support.sum())
        fit = np.linalg.solve(gram[np.ix_(support, support)], pull[support]) if size else np.zeros(0)
        residual = float(covariance[node, node] - pull[support] @ fit)
        criterion = rows * np.log(max(residual, np.finfo(np.float64).tiny)) + size * np.log(rows)
        if criterion < best:
            best, chosen = criterion, (earlier[support], fit)
    return chosen
