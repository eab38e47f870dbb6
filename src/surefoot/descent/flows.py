"""Accelerated gradient flows as dissipative systems: the continuous side of the momentum methods.

Unified system, q = sqrt(m s), s = 1 / L:

    x' = tau sqrt(m) (z - x) - g grad f(x),     z' = sqrt(m) (x - z) - grad f(x) / sqrt(m),

with (tau, g) = (1, sqrt s) for Nesterov, (2, sqrt s) for triple momentum and (1, 0) for heavy ball. Eliminating
z, Nesterov is x'' + 2 sqrt(m) x' + sqrt(s) H x' + (1 + q) grad f = 0: the Hessian damping is what a passive
output feedback needs. For merely convex f (m = 0),

    x' = (2 / t) (z - x) - sqrt(s) grad f(x),   z' = -(t / 2) grad f(x).

Immersion: the gradient flow is the manifold phi = v + c grad f(x) = 0 of x' = v; the feedback
v' = -c H v - k phi gives the storage S = |phi|^2 / 2 the exact decay S' = -2 k S, whatever f is.

References:
    Parimi, Mehra, Wagh, Yerudkar, Singh, arXiv 2509.18346, 2025 (passivity and immersion).
    Shi, Du, Jordan, Su, Understanding the acceleration phenomenon via high-resolution differential equations,
    Math. Program. 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

Array = npt.NDArray[np.float64]
ValueAndGrad = Callable[[Array], tuple[float, Array]]
FlowName = Literal["gradient", "nesterov", "triple-momentum", "heavy-ball", "convex-nesterov"]

__all__ = ["Trajectory", "discretisation_error", "immersed_flow", "integrate_flow"]

COUPLING = {"nesterov": 1.0, "triple-momentum": 2.0, "heavy-ball": 1.0}


@dataclass(frozen=True)
class Trajectory:
    """A flow sampled in time.

    Attributes:
        t: (steps,) times.
        x: (steps, d) positions.
        z: (steps, d) second states (velocities for the immersed flow); equal to x for the gradient flow.
        storage: (steps,) storage function along the flow; NaN where x* and f* were not given.
        dissipation: (steps,) passive output's dissipation g |grad f|^2 of the first block.
        off_manifold: (steps,) |phi| of the immersed flow, |z - x| for the others.
        evaluations: gradients that the integrator asked for.
    """

    t: Array
    x: Array
    z: Array
    storage: Array
    dissipation: Array
    off_manifold: Array
    evaluations: int


def integrate_flow(
    name: FlowName,
    value_and_grad: ValueAndGrad,
    start: Array,
    duration: float,
    *,
    m: float,
    step_size: float,
    minimiser: Array | None = None,
    second: Array | None = None,
    start_time: float = 0.0,
    samples: int = 200,
    tolerance: float = 1e-9,
) -> Trajectory:
    """Integrate a flow with an adaptive Runge-Kutta method of order 8 and track its storage function.

    Storage: ``f - f* + (m/2) |z - x*|^2`` for the strongly convex flows, ``|x - x*|^2 / 2`` for the gradient flow,
    ``t^2 (f - f*) + 2 |z - x*|^2`` for the convex one.

    Args:
        name: which flow.
        value_and_grad: x (d,) -> (f(x), grad f(x)).
        start: (d,) x_0.
        duration: time span, > 0.
        m: strong convexity (0 for "convex-nesterov").
        step_size: s of the method that the flow belongs to, >= 0; enters as sqrt(s) grad f.
        minimiser: (d,) x*, for the storage.
        second: (d,) z_0, to go on where another trajectory ended; default: x_0, the flow at rest.
        start_time: t_0; must be positive for "convex-nesterov".
        samples: number of output times, equally spaced.
        tolerance: relative tolerance of the integrator.

    Raises:
        ValueError: a parameter is out of range.
        RuntimeError: the integrator failed.
    """
    if name not in (*COUPLING, "gradient", "convex-nesterov"):
        raise ValueError(f"unknown flow {name!r}; expected gradient, convex-nesterov or {', '.join(COUPLING)}")
    if not (duration > 0 and math.isfinite(duration)) or samples < 2:
        raise ValueError(f"duration must be positive and samples at least 2, got {duration} and {samples}")
    if step_size < 0 or (name in COUPLING and not m > 0):
        raise ValueError(f"expected step_size >= 0 and m > 0 for {name!r}, got {step_size} and {m}")
    if name == "convex-nesterov" and not start_time > 0:
        raise ValueError("the convex flow is singular at t = 0; give start_time > 0")
    x0 = np.asarray(start, dtype=np.float64)
    z0 = x0 if second is None else np.asarray(second, dtype=np.float64)
    if x0.ndim != 1 or z0.shape != x0.shape or not (np.isfinite(x0).all() and np.isfinite(z0).all()):
        raise ValueError(f"start and second must be finite vectors of one length, got {x0.shape} and {z0.shape}")
    field, gain = _field(name, value_and_grad, m, step_size, len(x0))
    state = x0 if name == "gradient" else np.concatenate([x0, z0])
    t, path, evaluations = _integrate(field, state, start_time, duration, samples, tolerance)
    x, z = path[:, : len(x0)], path[:, -len(x0) :]
    values, gradients = _along(value_and_grad, x)
    return Trajectory(
        t=t,
        x=x,
        z=z,
        storage=_storage(name, value_and_grad, minimiser, m, t, x, z, values),
        dissipation=gain * np.sum(gradients**2, axis=1),
        off_manifold=np.linalg.norm(z - x, axis=1),
        evaluations=evaluations,
    )


def _field(
    name: FlowName, value_and_grad: ValueAndGrad, m: float, step_size: float, dim: int
) -> tuple[Callable[[float, Array], Array], float]:
    """Right side of the flow and the coefficient g of the gradient in x'."""
    root_m, root_s = math.sqrt(m), math.sqrt(step_size)

    def gradient(t: float, state: Array) -> Array:
        return -value_and_grad(state)[1]

    def convex(t: float, state: Array) -> Array:
        x, z = state[:dim], state[dim:]
        slope = value_and_grad(x)[1]
        return np.concatenate([(2 / t) * (z - x) - root_s * slope, -(t / 2) * slope])

    if name == "gradient":
        return gradient, 1.0
    if name == "convex-nesterov":
        return convex, root_s
    gain = 0.0 if name == "heavy-ball" else root_s

    def accelerated(t: float, state: Array) -> Array:
        x, z = state[:dim], state[dim:]
        slope = value_and_grad(x)[1]
        return np.concatenate([COUPLING[name] * root_m * (z - x) - gain * slope, root_m * (x - z) - slope / root_m])

    return accelerated, gain


