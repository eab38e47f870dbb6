"""Arithmetic on intervals of float64, rounded outwards: every result encloses the exact one.

An `Interval` holds arrays of lower and upper ends and works elementwise with broadcasting. Sums, products, quotients
and roots are correctly rounded by the hardware, so one step to the neighbouring float makes their ends safe.
Elementary functions of numpy are not: their ends are moved by `ELEMENTARY_ULPS` units in the last place, twice the
error that numpy allows itself, and the tests compare them with 50-digit arithmetic.

Interval matrices are in ``interval_matrices.py``; exact rationals, where one needs them, in ``fractions``.

References:
    R. Moore, R. Kearfott and M. Cloud, "Introduction to interval analysis", 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ELEMENTARY_ULPS", "Interval", "exp", "log", "power", "sigmoid", "softmax", "sqrt", "tanh"]

Array = NDArray[np.float64]

ELEMENTARY_ULPS = 8
"""How far the ends of exp, log, power and tanh are moved, in units in the last place."""


@dataclass(frozen=True, eq=False)
class Interval:
    """An array of closed intervals ``[low, high]``; ends may be infinite.

    Args:
        low: lower ends.
        high: upper ends, of the same shape.

    Raises:
        ValueError: if the shapes differ, an end is NaN, or an upper end lies below its lower end.
    """

    low: Array
    high: Array

    # numpy must leave `array + interval` to the interval
    __array_ufunc__ = None

    def __post_init__(self) -> None:
        low, high = np.asarray(self.low, dtype=np.float64), np.asarray(self.high, dtype=np.float64)
        if low.shape != high.shape:
            raise ValueError(f"Interval ends must have one shape, got {low.shape} and {high.shape}.")
        if not np.all(low <= high):
            raise ValueError("Interval needs low <= high everywhere and no NaN; swap or correct the ends.")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    # ---- making and reading -------------------------------------------------------------------------------------

    @classmethod
    def point(cls, value: ArrayLike) -> Interval:
        """The degenerate interval around each float as it is stored: 0.1 means the float nearest to a tenth."""
        array = np.asarray(value, dtype=np.float64)
        return cls(array, array.copy())

    @classmethod
    def enclosing(cls, value: Fraction | int | str) -> Interval:
        """The narrowest interval around an exact rational, given as a fraction, an integer or ``"a/b"``."""
        exact = Fraction(value)
        nearest = float(exact)
        below = nearest if Fraction(nearest) <= exact else np.nextafter(nearest, -np.inf)
        above = nearest if Fraction(nearest) >= exact else np.nextafter(nearest, np.inf)
        return cls(np.asarray(below), np.asarray(above))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of intervals."""
        return self.low.shape

    @property
    def mid(self) -> Array:
        """A point inside, near the middle."""
        return np.clip(0.5 * self.low + 0.5 * self.high, self.low, self.high)

    @property
    def width(self) -> Array:
        """Upper bound of ``high - low``."""
        return _up(self.high - self.low)

    @property
    def magnitude(self) -> Array:
        """Largest absolute value in each interval."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def contains(self, value: ArrayLike) -> bool:
        """Whether all floats lie in their intervals."""
        array = np.asarray(value, dtype=np.float64)
        return bool(np.all((self.low <= array) & (array <= self.high)))

    def intersect(self, other: Interval) -> Interval:
        """The common part of two enclosures of the same quantity.

        Raises:
            ValueError: if they are disjoint, which means that one of them is not an enclosure.
        """
        return Interval(np.maximum(self.low, other.low), np.minimum(self.high, other.high))

    def hull(self, other: Interval) -> Interval:
        """The smallest interval around both."""
        return Interval(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def __getitem__(self, index: Any) -> Interval:
        return Interval(np.asarray(self.low[index]), np.asarray(self.high[index]))

    def reshape(self, *shape: int) -> Interval:
        """The same intervals in another shape."""
        return Interval(self.low.reshape(shape), self.high.reshape(shape))

    @property
    def T(self) -> Interval:
        """The transpose."""
        return Interval(self.low.T, self.high.T)

    # ---- arithmetic ---------------------------------------------------------------------------------------------

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __add__(self, other: Interval | ArrayLike) -> Interval:
        right = _lift(other)
        with np.errstate(over="ignore"):
            low, high = self.low + right.low, self.high + right.high
        return Interval(
            _down_unless(low, (self.low == 0) | (right.low == 0)),
            _up_unless(high, (self.high == 0) | (right.high == 0)),
        )

    def __sub__(self, other: Interval | ArrayLike) -> Interval:
        return self + (-_lift(other))

    def __mul__(self, other: Interval | ArrayLike) -> Interval:
        right = _lift(other)
        ends = [_product(a, b) for a in (self.low, self.high) for b in (right.low, right.high)]
        return Interval(np.minimum.reduce([low for low, _ in ends]), np.maximum.reduce([high for _, high in ends]))

    def __truediv__(self, other: Interval | ArrayLike) -> Interval:
        """The quotient; the whole line where the divisor holds 0."""
        right = _lift(other)
        regular = (right.low > 0) | (right.high < 0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            quotients = [a / b for a in (self.low, self.high) for b in (right.low, right.high)]
        zero = (self.low == 0) & (self.high == 0)
        # inf / inf is an unbounded quotient: both 0 and infinity are approached
        least = np.minimum.reduce([np.where(np.isnan(q), -np.inf, q) for q in quotients])
        most = np.maximum.reduce([np.where(np.isnan(q), np.inf, q) for q in quotients])
        low = np.where(regular, np.where(zero, 0.0, _down(least)), -np.inf)
        high = np.where(regular, np.where(zero, 0.0, _up(most)), np.inf)
        return Interval(low, high)

    def __radd__(self, other: ArrayLike) -> Interval:
        return self + other

    def __rsub__(self, other: ArrayLike) -> Interval:
        return _lift(other) - self

    def __rmul__(self, other: ArrayLike) -> Interval:
        return self * other

    def __rtruediv__(self, other: ArrayLike) -> Interval:
        return _lift(other) / self

    def __abs__(self) -> Interval:
        inside = (self.low <= 0) & (self.high >= 0)
        least = np.where(inside, 0.0, np.minimum(np.abs(self.low), np.abs(self.high)))
        return Interval(least, self.magnitude)

    def __pow__(self, exponent: int) -> Interval:
        """Integer powers, without the overestimation of repeated products over signs; see `power` for real ones."""
        if exponent < 0:
            return 1.0 / (self**-exponent)
        if exponent % 2 == 0:
            size = abs(self)
            least, most = _integer_power(size.low, exponent), _integer_power(size.high, exponent)
            return Interval(np.maximum(least.low, 0.0), most.high)
        return Interval(_integer_power(self.low, exponent).low, _integer_power(self.high, exponent).high)

    def __matmul__(self, other: Interval | ArrayLike) -> Interval:
        """Matrix product of ``(..., m, k)`` with ``(k,)`` or ``(k, n)``."""
        right = _lift(other)
        if right.low.ndim == 1:
            return (self * right).sum(axis=-1)
        left = self.reshape(*self.shape, 1)
        return (left * right).sum(axis=-2)

    def __rmatmul__(self, other: ArrayLike) -> Interval:
        return _lift(other) @ self

    def sum(self, axis: int = 0) -> Interval:
        """Sum along an axis, every partial sum rounded outwards."""
        lows, highs = np.moveaxis(self.low, axis, 0), np.moveaxis(self.high, axis, 0)
        total = Interval.point(np.zeros(lows.shape[1:]))
        for low, high in zip(lows, highs, strict=True):
            total = total + Interval(np.asarray(low), np.asarray(high))
        return total


# ---- elementary functions ---------------------------------------------------------------------------------------


def sqrt(x: Interval) -> Interval:
    """Square root.

    Raises:
        ValueError: if an interval reaches below 0.
    """
    _require_at_least_zero("sqrt", x)
    low, high = np.sqrt(x.low), np.sqrt(x.high)
    return Interval(np.maximum(_down_unless(low, low == 0), 0.0), _up_unless(high, high == 0))


def exp(x: Interval) -> Interval:
    """Exponential; overflow gives an upper end of infinity."""
    return _monotone(np.exp, x, least=0.0)


def log(x: Interval) -> Interval:
    """Natural logarithm; ``-inf`` at 0.

    Raises:
        ValueError: if an interval reaches below 0.
    """
    _require_at_least_zero("log", x)
    return _monotone(np.log, x)


def power(x: Interval, exponent: float) -> Interval:
    """``x ** exponent`` for ``x >= 0`` and a real exponent.

    Raises:
        ValueError: if an interval reaches below 0.
    """
    _require_at_least_zero("power", x)
    if exponent < 0:
        return 1.0 / power(x, -exponent)

    def raised(values: Array) -> Array:
        return np.power(values, exponent)

    return _monotone(raised, x, least=0.0)


def tanh(x: Interval) -> Interval:
    """Hyperbolic tangent."""
    return _monotone(np.tanh, x, least=-1.0, most=1.0)


def sigmoid(x: Interval) -> Interval:
    """Logistic function ``1 / (1 + exp(-x))``.

    Built on `exp`: scipy's own loses all digits where the result is subnormal.
    """
    low, high = _sigmoid_of_point(x.low), _sigmoid_of_point(x.high)
    return Interval(np.maximum(low.low, 0.0), np.minimum(high.high, 1.0))


def softmax(x: Interval) -> Interval:
    """Softmax along the last axis, sharp: each share grows with its own logit and falls with the others."""
    shares: list[Interval] = []
    for i in range(x.shape[-1]):
        others = np.arange(x.shape[-1]) != i
        rest_high = exp(Interval.point(x.high[..., others]) - Interval.point(x.low[..., i : i + 1])).sum(axis=-1)
        rest_low = exp(Interval.point(x.low[..., others]) - Interval.point(x.high[..., i : i + 1])).sum(axis=-1)
        shares.append(Interval((1.0 / (1.0 + rest_high)).low, np.minimum((1.0 / (1.0 + rest_low)).high, 1.0)))
    return Interval(np.stack([s.low for s in shares], axis=-1), np.stack([s.high for s in shares], axis=-1))


# ---- rounding -----------------------------------------------------------------------------------------------------


def _lift(value: Interval | ArrayLike) -> Interval:
    return value if isinstance(value, Interval) else Interval.point(value)


def _down(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.nextafter(x, -np.inf)


def _up(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.nextafter(x, np.inf)


def _down_unless(x: Array, exact: NDArray[np.bool_]) -> Array:
    return np.where(exact, x, _down(x))


def _up_unless(x: Array, exact: NDArray[np.bool_]) -> Array:
    return np.where(exact, x, _up(x))


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """Lower and upper bound of a product of ends; a zero factor gives an exact 0, also against infinity."""
    zero = (a == 0) | (b == 0)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        value = np.where(zero, 0.0, a * b)
    return _down_unless(value, zero), _up_unless(value, zero)


def _integer_power(base: Array, exponent: int) -> Interval:
    """Powers of points by repeated squaring; on points interval products do not overestimate."""
    result, factor = Interval.point(np.ones_like(base)), Interval.point(base)
    while exponent:
        if exponent % 2:
            result = result * factor
        exponent //= 2
        if exponent:
            factor = factor * factor
    return result


def _monotone(
    function: Callable[[Array], Array], x: Interval, least: float = -np.inf, most: float = np.inf
) -> Interval:
    """An increasing function evaluated at the ends, moved outwards and clipped to its range."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        low, high = function(x.low), function(x.high)
    low_room = np.where(np.isfinite(low), ELEMENTARY_ULPS * np.spacing(np.abs(low)), 0.0)
    high_room = np.where(np.isfinite(high), ELEMENTARY_ULPS * np.spacing(np.abs(high)), 0.0)
    with np.errstate(over="ignore"):
        # an end that overflowed only tells that the exact value is at least the largest float
        low = np.where(np.isposinf(low) & np.isfinite(x.low), np.finfo(np.float64).max, low - low_room)
        return Interval(np.clip(_down(low), least, most), np.clip(_up(high + high_room), least, most))


def _sigmoid_of_point(x: Array) -> Interval:
    """Whichever of ``e^x / (1 + e^x)`` and ``1 / (1 + e^-x)`` has the exponential that cannot overflow."""
    small = exp(Interval.point(-np.abs(x)))
    left, right = small / (1.0 + small), 1.0 / (1.0 + small)
    return Interval(np.where(x < 0, left.low, right.low), np.where(x < 0, left.high, right.high))


def _require_at_least_zero(name: str, x: Interval) -> None:
    if not np.all(x.low >= 0):
        raise ValueError(f"{name} needs intervals within [0, inf), the least end is {x.low.min()}.")
