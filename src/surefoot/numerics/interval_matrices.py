"""Proofs about small matrices by outward-rounded arithmetic: M-matrices, spectral radii, eigenvalue bounds.

Each proof has two halves. Finding a witness uses ordinary floating point and may fail; checking it uses intervals
and is valid whatever the finder did. A checker needs only the second half.

References:
    A. Berman and R. Plemmons, "Nonnegative matrices in the mathematical sciences", 1994.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surefoot.numerics.intervals import Interval, sqrt

__all__ = [
    "MMatrixWitness",
    "eigenvalue_bounds",
    "eigenvalues_2x2",
    "find_m_matrix_witness",
    "is_positive_definite_2x2",
    "proved_m_matrix_margin",
    "spectral_norm_bound",
    "spectral_radius_bounds",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MMatrixWitness:
    """A vector ``v > 0`` with ``K v >= margin v``, proved for every matrix of an interval matrix ``K``.

    A positive margin proves that every such ``K`` with non-positive off-diagonal entries is a nonsingular M-matrix
    whose real spectrum lies right of the margin.

    Args:
        vector: ``v``, of shape ``(n,)``.
        margin: the margin, rounded downwards.
    """

    vector: Array
    margin: float


def proved_m_matrix_margin(K: Interval | Array, vector: Array) -> float:
    """Largest float ``a`` for which outward rounding proves ``K v >= a v``.

    Args:
        K: matrix ``(n, n)``; its off-diagonal entries must not be positive.
        vector: the witness ``(n,)``.

    Returns:
        ``a``, never above the exact ``min_i (K v)_i / v_i``.

    Raises:
        ValueError: if the vector is not positive and finite, or an off-diagonal entry can be positive.
    """
    matrix = _as_interval(K)
    witness = np.asarray(vector, dtype=np.float64)
    if not (np.all(witness > 0) and np.all(np.isfinite(witness))):
        raise ValueError("An M-matrix witness must be positive and finite in every entry.")
    off_diagonal = matrix.high - np.diag(np.diag(matrix.high))
    if np.any(off_diagonal > 0):
        raise ValueError("K must have off-diagonal entries <= 0; pass diag(mu) - L with L >= 0.")
    return float(np.min(((matrix @ witness) / witness).low))


def find_m_matrix_witness(K: Interval | Array) -> MMatrixWitness | None:
    """Find a witness that ``K`` is a nonsingular M-matrix, with nearly the largest margin.

    The best margin is the least real part of the spectrum; its right Perron vector attains it. Entries of that
    vector vanish for reducible matrices, so a little coupling is added for the search, never for the proof.

    Args:
        K: matrix ``(n, n)`` with non-positive off-diagonal entries.

    Returns:
        The witness, or None if no positive margin could be proved.
    """
    matrix = _as_interval(K)
    low = matrix.low
    n = low.shape[0]
    scale = max(float(np.abs(low).max()), np.finfo(np.float64).tiny)
    best: MMatrixWitness | None = None
    for coupling in (0.0, 1e-12, 1e-8, 1e-4):
        vector = _perron_vector(np.diag(np.full(n, 2 * scale)) - low + coupling * scale)
        if vector is None:
            continue
        margin = proved_m_matrix_margin(matrix, vector)
        if margin > 0 and (best is None or margin > best.margin):
            best = MMatrixWitness(vector, margin)
    return best


def spectral_radius_bounds(A: Interval | Array, vector: Array | None = None) -> tuple[float, float]:
    """Lower and upper bound of the spectral radius of a non-negative matrix, by Collatz and Wielandt.

    For every ``v > 0``: ``min_i (A v)_i / v_i <= rho(A) <= max_i (A v)_i / v_i``. The Perron vector closes the gap
    for irreducible matrices.

    Args:
        A: matrix ``(n, n)`` with entries ``>= 0``.
        vector: ``v``; found if None.

    Returns:
        The two bounds, rounded outwards.

    Raises:
        ValueError: if an entry of ``A`` can be negative, or ``vector`` is not positive.
    """
    matrix = _as_interval(A)
    if np.any(matrix.low < 0):
        raise ValueError(f"The matrix must be non-negative, its least entry is {matrix.low.min()}.")
    if vector is not None and not np.all(vector > 0):
        raise ValueError("The vector of a Collatz-Wielandt bound must be positive in every entry.")
    lowest, highest = 0.0, np.inf
    for witness in [vector] if vector is not None else _perron_candidates(matrix.high):
        ratios = (matrix @ witness) / witness
        lowest = max(lowest, float(ratios.low.min()))
        highest = min(highest, float(ratios.high.max()))
    return lowest, highest


def eigenvalue_bounds(A: Interval | Array) -> tuple[float, float]:
    """Bounds on all eigenvalues of every symmetric matrix within an interval matrix.

    Approximate eigenvectors ``V`` diagonalise ``A`` by congruence; Gershgorin's discs of ``V'AV``, divided by the
    spectrum of ``V'V``, hold all eigenvalues, whatever the quality of ``V``.

    Args:
        A: symmetric interval matrix ``(n, n)``, or floats.

    Returns:
        A lower bound of the least and an upper bound of the largest eigenvalue.
    """
    matrix = _as_interval(A)
    symmetric = 0.5 * matrix.mid + 0.5 * matrix.mid.T
    V = np.linalg.eigh(symmetric).eigenvectors
    least, most = _gershgorin(Interval.point(V.T) @ (matrix @ V))
    gram_least, gram_most = _gershgorin(Interval.point(V.T) @ V)
    if gram_least <= 0:
        return -np.inf, np.inf
    gram = Interval(np.asarray(gram_least), np.asarray(gram_most))
    # a Rayleigh quotient y'V'AVy / y'V'Vy: a negative numerator is worst over the small denominator
    return float((Interval.point(least) / gram).low), float((Interval.point(most) / gram).high)


def spectral_norm_bound(A: Interval | Array) -> float:
    """Upper bound of the spectral norm of every matrix within an interval matrix.

    The smaller of ``sqrt(lambda_max(A'A))`` and ``sqrt(|A|_1 |A|_inf)``.

    Args:
        A: interval matrix ``(m, n)``, or floats.

    Returns:
        The bound, rounded upwards.
    """
    matrix = _as_interval(A)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    square = max(eigenvalue_bounds(tall.T @ tall)[1], 0.0)
    size = Interval.point(matrix.magnitude)
    product = float((_largest(size.sum(axis=0)) * _largest(size.sum(axis=1))).high)
    return float(sqrt(Interval.point(min(square, product))).high)


def eigenvalues_2x2(a: Interval, b: Interval, c: Interval) -> tuple[Interval, Interval]:
    """Enclosures of the eigenvalues of the symmetric forms ``[[a, b], [b, c]]``, the smaller first."""
    mean, half = 0.5 * (a + c), 0.5 * (a - c)
    radius = sqrt(half**2 + b**2)
    return mean - radius, mean + radius


def is_positive_definite_2x2(a: Interval, b: Interval, c: Interval) -> bool | None:
    """Whether ``[[a, b], [b, c]]`` is positive definite: True or False for all forms inside, None if undecided.

    Decided by ``a > 0`` and ``a c - b^2 > 0``, which is sharper than the eigenvalues near singularity.
    """
    determinant = a * c - b**2
    if np.all(a.low > 0) and np.all(determinant.low > 0):
        return True
    if np.any(a.high <= 0) or np.any(c.high <= 0) or np.any(determinant.high <= 0):
        return False
    return None


def _as_interval(matrix: Interval | Array) -> Interval:
    return matrix if isinstance(matrix, Interval) else Interval.point(matrix)


def _largest(x: Interval) -> Interval:
    return Interval(np.asarray(x.low.max()), np.asarray(x.high.max()))


def _gershgorin(matrix: Interval) -> tuple[float, float]:
    centre = matrix[tuple(np.arange(matrix.shape[0]) for _ in range(2))]
    beside = matrix.magnitude - np.diag(np.diag(matrix.magnitude))
    radius = Interval.point(beside).sum(axis=1)
    return float((centre - radius).low.min()), float((centre + radius).high.max())


def _perron_vector(nonnegative: Array) -> Array | None:
    """Approximate right Perron vector, or None if it is not positive in every entry."""
    values, vectors = np.linalg.eig(nonnegative)
    vector = np.abs(np.real(vectors[:, int(np.argmax(np.real(values)))]))
    if not np.all(np.isfinite(vector)) or vector.min() <= 1e-300:
        return None
    return np.asarray(vector / vector.max(), dtype=np.float64)


def _perron_candidates(nonnegative: Array) -> list[Array]:
    scale = max(float(nonnegative.max()), np.finfo(np.float64).tiny)
    found = [_perron_vector(nonnegative + coupling * scale) for coupling in (0.0, 1e-14, 1e-10, 1e-6)]
    return [v for v in found if v is not None] or [np.ones(nonnegative.shape[0])]
