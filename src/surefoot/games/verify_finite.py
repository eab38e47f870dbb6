"""Checkers of payoff tables, by other algorithms than the solver's.

Couplings come from all quadruples of actions, expected payoffs from exact rational sums over pure profiles, responses from
interval exponentials; Nash uniqueness for two players from the double description of the best-response polytopes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.games.problem import FiniteGame
from surefoot.numerics.intervals import Interval, exp

Array = np.ndarray[Any, np.dtype[Any]]
ZERO, ONE = Fraction(0), Fraction(1)


def _coupling(game: FiniteGame) -> list[list[Fraction]]:
    """L, exactly: floats find the largest double difference, rationals its value."""
    n = game.players
    L = [[ZERO] * n for _ in range(n)]
    for i, j in itertools.permutations(range(n), 2):
        u = np.moveaxis(game.payoffs[i], (i, j), (0, 1)).reshape(game.sizes[i], game.sizes[j], -1)
        best = ZERO
        for a, b in itertools.combinations(range(game.sizes[i]), 2):
            for c, d in itertools.combinations(range(game.sizes[j]), 2):
                value = np.abs(u[a, c] - u[a, d] - u[b, c] + u[b, d])
                k = int(value.argmax())
                if value[k] >= float(best) * (1 - 1e-9):
                    w = [Fraction(float(u[p, q, k])) for p, q in ((a, c), (a, d), (b, c), (b, d))]
                    best = max(best, abs(w[0] - w[1] - w[2] + w[3]))
        L[i][j] = best / 4
    return L


def _temperature(game: FiniteGame, dossier: Dossier, L: Sequence[Sequence[Fraction]]) -> float:
    stored = np.asarray(dossier.evidence["logit.npz"]["temperature"], dtype=np.float64)
    if stored.shape != (1,) or not (np.isfinite(stored[0]) and stored[0] > 0):
        raise ValueError("the temperature is not a positive number")
    tau = float(stored[0])
    if game.temperature is not None:
        wanted = game.temperature
    else:
        rho = float(np.abs(np.linalg.eigvals(np.array([[float(c) for c in row] for row in L]))).max())
        peak = max(1.0, float(np.abs(game.payoffs).max()))
        wanted = rho / 0.9 if rho > 1e-12 * peak else 1.0
    if abs(tau - wanted) > 1e-9 * wanted:
        raise ValueError(f"the temperature is {tau}, the game's is {wanted}")
    return tau


def _witness(game: FiniteGame, dossier: Dossier) -> tuple[list[list[Fraction]], float, Array]:
    """The exact couplings, the temperature, and the evidence's vector, all held against the game."""
    exact = _coupling(game)
    stored = dossier.evidence["logit.npz"]
    said = np.asarray(stored["coupling"], dtype=np.float64)
    floats = np.array([[float(c) for c in row] for row in exact])
    if (
        said.shape != floats.shape
        or not np.isfinite(said).all()
        or np.abs(said - floats).max() > 1e-12 * max(floats.max(), 1e-300)
    ):
        raise ValueError("the couplings are not those of the payoffs")
    vector = np.asarray(stored["vector"], dtype=np.float64)
    if (
        vector.shape != (game.players,)
        or not (np.isfinite(vector).all() and (vector > 0).all())
        or abs(vector.max() - 1) > 1e-9
    ):
        raise ValueError("the vector is not positive with a largest entry of 1")
    return exact, _temperature(game, dossier, exact), vector


def unique_logit(claim: Claim, dossier: Dossier) -> Verdict:
    """max_i (L v)_i / (tau v_i) in rationals."""
    game: FiniteGame = dossier.problem
    L, tau, vector = _witness(game, dossier)
    v = [Fraction(float(x)) for x in vector]
    share = max(
        sum((a * b for a, b in zip(row, v, strict=True)), ZERO) / (x * Fraction(tau))
        for row, x in zip(L, v, strict=True)
    )
    return compare(claim, float(share), supports="proved", bound=1.0, rtol=1e-9, undecided=share >= 1)


def _utilities(game: FiniteGame, i: int, x: Sequence[Sequence[Fraction]]) -> list[Fraction]:
    """u_i(a, x_-i) for every action a, summed over pure profiles in rationals."""
    totals = [ZERO] * game.sizes[i]
    others = [range(m) if j != i else range(1) for j, m in enumerate(game.sizes)]
    for profile in itertools.product(*others):
        weight = ONE
        for j, a in enumerate(profile):
            if j != i:
                weight *= x[j][a]
        if weight:
            for a in range(game.sizes[i]):
                place = (*profile[:i], a, *profile[i + 1 :])
                totals[a] += weight * Fraction(float(game.payoffs[(i, *place)]))
    return totals


