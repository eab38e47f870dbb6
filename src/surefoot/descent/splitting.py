"""The momentum methods as one splitting step of their flows: implicit coupling, then explicit gradient.

q = sqrt(m s), x_0 = z_0, g_k = grad f(y_k).

    Nesterov:         y_k = (x_k + q z_k) / (1 + q),  x_{k+1} = y_k - s g_k,
                      z_{k+1} = (1 - q) z_k + q (y_k - g_k / m).
    Triple momentum:  y_k = (1 - q)/(1 + q) (y_{k-1} - s g_{k-1}) + 2 q/(1 + q) z_k,  y_0 = z_0,
                      z_{k+1} = (1 - q) z_k + q (y_k - g_k / m).

These are the (A, B, C) methods of ``momentum`` in other coordinates: the same y_k, and for triple momentum
z_k is the method's output after k steps. The storage functions live in these coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ValueAndGrad = Callable[[Array], tuple[float, Array]]

__all__ = ["SplittingPath", "nesterov_splitting", "triple_momentum_splitting"]


@dataclass(frozen=True)
class SplittingPath:
    """A run in splitting coordinates.

    Attributes:
        x: (steps + 1, d) for Nesterov; the gradient points y_0, ... for triple momentum.
        y: (steps, d) points where the gradient was taken.
        z: (steps + 1, d) second state.
        values: (steps,) f(y_k).
        gradients: (steps, d) grad f(y_k).
    """

    x: Array
    y: Array
    z: Array
    values: Array
    gradients: Array


def _ratio(m: float, step_size: float) -> float:
    if not (m > 0 and step_size > 0 and m * step_size < 1):
        raise ValueError(f"expected m > 0, step_size > 0 and m * step_size < 1, got {m} and {step_size}")
    return math.sqrt(m * step_size)


def nesterov_splitting(
    value_and_grad: ValueAndGrad, start: Array, steps: int, *, m: float, step_size: float
) -> SplittingPath:
    """Nesterov's method for strongly convex f, from x_0 = z_0 = start (d,)."""
    q = _ratio(m, step_size)
    xs, zs = [np.asarray(start, dtype=np.float64)], [np.asarray(start, dtype=np.float64)]
    ys: list[Array] = []
    values: list[float] = []
    gradients: list[Array] = []
    for _ in range(steps):
        y = (xs[-1] + q * zs[-1]) / (1 + q)
        value, gradient = value_and_grad(y)
        xs.append(y - step_size * gradient)
        zs.append((1 - q) * zs[-1] + q * (y - gradient / m))
        ys.append(y)
        values.append(float(value))
        gradients.append(gradient)
    return SplittingPath(np.array(xs), np.array(ys), np.array(zs), np.array(values), np.array(gradients))


def triple_momentum_splitting(
    value_and_grad: ValueAndGrad, start: Array, steps: int, *, m: float, step_size: float
) -> SplittingPath:
    """The triple momentum method from y_0 = z_0 = start (d,)."""
    q = _ratio(m, step_size)
    y, z = np.asarray(start, dtype=np.float64), np.asarray(start, dtype=np.float64)
    ys, zs = [y], [z]
    values: list[float] = []
    gradients: list[Array] = []
    for _ in range(steps):
        value, gradient = value_and_grad(y)
        z = (1 - q) * z + q * (y - gradient / m)
        y = (1 - q) / (1 + q) * (y - step_size * gradient) + 2 * q / (1 + q) * z
        values.append(float(value))
        gradients.append(gradient)
        ys.append(y)
        zs.append(z)
    return SplittingPath(np.array(ys), np.array(ys[:-1]), np.array(zs), np.array(values), np.array(gradients))
