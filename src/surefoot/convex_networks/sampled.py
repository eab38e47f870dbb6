"""The sampled convex program: directions are drawn, and only the output weights are learnt (a lasso on random ReLU features).

    min_a  loss(A a, y) + beta |a|_1,   A = (X U')_+,  U (N, d) unit rows,

by accelerated proximal gradient steps with restarts. Since |u| = 1, the network with weights u sqrt|a|, sign(a) sqrt|a| has exactly
this objective. No cones and no patterns; the optimum is that of networks with the drawn directions, above the optimum of all.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from surefoot.convex_networks.local import train_beside
from surefoot.convex_networks.patterns import LOT, direction_lots, unit
from surefoot.convex_networks.problem import Network, PatternProgram
from surefoot.convex_networks.recovery import make_network
from surefoot.convex_networks.state import gap_of
from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams
from surefoot.numerics.losses import Loss
from surefoot.numerics.prox import soft_threshold


@dataclass
class Lasso:
    """The iteration for all target columns at once.

    Args:
        columns: A (n, N).
        targets: (C, n).
        loss: convex; smooth for proximal gradients.
        weight: beta.
    """

    columns: Tensor
    targets: Tensor
    loss: Loss
    weight: float

    def __post_init__(self) -> None:
        curvature = self.loss.constants.curvature
        if not curvature < float("inf"):
            raise ValueError(
                f"the sampled program needs a smooth loss, not {type(self.loss).__name__}; take program 'cone' (ConvexTraining)"
            )
        A = self.columns
        gram = A @ A.T if len(A) <= A.shape[1] else A.T @ A
        self.step_length = 1.0 / (
            curvature * max(float(torch.linalg.eigvalsh(gram)[-1]), 1e-300) * (1 + 1e-12 * len(gram))
        )

    def objective(self, a: Tensor) -> float:
        return float(self.loss.value(a @ self.columns.T, self.targets).sum() + self.weight * a.abs().sum())

    def dual(self, a: Tensor) -> tuple[float, Tensor]:
        """(dual value, z (C, n)): each column's slope scaled until |A'z| <= beta."""
        z = -self.loss.derivative(a @ self.columns.T, self.targets)
        largest = (z @ self.columns).abs().amax(dim=1, keepdim=True)
        z = z * (self.weight / largest.clamp(min=self.weight))
        return -float(self.loss.conjugate(-z, self.targets).sum()), z

    def step(self, a: Tensor, look: Tensor, momentum: float) -> tuple[Tensor, Tensor, float]:
        """One step: (a, extrapolated point, momentum) to the next; momentum starts anew where it points uphill."""
        slope = self.loss.derivative(look @ self.columns.T, self.targets) @ self.columns
        fresh = soft_threshold(look - self.step_length * slope, self.step_length * self.weight)
        if float(((look - fresh) * (fresh - a)).sum()) > 0:
            return fresh, fresh, 1.0
        following = 0.5 * (1 + (1 + 4 * momentum * momentum) ** 0.5)
        return fresh, fresh + ((momentum - 1) / following) * (fresh - a), following


CHECK_EVERY = 50
"""Proximal steps between looks at the gap."""


@dataclass(kw_only=True)
class SampledState(State):
    """Where the lasso stands; the directions are drawn again from their streams."""

    a: Tensor  # (C, N) output weights, and the point extrapolated from them
    ahead: Tensor
    momentum: float = 1.0
    upper: float = float("inf")
    lower: float = -float("inf")
    z: Tensor | None = None  # (C, n) multipliers of the best lower bound
    done: bool = False
    why: str = ""
    local_hidden: Tensor | None = None  # (R, m, d) networks trained locally
    local_output: Tensor | None = None
    lasso: Any = transient()  # noqa: RUF009 - a dataclass field


@dataclass(frozen=True)
class SampledTraining(Method[PatternProgram, SampledState, Network]):
    """Train a two-layer ReLU network by the sampled convex program: hidden directions are drawn, output weights are a lasso.

    Args:
        neurons: N, directions drawn.
        tolerance: relative primal-dual gap to stop at.
        iterations: most proximal steps.
        local_runs, local_width, local_steps: networks trained by Adam and L-BFGS to compare with.
        memory: bytes that the n x N features may take.
        block: proximal steps a step.
    """

    neurons: int = 1000
    tolerance: float = 1e-5
    iterations: int = 20_000
    local_runs: int = 0
    local_width: int = 100
    local_steps: int = 1000
    memory: int = 2 << 30
    block: int = 50
    horizon: int | None = None

    def __post_init__(self) -> None:
        for name in ("neurons", "iterations", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected an integer >= 1")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}; expected a number > 0")

    def init(self, problem: PatternProgram, start: Network | None, streams: Streams) -> SampledState:
        if problem.robust:
            raise ValueError(
                "the sampled program does not train against perturbations; take program 'cone' with a radius"
            )
        n = len(problem.features)
        if 8 * n * self.neurons + 8 * min(n, self.neurons) ** 2 > self.memory:
            raise MemoryError(
                f"{self.neurons} neurons on {n} rows need {8 * n * self.neurons / 2**30:.2f} GiB, more than the "
                f"{self.memory / 2**30:.2f} GiB allowed; draw fewer neurons or raise memory"
            )
        a = problem.features.new_zeros(problem.targets.shape[1], self.neurons)
        state = SampledState(streams=streams, a=a, ahead=a)
        state.local_hidden, state.local_output = train_beside(
            problem, streams, self.local_runs, self.local_width, self.local_steps
        )
        return state

    def directions(self, problem: PatternProgram, state: SampledState) -> Tensor:
        """The drawn unit directions (N, d); the first hundred of a thousand are the hundred of a smaller run."""
        lots = direction_lots(problem.features.shape[1], state.streams, "neuron", like=problem.features)
        return unit(torch.cat([next(lots) for _ in range(-(-self.neurons // LOT))])[: self.neurons])

    def _lasso(self, problem: PatternProgram, state: SampledState) -> Lasso:
        if state.lasso is None:
            A = (problem.features @ self.directions(problem, state).T).clamp(min=0)
            state.lasso = Lasso(A, problem.targets.T.contiguous(), problem.loss, problem.weight)
        return state.lasso

    def step(self, problem: PatternProgram, state: SampledState) -> SampledState:
        lasso = self._lasso(problem, state)
        for _ in range(state.room(self.block)):
            if state.done:
                break
            state.a, state.ahead, state.momentum = lasso.step(state.a, state.ahead, state.momentum)
            state.k += 1
            state.count(iteration=1)
            if state.k % CHECK_EVERY == 0 or state.k >= self.iterations:
                self._bound(lasso, state)
        return state

    def _bound(self, lasso: Lasso, state: SampledState) -> None:
        state.upper = lasso.objective(state.a)
        lower, z = lasso.dual(state.a)
        if state.z is None or lower > state.lower:
            state.lower, state.z = lower, z
        gap = gap_of(state.upper, state.lower)
        state.done = gap <= self.tolerance or state.k >= self.iterations
        if gap > self.tolerance and state.done:
            state.why = f"the lasso's gap is {gap:.2g} after {state.k} iterations"

    def look(self, state: SampledState) -> Look:
        gap = gap_of(state.upper, state.lower) if state.z is not None else 1.0
        row = {"objective": state.upper, "gap": gap, "upper": state.upper, "lower": state.lower}
        ended = Status.CONVERGED if state.done and not state.why else Status.STOPPED if state.done else None
        return Look(row, ended, state.why)

    def answer(self, problem: PatternProgram, state: SampledState) -> Network:
        column, place = torch.nonzero(state.a, as_tuple=True)
        root = state.a[column, place].abs().sqrt()
        output = state.a.new_zeros(len(root), len(state.a))
        output[torch.arange(len(root)), column] = state.a[column, place].sign() * root
        return make_network(problem, self.directions(problem, state)[place] * root[:, None], output)

    def certify(self, problem: PatternProgram, state: SampledState) -> Certificate:
        from surefoot.convex_networks.certify_sampled import certify_sampled

        self._bound(self._lasso(problem, state), state)  # of the point that is the answer
        return certify_sampled(problem, self.answer(problem, state), state, self)


@dataclass(frozen=True)
class Sampled:
    """A network with drawn hidden directions, and the bounds of its lasso.

    Attributes:
        network: it has `upper` as its regularised loss.
        upper, lower: lasso objective, and a dual bound below every network with *these* directions (or fewer).
        iterations: proximal steps taken.
    """

    network: Network
    upper: float
    lower: float
    iterations: int


def train_sampled(
    problem: PatternProgram, neurons: int, *, seed: int = 0, tolerance: float = 1e-5, iterations: int = 20_000
) -> Sampled:
    """Draw unit directions and solve the lasso over their neurons; `solve` with `SampledTraining` gives a certificate beside it.

    Args:
        problem: with a smooth loss.
        neurons: N, directions drawn.
        tolerance: relative primal-dual gap to stop at.
        iterations: most proximal steps.

    Raises:
        ValueError: neurons < 1, or a loss with kinks.
    """
    method = SampledTraining(neurons=neurons, tolerance=tolerance, iterations=iterations)
    state = method.init(problem, None, Streams(seed))
    while not state.done:
        state = method.step(problem, state)
    if state.why:
        warnings.warn(f"{state.why}, above the tolerance {tolerance:g}", ConvergenceWarning, stacklevel=2)
    return Sampled(method.answer(problem, state), state.upper, state.lower, state.k)
