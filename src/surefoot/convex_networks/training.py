"""The method: solve the program for a set of patterns, price what is missing, and go on with more.

A round is one convex program. With `pricing_rounds` = 0 the patterns stay those that were drawn; otherwise directions on which the
multipliers exceed beta bring new patterns in, patterns without weight leave, and the objective falls until nothing is missing.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.convex_networks import local
from surefoot.convex_networks.coordinate import CoordinateKernel
from surefoot.convex_networks.inner import Inner, SolverName, keep_central, keep_iterate, kept_central, kept_iterate
from surefoot.convex_networks.interior import Interior
from surefoot.convex_networks.patterns import (
    PatternSet,
    centres,
    robust_centres,
    sample_patterns,
    sample_robust_patterns,
)
from surefoot.convex_networks.pricing import all_arrangements, price, price_column
from surefoot.convex_networks.problem import Network, PatternProgram, covered_columns
from surefoot.convex_networks.recovery import (
    dual_norms,
    into_cones,
    make_network,
    network_value,
    patterns_of_network,
    program_value,
    weights_of,
    without_light,
)
from surefoot.convex_networks.robust import dual_value
from surefoot.convex_networks.state import ConvexState, gap_of
from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, Status
from surefoot.core.random import Streams
from surefoot.numerics.threads import torch_threads

log = logging.getLogger(__name__)

EXACT = 5e-5
"""Relative gap to a bound over all networks that is exact at which pricing ends: half of what is claimed then."""

CHECK_EVERY = 50
"""ADMM iterations between looks at the gap."""

ONE_THREAD = 1500
"""Rows up to which torch gets one thread."""


@dataclass(frozen=True)
class ConvexTraining(Method[PatternProgram, ConvexState, Network]):
    """Train a two-layer ReLU network by convex programs.

    Args:
        arrangements: hyperplanes drawn; at most so many patterns to begin with.
        pricing_rounds: most rounds of pricing; 0 keeps the drawn patterns.
        local_runs: networks trained by Adam and L-BFGS first; their patterns join, and they are reported beside the answer.
        local_width, local_steps: of those.
        polish: their patterns, and those of a network given as start, join the first program, which can then only improve on them.
        solver: "interior", "admm", "published" (Algorithm 3.1, squared loss), "coordinate" (Algorithm 3.2), or "auto".
        tolerance: relative primal-dual gap at which a program counts as solved.
        global_tolerance: relative gap to the global bound at which pricing ends; where all arrangements are visited, `EXACT` at most.
        iterations: most iterations of one program.
        candidates: patterns added in a round.
        rho: penalty of ADMM to start with; it balances itself (not in the published variant).
        memory: bytes that the inner solver may take; scratch is worked off in lots, the interior-point solver's multipliers (patterns
            times rows) go to a mapped file beyond it, and what still does not fit is refused.
        block: inner iterations a step.
    """

    arrangements: int = 100
    pricing_rounds: int = 0
    local_runs: int = 0
    local_width: int = 100
    local_steps: int = 1000
    polish: bool = True
    solver: SolverName = "auto"
    tolerance: float = 1e-5
    global_tolerance: float = 5e-3
    iterations: int = 4000
    candidates: int = 100
    rho: float = 0.0
    memory: int = 2 << 30
    block: int = 10
    horizon: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("arrangements", 1),
            ("iterations", 1),
            ("candidates", 1),
            ("local_width", 1),
            ("block", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected an integer >= {least}")
        for name in ("pricing_rounds", "local_runs", "rho"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number >= 0")
        for name in ("tolerance", "global_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number > 0")

    # ---- the five verbs ----------------------------------------------------------------------------------------
    def init(self, problem: PatternProgram, start: Network | None, streams: Streams) -> ConvexState:
        X = problem.features
        state = ConvexState(streams=streams, directions=X.new_zeros(0, X.shape[1]))
        if start is not None:
            state.hidden = torch.from_numpy(start.hidden).to(X)
            state.output = torch.from_numpy(start.output).to(X)
        return state

    def step(self, problem: PatternProgram, state: ConvexState) -> ConvexState:
        if state.phase == "done":
            return state
        with self._threads(problem):
            if state.phase == "begin":
                self._begin(problem, state)
            # an interior-point iteration is a block of work in itself
            for _ in range(
                state.room(1 if self.inner.chosen(problem, len(state.directions)) == "interior" else self.block)
            ):
                if self._iterate(problem, state):
                    self._close(problem, state)
                    if state.phase == "done":
                        break
        return state

    @staticmethod
    def _threads(problem: PatternProgram) -> AbstractContextManager[None]:
        """One thread for tables on which a second one waits more than it works."""
        return torch_threads(1) if len(problem.features) <= ONE_THREAD else nullcontext()

    def look(self, state: ConvexState) -> Look:
        row = {
            "round": float(state.round), "patterns": float(len(state.directions)), "objective": state.objective,
            "gap": state.estimate if np.isfinite(state.estimate) else 1.0,
        }  # fmt: skip
        if np.isfinite(state.upper) and state.phase != "begin":
            row |= {"upper": state.upper, "lower": state.lower}
        if np.isfinite(state.global_lower):
            row["global_lower"] = state.global_lower
        done = state.phase == "done"
        return Look(row, Status.CONVERGED if done and not state.why else Status.STOPPED if done else None, state.why)

    def answer(self, problem: PatternProgram, state: ConvexState) -> Network:
        if state.hidden is None or state.output is None:
            self._settle(problem, state)
        assert state.hidden is not None
        assert state.output is not None
        return make_network(problem, state.hidden, state.output)

    def certify(self, problem: PatternProgram, state: ConvexState) -> Certificate:
        from surefoot.convex_networks.certify import certify_training

        with self._threads(problem):
            if state.v is None or (state.phase != "done" and state.inner):
                self._settle(problem, state)
            return certify_training(problem, self.answer(problem, state), state, self)

    # ---- rounds ------------------------------------------------------------------------------------------------
    def _begin(self, problem: PatternProgram, state: ConvexState) -> None:
        X = problem.features
        if problem.robust:
            if covered := covered_columns(problem):
                log.warning(
                    "the radius reaches across half the range of column%s %s: any row may take any other's value there, and nothing can "
                    "be learnt from it; choose a smaller radius",
                    "s" if len(covered) > 1 else "", ", ".join(map(repr, covered)),
                )  # fmt: skip
            found, looked = sample_robust_patterns(X, self._radii(problem), self.arrangements, state.streams)
            log.info("%d patterns keep off every row's perturbations, of %d looked at", len(found), looked)
        else:
            found = sample_patterns(X, self.arrangements, state.streams)
            if len(found) < self.arrangements:
                log.info("only %d patterns were found of the %d asked for", len(found), self.arrangements)
        trained = local.train_beside(problem, state.streams, self.local_runs, self.local_width, self.local_steps)
        state.local_hidden, state.local_output = trained
        if state.local_hidden is not None and state.local_output is not None:
            for hidden, output in zip(state.local_hidden, state.local_output, strict=True):
                self._offer(state, hidden, output, network_value(problem, hidden, output))
        if state.hidden is not None and state.output is not None:
            value = network_value(problem, state.hidden, state.output)
            state.objective = min(state.objective, value)
            if self.polish:
                near = patterns_of_network(X, state.hidden, state.streams.numpy("jitter", 0), copies=1)
                found.add(self._usable(problem, near))
        if len(found) == 0 and problem.robust:
            raise ValueError(
                "no hyperplane was found that keeps off every row's perturbations; lower the radius, or add a bias column"
            )
        if len(found) == 0:
            raise ValueError("no hyperplane separates the rows: every pattern drawn is empty")
        self._open(problem, state, found.directions)

    @staticmethod
    def _radii(problem: PatternProgram) -> Tensor:
        assert problem.radii is not None
        return problem.radii.to(problem.features)

    def _usable(self, problem: PatternProgram, directions: Tensor) -> Tensor:
        """Directions with a cone to move in: all, or with radii those whose robust cone is not empty."""
        if not problem.robust or len(directions) == 0:
            return directions
        fresh = PatternSet(problem.features, directions)
        return robust_centres(problem.features, self._radii(problem), fresh.directions)

    def _open(self, problem: PatternProgram, state: ConvexState, directions: Tensor) -> None:
        state.directions = directions if problem.robust else centres(problem.features, directions)
        state.inner, state.arrays, state.solver, state.phase = 0, {}, None, "solve"
        state.v = state.z = state.p = state.spread = state.tilt = None
        state.estimate = float("inf")

    def _close(self, problem: PatternProgram, state: ConvexState) -> None:
        """A program is solved: recover, bound, price, and open the next round or finish."""
        self._settle(problem, state)
        assert state.v is not None
        if state.estimate > self.tolerance * 10:
            state.why = f"the program's gap stayed at {state.estimate:.2g} after {state.inner} iterations"
        if problem.robust and self.pricing_rounds:
            self._close_robust(problem, state)
        elif self.pricing_rounds:
            self._close_plain(problem, state)
        else:
            state.phase = "done"
        if problem.robust and state.phase == "done":
            _say_if_flat(problem, state)

    def _close_plain(self, problem: PatternProgram, state: ConvexState) -> None:
        assert state.v is not None
        fresh = self._price(problem, state)
        gap = gap_of(state.objective, state.global_lower)
        wanted = min(self.global_tolerance, EXACT) if state.exact else self.global_tolerance
        log.info("round %d: %d patterns, gap %.2e", state.round, len(state.directions), gap)
        if gap <= wanted or len(fresh) == 0 or state.round >= self.pricing_rounds:
            state.phase = "done"
            if gap > wanted and not state.why:
                state.why = f"the gap to the global bound is {gap:.2g} after {state.round} rounds"
            return
        size = torch.linalg.vector_norm(state.v, dim=-1)
        kept = (size > 1e-3 * size.max()).any(dim=0).any(dim=0)
        following = PatternSet(problem.features, state.directions[kept])
        if following.add(fresh, self.candidates) == 0:
            state.phase, state.why = "done", "pricing found only patterns that are there already"
            return
        state.round += 1
        self._open(problem, state, following.directions)

    def _close_robust(self, problem: PatternProgram, state: ConvexState) -> None:
        """Directions on which the multipliers price high, moved off the rows' perturbations, are tried as patterns.

        Their cones restrict them, so that their price bounds nothing: rounds end when one brings less than `global_tolerance`.
        """
        X, beta = problem.features, problem.weight
        assert state.z is not None
        assert state.v is not None
        gained = (state.before - state.upper) / max(abs(state.upper), np.finfo(float).tiny)
        if state.round >= self.pricing_rounds or (state.round and gained < self.global_tolerance):
            state.phase = "done"
            return
        size = torch.linalg.vector_norm(state.v, dim=-1)
        kept = (size > 1e-4 * size.max()).any(dim=0).any(dim=0)
        following = PatternSet(X, state.directions[kept])
        seen = PatternSet(X, state.directions)
        for column, z in enumerate(state.z):
            found = price(X, z, self._starts(problem, state, column), beta, 4 * self.candidates).directions
            drawn = torch.from_numpy(
                state.streams.numpy("robust", state.round, column).standard_normal((256, X.shape[1]))
            )
            fresh = self._usable(problem, torch.cat([found, drawn.to(X)]))
            worth = torch.argsort(((fresh @ X.T).clamp(min=0) @ z).abs(), descending=True)
            seen_before = len(seen)
            seen.add(fresh[worth], self.candidates)
            following.add(seen.directions[seen_before:])
        if len(following) == int(kept.sum()):
            state.phase = "done"
            return
        log.info("round %d: %d patterns, worst-case loss %.6g", state.round, len(state.directions), state.upper)
        state.before = state.upper
        state.round += 1
        self._open(problem, state, following.directions)

    def _price(self, problem: PatternProgram, state: ConvexState) -> Tensor:
        """Bounds over all patterns for the multipliers at hand; returns directions worth adding."""
        X, beta = problem.features, problem.weight
        assert state.z is not None
        exact = all_arrangements(X)
        found: list[Tensor] = []
        largest, where, lower = [], [], 0.0
        for column, z in enumerate(state.z):
            starts = self._starts(problem, state, column)
            priced = price_column(X, z, starts, beta * (1 + 1e-6), self.candidates, exact)
            top, best = priced.upper, priced.best
            found.append(priced.directions)
            theta = min(1.0, beta / max(top, np.finfo(float).tiny))
            lower -= float(problem.loss.conjugate(-theta * z, problem.targets[:, column]).sum())
            largest.append(top)
            where.append(best / torch.linalg.vector_norm(best))
        if lower >= state.global_lower or state.largest is None:  # bounds need not improve from round to round
            state.global_lower, state.exact, state.bound_z = lower, exact, state.z
            state.largest, state.where = torch.tensor(largest, dtype=X.dtype), torch.stack(where)
        missing = torch.cat(found)
        if len(missing) == 0:
            return missing
        jitter = torch.from_numpy(state.streams.numpy("jitter", 1 + state.round).standard_normal(tuple(missing.shape)))
        return missing + 1e-6 * jitter.to(X)

    def _starts(self, problem: PatternProgram, state: ConvexState, column: int) -> Tensor:
        X = problem.features
        drawn = state.streams.numpy("price", state.round, column).standard_normal((300, X.shape[1]))
        parts = [torch.from_numpy(drawn).to(X)]
        if state.v is not None:
            size = torch.linalg.vector_norm(state.v[column], dim=-1)
            parts.append(state.v[column][size > 1e-3 * size.max()][:300])
        return torch.cat([part for part in parts if len(part)])

    # ---- the inner solver --------------------------------------------------------------------------------------
    @property
    def inner(self) -> Inner:
        """The part of the options that one program needs."""
        return Inner(self.solver, self.memory, self.rho)

    def _solver(self, problem: PatternProgram, state: ConvexState) -> Any:
        if state.solver is None:
            state.solver = self.inner.make(problem, state)
        return state.solver

    def _iterate(self, problem: PatternProgram, state: ConvexState) -> bool:
        """One inner iteration; True when this program is finished."""
        solver = self._solver(problem, state)
        state.k += 1
        state.inner += 1
        state.count(iteration=1)
        if isinstance(solver, list):
            return self._iterate_interior(solver, state)
        first = not state.arrays
        at = solver.start(self.inner.first_rho(problem, len(state.directions))) if first else kept_iterate(state)
        if isinstance(solver, CoordinateKernel):
            solver.step(at, state.inner, state.streams)
        else:
            solver.iteration = state.inner
            measure = state.inner % 25 == 0
            solver.step(at, measure)
            if measure and not solver.published and state.inner <= 0.6 * self.iterations:
                r = solver.residuals
                primal, dual = r.primal / max(r.primal_scale, 1e-300), r.dual / max(r.dual_scale, 1e-300)
                if primal > 5 * dual:
                    solver.rescale(at, 2.0)
                elif dual > 5 * primal:
                    solver.rescale(at, 0.5)
        keep_iterate(state, at, solver.scores)
        if state.inner % CHECK_EVERY == 0 or state.inner >= self.iterations:
            upper = program_value(problem, state.directions, at.v)
            z, p = solver.multipliers(at)
            lower, _ = self._lower(problem, state.directions, z, z.abs(), None, p)
            if gap_of(upper, lower) <= 0.5 * self.tolerance or state.inner >= self.iterations:
                self._settle(problem, state)  # the iterate bends its cones a little: now on a feasible point
                return state.estimate <= self.tolerance or state.inner >= self.iterations
            state.estimate = max(gap_of(upper, lower), self.tolerance)
        return False

    def _iterate_interior(self, solvers: list[Interior], state: ConvexState) -> bool:
        points = [solver.start() if not state.arrays else kept_central(state, c) for c, solver in enumerate(solvers)]
        upper = lower = 0.0
        for solver, at in zip(solvers, points, strict=True):
            bounds = solver.bounds(at) if at.done else solver.step(at, 0.5 * self.tolerance)
            upper, lower = upper + bounds[0], lower + bounds[1]
        state.estimate, state.upper, state.lower = gap_of(upper, lower), upper, lower
        keep_central(state, points)
        return bool(state.arrays["done"].all()) or state.inner >= self.iterations

    # ---- bounds ------------------------------------------------------------------------------------------------
    def _settle(self, problem: PatternProgram, state: ConvexState) -> None:
        """A feasible point, multipliers and a network from where the inner solver stands."""
        if state.phase == "begin":
            self._begin(problem, state)
        solver = self._solver(problem, state)
        X, P = problem.features, len(state.directions)
        spread = tilt = None
        if isinstance(solver, list):
            if not state.arrays:
                self._iterate_interior(solver, state)
            points = [kept_central(state, c) for c in range(len(solver))]
            v = torch.stack([at.u.reshape(2, P, -1) for at in points])
            parts = [each.multipliers(at) for each, at in zip(solver, points, strict=True)]
            z = torch.stack([part[0] for part in parts])
            spread = torch.stack([part[1] for part in parts])
            tilt = torch.stack([part[2] for part in parts if part[2] is not None]) if problem.robust else None
            p = points[0].p[None] if len(points) == 1 else torch.stack([at.p for at in points])
            light = without_light(v, 1e-4 if self.pricing_rounds else 1e-6)
            value = program_value(problem, state.directions, v)
            if program_value(problem, state.directions, light) <= value * (1 + 0.1 * self.tolerance):
                v = light
            raw = v
        else:
            at = kept_iterate(state) if state.arrays else solver.start(self.inner.first_rho(problem, P))
            raw = without_light(at.v)
            v = into_cones(X, state.directions, raw)
            z, p = solver.multipliers(at)
        state.lower, theta = self._lower(problem, state.directions, z, z.abs() if spread is None else spread, tilt, p)
        state.v, state.p, state.z = v, p, z * theta[:, None]
        state.scale = theta
        state.spread = None if spread is None else spread * theta[:, None]
        state.tilt = None if tilt is None else tilt * theta[:, None, None]
        state.upper = program_value(problem, state.directions, v)
        state.estimate = gap_of(state.upper, state.lower)
        for blocks in (v, raw):
            hidden, output = weights_of(blocks)
            self._offer(state, hidden, output, network_value(problem, hidden, output))

    def _lower(
        self, problem: PatternProgram, directions: Tensor, z: Tensor, spread: Tensor, tilt: Tensor | None, p: Tensor
    ) -> tuple[float, Tensor]:
        """Dual value after scaling each column's multipliers until every block's are inside its ball, and the scales."""
        lower, scales = 0.0, []
        for column in range(len(z)):
            lean = None if tilt is None else tilt[column]
            top = float(dual_norms(problem, directions, z[column], lean, p[column]).max())
            scale = min(1.0, problem.weight / max(top * (1 + 1e-12), 1e-300))
            lower += dual_value(problem, scale * z[column], scale * spread[column], problem.targets[:, column])
            scales.append(scale)
        return lower, torch.tensor(scales, dtype=z.dtype, device=z.device)

    @staticmethod
    def _offer(state: ConvexState, hidden: Tensor, output: Tensor, value: float) -> None:
        if value <= state.objective:
            state.objective, state.hidden, state.output = value, hidden, output


def _say_if_flat(problem: PatternProgram, state: ConvexState) -> None:
    """Warn where robust training has left next to nothing of the dependence on the rows."""
    assert state.hidden is not None
    assert state.output is not None
    scores = (problem.features @ state.hidden.T).clamp(min=0) @ state.output
    moves = float((scores.amax(dim=0) - scores.amin(dim=0)).max())
    if moves < 0.05 * float((problem.targets.amax(dim=0) - problem.targets.amin(dim=0)).max()):
        log.warning(
            "the network is almost constant (its scores differ by %.2g over the rows): against perturbations of this size "
            "little can be learnt; choose a smaller radius",
            moves,
        )
