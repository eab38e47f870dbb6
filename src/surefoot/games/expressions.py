"""Formulas of the players' costs: written once, evaluated in floats, in intervals, and differentiated symbolically.

    x = variables(2)
    cost = x[0] ** 2 / 2 + 10 * x[0] * sin(x[1])

An expression is a directed acyclic graph; equal sub-expressions share a key, so that a `Program` evaluates each once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from surefoot.numerics import intervals
from surefoot.numerics.interval_trigonometry import cosine, sine
from surefoot.numerics.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Expression:
    """A node: an operation, what it works on, and a number (a constant, an exponent, an index).

    `key` is a hash of the whole formula below it: equal keys mean equal formulas.
    """

    operation: str
    arguments: tuple[Expression, ...] = ()
    number: float = 0.0
    key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        text = " ".join([self.operation, float(self.number).hex(), *(a.key for a in self.arguments)])
        object.__setattr__(self, "key", hashlib.blake2b(text.encode(), digest_size=12).hexdigest())

    def is_constant(self, number: float | None = None) -> bool:
        """Whether it is a constant, and the one asked for."""
        return self.operation == "constant" and (number is None or self.number == number)

    def __add__(self, other: Operand) -> Expression:
        right = lift(other)
        if self.is_constant(0.0):
            return right
        return self if right.is_constant(0.0) else Expression("add", (self, right))

    def __mul__(self, other: Operand) -> Expression:
        right = lift(other)
        if self.is_constant(0.0) or right.is_constant(0.0):
            return lift(0.0)
        if self.is_constant(1.0):
            return right
        return self if right.is_constant(1.0) else Expression("multiply", (self, right))

    def __truediv__(self, other: Operand) -> Expression:
        right = lift(other)
        if self.is_constant(0.0) and not right.is_constant(0.0):
            return lift(0.0)
        return self if right.is_constant(1.0) else Expression("divide", (self, right))

    def __neg__(self) -> Expression:
        return lift(-self.number) if self.is_constant() else Expression("negate", (self,))

    def __sub__(self, other: Operand) -> Expression:
        right = lift(other)
        return self if right.is_constant(0.0) else self + (-right)

    def __pow__(self, exponent: float) -> Expression:
        """A constant power; an exponent that is no integer needs a non-negative base."""
        if not isinstance(exponent, int | float) or not math.isfinite(exponent):
            raise ValueError(
                f"the exponent is {exponent!r}; expected a finite number (write exp(y * log(x)) for x ** y)"
            )
        if exponent == 0:
            return lift(1.0)
        return self if exponent == 1 else Expression("power", (self,), float(exponent))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Operand) -> Expression:
        return lift(other) + (-self)

    def __rtruediv__(self, other: Operand) -> Expression:
        return lift(other) / self

    def __bool__(self) -> bool:
        raise TypeError("a cost may not branch on its variables; use formulas that are smooth on the region")


Operand = Expression | float | int


def lift(value: Operand) -> Expression:
    """A number as an expression; expressions as they are."""
    if isinstance(value, Expression):
        return value
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a formula holds the number {number}; expected finite numbers")
    return Expression("constant", (), number)


def variables(count: int) -> list[Expression]:
    """x_0 ... x_(count-1), the strategies of all players in one row."""
    return [Expression("variable", (), float(i)) for i in range(count)]


def exp(x: Operand) -> Expression:
    """Exponential."""
    return Expression("exp", (lift(x),))


def log(x: Operand) -> Expression:
    """Natural logarithm, of a positive formula."""
    return Expression("log", (lift(x),))


def sqrt(x: Operand) -> Expression:
    """Square root, of a positive formula."""
    return lift(x) ** 0.5


def sin(x: Operand) -> Expression:
    """Sine, in radians."""
    return Expression("sin", (lift(x),))


def cos(x: Operand) -> Expression:
    """Cosine, in radians."""
    return Expression("cos", (lift(x),))


def tanh(x: Operand) -> Expression:
    """Hyperbolic tangent."""
    return Expression("tanh", (lift(x),))


def log_sum_exp(terms: Sequence[Operand]) -> Expression:
    """log(exp(t_1) + ... + exp(t_n))."""
    return Expression("log_sum_exp", tuple(lift(t) for t in terms))


def softmax(terms: Sequence[Operand]) -> list[Expression]:
    """exp(t_i) / sum_k exp(t_k), one expression a term."""
    lifted = tuple(lift(t) for t in terms)
    return [Expression("softmax", lifted, float(i)) for i in range(len(lifted))]


def total(terms: Sequence[Operand]) -> Expression:
    """The sum of formulas."""
    result = lift(0.0)
    for term in terms:
        result = result + term
    return result


# ---- evaluation ---------------------------------------------------------------------------------------------------

Rule = Callable[[Expression, Sequence[Any]], Any]


def _float_power(node: Expression, a: Sequence[Array]) -> Array:
    return np.power(a[0], node.number)


def _interval_power(node: Expression, a: Sequence[Interval]) -> Interval:
    return a[0] ** int(node.number) if node.number.is_integer() else intervals.power(a[0], node.number)


def _stacked(parts: Sequence[Interval]) -> Interval:
    lows = np.broadcast_arrays(*(p.low for p in parts))
    highs = np.broadcast_arrays(*(p.high for p in parts))
    return Interval(np.stack(lows, axis=-1), np.stack(highs, axis=-1))


def _interval_log_sum_exp(parts: Sequence[Interval]) -> Interval:
    stacked = _stacked(parts)
    shift = stacked.high.max(axis=-1)
    spread = intervals.exp(stacked - Interval.point(shift[..., None])).sum(axis=-1)
    return intervals.log(spread) + Interval.point(shift)


FLOAT_RULES: Mapping[str, Rule] = {
    "add": lambda n, a: a[0] + a[1],
    "multiply": lambda n, a: a[0] * a[1],
    "divide": lambda n, a: a[0] / a[1],
    "negate": lambda n, a: -a[0],
    "power": _float_power,
    "exp": lambda n, a: np.exp(a[0]),
    "log": lambda n, a: np.log(a[0]),
    "sin": lambda n, a: np.sin(a[0]),
    "cos": lambda n, a: np.cos(a[0]),
    "tanh": lambda n, a: np.tanh(a[0]),
    "log_sum_exp": lambda n, a: special.logsumexp(np.stack(np.broadcast_arrays(*a), axis=-1), axis=-1),
    "softmax": lambda n, a: special.softmax(np.stack(np.broadcast_arrays(*a), axis=-1), axis=-1),
}
INTERVAL_RULES: Mapping[str, Rule] = {
    "add": lambda n, a: a[0] + a[1],
    "multiply": lambda n, a: a[0] ** 2 if n.arguments[0].key == n.arguments[1].key else a[0] * a[1],
    "divide": lambda n, a: a[0] / a[1],
    "negate": lambda n, a: -a[0],
    "power": _interval_power,
    "exp": lambda n, a: intervals.exp(a[0]),
    "log": lambda n, a: intervals.log(a[0]),
    "sin": lambda n, a: sine(a[0]),
    "cos": lambda n, a: cosine(a[0]),
    "tanh": lambda n, a: intervals.tanh(a[0]),
    "log_sum_exp": lambda n, a: _interval_log_sum_exp(a),
    "softmax": lambda n, a: intervals.softmax(_stacked(a)),
}


class Program:
    """Formulas evaluated together, every shared part once.

    Args:
        roots: the formulas.
        variables: how many variables they may use.

    Raises:
        ValueError: a formula uses a variable beyond them.
    """

    def __init__(self, roots: Sequence[Expression], variables: int) -> None:
        self.order: list[Expression] = []
        seen: set[str] = set()
        waiting = [(root, False) for root in reversed(roots)]
        while waiting:
            node, ready = waiting.pop()
            if node.key in seen:
                continue
            if ready:
                seen.add(node.key)
                self.order.append(node)
                continue
            waiting.append((node, True))
            waiting.extend((a, False) for a in node.arguments if a.key not in seen)
        beyond = [int(n.number) for n in self.order if n.operation == "variable" and n.number >= variables]
        if beyond:
            raise ValueError(f"a formula uses the variable x[{max(beyond)}], but the game has {variables} strategies")
        self.roots = tuple(roots)

    def floats(self, x: Array) -> list[Array]:
        """Values at points.

        Args:
            x: (..., d).

        Returns:
            One array (...) a formula.
        """
        with np.errstate(all="ignore"):
            return self._run(FLOAT_RULES, np.asarray, [x[..., i] for i in range(x.shape[-1])])

    def intervals(self, box: Interval) -> list[Interval]:
        """Enclosures over boxes (..., d), one interval array (...) a formula.

        Raises:
            ValueError: log or a real power of a formula that is not positive on a box.
        """
        return self._run(INTERVAL_RULES, Interval.point, [box[..., i] for i in range(box.shape[-1])])

    def _run(self, rules: Mapping[str, Rule], point: Callable[[float], Any], x: Sequence[Any]) -> list[Any]:
        found: dict[str, Any] = {}
        shares: dict[tuple[str, ...], Any] = {}  # all shares of one softmax are computed together
        for node in self.order:
            if node.operation == "softmax":
                of = tuple(a.key for a in node.arguments)
                if of not in shares:
                    shares[of] = rules["softmax"](node, [found[key] for key in of])
                found[node.key] = shares[of][..., int(node.number)]
            elif node.operation == "constant":
                found[node.key] = point(node.number)
            elif node.operation == "variable":
                found[node.key] = x[int(node.number)]
            else:
                found[node.key] = rules[node.operation](node, [found[a.key] for a in node.arguments])
        return [found[root.key] for root in self.roots]


# ---- differentiation ----------------------------------------------------------------------------------------------


class Derivatives:
    """Partial derivatives by the chain rule; repeated questions cost nothing."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Expression] = {}
        self._support: dict[str, frozenset[int]] = {}

    def __call__(self, node: Expression, index: int) -> Expression:
        """The derivative of a formula with respect to x_index."""
        if index not in self.support(node):
            return lift(0.0)
        key = (node.key, index)
        if key not in self._known:
            self._known[key] = self._rule(node, index)
        return self._known[key]

    def support(self, node: Expression) -> frozenset[int]:
        """Which variables a formula depends on."""
        if node.key not in self._support:
            own = {int(node.number)} if node.operation == "variable" else set()
            self._support[node.key] = frozenset(own.union(*(self.support(a) for a in node.arguments)))
        return self._support[node.key]

    def _rule(self, node: Expression, k: int) -> Expression:
        a = node.arguments
        if node.operation == "variable":
            return lift(1.0)
        if node.operation == "softmax":
            shares = softmax(a)
            i = int(node.number)
            return shares[i] * total(
                [((1.0 if i == j else 0.0) - s) * self(t, k) for j, (t, s) in enumerate(zip(a, shares, strict=True))]
            )
        if node.operation == "log_sum_exp":
            return total([s * self(t, k) for t, s in zip(a, softmax(a), strict=True)])
        d = [self(argument, k) for argument in a]
        if node.operation == "add":
            return d[0] + d[1]
        if node.operation == "negate":
            return -d[0]
        if node.operation == "multiply":
            return d[0] * a[1] + a[0] * d[1]
        if node.operation == "divide":
            return d[0] / a[1] - a[0] * d[1] / a[1] ** 2
        if node.operation == "power":
            return node.number * a[0] ** (node.number - 1.0) * d[0]
        outer = {
            "exp": lambda: node,
            "log": lambda: 1.0 / a[0],
            "sin": lambda: cos(a[0]),
            "cos": lambda: -sin(a[0]),
            "tanh": lambda: 1.0 - node**2,
        }[node.operation]()
        return outer * d[0]