def _integrate(
    field: Callable[[float, Array], Array],
    state: Array,
    start_time: float,
    duration: float,
    samples: int,
    tolerance: float,
) -> tuple[Array, Array, int]:
    times = np.linspace(start_time, start_time + duration, samples)
    answer = solve_ivp(
        field,
        (times[0], times[-1]),
        state,
        method="DOP853",
        t_eval=times,
        rtol=tolerance,
        atol=tolerance * max(1e-12, float(np.abs(state).max())) * 1e-3,
    )
    if not answer.success:
        raise RuntimeError(f"the integrator stopped at t = {answer.t[-1]:.6g}: {answer.message}")
    return answer.t, answer.y.T, int(answer.nfev)


def _along(value_and_grad: ValueAndGrad, x: Array) -> tuple[Array, Array]:
    pairs = [value_and_grad(row) for row in x]
    return np.array([float(value) for value, _ in pairs]), np.array([slope for _, slope in pairs])


def _storage(
    name: FlowName,
    value_and_grad: ValueAndGrad,
    minimiser: Array | None,
    m: float,
    t: Array,
    x: Array,
    z: Array,
    values: Array,
) -> Array:
    if minimiser is None:
        return np.full(len(t), np.nan)
    gap = values - float(value_and_grad(minimiser)[0])
    if name == "gradient":
        return 0.5 * np.sum((x - minimiser) ** 2, axis=1)
    square = np.sum((z - minimiser) ** 2, axis=1)
    return t**2 * gap + 2 * square if name == "convex-nesterov" else gap + 0.5 * m * square


