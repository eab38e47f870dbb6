"""Checkers of payoff tables, by other algorithms than the solver's.

Couplings come from all quadruples of actions, expected payoffs from exact rational sums over pure profiles, responses from
interval exponentials.
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


def utilities(game: FiniteGame, i: int, x: Sequence[Sequence[Fraction]]) -> list[Fraction]:
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
        response = _enclosed_response(utilities(game, i, x), tau)
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
        u = utilities(game, i, x)
        worst = max(worst, max(u) - sum((a * b for a, b in zip(u, x[i], strict=True)), ZERO))
    tau = game.temperature
    bound = None if tau is None else tau * math.log(max(game.sizes))
    scale = float(np.abs(game.payoffs).max())
    return compare(claim, float(worst), supports="measured", bound=bound, rtol=1e-9, atol=1e-13 * scale)


FINITE_CHECKS: Mapping[str, Check] = {
    "unique-logit": unique_logit, "logit-error": logit_error, "nash-regret": nash_regret
}  # fmt: skip
