"""Claims about the logit and Nash equilibria of a payoff table.

Evidence: `logit.npz` (coupling L, witness, temperature, error bounds) and `nash.json` (exact equilibria as rationals).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Certificate, Claim
from surefoot.games.logit import temperature_of
from surefoot.games.nash import NashFinding, decide_nash
from surefoot.games.problem import FiniteGame
from surefoot.games.responses import Responses, entropic_coupling
from surefoot.games.small_gain import perron_margin
from surefoot.numerics.interval_matrices import spectral_radius_bounds

Array = np.ndarray[Any, np.dtype[Any]]
CARD = "small-gain-nash"
ROOM = 2.0
"""The checker encloses the residual in its own way; error bounds leave it this factor."""


def certify_logit(game: FiniteGame, x: Array, *, nash: bool = True) -> Certificate:
    """The certificate of a logit equilibrium: uniqueness, error, regret; and what is known about Nash equilibria.

    Args:
        game: the payoff table at its temperature.
        x: probabilities of all players in one row.
        nash: also decide whether the Nash equilibrium is unique.
    """
    L = entropic_coupling(game)
    tau = temperature_of(game, L)
    _, vector = perron_margin(-L[None])
    share = spectral_radius_bounds(L, vector)[1] / tau
    evidence: dict[str, Any] = {"logit.npz": {"coupling": L, "vector": vector, "temperature": np.array([tau])}}
    unique = share < 1
    statement = (
        f"At temperature {tau:.6g} the logit equilibrium is unique: the spectral radius of the couplings over the temperature. It is also "
        "the factor by which one round of logit responses contracts."
    )
    reason = f"the couplings outweigh the temperature; below precision {tau * share and 1 / (tau * share):.6g} it would be unique"
    claims = [Claim(
        name="unique-logit", statement=statement, value=share, relation="<=", bound=1.0, kind="proved",
        outcome="holds" if unique else "undecided", reason="" if unique else reason, check="unique-logit", evidence=("logit.npz",),
    )]  # fmt: skip
    claims.append(_error_claim(game, L, tau, vector, x, share, evidence))
    claims.append(_regret_claim(game, x, tau))
    if nash:
        claims.append(_nash_claim(game, decide_nash(game), evidence))
    return Certificate(CARD, tuple(claims), game.fingerprint(), evidence)


def _error_claim(
    game: FiniteGame, L: Array, tau: float, vector: Array, x: Array, share: float, evidence: dict[str, Any]
) -> Claim:
    statement = "The distance |x_i - x*_i|_1 of a player's probabilities to the logit equilibrium; this is the largest."
    if share >= 1:
        return Claim(
            name="logit-error", statement=statement, value=None, kind="proved", outcome="undecided", check="nothing",
            reason="the responses are not proved to contract at this temperature",
        )  # fmt: skip
    table = Responses(game, tau)
    residual = ROOM * (table.distance(x, table.response(x)) + table.rounding)
    T = L / tau
    error = np.linalg.solve(np.eye(len(T)) - T, residual) * (1 + 1e-6)
    while (T @ error + residual > error * (1 - 1e-9)).any():
        error = np.maximum(error, vector * float((residual / vector).max()) / (1 - share)) * (1 + 1e-6)
    evidence["logit.npz"]["error"] = error
    return Claim(
        name="logit-error", statement=statement, value=float(error.max()), relation="<=", kind="proved", check="logit-error",
        evidence=("answer", "logit.npz"),
    )  # fmt: skip


def _regret_claim(game: FiniteGame, x: Array, tau: float) -> Claim:
    parts = game.split(x)
    worst = 0.0
    for i in range(game.players):
        u = np.moveaxis(game.payoffs[i], i, 0)
        for j in range(game.players - 1, -1, -1):
            if j != i:
                u = np.tensordot(u, parts[j], axes=([u.ndim - 1], [0]))
        worst = max(worst, float(u.max() - u @ parts[i]))
    bound = tau * math.log(max(game.sizes))
    holds = worst <= bound * (1 + 1e-9) + 1e-12
    return Claim(
        name="nash-regret",
        statement="The most that one player could gain by leaving the answer alone; at a logit equilibrium at most temperature * log(actions).",
        value=worst, relation="<=", bound=bound, tolerance=1e-9 * bound + 1e-12, kind="measured", outcome="holds" if holds else "fails",
        reason="" if holds else "the answer is no logit equilibrium", check="nash-regret", evidence=("answer",),
    )  # fmt: skip


def _nash_claim(game: FiniteGame, finding: NashFinding, evidence: dict[str, Any]) -> Claim:
    statement = "The game has exactly one Nash equilibrium; so many are given as evidence, exactly or each by a point beside it."
    if finding.outcome == "undecided":
        return Claim(
            name="unique-nash", statement=statement, value=None, relation="==", bound=1, kind="proved", outcome="undecided",
            reason=finding.reason, check="nothing",
        )  # fmt: skip
    given = finding.equilibria[:2]
    near = finding.enclosed[: 2 - len(given)]
    evidence["nash.json"] = {
        "equilibria": [_texts(profile) for profile in given],
        "enclosed": [_texts([[Fraction(float(p)) for p in player] for player in game.split(x)]) for x in near],
        "how": finding.how,
        "eliminated": [list(triple) for triple in finding.eliminated],
    }
    found = len(finding.equilibria) + len(finding.enclosed)
    several = f"at least {found} equilibria" + (" (all extreme ones)" if finding.complete else "")
    return Claim(
        name="unique-nash", statement=statement, value=len(given) + len(near), relation="==", bound=1, kind="proved",
        outcome=finding.outcome, reason="" if finding.outcome == "holds" else several, check="unique-nash", evidence=("nash.json",),
    )  # fmt: skip


def _texts(profile: Any) -> list[list[str]]:
    return [[f"{p.numerator}/{p.denominator}" for p in player] for player in profile]
