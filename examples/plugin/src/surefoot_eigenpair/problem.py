"""The matrix a user brings, read and validated, and what its eigenpair is."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surefoot.records.fingerprint import fingerprint

Array = NDArray[np.float64]

UNIT = float(np.finfo(np.float64).eps) / 2
"""Unit roundoff of double precision."""

SHRINKS = 0.999999
"""A factor up to this counts as shrinking; a stalled iteration has 1, give or take rounding."""


@dataclass(frozen=True)
class Eigenpair:
    """An approximate eigenpair.

    Args:
        value: the Rayleigh quotient of the vector, in units of the matrix.
        vector: (n,) of unit length; its component of largest magnitude is positive.
    """

    value: float
    vector: Array


@dataclass(frozen=True)
class Symmetric:
    """Find the eigenvalue of largest magnitude of a real symmetric matrix, and its eigenvector.

    Args:
        matrix: A (n, n), n >= 2, finite and exactly symmetric.
        accuracy: the residual |A v - theta v| asked for, relative to the Frobenius norm of A.
    """

    matrix: Array
    accuracy: float = 1e-8

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                f"the matrix has shape {matrix.shape}; expected a square one, (n, n). For a table of samples, "
                "give its covariance or Gram matrix; for a file, check that it has no header and no index column"
            )
        if matrix.shape[0] < 2:
            raise ValueError(
                f"the matrix is {matrix.shape[0]} x {matrix.shape[0]}; expected at least 2 x 2. "
                "The eigenvalue of a 1 x 1 matrix is its entry; nothing is left to compute"
            )
        if matrix.dtype.kind not in "buif":
            raise ValueError(
                f"the matrix has type {matrix.dtype}; expected real numbers. Convert it, for instance with "
                "matrix.astype(float); a complex Hermitian matrix is not supported"
            )
        matrix = np.array(matrix, dtype=np.float64)
        bad = np.argwhere(~np.isfinite(matrix))
        if len(bad):
            i, j = (int(index) for index in bad[0])
            raise ValueError(
                f"the matrix holds {len(bad)} NaN or infinite entries, the first in row {i + 1}, column {j + 1}; "
                "expected finite numbers. Fill them in, or drop their rows together with the same columns"
            )
        gaps = np.abs(matrix - matrix.T)
        if gaps.any():
            i, j = (int(index) for index in np.unravel_index(int(gaps.argmax()), gaps.shape))
            raise ValueError(
                f"the matrix is not symmetric: entry ({i + 1}, {j + 1}) is {matrix[i, j]!s} but entry ({j + 1}, {i + 1}) "
                f"is {matrix[j, i]!s}; expected A equal to A.T exactly. If they differ by rounding only, give "
                "(A + A.T) / 2; if A is truly asymmetric, this card is not for it"
            )
        if not np.isfinite(np.square(matrix).sum()):
            raise ValueError(
                f"the largest entry is {np.abs(matrix).max():.3g}, and the sum of squares overflows; "
                "expected entries below about 1e150. Rescale the matrix"
            )
        least = 8 * allowance(len(matrix))
        if not least <= self.accuracy < 1:
            raise ValueError(
                f"accuracy is {self.accuracy}; expected a number from {least:.1e} (rounding, for a matrix of this size) "
                "to below 1. The default is 1e-8"
            )
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @property
    def norm(self) -> float:
        """The Frobenius norm of A, which bounds every eigenvalue."""
        return float(np.linalg.norm(self.matrix))

    def fingerprint(self) -> str:
        return fingerprint(self.matrix, self.accuracy)


def allowance(size: int) -> float:
    """The rounding error of a residual or a deflation of a matrix of this size, relative to its Frobenius norm.

    A product of length n is off by at most (n + 1) u |a| |b| (u: unit roundoff); the rest of a residual adds a few u,
    its norm and the vector's add n u each. The factor 4 covers their sum with room to spare, barring underflow.
    """
    return 4 * (size + 8) * UNIT


def read_matrix(path: Path) -> Array:
    """Read a matrix from a ``.npy`` file, or from a CSV of numbers without header.

    Raises:
        ValueError: where the file holds anything else; says where, what was expected and what to do.
    """
    if path.suffix.lower() == ".npy":
        try:
            return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(
                f"{path.name} is not a readable .npy array ({error}); expected one array of numbers, as numpy.save writes it"
            ) from error
    rows: list[list[float]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for cells in csv.reader(file):
            if any(cell.strip() for cell in cells):
                rows.append([_number(cell, len(rows) + 1, column + 1, path.name) for column, cell in enumerate(cells)])
    if not rows:
        raise ValueError(f"{path.name} is empty; expected the rows of a square matrix, one a line")
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{path.name}: row {index + 1} has {len(row)} cells and row 1 has {len(rows[0])}; "
                "expected the same number in each. Write missing entries as 0 if that is what they are"
            )
    return np.array(rows, dtype=np.float64)


def _number(cell: str, row: int, column: int, name: str) -> float:
    try:
        return float(cell)
    except ValueError:
        what = f"the text {cell.strip()[:40]!r}" if cell.strip() else "nothing"
        raise ValueError(
            f"{name}: row {row}, column {column} holds {what}; expected a number such as 1.5. "
            "Remove header lines and label columns, and use a point for decimals and a comma between cells"
        ) from None
