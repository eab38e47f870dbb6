"""DIFF2: noisy gradients every T rounds, noisy gradient differences between, whose noise shrinks with the steps.

    r mod T = 0:  v_r = sum_p a_p sum_z clip(grad l(x_r, z), C1)                         + C1 s1 N(0, I)
    otherwise:    v_r = v_{r-1} + sum_p a_p sum_z clip(grad l(x_r, z) - grad l(x_{r-1}, z), c) + c s2 N(0, I),   c = C2 |x_r - x_{r-1}|
    x_{r+1} = x_r - eta (v_r + ridge x_r)          or several steps on one client's records (BVR-L-SGD)

A record exchanged for another moves either sum by at most `2 c max_p a_p`, and c is a number that all may know: the server computes
it from iterates that were broadcast. T = 1 is noisy gradient descent; one client is full-batch private SpiderBoost with clipping.

References:
    T. Murata, T. Suzuki, DIFF2: differential private optimization via gradient differences for nonconvex distributed learning,
    ICML 2023, arXiv 2302.03884.
    T. Murata, T. Suzuki, Bias-variance reduced local SGD for less heterogeneous federated learning, ICML 2021, arXiv 2102.03198.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from surefoot.core.method import Look, Method, Status
from surefoot.core.random import Streams
from surefoot.privacy.diff2_noise import Compat, Multipliers, Schedule, anchors_share, entries, exact, published
from surefoot.privacy.diff2_releases import (
    enter,
    final_query,
    foreseen,
    ledger_of,
    look_at_held_out,
    noisy_sum,
    queries,
)
from surefoot.privacy.diff2_state import KEPT_NUMBERS, Diff2State, LocalSteps, Mark, Output, Trust, running_radius
from surefoot.privacy.federation import Federation, require_delta
from surefoot.privacy.gaussian_dp import epsilon_of
from surefoot.privacy.ledger import Budget
from surefoot.privacy.mechanism import Gaussian

if TYPE_CHECKING:
    from surefoot.core.certificate import Certificate

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Diff2(Method[Federation, Diff2State, Tensor]):
    """The framework with both routines, see the module's text.

    Args:
        budget: (epsilon, delta) that the whole run may spend.
        rounds, restart: R and T.
        step_length: eta.
        clip_gradient, clip_difference: C1, and C2 per unit of distance.
        share: w, the anchors' part of the rounds' budget; 0 takes the rule of `anchors_share`. With compat="paper" w = 1 / u.
        query_share: h, the part of mu^2 kept for a noisy gradient at the answer; 0 leaves it out. With compat="paper" the query
            gets what exact accounting finds left.
        failure_probability: of every statistical claim.
        trust: "central": the server sees sums and adds the noise; "secagg": clients add their part of it, so that only their sum
            need be seen; "local": every message is private by itself.
        honest: with "secagg", how many clients surely add their noise (0: all); the others may collude or fail to.
        output: the last iterate, the average of those after the first half of the rounds (less noise), a uniformly drawn one (the
            theory's), or the one with the least bound.
        local: several steps a round on one client's records.
        stop_below: stop once the bound from the running estimate, a released quantity, is below it.
        compat: "paper" takes the official code's noise.
        journal: file of the write-ahead ledger.
        allow_large_delta: let delta reach one over the number of records.
        block: rounds a step.
    """

    budget: Budget
    rounds: int
    step_length: float
    clip_gradient: float
    clip_difference: float = 1.0
    restart: int = 1
    share: float = 0.0
    query_share: float = 0.2
    failure_probability: float = 0.05
    trust: Trust = "central"
    honest: int = 0
    output: Output = "last"
    local: LocalSteps | None = None
    stop_below: float = 0.0
    compat: Compat = "surefoot"
    journal: Path | None = None
    allow_large_delta: bool = False
    block: int = 25
    private: bool = True

    def __post_init__(self) -> None:
        Schedule(self.rounds, self.restart)
        for name in ("step_length", "clip_gradient", "clip_difference"):
            if not (0.0 < getattr(self, name) < math.inf):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number > 0")
        for name, kinds in (("trust", Trust), ("output", Output), ("compat", Compat)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(kinds))}")
        if not 0.0 <= self.share < 1.0 or not 0.0 <= self.query_share < 1.0 or not 0.0 < self.failure_probability < 1.0:
            raise ValueError("share, query_share and failure_probability must lie in [0, 1), [0, 1) and (0, 1)")
        if self.compat == "paper" and self.share and not self.share < 1.0:
            raise ValueError("the published split is u = 1 / share > 1")
        if self.local is not None and (self.trust != "central" or self.compat == "paper"):
            raise ValueError("local steps are calibrated for trust 'central' and exact accounting only")
        if self.budget.neighbours != "replace":
            raise ValueError("clients' sizes are public and fixed, so neighbours must be 'replace'")

    @property
    def horizon(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # a field under another name
        """R: the privacy is spent by schedule."""
        return self.rounds

    # ---- before the data ------------------------------------------------------------------------------------
    def schedule(self, problem: Federation) -> Schedule:
        """What is released when.

        Raises:
            ValueError: a batch larger than a client.
        """
        if self.local is None:
            return Schedule(self.rounds, self.restart)
        rates = tuple(self.local.batch / size for size in problem.sizes)
        if max(rates) > 1.0:
            raise ValueError(
                f"batches of {self.local.batch:g} records, but client {rates.index(max(rates))} has {min(problem.sizes)}; take smaller ones"
            )
        return Schedule(self.rounds, self.restart, self.local.steps, rates)

    def noise(self, problem: Federation) -> Multipliers:
        """The multipliers of this run: exact, or as published."""
        schedule = self.schedule(problem)
        if self.compat == "paper":
            split = 1.0 / (self.share or 0.8)
            found = published(self.budget.epsilon, self.budget.delta, self.rounds, self.restart, split)
            spent = sum(e.number * (2.0 / e.noise_multiplier) ** 2 for e in entries(schedule, found, (0,)))
            left = self.budget.mu**2 - spent
            query = 2.0 / math.sqrt(left * (1 - 1e-12)) if self.query_share and left > 0 else 0.0
            return Multipliers(found.anchor, found.difference, 0.0, query)
        return exact(self.budget, schedule, self._share(problem, schedule), self.query_share)

    def _share(self, problem: Federation, schedule: Schedule) -> float:
        if self.share and schedule.differences:
            return self.share
        mu = self.budget.mu * math.sqrt(1.0 - self.query_share)
        gain = self.noise_unit(problem) * problem.effective_records
        records = problem.effective_records / gain
        w = anchors_share(schedule, mu, records, problem.dim, self.step_length, self.clip_difference)
        if w <= 0.2:
            log.warning(
                "noise of the differences would feed itself: steps of %g with restarts every %d rounds are too long for this budget; "
                "shorten either (the anchors keep 0.2 of it)",
                self.step_length, self.restart,
            )  # fmt: skip
        return min(max(w, 0.2), 1.0 if not schedule.differences else 0.99)

    def parts(self, problem: Federation) -> range:
        """Disjoint parts of the training records that the ledger tells apart."""
        return range(len(problem.sizes)) if self.trust == "local" or self.local is not None else range(1)

    def noise_unit(self, problem: Federation) -> float:
        """Standard deviation of the summed noise, over multiplier times clipping bound."""
        weights = problem.record_weights
        if self.trust == "central":
            return float(weights.max())
        if self.trust == "secagg":
            return float(weights.max()) * math.sqrt(len(weights) / self.honest_clients(problem))
        return math.sqrt(float((weights**2).sum()))

    def honest_clients(self, problem: Federation) -> int:
        clients = len(problem.sizes)
        if not 0 <= self.honest <= clients:
            raise ValueError(f"honest is {self.honest}; expected 1 to the {clients} clients, or 0 for all")
        return self.honest or clients

    # ---- the verbs ------------------------------------------------------------------------------------------
    def init(self, problem: Federation, start: Tensor | None, streams: Streams) -> Diff2State:
        """Calibrate, warn, allocate."""
        self.require_fit(problem)
        self._warn_of_clipping(problem)
        x = start if start is not None else problem.start
        x = torch.zeros(problem.dim, dtype=torch.float64) if x is None else x.detach().double().cpu().clone()
        steps = self.rounds * (self.local.steps if self.local else 1)
        kept = steps * problem.dim <= KEPT_NUMBERS
        chosen = torch.tensor([float(streams.numpy("output").integers(self.rounds))])
        state = Diff2State(
            streams=streams, x=x, previous=x.clone(), estimate=torch.zeros_like(x), entries=[],
            directions=torch.zeros(steps, problem.dim, dtype=torch.float64) if kept else None,
            chosen=int(problem.exchange.announce(chosen)[0]), random=Mark(x, x, 0.0), best=Mark(x, x, 0.0), average=x.clone(),
        )  # fmt: skip
        ledger_of(self, problem, state)
        return state

    def require_fit(self, problem: Federation) -> None:
        """Refuse a problem that this method is not for, before anything is released.

        Raises:
            ValueError: a large delta, batches larger than a client, more honest clients than there are.
        """
        records = min(problem.sizes) if self.trust == "local" else problem.effective_records
        require_delta(self.budget.delta, records, self.allow_large_delta)
        self.honest_clients(problem)
        self.schedule(problem)

    def _warn_of_clipping(self, problem: Federation) -> None:
        for name, bound, effect in (
            ("lipschitz", self.clip_gradient, "longer gradients are shrunk, and the run heads for a stationary point of the clipped objective"),
            ("smoothness", self.clip_difference, "larger differences are shrunk, the estimate drifts until the next anchor and the loss may rise"),
        ):  # fmt: skip
            known = problem.constants.get(name)
            if known is not None and bound < known.value * (1 - 1e-9) and (name == "lipschitz" or self.restart > 1):
                flag = "clip_gradient" if name == "lipschitz" else "clip_difference"
                log.warning("%s is %g, below the %s %g: %s", flag, bound, name, known.value, effect)

    def step(self, problem: Federation, state: Diff2State) -> Diff2State:
        """Rounds, entered in the ledger before any of their values leaves; after the last one the final query."""
        ledger_of(self, problem, state)
        rounds = min(state.room(self.block), self.rounds - state.k)
        while rounds > 0 and not state.ended:
            ahead = 1 if self.stop_below else rounds
            if not self._may(problem, state, ahead):
                if ahead == 1 or not self._may(problem, state, 1):
                    state.ended = "spent"
                    break
                ahead = 1
            for _ in range(ahead):
                self._round(problem, state)
            rounds -= ahead
            if self.stop_below and state.bound <= self.stop_below:
                state.ended = "stopped"
        if state.ended == "" and state.k >= self.rounds:
            state.ended = "finished"
        if state.ended:
            x = self.answer(problem, state)
            final_query(self, problem, state, x)
            look_at_held_out(self, problem, state, x)
        return state

    def _may(self, problem: Federation, state: Diff2State, rounds: int) -> bool:
        """Enter so many rounds; the final query must remain affordable."""
        return enter(self, problem, state, foreseen(self, problem, state.k, rounds), queries(self, problem))

    def look(self, state: Diff2State) -> Look:
        """Released quantities only."""
        row = {
            "released_norm": float(state.estimate.norm()),
            "bound": state.bound if math.isfinite(state.bound) else float(state.estimate.norm()),
            "noise_std": state.noise,
            "step_norm": state.moved,
            "spent": self._spent(state),
        }
        if state.ended == "spent":
            return Look(row, Status.BUDGET, "the privacy budget is spent (releases of a killed run count)")
        if state.ended == "stopped":
            return Look(
                row, Status.CONVERGED, f"the gradient's bound from released vectors is below {self.stop_below:g}"
            )
        return Look(row, None)

    def _spent(self, state: Diff2State) -> float:
        """Epsilon of the releases so far; with sampled ones the share of rounds, since their account is dear."""
        if self.local is not None:
            return self.budget.epsilon * state.k / self.rounds
        squares: dict[int, float] = {}
        for e in state.entries:
            squares[e.part] = squares.get(e.part, 0.0) + e.number * (2.0 / e.noise_multiplier) ** 2
        return epsilon_of(math.sqrt(max(squares.values(), default=0.0)), self.budget.delta)

    def answer(self, problem: Federation, state: Diff2State) -> Tensor:
        """By the rule of `output`."""
        return {"last": state.x, "average": state.average, "random": state.random.point, "best": state.best.point}[
            self.output
        ].clone()

    def certify(self, problem: Federation, state: Diff2State) -> Certificate:
        """The account, the gradient's bounds, the replay; see `diff2_certify`."""
        from surefoot.privacy.diff2_certify import certificate

        return certificate(self, problem, state)

    @cached_property
    def _kept_noise(self) -> dict[Any, Multipliers]:
        return {}

    def noise_of(self, problem: Federation) -> Multipliers:
        """`noise`, computed once for a problem's sizes."""
        key = (problem.sizes, problem.weights, problem.dim)
        if key not in self._kept_noise:
            self._kept_noise[key] = self.noise(problem)
        return self._kept_noise[key]

    # ---- one round ------------------------------------------------------------------------------------------
    def _round(self, problem: Federation, state: Diff2State) -> None:
        noise, r, exchange = self.noise_of(problem), state.k, problem.exchange
        if anchor := r % self.restart == 0:
            clip, multiplier = self.clip_gradient, noise.anchor
            messages = problem.gradient_messages(state.x, clip)
            state.variance = 0.0
        else:
            clip, multiplier = self.clip_difference * state.moved, noise.difference
            messages = problem.difference_messages(state.x, state.previous, clip)
        released = noisy_sum(self, problem, state, "anchor" if anchor else "difference", r, messages, multiplier, clip)
        state.estimate = released if anchor else state.estimate + released  # v_r
        state.noise = multiplier * clip * self.noise_unit(problem)
        state.variance += state.noise**2
        self._judge(problem, state)
        state.previous = state.x
        state.x = self._routine(problem, state)
        moved = torch.tensor([float((state.x - state.previous).norm())], dtype=torch.float64)
        state.moved = float(exchange.announce(moved)[0])  # the server's, for all
        state.k += 1
        late = state.k - self.rounds // 2
        state.average = state.x if late <= 1 else state.average + (state.x - state.average) / late
        state.count(release=1, gradient=sum(problem.sizes) * (1 if anchor else 2))
        state.count(bytes=8 * len(problem.sizes) * (2 * problem.dim + 1))

    def _judge(self, problem: Federation, state: Diff2State) -> None:
        """Bound of the gradient at x_r from released vectors; the outputs "random" and "best"."""
        radius = running_radius(
            state.variance, self.first_variance(problem), problem.dim, self.failure_probability, self.schedule(problem).anchors
        )  # fmt: skip
        state.bound = float((state.estimate + problem.ridge * state.x).norm()) + radius
        here = Mark(state.x, state.estimate, state.variance)  # neither tensor is ever changed in place
        if state.bound < state.best_bound:
            state.best_bound, state.best = state.bound, here
        if state.k == state.chosen:
            state.random = here

    def first_variance(self, problem: Federation) -> float:
        """tau of the running bound: an anchor's noise variance, known beforehand."""
        return (self.noise_of(problem).anchor * self.clip_gradient * self.noise_unit(problem)) ** 2

    def _routine(self, problem: Federation, state: Diff2State) -> Tensor:
        """Gradient descent, or the local steps of the client on turn."""
        place = state.k * (self.local.steps if self.local else 1)
        self._keep(state, place, state.estimate)
        y = state.x - self.step_length * (state.estimate + problem.ridge * state.x)
        if self.local is None:
            return y
        client = state.k % len(problem.sizes)
        steps = torch.zeros(self.local.steps - 1, problem.dim, dtype=torch.float64)
        if client in problem.exchange.mine(len(problem.sizes)):
            steps = self._local_steps(problem, state, client, y)
        steps = problem.exchange.announce(steps, source=client)
        for k in range(self.local.steps - 1):
            self._keep(state, place + 1 + k, steps[k])
            y = y - self.step_length * (steps[k] + problem.ridge * y)
        return y

    def _local_steps(self, problem: Federation, state: Diff2State, client: int, y: Tensor) -> Tensor:
        """w_2 .. w_K on Poisson batches of the client's records."""
        assert self.local is not None
        records, rate = problem.clients[client], self.schedule(problem).sampling[client]
        gaussian = Gaussian(ledger_of(self, problem, state), state.streams)
        previous, w, found = state.x, state.estimate, []
        for k in range(1, self.local.steps):
            picked = state.streams.numpy("batch", state.k, k).random(problem.sizes[client]) < rate
            rows = torch.from_numpy(picked.nonzero()[0])
            clip = self.local.clip * float((y - previous).norm())
            share = records.difference_sum(y, previous, clip * (1.0 - problem.rounding), rows).cpu() / self.local.batch
            w = w + gaussian.release(
                share, "local", state.k * self.local.steps + k, noise_multiplier=self.noise_of(problem).local,
                record_bound=clip / self.local.batch, sampling=rate, part=client, reserved=True,
            )  # fmt: skip
            previous, y = y, y - self.step_length * (w + problem.ridge * y)
            found.append(w)
        return torch.stack(found)

    def _keep(self, state: Diff2State, place: int, direction: Tensor) -> None:
        if state.directions is not None:
            state.directions[place] = direction
