"""Exact rationals against numpy, and on matrices where floats cannot tell."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.numerics import rationals

INTEGERS = st.integers(-9, 9)


def square(size: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(INTEGERS, min_size=size, max_size=size), min_size=size, max_size=size)


@settings(max_examples=60, deadline=None)
@given(square(4), st.integers(1, 4))
def test_gram_matrices_are_semidefinite_and_stop_being_so_below_their_spectrum(rows: list, rank: int) -> None:
    factor = rationals.fraction_matrix(rows[:rank])
    gram = rationals.matmul(rationals.transpose(factor), factor)
    assert rationals.is_positive_semidefinite(gram)
    assert rationals.principal_signs_semidefinite(gram)
    assert rationals.is_positive_definite(gram) == (np.linalg.matrix_rank(np.array(rows[:rank], dtype=float)) == 4)
    lowest = np.linalg.eigvalsh(np.array([[float(x) for x in row] for row in gram]))[0]
    shift = Fraction(lowest) + Fraction(1, 1000)
    below = [[x - (shift if i == j else 0) for j, x in enumerate(row)] for i, row in enumerate(gram)]
    assert not rationals.is_positive_semidefinite(below)
    assert not rationals.principal_signs_semidefinite(below)


def test_signs_are_decided_where_floats_round() -> None:
    tiny = Fraction(1, 10**30)
    for shift, expected in ((tiny, True), (Fraction(0), True), (-tiny, False)):
        matrix = [[Fraction(1) + shift, Fraction(1)], [Fraction(1), Fraction(1)]]
        assert rationals.is_positive_semidefinite(matrix) is expected
        assert rationals.principal_signs_semidefinite(matrix) is expected
    assert not rationals.is_positive_semidefinite([[Fraction(0), Fraction(1)], [Fraction(1), Fraction(5)]])


@settings(max_examples=60, deadline=None)
@given(square(3))
def test_characteristic_polynomial_and_spectral_radius_are_numpys(rows: list) -> None:
    matrix = rationals.fraction_matrix(rows)
    ours = [float(c) for c in rationals.characteristic_polynomial(matrix)]
    np.testing.assert_allclose(ours, np.poly(np.array(rows, dtype=float)), atol=1e-8)
    radius = float(np.abs(np.linalg.eigvals(np.array(rows, dtype=float))).max())
    if radius > 0.1:
        # Defective eigenvalues of integers are known to numpy to about the cube root of its precision only.
        assert rationals.spectral_radius_at_least(matrix, Fraction(radius) * Fraction(9999, 10000))
        assert not rationals.spectral_radius_at_least(matrix, Fraction(radius) * Fraction(10001, 10000))


@settings(max_examples=40, deadline=None)
@given(square(4), st.integers(1, 3))
def test_null_space_is_exact_and_complete(rows: list, count: int) -> None:
    matrix = rationals.fraction_matrix(rows[:count])
    basis = rationals.null_space(matrix)
    assert len(basis) == 4 - np.linalg.matrix_rank(np.array(rows[:count], dtype=float))
    assert all(not any(x for (x,) in rationals.matmul(matrix, [[v] for v in vector])) for vector in basis)


def test_square_roots_are_enclosed_and_text_comes_back() -> None:
    low, high = rationals.sqrt_bounds(Fraction(2))
    assert low**2 < 2 < high**2
    assert high - low <= Fraction(1, 2**80)
    assert rationals.sqrt_bounds(Fraction(9, 4)) == (Fraction(3, 2), Fraction(3, 2))
    for value in (Fraction(-22, 7), Fraction(5)):
        assert rationals.fraction_from(rationals.fraction_text(value)) == value
    assert rationals.fraction_from("0.1") == Fraction(1, 10) != rationals.fraction_from(0.1)
    assert abs(rationals.round_to_bits(np.pi, 20) - Fraction(np.pi)) <= Fraction(1, 2**21)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "three", "1/0"])
def test_what_is_no_number_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="expected a"):
        rationals.fraction_from(bad)  # type: ignore[arg-type]
