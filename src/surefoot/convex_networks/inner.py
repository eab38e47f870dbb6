"""The solvers of one convex program: which one fits, what memory it takes, and how its iterate is kept in the state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from surefoot.convex_networks.coordinate import CoordinateKernel
from surefoot.convex_networks.interior import Central, Interior
from surefoot.convex_networks.kernel import Iterate, Kernel
from surefoot.convex_networks.patterns import pattern_of
from surefoot.convex_networks.problem import PatternProgram
from surefoot.convex_networks.state import ConvexState

SolverName = Literal["auto", "interior", "admm", "published", "coordinate"]

INTERIOR_SIZE = 2500
"""Rows, or numbers in all patterns' weights, up to which "auto" takes the interior-point solver (a matrix of that size is factorised in
every iteration)."""

KINKED_SIZE = 6000
"""The same for losses with kinks, on which ADMM needs many thousands of iterations: there the dear iterations of the interior point are
worth it for longer, where memory allows."""

KINKED = ("hinge", "huber", "quantile")

SMOOTH_WEIGHTS, KINKED_WEIGHTS = (0.1, 1.0), (0.01, 0.01)
"""ADMM's penalties of the cones and of the predictions, relative to that of the norms. With kinks the gap after a thousand iterations is 5 to
50 times smaller under the second pair than under the first (1,500 rows, 60 patterns)."""


@dataclass(frozen=True)
class Inner:
    """Which solver, and within what.

    Args:
        solver: by name, or "auto".
        memory: bytes that it may take.
        rho: penalty of ADMM to start with; 0 is the solver's own.
    """

    solver: SolverName = "auto"
    memory: int = 2 << 30
    rho: float = 0.0

    def chosen(self, problem: PatternProgram, patterns: int) -> SolverName:
        """The inner solver that "auto" stands for."""
        if self.solver != "auto":
            return self.solver
        n, d = problem.features.shape
        size = min(n, patterns * d)
        if problem.robust or size <= INTERIOR_SIZE:
            return "interior"
        if problem.loss_name not in KINKED or size > KINKED_SIZE:
            return "admm"
        needed = replace(self, solver="interior").memory_needed(problem, patterns)
        return "interior" if needed["kept"] + needed["scratch"] <= self.memory else "admm"

    def memory_needed(self, problem: PatternProgram, patterns: int) -> dict[str, int]:
        """Bytes that the inner solver takes for so many patterns.

        `multipliers` (patterns times rows) go to a mapped file where they do not fit beside the rest (interior point only); `kept` is what
        must fit; `scratch` is what a lot of patterns takes, and `lots` how many there are.
        """
        n, d = problem.features.shape
        columns = problem.targets.shape[1]
        if self.chosen(problem, patterns) != "interior":
            square = n * n if n <= 5000 else 0
            kept = 8 * (2 * patterns * columns * (3 * n + 6 * d) + 3 * square + n * d + 2 * patterns * n)
            return {"multipliers": 0, "kept": kept, "scratch": 64 << 20, "lots": 1}
        size = n if not problem.robust and n <= patterns * d else patterns * d
        inside = 0 if size == n and not problem.robust else patterns * n
        kept = 8 * (2 * patterns * (2 * d * d + 8 * d) + 2 * size * size + n * d * d + 8 * n * d + inside)
        scratch = max(8 * 12 * n, min(256 << 20, self.memory // 4))
        each = max(1, scratch // (8 * 12 * n))
        multipliers = 2 * 8 * 2 * patterns * n * columns  # and the best point's
        return {"multipliers": multipliers, "kept": kept, "scratch": scratch, "lots": -(-patterns // each)}

    def first_rho(self, problem: PatternProgram, patterns: int) -> float:
        """ADMM's penalty at the start."""
        if self.rho:
            return self.rho
        return {"published": 0.1, "coordinate": 0.1}.get(self.chosen(problem, patterns), 10.0)

    def make(self, problem: PatternProgram, state: ConvexState) -> Any:
        """The solver of the state's program: a list of `Interior`, one a column, or an ADMM kernel for all columns.

        Raises:
            ValueError: the solver does not take this problem.
            MemoryError: it would not fit.
        """
        X, P = problem.features, len(state.directions)
        needed, kind = self.memory_needed(problem, P), self.chosen(problem, P)
        if problem.robust and kind != "interior":
            raise ValueError(f"robust training (a radius) is solved by 'interior', not by solver {kind!r}")
        if needed["kept"] + needed["scratch"] > self.memory:
            raise MemoryError(
                f"{P} patterns of {len(X)} rows need {(needed['kept'] + needed['scratch']) / 2**30:.2f} GiB, more than the "
                f"{self.memory / 2**30:.2f} GiB allowed; start with fewer arrangements and let pricing find the others "
                "(patterns='auto'), or raise memory"
            )
        taken = needed["kept"] + needed["scratch"]
        mapped = needed["multipliers"] if taken + needed["multipliers"] > self.memory else 0
        counts = {
            "memory_bytes": taken + needed["multipliers"] - mapped, "mapped_bytes": mapped, "pattern_lots": needed["lots"],
        }  # fmt: skip
        for name, value in counts.items():  # of the largest program; the result states them
            state.counts[name] = max(state.counts.get(name, 0), value)
        targets, loss = problem.targets.T.contiguous(), problem.loss
        if kind == "interior":
            free = (self.memory - needed["kept"] - needed["scratch"]) // (2 * len(targets))
            return [
                Interior(problem, column, state.directions, needed["scratch"], free) for column in range(len(targets))
            ]
        signs = torch.where(pattern_of(X, state.directions), 1.0, -1.0).to(X)
        if kind == "coordinate":
            return CoordinateKernel(X, signs, targets, loss, problem.weight)
        if kind == "published" and problem.loss_name != "squared":
            raise ValueError("solver 'published' is Algorithm 3.1, for the squared loss only")
        lot = max(1, int((64 << 20) // (16 * len(X) * len(targets))))
        if kind == "published":
            fit = 1.0 / self.first_rho(problem, P)
            return Kernel(X, signs, targets, loss, problem.weight, 1.0, fit, lot, relaxation=1.0, published=True)
        cone, fit = KINKED_WEIGHTS if problem.loss_name in KINKED else SMOOTH_WEIGHTS
        return Kernel(X, signs, targets, loss, problem.weight, cone, fit, lot)


# ---- iterates in the state's arrays ----------------------------------------------------------------------------

CENTRAL = ("u", "tau", "p", "y0", "y")


def keep_central(state: ConvexState, points: list[Central]) -> None:
    """Put the interior-point solvers' points, one a column, into the state."""
    for c, at in enumerate(points):
        state.arrays |= {f"{name}{c}": getattr(at, name) for name in CENTRAL}
        state.arrays |= {f"more{c}_{name}": value for name, value in at.more.items()}
    state.arrays["done"] = torch.tensor([at.done for at in points])


def kept_central(state: ConvexState, column: int) -> Central:
    """The interior-point solver's point for one column."""
    prefix = f"more{column}_"
    more = {name.removeprefix(prefix): value for name, value in state.arrays.items() if name.startswith(prefix)}
    parts = {name: state.arrays[f"{name}{column}"] for name in CENTRAL}
    return Central(**parts, more=more, done=bool(state.arrays["done"][column]))


def keep_iterate(state: ConvexState, at: Iterate, scores: Tensor) -> None:
    """Put ADMM's iterate into the state."""
    state.arrays = {"v": at.v, "pull": at.pull, "a": at.a, "t": at.t, "kappa": at.kappa, "scores": scores}
    state.rho = at.rho


def kept_iterate(state: ConvexState) -> Iterate:
    """ADMM's iterate; its solver gets its scores back."""
    if state.solver is not None and not isinstance(state.solver, list):
        state.solver.scores = state.arrays["scores"]
    v, pull, a, t, kappa = (state.arrays[name] for name in ("v", "pull", "a", "t", "kappa"))
    return Iterate(v, pull, a, t, kappa, state.rho)
