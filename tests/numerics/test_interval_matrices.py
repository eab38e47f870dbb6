"""Matrix proofs against exact rational arithmetic and matrices whose spectra are known in closed form."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from surefoot.numerics.interval_matrices import (
    eigenvalue_bounds,
    eigenvalues_2x2,
    find_m_matrix_witness,
    is_positive_definite_2x2,
    proved_m_matrix_margin,
    spectral_norm_bound,
    spectral_radius_bounds,
)
from surefoot.numerics.intervals import Interval

Array = NDArray[np.float64]
nonnegative = hnp.arrays(np.float64, (3, 3), elements=st.floats(0, 10))


def exact_product(matrix: Array, vector: Array) -> list[Fraction]:
    return [sum((Fraction(a) * Fraction(b) for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


@settings(max_examples=150, deadline=None)
@given(nonnegative, hnp.arrays(np.float64, 3, elements=st.floats(0.1, 20)))
def test_m_matrix_witness_proves_what_it_says(coupling: Array, diagonal: Array) -> None:
    np.fill_diagonal(coupling, 0)
    K = np.diag(diagonal) - coupling
    witness = find_m_matrix_witness(K)
    best = np.linalg.eigvals(K).real.min()
    if witness is None:
        assert best <= 1e-3 * np.abs(K).max()
        return
    assert witness.margin > 0
    assert witness.margin <= best + 1e-9 * np.abs(K).max()
    for image, entry in zip(exact_product(K, witness.vector), witness.vector, strict=True):
        assert image >= Fraction(witness.margin) * Fraction(entry)


def test_two_player_margin_is_the_closed_form() -> None:
    """mu = 1 each, couplings 10 and 0.05: margin 1 - sqrt(0.5), weights (1, 200)."""
    K = np.array([[1.0, -10.0], [-0.05, 1.0]])
    witness = find_m_matrix_witness(K)
    assert witness is not None
    assert witness.margin == pytest.approx(1 - np.sqrt(0.5), abs=1e-12)
    assert (witness.vector[0] / witness.vector[1]) ** 2 == pytest.approx(200, rel=1e-9)
    assert proved_m_matrix_margin(K, np.array([1.0, 1.0])) < 0


def test_reducible_and_singular_cases() -> None:
    chain = np.array([[1.0, 0.0, 0.0], [-5.0, 2.0, 0.0], [0.0, -7.0, 3.0]])
    witness = find_m_matrix_witness(chain)
    assert witness is not None
    assert 0.9 <= witness.margin <= 1
    assert find_m_matrix_witness(np.array([[1.0, -1.0], [-1.0, 1.0]])) is None
    diagonal = find_m_matrix_witness(np.diag([3.0, 2.0]))
    assert diagonal is not None
    assert diagonal.margin == pytest.approx(2, rel=1e-3)


def test_interval_matrices_are_proved_for_the_worst_member() -> None:
    low = np.array([[1.0, -0.4], [-0.4, 0.8]])
    K = Interval(low, low + np.array([[0.5, 0.3], [0.2, 0.9]]))
    witness = find_m_matrix_witness(K)
    assert witness is not None
    assert witness.margin == pytest.approx(np.linalg.eigvalsh(low).min(), rel=1e-12)
    with pytest.raises(ValueError, match="off-diagonal entries <= 0"):
        proved_m_matrix_margin(np.array([[1.0, 0.1], [0.0, 1.0]]), np.ones(2))
    with pytest.raises(ValueError, match="positive and finite"):
        proved_m_matrix_margin(np.eye(2), np.array([1.0, 0.0]))


@settings(max_examples=150, deadline=None)
@given(nonnegative)
def test_spectral_radius_is_enclosed(A: Array) -> None:
    lower, upper = spectral_radius_bounds(A)
    rho = np.abs(np.linalg.eigvals(A)).max()
    room = 1e-9 * (1 + A.max())  # the dense eigenvalues of defective matrices are off by about that
    assert lower <= rho + 10 * np.cbrt(np.finfo(float).eps) * (1 + A.max())
    assert upper >= rho - room
    # characteristic polynomial: beyond the upper bound it has no sign change, in exact arithmetic
    if A.min() > 0.01:
        assert upper - lower <= 1e-9 * rho


def test_spectral_radius_of_known_matrices() -> None:
    fibonacci = np.array([[1.0, 1.0], [1.0, 0.0]])
    golden = (1 + np.sqrt(5)) / 2
    lower, upper = spectral_radius_bounds(fibonacci)
    assert lower <= golden <= upper
    assert upper - lower < 1e-14
    # both bounds are strict proofs: x^2 - x - 1 changes sign between them, exactly
    assert Fraction(lower) ** 2 - Fraction(lower) - 1 < 0 < Fraction(upper) ** 2 - Fraction(upper) - 1
    nilpotent = spectral_radius_bounds(np.array([[0.0, 1.0], [0.0, 0.0]]))
    assert nilpotent[0] == 0
    assert nilpotent[1] <= 1e-4
    assert spectral_radius_bounds(np.zeros((2, 2)))[1] <= 1e-300
    with pytest.raises(ValueError, match="non-negative"):
        spectral_radius_bounds(np.array([[-1.0]]))


@pytest.mark.parametrize("n", [2, 5, 20])
def test_eigenvalue_bounds_are_sharp_and_sound(n: int) -> None:
    """The path graph's Laplacian has eigenvalues 2 - 2 cos(pi k / n)."""
    laplacian = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    laplacian[0, 0] = laplacian[-1, -1] = 1
    low, high = eigenvalue_bounds(laplacian)
    largest = 2 - 2 * np.cos(np.pi * (n - 1) / n)
    assert -1e-12 <= low <= 0
    assert largest <= high * (1 + 1e-16) <= largest + 1e-12


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, (4, 4), elements=st.floats(-5, 5)), st.floats(0, 0.5), st.integers(0, 2**31))
def test_eigenvalue_and_norm_bounds_hold_for_members(A: Array, radius: float, seed: int) -> None:
    centre = (A + A.T) / 2
    box = Interval(centre - radius, centre + radius)
    low, high = eigenvalue_bounds(box)
    norm = spectral_norm_bound(Interval(A - radius, A + radius))
    generator = np.random.default_rng(seed)
    for _ in range(20):
        shift = np.clip(radius * generator.uniform(-1.2, 1.2, (4, 4)), -radius, radius)
        values = np.linalg.eigvalsh(centre + np.tril(shift) + np.tril(shift, -1).T)
        assert low - 1e-12 <= values.min()
        assert values.max() <= high + 1e-12
        assert np.linalg.norm(A + shift, 2) <= norm + 1e-12


