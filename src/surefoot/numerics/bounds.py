"""Statistical bounds that hold at the sample size at hand, not only in the limit.

Every function takes a ``failure_probability``: the statement it returns is false with at most that probability, over
the randomness of the data. One-sided bounds spend all of it on their side. Sample arrays hold the observations along
the last axis; leading axes are independent problems, treated at once.

Bounds that hold at all times at once, for data that are looked at as they come, are in ``anytime_bounds.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from surefoot.numerics.borders import require_probability

__all__ = [
    "BootstrapInterval",
    "binomial_p_value",
    "clopper_pearson_interval",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "empirical_bernstein_radius",
    "hoeffding_radius",
    "noncentral_norm_bound",
    "paired_bootstrap",
]

Array = NDArray[np.float64]


def clopper_pearson_lower(successes: ArrayLike, trials: ArrayLike, failure_probability: float) -> Array:
    """One-sided exact lower bound of a success probability.

    The ``failure_probability`` quantile of Beta(k, n - k + 1); 0 where ``k = 0``.

    Args:
        successes: counts ``k``.
        trials: numbers ``n`` of independent trials.
        failure_probability: chance that the bound exceeds the probability.

    Returns:
        The bounds, in the broadcast shape of the counts.

    Raises:
        ValueError: if a count is negative, larger than its trials, or the failure probability not in (0, 1).

    References:
        C. Clopper and E. Pearson, "The use of confidence or fiducial limits", 1934.
    """
    k, n = _counts(successes, trials)
    require_probability("failure_probability", failure_probability)
    bound = special.betaincinv(np.maximum(k, 1.0), n - k + 1.0, failure_probability)
    return np.where(k == 0, 0.0, bound)


def clopper_pearson_upper(successes: ArrayLike, trials: ArrayLike, failure_probability: float) -> Array:
    """One-sided exact upper bound of a success probability; see `clopper_pearson_lower`."""
    k, n = _counts(successes, trials)
    return 1.0 - clopper_pearson_lower(n - k, n, failure_probability)


def clopper_pearson_interval(
    successes: ArrayLike, trials: ArrayLike, failure_probability: float
) -> tuple[Array, Array]:
    """Two-sided exact bounds, each spending half of the failure probability; see `clopper_pearson_lower`."""
    half = failure_probability / 2
    return clopper_pearson_lower(successes, trials, half), clopper_pearson_upper(successes, trials, half)


def binomial_p_value(successes: ArrayLike, trials: ArrayLike, probability: ArrayLike) -> Array:
    """One-sided binomial test: the chance of at least that many successes if each has the given probability.

    Args:
        successes: counts ``k``.
        trials: numbers ``n`` of independent trials.
        probability: success probability of the null hypothesis, or its upper bound.

    Returns:
        ``P(Binomial(n, probability) >= k)``.
    """
    k, n = _counts(successes, trials)
    p = np.asarray(probability, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("The null probability must lie in [0, 1].")
    return np.where(k == 0, 1.0, special.betainc(np.maximum(k, 1.0), n - k + 1.0, p))


def hoeffding_radius(n: int, failure_probability: float, width: float = 1.0) -> float:
    """One-sided deviation of a mean of bounded independent values, ``width sqrt(log(1 / p) / (2 n))``.

    Args:
        n: sample size.
        failure_probability: chance ``p`` that the mean deviates by more on the given side.
        width: length of the range of the values.

    Returns:
        The deviation, in the unit of the values.

    References:
        W. Hoeffding, "Probability inequalities for sums of bounded random variables", 1963.
    """
    require_probability("failure_probability", failure_probability)
    _require_at_least("n", n, 1)
    return width * float(np.sqrt(-np.log(failure_probability) / (2 * n)))


def empirical_bernstein_radius(
    sample_variance: ArrayLike, n: int, failure_probability: float, width: float = 1.0
) -> Array:
    """One-sided deviation of a mean of bounded independent values, from their sample variance.

    ``sqrt(2 V log(2 / p) / n) + 7 width log(2 / p) / (3 (n - 1))``: smaller than Hoeffding's where the variance is.

    Args:
        sample_variance: unbiased sample variances ``V``.
        n: sample size.
        failure_probability: chance ``p`` that the mean deviates by more on the given side.
        width: length of the range of the values.

    Returns:
        The deviations, in the unit of the values.

    References:
        A. Maurer and M. Pontil, "Empirical Bernstein bounds and sample variance penalization", 2009, theorem 4.
    """
    require_probability("failure_probability", failure_probability)
    _require_at_least("n", n, 2)
    variance = np.asarray(sample_variance, dtype=np.float64)
    level = np.log(2 / failure_probability)
    return np.sqrt(2 * variance * level / n) + 7 * width * level / (3 * (n - 1))


def noncentral_norm_bound(
    observed_norm: ArrayLike, noise_std: float, dimension: int, failure_probability: float
) -> Array:
    """Exact one-sided upper bound of ``|g|`` from ``|g + noise|`` with Gaussian noise of known size.

    ``|g + noise|^2 / std^2`` is noncentral chi-square; the bound is the noncentrality at which a value as small as
    the observed one has just probability ``p``, and 0 if even ``g = 0`` makes it that improbable.

    Args:
        observed_norm: observed norms.
        noise_std: standard deviation of each coordinate of the noise, in the unit of the norm.
        dimension: number of coordinates.
        failure_probability: chance ``p`` that the true norm is larger.

    Returns:
        The bounds, each the upper end of its bracket after 60 halvings.
    """
    require_probability("failure_probability", failure_probability)
    _require_at_least("dimension", dimension, 1)
    if not noise_std > 0:
        raise ValueError(f"noise_std must be positive, got {noise_std}.")
    observed = np.asarray(observed_norm, dtype=np.float64) / noise_std
    square = observed**2
    # a larger norm than this would put the observed value below the noise's own quantile along one direction
    high = observed + np.sqrt(special.chdtri(dimension, failure_probability)) + 1.0
    low = np.zeros_like(high)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = special.chndtr(square, float(dimension), middle**2) > failure_probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    central = special.gammainc(dimension / 2, square / 2)
    return noise_std * np.where(central <= failure_probability, 0.0, high)


@dataclass(frozen=True)
class BootstrapInterval:
    """Mean difference of paired samples with its bootstrap interval.

    Args:
        estimate: the mean of ``first - second``.
        low: lower end.
        high: upper end.
        confidence: the nominal level, reached only as the sample grows.
        resamples: how many resamples were drawn.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    resamples: int


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    failure_probability: float = 0.05,
    resamples: int = 9999,
    generator: np.random.Generator,
    alternative: Literal["two-sided", "less", "greater"] = "two-sided",
) -> BootstrapInterval:
    """Bias-corrected and accelerated bootstrap interval of a mean paired difference.

    Pairs are resampled together, so what both samples share (the image, the fold, the seed) cancels.

    Args:
        first: values ``(n,)``.
        second: values ``(n,)`` of the same units, in the same order.
        failure_probability: one minus the nominal confidence.
        resamples: number of resamples.
        generator: source of the resamples.
        alternative: "two-sided"; "less" for an upper end only; "greater" for a lower end only.

    Returns:
        The interval; a point where all differences are equal.

    Raises:
        ValueError: if the samples differ in length, or hold fewer than two pairs or values that are not finite.

    References:
        B. Efron, "Better bootstrap confidence intervals", 1987.
    """
    from scipy import stats  # slow to import, and only here

    require_probability("failure_probability", failure_probability)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"Paired samples need the same length of at least 2, got {a.shape} and {b.shape}.")
    difference = a - b
    if not np.all(np.isfinite(difference)):
        raise ValueError("Paired samples hold NaN or infinity; drop those pairs first.")
    estimate, confidence = float(difference.mean()), 1 - failure_probability
    if np.ptp(difference) == 0:
        return BootstrapInterval(estimate, estimate, estimate, confidence, 0)
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        alternative=alternative,
        rng=generator,
        method="BCa",
    ).confidence_interval
    return BootstrapInterval(estimate, float(interval.low), float(interval.high), confidence, resamples)


def _counts(successes: ArrayLike, trials: ArrayLike) -> tuple[Array, Array]:
    k, n = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64))
    if not np.all((k >= 0) & (k <= n) & (n >= 1)):
        raise ValueError("Counts need 0 <= successes <= trials and at least one trial.")
    return k, n


def _require_at_least(what: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value}.")
