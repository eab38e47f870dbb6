"""Soundness of interval arithmetic against exact fractions and 50-digit arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from surefoot.numerics import intervals
from surefoot.numerics.intervals import Interval

finite = st.floats(allow_nan=False, allow_infinity=False)
moderate = st.floats(-1e6, 1e6)


@st.composite
def interval_and_member(draw: st.DrawFn, values: st.SearchStrategy[float] = finite) -> tuple[Interval, Fraction]:
    low, high = sorted((draw(values), draw(values)))
    share = draw(st.fractions(0, 1))
    member = Fraction(low) + share * (Fraction(high) - Fraction(low))
    return Interval(np.asarray(low), np.asarray(high)), member


def encloses(x: Interval, exact: Fraction) -> bool:
    low, high = float(x.low), float(x.high)
    return (low == -math.inf or Fraction(low) <= exact) and (high == math.inf or exact <= Fraction(high))


@settings(max_examples=400, deadline=None)
@given(interval_and_member(), interval_and_member())
def test_ring_operations_enclose_the_exact_result(x: tuple[Interval, Fraction], y: tuple[Interval, Fraction]) -> None:
    (a, p), (b, q) = x, y
    assert encloses(a + b, p + q)
    assert encloses(a - b, p - q)
    assert encloses(a * b, p * q)
    assert encloses(-a, -p)
    assert encloses(abs(a), abs(p))
    if q:
        assert encloses(a / b, p / q)


@settings(max_examples=300, deadline=None)
@given(interval_and_member(moderate), st.integers(-6, 9))
def test_integer_powers_enclose_the_exact_result(x: tuple[Interval, Fraction], n: int) -> None:
    a, p = x
    assume(n >= 0 or p != 0)
    assert encloses(a**n, p**n)
    if n >= 0 and n % 2 == 0:
        assert float((a**n).low) >= 0


@settings(max_examples=200, deadline=None)
@given(finite, finite)
def test_point_operations_are_sharp(p: float, q: float) -> None:
    """At most two neighbouring steps wide: outward rounding costs no more than it must."""
    exact = Fraction(p) + Fraction(q)
    total = Interval.point(p) + q
    assert encloses(total, exact)
    if math.isfinite(p + q):
        assert float(total.high) <= math.nextafter(p + q, math.inf)
        assert float(total.low) >= math.nextafter(p + q, -math.inf)
    assert (Interval.point(p) + 0.0).contains(p)
    assert float((Interval.point(p) * 0.0).width) <= 5e-324


FUNCTIONS: dict[str, tuple[Callable[[Interval], Interval], Callable[..., object], tuple[float, float]]] = {
    "exp": (intervals.exp, mpmath.exp, (-760.0, 720.0)),
    "log": (intervals.log, mpmath.log, (5e-324, 1.7e308)),
    "sqrt": (intervals.sqrt, mpmath.sqrt, (0.0, 1.7e308)),
    "tanh": (intervals.tanh, mpmath.tanh, (-40.0, 40.0)),
    "sigmoid": (intervals.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), (-800.0, 60.0)),
    "power": (lambda x: intervals.power(x, 0.3), lambda x: x ** mpmath.mpf(0.3), (0.0, 1e300)),
    "negative power": (lambda x: intervals.power(x, -2.5), lambda x: x ** mpmath.mpf(-2.5), (1e-100, 1e100)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_enclose_fifty_digits(name: str) -> None:
    ours, exact, (least, most) = FUNCTIONS[name]
    generator = np.random.default_rng(0)
    spread = generator.uniform(least, most, 1500)
    near = generator.normal(size=1500) * 10.0 ** generator.integers(-12, 2, 1500)
    around_one = 1 + generator.normal(size=500) * 10.0 ** generator.integers(-16, 0, 500)
    edges = np.array([least, most, 0.0, 1.0, -1.0, 0.5])
    x = np.concatenate([spread, near, around_one, edges])
    x = x[(x >= least) & (x <= most)]
    if least > 0:
        x = np.concatenate([x, np.exp(generator.uniform(math.log(least), math.log(most), 1500)).clip(least, most)])
    result = ours(Interval.point(x))
    with mpmath.workdps(50):
        for point, low, high in zip(x, result.low, result.high, strict=True):
            value = exact(mpmath.mpf(float(point)))
            assert mpmath.mpf(float(low)) <= value <= mpmath.mpf(float(high)), (name, point)
    # and useful: no wider than a few dozen units in the last place, above the subnormals
    regular = (np.abs(result.mid) > 1e-290) & np.isfinite(result.high)
    assert regular.sum() > 500
    assert np.max((result.high - result.low)[regular] / np.abs(result.mid[regular])) <= 1e-14


@pytest.mark.parametrize("name", ["exp", "log", "tanh"])
def test_numpy_errs_less_than_half_of_what_is_allowed_for(name: str) -> None:
    """The premise of every elementary enclosure, measured on this machine."""
    points = np.random.default_rng(1).uniform(1e-3, 20, 4000)
    computed = getattr(np, name)(points)
    with mpmath.workdps(50):
        errors = [
            abs(getattr(mpmath, name)(mpmath.mpf(x)) - mpmath.mpf(y)) for x, y in zip(points, computed, strict=True)
        ]
    in_ulps = [float(error) / np.spacing(abs(value)) for error, value in zip(errors, computed, strict=True)]
    assert max(in_ulps) <= intervals.ELEMENTARY_ULPS / 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(0, 3), st.floats(0, 1)), min_size=1, max_size=5))
def test_softmax_encloses_members(rows: list[tuple[float, float, float]]) -> None:
    low = np.array([a for a, _, _ in rows])
    high = low + np.array([w for _, w, _ in rows])
    member = np.clip(low + np.array([t for _, _, t in rows]) * (high - low), low, high)
    result = intervals.softmax(Interval(low, high))
    with mpmath.workdps(40):
        terms = [mpmath.exp(mpmath.mpf(float(v))) for v in member]
        for i, term in enumerate(terms):
            share = term / sum(terms)
            assert mpmath.mpf(float(result.low[i])) <= share <= mpmath.mpf(float(result.high[i]))
    assert (result.high <= 1).all()


def test_softmax_is_sharp_at_its_own_extremes() -> None:
    low, high = np.array([-1.0, 0.0, 0.5]), np.array([0.0, 2.0, 0.5])
    result = intervals.softmax(Interval(low, high))
    extreme = np.exp([0.0, 0.0, 0.5])
    assert float(result.high[0]) == pytest.approx(extreme[0] / extreme.sum(), rel=1e-14)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(moderate, min_size=3, max_size=3), min_size=2, max_size=4),
    st.lists(moderate, min_size=3, max_size=3),
)
def test_matrix_products_enclose_exact_ones(rows: list[list[float]], vector: list[float]) -> None:
    A = np.array(rows)
    result = Interval.point(A) @ np.array(vector)
    for i, row in enumerate(rows):
        exact = sum((Fraction(a) * Fraction(b) for a, b in zip(row, vector, strict=True)), Fraction(0))
        assert encloses(result[i], exact)
    gram = A.T @ Interval.point(A)
    exact_gram = sum((Fraction(row[0]) * Fraction(row[2]) for row in rows), Fraction(0))
    assert encloses(gram[0, 2], exact_gram)
    assert gram.shape == (3, 3)


def test_division_by_zero_and_infinity_are_enclosures() -> None:
    one = Interval.point(1.0)
    whole = one / Interval(np.asarray(-1.0), np.asarray(2.0))
    assert (whole.low, whole.high) == (-math.inf, math.inf)
    unbounded = Interval(np.asarray(1.0), np.asarray(math.inf))
    product = Interval(np.asarray(0.0), np.asarray(1.0)) * unbounded
    assert (product.low, product.high) == (0.0, math.inf)
    quotient = unbounded / unbounded
    assert quotient.low <= 0
    assert quotient.high == math.inf
    huge = Interval.point(1e308) * 10.0
    assert np.isfinite(huge.low)
    assert huge.high == math.inf


def test_rationals_are_enclosed_as_narrowly_as_floats_allow() -> None:
    third = Interval.enclosing("1/3")
    assert encloses(third, Fraction(1, 3))
    assert float(third.high) == np.nextafter(float(third.low), 1)
    assert float(Interval.enclosing(Fraction(3, 8)).width) <= 5e-324
    assert encloses(Interval.enclosing(10**30 + 1), Fraction(10**30 + 1))


def test_shrinks_under_subdivision_and_intersects() -> None:
    """x^2 - x on [0, 1]: overestimated whole, sharper in halves, and the hull of the parts still holds the truth."""

    def function(x: Interval) -> Interval:
        return x * x - x

    widths = []
    for parts in (1, 2, 8, 64):
        ends = np.linspace(0, 1, parts + 1)
        pieces = function(Interval(ends[:-1], ends[1:]))
        assert pieces.low.min() <= -0.25
        assert pieces.high.max() >= 0
        widths.append(pieces.high.max() - pieces.low.min())
    assert all(b < a for a, b in itertools.pairwise(widths))
    assert widths[-1] < 0.3
    a, b = Interval(np.asarray(0.0), np.asarray(2.0)), Interval(np.asarray(1.0), np.asarray(3.0))
    common = a.intersect(b)
    assert (common.low, common.high) == (1.0, 2.0)
    assert (a.hull(b).low, a.hull(b).high) == (0.0, 3.0)
    with pytest.raises(ValueError, match="low <= high"):
        a.intersect(Interval.point(5.0))


def test_bad_intervals_are_refused() -> None:
    with pytest.raises(ValueError, match="low <= high"):
        Interval(np.asarray(1.0), np.asarray(0.0))
    with pytest.raises(ValueError, match="no NaN"):
        Interval.point(math.nan)
    with pytest.raises(ValueError, match="one shape"):
        Interval(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"sqrt needs intervals within \[0, inf\)"):
        intervals.sqrt(Interval.point(-1.0))
