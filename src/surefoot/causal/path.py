"""The central path as a method: stages of decreasing score weight, each a run of the inner loop.

    for k = 0 .. T-1:  minimise  mu_k Score(W, sigma) + h_{s_k}(W),   mu_k = mu_0 factor^k,   W warm-started.

A step of the method is a block of iterations of the inner loop. A stage that leaves the domain of `h` starts again from its
entry point with half the rate and s + 0.1.

References:
    Saboksayr, Mateos, Tepper, CoLiDE: Concomitant Linear DAG Estimation, ICLR 2024.
    Bello, Aragam, Ravikumar, DAGMA, NeurIPS 2022 (the path and the log-det function).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.causal.dag import Repair, to_dag, topological_order
from surefoot.causal.kernel import Event, InnerLoop, Position, Solver, Stage
from surefoot.causal.problem import Dag, Refine, Table, Variance
from surefoot.causal.repair import repair_order
from surefoot.causal.score import noise_levels, residual_variances, start_levels
from surefoot.core.method import Look, Method, State, Status, transient

if TYPE_CHECKING:
    from surefoot.core.certificate import Certificate
    from surefoot.core.random import Streams

Array = np.ndarray[Any, np.dtype[np.float64]]
MAX_RESTARTS = 60
"""Halvings of the rate of one stage before the run is given up: 3e-4 / 2^60 moves nothing any more."""


@dataclass(kw_only=True)
class PathState(State):
    """Where the path stands; everything but `loop` is saved."""

    records = (Position,)
    position: Position
    entry_weights_in: Array
    entry_noise_std: Array
    stage: int = 0
    restarts: int = 0
    scale_added: float = 0.0
    objectives: list[float] = field(default_factory=list)
    loop: InnerLoop | None = transient()  # noqa: RUF009 (it is dataclasses.field)


@dataclass(frozen=True)
class ConcomitantPath(Method[Table, PathState, Dag]):
    """CoLiDE's central path.

    Args:
        variance: "unequal" (one noise level a variable) or "equal" (one for all).
        sparsity: weight of the l1 term.
        acyclicity_scales: s of each stage, decreasing; their number is the number of stages.
        first_centre, centre_factor: mu of the first stage, and its factor from stage to stage.
        warm_steps, last_steps: most iterations of a stage, and of the last one.
        learning_rate: step length of Adam at the start of each stage.
        checkpoint, tolerance: a stage ends when the objective changed by at most this fraction over so many iterations.
        solver: "adam" takes `lam sign(W)` as a subgradient, as published; "proximal" soft-thresholds and gives exact zeros.
        threshold: edges with `|w|` up to this are dropped.
        repair: how cycles left after the threshold are broken: "cycles" deletes the weakest edge on a cycle, "ascending" the
            weakest edge of all, as published.
        refine: "order" replaces the order by the greedy equal-variance one where that has the smaller excess, and fits again.
        block: iterations in one step of the method (None: some hundredths of a second's worth); it does not change the result.
    """

    variance: Variance = "unequal"
    sparsity: float = 0.05
    acyclicity_scales: tuple[float, ...] = (1.0, 0.9, 0.8, 0.7)
    first_centre: float = 1.0
    centre_factor: float = 0.1
    warm_steps: int = 20_000
    last_steps: int = 70_000
    learning_rate: float = 3e-4
    checkpoint: int = 1000
    tolerance: float = 1e-6
    solver: Solver = "adam"
    threshold: float = 0.3
    repair: Repair = "cycles"
    refine: Refine = "none"
    block: int | None = None
    horizon: int | None = None
    private: bool = False

    def __post_init__(self) -> None:
        choices = {
            "variance": ("equal", "unequal"),
            "solver": ("adam", "proximal"),
            "repair": ("cycles", "ascending"),
            "refine": ("none", "order"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if not self.acyclicity_scales or min(self.acyclicity_scales) <= 0.0:
            raise ValueError(
                f"acyclicity_scales is {self.acyclicity_scales}; expected one positive number for each stage"
            )
        for name in ("sparsity", "threshold", "tolerance"):
            value = getattr(self, name)
            if not 0.0 <= value < np.inf:
                raise ValueError(f"{name} is {value}; expected a finite number >= 0")
        for name in ("first_centre", "centre_factor", "learning_rate"):
            value = getattr(self, name)
            if not 0.0 < value < np.inf:
                raise ValueError(f"{name} is {value}; expected a finite number > 0")
        for name in ("warm_steps", "last_steps", "checkpoint", "block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected a whole number >= 1")
        if self.refine == "order" and self.variance != "equal":
            raise ValueError(
                "refine='order' rests on equal noise variances; use variance='equal' with it, or refine='none'"
            )

    # ---- the five verbs --------------------------------------------------------------------------------------

    def init(self, problem: Table, start: Dag | None, streams: Streams) -> PathState:
        """Start from W = 0 and the columns' own spreads, or from the weights of `start`."""
        noise, floor = start_levels(problem.covariance, self.variance)
        weights_in = np.zeros((problem.order, problem.order))
        if start is not None:
            weights_in = np.ascontiguousarray(start.adjacency.T, dtype=np.float64)
            noise = noise_levels(residual_variances(problem.covariance, start.adjacency), self.variance, floor)
        state = PathState(
            streams=streams,
            position=self._enter(weights_in, noise, self.acyclicity_scales[0], self.learning_rate),
            entry_weights_in=weights_in.copy(),
            entry_noise_std=noise.copy(),
        )
        state.loop = self._loop(problem)
        return state

    def step(self, problem: Table, state: PathState) -> PathState:
        """`block` iterations of the inner loop, or fewer where a stage ends or starts again."""
        if state.loop is None:
            state.loop = self._loop(problem)
        before = state.position.step
        block = self.block or max(10, min(1000, 20_000 // problem.order))
        room = min(state.room(block), self._stage(state).steps)
        event = state.loop.advance(state.position, self._stage(state), room)
        done = state.position.step - before
        state.k += done
        state.count(gradient=done)
        if event is Event.STAGE_DONE:
            self._next_stage(state)
        elif event is Event.LEFT_DOMAIN:
            self._restart(state)
        return state

    def look(self, state: PathState) -> Look:
        """Stage, objective at its last checkpoint, noise levels, step length."""
        finished = state.stage == len(self.acyclicity_scales)
        row = {
            "stage": float(state.stage),
            "stage_step": float(state.position.step),
            "noise": float(state.position.noise_std.mean()),
            "learning_rate": state.position.learning_rate,
        }
        objective = state.position.objective
        if objective == 1e16 and state.objectives:
            objective = state.objectives[-1]
        if objective != 1e16:
            row["objective"] = objective
        if not np.isfinite(state.position.noise_std).all():
            return Look(row, Status.DIVERGED, "a noise level stopped being finite")
        if state.restarts > MAX_RESTARTS:
            return Look(row, Status.SEARCH_FAILED, "the weights leave the domain of the log-det function at every rate")
        return Look(row, Status.CONVERGED if finished else None, "all stages of the path are done" if finished else "")

    def answer(self, problem: Table, state: PathState) -> Dag:
        """Threshold, repair of cycles, causal order; with `refine="order"` the repaired order and its refit."""
        weights = state.position.weights_in.T.copy()
        known = problem.knowledge
        adjacency = to_dag(weights, self.threshold, self.repair, known.required)
        order = causal_order(problem, adjacency)
        fitted = weights
        if self.refine == "order":
            order, adjacency = repair_order(problem.covariance, problem.rows, order, self.threshold, known)
            fitted = adjacency
        floor = start_levels(problem.covariance, self.variance)[1]
        noise = noise_levels(residual_variances(problem.covariance, fitted), self.variance, floor)
        return Dag(adjacency, noise, tuple(order), problem.names)

    def certify(self, problem: Table, state: PathState) -> Certificate:
        """Claims about the answer with their evidence; see `certify.py`."""
        from surefoot.causal.certify import certify_dag

        last = len(self.acyclicity_scales) - 1
        return certify_dag(
            problem,
            self.answer(problem, state),
            variance=self.variance,
            sparsity=self.sparsity,
            refine=self.refine,
            self_edges=self.solver == "adam" and problem.knowledge.allowed is None,
            path_weights=state.position.weights_in.T.copy(),
            centre=self.first_centre * self.centre_factor ** min(state.stage, last),
            acyclicity_scale=state.position.acyclicity_scale,
            finished=state.stage > last,
        )

    # ---- stages ----------------------------------------------------------------------------------------------

    def _loop(self, problem: Table) -> InnerLoop:
        floor = start_levels(problem.covariance, self.variance)[1]
        known = problem.knowledge
        allowed = None if known.allowed is None else known.allowed.astype(np.float64)
        if allowed is None and self.solver == "proximal":
            allowed = 1.0 - np.eye(problem.order)
        penalised = None if known.required is None else (~known.required).astype(np.float64)
        return InnerLoop(problem.covariance, self.sparsity, floor, self.solver, allowed, penalised)

    def _stage(self, state: PathState) -> Stage:
        last = len(self.acyclicity_scales) - 1
        return Stage(
            centre=self.first_centre * self.centre_factor**state.stage,
            steps=self.last_steps if state.stage >= last else self.warm_steps,
            checkpoint=self.checkpoint,
            tolerance=self.tolerance,
        )

    @staticmethod
    def _enter(weights_in: Array, noise: Array, scale: float, rate: float) -> Position:
        zero = np.zeros_like(weights_in)
        return Position(weights_in.copy(), noise.copy(), zero, zero.copy(), zero.copy(), rate, scale)

    def _next_stage(self, state: PathState) -> None:
        position = state.position
        state.objectives.append(position.objective)
        state.stage += 1
        if state.stage == len(self.acyclicity_scales):
            return
        state.restarts, state.scale_added = 0, 0.0
        state.entry_weights_in, state.entry_noise_std = position.weights_in.copy(), position.noise_std.copy()
        scale = self.acyclicity_scales[state.stage]
        state.position = self._enter(position.weights_in, position.noise_std, scale, self.learning_rate)

    def _restart(self, state: PathState) -> None:
        state.restarts += 1
        state.scale_added += 0.1
        scale = self.acyclicity_scales[state.stage] + state.scale_added
        rate = self.learning_rate / 2.0**state.restarts
        state.position = self._enter(state.entry_weights_in, state.entry_noise_std, scale, rate)
        state.count(restart=1)


def causal_order(problem: Table, adjacency: Array) -> list[int]:
    """An order of an acyclic graph that also respects the knowledge; variables of small variance first where free."""
    before = problem.knowledge.before
    edges = adjacency != 0 if before is None else (adjacency != 0) | before
    order = topological_order(edges, np.diag(problem.covariance))
    if order is None:
        raise ValueError("the graph has a cycle together with the required edges and tiers")
    return order
