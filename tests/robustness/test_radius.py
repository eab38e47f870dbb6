"""Radii against closed forms, 50-digit arithmetic and the limits; the inverse never overstates."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from surefoot.robustness.paper import released_lipschitz
from surefoot.robustness.radius import (
    inverse_ramp,
    largest_radius,
    lipschitz_radius,
    margin_radius,
    one_class_radius,
    smoothed_lipschitz,
    smoothed_ramp,
    two_class_radius,
)

mpmath.mp.dps = 50
PROBABILITY = st.floats(1e-9, 1 - 1e-9)
SLOPE = st.one_of(st.just(math.inf), st.floats(1e-2, 1e4))


def exact_ramp(t: float, sigma: float, slope: float) -> mpmath.mpf:
    """G_L(t) in 50 digits."""
    t, sigma = mpmath.mpf(t), mpmath.mpf(sigma)
    if math.isinf(slope):
        return mpmath.ncdf(t / sigma)
    L, a = mpmath.mpf(slope), 1 / (2 * mpmath.mpf(slope))

    def H(z: mpmath.mpf) -> mpmath.mpf:
        return z * mpmath.ncdf(z) + mpmath.npdf(z)

    return L * sigma * (H((t + a) / sigma) - H((t - a) / sigma))


@pytest.mark.parametrize(
    ("slope", "radius"),
    [(0.5, 0.839313), (1, 0.499468), (2, 0.371547), (4, 0.333606), (10, 0.322521), (math.inf, 0.320388)],
)
def test_the_table_of_the_tight_radius(slope: float, radius: float) -> None:
    assert float(one_class_radius(0.9, 0.25, slope)) == pytest.approx(radius, abs=6e-7)


@pytest.mark.parametrize(
    ("slope", "radius"),
    [(0.5, 0.800051), (1, 0.419068), (2, 0.292959), (4, 0.261148), (10, 0.252335), (math.inf, 0.250663)],
)
def test_the_table_of_the_erf_radius(slope: float, radius: float) -> None:
    assert float((0.9 - 0.5) / smoothed_lipschitz(slope, 0.25)) == pytest.approx(radius, abs=6e-7)


@settings(max_examples=60)
@given(p=PROBABILITY, slope=SLOPE, sigma=st.floats(0.01, 10))
def test_the_inverse_is_enclosed_in_fifty_digits(p: float, slope: float, sigma: float) -> None:
    low, high = float(inverse_ramp(p, sigma, slope)), float(inverse_ramp(p, sigma, slope, upward=True))
    own = mpmath.mpf("1e-40")  # the oracle's own rounding, seen where the answer is 0
    assert exact_ramp(low, sigma, slope) - own <= mpmath.mpf(p) <= exact_ramp(high, sigma, slope) + own
    assert high - low <= 1e-9 * (sigma + abs(low) + (0 if math.isinf(slope) else 1 / slope))


@settings(max_examples=60)
@given(p=st.floats(0.5, 1 - 1e-9), slope=st.floats(1e-2, 1e4), sigma=st.floats(0.01, 10))
def test_the_tight_radius_dominates_both_families(p: float, slope: float, sigma: float) -> None:
    radius = float(one_class_radius(p, sigma, slope))
    other = max(sigma * float(special.ndtri(p)), (p - 0.5) / float(smoothed_lipschitz(slope, sigma)))
    assert radius >= other - 1e-9 * (sigma + other)


@settings(max_examples=40)
@given(p=PROBABILITY, q=PROBABILITY, slope=SLOPE)
def test_radii_grow_with_the_probability(p: float, q: float, slope: float) -> None:
    low, high = sorted((p, q))
    assert float(inverse_ramp(low, 0.5, slope)) <= float(inverse_ramp(high, 0.5, slope)) + 1e-12


@settings(max_examples=40)
@given(p=st.floats(0.5, 1 - 1e-9), slope=st.floats(0.1, 100), scale=st.floats(0.1, 10))
def test_radius_scales_with_images_and_noise_together(p: float, slope: float, scale: float) -> None:
    assert float(one_class_radius(p, 0.5 * scale, slope / scale)) == pytest.approx(
        scale * float(one_class_radius(p, 0.5, slope)), rel=1e-8
    )


@settings(max_examples=60)
@given(p=st.floats(0.01, 0.999), share=st.floats(0, 1))
def test_r2_is_at_least_r1_where_only_the_range_is_known(p: float, share: float) -> None:
    q = share * min(p, 1 - p)
    assert float(two_class_radius(p, q, 0.5)) >= float(lipschitz_radius(p - q, 0.5)) - 1e-12
    assert float(lipschitz_radius(p - q, 0.5)) == pytest.approx(0.5 * (p - q) * math.sqrt(math.pi / 2))


def test_limits() -> None:
    p = np.array([0.6, 0.9, 0.999])
    np.testing.assert_allclose(one_class_radius(p, 0.5, 1e7), 0.5 * special.ndtri(p), rtol=1e-9)
    np.testing.assert_allclose(one_class_radius(p, 1e-7, 2.0), (p - 0.5) / 2, rtol=1e-6)
    assert inverse_ramp(1.0, 0.5, 3.0) == math.inf
    assert inverse_ramp(0.0, 0.5) == -math.inf
    assert one_class_radius(0.5, 0.5) == 0.0
    assert one_class_radius(0.3, 0.5) == 0.0
    assert two_class_radius(0.4, 0.4, 0.5) == 0.0
    assert two_class_radius(1.0, 1.0, 0.5) == 0.0
    assert two_class_radius(0.0, 0.0, 0.5) == 0.0
    assert margin_radius(-0.2, 0.5) == 0.0


def test_the_ramp_attains_its_bound() -> None:
    """A clipped linear function of slope L: the smoothed value at distance t is G_L(t), by sampling, and the radius is t again."""
    slope, sigma, t = 3.0, 0.4, 0.23
    z = np.random.default_rng(0).standard_normal(400_000)
    value = np.clip(slope * (t + sigma * z) + 0.5, 0, 1)
    assert float(smoothed_ramp(t, sigma, slope)) == pytest.approx(value.mean(), abs=4 * value.std() / len(z) ** 0.5)
    assert float(one_class_radius(smoothed_ramp(t, sigma, slope), sigma, slope)) == pytest.approx(t, rel=1e-9)


def test_the_smoothed_lipschitz_constant_is_tight_and_the_released_one_is_not() -> None:
    slope, sigma, h = 3.0, 0.4, 1e-5
    steepest = float(smoothed_ramp(h, sigma, slope) - smoothed_ramp(-h, sigma, slope)) / (2 * h)
    assert float(smoothed_lipschitz(slope, sigma)) == pytest.approx(steepest, rel=1e-6)
    assert released_lipschitz(slope, sigma) > 1.2 * steepest
    assert released_lipschitz(1e6, sigma) == pytest.approx(2 * float(smoothed_lipschitz(math.inf, sigma)), rel=1e-6)


@pytest.mark.parametrize(("n", "reach"), [(10_000, 3.199), (100_000, 3.811)])
def test_the_largest_radius_of_so_many_draws(n: int, reach: float) -> None:
    assert largest_radius(n, 1e-3, 2.0) == pytest.approx(2 * reach, abs=2e-3)


def test_probabilities_that_are_none_are_refused() -> None:
    for bad in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
            inverse_ramp(bad, 0.5)
    with pytest.raises(ValueError, match="sigma"):
        inverse_ramp(0.5, 0.0)
    with pytest.raises(ValueError, match="Lipschitz"):
        inverse_ramp(0.5, 1.0, 0.0)


def test_arrays_keep_their_shape() -> None:
    assert one_class_radius(np.full((2, 3), 0.9), 0.5, np.array([1.0, 2.0, math.inf])).shape == (2, 3)
    assert torch.is_tensor(torch.from_numpy(one_class_radius(np.array([0.9]), 0.5)))
