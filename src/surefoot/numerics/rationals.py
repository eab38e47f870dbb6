"""Exact rational arithmetic for proofs: small matrices of fractions, sign tests, spectral radii, "a/b" text.

Everything here is exact: a float is read as the dyadic rational it stands for, no operation rounds, and a
test that answers True is a proof. Matrices are lists of rows of ``fractions.Fraction`` and are meant to be
small (tens of rows): the cost grows with the cube of the size and with the length of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

Number = int | float | str | Fraction
Row = Sequence[Fraction]
Matrix = Sequence[Row]

__all__ = [
    "Matrix",
    "Number",
    "Row",
    "characteristic_polynomial",
    "elimination_pivots",
    "fraction_from",
    "fraction_matrix",
    "fraction_text",
    "identity",
    "integers_positive_semidefinite",
    "is_positive_definite",
    "is_positive_semidefinite",
    "matmul",
    "null_space",
    "principal_signs_semidefinite",
    "quadratic_form",
    "round_to_bits",
    "spectral_radius_at_least",
    "sqrt_bounds",
    "transpose",
]


def fraction_from(value: Number) -> Fraction:
    """The rational number a value stands for, exactly.

    Args:
        value: an int, a Fraction, a finite float (read as the dyadic rational it is) or a string
            ``"a/b"``, ``"a"`` or a decimal such as ``"0.1"`` (read as one tenth).

    Raises:
        ValueError: the value is not finite or the text is no rational number.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    try:
        return Fraction(value)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"expected a rational number such as '3/4' or '0.75', got {value!r}") from error


def fraction_text(value: Fraction) -> str:
    """``"a/b"`` in lowest terms (``"a"`` for an integer); ``fraction_from`` reads it back."""
    return str(value)


def fraction_matrix(rows: Iterable[Iterable[Number]]) -> list[list[Fraction]]:
    """A matrix of exact rationals from rows of floats, integers, fractions or strings.

    Raises:
        ValueError: the rows differ in length or an entry is not finite.
    """
    matrix = [[fraction_from(entry) for entry in row] for row in rows]
    if any(len(row) != len(matrix[0]) for row in matrix):
        raise ValueError("expected rows of one length")
    return matrix


def round_to_bits(value: float, bits: int) -> Fraction:
    """The multiple of ``2**-bits`` nearest to a finite float."""
    return Fraction(round(Fraction(value) * (1 << bits)), 1 << bits)


def identity(size: int) -> list[list[Fraction]]:
    """The identity matrix."""
    return [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]


def transpose(matrix: Matrix) -> list[list[Fraction]]:
    """The transpose."""
    return [list(column) for column in zip(*matrix, strict=True)]


def matmul(left: Matrix, right: Matrix) -> list[list[Fraction]]:
    """The product ``left @ right``."""
    columns = transpose(right)
    return [[_dot(row, column) for column in columns] for row in left]


def quadratic_form(matrix: Matrix, vector: Row) -> Fraction:
    """``vector' matrix vector``."""
    return _dot(vector, [_dot(row, vector) for row in matrix])


def _dot(left: Row, right: Row) -> Fraction:
    return sum((a * b for a, b in zip(left, right, strict=True) if a and b), Fraction(0))


