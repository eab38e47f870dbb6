"""Local claims about the policies found in a Markov game. All are measured: they hold at these policies, not on a region."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from surefoot.core.certificate import Certificate, Claim
from surefoot.games.markov import Costs, field, local_bounds
from surefoot.games.problem import MarkovGame
from surefoot.games.small_gain import euler_steps, perron_margin

Array = np.ndarray[Any, np.dtype[Any]]
CARD = "small-gain-nash"
SMALLEST_REGRET, SMALLEST_GRADIENT = 1e-8, 1e-9
"""Regrets and gradients are stated no smaller than this: below it the searches and the checker's differences cannot see."""


def certify_markov(game: MarkovGame, answer: Array, step: float) -> Certificate:
    """Margin, step limit, stationarity, own convexity and regret at the policies (d,)."""
    theta = np.log(answer)
    local = local_bounds(game, theta)
    bounds = local.bounds
    alpha, vector = perron_margin(bounds.comparison)
    evidence: dict[str, Any] = {
        "local.npz": {
            "mu": bounds.mu[0], "ell": bounds.ell[0], "coupling": bounds.coupling[0], "vector": vector, "step": np.array([step]),
        }
    }  # fmt: skip
    gradient = max(float(np.linalg.norm(field(game, theta))), SMALLEST_GRADIENT)
    regret = max(float(best_responses(game, theta).max()), SMALLEST_REGRET)
    least = float(bounds.mu.min())
    holds = alpha > 0
    claims = [
        Claim(
            name="local-margin",
            statement="Small-gain margin in the Fisher metric at the policies found: natural gradients contract at this rate nearby.",
            value=alpha, relation=">=", bound=0.0, kind="measured", outcome="holds" if holds else "fails",
            reason="" if holds else "the couplings outweigh the own curvatures at these policies", check="local-margin",
            evidence=("answer", "local.npz"),
        ),
        Claim(
            name="stationarity", statement=f"Norm of all players' gradients at the policies (stated no smaller than {SMALLEST_GRADIENT:g}).",
            value=gradient, relation="<=", bound=1e-6, kind="measured", outcome="holds" if gradient <= 1e-6 else "fails",
            reason="" if gradient <= 1e-6 else "the iteration was stopped early", check="stationarity", evidence=("answer", "local.npz"),
        ),
        Claim(
            name="own-curvature", statement="Least own curvature in the Fisher metric: where it is positive, each policy is a strict local best response.",
            value=least, relation=">=", bound=0.0, kind="measured", outcome="holds" if least >= 0 else "fails",
            reason="" if least >= 0 else "a player is at a maximum or saddle of its own cost", check="own-curvature",
            evidence=("answer", "local.npz"),
        ),
        Claim(
            name="regret",
            statement=f"The most a player gained by searching for a better policy from several starts (stated no smaller than {SMALLEST_REGRET:g}).",
            value=regret, relation="<=", bound=1e-6, kind="measured", outcome="holds" if regret <= 1e-6 else "fails",
            reason="" if regret <= 1e-6 else "another policy is better: this stationary point is no equilibrium", check="policy-regret",
            evidence=("answer",),
        ),
    ]  # fmt: skip
    if holds:
        limit = euler_steps(bounds).limit
        claims.append(Claim(
            name="local-step", statement="Natural-gradient steps shorter than this contract near the policies; the step used against it.",
            value=step, relation="<=", bound=limit, kind="measured", outcome="holds" if step <= limit else "fails",
            reason="" if step <= limit else "the step used is longer than the local bound", check="local-step",
            evidence=("answer", "local.npz"),
        ))  # fmt: skip
    return Certificate(CARD, tuple(claims), game.fingerprint(), evidence)


def best_responses(game: MarkovGame, theta: Array, starts: int = 4) -> Array:
    """How much each player gains by L-BFGS over its own logits, from its policy and from random ones."""
    costs = Costs(game)
    generator = np.random.default_rng(0)
    gains = np.zeros(len(game.blocks))
    for i, own in enumerate(game.spans):
        base = torch.as_tensor(theta)
        here = float(costs(base)[i])

        def cost(part: Array, i: int = i, own: slice = own, base: torch.Tensor = base) -> tuple[float, Array]:
            moved = base.clone()
            moved[own] = torch.as_tensor(part)
            moved.requires_grad_(True)
            value = costs(moved)[i]
            return float(value.detach()), torch.autograd.grad(value, moved)[0][own].numpy()

        for k in range(starts):
            start = theta[own] if k == 0 else 2.0 * generator.standard_normal(game.blocks[i])
            found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
            gains[i] = max(gains[i], here - float(found.fun))
    return gains
