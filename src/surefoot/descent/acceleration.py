"""Fixed-step momentum methods for smooth strongly convex objectives, run by `solve`.

    y_k = x_k + gamma (x_k - x_{k-1}),   x_{k+1} = x_k + beta (x_k - x_{k-1}) - alpha grad f(y_k),

with the tuned parameters of the table in ``momentum``. The answer of triple and robust momentum is
x_k + delta (x_k - x_{k-1}), where their rate holds. One iteration is one gradient.

References:
    Parimi, Mehra, Wagh, Yerudkar, Singh, On the dynamics of acceleration in first order gradient methods,
    arXiv 2509.18346, 2025.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.problem import Constant, Objective
from surefoot.core.random import Streams
from surefoot.descent.momentum import MomentumParameters, fixed_step, momentum_parameters
from surefoot.descent.problem import AccelerationProblem, FixedStep

__all__ = [
    "GradientDescent",
    "HeavyBall",
    "Lane",
    "MomentumMethod",
    "Nesterov",
    "Race",
    "RobustMomentum",
    "TripleMomentum",
]

# Backtracking gives up past this multiple of its first smoothness.
LARGEST_GROWTH = 2.0**60


@dataclass
class Lane:
    """Where one method stands.

    Attributes:
        x: (d,) x_k.
        before: (d,) x_{k-1}.
        smoothness: L in use; grows under backtracking.
        value: f at the last gradient point.
        gap: |grad f|^2 / (2 m) there, a bound on f - f*.
        k: gradients taken.
        trace: (rows, d) x_0, x_1, ..., as far as it is kept.
        done: the gap has reached the tolerance.
    """

    x: Tensor
    before: Tensor
    smoothness: float
    trace: Tensor
    value: float = math.inf
    gap: float = math.inf
    k: int = 0
    done: bool = False


@dataclass(kw_only=True)
class MomentumState(State):
    """One lane, and an empty tensor that remembers the user's dtype and device."""

    records: ClassVar[tuple[type, ...]] = (Lane,)
    lane: Lane
    like: Tensor


