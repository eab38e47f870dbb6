"""The checker's differentiation: values, gradients and Hessians of formulas, pushed forward together in interval arithmetic.

The solver differentiates formulas symbolically; here every operation carries (value, gradient, Hessian) by Taylor's rules, so
that the two share nothing but the formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.games.expressions import Expression, Program
from surefoot.numerics import intervals
from surefoot.numerics.interval_trigonometry import cosine, sine
from surefoot.numerics.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Jet:
    """Value (c,), gradient (c, d) and Hessian (c, d, d) over c boxes; no Hessian where only first derivatives are asked for."""

    value: Interval
    gradient: Interval
    hessian: Interval | None

    def __add__(self, other: Jet) -> Jet:
        hessian = None if self.hessian is None or other.hessian is None else self.hessian + other.hessian
        return Jet(self.value + other.value, self.gradient + other.gradient, hessian)

    def __neg__(self) -> Jet:
        return Jet(-self.value, -self.gradient, None if self.hessian is None else -self.hessian)

    def __mul__(self, other: Jet) -> Jet:
        a, b = _column(self.value), _column(other.value)
        if self.hessian is None or other.hessian is None:
            return Jet(self.value * other.value, self.gradient * b + other.gradient * a, None)
        cross = _outer(self.gradient, other.gradient)
        hessian = self.hessian * _square(other.value) + other.hessian * _square(self.value) + (cross + _swap(cross))
        return Jet(self.value * other.value, self.gradient * b + other.gradient * a, hessian)

    def through(self, value: Interval, first: Interval, second: Interval) -> Jet:
        """A function of one variable with these derivatives at the jet's value."""
        if self.hessian is None:
            return Jet(value, self.gradient * _column(first), None)
        hessian = self.hessian * _square(first) + _outer(self.gradient, self.gradient) * _square(second)
        return Jet(value, self.gradient * _column(first), hessian)


def evaluate(roots: Sequence[Expression], cells: Interval, *, second: bool = True) -> list[Jet]:
    """Jets of formulas over boxes (c, d), with or without second derivatives."""
    count, d = cells.shape
    found: dict[str, Jet] = {}
    for node in Program(roots, d).order:
        found[node.key] = _apply(node, [found[a.key] for a in node.arguments], cells, count, d, second)
    return [found[root.key] for root in roots]


def _apply(node: Expression, a: list[Jet], cells: Interval, count: int, d: int, second: bool) -> Jet:
    name, n = node.operation, node.number
    if name in ("constant", "variable"):
        gradient = np.zeros((count, d))
        if name == "variable":
            gradient[:, int(n)] = 1.0
        value = cells[:, int(n)] if name == "variable" else Interval.point(np.full(count, n))
        return Jet(value, Interval.point(gradient), Interval.point(np.zeros((count, d, d))) if second else None)
    if name == "add":
        return a[0] + a[1]
    if name == "negate":
        return -a[0]
    if name == "multiply":
        return _power(a[0], 2.0) if node.arguments[0].key == node.arguments[1].key else a[0] * a[1]
    if name == "divide":
        return a[0] * _power(a[1], -1.0)
    if name == "power":
        return _power(a[0], n)
    if name in ("log_sum_exp", "softmax"):
        return _shares(a, None if name == "log_sum_exp" else int(n))
    x = a[0].value
    if name == "exp":
        value = intervals.exp(x)
        return a[0].through(value, value, value)
    if name == "log":
        return a[0].through(intervals.log(x), 1.0 / x, -(1.0 / x**2))
    if name == "sin":
        return a[0].through(sine(x), cosine(x), -sine(x))
    if name == "cos":
        return a[0].through(cosine(x), -sine(x), -cosine(x))
    if name == "tanh":
        value = intervals.tanh(x)
        slope = 1.0 - value**2
        return a[0].through(value, slope, -2.0 * value * slope)
    raise ValueError(f"the checker knows no operation {name!r}")


def _power(x: Jet, n: float) -> Jet:
    def raised(m: float) -> Interval:
        if m == 0:
            return Interval.point(np.ones_like(x.value.low))
        return x.value ** int(m) if float(m).is_integer() else intervals.power(x.value, m)

    return x.through(raised(n), n * raised(n - 1), (n * (n - 1)) * raised(n - 2) if n != 1 else 0.0 * x.value)


def _shares(a: list[Jet], which: int | None) -> Jet:
    """log-sum-exp, or one softmax share, by the derivatives of the shares."""
    stacked = Interval(np.stack([t.value.low for t in a], axis=-1), np.stack([t.value.high for t in a], axis=-1))
    shares = intervals.softmax(stacked)
    s = [shares[:, i] for i in range(len(a))]
    if which is None:
        shift = stacked.high.max(axis=-1)
        value = intervals.log(intervals.exp(stacked - Interval.point(shift[:, None])).sum(axis=-1)) + shift
        first = s
    else:
        value = s[which]
        first = [value * ((1.0 if i == which else 0.0) - s[i]) for i in range(len(a))]
    gradient = 0.0 * a[0].gradient
    for slope, t in zip(first, a, strict=True):
        gradient = gradient + t.gradient * _column(slope)
    if a[0].hessian is None:
        return Jet(value, gradient, None)
    hessian = 0.0 * a[0].hessian
    zero = 0.0 * a[0].value
    for i, t in enumerate(a):
        bent = t.through(zero, first[i], zero).hessian
        assert bent is not None
        hessian = hessian + bent
        for j, u in enumerate(a):
            hessian = hessian + _outer(t.gradient, u.gradient) * _square(_second(s, i, j, which))
    return Jet(value, gradient, hessian)


def _second(s: list[Interval], i: int, j: int, which: int | None) -> Interval:
    """Second derivative of log-sum-exp, or of the share `which`, with respect to the terms i and j."""
    if which is None:
        return s[i] * ((1.0 if i == j else 0.0) - s[j])
    k = which
    return s[k] * (((i == k) - s[i]) * ((j == k) - s[j]) - s[i] * ((1.0 if i == j else 0.0) - s[j]))


def _column(x: Interval) -> Interval:
    return x.reshape(x.shape[0], 1)


def _square(x: Interval) -> Interval:
    return x.reshape(x.shape[0], 1, 1)


def _outer(a: Interval, b: Interval) -> Interval:
    count, d = a.shape
    return a.reshape(count, d, 1) * b.reshape(count, 1, d)


def _swap(x: Interval) -> Interval:
    return Interval(np.swapaxes(x.low, 1, 2), np.swapaxes(x.high, 1, 2))
