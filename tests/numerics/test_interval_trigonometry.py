"""Sine and cosine of intervals against mpmath's interval arithmetic and 50-digit values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.numerics.interval_trigonometry import LARGEST, cosine, sine
from surefoot.numerics.intervals import Interval

PAIRS = [pytest.param(sine, "sin", id="sine"), pytest.param(cosine, "cos", id="cosine")]
Wave = Callable[[Interval], Interval]


def both(low: float, high: float) -> Interval:
    return Interval(np.array([low]), np.array([high]))


@pytest.mark.parametrize(("wave", "name"), PAIRS)
@settings(max_examples=150, deadline=None)
@given(low=st.floats(-500, 500), width=st.floats(0, 8))
def test_holds_the_exact_range_and_is_hardly_wider(wave: Wave, name: str, low: float, width: float) -> None:
    high = low + width
    found = wave(both(low, high))
    exact: Any = getattr(mpmath.iv, name)(mpmath.iv.mpf([low, high]))
    assert found.low[0] <= float(exact.a) + 1e-300
    assert found.high[0] >= float(exact.b) - 1e-300
    # peaks within 1e-7 of an end may be counted in; there the range differs from the exact one by 1e-14
    assert float(exact.a) - found.low[0] <= 1e-13
    assert found.high[0] - float(exact.b) <= 1e-13


@pytest.mark.parametrize(("wave", "name"), PAIRS)
def test_points_hold_fifty_digit_values(wave: Wave, name: str) -> None:
    points = np.concatenate(
        [np.random.default_rng(0).uniform(-1e5, 1e5, 300), np.array([0.0, -0.0, 5e-324, 1e-8, LARGEST])]
    )
    found = wave(Interval.point(points))
    with mpmath.workdps(50):
        for x, low, high in zip(points, found.low, found.high, strict=True):
            value = getattr(mpmath, name)(mpmath.mpf(float(x)))
            assert mpmath.mpf(float(low)) <= value <= mpmath.mpf(float(high))
    assert found.width.max() < 1e-14


@pytest.mark.parametrize("turns", [-7, -1, 0, 1, 3, 1000])
def test_peaks_and_troughs_are_reached(turns: int) -> None:
    peak = 2 * math.pi * turns + 0.5 * math.pi
    assert sine(both(peak - 0.1, peak + 0.2)).high[0] == 1.0
    assert sine(both(peak - 0.1, peak + 0.2)).low[0] == pytest.approx(math.sin(peak + 0.2), abs=1e-12)
    assert cosine(both(peak + 0.4 * math.pi, peak + 0.6 * math.pi)).low[0] == -1.0
    assert cosine(both(peak - 0.6 * math.pi, peak - 0.4 * math.pi)).high[0] == 1.0
    between = sine(both(peak + 0.3, peak + 1.2))
    assert between.low[0] > -1
    assert between.high[0] < 1


@pytest.mark.parametrize("wave", [sine, cosine])
def test_a_whole_turn_huge_and_infinite_arguments_give_the_whole_range(wave: Wave) -> None:
    for low, high in ((0.0, 7.0), (1e7, 1e7 + 0.1), (-1e300, -1e300), (-np.inf, 0.0), (3.0, np.inf)):
        found = wave(both(low, high))
        assert (found.low[0], found.high[0]) == (-1.0, 1.0)


@pytest.mark.parametrize("wave", [sine, cosine])
def test_a_part_has_no_larger_range(wave: Wave) -> None:
    generator = np.random.default_rng(1)
    low = generator.uniform(-50, 50, 500)
    high = low + generator.uniform(0, 4, 500)
    middle = 0.5 * (low + high)
    whole = wave(Interval(low, high))
    for part in (wave(Interval(low, middle)), wave(Interval(middle, high))):
        assert (part.low >= whole.low - 1e-15).all()
        assert (part.high <= whole.high + 1e-15).all()
