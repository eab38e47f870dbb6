"""What the private methods share: iterations that release noisy vectors, then final queries that certify, under one ledger.

An iteration of the loop is one release. A block of releases is entered in the ledger, and synced, before any of them is drawn.
When a killed run is resumed, releases that no checkpoint knows stay spent: the search ends that much earlier, and the final
queries, which have entries of their own, are made all the same.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams
from surefoot.numerics.bounds import noncentral_norm_bound
from surefoot.privacy.ledger import Budget, Entry, Ledger, Release
from surefoot.privacy.mechanism import Gaussian
from surefoot.privacy.risk import PrivateRisk, require_small_delta

QUERY = "final query"
KEEP = 4_000_000
"""So many released numbers are kept for the evidence; beyond, their norms only."""


@dataclass(kw_only=True)
class PrivateState(State):
    """Nothing in it depends on the records but through what was released."""

    records: ClassVar[tuple[type, ...]] = (Entry,)
    w: Tensor  # the point, in the search's coordinates
    known: list[Entry]  # the ledger as this state knows it
    norms: Tensor  # of the released gradient estimate with the penalty, an iteration each; NaN where not done
    stds: Tensor  # of the noise added, an iteration each
    vectors: Tensor | None  # (iterations, d) the gradient estimates, or None where they are too many
    last_norm: float = math.inf
    searching: bool = True
    ended: str = ""  # why the search ended early
    points: list[Tensor] = field(default_factory=list)  # candidates for the answer
    answers: list[float] = field(default_factory=list)  # norms that the final queries released; NaN: spent, but lost
    spent: float = 0.0
    ledger: Ledger | None = transient()  # noqa: RUF009  # a field


S = TypeVar("S", bound=PrivateState)


@dataclass(frozen=True, kw_only=True)
class PrivateMethod(Method[PrivateRisk, S, Tensor]):
    """Base of the private methods.

    Args:
        budget: what may be spent, all releases together.
        query_share: h: share of mu^2 kept for the final queries; 0 makes none.
        failure_probability: p of each statistical claim.
        target: a gradient norm to be certified; 0: the claim reports its value.
        journal: the ledger's file; None keeps it in memory.
        allow_large_delta: allow delta >= 1/n.
        block: releases entered in the ledger at once; changes the pace, never the result.
    """

    budget: Budget
    query_share: float = 0.2
    failure_probability: float = 0.05
    target: float = 0.0
    journal: Path | None = None
    allow_large_delta: bool = False
    block: int = 8
    private: bool = True
    horizon: int | None = field(init=False, default=None)

    # -- what a method says of itself
    @abstractmethod
    def iterations_of(self, problem: PrivateRisk) -> int:
        """How many releases the search makes."""

    @abstractmethod
    def search_plan(self, problem: PrivateRisk) -> list[Entry]:
        """The search's releases as the accountant reads them; with the final queries they meet the budget."""

    @abstractmethod
    def upcoming(self, problem: PrivateRisk, k: int) -> Release:
        """Release k, with the most that its record bound can be."""

    @abstractmethod
    def advance(self, problem: PrivateRisk, state: S, mechanism: Gaussian) -> None:
        """Iteration `state.k`: one release and what follows from it."""

    @abstractmethod
    def candidates(self, problem: PrivateRisk, state: S) -> list[Tensor]:
        """Points (d,) among which the final queries choose."""

    @abstractmethod
    def fresh(self, problem: PrivateRisk, start: Tensor, streams: Streams, shared: dict[str, Any]) -> S:
        """The first state; `shared` are the fields of `PrivateState`."""

    @abstractmethod
    def queries(self) -> int:
        """How many final queries there are."""

    # -- shared parts of the accounting
    def search_mu(self) -> float:
        """The mu that the search may spend."""
        return self.budget.mu * math.sqrt(1.0 - self.query_share * (self.queries() > 0))

    @property
    def record_reach(self) -> float:
        """How often a record's share fits into what changing it moves: 2 replaced, 1 added."""
        return 2.0 if self.budget.neighbours == "replace" else 1.0

    def query_release(self, problem: PrivateRisk) -> Release:
        """`s = 2 L0 / (n mu sqrt(h))` for one query; h is dealt evenly to several."""
        multiplier = self.record_reach * math.sqrt(self.queries() / self.query_share) / self.budget.mu
        return Release(QUERY, multiplier, problem.record_gradient / problem.size)

    def plan(self, problem: PrivateRisk) -> list[Entry]:
        """All releases."""
        entries = self.search_plan(problem)
        if self.queries():
            release = self.query_release(problem)
            entries.append(Entry(QUERY, release.noise_multiplier, 1.0, -1, self.queries()))
        return entries

    # -- the verbs
    def validate(self, problem: PrivateRisk) -> None:
        """Refuse what cannot be run, before anything is read or spent.

        Raises:
            ValueError: with what was expected.
        """
        require_small_delta(self.budget.delta, problem.size, allow_large=self.allow_large_delta)
        if not 0.0 <= self.query_share < 1.0 or not 0.0 < self.failure_probability < 1.0 or self.block < 1:
            raise ValueError(
                f"query_share {self.query_share}, failure_probability {self.failure_probability}, block {self.block}: expected [0, 1), "
                "(0, 1) and >= 1"
            )
        self.iterations_of(problem)  # names a schedule that the records are too few for

    def init(self, problem: PrivateRisk, start: Tensor | None, streams: Streams) -> S:
        """Validate, and begin at the problem's start."""
        self.validate(problem)
        iterations, searched = self.iterations_of(problem), problem.searched
        origin = searched.origin() if start is None or problem.projection is not None else start.double().clone()
        empty = torch.full((iterations,), math.nan, dtype=torch.float64)
        shared: dict[str, Any] = {
            "streams": streams, "w": origin.clone(), "known": [], "norms": empty, "stds": empty.clone(),
            "vectors": torch.zeros(iterations, searched.dim, dtype=torch.float64) if iterations * searched.dim <= KEEP else None,
        }  # fmt: skip
        return self.fresh(problem, origin, streams, shared)

    def step(self, problem: PrivateRisk, state: S) -> S:
        """A block of releases, or a final query."""
        ledger = self._open(problem, state)
        mechanism = Gaussian(ledger, state.streams)
        if state.searching:
            self._search(problem, state, ledger, mechanism)
        elif len(state.answers) < len(state.points) and self.queries():
            self._query(problem, state, ledger, mechanism)
        state.known = ledger.entries()
        state.spent = self._spent(problem, ledger)
        return state

    def look(self, state: S) -> Look:
        """Released quantities only."""
        row = {"released_norm": state.last_norm, "spent_share" if self.sampled else "spent_epsilon": state.spent}
        done = not state.searching and len(state.answers) >= (len(state.points) if self.queries() else 0)
        return Look(row, Status.CONVERGED if done else None, state.ended or "every planned release was made")

    def answer(self, problem: PrivateRisk, state: S) -> Tensor:
        """The candidate with the smallest certified gradient norm; the present point where there is none yet."""
        if not state.points:
            return problem.lift(state.w)
        bounds = [b for b in self.bounds(problem, state) if math.isfinite(b)]
        return state.points[self.bounds(problem, state).index(min(bounds))] if bounds else state.points[0]

    def certify(self, problem: PrivateRisk, state: S) -> Certificate:
        """See `certify_gradient`."""
        from surefoot.privacy.certify_gradient import certificate

        return certificate(self, problem, state, self._open(problem, state))

    # -- helpers
    def bounds(self, problem: PrivateRisk, state: S) -> list[float]:
        """Certified norms at the candidates, all at once with probability 1 - p; inf where the query was lost."""
        if not self.queries():
            return []
        std, level = self.query_release(problem).noise_std, self.failure_probability / self.queries()
        return [
            float(noncentral_norm_bound(answer, std, problem.dim, level)) if math.isfinite(answer) else math.inf
            for answer in state.answers
        ]

    def _open(self, problem: PrivateRisk, state: S) -> Ledger:
        if state.ledger is None:
            state.ledger = Ledger(self.budget, self.plan(problem), self.journal, state.known)
        return state.ledger

    def _search(self, problem: PrivateRisk, state: S, ledger: Ledger, mechanism: Gaussian) -> None:
        iterations = self.iterations_of(problem)
        wanted = [self.upcoming(problem, k) for k in range(state.k, min(state.k + state.room(self.block), iterations))]
        allowed = _affordable(ledger, wanted)
        if allowed:
            ledger.enter(*_merged(wanted[:allowed]))
        for _ in range(allowed):
            self.advance(problem, state, mechanism)
            state.k += 1
            state.count(release=1)
            if state.ended:  # a stopping rule on released quantities
                break
        if allowed < len(wanted) and not state.ended:
            state.ended = (
                f"the budget of the search was spent after {state.k} of {iterations} iterations: the ledger holds "
                "releases that no checkpoint knows (a run was killed after entering them); what is spent stays spent"
            )
        if state.ended or state.k >= iterations:
            state.searching = False
            state.points = [problem.lift(u).clone() for u in self.candidates(problem, state)]

    def _query(self, problem: PrivateRisk, state: S, ledger: Ledger, mechanism: Gaussian) -> None:
        place, release = len(state.answers), self.query_release(problem)
        if ledger.left(release) < len(state.points) - place:
            state.ended = (
                f"{state.ended}; " * bool(state.ended) + "a final query was spent by a killed run and its value is lost"
            )
            state.answers.append(math.nan)
        else:
            point = state.points[place]
            mean = problem.records.gradient_sum(point, problem.record_gradient) / problem.size
            noisy = mechanism.release(
                mean, QUERY, place, noise_multiplier=release.noise_multiplier, record_bound=release.record_bound
            )
            state.answers.append(float((noisy + problem.penalty.gradient(point)).norm()))
            state.count(release=1)
        state.k += 1

    @property
    def sampled(self) -> bool:
        """Whether some release uses a random part of the records."""
        return False

    def _spent(self, problem: PrivateRisk, ledger: Ledger) -> float:
        if not self.sampled:
            return ledger.spent().epsilon(self.budget.delta)
        # an account by privacy loss distributions takes seconds: the share of the planned releases instead
        return sum(e.number for e in ledger.entries()) / (self.iterations_of(problem) + self.queries())


def _affordable(ledger: Ledger, wanted: Sequence[Release]) -> int:
    """How many of the next releases the plan still holds."""
    left: dict[tuple[str, float, float, int], int] = {}
    for number, release in enumerate(wanted):
        key = (release.name, release.noise_multiplier, release.sampling, release.part)
        left.setdefault(key, ledger.left(release))
        if left[key] == 0:
            return number
        left[key] -= 1
    return len(wanted)


def _merged(releases: Sequence[Release]) -> list[Release]:
    """Releases of one kind in one line, with the largest record bound."""
    groups: dict[tuple[str, float, float, int], list[Release]] = {}
    for r in releases:
        groups.setdefault((r.name, r.noise_multiplier, r.sampling, r.part), []).append(r)
    return [
        Release(*key[:2], max(r.record_bound for r in group), key[2], key[3], len(group))
        for key, group in groups.items()
    ]
