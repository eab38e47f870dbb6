"""A window of successive points of a method in exact numbers, and the interpolation inequalities on it.

With L = 1, over w = (xi_{k-l}, u_{k-l}, ..., u_{k+1}), the rows of the states, of the outputs y_t and of the gradients
u_t are rational, and

    q_ij = f_i - f_j - u_j (y_i - y_j) - [(u_i - u_j)^2 + m (y_i - y_j)^2 - 2 m (u_i - u_j) (y_i - y_j)] / (2 (1 - m))

is a form in (y_i, y_j, u_i, u_j) whose coefficients know nothing of the method. A weighted sum of all of them is
therefore one small matrix in (y, u), substituted once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from surefoot.descent.problem import FixedStep
from surefoot.numerics.rational_matrices import RationalMatrix

Pair = tuple[int, int]

__all__ = ["ExactWindow", "Pair", "value_balance"]

ZERO = Fraction(0)


class ExactWindow:
    """States, outputs and gradients of l + 2 successive points as exact rows over (xi_{k-l}, u_{k-l}, ...).

    Args:
        method: the method; it is rescaled to L = 1 here.
        memory: number l of past points.

    Attributes:
        size: number N of columns, n + l + 2.
        states: l + 3 matrices (n, N).
        outputs: (l + 2, N).
        gradients: (l + 2, N) rows of the identity.
        then: (N - 1, N), the storage's arguments one step later.
    """

    def __init__(self, method: FixedStep, memory: int) -> None:
        scaled = method.scaled()
        order, self.m, self.memory = method.order, scaled.m, memory
        self.order, self.size = order, order + memory + 2
        unit = [[int(i == j) for j in range(self.size)] for i in range(self.size)]
        self.gradients = RationalMatrix(unit[order:])
        A, C = RationalMatrix.of(scaled.A), RationalMatrix.of([scaled.C])
        B = RationalMatrix.of([[entry] for entry in scaled.B])
        self.states = [RationalMatrix(unit[:order])]
        for gradient in self.gradients.entries:
            self.states.append(A @ self.states[-1] + B @ RationalMatrix([gradient]))
        outputs = [C @ state for state in self.states[:-1]]
        self.outputs = outputs[0]
        for output in outputs[1:]:
            self.outputs = self.outputs.over(output)
        self.then = self.states[1].over(self.gradients.part(slice(1, None), slice(None)))

    def signals(self, points: int, columns: int) -> RationalMatrix:
        """The rows y_0, ..., y_{p-1}, u_0, ..., u_{p-1} over the first columns of w."""
        return self.outputs.part(slice(points), slice(columns)).over(self.gradients.part(slice(points), slice(columns)))

    def interpolation(self, multipliers: Mapping[Pair, Fraction], points: int, columns: int) -> RationalMatrix:
        """Quadratic part of sum multipliers_ij q_ij as a matrix over w; index ``points`` is the minimiser."""
        low, high = self.m.numerator, self.m.denominator
        common = math.lcm(*(weight.denominator for weight in multipliers.values()))
        K = [[0] * (2 * points) for _ in range(2 * points)]
        for (i, j), weight in multipliers.items():
            w = weight.numerator * (common // weight.denominator)
            # 2 (1 - m) q_ij = -2 (1 - m) u_j dy - du^2 - m dy^2 + 2 m du dy, times the denominator of m
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                if a < points and b < points:
                    K[a][b] -= sign * low * w
                    K[points + a][points + b] -= sign * high * w
                    K[a][points + b] += sign * low * w
                    K[points + a][b] += sign * low * w
            if j < points:
                for a, sign in ((i, -1), (j, 1)):
                    if a < points:
                        K[a][points + j] += sign * (high - low) * w
                        K[points + j][a] += sign * (high - low) * w
        return RationalMatrix(K, 2 * (high - low) * common).congruence(self.signals(points, columns))

    def admits(self, moments: RationalMatrix, values: Sequence[Fraction]) -> bool:
        """All interpolation inequalities hold for these second moments of w and mean values."""
        points, columns = len(values), moments.shape[0]
        S = moments.congruence(self.signals(points, columns).T)
        low, high = self.m.numerator, self.m.denominator
        common = math.lcm(S.denominator, *(value.denominator for value in values))
        factor = common // S.denominator
        f = [value.numerator * (common // value.denominator) for value in values] + [0]
        entries = [[*row[:points], 0, *row[points:], 0] for row in S.entries]
        blank = [0] * (2 * points + 2)
        entries = [*entries[:points], blank, *entries[points:], blank]

        def product(a: Pair, b: Pair, rows: int, columns: int) -> int:
            """<first difference, second difference> of two signals; the minimiser's are zero."""
            return (
                entries[rows + a[0]][columns + b[0]]
                - entries[rows + a[0]][columns + b[1]]
                - entries[rows + a[1]][columns + b[0]]
                + entries[rows + a[1]][columns + b[1]]
            )

        u, star = points + 1, points
        for i in range(points + 1):
            for j in range(points + 1):
                if i == j:
                    continue
                pair = (i, j)
                slope = product((j, star), pair, u, 0)
                bent = high * product(pair, pair, u, u) + low * product(pair, pair, 0, 0)
                bent -= 2 * low * product(pair, pair, u, 0)
                if 2 * (high - low) * (f[i] - f[j] - factor * slope) < factor * bent:
                    return False
        return True


def value_balance(multipliers: Mapping[Pair, Fraction], points: int) -> list[Fraction]:
    """Coefficient of each function value in sum multipliers_ij q_ij; the minimiser's value is 0."""
    balance = [ZERO] * (points + 1)
    for (i, j), weight in multipliers.items():
        balance[i] += weight
        balance[j] -= weight
    return balance[:points]
