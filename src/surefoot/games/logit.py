"""Logit equilibria of payoff tables, and the entropic small-gain certificate that they are unique.

    x_i = softmax( u_i(., x_-i) / tau )                                                            logit equilibrium
    L_ij = (1/4) max over actions a, a' of i and b, b' of j, and the others' pure profiles, of the double difference of u_i

Relative to the entropy every player's own curvature is tau, so rho(L) < tau makes the response map a contraction with factor
rho(L) / tau in max_i |d_i|_1 / v_i (Pinsker; |d softmax|_1 <= span / 2; span(A d) <= |d|_1 max|double difference| / 2). Then the
equilibrium is unique and |x - x*|_1 <= (I - L / tau)^-1 |x - BR(x)|_1, player by player.

Many games are solved at once: those with equally many players are padded to one shape.

References:
    R. McKelvey and T. Palfrey, "Quantal response equilibria for normal form games", 1995.
    V. Sharma, "Small-Gain Nash: Certified Contraction to Nash Equilibria in Differentiable Games", arXiv 2512.06791.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status, transient
from surefoot.core.random import Streams
from surefoot.games.problem import FiniteGame

Array = np.ndarray[Any, np.dtype[Any]]
EPS = float(np.finfo(np.float64).eps)
SHARE = 0.9
"""Default precision: this share of the largest one that is certified, 1 / rho(L)."""


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


class _Batch:
    """Games of equally many players, padded to one shape by repeating last actions (which have probability 0)."""

    def __init__(self, games: Sequence[FiniteGame]) -> None:
        self.games = games
        n = self.players = games[0].players
        self.sizes = np.array([g.sizes for g in games])
        widths = tuple(int(m) for m in self.sizes.max(axis=0))
        self.widths = widths
        self.payoffs = np.empty((len(games), n, *widths))
        for b, game in enumerate(games):
            whole = self.payoffs[b]
            whole[(slice(None), *(slice(m) for m in game.sizes))] = game.payoffs
            for axis, (m, width) in enumerate(zip(game.sizes, widths, strict=True)):
                if m < width:
                    before = (slice(None),) * (axis + 1)
                    whole[(*before, slice(m, None))] = whole[(*before, slice(m - 1, m))]
        self.alive = [np.arange(w) < self.sizes[:, i : i + 1] for i, w in enumerate(widths)]
        self.tables = [self.payoffs[:, i] for i in range(n)]
        self.peak = np.abs(self.payoffs).reshape(len(games), n, -1).max(axis=2)

    def coupling(self) -> Array:
        """L of every game (B, N, N), rounded upwards."""
        n = self.players
        L = np.zeros((len(self.games), n, n))
        for i in range(n):
            for j in range(n):
                if i == j:
                    continue
                rest = [1 + k for k in range(n) if k not in (i, j)]
                u = self.tables[i].transpose(0, 1 + i, *rest, 1 + j)
                difference = u[:, :, None] - u[:, None]
                spans = difference.max(axis=-1) - difference.min(axis=-1)
                L[:, i, j] = 0.25 * spans.reshape(len(L), -1).max(axis=1)
        # differences of two floats err by half a unit, their span by another: 4 units cover all
        return L * (1 + 4 * EPS)

    def uniform(self) -> list[Array]:
        """Equal probabilities."""
        return [a / a.sum(axis=1, keepdims=True) for a in self.alive]

    def response(self, x: list[Array], tau: Array) -> list[Array]:
        """Logit responses of all players."""
        answer = []
        for i in range(self.players):
            others = [x[j] for j in range(self.players) if j != i]
            z = np.einsum(_response_rule(self.players, i), self.tables[i], *others) / tau
            z = np.where(self.alive[i], z, -np.inf)
            p = np.exp(z - z.max(axis=1, keepdims=True))
            answer.append(p / p.sum(axis=1, keepdims=True))
        return answer

    def newton(self, x: list[Array], p: list[Array], tau: Array) -> list[Array]:
        """The Newton step for x - BR(x) = 0."""
        n, ends = self.players, np.cumsum((0, *self.widths))
        J = np.zeros((len(self.games), ends[-1], ends[-1]))
        J[:] = np.eye(ends[-1])
        for i in range(n):
            for j in range(n):
                if i == j:
                    continue
                others = [x[k] for k in range(n) if k not in (i, j)]
                A = np.einsum(_pair_rule(n, i, j), self.tables[i], *others)
                mean = p[i][:, None] @ A
                J[:, ends[i] : ends[i + 1], ends[j] : ends[j + 1]] = -p[i][:, :, None] * (A - mean) / tau[:, :, None]
        residual = np.concatenate(p, axis=1) - np.concatenate(x, axis=1)
        moved = np.concatenate(x, axis=1) + np.linalg.solve(J, residual[..., None])[..., 0]
        return np.split(moved, ends[1:-1], axis=1)

    def distance(self, x: list[Array], y: list[Array]) -> Array:
        """|x_i - y_i|_1, (B, N)."""
        return np.stack([np.abs(a - b).sum(axis=1) for a, b in zip(x, y, strict=True)], axis=1)

    def rounding(self, tau: Array) -> Array:
        """Upper bounds (B, N) of what rounding adds to |x_i - BR_i(x)|_1.

        A sum of m products of payoffs and probabilities errs by (m + N) units of the largest payoff; the logits' error passes
        through softmax at most unchanged in the 1-norm; exp, sum and quotient err by a few units; probabilities sum to 1 up to
        a unit an entry.
        """
        heat = self.peak / tau
        profiles = self.sizes.prod(axis=1, keepdims=True) / self.sizes
        return EPS * (
            (profiles + self.players + 8 + 2 * self.sizes.sum(axis=1, keepdims=True)) * heat + 3 * self.sizes + 12
        )


@lru_cache
def _response_rule(n: int, i: int) -> str:
    letters = "cdefghijklmnopqrstuvwxyz"[:n]
    return f"b{letters}," + ",".join(f"b{letters[j]}" for j in range(n) if j != i) + f"->b{letters[i]}"


@lru_cache
def _pair_rule(n: int, i: int, j: int) -> str:
    letters = "cdefghijklmnopqrstuvwxyz"[:n]
    others = "".join(f",b{letters[k]}" for k in range(n) if k not in (i, j))
    return f"b{letters}{others}->b{letters[i]}{letters[j]}"


def entropic_coupling(game: FiniteGame) -> Array:
    """L (N, N) of one game, rounded upwards."""
    return _Batch([game]).coupling()[0]


def certified_precision(game: FiniteGame) -> float:
    """1 / rho(L): below this precision (1 / temperature) the logit equilibrium is unique; infinite where rho(L) = 0."""
    rho = float(np.abs(np.linalg.eigvals(entropic_coupling(game))).max())
    return 1 / rho if rho > 1e-12 * max(1.0, float(np.abs(game.payoffs).max())) else math.inf


def temperature_of(game: FiniteGame) -> float:
    """The game's temperature, or rho(L) / 0.9, or 1 where rho(L) = 0."""
    if game.temperature is not None:
        return game.temperature
    precision = certified_precision(game)
    return 1 / (SHARE * precision) if math.isfinite(precision) else 1.0


