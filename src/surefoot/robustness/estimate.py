"""Confidence bounds and radius from the fresh draws, for one strategy that was chosen before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from surefoot.numerics.anytime_bounds import betting_lower_bound, betting_upper_bound
from surefoot.numerics.bounds import clopper_pearson_lower, clopper_pearson_upper, empirical_bernstein_radius
from surefoot.robustness.maps import HARDMAX, SimplexMap
from surefoot.robustness.plan import Choice, Plan, counts_of
from surefoot.robustness.radius import margin_radius, one_class_radius, two_class_radius

__all__ = ["Estimate", "certify_logits", "columns", "estimate_counts", "estimate_scores"]

Array = NDArray[np.float64]
RESOLUTION = 1e-7  # of the betting bounds; they are rounded outwards to it
ROUNDING = 1e-7  # of scores kept in float32; where a Lipschitz constant is used it counts against the radius


@dataclass(frozen=True)
class Estimate:
    """Bounds and the radius they certify; 0 is an abstention.

    Attributes:
        lower: of the top class; in the margin form of ``(1 + p_A - p_bucket) / 2``, the smallest over the buckets.
        upper: of the largest other class; 1 where the form does not use it.
    """

    lower: float
    upper: float
    radius: float


def certify_logits(
    first: Tensor, fresh: Tensor, plan: Plan, sigma: float, base_lipschitz: float = math.inf
) -> tuple[int, Estimate]:
    """The whole rule on noisy logits that were drawn elsewhere or stored: class (-1 for an abstention) and estimate.

    Args:
        first: (n0, c), on which class and strategy are chosen among all maps of the plan.
        fresh: (n, c), independent of `first`; n is the plan's `draws`.
        base_lipschitz: of the logits; inf where unknown.

    Raises:
        ValueError: another number of draws than planned, or a plan with a target.
    """
    if len(fresh) != plan.draws or len(first) != plan.selection_draws or plan.target:
        raise ValueError(
            f"{len(first)} + {len(fresh)} logits for a plan of {plan.selection_draws} + {plan.draws} draws without a target"
        )
    choice = plan.choose(first, plan.maps, sigma, base_lipschitz)
    if choice.strategy.map == HARDMAX:
        found = estimate_counts(choice, counts_of(fresh), plan, sigma)
    else:
        scores = columns(choice.strategy.map, fresh, choice.bucket)
        found = estimate_scores(choice, scores, plan, sigma, base_lipschitz, fresh.shape[1])
    return (choice.top if found.radius > 0 else -1), found


def estimate_counts(choice: Choice, counts: Any, plan: Plan, sigma: float) -> Estimate:
    """From hardmax counts (c,) of the fresh draws: exact binomial bounds."""
    bucket = np.asarray(choice.bucket)
    n, groups = int(np.sum(counts)), int(bucket.max())
    of = np.bincount(bucket, weights=counts, minlength=groups + 1)
    form, alpha = choice.strategy.form, plan.alpha
    if form == "one-class":
        low = float(clopper_pearson_lower(of[0], n, alpha))
        return Estimate(low, 1.0, float(one_class_radius(low, sigma)))
    if form == "two-class":
        first, other = plan.levels(choice.strategy.share, groups)
        low = float(clopper_pearson_lower(of[0], n, first))
        high = min(float(clopper_pearson_upper(of[1:], n, other).max()), plan.cap(low))
        return Estimate(low, high, float(two_class_radius(low, high, sigma)))
    votes = np.repeat(np.arange(groups + 1), of.astype(np.int64))  # order does not matter to the Bernstein bound
    values = np.stack([np.where(votes == 0, 1.0, np.where(votes == b, 0.0, 0.5)) for b in range(1, groups + 1)])
    lower = _lower(values, alpha / groups, "bernstein")
    return _margin(lower, sigma, math.inf)


def estimate_scores(
    choice: Choice, scores: Any, plan: Plan, sigma: float, base_lipschitz: float, classes: int
) -> Estimate:
    """From the soft scores (n, 1 + buckets) of the fresh draws, in their order: betting or empirical Bernstein bounds."""
    values = np.asarray(scores, dtype=np.float64).T
    groups, which = len(values) - 1, choice.strategy.map
    form, alpha = choice.strategy.form, plan.alpha
    coordinate = which.coordinate_lipschitz(base_lipschitz, classes)
    slack = 0.0 if math.isinf(base_lipschitz) else ROUNDING
    if form == "one-class":
        low = max(float(_lower(values[:1], alpha, plan.bound)[0]) - slack, 0.0)
        return Estimate(low, 1.0, float(one_class_radius(low, sigma, coordinate)))
    if form == "two-class":
        first, other = plan.levels(choice.strategy.share, groups)
        low = max(float(_lower(values[:1], first, plan.bound)[0]) - slack, 0.0)
        high = min(float(_upper(values[1:], other, plan.bound).max()) + slack, plan.cap(low), 1.0)
        return Estimate(low, high, float(two_class_radius(low, high, sigma, coordinate)))
    lower = np.maximum(_lower((1 + values[:1] - values[1:]) / 2, alpha / groups, plan.bound) - slack, 0.0)
    return _margin(lower, sigma, which.lipschitz(base_lipschitz))


def columns(which: SimplexMap, logits: Tensor, bucket: Any) -> Tensor:
    """Scores of the top class and of every bucket, (rows, 1 + buckets) float32, each clipped into [0, 1]."""
    import torch

    values = which(logits.double())
    places = torch.as_tensor(np.asarray(bucket), device=values.device)
    summed = values.new_zeros(len(values), int(places.max()) + 1).index_add_(1, places, values)
    return summed.clamp_(0.0, 1.0).float()  # sums of a bucket may round above 1


def _margin(lower: Array, sigma: float, lipschitz: float) -> Estimate:
    low = float(lower.min())
    return Estimate(low, 1.0, float(margin_radius(np.nextafter(2 * low - 1, -2), sigma, lipschitz)))


def _lower(values: Array, alpha: float, bound: str) -> Array:
    if bound == "betting":
        return betting_lower_bound(values, alpha, resolution=RESOLUTION)
    n = values.shape[-1]
    shift = empirical_bernstein_radius(values.var(axis=-1, ddof=1), n, alpha)
    return np.clip(values.mean(axis=-1) - shift, 0.0, 1.0)


def _upper(values: Array, alpha: float, bound: str) -> Array:
    if bound == "betting":
        return betting_upper_bound(values, alpha, resolution=RESOLUTION)
    n = values.shape[-1]
    shift = empirical_bernstein_radius(values.var(axis=-1, ddof=1), n, alpha)
    return np.clip(values.mean(axis=-1) + shift, 0.0, 1.0)
