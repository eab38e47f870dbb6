"""Exact proofs of rates: a Lyapunov function, or the proof that none exists, in rational numbers.

With L = 1, m = m / L and B times L, in the plain coordinates of the method, a ``RateCertificate`` holds
rationals with

    V_k = X_k' P X_k + p'(f_{k-l}, ..., f_k),   X_k = (xi_{k-l}, u_{k-l}, ..., u_k),
    (decrease)    V_{k+1} - rho^2 V_k + sum lam_ij q_ij  is a negative semidefinite form, free of values,
    (positivity)  |xi_k|^2 - V_k + sum mu_ij q_ij        is a negative semidefinite form, free of values,
    q_ij = f_i - f_j - u_j (y_i - y_j) - m/2 (y_i - y_j)^2 - (u_i - u_j - m (y_i - y_j))^2 / (2 (1 - m)),

so that |xi_k - e x*| <= rho^(k-l) sqrt(V_l) for every f in F_{m,L} and any dimension. A third inequality bounds
the start,

    (transient)   V_l - c |xi_0|^2 + sum nu_ij q_ij  is a negative semidefinite form, free of values,

and then |xi_k - e x*| <= sqrt(c) rho^(k-l) |xi_0 - e x*|. Floats from the solver are
only a suggestion: they are rounded to short rationals, the value equations are solved exactly, and both forms
are tested by an exact LDL'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from surefoot.descent.exact_window import ExactWindow, Pair, value_balance
from surefoot.descent.problem import FixedStep
from surefoot.numerics.rational_matrices import RationalMatrix
from surefoot.numerics.rationals import fraction_from, fraction_text

Rows = list[list[Fraction]]

__all__ = ["ObstructionCertificate", "RateCertificate"]


@dataclass(frozen=True)
class RateCertificate:
    """A proved rate: |xi_k - e x*| <= rho^k sqrt(V_0) for all f in F_{m,L}.

    Attributes:
        method: the method, in the user's units.
        rho: the rate a step.
        memory: number of past points in V.
        P: (n + l + 1, n + l + 1) symmetric.
        p: (l + 1,) weights of f_{k-l}, ..., f_k.
        lam: multipliers of the decrease, a pair (i, j) of points a key; l + 2 stands for *.
        mu: multipliers of the positivity; l + 1 stands for *.
        transient: constant c of the start; None before ``with_transient``.
        nu: multipliers of the transient; l + 1 stands for *.
    """

    method: FixedStep
    rho: Fraction
    memory: int
    P: Rows
    p: list[Fraction]
    lam: dict[Pair, Fraction]
    mu: dict[Pair, Fraction]
    transient: Fraction | None = None
    nu: dict[Pair, Fraction] = field(default_factory=dict)

    def is_proof(self) -> bool:
        """Exact test of both inequalities, all value equations and all signs."""
        return self.holds_on(ExactWindow(self.method, self.memory))

    def holds_on(self, window: ExactWindow) -> bool:
        """``is_proof`` with the window of its method and memory at hand."""
        if min(self.lam.values()) < 0 or min(self.mu.values()) < 0:
            return False
        if any(self.decrease_values()) or any(self._positivity_values()):
            return False
        if not (-self._decrease_form(window)).is_positive_semidefinite():
            return False
        return (-self._positivity_form(window)).is_positive_semidefinite()

    def bounds_transient(self) -> bool:
        """Exact test of the transient inequality."""
        if self.transient is None or min(self.nu.values()) < 0:
            return False
        balance = value_balance(self.nu, self.memory + 1)
        if any(value + weight for value, weight in zip(balance, self.p, strict=True)):
            return False
        window = ExactWindow(self.method, self.memory)
        start = window.states[0].part(slice(None), slice(window.size - 1))
        form = RationalMatrix.of(self.P) - (start.T @ start).times(self.transient)
        form += window.interpolation(self.nu, self.memory + 1, window.size - 1)
        return (-form).is_positive_semidefinite()

    def decrease_values(self) -> list[Fraction]:
        """What is left of each function value in the decrease; all zero in a proof."""
        balance = value_balance(self.lam, self.memory + 2)
        square = self.rho**2
        for t, weight in enumerate(self.p):
            balance[t + 1] += weight
            balance[t] -= square * weight
        return balance

    def _positivity_values(self) -> list[Fraction]:
        balance = value_balance(self.mu, self.memory + 1)
        return [value - weight for value, weight in zip(balance, self.p, strict=True)]

    def _decrease_form(self, window: ExactWindow) -> RationalMatrix:
        P = RationalMatrix.of(self.P)
        form = P.congruence(window.then) - P.congruence(_now(window)).times(self.rho**2)
        return form + window.interpolation(self.lam, self.memory + 2, window.size)

    def _positivity_form(self, window: ExactWindow) -> RationalMatrix:
        inner = window.size - 1
        state = window.states[self.memory].part(slice(None), slice(inner))
        form = state.T @ state - RationalMatrix.of(self.P)
        return form + window.interpolation(self.mu, self.memory + 1, inner)

    def to_json(self) -> dict[str, Any]:
        """All numbers as text "a/b"."""
        more: dict[str, Any] = {}
        if self.transient is not None:
            more = {"transient": fraction_text(self.transient), "nu": _text_pairs(self.nu)}
        return {
            "kind": "rate",
            "method": self.method.to_json(),
            "rho": fraction_text(self.rho),
            "memory": self.memory,
            "P": _text_rows(self.P),
            "p": [fraction_text(entry) for entry in self.p],
            "lam": _text_pairs(self.lam),
            "mu": _text_pairs(self.mu),
            **more,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RateCertificate:
        """Read the form of ``to_json``."""
        return cls(
            method=FixedStep.from_json(content["method"]),
            rho=fraction_from(content["rho"]),
            memory=int(content["memory"]),
            P=[[fraction_from(entry) for entry in row] for row in content["P"]],
            p=[fraction_from(entry) for entry in content["p"]],
            lam=_read_pairs(content["lam"]),
            mu=_read_pairs(content["mu"]),
            transient=fraction_from(content["transient"]) if "transient" in content else None,
            nu=_read_pairs(content.get("nu", {})),
        )


@dataclass(frozen=True)
class ObstructionCertificate:
    """A proof that no Lyapunov function of this memory has the rate rho or a smaller one.

    Z are second moments of (xi_{k-l}, u_{k-l}, ..., u_{k+1}) and f mean values that satisfy every
    interpolation inequality, and so do the grown moments W = X_+ Z X_+' - rho^2 X Z X' with the values f_+ -
    rho^2 f. Any V that fits the two inequalities would have to fall on Z and to rise on it.

    Attributes:
        method: the method, in the user's units.
        rho: rate that is out of reach.
        memory: number of past points.
        Z: (N, N) symmetric positive semidefinite.
        f: (l + 2,) values.
    """

    method: FixedStep
    rho: Fraction
    memory: int
    Z: Rows
    f: list[Fraction]

    def is_proof(self) -> bool:
        """Exact test of all conditions."""
        return self.holds_on(ExactWindow(self.method, self.memory))

    def holds_on(self, window: ExactWindow) -> bool:
        """``is_proof`` with the window of its method and memory at hand."""
        square = self.rho**2
        Z = RationalMatrix.of(self.Z)
        W = Z.congruence(window.then.T) - Z.congruence(_now(window).T).times(square)
        rise = [late - square * early for early, late in pairwise(self.f)]
        if not (Z.is_positive_semidefinite() and W.is_positive_semidefinite()):
            return False
        state = window.states[self.memory].part(slice(None), slice(window.size - 1))
        if W.congruence(state.T).trace() <= 0:
            return False
        return window.admits(Z, self.f) and window.admits(W, rise)

    def to_json(self) -> dict[str, Any]:
        """All numbers as text "a/b"."""
        return {
            "kind": "obstruction",
            "method": self.method.to_json(),
            "rho": fraction_text(self.rho),
            "memory": self.memory,
            "Z": _text_rows(self.Z),
            "f": [fraction_text(entry) for entry in self.f],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ObstructionCertificate:
        """Read the form of ``to_json``."""
        return cls(
            method=FixedStep.from_json(content["method"]),
            rho=fraction_from(content["rho"]),
            memory=int(content["memory"]),
            Z=[[fraction_from(entry) for entry in row] for row in content["Z"]],
            f=[fraction_from(entry) for entry in content["f"]],
        )


def _now(window: ExactWindow) -> RationalMatrix:
    """The storage's arguments at the present step: all but the last gradient."""
    rows = [[int(i == j) for j in range(window.size)] for i in range(window.size - 1)]
    return RationalMatrix(rows)


def _text_rows(matrix: Rows) -> list[list[str]]:
    return [[fraction_text(entry) for entry in row] for row in matrix]


def _text_pairs(pairs: Mapping[Pair, Fraction]) -> dict[str, str]:
    return {f"{i},{j}": fraction_text(value) for (i, j), value in pairs.items()}


def _read_pairs(content: Mapping[str, str]) -> dict[Pair, Fraction]:
    pairs: dict[Pair, Fraction] = {}
    for key, value in content.items():
        first, second = key.split(",")
        pairs[int(first), int(second)] = fraction_from(value)
    return pairs
