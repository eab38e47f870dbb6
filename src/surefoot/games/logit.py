"""Logit equilibria of payoff tables, and the entropic small-gain certificate that they are unique.

    x_i = softmax( u_i(., x_-i) / tau )                                                            logit equilibrium
    L_ij = (1/4) max over actions a, a' of i and b, b' of j, and the others' pure profiles, of the double difference of u_i

Relative to the entropy every player's own curvature is tau, so rho(L) < tau makes the response map a contraction with factor
rho(L) / tau in max_i |d_i|_1 / v_i (Pinsker; |d softmax|_1 <= span / 2; span(A d) <= |d|_1 max|double difference| / 2). Then the
equilibrium is unique and |x - x*|_1 <= (I - L / tau)^-1 |x - BR(x)|_1, player by player.

References:
    R. McKelvey and T. Palfrey, "Quantal response equilibria for normal form games", 1995.
    V. Sharma, "Small-Gain Nash: Certified Contraction to Nash Equilibria in Differentiable Games", arXiv 2512.06791.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams
from surefoot.games.problem import FiniteGame
from surefoot.games.responses import EPS, LAPACK, Responses, entropic_coupling

Array = np.ndarray[Any, np.dtype[Any]]
SHARE = 0.9
"""Default precision: this share of the largest one that is certified, 1 / rho(L)."""
CHORD = 1e-8
"""Below this residual a Newton step keeps the last Jacobian, which is as good and cheaper."""


@dataclass(frozen=True, eq=False)
class LogitEquilibrium:
    """A logit equilibrium with its certificate.

    Args:
        strategies: probabilities of all players in one row (d,).
        temperature: tau.
        coupling: L (N, N), rounded upwards.
        unique: whether rho(L) < tau is proved, by `vector`.
        vector: v > 0 with L v < tau v; ones where not unique.
        error: |x - x*|_1 of each player (N,), rounding included; infinite where not unique.
        rounds: steps taken.
    """

    strategies: Array
    temperature: float
    coupling: Array
    unique: bool
    vector: Array
    error: Array
    rounds: int


def certified_precision(game: FiniteGame) -> float:
    """1 / rho(L): below this precision (1 / temperature) the logit equilibrium is unique; infinite where rho(L) = 0."""
    return _certified_precision(game, entropic_coupling(game))


def _certified_precision(game: FiniteGame, L: Array) -> float:
    rho = float(np.abs(np.linalg.eigvals(L)).max())
    return 1 / rho if rho > 1e-12 * max(1.0, float(np.abs(game.payoffs).max())) else math.inf


def temperature_of(game: FiniteGame, coupling: Array | None = None) -> float:
    """The game's temperature, or rho(L) / 0.9, or 1 where rho(L) = 0."""
    if game.temperature is not None:
        return game.temperature
    precision = _certified_precision(game, entropic_coupling(game) if coupling is None else coupling)
    return 1 / (SHARE * precision) if math.isfinite(precision) else 1.0


def logit_equilibria(
    games: Sequence[FiniteGame], *, tolerance: float = 1e-14, rounds: int = 200
) -> list[LogitEquilibrium]:
    """Logit equilibria of many games (see `logit_equilibrium`)."""
    return [logit_equilibrium(game, tolerance=tolerance, rounds=rounds) for game in games]


def logit_equilibrium(game: FiniteGame, *, tolerance: float = 1e-14, rounds: int = 200) -> LogitEquilibrium:
    """The logit equilibrium of a game, with its uniqueness proof and error bound.

    A Newton step for x = BR(x) is taken where it at least halves the residual, otherwise the response itself, which contracts
    whenever rho(L) < tau.

    Args:
        game: at its own temperature (see `FiniteGame`).
        tolerance: of the residual |x - BR(x)|_1.
        rounds: at most so many.
    """
    L = entropic_coupling(game)
    tau = temperature_of(game, L)
    table = Responses(game, tau)
    x = table.uniform
    p = table.response(x)
    size, done, factors = float(np.abs(p - x).sum()), 0, None
    while done < rounds and size > tolerance:
        if factors is None or size > CHORD:
            factors = table.newton_factors(p)
        candidate = x + LAPACK.dgetrs(*factors, p - x)[0]
        response = table.response(candidate)
        fresh = float(np.abs(response - candidate).sum())
        if not fresh <= 0.5 * size:
            if size < 1e-12:
                break
            candidate, factors = p, None
            response = table.response(candidate)
            fresh = float(np.abs(response - candidate).sum())
        x, p, size, done = candidate, response, fresh, done + 1
    # the response of x is at least as near to the equilibrium as x: T E + e <= E
    vector, error, unique = _bounds(L / tau, table.distance(x, p) + table.rounding)
    return LogitEquilibrium(p, tau, L, unique, vector, error, done)