def _strategies(game: FiniteGame, dossier: Dossier) -> tuple[list[list[Fraction]], list[Fraction]]:
    """The answer scaled to exact distributions, and how far each player's probabilities were moved by that."""
    answer = np.asarray(dossier.answer, dtype=np.float64)
    if answer.shape != (sum(game.sizes),) or not np.isfinite(answer).all() or (answer < 0).any():
        raise ValueError("the answer is not one list of probabilities >= 0 a player")
    x, moved = [], []
    for part in game.split(answer):
        exact = [Fraction(float(p)) for p in part]
        total = sum(exact, ZERO)
        if abs(total - 1) > Fraction(1, 10**9):
            raise ValueError(f"a player's probabilities sum to {float(total)}")
        x.append([p / total for p in exact])
        moved.append(abs(total - 1))
    return x, moved


def _enclosed_response(utilities: Sequence[Fraction], tau: float) -> Interval:
    """softmax(u / tau), from exact differences and interval exponentials."""
    peak = max(utilities)
    ends = [Interval.enclosing((u - peak) / Fraction(tau)) for u in utilities]
    powers = exp(Interval(np.array([e.low for e in ends]), np.array([e.high for e in ends])))
    return powers / powers.sum()


def logit_error(claim: Claim, dossier: Dossier) -> Verdict:
    """(L / tau) E + e <= E for the enclosed residual e of the answer."""
    game: FiniteGame = dossier.problem
    L, tau, vector = _witness(game, dossier)
    error = np.asarray(dossier.evidence["logit.npz"]["error"], dtype=np.float64)
    if error.shape != (game.players,) or not (np.isfinite(error).all() and (error >= 0).all()):
        raise ValueError("the error bounds are not one number >= 0 a player")
    floats = np.array([[float(c) for c in row] for row in L])
    if not (floats @ vector < tau * vector).all():
        return refute(claim, "the responses are not proved to contract")
    x, moved = _strategies(game, dossier)
    radius = [Fraction(float(e)) - m for e, m in zip(error, moved, strict=True)]
    for i in range(game.players):
        response = _enclosed_response(_utilities(game, i, x), tau)
        residual = ZERO
        for p, low, high in zip(x[i], response.low, response.high, strict=True):
            residual += max(abs(p - Fraction(float(low))), abs(p - Fraction(float(high))))
        image = residual + sum((c * r for c, r in zip(L[i], radius, strict=True)), ZERO) / Fraction(tau)
        if image > radius[i]:
            return refute(
                claim, f"the error bound of player {i + 1} is not supported by the residual {float(residual):.3g}"
            )
    return compare(claim, float(error.max()), supports="proved", rtol=1e-12)


def nash_regret(claim: Claim, dossier: Dossier) -> Verdict:
    """The largest gain of one player, in rationals."""
    game: FiniteGame = dossier.problem
    x, _ = _strategies(game, dossier)
    worst = ZERO
    for i in range(game.players):
        u = _utilities(game, i, x)
        worst = max(worst, max(u) - sum((a * b for a, b in zip(u, x[i], strict=True)), ZERO))
    tau = game.temperature
    bound = None if tau is None else tau * math.log(max(game.sizes))
    scale = float(np.abs(game.payoffs).max())
    return compare(claim, float(worst), supports="measured", bound=bound, rtol=1e-9, atol=1e-13 * scale)


# ---- Nash -----------------------------------------------------------------------------------------------------------


def _profile(game: FiniteGame, content: Any) -> list[list[Fraction]]:
    x = [[Fraction(p) for p in player] for player in content]
    if tuple(len(p) for p in x) != game.sizes or any(min(p) < 0 or sum(p, ZERO) != 1 for p in x):
        raise ValueError("an equilibrium is not one exact distribution a player")
    return x


def _is_nash(game: FiniteGame, x: Sequence[Sequence[Fraction]]) -> bool:
    for i in range(game.players):
        u = _utilities(game, i, x)
        if any(p > 0 and v != max(u) for p, v in zip(x[i], u, strict=True)):
            return False
    return True


def unique_nash(claim: Claim, dossier: Dossier) -> Verdict:
    """Every profile given is a Nash equilibrium, exactly; and where only one is given, there is no other."""
    game: FiniteGame = dossier.problem
    content = dossier.evidence["nash.json"]
    profiles = [_profile(game, p) for p in content["equilibria"]]
    keys = [tuple(map(tuple, p)) for p in profiles]
    if not keys or len(set(keys)) != len(keys) or keys != sorted(keys, reverse=True):
        raise ValueError("the equilibria are not distinct and in descending order")
    if content["how"] not in ("vertices", "dominance", "pure"):
        raise ValueError("the way of decision is not known")
    for number, x in enumerate(profiles):
        if not _is_nash(game, x):
            return refute(claim, f"profile {number + 1} is no Nash equilibrium")
    if len(profiles) == 1:
        if content["how"] == "dominance":
            _check_dominance(game, content["eliminated"], keys[0])
        elif (others := _labelled_pairs(game)) != 1:
            return refute(claim, f"there are {others} extreme equilibria")
    return compare(claim, len(profiles), supports="proved", bound=1)


