"""Equilibrium seeking: all players step at once along their own gradients, with a step that is certified beforehand.

    x_i <- Proj_{X_i}( x_i - h F_i(x) )                                                    projected Euler
    x   <- Proj_X( x + h (k_1 + 2 k_2 + 2 k_3 + k_4) / 6 ),  k = -F at the four stages      Runge-Kutta

Boxes are projected onto blockwise, which is the projection of every weighted norm with one weight a player.

References:
    V. Sharma, "Small-Gain Nash: Certified Contraction to Nash Equilibria in Differentiable Games", arXiv 2512.06791.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams
from surefoot.games.certify import certify_play
from surefoot.games.certify_metrics import paired_step
from surefoot.games.field import Field
from surefoot.games.problem import SmoothGame
from surefoot.games.region import RegionBounds, bound_region
from surefoot.games.small_gain import (
    best_weights,
    classical_steps,
    euler_steps,
    lipschitz,
    margin,
    per_player_steps,
    perron_margin,
    published_weights,
)
from surefoot.games.stages import Stages, enlarge

Array = np.ndarray[Any, np.dtype[Any]]
PATH = 48
"""So many first iterates are kept as evidence of the contraction."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What the certificate of the region says about the steps to take.

    Args:
        region: bounds on the cells.
        step: lengths (d,), one a strategy.
        vector, factor: v and q with T v <= q v for these steps; q = 1 where nothing is certified.
        weights: where play contracts in |x|_w^2 = sum w_i |x_i|^2 instead (paired couplings, Runge-Kutta).
        stages: the bounds that RK4's stages need.
    """

    field: Field
    region: RegionBounds
    step: Array
    vector: Array
    factor: float
    weights: Array | None = None
    stages: Stages | None = None

    def error(self, move: Array) -> float:
        """The distance to the equilibrium that the last move of every player (N,) leaves possible."""
        if self.factor >= 1:
            return math.inf
        if self.weights is not None:
            w = self.weights
            return math.sqrt(float((w * move**2).sum()) / float(w.min())) * self.factor / (1 - self.factor)
        return float((move / self.vector).max() / (1 - self.factor))


@dataclass(kw_only=True)
class PlayState(State):
    """x (d,), the residual of the last step, its certified error, and the first iterates."""

    x: Array
    residual: float = math.inf
    error: float = math.inf
    path: list[Array]
    plan: Plan | None = transient()  # noqa: RUF009 (it is dataclasses.field)


@dataclass(frozen=True)
class ProjectedPlay(Method[SmoothGame, PlayState, Array]):
    """Simultaneous projected gradient play.

    Args:
        integrator: one gradient a step, or four (Runge-Kutta).
        step_length: None takes the certified best one (for "rk4": its best per-step contracting one).
        compat: "paper" takes weights from the published grid (two players; none is published for more, who keep the Perron weights)
            and the published lengths: alpha / beta^2 for Euler steps, the asymptotic guideline 2.5 / beta for RK4. What is certified
            about them is the same.
        rates: one length for all players, or 2 / (mu_i + ell_i) for each.
        tolerance: stop once the certified error (without a certificate: the last move) is below it.
        cells, share: budget and target of the subdivision (see `bound_region`).
        block: rounds a step; changes the pace of checkpoints, never the result.
    """

    integrator: Literal["euler", "rk4"] = "euler"
    step_length: float | None = None
    rates: Literal["common", "per-player"] = "common"
    tolerance: float = 1e-9
    cells: int = 512
    share: float = 0.5
    block: int = 100
    compat: Literal["", "paper"] = ""
    horizon: int | None = None

    def __post_init__(self) -> None:
        if self.step_length is not None and not self.step_length > 0:
            raise ValueError(f"step_length is {self.step_length}; expected a positive number or None")
        if self.integrator not in ("euler", "rk4") or self.rates not in ("common", "per-player"):
            raise ValueError(f"unknown integrator {self.integrator!r} or rates {self.rates!r}")
        if self.rates == "per-player" and (self.integrator == "rk4" or self.step_length is not None):
            raise ValueError("per-player rates go with the Euler integrator and without step_length")
        if self.cells < 1 or not 0 <= self.share < 1 or self.block < 1:
            raise ValueError("expected cells >= 1, 0 <= share < 1 and block >= 1")

    def init(self, problem: SmoothGame, start: Array | None, streams: Streams) -> PlayState:
        """Start within the strategy sets: given, or off the middle of the region."""
        x = _start(problem) if start is None else np.array(start, dtype=np.float64)
        if x.shape != (problem.size,) or not np.isfinite(x).all():
            raise ValueError(f"the start has shape {x.shape}; expected {problem.size} finite numbers")
        if (x != problem.project(x)).any():
            raise ValueError("the start lies outside the strategy sets")
        return PlayState(streams=streams, x=x, path=[x.copy()])

    def plan(self, problem: SmoothGame) -> Plan:
        """Bound the region and choose the step."""
        field = Field(problem)
        region = bound_region(problem, cells=self.cells, share=self.share, field=field)
        ones = np.ones(problem.size)
        if not region.certified and self.integrator == "euler" and (paired := paired_step(problem, region.bounds)):
            weights, step, factor = paired
            if self.step_length is not None:
                step, factor = self.step_length, 1.0 if self.step_length > 2 * step else factor
            return Plan(field, region, ones * step, region.vector, factor, weights)
        if not region.certified:
            # nothing is certified; a step that would be safe if the bounds at one place held everywhere
            reach = float((region.bounds.ell + region.bounds.coupling.sum(axis=-1)).max())
            return Plan(field, region, ones * (self.step_length or 0.5 / max(reach, 1e-12)), region.vector, 1.0)
        if self.compat == "paper" and self.step_length is None:
            two = len(problem.blocks) == 2
            weights = (
                published_weights(region.bounds, self.integrator) if two else best_weights(region.bounds.comparison)
            )
            steps = classical_steps(margin(region.bounds.comparison, weights), lipschitz(region.bounds, weights))
            length = steps.euler_best if self.integrator == "euler" else steps.rk4_guideline
            if self.integrator == "rk4":
                guideline = Stages(
                    length, 1.0, None, 0 * ones, region, "the step is the published guideline 2.5 / beta"
                )
                return Plan(field, region, ones * length, region.vector, 1.0, stages=guideline)
            return Plan(field, region, ones * length, *contraction(region, np.full(len(problem.blocks), length)))
        if self.integrator == "rk4":
            stages = enlarge(problem, field, region, self.step_length, cells=self.cells, share=self.share)
            return Plan(field, region, ones * stages.step, region.vector, stages.factor, stages.weights, stages)
        if self.rates == "per-player":
            each, _ = per_player_steps(region.bounds)
            step = np.repeat(each, problem.blocks)
            return Plan(field, region, step, *contraction(region, each))
        if self.step_length is not None:
            return Plan(
                field,
                region,
                ones * self.step_length,
                *contraction(region, np.full(len(problem.blocks), self.step_length)),
            )
        best = euler_steps(region.bounds)
        return Plan(field, region, ones * best.best, best.vector, best.factor)

    def step(self, problem: SmoothGame, state: PlayState) -> PlayState:
        """A block of rounds."""
        plan = state.plan = state.plan or self.plan(problem)
        for _ in range(state.room(self.block)):
            moved = self._round(problem, plan, state.x)
            move = np.sqrt(np.add.reduceat((moved - state.x) ** 2, [s.start for s in problem.slices]))
            state.residual = float(move.max())
            state.error = plan.error(move)
            state.x = moved
            if len(state.path) < PATH:
                state.path.append(moved.copy())
            state.k += 1
            state.count(gradient=4 if self.integrator == "rk4" else 1)
            if not np.isfinite(moved).all():
                state.residual = math.nan
                break
            if self._done(state, plan):
                break
        return state

    def _round(self, problem: SmoothGame, plan: Plan, x: Array) -> Array:
        F, h = plan.field.gradient, plan.step
        if self.integrator == "euler":
            return problem.project(x - h * F(x))
        k1 = -F(x)
        k2 = -F(x + 0.5 * h * k1)
        k3 = -F(x + 0.5 * h * k2)
        k4 = -F(x + h * k3)
        return problem.project(x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6)

    def _done(self, state: PlayState, plan: Plan) -> bool:
        floor = 4 * np.finfo(np.float64).eps * float(np.abs(state.x).max(initial=1e-300))
        return bool((state.error if plan.factor < 1 else state.residual) <= self.tolerance or state.residual <= floor)

    def look(self, state: PlayState) -> Look:
        """The last move and its certified error."""
        row = {"residual": state.residual}
        if math.isfinite(state.error):
            row["certified_error"] = state.error
        done = state.plan is not None and self._done(state, state.plan)
        return Look(row, Status.CONVERGED if done else None)

    def answer(self, problem: SmoothGame, state: PlayState) -> Array:
        """The strategies (d,)."""
        return state.x

    def certify(self, problem: SmoothGame, state: PlayState) -> Certificate:
        """Claims about the region, the step, and this answer."""
        plan = state.plan or self.plan(problem)
        if self.integrator == "euler":
            return certify_play(problem, plan.field, plan.region, state.x, plan.step, np.stack(state.path))
        # after Runge-Kutta play the error follows from the best projected Euler step
        length = euler_steps(plan.region.bounds).best if plan.region.certified else float(plan.step[0])
        step = np.full(problem.size, length)
        return certify_play(problem, plan.field, plan.region, state.x, step, None, plan.stages)


def contraction(region: RegionBounds, steps: Array) -> tuple[Array, float]:
    """v and q with T_s v <= q v, each player with its own step; q = 1 where it does not contract."""
    bounds = region.bounds
    own = np.maximum(np.abs(1 - steps * bounds.mu), np.abs(1 - steps * bounds.ell))
    T = own[..., None] * np.eye(len(steps)) + steps[:, None] * bounds.coupling
    value, vector = perron_margin(-T)
    return vector, min(1.0, -value)


def _start(problem: SmoothGame) -> Array:
    """Within the region, off its middle: where an equilibrium is in the middle, it is to be found."""
    if problem.region is None:
        return problem.project(np.zeros(problem.size))
    low, high = problem.region
    return problem.project(low + 0.75 * (high - low))
