"""Exact matrices over one common denominator: sums and products of whole matrices in integers.

Arithmetic on ``fractions.Fraction`` takes a greatest common divisor at every operation, which is most of the time of a
proof with entries of some hundred bits. A ``RationalMatrix`` holds integers and one positive denominator; nothing is
reduced until the entries are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

from surefoot.numerics.rationals import Matrix, integers_positive_semidefinite

__all__ = ["RationalMatrix"]


@dataclass(frozen=True)
class RationalMatrix:
    """The matrix ``entries / denominator``, exactly.

    Attributes:
        entries: rows of integers.
        denominator: a positive integer.

    Example:
        >>> half = RationalMatrix.of([[Fraction(1, 2), Fraction(1, 3)]])
        >>> (half @ half.T).fractions()
        [[Fraction(13, 36)]]
    """

    entries: list[list[int]]
    denominator: int = 1

    @classmethod
    def of(cls, rows: Matrix) -> RationalMatrix:
        """A matrix given by its rational entries."""
        common = math.lcm(*(entry.denominator for row in rows for entry in row))
        return cls([[entry.numerator * (common // entry.denominator) for entry in row] for row in rows], common)

    @classmethod
    def from_floats(cls, rows: Sequence[Sequence[float]]) -> RationalMatrix:
        """The dyadic rationals that floats are."""
        return cls.of([[Fraction(float(entry)) for entry in row] for row in rows])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.entries), len(self.entries[0]) if self.entries else 0

    @property
    def T(self) -> RationalMatrix:
        """The transpose."""
        return RationalMatrix([list(column) for column in zip(*self.entries, strict=True)], self.denominator)

    def fractions(self) -> list[list[Fraction]]:
        """The entries in lowest terms."""
        return [[Fraction(entry, self.denominator) for entry in row] for row in self.entries]

    def entry(self, row: int, column: int) -> Fraction:
        """One entry in lowest terms."""
        return Fraction(self.entries[row][column], self.denominator)

    def part(self, rows: slice, columns: slice) -> RationalMatrix:
        """A block."""
        return RationalMatrix([row[columns] for row in self.entries[rows]], self.denominator)

    def over(self, below: RationalMatrix) -> RationalMatrix:
        """The two stacked, this one above."""
        common = math.lcm(self.denominator, below.denominator)
        return RationalMatrix([*self._at(common), *below._at(common)], common)

    def _at(self, denominator: int) -> list[list[int]]:
        factor = denominator // self.denominator
        return self.entries if factor == 1 else [[factor * entry for entry in row] for row in self.entries]

    def __matmul__(self, other: RationalMatrix) -> RationalMatrix:
        if self.shape[1] != other.shape[0]:
            raise ValueError(f"shapes {self.shape} and {other.shape} do not fit together")
        columns = list(zip(*other.entries, strict=True))
        product = [[sum(map(mul, row, column)) for column in columns] for row in self.entries]
        return RationalMatrix(product, self.denominator * other.denominator)

    def __add__(self, other: RationalMatrix) -> RationalMatrix:
        if self.shape != other.shape:
            raise ValueError(f"expected matrices of one shape, got {self.shape} and {other.shape}")
        common = math.lcm(self.denominator, other.denominator)
        pairs = zip(self._at(common), other._at(common), strict=True)
        return RationalMatrix([[a + b for a, b in zip(u, v, strict=True)] for u, v in pairs], common)

    def __neg__(self) -> RationalMatrix:
        return RationalMatrix([[-entry for entry in row] for row in self.entries], self.denominator)

    def __sub__(self, other: RationalMatrix) -> RationalMatrix:
        return self + (-other)

    def times(self, factor: Fraction) -> RationalMatrix:
        """Every entry times a rational number."""
        scaled = [[factor.numerator * entry for entry in row] for row in self.entries]
        return RationalMatrix(scaled, self.denominator * factor.denominator)

    def congruence(self, rows: RationalMatrix) -> RationalMatrix:
        """``rows' self rows``: this quadratic form after the substitution ``x = rows w``."""
        return rows.T @ (self @ rows)

    def trace(self) -> Fraction:
        """Sum of the diagonal."""
        return Fraction(sum(row[i] for i, row in enumerate(self.entries)), self.denominator)

    def is_positive_semidefinite(self) -> bool:
        """Proof by fraction-free ``LDL'``, or proof of the contrary.

        Raises:
            ValueError: the matrix is not symmetric.
        """
        return integers_positive_semidefinite([list(row) for row in self.entries])