def immersed_flow(
    value_and_grad: ValueAndGrad,
    hvp: Callable[[Array, Array], Array],
    start: Array,
    velocity: Array,
    duration: float,
    *,
    flow_gain: float = 1.0,
    feedback: float = 1.0,
    samples: int = 200,
    tolerance: float = 1e-10,
) -> Trajectory:
    """The gradient flow immersed in a second-order system: x'' + k x' + c H x' + k c grad f = 0.

    Args:
        value_and_grad: x (d,) -> (f(x), grad f(x)).
        hvp: (x, v) -> Hessian of f at x times v.
        start: (d,) position.
        velocity: (d,) initial velocity; -c grad f(start) lies on the manifold.
        duration: time span, > 0.
        flow_gain: c > 0 of the gradient flow x' = -c grad f.
        feedback: k > 0.
        samples: number of output times.
        tolerance: relative tolerance of the integrator.

    Returns:
        Trajectory with ``storage = |phi|^2 / 2``, which equals ``storage[0] exp(-2 k t)`` exactly.

    Raises:
        ValueError: a gain or the duration is not positive.
        RuntimeError: the integrator failed.
    """
    if not (flow_gain > 0 and feedback > 0 and duration > 0):
        raise ValueError(f"expected positive gains and duration, got {flow_gain}, {feedback}, {duration}")
    dim = len(start)

    def field(t: float, state: Array) -> Array:
        x, v = state[:dim], state[dim:]
        slope = value_and_grad(x)[1]
        return np.concatenate([v, -flow_gain * hvp(x, v) - feedback * (v + flow_gain * slope)])

    state = np.concatenate([np.asarray(start, dtype=np.float64), np.asarray(velocity, dtype=np.float64)])
    t, path, evaluations = _integrate(field, state, 0.0, duration, samples, tolerance)
    x, v = path[:, :dim], path[:, dim:]
    gradients = _along(value_and_grad, x)[1]
    phi = v + flow_gain * gradients
    off = np.linalg.norm(phi, axis=1)
    return Trajectory(t, x, v, 0.5 * off**2, flow_gain * np.sum(gradients**2, axis=1), off, evaluations)


def discretisation_error(
    name: Literal["nesterov", "triple-momentum"],
    value_and_grad: ValueAndGrad,
    start: Array,
    duration: float,
    *,
    m: float,
    step_size: float,
) -> float:
    """Largest distance between a flow and its method over a time span; of first order in sqrt(step_size).

    The flow is the limit sqrt(s) -> 0 of the method with its own s, sampled at t = k sqrt(s).

    Args:
        name: which pair of flow and method.
        value_and_grad: x (d,) -> (f(x), grad f(x)).
        start: (d,) x_0 = z_0.
        duration: time span.
        m: strong convexity.
        step_size: s of the method, with m s < 1.
    """
    from surefoot.descent.splitting import nesterov_splitting, triple_momentum_splitting

    root = math.sqrt(step_size)
    steps = max(2, round(duration / root))
    method = nesterov_splitting if name == "nesterov" else triple_momentum_splitting
    path = method(value_and_grad, np.asarray(start, dtype=np.float64), steps, m=m, step_size=step_size)
    flow = integrate_flow(
        name, value_and_grad, start, steps * root, m=m, step_size=0.0, samples=steps + 1, tolerance=1e-11
    )
    return float(np.abs(path.x - flow.x).max())
