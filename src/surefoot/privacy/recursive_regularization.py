"""Recursive regularisation (algorithm 3): optimal private stationary points of convex objectives.

Stage t solves `f + sum_{s < t} (lam_s / 2) |w - c_s|^2` on a slice of its own, `c_0` the start and `c_s` what stage s found,
`lam_s = 2^s lam`: every stage is better conditioned than the one before and begins nearer. The private solvers of a stage:

- noisy gradient descent: K projected steps on the whole slice, weighted mean with weights `(1 - eta lam_t)^-k`;
- phased SGD: one pass; phase i takes 2^-i of the slice with steps `4^-i eta` and releases its mean, which one record moves by at
  most `2 eta_i L0` since every step of a convex smooth function is nonexpansive.

Slices and phases are disjoint, so they compose in parallel, each calibrated alone: with the slice's size, not with n.

References:
    R. Arora et al., "Faster rates of convergence to stationary points in differentially private optimization", ICML 2023.
    V. Feldman, T. Koren, K. Talwar, "Private stochastic convex optimization: optimal rates in linear time", STOC 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.core.random import Streams
from surefoot.privacy.ledger import Entry, Release
from surefoot.privacy.mechanism import Gaussian
from surefoot.privacy.private_method import PrivateMethod, PrivateState
from surefoot.privacy.risk import PrivateRisk
from surefoot.privacy.tree_spider import public_order


@dataclass(kw_only=True)
class StageState(PrivateState):
    """`centres` are c_0 to c_{t-1}; `mean` the weighted mean of the present stage, `weight` its last weight's inverse."""

    centres: list[Tensor] = field(default_factory=list)
    mean: Tensor
    weight: float = 0.0


@dataclass(frozen=True)
class Stages:
    """lam, T, records a slice, and releases a stage."""

    weight: float
    number: int
    slice_size: int
    releases: int