def logit_equilibria(
    games: Sequence[FiniteGame], *, tolerance: float = 1e-14, rounds: int = 200
) -> list[LogitEquilibrium]:
    """Logit equilibria of many games at once, each with its uniqueness proof and error bound.

    A Newton step is taken where it at least halves the residual, otherwise the response itself, which contracts whenever
    rho(L) < tau.

    Args:
        games: each at its own temperature (see `FiniteGame`).
        tolerance: of the residual |x - BR(x)|_1.
        rounds: at most so many.
    """
    found: list[LogitEquilibrium | None] = [None] * len(games)
    for players in {g.players for g in games}:
        places = [k for k, g in enumerate(games) if g.players == players]
        for k, equilibrium in zip(
            places, _solve_batch(_Batch([games[k] for k in places]), tolerance, rounds), strict=True
        ):
            found[k] = equilibrium
    return [equilibrium for equilibrium in found if equilibrium is not None]


def _solve_batch(batch: _Batch, tolerance: float, rounds: int) -> list[LogitEquilibrium]:
    L = batch.coupling()
    tau = _temperatures(batch, L)
    x = batch.uniform()
    p = batch.response(x, tau)
    size = batch.distance(x, p).max(axis=1)
    done = 0
    while done < rounds and (size > tolerance).any():
        candidate = batch.newton(x, p, tau)
        response = batch.response(candidate, tau)
        fresh = batch.distance(candidate, response).max(axis=1)
        slow = ~(fresh <= 0.5 * size)
        if slow.all() and size.max() < 1e-12:
            break
        if slow.any():
            candidate = [np.where(slow[:, None], a, b) for a, b in zip(p, candidate, strict=True)]
            response = batch.response(candidate, tau)
            fresh = batch.distance(candidate, response).max(axis=1)
        x, p, size, done = candidate, response, fresh, done + 1
    x = p
    residual = batch.distance(x, batch.response(x, tau)) + batch.rounding(tau)
    vector, error, unique = _bounds(L / tau[:, :, None], residual)
    return [
        LogitEquilibrium(
            np.concatenate([a[b, : game.sizes[i]] for i, a in enumerate(x)]), float(tau[b, 0]), L[b], bool(unique[b]), vector[b],
            error[b], done,
        )
        for b, game in enumerate(batch.games)
    ]  # fmt: skip


