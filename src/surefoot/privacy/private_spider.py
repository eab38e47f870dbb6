"""Private SpiderBoost (algorithm 2): noisy gradients now and then, noisy gradient differences in between.

    V_t = mean grad f(w_t; x) + N(0, sigma1^2 I)                                            every `phase` steps (anchor)
    V_t = V_{t-1} + mean [grad f(w_t; x) - grad f(w_{t-1}; x)] + N(0, (sigma2 min(|w_t - w_{t-1}|, 2 L0 / L1))^2 I)   else
    w_{t+1} = w_t - step_size (V_t + grad penalty(w_t))

The noise is proportional to what one record can move, `L0 / b` and `min(L1 |w_t - w_{t-1}|, 2 L0) / b`, by factors fixed
beforehand; so a run with whole batches is exactly Gaussian DP, whatever the scales turn out to be. `phase=1` is DP gradient descent.

The iterates of T/q anchors of noise `sigma1 sqrt(T/q)`, each held for q steps, are moved as far by noise of low frequency as those of T gradients of noise
`sigma1 sqrt(T)`, and the differences take their share of the budget on top. Differences pay where they spare records, in Poisson
batches; with whole batches `phase` is 1 unless it is given.

References:
    R. Arora et al., "Faster rates of convergence to stationary points in differentially private optimization", ICML 2023.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.core.random import Streams
from surefoot.data.sampler import Sampler
from surefoot.privacy.accounting import calibrated
from surefoot.privacy.ledger import Budget, Entry, Release
from surefoot.privacy.mechanism import Gaussian
from surefoot.privacy.private_method import QUERY, PrivateMethod, PrivateState
from surefoot.privacy.risk import PrivateRisk

log = logging.getLogger(__name__)
ANCHOR, DIFFERENCE = "anchor", "difference"


@dataclass(kw_only=True)
class SpiderState(PrivateState):
    """`previous` and `estimate` are w_{t-1} and V_{t-1}."""

    previous: Tensor
    estimate: Tensor
    total: Tensor  # of the iterates in the last half
    pull: Tensor  # of the released directions there
    drawn: Tensor | None = None  # w_j of the uniform j, once reached


@dataclass(frozen=True, kw_only=True)
class PrivateSpiderBoost(PrivateMethod[SpiderState]):
    """See the module's text.

    Args:
        iterations: T releases of the search.
        phase: q, an anchor every so many; 0 takes 1 with whole batches and 10 with Poisson batches.
        step_size: eta; None: `1 / L` with the public smoothness, or `1 / (2 L)` with compat="paper".
        anchor_batch, difference_batch: expected records in a Poisson sample; 0 uses all of them.
        anchor_share: of the search's mu^2 (whole batches).
        compat: "paper": eta = 1/(2L), a uniformly drawn iterate is the answer, and the descent constant must be positive.

    Raises:
        ValueError: at `init`: batches beyond n, a phase below 1, a budget that cannot be met.
    """

    iterations: int = 400
    phase: int = 0
    step_size: float | None = None
    anchor_batch: int = 0
    difference_batch: int = 0
    anchor_share: float = 0.7
    compat: Literal["", "paper"] = ""

    def __post_init__(self) -> None:
        if self.phase == 0:
            object.__setattr__(self, "phase", min(self.iterations, 10) if self.sampled else 1)
        if self.iterations < 1 or self.phase < 1:
            raise ValueError(f"iterations {self.iterations} and phase {self.phase}: expected >= 1")
        if not 0.0 < self.anchor_share < 1.0:
            raise ValueError(f"anchor_share is {self.anchor_share}; expected a number in (0, 1)")
        if self.step_size is not None and not 0.0 < self.step_size < math.inf:
            raise ValueError(f"step_size is {self.step_size}; expected a finite number > 0")

    # -- the schedule
    @property
    def anchors(self) -> int:
        """Number of anchors: ceil(T / q)."""
        return -(-self.iterations // self.phase)

    @property
    def differences(self) -> int:
        return self.iterations - self.anchors

    @property
    def sampled(self) -> bool:
        return bool(self.anchor_batch or self.difference_batch)

    def iterations_of(self, problem: PrivateRisk) -> int:
        return self.iterations

    def queries(self) -> int:
        return int(self.query_share > 0)

    def step_length(self, problem: PrivateRisk) -> float:
        """eta."""
        smoothness = problem.searched.smoothness
        if self.step_size is None and smoothness == 0.0:
            raise ValueError("the objective has smoothness 0, so no step length follows from it; give step_size")
        return self.step_size or (0.5 if self.compat == "paper" else 1.0) / smoothness

    def multipliers(self, problem: PrivateRisk) -> tuple[float, float]:
        """Noise standard deviation over one record's share, of anchors and of differences."""
        kept = self._kept
        key = (problem.size, problem.record_gradient)
        if key not in kept:
            kept[key] = self._calibrated(problem) if self.sampled else self._exact()
        return kept[key]

    @property
    def _kept(self) -> dict[Any, tuple[float, float]]:
        return self.__dict__.setdefault("_multipliers", {})

    def _exact(self) -> tuple[float, float]:
        """`mu^2 = NA (2 / m1)^2 + ND (2 / m2)^2`, dealt by `anchor_share`."""
        mu, share = self.search_mu(), self.anchor_share if self.differences else 1.0
        anchor = self.record_reach * math.sqrt(self.anchors / share) / mu
        return anchor, self.record_reach * math.sqrt(
            self.differences / (1.0 - share)
        ) / mu if self.differences else anchor

    def _calibrated(self, problem: PrivateRisk) -> tuple[float, float]:
        """One multiplier for both kinds, so that noise and sensitivity saturate together; by privacy loss distributions."""
        queries = []
        if self.queries():
            release = self.query_release(problem)
            queries = [Entry(QUERY, release.noise_multiplier, 1.0, -1, self.queries())]
        found = calibrated(self.budget, lambda m: [*self._entries(problem, m, m), *queries])
        return found, found

    def rates(self, problem: PrivateRisk) -> tuple[float, float]:
        """Sampling rates of anchors and differences."""
        wanted = (self.anchor_batch or problem.size, self.difference_batch or problem.size)
        return wanted[0] / problem.size, wanted[1] / problem.size

    def _entries(self, problem: PrivateRisk, anchor: float, difference: float) -> list[Entry]:
        first, second = self.rates(problem)
        entries = [Entry(ANCHOR, anchor, first, -1, self.anchors)]
        return entries + ([Entry(DIFFERENCE, difference, second, -1, self.differences)] if self.differences else [])

    def search_plan(self, problem: PrivateRisk) -> list[Entry]:
        return self._entries(problem, *self.multipliers(problem))

    def upcoming(self, problem: PrivateRisk, k: int) -> Release:
        anchor = k % self.phase == 0
        rate, multiplier = (pair[0 if anchor else 1] for pair in (self.rates(problem), self.multipliers(problem)))
        share = problem.searched.record_gradient * (1.0 if anchor else 2.0) / (rate * problem.size)
        return Release(ANCHOR if anchor else DIFFERENCE, multiplier, share, rate)

    # -- the run
    def validate(self, problem: PrivateRisk) -> None:
        """See `PrivateMethod.validate`."""
        super().validate(problem)
        for name in ("anchor_batch", "difference_batch"):
            if not 0 <= getattr(self, name) <= problem.size:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected 1 to the {problem.size} records, or 0 for all"
                )
        if self.compat == "paper" and (found := descent_constant(self, problem)) <= 0.0:
            raise ValueError(
                f"the descent constant is {found:.3g}, not positive, so the theorem says nothing of {problem.size} records and this budget: "
                f"it is positive for a step_size below {longest_step(self, problem):.3g}; or bring more records, or leave out compat='paper'"
            )

    def fresh(self, problem: PrivateRisk, start: Tensor, streams: Streams, shared: dict[str, Any]) -> SpiderState:
        zero = torch.zeros_like(start)
        return SpiderState(**shared, previous=start.clone(), estimate=zero, total=zero.clone(), pull=zero.clone())

    def advance(self, problem: PrivateRisk, state: SpiderState, mechanism: Gaussian) -> None:
        searched, k = problem.searched, state.k
        planned = self.upcoming(problem, k)
        expected = planned.sampling * problem.size
        rows = None if planned.sampling == 1.0 else self._rows(problem, state, round(expected))
        if planned.name == ANCHOR:
            bound = searched.record_gradient
            total = searched.records.gradient_sum(state.w, bound, rows)
        else:
            bound = searched.reach(float(torch.linalg.vector_norm(state.w - state.previous)))
            total = searched.records.difference_sum(state.w, state.previous, bound, rows)
        noisy = mechanism.release(
            total / expected, planned.name, k, noise_multiplier=planned.noise_multiplier, record_bound=bound / expected,
            sampling=planned.sampling, reserved=True,
        )  # fmt: skip
        state.estimate = noisy if planned.name == ANCHOR else state.estimate + noisy
        direction = state.estimate + searched.penalty.gradient(state.w)
        state.last_norm = float(torch.linalg.vector_norm(direction))
        state.norms[k], state.stds[k] = state.last_norm, planned.noise_multiplier * bound / expected
        if state.vectors is not None:
            state.vectors[k] = state.estimate
        state.previous = state.w
        state.w = state.w - self.step_length(problem) * direction
        if k + 1 > self.iterations // 2:
            state.total, state.pull = state.total + state.w, state.pull + direction
        if self.compat == "paper" and k + 1 == self._uniform(state):
            state.drawn = state.w.clone()

    def _rows(self, problem: PrivateRisk, state: SpiderState, batch: int) -> Tensor:
        return torch.from_numpy(Sampler(state.streams, problem.size, batch, "poisson").indices(state.k))

    def _uniform(self, state: SpiderState) -> int:
        """j, uniform in 1..T, drawn independently of the run."""
        return int(state.streams.numpy("output").integers(1, self.iterations + 1))

    def candidates(self, problem: PrivateRisk, state: SpiderState) -> list[Tensor]:
        if self.compat == "paper":
            return [state.w if state.drawn is None else state.drawn]
        halved = state.k - self.iterations // 2
        if halved <= 0 or self._still_moving(problem, state, halved):
            return [state.w]
        return [state.total / halved]

    def _still_moving(self, problem: PrivateRisk, state: SpiderState, halved: int) -> bool:
        """Whether the last point beats the last half's mean, as far as the released gradients tell: free, and no query is spent on it.

        `|V|^2 - d s^2` estimates the squared gradient norm, with V the last direction or the half's mean direction and s^2 the noise in it.
        """
        stds, q, k, dim = state.stds.numpy()[: state.k] ** 2, self.phase, state.k, problem.searched.dim
        release = np.arange(k)
        held = np.minimum((release // q + 1) * q, k) - np.maximum(
            release, k - halved
        )  # how many estimates hold its noise
        of_mean = float((np.maximum(held, 0) ** 2 * stds).sum()) / halved**2
        of_last = float(stds[(k - 1) // q * q :].sum())
        mean = float(torch.linalg.vector_norm(state.pull)) ** 2 / halved**2 - dim * of_mean
        last = state.last_norm**2 - dim * of_last
        return last + 2.0 * math.sqrt(2.0 * dim) * of_last < mean


def paper_schedule(
    problem: PrivateRisk, budget: Budget, start_gap: float | None = None, **more: Any
) -> PrivateSpiderBoost:
    """The settings of theorem 4.2: T, q, eta and b2 from n, d, L0, L1, F0 and the budget (two misprints resolved).

    `abar = sqrt(d log(1/delta)) / (n eps)`, `T = max((F0 L1)^(1/4) / (sqrt(L0) abar))^(4/3), 1/abar)`, `q = 1 / (T abar^2)`,
    `b1 = n`, `b2 = max((L0 / (sqrt(F0 L1) abar))^(2/3), L0^(1/3) n abar^(2/3) / (L1 F0)^(1/6))`, floored and clipped to [1, n].

    Raises:
        ValueError: without a start gap F0.
    """
    gap = problem.start_gap if start_gap is None else start_gap
    if gap is None or not gap > 0.0:
        raise ValueError("the paper's settings need F0, a public bound of F(start) - inf F; give start_gap")
    L0, L1, n = problem.record_gradient, problem.record_smoothness, problem.size
    abar = scale(problem, budget)
    iterations = max(1, int(max(((gap * L1) ** 0.25 / (math.sqrt(L0) * abar)) ** (4 / 3), 1.0 / abar)))
    phase = min(max(1, int(1.0 / (iterations * abar**2))), iterations)
    batch = max(
        (L0 / (math.sqrt(gap * L1) * abar)) ** (2 / 3), L0 ** (1 / 3) * n * abar ** (2 / 3) / (L1 * gap) ** (1 / 6)
    )
    batch = min(max(1, int(batch)), n)
    log.info("settings of theorem 4.2: T = %d, q = %d, b2 = %d of %d", iterations, phase, batch, n)
    return PrivateSpiderBoost(
        budget=budget,
        iterations=iterations,
        phase=phase,
        difference_batch=0 if batch == n else batch,
        compat="paper",
        **more,
    )


def scale(problem: PrivateRisk, budget: Budget) -> float:
    """`abar = sqrt(d log(1/delta)) / (n eps)`; `L0 abar` has the shape of the lower bound (theorem 4.3)."""
    return math.sqrt(problem.dim * math.log(1.0 / budget.delta)) / (problem.size * budget.epsilon)


def _noise_squares(method: PrivateSpiderBoost, problem: PrivateRisk) -> tuple[float, float]:
    """tau1^2 and tau2^2: squared errors of an anchor, and of a difference per squared distance (sampling and noise)."""
    searched, (m1, m2), (r1, r2) = problem.searched, method.multipliers(problem), method.rates(problem)
    L0, L1, n, d = searched.record_gradient, searched.record_smoothness, problem.size, searched.dim
    first = (L0 * L0 / (r1 * n) if r1 < 1.0 else 0.0) + d * (m1 * L0 / (r1 * n)) ** 2
    second = (L1 * L1 / (r2 * n) if r2 < 1.0 else 0.0) + d * (m2 * L1 / (r2 * n)) ** 2
    return first, second if method.differences else 0.0


def descent_constant(method: PrivateSpiderBoost, problem: PrivateRisk) -> float:
    """`A = eta/2 - L eta^2/2 - eta^3 tau2^2 q/2`, with L of the whole objective."""
    eta, (_, second) = method.step_length(problem), _noise_squares(method, problem)
    return eta / 2 - problem.searched.smoothness * eta**2 / 2 - eta**3 * second * method.phase / 2


def longest_step(method: PrivateSpiderBoost, problem: PrivateRisk) -> float:
    """Where the descent constant becomes 0: the root of `1 - L eta - tau2^2 q eta^2`."""
    smoothness, second = problem.searched.smoothness, _noise_squares(method, problem)[1] * method.phase
    return 2.0 / (smoothness + math.sqrt(smoothness**2 + 4.0 * second))


def expected_gradient(method: PrivateSpiderBoost, problem: PrivateRisk) -> float | None:
    """Bound of `sqrt(E |grad F(w_j)|^2)`, j uniform, known before the run [eq. 5]; None where A <= 0 or F0 is not known."""
    descent, gap = descent_constant(method, problem), problem.start_gap
    if descent <= 0.0 or gap is None or problem.known != "exact":
        return None
    eta, q, (first, second) = method.step_length(problem), method.phase, _noise_squares(method, problem)
    drift = 2.0 * gap / (method.iterations * descent) * (1.0 + second * eta**2 * q)
    return math.sqrt(drift + (eta / descent + 2.0 + second * eta**3 * q / descent) * first)


def gradient_descent(**options: Any) -> PrivateSpiderBoost:
    """DP gradient descent: an anchor at every step."""
    options["phase"] = 1
    return PrivateSpiderBoost(**options)


def radii(stds: np.ndarray, phase: int, dim: int, first: float, failure_probability: float) -> np.ndarray:
    """Bounds of `|V_t - grad f(w_t)|` at all steps at once, by the method of mixtures, for whole batches.

    `|V_t - grad f|^2 <= (V + tau)(d log(1 + V/tau) + 2 log(NA / p))`, V the sum of the squared scales since the anchor.

    Args:
        stds: noise scales (t,).
        phase: steps a phase.
        dim: d.
        first: tau, the variance of an anchor's noise.
        failure_probability: p, for all phases together.
    """
    phases = -(-len(stds) // phase)
    spread = np.concatenate([np.cumsum(stds[i : i + phase] ** 2) for i in range(0, len(stds), phase)] or [np.zeros(0)])
    return np.sqrt((spread + first) * (dim * np.log1p(spread / first) + 2.0 * math.log(phases / failure_probability)))