@dataclass(frozen=True, kw_only=True)
class RecursiveRegularization(PrivateMethod[StageState]):
    """See the module's text.

    Args:
        radius: a public upper bound of |w*|; stage t searches the ball of radius `2^(t/2) radius`.
        solver: "noisy-gd" or "phased-sgd".
        stages: T; then lam = L1 / 2^T. 0: the printed lam and `T = floor(log2(L1 / lam))`.
        inner_steps: K of noisy gradient descent; 0: the printed number (very many).
    """

    radius: float
    solver: Literal["noisy-gd", "phased-sgd"] = "noisy-gd"
    stages: int = 8
    inner_steps: int = 100

    def __post_init__(self) -> None:
        if not 0.0 < self.radius < math.inf or self.stages < 0 or self.inner_steps < 0:
            raise ValueError(
                f"radius {self.radius}, stages {self.stages}, inner_steps {self.inner_steps}: expected a radius > 0, a public bound of "
                "the minimiser's norm, and numbers >= 0"
            )

    # -- the schedule
    def layout(self, problem: PrivateRisk) -> Stages:
        """lam, T, slice size, releases a stage.

        Raises:
            ValueError: too few records for the stages.
        """
        p, n = problem.searched, problem.size
        L0, L1, d, eps = p.record_gradient, p.record_smoothness, p.dim, self.budget.epsilon
        if self.stages:
            weight, number = L1 / 2**self.stages, self.stages
        else:
            weight = L0**2 / (L1 * self.radius**2) * min(1.0 / n, d / (n * eps) ** 2)
            if self.solver == "phased-sgd":
                weight = max(weight, L1 * math.log(n) / n)
            number = max(1, math.floor(math.log2(L1 / weight)))
        size = n // number
        phases = math.ceil(math.log2(max(2.0, math.log2(max(2, size))))) + 1
        if size < 2**phases:
            raise ValueError(f"{n} records are too few for {number} stages; ask for fewer")
        steps = self.inner_steps or self._printed_steps(p, weight, number)
        return Stages(weight, number, size, phases if self.solver == "phased-sgd" else steps)

    def _printed_steps(self, p: PrivateRisk, weight: float, number: int) -> int:
        """`K = max{ ((L1 + H)/lam) log((L1 + H)/lam), n^2 eps^2 (L0^2 + G^2) / (d L0^2 log(1/delta)) }` of the first stage."""
        smooth = p.smoothness + weight
        slope = weight * 2.0 * math.sqrt(2.0) * self.radius  # of the first quadratic on its ball
        n, eps, L0 = p.size // number, self.budget.epsilon, p.record_gradient
        second = (n * eps) ** 2 * (L0**2 + slope**2) / (p.dim * L0**2 * math.log(1.0 / self.budget.delta))
        return math.ceil(max(smooth / weight * math.log(smooth / weight), second))

    def iterations_of(self, problem: PrivateRisk) -> int:
        layout = self.layout(problem)
        return layout.number * layout.releases

    def queries(self) -> int:
        return 2 * (self.query_share > 0)

    def search_plan(self, problem: PrivateRisk) -> list[Entry]:
        layout, mu = self.layout(problem), self.search_mu()
        if self.solver == "phased-sgd":
            return [Entry("phase", self.record_reach / mu, 1.0, k, 1) for k in range(self.iterations_of(problem))]
        multiplier = self.record_reach * math.sqrt(layout.releases) / mu
        return [Entry("stage gradient", multiplier, 1.0, t, layout.releases) for t in range(layout.number)]

    def upcoming(self, problem: PrivateRisk, k: int) -> Release:
        layout, L0, mu = self.layout(problem), problem.searched.record_gradient, self.search_mu()
        stage, place = divmod(k, layout.releases)
        if self.solver == "phased-sgd":
            return Release(
                "phase", self.record_reach / mu, L0 * self._phase_step(problem, layout, stage, place), 1.0, k
            )
        multiplier = self.record_reach * math.sqrt(layout.releases) / mu
        return Release("stage gradient", multiplier, L0 / layout.slice_size, 1.0, stage)

    def _weights(self, layout: Stages, stage: int) -> list[float]:
        """lam_0 to lam_t of the quadratics in stage t (counted from 0)."""
        return [layout.weight * 2.0**s for s in range(stage + 1)]

    def _step_length(self, problem: PrivateRisk, layout: Stages, stage: int) -> float:
        """`eta = log(K) / (lam_t K)`, at most `1 / (L + H)`."""
        weights = self._weights(layout, stage)
        K = layout.slice_size if self.solver == "phased-sgd" else layout.releases
        return min(math.log(max(K, 2)) / (weights[-1] * K), 1.0 / (problem.searched.smoothness + sum(weights)))

    def _phase_step(self, problem: PrivateRisk, layout: Stages, stage: int, place: int) -> float:
        return self._step_length(problem, layout, stage) * 4.0 ** -(place + 1)

    # -- the run
    def validate(self, problem: PrivateRisk) -> None:
        """See `PrivateMethod.validate`."""
        if not problem.convex:
            raise ValueError(
                "recursive regularisation is for convex losses and penalties; use private SpiderBoost for others"
            )
        if problem.known != "exact" and self.solver == "phased-sgd":
            raise ValueError(
                "phased SGD rests on exact L0 and L1 (a clipped step may expand distances); use solver='noisy-gd'"
            )
        super().validate(problem)

    def fresh(self, problem: PrivateRisk, start: Tensor, streams: Streams, shared: dict[str, Any]) -> StageState:
        fields: dict[str, Any] = {**shared, "vectors": None}  # a stage is not replayed from its releases
        return StageState(**fields, centres=[start.clone()], mean=torch.zeros_like(start))

    def advance(self, problem: PrivateRisk, state: StageState, mechanism: Gaussian) -> None:
        layout = self.layout(problem)
        stage, place = divmod(state.k, layout.releases)
        rows = public_order(problem.size)[stage * layout.slice_size : (stage + 1) * layout.slice_size]
        if self.solver == "phased-sgd":
            self._phase(problem, state, mechanism, rows, layout, stage, place)
        else:
            self._gradient_step(problem, state, mechanism, torch.from_numpy(rows), layout, stage)
        if place + 1 == layout.releases:
            found = state.w if self.solver == "phased-sgd" else state.mean
            state.centres = [*state.centres, found.clone()]
            state.w, state.mean, state.weight = found.clone(), torch.zeros_like(found), 0.0

    def _public_gradient(
        self, problem: PrivateRisk, state: StageState, layout: Stages, stage: int, w: Tensor
    ) -> Tensor:
        weights = self._weights(layout, stage)
        pulls = [weight * (w - centre) for weight, centre in zip(weights, state.centres, strict=True)]
        return problem.searched.penalty.gradient(w) + torch.stack(pulls).sum(dim=0)

    def _project(self, w: Tensor, stage: int) -> Tensor:
        radius = 2.0 ** ((stage + 1) / 2.0) * self.radius
        return w * min(1.0, radius / max(float(torch.linalg.vector_norm(w)), 1e-300))

    def _gradient_step(
        self, problem: PrivateRisk, state: StageState, mechanism: Gaussian, rows: Tensor, layout: Stages, stage: int
    ) -> None:
        searched, planned, k = problem.searched, self.upcoming(problem, state.k), state.k
        total = searched.records.gradient_sum(state.w, searched.record_gradient, rows)
        noisy = mechanism.release(
            total / len(rows), planned.name, k, noise_multiplier=planned.noise_multiplier, record_bound=planned.record_bound,
            part=stage, reserved=True,
        )  # fmt: skip
        state.last_norm = float((noisy + searched.penalty.gradient(state.w)).norm())
        state.norms[k], state.stds[k] = state.last_norm, planned.noise_std
        eta = self._step_length(problem, layout, stage)
        direction = noisy + self._public_gradient(problem, state, layout, stage, state.w)
        state.w = self._project(state.w - eta * direction, stage)
        # weights (1 - eta lam)^-k, normalised: the newest has the share 1 / S_k, S_k = 1 + (1 - eta lam) S_{k-1}
        state.weight = 1.0 + (1.0 - eta * self._weights(layout, stage)[-1]) * state.weight
        state.mean = state.mean + (state.w - state.mean) / state.weight

    def _phase(
        self, problem: PrivateRisk, state: StageState, mechanism: Gaussian, rows: np.ndarray, layout: Stages, stage: int, place: int
    ) -> None:  # fmt: skip
        searched, planned = problem.searched, self.upcoming(problem, state.k)
        sizes = [len(rows) >> (i + 1) for i in range(layout.releases)]
        begin = sum(sizes[:place])
        own = rows[begin : begin + max(1, sizes[place])]
        eta, w, mean = self._phase_step(problem, layout, stage, place), state.w, torch.zeros_like(state.w)
        for number in range(1, len(own) + 1):
            one = searched.records.gradient_sum(w, searched.record_gradient, torch.from_numpy(own[number - 1 : number]))
            w = self._project(w - eta * (one + self._public_gradient(problem, state, layout, stage, w)), stage)
            mean = mean + (w - mean) / number
        noisy = mechanism.release(
            mean, planned.name, state.k, noise_multiplier=planned.noise_multiplier, record_bound=planned.record_bound,
            part=state.k, reserved=True,
        )  # fmt: skip
        state.w = self._project(noisy, stage)
        state.last_norm = float(torch.linalg.vector_norm(state.w))
        state.norms[state.k], state.stds[state.k] = state.last_norm, planned.noise_std

    def candidates(self, problem: PrivateRisk, state: StageState) -> list[Tensor]:
        return [state.centres[-1], state.centres[-2] if len(state.centres) > 1 else state.w]