def _temperatures(batch: _Batch, L: Array) -> Array:
    tau = np.array([math.nan if g.temperature is None else g.temperature for g in batch.games])
    if (unset := np.isnan(tau)).any():
        rho = np.abs(np.linalg.eigvals(L[unset])).max(axis=1)
        tau[unset] = np.where(rho > 1e-12 * np.maximum(1.0, batch.peak[unset].max(axis=1)), rho / SHARE, 1.0)
    return tau[:, None]


def _bounds(T: Array, residual: Array) -> tuple[Array, Array, Array]:
    """Witness v, error E and whether both are proved: T v < v, and T E + e <= E with room for rounding."""
    n = T.shape[-1]
    with np.errstate(all="ignore"):
        both = np.linalg.solve(np.eye(n) - T, np.stack([np.ones_like(residual), residual], axis=-1))
        vector, error = both[..., 0], both[..., 1] * (1 + 1e-6)
        room = 1 - 1e-9
        unique = ((vector > 0) & (np.einsum("bij,bj->bi", T, vector) < vector * room)).all(axis=1)
        proved = ((error >= 0) & (np.einsum("bij,bj->bi", T, error) + residual <= error * room)).all(axis=1)
    held = (unique & proved)[:, None]
    return np.where(held, vector, 1.0), np.where(held, error, math.inf), held[:, 0]


# ---- under `solve` --------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class LogitState(State):
    """x (d,) and the residual |x - BR(x)|_1 of the last round."""

    x: Array
    residual: float = math.inf
    batch: _Batch | None = transient()  # noqa: RUF009 (it is dataclasses.field)


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
    block: int = 20
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
        batch = state.batch = state.batch or _Batch([problem])
        tau = np.array([[temperature_of(problem)]])
        for _ in range(state.room(self.block)):
            x = [a[None] for a in problem.split(state.x)]
            p = batch.response(x, tau)
            size = float(batch.distance(x, p).max())
            moved = [self.damping * a + (1 - self.damping) * b for a, b in zip(x, p, strict=True)]
            if self.newton and size > self.tolerance:
                candidate = batch.newton(x, p, tau)
                if float(batch.distance(candidate, batch.response(candidate, tau)).max()) <= 0.5 * size:
                    moved = candidate
            state.x, state.residual = np.concatenate([a[0] for a in moved]), size
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
