"""The method: solve the program for a set of patterns, price what is missing, and go on with more.

A round is one convex program. With `pricing_rounds` = 0 the patterns stay those that were drawn; otherwise directions on which the
multipliers exceed beta bring new patterns in, patterns without weight leave, and the objective falls until nothing is missing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.convex_networks import local
from surefoot.convex_networks.coordinate import CoordinateKernel
from surefoot.convex_networks.interior import Central, Interior
from surefoot.convex_networks.kernel import Iterate, Kernel
from surefoot.convex_networks.patterns import PatternSet, centres, pattern_of, sample_patterns
from surefoot.convex_networks.pricing import Priced, all_arrangements, price, price_exactly
from surefoot.convex_networks.problem import Network, PatternProgram
from surefoot.convex_networks.recovery import (
    into_cones,
    make_network,
    network_value,
    patterns_of_network,
    program_value,
    weights_of,
    without_light,
)
from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams

log = logging.getLogger(__name__)

SolverName = Literal["auto", "interior", "admm", "published", "coordinate"]
INTERIOR_ROWS = 2500
"""Rows up to which "auto" takes the interior-point solver (its n x n matrix is factorised in every iteration)."""

CHECK_EVERY = 50
"""ADMM iterations between looks at the gap."""


def gap_of(upper: float, lower: float) -> float:
    """(upper - lower) / |upper|, 0 where both are 0."""
    return 0.0 if upper == lower else (upper - lower) / max(abs(upper), np.finfo(float).tiny)


@dataclass(kw_only=True)
class ConvexState(State):
    """Where the rounds stand; `arrays` belongs to the inner solver."""

    phase: str = "begin"
    round: int = 0
    inner: int = 0
    directions: Tensor
    arrays: dict[str, Tensor] = field(default_factory=dict)
    rho: float = 1.0
    v: Tensor | None = None  # feasible blocks of the last finished round (C, 2, P, d)
    z: Tensor | None = None  # (C, n)
    p: Tensor | None = None  # (C, 2, P, n)
    hidden: Tensor | None = None  # best network so far
    output: Tensor | None = None
    local_hidden: Tensor | None = None  # (R, m, d) networks trained locally
    local_output: Tensor | None = None
    objective: float = float("inf")
    upper: float = float("inf")
    lower: float = -float("inf")
    estimate: float = float("inf")
    global_lower: float = -float("inf")
    largest: Tensor | None = None  # (C,) bound or best value of |z'(Xu)_+|, and where (C, d)
    where: Tensor | None = None
    bound_z: Tensor | None = None  # the multipliers of the best bound over all patterns
    exact: bool = False
    why: str = ""
    solver: Any = transient()  # noqa: RUF009 - a dataclass field


@dataclass(frozen=True)
class ConvexTraining(Method[PatternProgram, ConvexState, Network]):
    """Train a two-layer ReLU network by convex programs.

    Args:
        arrangements: hyperplanes drawn; at most so many patterns to begin with.
        pricing_rounds: most rounds of pricing; 0 keeps the drawn patterns.
        local_runs: networks trained by Adam and L-BFGS first; their patterns join, and they are reported beside the answer.
        local_width, local_steps: of those.
        solver: "interior", "admm", "published" (Algorithm 3.1, squared loss), "coordinate" (Algorithm 3.2), or "auto".
        tolerance: relative primal-dual gap at which a program counts as solved.
        global_tolerance: relative gap to the global bound at which pricing ends.
        iterations: most iterations of one program.
        candidates: patterns added in a round.
        rho: penalty of ADMM to start with; it balances itself (not in the published variant).
        memory: bytes that the inner solver may take; scratch is worked off in lots, and more patterns than fit are refused.
        block: inner iterations a step.
    """

    arrangements: int = 100
    pricing_rounds: int = 0
    local_runs: int = 0
    local_width: int = 100
    local_steps: int = 1000
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
        if state.phase == "begin":
            self._begin(problem, state)
        # an interior-point iteration is a block of work in itself
        for _ in range(state.room(1 if self.chosen(problem) == "interior" else self.block)):
            if self._iterate(problem, state):
                self._close(problem, state)
                if state.phase == "done":
                    break
        return state

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

        if state.v is None or (state.phase != "done" and state.inner):
            self._settle(problem, state)
        return certify_training(problem, self.answer(problem, state), state, self)

    # ---- rounds ------------------------------------------------------------------------------------------------
    def _begin(self, problem: PatternProgram, state: ConvexState) -> None:
        X = problem.features
        found = sample_patterns(X, self.arrangements, state.streams)
        if len(found) < self.arrangements:
            log.info("only %d patterns were found of the %d asked for", len(found), self.arrangements)
        if self.local_runs:
            runs = []
            for run in range(self.local_runs):
                first = local.random_start(problem, self.local_width, state.streams.numpy("local", run))
                hidden, output, value = local.train_locally(problem, *first, steps=self.local_steps)
                runs.append((hidden, output))
                self._offer(state, hidden, output, value)
            state.local_hidden = torch.stack([h for h, _ in runs])
            state.local_output = torch.stack([o for _, o in runs])
        if state.hidden is not None and state.output is not None:
            value = network_value(problem, state.hidden, state.output)
            state.objective = min(state.objective, value)
            found.add(patterns_of_network(X, state.hidden, state.streams.numpy("jitter", 0), copies=1))
        if len(found) == 0:
            raise ValueError("no hyperplane separates the rows: every pattern drawn is empty")
        self._open(problem, state, found.directions)

    def _open(self, problem: PatternProgram, state: ConvexState, directions: Tensor) -> None:
        state.directions = centres(problem.features, directions)
        state.inner, state.arrays, state.solver, state.phase = 0, {}, None, "solve"
        state.v = state.z = state.p = None
        state.estimate = float("inf")

    def _close(self, problem: PatternProgram, state: ConvexState) -> None:
        """A program is solved: recover, bound, price, and open the next round or finish."""
        self._settle(problem, state)
        assert state.v is not None
        if state.estimate > self.tolerance * 10:
            state.why = f"the program's gap stayed at {state.estimate:.2g} after {state.inner} iterations"
        if self.pricing_rounds == 0:
            state.phase = "done"
            return
        fresh = self._price(problem, state)
        gap = gap_of(state.objective, state.global_lower)
        log.info("round %d: %d patterns, gap %.2e", state.round, len(state.directions), gap)
        if gap <= self.global_tolerance or len(fresh) == 0 or state.round >= self.pricing_rounds:
            state.phase = "done"
            if gap > self.global_tolerance and not state.why:
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

    def _price(self, problem: PatternProgram, state: ConvexState) -> Tensor:
        """Bounds over all patterns for the multipliers at hand; returns directions worth adding."""
        X, beta = problem.features, problem.weight
        assert state.z is not None
        exact = all_arrangements(X)
        found: list[Tensor] = []
        largest, where, lower = [], [], 0.0
        for column, z in enumerate(state.z):
            starts = self._starts(problem, state, column)
            searched = price(X, z, starts, beta * (1 + 1e-6), self.candidates)
            top, best = searched.value, searched.best
            if exact:
                proved: Priced = price_exactly(X, z)
                top = proved.upper
                best = proved.best if proved.value >= searched.value else best
                found.append(proved.directions)
            found.append(searched.directions)
            theta = min(1.0, beta / max(top, np.finfo(float).tiny))
            lower -= float(problem.loss.conjugate(-theta * z, problem.targets[:, column]).sum())
            largest.append(top)
            where.append(best / torch.linalg.vector_norm(best))
        if lower >= state.global_lower or state.largest is None:  # bounds need not improve from round to round
            state.global_lower, state.exact, state.bound_z = lower, exact, state.z
            state.largest, state.where = torch.tensor(largest, dtype=X.dtype), torch.stack(where)
        priced = torch.cat(found)
        if len(priced) == 0:
            return priced
        jitter = torch.from_numpy(state.streams.numpy("jitter", 1 + state.round).standard_normal(tuple(priced.shape)))
        return torch.cat([priced + 1e-6 * jitter.to(X)])

    def _starts(self, problem: PatternProgram, state: ConvexState, column: int) -> Tensor:
        X = problem.features
        drawn = state.streams.numpy("price", state.round, column).standard_normal((300, X.shape[1]))
        parts = [torch.from_numpy(drawn).to(X)]
        if state.v is not None:
            size = torch.linalg.vector_norm(state.v[column], dim=-1)
            parts.append(state.v[column][size > 1e-3 * size.max()][:300])
        return torch.cat([part for part in parts if len(part)])

    # ---- inner solvers -----------------------------------------------------------------------------------------
    def chosen(self, problem: PatternProgram) -> SolverName:
        """The inner solver that "auto" stands for."""
        if self.solver != "auto":
            return self.solver
        smooth = problem.loss_name in ("squared", "logistic")
        return "interior" if smooth and len(problem.features) <= INTERIOR_ROWS else "admm"

    def memory_needed(self, problem: PatternProgram, patterns: int) -> int:
        """Bytes of the inner solver's arrays for so many patterns, its scratch at least one pattern wide."""
        n, d = problem.features.shape
        columns, arrays = problem.targets.shape[1], 9 if self.chosen(problem) == "interior" else 3
        square = n * n if self.chosen(problem) == "interior" or n <= 5000 else 0
        return 8 * (2 * patterns * columns * (arrays * n + 6 * d) + 3 * square + n * d * d + patterns * n)

    def _solver(self, problem: PatternProgram, state: ConvexState) -> Any:
        if state.solver is not None:
            return state.solver
        X, P = problem.features, len(state.directions)
        needed = self.memory_needed(problem, P)
        if needed > self.memory:
            raise MemoryError(
                f"{P} patterns of {len(X)} rows need {needed / 2**30:.1f} GiB, more than the {self.memory / 2**30:.1f} GiB allowed; "
                "start with fewer arrangements and let pricing find the others (patterns='auto'), or raise memory"
            )
        signs = torch.where(pattern_of(X, state.directions), 1.0, -1.0).to(X)
        kind = self.chosen(problem)
        targets, loss = problem.targets.T.contiguous(), problem.loss
        if kind == "interior":
            if problem.loss_name not in ("squared", "logistic"):
                raise ValueError(f"solver 'interior' takes the losses squared and logistic, not {problem.loss_name!r}")
            state.solver = [Interior(X, signs, y, loss, problem.weight) for y in targets]
        elif kind == "coordinate":
            state.solver = CoordinateKernel(X, signs, targets, loss, problem.weight)
        else:
            rho = self._first_rho(problem)
            fit = 1.0 / rho if kind == "published" else 1.0
            if kind == "published" and problem.loss_name != "squared":
                raise ValueError("solver 'published' is Algorithm 3.1, for the squared loss only")
            lot = max(1, int((64 << 20) // (16 * len(X) * len(targets))))
            published = kind == "published"
            state.solver = Kernel(
                X, signs, targets, loss, problem.weight, 1.0 if published else 0.1, fit, lot,
                relaxation=1.0 if published else 1.6, published=published,
            )  # fmt: skip
        return state.solver

    def _first_rho(self, problem: PatternProgram) -> float:
        if self.rho:
            return self.rho
        return {"published": 0.1, "coordinate": 0.1}.get(self.chosen(problem), 10.0)

    def _iterate(self, problem: PatternProgram, state: ConvexState) -> bool:
        """One inner iteration; True when this program is finished."""
        solver = self._solver(problem, state)
        state.k += 1
        state.inner += 1
        state.count(iteration=1)
        if isinstance(solver, list):
            return self._iterate_interior(solver, state)
        first = not state.arrays
        at = solver.start(self._first_rho(problem)) if first else _unpack(state)
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
        _pack(state, at, solver.scores)
        if state.inner % CHECK_EVERY == 0 or state.inner >= self.iterations:
            upper = program_value(problem, solver.signs, at.v)
            z, p = solver.multipliers(at)
            lower, _ = self._lower(problem, solver.signs, z, p)
            if gap_of(upper, lower) <= 0.5 * self.tolerance or state.inner >= self.iterations:
                self._settle(problem, state)  # the iterate bends its cones a little: now on a feasible point
                return state.estimate <= self.tolerance or state.inner >= self.iterations
            state.estimate = max(gap_of(upper, lower), self.tolerance)
        return False

    def _iterate_interior(self, solvers: list[Interior], state: ConvexState) -> bool:
        if not state.arrays:
            points = [solver.start(state.directions) for solver in solvers]
        else:
            points = [Central(*(state.arrays[f"{name}{c}"] for name in ("u", "tau", "p", "y0", "y")),
                              done=bool(state.arrays["done"][c])) for c in range(len(solvers))]  # fmt: skip
        upper = lower = 0.0
        for solver, at in zip(solvers, points, strict=True):
            bounds = solver.bounds(at) if at.done else solver.step(at, 0.5 * self.tolerance)
            upper, lower = upper + bounds[0], lower + bounds[1]
        state.estimate, state.upper, state.lower = gap_of(upper, lower), upper, lower
        for c, at in enumerate(points):
            state.arrays |= {f"u{c}": at.u, f"tau{c}": at.tau, f"p{c}": at.p, f"y0{c}": at.y0, f"y{c}": at.y}
        state.arrays["done"] = torch.tensor([at.done for at in points])
        return bool(state.arrays["done"].all()) or state.inner >= self.iterations

    # ---- bounds ------------------------------------------------------------------------------------------------
    def _settle(self, problem: PatternProgram, state: ConvexState) -> None:
        """A feasible point, multipliers and a network from where the inner solver stands."""
        if state.phase == "begin":
            self._begin(problem, state)
        solver = self._solver(problem, state)
        X, P = problem.features, len(state.directions)
        signs = torch.where(pattern_of(X, state.directions), 1.0, -1.0).to(X)
        if isinstance(solver, list):
            if not state.arrays:
                self._iterate_interior(solver, state)
            columns = range(len(solver))
            v = torch.stack([state.arrays[f"u{c}"].reshape(2, P, -1) for c in columns])
            z = torch.stack(
                [
                    -solver[c].loss.derivative(solver[c].predict(state.arrays[f"u{c}"]), solver[c].target)
                    for c in columns
                ]
            )
            p = torch.stack([state.arrays[f"p{c}"].reshape(2, P, -1) for c in columns])
            light = without_light(v, 1e-4 if self.pricing_rounds else 1e-6)
            if program_value(problem, signs, light) <= program_value(problem, signs, v) * (1 + 0.1 * self.tolerance):
                v = light
            raw = v
        else:
            at = _unpack(state) if state.arrays else solver.start(self._first_rho(problem))
            raw = without_light(at.v)
            v = into_cones(X, signs, state.directions, raw)
            z, p = solver.multipliers(at)
        state.lower, theta = self._lower(problem, signs, z, p)
        state.v, state.z, state.p = v, z, p * theta[:, None, None, None]
        state.z = z * theta[:, None]
        state.upper = program_value(problem, signs, v)
        state.estimate = gap_of(state.upper, state.lower)
        for blocks in (v, raw):
            hidden, output = weights_of(blocks)
            self._offer(state, hidden, output, network_value(problem, hidden, output))

    def _lower(self, problem: PatternProgram, signs: Tensor, z: Tensor, p: Tensor) -> tuple[float, Tensor]:
        """Dual value after scaling each column's (z, p) until every |X'D_i z + G_i'p_i| <= beta, and the scales."""
        X = problem.features
        inside = (signs > 0).to(X)
        tops = []
        for column in range(len(z)):
            pushed = (z[column] * inside) @ X
            largest = 0.0
            for side, sign in ((0, 1.0), (1, -1.0)):
                norms = torch.linalg.vector_norm(sign * pushed + (p[column, side] * signs) @ X, dim=1)
                largest = max(largest, float(norms.max()))
            tops.append(largest)
        theta = torch.tensor([min(1.0, problem.weight / max(t * (1 + 1e-12), 1e-300)) for t in tops], dtype=z.dtype)
        return -float(problem.loss.conjugate(-theta[:, None] * z, problem.targets.T).sum()), theta.to(z)

    @staticmethod
    def _offer(state: ConvexState, hidden: Tensor, output: Tensor, value: float) -> None:
        if value <= state.objective:
            state.objective, state.hidden, state.output = value, hidden, output


def _pack(state: ConvexState, at: Iterate, scores: Tensor) -> None:
    state.arrays = {"v": at.v, "pull": at.pull, "a": at.a, "t": at.t, "kappa": at.kappa, "scores": scores}
    state.rho = at.rho


def _unpack(state: ConvexState) -> Iterate:
    if state.solver is not None and not isinstance(state.solver, list):
        state.solver.scores = state.arrays["scores"]
    v, pull, a, t, kappa = (state.arrays[name] for name in ("v", "pull", "a", "t", "kappa"))
    return Iterate(v, pull, a, t, kappa, state.rho)
