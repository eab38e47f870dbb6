"""The table of momentum methods as (A, B, C) and their tuned parameters.

    x_{k+1} = x_k + beta (x_k - x_{k-1}) - alpha grad f(y_k),   y_k = x_k + gamma (x_k - x_{k-1}),

state (x_k, x_{k-1}): A = [[1 + beta, -beta], [1, 0]], B = (-alpha, 0), C = (1 + gamma, -gamma). Gradient
descent has the single state x_k.

References:
    Nesterov, Lectures on convex optimization, 2018 (Nesterov's method). Polyak, 1964 (heavy ball).
    Van Scoy, Freeman, Lynch, The fastest known globally convergent first-order method, 2018 (triple
    momentum). Cyrus, Hu, Van Scoy, Lessard, A robust accelerated optimization algorithm, 2018 (robust
    momentum). Lessard, Recht, Packard, 2016 (Nesterov's method tuned on quadratics).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from surefoot.descent.problem import FixedStep, check_class

__all__ = ["METHODS", "MomentumParameters", "fixed_step", "known_rate", "momentum_parameters"]

METHODS = {
    "gd": "gradient descent",
    "nag": "Nesterov",
    "nag-quadratic": "Nesterov, tuned on quadratics",
    "tmm": "triple momentum",
    "rmm": "robust momentum",
    "hb": "heavy ball",
}


@dataclass(frozen=True)
class MomentumParameters:
    """Step size, momentum, extrapolation and output weight of a momentum method.

    Attributes:
        step_size: alpha, in units x^2 / f.
        momentum: beta.
        extrapolation: gamma, where the gradient is taken.
        output: delta, where the method's answer lies: x_k + delta (x_k - x_{k-1}).
        single: one state only (gradient descent).
    """

    step_size: float
    momentum: float = 0.0
    extrapolation: float = 0.0
    output: float = 0.0
    single: bool = False


def momentum_parameters(
    method: str, m: float, L: float, *, step_size: float | None = None, rate: float | None = None
) -> MomentumParameters:
    """Tuned parameters of a named method for F_{m,L}.

    Args:
        method: a key of ``METHODS``.
        m: strong convexity.
        L: smoothness.
        step_size: gradient descent only; default 2 / (L + m).
        rate: robust momentum only, in [1 - sqrt(m/L), 1 - m/L]; default halfway between the fastest and the
            most robust choice.

    Raises:
        ValueError: unknown method, an option that the method does not have, or constants out of range.
    """
    check_class(m, L)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    if step_size is not None and method != "gd":
        raise ValueError(f"step_size can be chosen for 'gd' only; {method!r} has its own tuned step size")
    if rate is not None and method != "rmm":
        raise ValueError(f"rate can be chosen for 'rmm' only; {method!r} has a single tuning")
    kappa = L / m
    q = math.sqrt(m / L)
    if method == "gd":
        if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
            raise ValueError(f"step_size must be positive and finite, got {step_size}")
        return MomentumParameters(2 / (L + m) if step_size is None else step_size, single=True)
    if method == "nag":
        momentum = (1 - q) / (1 + q)
        return MomentumParameters(1 / L, momentum, momentum)
    if method == "nag-quadratic":
        root = math.sqrt(3 * kappa + 1)
        momentum = (root - 2) / (root + 2)
        return MomentumParameters(4 / (3 * L + m), momentum, momentum)
    if method == "hb":
        return MomentumParameters(4 / (math.sqrt(L) + math.sqrt(m)) ** 2, ((1 - q) / (1 + q)) ** 2)
    if method == "tmm":
        r = 1 - q
        return MomentumParameters((1 + r) / L, r**2 / (2 - r), r**2 / ((1 + r) * (2 - r)), r**2 / (1 - r**2))
    return _robust_parameters(m, L, rate)


def _robust_parameters(m: float, L: float, rate: float | None) -> MomentumParameters:
    kappa = L / m
    fastest, slowest = 1 - math.sqrt(m / L), 1 - m / L
    r = (fastest + slowest) / 2 if rate is None else rate
    if not fastest <= r <= slowest:
        raise ValueError(f"rate must lie in [1 - sqrt(m/L), 1 - m/L] = [{fastest:.6g}, {slowest:.6g}], got {r}")
    return MomentumParameters(
        kappa * (1 - r) ** 2 * (1 + r) / L,
        kappa * r**3 / (kappa - 1),
        r**3 / ((kappa - 1) * (1 - r) ** 2 * (1 + r)),
        r**2 / (1 - r**2),
    )


def fixed_step(
    method: str,
    m: float,
    L: float,
    *,
    step_size: float | None = None,
    rate: float | None = None,
    parameters: MomentumParameters | None = None,
) -> FixedStep:
    """A method of the table as an exact linear system; its float parameters are taken as exact rationals.

    Args:
        method: a key of ``METHODS``, or any name when ``parameters`` is given.
        m: strong convexity.
        L: smoothness.
        step_size: as in ``momentum_parameters``.
        rate: as in ``momentum_parameters``.
        parameters: own step size, momentum and extrapolation in place of the tuned ones.

    Raises:
        ValueError: as in ``momentum_parameters``.
    """
    low, high = check_class(m, L)
    chosen = parameters or momentum_parameters(method, m, L, step_size=step_size, rate=rate)
    alpha, beta, gamma = (Fraction(chosen.step_size), Fraction(chosen.momentum), Fraction(chosen.extrapolation))
    one, zero = Fraction(1), Fraction(0)
    if chosen.single:
        return FixedStep(((one,),), (-alpha,), (one,), low, high, (one,), name=method)
    return FixedStep(
        A=((1 + beta, -beta), (one, zero)),
        B=(-alpha, zero),
        C=(1 + gamma, -gamma),
        m=low,
        L=high,
        fixed_point=(one, one),
        name=method,
    )


def known_rate(method: str, m: float, L: float, *, step_size: float | None = None, rate: float | None = None) -> float:
    """Proved rate of a method in the literature (distance per iteration); NaN where none is known.

    Exact for gradient descent and triple momentum, an upper bound for Nesterov (sqrt(1 - q)) and robust
    momentum, q = sqrt(m / L).

    Raises:
        ValueError: as in ``momentum_parameters``.
    """
    chosen = momentum_parameters(method, m, L, step_size=step_size, rate=rate)
    q = math.sqrt(m / L)
    if method == "gd":
        return max(abs(1 - chosen.step_size * m), abs(1 - chosen.step_size * L))
    if method == "nag":
        return math.sqrt(1 - q)
    if method == "tmm":
        return 1 - q
    if method == "rmm":
        return (1 - q + 1 - m / L) / 2 if rate is None else rate
    return math.nan
