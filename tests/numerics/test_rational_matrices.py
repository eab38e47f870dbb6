"""Matrices over one denominator against plain fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.numerics.rational_matrices import RationalMatrix
from surefoot.numerics.rationals import is_positive_semidefinite, matmul, transpose

NUMBERS = st.fractions(min_value=-5, max_value=5, max_denominator=60)
SQUARE = st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=3, max_size=3)


@given(SQUARE, SQUARE, NUMBERS)
def test_operations_are_those_of_fractions(a, b, factor) -> None:
    A, B = RationalMatrix.of(a), RationalMatrix.of(b)
    assert A.fractions() == a
    assert (A @ B).fractions() == matmul(a, b)
    assert (A + B).fractions() == [[x + y for x, y in zip(u, v, strict=True)] for u, v in zip(a, b, strict=True)]
    assert (A - A.times(Fraction(1))).fractions() == [[0] * 3] * 3
    assert A.times(factor).fractions() == [[factor * x for x in row] for row in a]
    assert A.congruence(B).fractions() == matmul(transpose(b), matmul(a, b))
    assert A.over(B).fractions() == [*a, *b]
    assert A.part(slice(1, 3), slice(2)).fractions() == [row[:2] for row in a[1:3]]
    assert A.trace() == sum(a[i][i] for i in range(3))
    assert A.T.entry(0, 2) == a[2][0]


@given(SQUARE, st.integers(0, 8))
def test_signs_are_those_of_eigenvalues(a, shift: int) -> None:
    symmetric = [[a[min(i, j)][max(i, j)] + (shift if i == j else 0) for j in range(3)] for i in range(3)]
    found = RationalMatrix.of(symmetric).is_positive_semidefinite()
    assert found == is_positive_semidefinite(symmetric)
    smallest = np.linalg.eigvalsh([[float(x) for x in row] for row in symmetric])[0]
    if abs(smallest) > 1e-9:
        assert found == (smallest > 0)


def test_floats_are_the_dyadic_numbers_they_are() -> None:
    assert RationalMatrix.from_floats([[0.1, 0.5]]).fractions() == [[Fraction(0.1), Fraction(1, 2)]]


def test_shapes_that_do_not_fit_are_named() -> None:
    A, B = RationalMatrix([[1, 2]]), RationalMatrix([[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="do not fit together"):
        _ = B @ A
    with pytest.raises(ValueError, match="one shape"):
        _ = A + B
    with pytest.raises(ValueError, match="symmetric"):
        B.is_positive_semidefinite()