def _check_dominance(game: FiniteGame, eliminated: Any, left: tuple[tuple[Fraction, ...], ...]) -> None:
    alive = [set(range(m)) for m in game.sizes]
    for player, action, better in eliminated:
        if action not in alive[player] or better not in alive[player] or action == better:
            raise ValueError("an elimination names an action that is not there")
        for profile in itertools.product(*(sorted(a) if j != player else [0] for j, a in enumerate(alive))):
            places = [(*profile[:player], a, *profile[player + 1 :]) for a in (better, action)]
            if not game.payoffs[(player, *places[0])] > game.payoffs[(player, *places[1])]:
                raise ValueError(f"action {action + 1} of player {player + 1} is not strictly dominated")
        alive[player].discard(action)
    if any(len(a) != 1 for a in alive) or any(p[next(iter(a))] != 1 for a, p in zip(alive, left, strict=True)):
        raise ValueError("the eliminations do not leave the equilibrium alone")


def _labelled_pairs(game: FiniteGame) -> int:
    """How many extreme equilibria a two-player game has: completely labelled pairs of vertices of P and Q."""
    active = [i for i, m in enumerate(game.sizes) if m > 1]
    if len(active) != 2:
        raise ValueError("uniqueness from polytopes is for two players")
    A, B = (np.squeeze(game.payoffs[i], axis=tuple(k for k in range(game.players) if k not in active)) for i in active)
    rows, columns = A.shape
    P, Q = _extreme_points(B.T), _extreme_points(A)
    pairs = 0
    for x, mine in P:
        for y, theirs in Q:
            # row action r is labelled where x_r = 0 or r is a best response to y; likewise for columns
            rows_done = all(x[r] == 0 or r in theirs for r in range(rows))
            columns_done = all(y[c] == 0 or c in mine for c in range(columns))
            pairs += int(rows_done and columns_done)
    return pairs


def _extreme_points(M: Array) -> list[tuple[list[Fraction], frozenset[int]]]:
    """Vertices x != 0 of {x >= 0, (M - min + 1) x <= 1} with their tight rows, by double description.

    Rays (t, x) of the cone {t, x >= 0} are cut by t - m.x >= 0, one row at a time; two rays are joined where no third one is
    tight in all that both are tight in.
    """
    least = min(Fraction(float(v)) for v in M.flat)
    rows = [[Fraction(float(v)) - least + 1 for v in row] for row in M]
    n = len(rows[0])
    rays = [[ONE if k == p else ZERO for k in range(n + 1)] for p in range(n + 1)]
    used: list[list[Fraction]] = []

    def tight(ray: Sequence[Fraction]) -> frozenset[int]:
        walls = [k for k in range(n + 1) if ray[k] == 0]
        cut = [
            n + 1 + j
            for j, row in enumerate(used)
            if ray[0] == sum((a * b for a, b in zip(row, ray[1:], strict=True)), ZERO)
        ]
        return frozenset(walls + cut)

    for row in rows:
        values = [ray[0] - sum((a * b for a, b in zip(row, ray[1:], strict=True)), ZERO) for ray in rays]
        sets = [tight(ray) for ray in rays]
        fresh = [ray for ray, value in zip(rays, values, strict=True) if value >= 0]
        for p, q in itertools.product(range(len(rays)), repeat=2):
            if values[p] <= 0 or values[q] >= 0:
                continue
            both = sets[p] & sets[q]
            if any(both <= sets[k] for k in range(len(rays)) if k not in (p, q)):
                continue
            joined = [values[p] * b - values[q] * a for a, b in zip(rays[p], rays[q], strict=True)]
            scale = sum(joined, ZERO)
            fresh.append([v / scale for v in joined])
        rays = fresh
        used.append(row)
    points = []
    for ray in rays:
        if ray[0] > 0 and any(ray[1:]):
            x = [v / ray[0] for v in ray[1:]]
            points.append(
                (
                    x,
                    frozenset(
                        j for j, row in enumerate(rows) if sum((a * b for a, b in zip(row, x, strict=True)), ZERO) == 1
                    ),
                )
            )
    return points


FINITE_CHECKS: Mapping[str, Check] = {
    "unique-logit": unique_logit, "logit-error": logit_error, "nash-regret": nash_regret, "unique-nash": unique_nash,
}  # fmt: skip