def _integer_multiple(matrix: Matrix) -> list[list[int]]:
    """A positive multiple of the matrix with integer entries."""
    scale = math.lcm(*(entry.denominator for row in matrix for entry in row))
    return [[entry.numerator * (scale // entry.denominator) for entry in row] for row in matrix]


def elimination_pivots(matrix: Matrix) -> list[int] | None:
    """Signs (1 or 0) of the pivots of ``LDL'`` of a symmetric matrix, or None once it is proved indefinite.

    Fraction-free (Bareiss) elimination on an integer multiple, without exchanges. A zero pivot of a positive
    semidefinite matrix has a zero row, which is then passed over; a zero pivot with a non-zero row and a
    negative pivot both prove that the matrix is not positive semidefinite.

    Raises:
        ValueError: the matrix is not symmetric.

    References:
        Bareiss, Sylvester's identity and multistep integer-preserving Gaussian elimination, 1968.
    """
    return _eliminate(_integer_multiple(matrix))


def integers_positive_semidefinite(rows: list[list[int]]) -> bool:
    """``is_positive_semidefinite`` for integers; the rows are used up.

    Raises:
        ValueError: the matrix is not symmetric.
    """
    return _eliminate(rows) is not None


def _eliminate(work: list[list[int]]) -> list[int] | None:
    size = len(work)
    if any(work[i][j] != work[j][i] for i in range(size) for j in range(i)):
        raise ValueError("expected a symmetric matrix")
    signs: list[int] = []
    previous = 1
    for k in range(size):
        pivot = work[k][k]
        if pivot < 0 or (pivot == 0 and any(work[k][k + 1 :])):
            return None
        signs.append(int(pivot > 0))
        if pivot == 0:
            continue
        for i in range(k + 1, size):
            for j in range(i, size):
                work[i][j] = (pivot * work[i][j] - work[k][i] * work[k][j]) // previous
        previous = pivot
    return signs


def is_positive_semidefinite(matrix: Matrix) -> bool:
    """Proof by ``LDL'`` that ``x' matrix x >= 0`` for all x, or proof of the contrary."""
    return elimination_pivots(matrix) is not None


def is_positive_definite(matrix: Matrix) -> bool:
    """Proof by ``LDL'`` that ``x' matrix x > 0`` for all x != 0, or proof of the contrary."""
    signs = elimination_pivots(matrix)
    return signs is not None and all(signs)


def characteristic_polynomial(matrix: Matrix) -> list[Fraction]:
    """Coefficients ``c_0 = 1, c_1, ..., c_n`` of ``det(z I - M) = sum c_k z^(n-k)`` (Faddeev-LeVerrier)."""
    size = len(matrix)
    coefficients = [Fraction(1)]
    product = [[Fraction(0)] * size for _ in range(size)]
    for k in range(1, size + 1):
        shifted = [[product[i][j] + (coefficients[-1] if i == j else 0) for j in range(size)] for i in range(size)]
        product = matmul(matrix, shifted)
        coefficients.append(-sum((product[i][i] for i in range(size)), Fraction(0)) / k)
    return coefficients


def principal_signs_semidefinite(matrix: Matrix) -> bool:
    """Proof that a symmetric matrix is positive semidefinite by the signs of its characteristic polynomial.

    A second road beside ``is_positive_semidefinite``: all roots are real, and by Descartes' rule none is
    negative exactly when ``(-1)^k c_k >= 0`` for every k.
    """
    return all(coefficient * (-1) ** k >= 0 for k, coefficient in enumerate(characteristic_polynomial(matrix)))


def spectral_radius_at_least(matrix: Matrix, radius: Fraction) -> bool:
    """Proof that some eigenvalue has modulus >= radius, or proof that all are smaller (Schur-Cohn).

    The roots of ``p(z) = z^n + a_1 z^(n-1) + ... + a_n`` are all inside the unit circle exactly when
    |a_n| < 1 and the polynomial ``(p(z) - a_n z^n p(1/z)) / z`` of one degree less has the same property.

    Args:
        matrix: a square matrix (n, n).
        radius: a positive rational.
    """
    coefficients = characteristic_polynomial([[entry / radius for entry in row] for row in matrix])
    while len(coefficients) > 1:
        lead, last = coefficients[0], coefficients[-1]
        if abs(last) >= abs(lead):
            return True
        coefficients = [
            lead * forward - last * backward
            for forward, backward in zip(coefficients[:-1], coefficients[:0:-1], strict=True)
        ]
    return False


def null_space(matrix: Matrix) -> list[list[Fraction]]:
    """A basis of ``{x : matrix x = 0}``, one vector a free column, by exact Gauss-Jordan elimination."""
    work = [list(row) for row in matrix]
    columns = len(work[0])
    pivots: list[int] = []
    for column in range(columns):
        row = len(pivots)
        source = next((i for i in range(row, len(work)) if work[i][column]), None)
        if source is None:
            continue
        work[row], work[source] = work[source], work[row]
        lead = work[row][column]
        work[row] = [entry / lead for entry in work[row]]
        for i in range(len(work)):
            factor = work[i][column]
            if i != row and factor:
                work[i] = [a - factor * b for a, b in zip(work[i], work[row], strict=True)]
        pivots.append(column)
    basis: list[list[Fraction]] = []
    for free in (column for column in range(columns) if column not in pivots):
        vector = [Fraction(0)] * columns
        vector[free] = Fraction(1)
        for row, column in enumerate(pivots):
            vector[column] = -work[row][free]
        basis.append(vector)
    return basis


def sqrt_bounds(value: Fraction, bits: int = 80) -> tuple[Fraction, Fraction]:
    """Rationals ``low <= sqrt(value) <= high`` with ``high - low <= 2**-bits``.

    Raises:
        ValueError: the value is negative.
    """
    if value < 0:
        raise ValueError(f"expected a non-negative number under the root, got {value}")
    scaled = (value.numerator << (2 * bits)) // value.denominator
    root = math.isqrt(scaled)
    low = Fraction(root, 1 << bits)
    return (low, low) if low * low == value else (low, Fraction(root + 1, 1 << bits))