@dataclass(frozen=True)
class MomentumMethod(Method[Objective, MomentumState, Tensor]):
    """A momentum method with its tuned parameters; use one of the subclasses.

    Args:
        strong_convexity: m; default: the objective's constant.
        smoothness: L; default: the objective's constant. With backtracking a first guess is enough.
        tolerance: stop when |grad f(y)|^2 / (2 m), a bound on f(y) - f*, is below it.
        backtracking: double L wherever f(y - g / L) > f(y) - |g|^2 / (2 L); costs one value a step. A rate
            is then no longer proved for the run.
        trace: iterates kept for the storage and passivity claims; 0 keeps none.
        block: iterations a step.
    """

    scheme: ClassVar[str] = ""
    strong_convexity: float | None = None
    smoothness: float | None = None
    tolerance: float = 1e-12
    backtracking: bool = False
    trace: int = 400
    block: int = 16
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and self.trace >= 0 and self.block >= 1):
            raise ValueError(
                f"expected tolerance >= 0, trace >= 0 and block >= 1, got {self.tolerance}, {self.trace}, {self.block}"
            )

    def constants(self, problem: Objective) -> tuple[Constant, Constant]:
        """m and L with how they are known."""
        given = {"strong_convexity": self.strong_convexity, "smoothness": self.smoothness}
        m, L = (
            problem.constant(name) if value is None else Constant(value, "declared", "given to the method")
            for name, value in given.items()
        )
        return m, Constant(L.value, "estimated", "backtracking") if self.backtracking else L

    def parameters(self, m: float, L: float) -> MomentumParameters:
        """Tuned step size, momentum, extrapolation and output weight."""
        return momentum_parameters(self.scheme, m, L)

    def system(self, m: float, L: float) -> FixedStep:
        """The method as an exact linear system."""
        return fixed_step(self.scheme, m, L, parameters=self.parameters(m, L))

    def init(self, problem: Objective, start: Tensor | None, streams: Streams) -> MomentumState:
        like = torch.zeros(0, dtype=torch.float64) if start is None else start.detach().flatten()[:0].clone()
        return MomentumState(streams=streams, lane=self.first(problem, start), like=like)

    def first(self, problem: Objective, start: Tensor | None) -> Lane:
        """A lane at its start, in float64."""
        if start is not None and tuple(start.shape) != (problem.dim,):
            raise ValueError(f"the start has shape {tuple(start.shape)}; expected ({problem.dim},)")
        x = torch.zeros(problem.dim, dtype=torch.float64) if start is None else start.detach().double().clone()
        if not torch.isfinite(x).all():
            raise ValueError("the start holds NaN or infinite values")
        m, L = self.constants(problem)
        self.parameters(m.value, L.value)
        return Lane(x, x.clone(), L.value, x[None, :].clone())

    def step(self, problem: Objective, state: MomentumState) -> MomentumState:
        for _ in range(state.room(self.block)):
            if state.lane.done:
                break
            state.count(**self.advance(problem, state.lane))
            state.k += 1
        return state

    def advance(self, problem: Objective, lane: Lane) -> dict[str, int]:
        """One iteration in place; returns what it used."""
        m = self.constants(problem)[0].value
        used = {"gradient": 1}
        while True:
            chosen = self.parameters(m, lane.smoothness)
            moved = lane.x - lane.before
            point = lane.x + chosen.extrapolation * moved
            value, gradient = problem.value_and_grad(point)
            square = float(gradient @ gradient)
            if not self.backtracking or self._descends(problem, point, float(value), gradient, square, lane, used):
                break
            used["gradient"] += 1
        lane.value, lane.gap = float(value), square / (2 * m)
        lane.x, lane.before = lane.x + chosen.momentum * moved - chosen.step_size * gradient, lane.x
        lane.k += 1
        if len(lane.trace) <= self.trace:
            lane.trace = torch.cat([lane.trace, lane.x[None, :]])
        lane.done = lane.gap <= self.tolerance
        return used

    def _descends(
        self,
        problem: Objective,
        point: Tensor,
        value: float,
        gradient: Tensor,
        square: float,
        lane: Lane,
        used: dict[str, int],
    ) -> bool:
        """The descent lemma at L, or a doubled L."""
        used["value"] = used.get("value", 0) + 1
        trial = float(problem.value_and_grad(point - gradient / lane.smoothness)[0])
        # Differences of values below their rounding say nothing about L. An infinite or undefined trial is no descent; a
        # value that is so itself is the caller's to name.
        rounding = 1e-14 * max(abs(value), abs(trial))
        if not math.isfinite(value) or trial <= value - square / (2 * lane.smoothness) + rounding < math.inf:
            return True
        if lane.smoothness > LARGEST_GROWTH * (self.smoothness or 1.0):
            raise ValueError("backtracking found no smoothness; is the gradient that of the value?")
        lane.smoothness *= 2
        return False

    def look(self, state: MomentumState) -> Look:
        row = {"gap": state.lane.gap, "value": state.lane.value}
        return Look(row, Status.CONVERGED if state.lane.done else None)

    def output(self, problem: Objective, lane: Lane) -> Tensor:
        """The method's answer, in float64."""
        chosen = self.parameters(self.constants(problem)[0].value, lane.smoothness)
        return lane.x + chosen.output * (lane.x - lane.before)

    def answer(self, problem: Objective, state: MomentumState) -> Tensor:
        return self.output(problem, state.lane).to(state.like)

    def certify(self, problem: Objective, state: MomentumState) -> Certificate:
        from surefoot.descent.certify import certify_run

        return certify_run(self, problem, state.lane, self.answer(problem, state))


@dataclass(frozen=True)
class GradientDescent(MomentumMethod):
    """Gradient descent with step size 2 / (L + m) or one of the user's; rate (kappa - 1) / (kappa + 1)."""

    scheme: ClassVar[str] = "gd"
    step_size: float | None = None

    def parameters(self, m: float, L: float) -> MomentumParameters:
        return momentum_parameters("gd", m, L, step_size=self.step_size)


