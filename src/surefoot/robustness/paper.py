"""What the released LVM-RS code computes, for comparison. It is not sound: see `released_radius`.

References:
    github.com/blaisedelattre/bridging_the_gap_rs, files core_lvmrs and compute_rs_lipschitz_radius (behaviour described, not copied).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special
from torch import Tensor

from surefoot.numerics.bounds import clopper_pearson_lower, clopper_pearson_upper, empirical_bernstein_radius
from surefoot.robustness.maps import SimplexMap
from surefoot.robustness.radius import lipschitz_radius

__all__ = ["RELEASED_SHARPNESS", "released_lipschitz", "released_radius"]

RELEASED_SHARPNESS = (1.0, *np.linspace(0.1, 50, 100).tolist(), 1e7)
"""Inverse temperatures of the released code: 102 for each of two maps."""


def released_radius(
    logits: Tensor, alpha: float, sigma: float, sharpness: Sequence[float] = RELEASED_SHARPNESS
) -> tuple[int, float]:
    """The largest of all radii that the same draws give through all maps and temperatures. **Unsound.**

    There is no union bound over some four hundred candidates, so the chance of a wrong certificate is not alpha; and every candidate is
    about another smoothed classifier. The runner-up is the second largest upper bound of *all* classes; where the top class has not the
    largest one that is its own or a larger one, so that the released code abstains there: odd, but safe.

    Args:
        logits: (n, c) noisy logits; there is no selection sample.
        alpha: spent as alpha / c on each class, once.

    Returns:
        The class and the radius; -1 and 0 for an abstention.
    """
    n, c = logits.shape
    counts = np.bincount(logits.argmax(dim=1).numpy(), minlength=c)
    lower = clopper_pearson_lower(counts, n, alpha / c)
    upper = clopper_pearson_upper(counts, n, alpha / c)
    best = _two_class(lower, upper, sigma)
    for b in sharpness:
        for kind in ("softmax", "sparsemax"):
            values: Any = SimplexMap(kind, b)(logits.double()).numpy()
            mean = values.mean(axis=0)
            shift = empirical_bernstein_radius(values.var(axis=0, ddof=1), n, alpha / c)
            low, high = np.clip(mean - shift, 0, 1), np.clip(mean + shift, 0, 1)
            margin = np.sort(low)[-1] - np.sort(high)[-2]
            candidates = [_two_class(low, high, sigma), (int(low.argmax()), float(lipschitz_radius(margin, sigma)))]
            best = max([best, *candidates], key=lambda found: found[1])
    return best if best[1] > 0 else (-1, 0.0)


def released_lipschitz(lipschitz: float, sigma: float, mass: float = 1.0) -> float:
    """``L erf(r / (sqrt(2) L sigma))``: valid, but up to twice the tight constant of `smoothed_lipschitz`."""
    return lipschitz * float(special.erf(mass / (math.sqrt(2) * lipschitz * sigma)))


def _two_class(lower: Any, upper: Any, sigma: float) -> tuple[int, float]:
    top, second = float(np.max(lower)), float(np.sort(upper)[-2])
    with np.errstate(invalid="ignore"):
        radius = sigma / 2 * (special.ndtri(top) - special.ndtri(second))
    return int(np.argmax(lower)), float(radius) if np.isfinite(radius) else 0.0