def _bounds(T: Array, residual: Array) -> tuple[Array, Array, bool]:
    """Witness v, error E and whether both are proved: T v < v, and T E + e <= E with room for rounding."""
    n = len(T)
    _, _, both, singular = LAPACK.dgesv(np.eye(n) - T, np.stack([np.ones(n), residual], axis=1))
    if singular == 0:
        both[:, 1] *= 1 + 1e-6
        images = T @ both
        images[:, 1] += residual
        if (both[:, 0] > 0).all() and (both[:, 1] >= 0).all() and (images < both * (1 - 1e-9)).all():
            return both[:, 0], both[:, 1], True
    return np.ones(n), np.full(n, math.inf), False


# ---- under `solve` --------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class LogitState(State):
    """x (d,) and the residual |x - BR(x)|_1 of the last round."""

    x: Array
    residual: float = math.inf
    table: Responses | None = transient()  # noqa: RUF009 (it is dataclasses.field)


@dataclass(frozen=True)
class LogitResponse(Method[FiniteGame, LogitState, Array]):
    """Logit equilibrium by responses and Newton steps on x - BR(x).

    Args:
        tolerance: stop once |x - BR(x)|_1 is below it (rounding sets a floor near 1e-15).
        damping: share of the old strategies kept in a response.
        newton: take the Newton step where it at least halves the residual.
        nash: also decide whether the Nash equilibrium is unique.
        block: rounds a step.
    """

    tolerance: float = 1e-14
    damping: float = 0.0
    newton: bool = True
    nash: bool = True
    block: int = 1
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.damping < 1:
            raise ValueError(f"damping is {self.damping}; expected a number in [0, 1)")

    def init(self, problem: FiniteGame, start: Array | None, streams: Streams) -> LogitState:
        """Start with equal probabilities, or where told."""
        if start is None:
            return LogitState(streams=streams, x=np.concatenate([np.full(m, 1 / m) for m in problem.sizes]))
        x = np.array(start, dtype=np.float64)
        if x.shape != (sum(problem.sizes),) or (x < 0).any() or any(abs(p.sum() - 1) > 1e-9 for p in problem.split(x)):
            raise ValueError("the start is not one distribution a player")
        return LogitState(streams=streams, x=x)

    def step(self, problem: FiniteGame, state: LogitState) -> LogitState:
        """A block of rounds."""
        table = state.table = state.table or Responses(problem, temperature_of(problem))
        for _ in range(state.room(self.block)):
            x = state.x
            p = table.response(x)
            size = float(table.distance(x, p).max())
            moved = self.damping * x + (1 - self.damping) * p
            if self.newton and size > self.tolerance:
                candidate = x + LAPACK.dgetrs(*table.newton_factors(p), p - x)[0]
                if float(table.distance(candidate, table.response(candidate)).max()) <= 0.5 * size:
                    moved = candidate
            state.x, state.residual = moved, size
            state.k += 1
            state.count(response=1)
            if size <= self.tolerance:
                break
        return state

    def look(self, state: LogitState) -> Look:
        """The residual."""
        done = state.residual <= max(self.tolerance, 4 * EPS)
        return Look({"residual": state.residual}, Status.CONVERGED if done else None)

    def answer(self, problem: FiniteGame, state: LogitState) -> Array:
        """Probabilities of all players in one row."""
        return state.x

    def certify(self, problem: FiniteGame, state: LogitState) -> Certificate:
        """Uniqueness and error of the logit equilibrium; and what is known about Nash equilibria."""
        from surefoot.games.certify_finite import certify_logit

        return certify_logit(problem, state.x, nash=self.nash)