@dataclass(frozen=True)
class Nesterov(MomentumMethod):
    """Nesterov's method for strongly convex functions; storage f - f* + (m/2) |z - x*|^2 falls by 1 - q a step."""

    scheme: ClassVar[str] = "nag"


@dataclass(frozen=True)
class TripleMomentum(MomentumMethod):
    """The triple momentum method: rate 1 - q in distance, the best of all fixed-step methods known."""

    scheme: ClassVar[str] = "tmm"


@dataclass(frozen=True)
class RobustMomentum(MomentumMethod):
    """Robust momentum: a wanted rate in [1 - q, 1 - 1/kappa]; slower is less sensitive to gradient noise."""

    scheme: ClassVar[str] = "rmm"
    rate: float | None = None

    def parameters(self, m: float, L: float) -> MomentumParameters:
        return momentum_parameters("rmm", m, L, rate=self.rate)


@dataclass(frozen=True)
class HeavyBall(MomentumMethod):
    """Polyak's heavy ball, tuned for quadratics. From kappa = 9 + 4 sqrt 5 on it cycles on some f in F_{m,L}."""

    scheme: ClassVar[str] = "hb"


LANES: Mapping[str, type[MomentumMethod]] = {
    method.scheme: method for method in (GradientDescent, Nesterov, TripleMomentum, RobustMomentum, HeavyBall)
}


@dataclass(kw_only=True)
class RaceState(State):
    """A lane for each method, and the rate analysis once it was made."""

    records: ClassVar[tuple[type, ...]] = (Lane,)
    lanes: dict[str, Lane] = field(default_factory=dict)
    analysis: Any = transient()  # noqa: RUF009 - a field descriptor, made anew on each call


@dataclass(frozen=True)
class Race(Method[AccelerationProblem, RaceState, dict[str, Any]]):
    """Several methods side by side on one model, and the certified rates of all of them.

    Args:
        lanes: methods to run, from gd, nag, tmm, rmm, hb; empty where the problem has no model.
        memory: of the Lyapunov functions.
        tolerance, trace, block: as in ``MomentumMethod``.
    """

    lanes: tuple[str, ...] = ("gd", "nag", "tmm", "hb")
    memory: int = 0
    tolerance: float = 1e-12
    trace: int = 400
    block: int = 4
    horizon: int | None = None

    def method(self, name: str) -> MomentumMethod:
        """The method of a lane."""
        return LANES[name](tolerance=self.tolerance, trace=self.trace)

    def init(self, problem: AccelerationProblem, start: Any, streams: Streams) -> RaceState:
        if not self.lanes:
            return RaceState(streams=streams)
        objective = problem.objective
        return RaceState(
            streams=streams, lanes={name: self.method(name).first(objective, start) for name in self.lanes}
        )

    def step(self, problem: AccelerationProblem, state: RaceState) -> RaceState:
        for _ in range(state.room(self.block)):
            running = [name for name, lane in state.lanes.items() if not lane.done]
            for name in running:
                state.count(**self.method(name).advance(problem.objective, state.lanes[name]))
            if not running:
                break
            state.k += 1
        return state

    def look(self, state: RaceState) -> Look:
        row = {f"gap_{name}": lane.gap for name, lane in state.lanes.items()}
        done = all(lane.done for lane in state.lanes.values())
        return Look(row, Status.CONVERGED if done else None)

    def answer(self, problem: AccelerationProblem, state: RaceState) -> dict[str, Any]:
        """Coefficients of each lane, and the table of rates over condition numbers."""
        from surefoot.descent.certify import analyse

        if state.analysis is None:
            state.analysis = analyse(problem, self.memory)
        coefficients = {
            name: self.method(name).output(problem.objective, lane).numpy() for name, lane in state.lanes.items()
        }
        return {"coefficients": coefficients, "rates": state.analysis.columns()}

    def certify(self, problem: AccelerationProblem, state: RaceState) -> Certificate:
        from surefoot.descent.certify import certify_race

        return certify_race(self, problem, state, self.answer(problem, state))
