"""The sampled convex program: directions are drawn, and only the output weights are learnt (a lasso on random ReLU features).

    min_a  loss(A a, y) + beta |a|_1,   A = (X U')_+,  U (N, d) unit rows,

by an interior point, or by accelerated proximal gradient steps with restarts where that is too large. Since |u| = 1, the network with weights u sqrt|a|, sign(a) sqrt|a| has exactly
this objective. No cones and no patterns; the optimum is that of networks with the drawn directions, above the optimum of all.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from surefoot.convex_networks.lasso import Lasso
from surefoot.convex_networks.local import train_beside
from surefoot.convex_networks.patterns import LOT, direction_lots, unit
from surefoot.convex_networks.problem import Network, PatternProgram
from surefoot.convex_networks.recovery import make_network
from surefoot.convex_networks.state import gap_of
from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams

LIGHT = 1e-6
"""Output weights below this fraction of the heaviest are left out, where that costs nothing."""

INTERIOR_SIZE = 3000
"""Rows or neurons, whichever are fewer, up to which "auto" takes the interior point."""

CHECK_EVERY = 50
"""Proximal steps between looks at the gap."""


@dataclass(kw_only=True)
class SampledState(State):
    """Where the lasso stands; the directions are drawn again from their streams."""

    a: Tensor  # (C, N) output weights, and the point extrapolated from them
    ahead: Tensor
    momentum: float = 1.0
    arrays: dict[str, Tensor] = field(default_factory=dict)  # of the interior point, by column
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
        solver: "interior", "proximal", or "auto".
        tolerance: relative primal-dual gap to stop at.
        iterations: most steps.
        local_runs, local_width, local_steps: networks trained by Adam and L-BFGS to compare with.
        memory: bytes that the n x N features may take.
        block: proximal steps a step.
    """

    neurons: int = 1000
    solver: Literal["auto", "interior", "proximal"] = "auto"
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
        interior = self.solver == "interior" or (self.solver == "auto" and min(lasso.columns.shape) <= INTERIOR_SIZE)
        for _ in range(state.room(1 if interior else self.block)):
            if state.done:
                break
            if interior:
                self._newton(lasso, state)
                continue
            state.a, state.ahead, state.momentum = lasso.step(state.a, state.ahead, state.momentum)
            state.k += 1
            state.count(iteration=1)
            if state.k % CHECK_EVERY == 0 or state.k >= self.iterations:
                self._bound(lasso, state)
        return state

    def _newton(self, lasso: Lasso, state: SampledState) -> None:
        """An interior-point step for every column; light weights are left out where that costs nothing."""
        moved = False
        a = torch.empty_like(state.a)
        for column in range(len(a)):
            names = {name: f"{name}{column}" for name in ("p", "q", "up", "down")}
            at = {name: state.arrays[key] for name, key in names.items()} if state.k else lasso.start(column)
            moved |= lasso.newton(at, column)
            state.arrays |= {key: at[name] for name, key in names.items()}
            a[column] = at["p"] - at["q"]
        heavy = a * (a.abs() > LIGHT * a.abs().amax(dim=1, keepdim=True))
        state.a = heavy if lasso.objective(heavy) <= lasso.objective(a) * (1 + 0.1 * self.tolerance) else a
        state.k += 1
        state.count(iteration=1)
        self._bound(lasso, state, a)
        if not moved and not state.done:
            state.done, state.why = True, f"the arithmetic ends at a gap of {gap_of(state.upper, state.lower):.2g}"

    def _bound(self, lasso: Lasso, state: SampledState, at: Tensor | None = None) -> None:
        """The objective of the answer, and a dual bound from the slopes at `at`."""
        state.upper = lasso.objective(state.a)
        lower, z = lasso.dual(state.a if at is None else at)
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
