"""Claims of quadratic games in norms beyond the small-gain one: pairs of couplings taken together, and block matrices.

Evidence: `paired.npz` (weights; where play rests on them also step, error and regret) and `block.npz` (the matrix P).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.games.field import Field
from surefoot.games.metrics import block_metric, paired_weights, proved_lipschitz, proved_paired_margin
from surefoot.games.problem import SmoothGame
from surefoot.games.proofs import moved, regret_bounds
from surefoot.games.small_gain import Bounds, best_weights

Array = np.ndarray[Any, np.dtype[Any]]
LARGEST = 16
"""Up to so many strategies the block matrix is sought and checked in exact rationals."""


def metric_claims(game: SmoothGame, bounds: Bounds, evidence: dict[str, Any]) -> list[Claim]:
    """Rates of a quadratic game in the two further norms."""
    J = game.jacobian
    if J is None or len(game.blocks) < 2:
        return []
    weights = paired_weights(J, game.slices, bounds.mu[0], best_weights(bounds.comparison))
    evidence["paired.npz"] = {"weights": weights}
    rate = proved_paired_margin(J, game.slices, weights)
    claims = [Claim(
        name="paired-margin",
        statement="Contraction rate when the two couplings of a pair are taken together, |w_i J_ij + w_j J_ji^T|: skew coupling costs nothing.",
        value=rate, kind="proved", relation=">=", bound=0.0, outcome="holds" if rate >= 0 else "undecided",
        reason="" if rate >= 0 else "no weights were found for which the own curvatures outweigh the symmetric parts of the couplings",
        check="paired-margin", evidence=("paired.npz",),
    )]  # fmt: skip
    found = block_metric([J], game.slices) if game.size <= LARGEST else None
    if found is not None:
        P, best = found
        evidence["block.npz"] = {"P": P}
        claims.append(Claim(
            name="block-metric",
            statement="Contraction rate of the flow in |x|_P with one matrix a player (linear matrix inequality): P J + J' P >= 2 value P. "
            "Projections onto strategy sets would have to be in this norm.",
            value=best, kind="proved", relation=">=", bound=0.0, check="block-metric", evidence=("block.npz",),
        ))  # fmt: skip
    return claims


def paired_step(game: SmoothGame, bounds: Bounds) -> tuple[Array, float, float] | None:
    """Weights, step and factor of projected play that rests on paired couplings; None if they give no rate."""
    J = game.jacobian
    if J is None or len(game.blocks) < 2 or not (bounds.mu > 0).all():
        return None
    weights = paired_weights(J, game.slices, bounds.mu[0], np.ones(len(game.blocks)))
    rate = proved_paired_margin(J, game.slices, weights)
    if not rate > 0:
        return None
    beta = proved_lipschitz(J, game.slices, weights)
    step = rate / beta**2
    return weights, step, paired_factor(rate, beta, step)


def paired_factor(rate: float, beta: float, step: float) -> float:
    """sqrt(1 - 2 a h + beta^2 h^2), the factor of one projected Euler step in the w-norm, with room for rounding."""
    return math.sqrt(max(0.0, 1 - 2 * rate * step + (beta * step) ** 2)) * (1 + 1e-12)


def paired_answer_claims(
    game: SmoothGame, field: Field, bounds: Bounds, x: Array, step: Array, evidence: dict[str, Any]
) -> list[Claim]:
    """Step, error and regret of play that rests on paired couplings, for games that the small-gain condition does not reach."""
    J, h = game.jacobian, float(step[0])
    found = paired_step(game, bounds)
    if J is None or found is None or not np.all(step == h):
        return []
    weights = found[0]
    rate, beta = proved_paired_margin(J, game.slices, weights), proved_lipschitz(J, game.slices, weights)
    factor = paired_factor(rate, beta, h)
    evidence["paired.npz"] |= {"weights": weights, "step": np.array([h])}
    claims = [Claim(
        name="paired-step", statement="One projected Euler step of the length used shrinks the weighted Euclidean distance by this factor.",
        value=factor, relation="<=", bound=1.0, kind="proved", outcome="holds" if factor <= 1 else "undecided", check="paired-step",
        reason="" if factor <= 1 else "the step asked for is longer than rate and Lipschitz constant allow", evidence=("paired.npz",),
    )]  # fmt: skip
    if factor >= 1:
        return claims
    gradient = field.gradient_interval(x)
    floor = 4 * np.finfo(np.float64).eps * max(float(np.abs(x).max()), 1e-300)
    residual = np.maximum(1.25 * moved(game, gradient, x, step), floor)
    error = 1.01 * math.sqrt(float((weights * residual**2).sum())) / (1 - factor) / np.sqrt(weights)
    regret = 1.25 * regret_bounds(game, gradient, x, bounds.mu.min(axis=0)) + 1e-300
    evidence["paired.npz"] |= {"error": error, "regret": regret}
    return [
        *claims,
        Claim(
            name="error",
            statement="The distance of the answer to the game's only equilibrium, player by player (Euclidean); this is the largest.",
            value=float(error.max()), relation="<=", kind="proved", check="paired-error", evidence=("answer", "paired.npz"),
        ),
        Claim(
            name="regret", statement="What all players together could still gain by changing their own strategies.",
            value=float(regret.sum()), relation="<=", kind="proved", check="paired-regret", evidence=("answer", "paired.npz"),
        ),
    ]  # fmt: skip
