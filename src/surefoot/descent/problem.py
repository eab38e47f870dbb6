"""What the accelerated-methods domain reasons about: a fixed-step first-order method as an exact linear
system.

    xi_{k+1} = A xi_k + B u_k,   y_k = C xi_k,   u_k = grad f(y_k),   f in F_{m,L},

scalar per coordinate (the same A, B, C act on every coordinate of x). F_{m,L} is the class of m-strongly
convex functions with L-Lipschitz gradient. The entries are exact rationals, so that a proof is about the
numbers that run and not about an idealised neighbour of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from surefoot.numerics.rationals import Number, fraction_from, fraction_matrix, fraction_text

if TYPE_CHECKING:
    from surefoot.core.problem import Objective
    from surefoot.data.linear_model import LinearModel

Array = npt.NDArray[np.float64]

__all__ = ["AccelerationProblem", "FixedStep", "check_class", "read_method"]

# An eigenvalue this near to 1 is read as a rounded 1, and the matrix is then repaired exactly.
EIGENVALUE_TOLERANCE = 1e-9
LARGEST_STATE = 8


@dataclass(frozen=True)
class FixedStep:
    """A fixed-step first-order method on the class F_{m,L}, in exact rationals.

    Build it with ``from_arrays``, ``from_json`` or ``momentum.fixed_step``.

    Attributes:
        A: (n, n) state matrix.
        B: (n,) input column.
        C: (n,) output row.
        m: strong convexity, 0 < m < L.
        L: smoothness.
        fixed_point: (n,) vector e with A e = e and C e = 1: at a minimiser x* the state rests at e x*.
        rounding: largest change of an entry of A or C that was needed to make the fixed point exact.
        name: for people.
    """

    A: tuple[tuple[Fraction, ...], ...]
    B: tuple[Fraction, ...]
    C: tuple[Fraction, ...]
    m: Fraction
    L: Fraction
    fixed_point: tuple[Fraction, ...]
    rounding: float = 0.0
    name: str = "fixed-step method"

    @classmethod
    def from_arrays(cls, A: Any, B: Any, C: Any, m: Number, L: Number, name: str = "fixed-step method") -> FixedStep:
        """Check a method given as matrices and make its fixed point exact.

        Floats are read as the dyadic rationals they are. Where rounding has moved the eigenvalue 1 of A or
        the value C e = 1 by a few units in the last place, A and C get the smallest rank-one correction that
        restores both; its size is kept in ``rounding``.

        Args:
            A: (n, n) entries: floats, ints or strings "a/b".
            B: (n,) or (n, 1).
            C: (n,) or (1, n).
            m: strong convexity, in units of f per x^2.
            L: smoothness, same units.
            name: shown in reports.

        Raises:
            ValueError: wrong shapes, non-finite entries, m <= 0, m >= L, or no fixed point at a stationary
                point of f.
        """
        rows = fraction_matrix(_as_rows(A, "A"))
        column = [fraction_from(entry) for entry in _as_vector(B, "B")]
        output = [fraction_from(entry) for entry in _as_vector(C, "C")]
        size = len(rows)
        if not 1 <= size <= LARGEST_STATE or any(len(row) != size for row in rows):
            raise ValueError(
                f"A must be square with 1 to {LARGEST_STATE} rows, got {size} x {len(rows[0]) if rows else 0}"
            )
        if len(column) != size or len(output) != size:
            raise ValueError(
                f"B and C must have one entry for each of the {size} states, got {len(column)} and {len(output)}"
            )
        if not any(column):
            raise ValueError("B is zero: the method never uses the gradient")
        low, high = check_class(m, L)
        point = _near_fixed_point(rows, output)
        exact_rows, exact_output = _make_exact(rows, output, point)
        moved = [
            abs(new - old)
            for new_row, old_row in zip([*exact_rows, exact_output], [*rows, output], strict=True)
            for new, old in zip(new_row, old_row, strict=True)
        ]
        return cls(
            A=tuple(map(tuple, exact_rows)),
            B=tuple(column),
            C=tuple(exact_output),
            m=low,
            L=high,
            fixed_point=tuple(point),
            rounding=float(max(moved)),
            name=name,
        )

    @property
    def order(self) -> int:
        """Number n of states a coordinate."""
        return len(self.B)

    @property
    def condition(self) -> float:
        """Condition number kappa = L / m of the class."""
        return float(self.L / self.m)

    def scaled(self) -> FixedStep:
        """The same method in units where L = 1: B times L, m divided by L. Rates do not change."""
        return replace(self, B=tuple(entry * self.L for entry in self.B), m=self.m / self.L, L=Fraction(1))

    def with_condition(self, kappa: float) -> FixedStep:
        """The same method on the class with this condition number: L stays, m = L / kappa."""
        low, high = check_class(self.L / fraction_from(kappa), self.L)
        return replace(self, m=low, L=high)

    def arrays(self) -> tuple[Array, Array, Array]:
        """A (n, n), B (n,), C (n,) rounded to floats."""
        return (
            np.array([[float(entry) for entry in row] for row in self.A]),
            np.array([float(entry) for entry in self.B]),
            np.array([float(entry) for entry in self.C]),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as text "a/b", for a method file or a certificate."""
        return {
            "name": self.name,
            "A": [[fraction_text(entry) for entry in row] for row in self.A],
            "B": [fraction_text(entry) for entry in self.B],
            "C": [fraction_text(entry) for entry in self.C],
            "m": fraction_text(self.m),
            "L": fraction_text(self.L),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FixedStep:
        """Read the form of ``to_json``; numbers may also be plain JSON numbers.

        Raises:
            ValueError: a key is missing or unknown, or ``from_arrays`` refuses the content.
        """
        needed, optional = {"A", "B", "C", "m", "L"}, {"name"}
        if missing := sorted(needed - content.keys()):
            raise ValueError(f"the method lacks {', '.join(missing)}; expected the keys A, B, C, m, L")
        if unknown := sorted(content.keys() - needed - optional):
            raise ValueError(f"the method has unknown keys {', '.join(unknown)}; expected A, B, C, m, L, name")
        return cls.from_arrays(
            content["A"],
            content["B"],
            content["C"],
            content["m"],
            content["L"],
            name=str(content.get("name", "fixed-step method")),
        )

    def fingerprint(self) -> str:
        """SHA-256 of all that a rate can depend on."""
        content = {key: value for key, value in self.to_json().items() if key != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class AccelerationProblem:
    """What the card works on: methods to analyse, condition numbers to tabulate, perhaps a model to fit.

    Attributes:
        systems: the methods by name, with the constants of the model (or of the method file).
        table: the methods by name and condition number.
        model: the linear model that the methods are run on, or None.
        features: names of the model's columns.
    """

    systems: Mapping[str, FixedStep]
    table: Mapping[tuple[str, float], FixedStep]
    model: LinearModel | None = None
    features: tuple[str, ...] = ()

    @cached_property
    def objective(self) -> Objective:
        """The model's objective."""
        if self.model is None:
            raise ValueError("this problem has no model to run methods on; give a table of data")
        return self.model.objective

    def fingerprint(self) -> str:
        """SHA-256 of the methods and of the model."""
        parts = {name: system.fingerprint() for name, system in self.systems.items()}
        rows = {f"{name}@{kappa!r}": system.fingerprint() for (name, kappa), system in self.table.items()}
        model = self.model.fingerprint() if self.model is not None else None
        return hashlib.sha256(json.dumps([parts, rows, model], sort_keys=True).encode()).hexdigest()


def read_method(path: str | Path) -> FixedStep:
    """Read a method from a JSON file with the keys A, B, C, m, L and perhaps name.

    Raises:
        ValueError: the file is no JSON object or describes no usable method.
    """
    try:
        # Decimal text stays text, so that 0.1 means one tenth and not the float nearest to it.
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_float=str)
    except json.JSONDecodeError as error:
        raise ValueError(f"{Path(path).name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{Path(path).name} must hold one JSON object with the keys A, B, C, m, L")
    return FixedStep.from_json(content)


def check_class(m: Number, L: Number) -> tuple[Fraction, Fraction]:
    """Validated exact constants of F_{m,L}.

    Raises:
        ValueError: not 0 < m < L, or not finite.
    """
    low, high = fraction_from(m), fraction_from(L)
    if low <= 0:
        raise ValueError(f"m must be positive (strong convexity), got {float(low)}; for m = 0 no linear rate exists")
    if low >= high:
        raise ValueError(f"m must be smaller than L, got m = {float(low)} and L = {float(high)}")
    return low, high


def _as_rows(matrix: Any, name: str) -> list[list[Number]]:
    rows = matrix.tolist() if isinstance(matrix, np.ndarray) else matrix
    if not isinstance(rows, Sequence) or isinstance(rows, str) or not rows:
        raise ValueError(f"{name} must be a matrix (a list of rows), got {matrix!r}")
    if not all(isinstance(row, Sequence) and not isinstance(row, str) for row in rows):
        raise ValueError(f"{name} must be a matrix (a list of rows), got {matrix!r}")
    return [list(row) for row in rows]


def _as_vector(vector: Any, name: str) -> list[Number]:
    entries = vector.tolist() if isinstance(vector, np.ndarray) else vector
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError(f"{name} must be a vector, got {vector!r}")
    if all(isinstance(entry, Sequence) and not isinstance(entry, str) for entry in entries) and entries:
        if len(entries) != 1 and any(len(entry) != 1 for entry in entries):
            raise ValueError(f"{name} must be a single row or column: one input and one output a coordinate")
        entries = [number for entry in entries for number in entry]
    return list(entries)


def _near_fixed_point(rows: list[list[Fraction]], output: list[Fraction]) -> list[Fraction]:
    """A rational e, exact where the data allow it, with A e = e and C e = 1 up to rounding."""
    size = len(rows)
    moved = np.array([[float(entry) for entry in row] for row in rows]) - np.eye(size)
    scale = max(1.0, float(np.abs(moved).max()))
    _, singular, right = np.linalg.svd(moved)
    kernel = right[singular <= EIGENVALUE_TOLERANCE * scale]
    message = "the method has no fixed point at a stationary point of f: "
    if len(kernel) == 0:
        raise ValueError(
            message + f"A needs the eigenvalue 1, and the smallest singular value of A - I is {singular[-1]:.3g}"
        )
    seen = kernel @ np.array([float(entry) for entry in output])
    if float(np.abs(seen).max()) <= EIGENVALUE_TOLERANCE:
        raise ValueError(message + "C e = 0 for the eigenvector e of A at 1, so y cannot rest at a minimiser")
    direction = seen @ kernel / float(seen @ seen)
    # Short denominators first: (1, 1) is meant where the float says (1, 0.9999999999999998).
    return [
        short if abs(short - Fraction(float(entry))) < Fraction(1, 10**12) else Fraction(float(entry))
        for entry in direction
        for short in [Fraction(float(entry)).limit_denominator(1000)]
    ]


def _make_exact(
    rows: list[list[Fraction]], output: list[Fraction], point: list[Fraction]
) -> tuple[list[list[Fraction]], list[Fraction]]:
    """Smallest rank-one corrections (Frobenius) of A and C with A e = e and C e = 1 exactly."""
    square = sum((entry * entry for entry in point), Fraction(0))

    def corrected(row: list[Fraction], target: Fraction) -> list[Fraction]:
        miss = target - sum((a * e for a, e in zip(row, point, strict=True)), Fraction(0))
        return [a + miss * e / square for a, e in zip(row, point, strict=True)]

    return [corrected(row, e) for row, e in zip(rows, point, strict=True)], corrected(output, Fraction(1))