def test_eigenvalue_bounds_of_a_wide_box_reach_its_extreme_members() -> None:
    """Around 2 I with radius 0.3 everywhere the extreme members are 2 I +- 0.3 ones: eigenvalues 2 +- 1.2."""
    low, high = eigenvalue_bounds(Interval(2 * np.eye(4) - 0.3, 2 * np.eye(4) + 0.3))
    assert low == pytest.approx(0.8, abs=1e-12)
    assert high == pytest.approx(3.2, abs=1e-12)
    assert low <= np.linalg.eigvalsh(2 * np.eye(4) - 0.3).min() + 1e-15
    assert high >= np.linalg.eigvalsh(2 * np.eye(4) + 0.3).max() - 1e-15


def test_spectral_norm_bound_is_sharp() -> None:
    A = np.random.default_rng(0).normal(size=(7, 3))
    exact = np.linalg.norm(A, 2)
    assert exact <= spectral_norm_bound(A) <= exact * (1 + 1e-12)
    assert spectral_norm_bound(A.T) == pytest.approx(exact, rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5))
def test_two_by_two_forms(a: float, b: float, c: float) -> None:
    A, B, C = (Interval.point(v) for v in (a, b, c))
    small, large = eigenvalues_2x2(A, B, C)
    # lambda^2 - (a + c) lambda + (a c - b^2) changes sign over each enclosure, exactly
    trace = Fraction(a) + Fraction(c)
    determinant = Fraction(a) * Fraction(c) - Fraction(b) ** 2

    def characteristic(x: float) -> Fraction:
        return Fraction(x) ** 2 - trace * Fraction(x) + determinant

    assert characteristic(float(small.low)) >= 0
    assert characteristic(float(large.high)) >= 0
    assert Fraction(float(small.low)) <= trace / 2 <= Fraction(float(large.high))
    decided = is_positive_definite_2x2(A, B, C)
    truth = a > 0 and determinant > 0
    assert decided is None or decided == truth
    if abs(determinant) > Fraction(1, 10**9) and abs(a) > 1e-9:
        assert decided == truth


def test_two_by_two_is_undecided_only_across_the_boundary() -> None:
    a = Interval(np.asarray(0.9), np.asarray(1.1))
    assert is_positive_definite_2x2(a, Interval.point(1.0), a) is None
    assert is_positive_definite_2x2(a, Interval.point(0.5), a) is True
    assert is_positive_definite_2x2(a, Interval.point(1.2), a) is False
