"""The inverse of an M-matrix, fast enough to be taken two hundred thousand times.

An M-matrix has positive definite leading blocks in the sense that every Schur complement is an M-matrix again, so a
block elimination needs no pivoting *between* blocks; pivoting inside the leaves is LAPACK's. That turns most of the
work of an inverse (2 d^3 flops) into plain matrix products, which run nearer to the machine's peak than `dgetri`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import lapack

Array = np.ndarray[Any, np.dtype[np.float64]]

LAPACK: Any = lapack  # its functions are made at import, unknown to type checkers

LEAF = 80
"""Blocks up to this order go to LAPACK whole: below it a Python call costs more than it saves (measured)."""


class BlockInverse:
    """Workspace for `inverse(matrix, out)` of float64 matrices of one fixed order.

    With `A = [[A11, A12], [A21, A22]]` and the Schur complement `Y^-1 = A22 - A21 A11^-1 A12`, the inverse is
    `[[A11^-1 + A11^-1 A12 Y A21 A11^-1, -A11^-1 A12 Y], [-Y A21 A11^-1, Y]]`, applied recursively.

    Args:
        order: number of rows and columns.
        leaf: largest block handed to LAPACK whole.

    References:
        Berman and Plemmons, Nonnegative Matrices in the Mathematical Sciences (1979), chapter 6: Schur complements of
        nonsingular M-matrices are nonsingular M-matrices.
    """

    def __init__(self, order: int, leaf: int = LEAF) -> None:
        self.order = order
        self.is_leaf = order <= leaf
        if self.is_leaf:
            self._lwork = int(LAPACK.dgetri_lwork(order)[0])
            return
        first = (order + 1) // 2
        second = order - first
        self._first = first
        self._head = BlockInverse(first, leaf)
        self._tail = BlockInverse(second, leaf)
        self._schur = np.empty((second, second))
        self._left = np.empty((second, first))
        self._right = np.empty((first, second))
        self._correction = np.empty((first, first))

    def __call__(self, matrix: Array, out: Array) -> bool:
        """Write the inverse of `matrix` (any strides) into `out`; False if a leaf was exactly singular.

        The contents of `matrix` may be lost.
        """
        if self.is_leaf:
            return self._lapack(matrix, out)
        split = self._first
        left, right = self._left, self._right
        upper_right, lower_left = matrix[:split, split:], matrix[split:, :split]
        head, tail, corner = out[:split, :split], out[split:, split:], out[split:, :split]
        if not self._head(matrix[:split, :split], head):
            return False
        np.matmul(lower_left, head, out=left)
        np.matmul(left, upper_right, out=self._schur)
        np.subtract(matrix[split:, split:], self._schur, out=self._schur)
        if not self._tail(self._schur, tail):
            return False
        np.matmul(head, upper_right, out=right)
        np.negative(left, out=left)
        np.matmul(tail, left, out=corner)
        np.matmul(right, corner, out=self._correction)
        np.negative(right, out=right)
        np.matmul(right, tail, out=out[:split, split:])
        head -= self._correction
        return True

    def _lapack(self, matrix: Array, out: Array) -> bool:
        # f2py copies what is not in Fortran order; what is, is factorised in place
        factors, pivots, info = LAPACK.dgetrf(matrix, overwrite_a=1)
        if info != 0:
            return False
        inverse, info = LAPACK.dgetri(factors, pivots, lwork=self._lwork, overwrite_lu=1)
        if info != 0:
            return False
        np.copyto(out, inverse)
        return True
