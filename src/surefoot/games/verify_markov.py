"""Checkers of Markov games: values by iterating the chain, gradients by complex steps, second derivatives by their differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare
from surefoot.games.problem import MarkovGame

Array = np.ndarray[Any, np.dtype[Any]]
TINY = 1e-30
SMALLEST_REGRET, SMALLEST_GRADIENT = 1e-8, 1e-9


def _costs(game: MarkovGame, theta: Any) -> Any:
    """All costs by the value function (not by the occupancy), for real or complex logits."""
    states, n = len(game.start), len(game.actions)
    policies = []
    joint: Any = np.ones((states, *([1] * n)))
    for i, (span, actions) in enumerate(zip(game.spans, game.actions, strict=True)):
        power = np.exp(theta[span].reshape(states, actions))
        policies.append(power / power.sum(axis=1, keepdims=True))
        joint = joint * policies[-1].reshape(states, *(actions if k == i else 1 for k in range(n)))
    axes = tuple(range(1, n + 1))
    move = (joint[..., None] * game.transitions).sum(axis=axes)
    now = (joint * game.rewards).sum(axis=tuple(a + 1 for a in axes))
    values = np.linalg.solve(np.eye(states) - game.discount * move, now.T)
    entropy = np.array([-(p * np.log(p)).sum() for p in policies])
    return -((1 - game.discount) * (game.start @ values) + game.entropy_weight * entropy)


def _field(game: MarkovGame, theta: Array) -> Array:
    result = np.empty(len(theta))
    for i, span in enumerate(game.spans):
        for k in range(span.start, span.stop):
            moved = theta.astype(np.complex128)
            moved[k] += 1j * TINY
            result[k] = _costs(game, moved)[i].imag / TINY
    return result


def _jacobian(game: MarkovGame, theta: Array, width: float = 1e-4) -> Array:
    """Fourth-order differences of the complex-step gradient."""
    columns = []
    for k in range(len(theta)):
        e = np.zeros(len(theta))
        e[k] = width
        near = _field(game, theta + e) - _field(game, theta - e)
        far = _field(game, theta + 2 * e) - _field(game, theta - 2 * e)
        columns.append((8 * near - far) / (12 * width))
    return np.array(columns).T


def _policies(dossier: Dossier) -> tuple[MarkovGame, Array]:
    game: MarkovGame = dossier.problem
    answer = np.asarray(dossier.answer, dtype=np.float64)
    if answer.shape != (sum(game.blocks),) or not np.isfinite(answer).all() or (answer <= 0).any():
        raise ValueError("the answer is not one positive probability a player, state and action")
    for span, actions in zip(game.spans, game.actions, strict=True):
        if np.abs(answer[span].reshape(-1, actions).sum(axis=1) - 1).max() > 1e-9:
            raise ValueError("a policy's probabilities do not sum to 1")
    return game, np.log(answer)


def _local(dossier: Dossier) -> tuple[Array, Array, Array]:
    """mu, ell and coupling by generalised eigenvalues against the Fisher matrices, compared with the evidence."""
    game, theta = _policies(dossier)
    states, n = len(game.start), len(game.actions)
    J, p = _jacobian(game, theta), np.exp(theta)
    spans, bases, metrics = game.spans, [], []
    for span, actions in zip(spans, game.actions, strict=True):
        # differences to the last action span the logits without the constants; any basis gives the same eigenvalues
        basis = np.kron(np.eye(states), np.vstack([np.eye(actions - 1), -np.ones((1, actions - 1))]))
        G = np.zeros((states * actions, states * actions))
        for s in range(states):
            q = p[span][s * actions : (s + 1) * actions]
            G[s * actions : (s + 1) * actions, s * actions : (s + 1) * actions] = np.diag(q) - np.outer(q, q)
        bases.append(basis)
        metrics.append(basis.T @ G @ basis)
    mu, ell, L = np.empty(n), np.empty(n), np.zeros((n, n))
    for i in range(n):
        own = bases[i].T @ J[spans[i], spans[i]] @ bases[i]
        values = eigh(0.5 * (own + own.T), metrics[i], eigvals_only=True)
        mu[i], ell[i] = values[0], values[-1]
        for j in [j for j in range(n) if j != i]:
            cross = bases[i].T @ J[spans[i], spans[j]] @ bases[j]
            squares = eigh(cross @ np.linalg.solve(metrics[j], cross.T), metrics[i], eigvals_only=True)
            L[i, j] = np.sqrt(max(squares[-1], 0.0))
    stored = dossier.evidence["local.npz"]
    for name, found in (("mu", mu), ("ell", ell), ("coupling", L)):
        said = np.asarray(stored[name], dtype=np.float64)
        if said.shape != found.shape or not np.allclose(said, found, rtol=1e-5, atol=1e-6):
            raise ValueError(f"{name!r} in the evidence is not that of the policies")
    step = np.asarray(stored["step"], dtype=np.float64)
    if step.shape != (1,) or not (np.isfinite(step[0]) and step[0] > 0):
        raise ValueError("the step is not a positive number")
    return mu, ell, L


def local_margin(claim: Claim, dossier: Dossier) -> Verdict:
    """min_i (K v)_i / v_i with the evidence's v, which must attain the least eigenvalue."""
    mu, _, L = _local(dossier)
    v = np.asarray(dossier.evidence["local.npz"]["vector"], dtype=np.float64)
    if v.shape != mu.shape or not (v > 0).all() or abs(v.max() - 1) > 1e-9:
        raise ValueError("the vector is not positive with a largest entry of 1")
    value = float(((mu * v - L @ v) / v).min())
    return compare(claim, value, supports="measured", bound=0.0, rtol=1e-4, atol=1e-6)


def stationarity(claim: Claim, dossier: Dossier) -> Verdict:
    """The field's norm by complex steps."""
    game, theta = _policies(dossier)
    _local(dossier)
    value = max(float(np.linalg.norm(_field(game, theta))), SMALLEST_GRADIENT)
    return compare(claim, value, supports="measured", bound=1e-6, rtol=1e-3, atol=1e-12)


def own_curvature(claim: Claim, dossier: Dossier) -> Verdict:
    """The smallest of the players' least eigenvalues."""
    mu, _, _ = _local(dossier)
    return compare(claim, float(mu.min()), supports="measured", bound=0.0, rtol=1e-4, atol=1e-6)


def local_step(claim: Claim, dossier: Dossier) -> Verdict:
    """The step used, against the limit where the matrix T of a step leaves the unit circle: a leading minor of I - T vanishes."""
    mu, ell, L = _local(dossier)

    def contracts(h: float) -> bool:
        left = np.diag(1 - np.maximum(np.abs(1 - h * mu), np.abs(1 - h * ell))) - h * L
        return all(np.linalg.det(left[:k, :k]) > 0 for k in range(1, len(mu) + 1))

    low, high = 0.0, 2.0 / float(ell.max())
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if contracts(middle) else (low, middle)
    step = float(np.asarray(dossier.evidence["local.npz"]["step"])[0])
    return compare(claim, step, supports="measured", bound=low, rtol=1e-4)


def policy_regret(claim: Claim, dossier: Dossier) -> Verdict:
    """Search for better policies with another optimiser (BFGS on complex-step gradients) from other starts."""
    game, theta = _policies(dossier)
    generator = np.random.default_rng(dossier.seed)
    gain = SMALLEST_REGRET
    for i, own in enumerate(game.spans):
        here = float(_costs(game, theta)[i])

        def cost(part: Array, i: int = i, own: slice = own) -> float:
            moved = theta.copy()
            moved[own] = part
            return float(_costs(game, moved)[i])

        for k in range(3):
            start = theta[own] if k == 0 else generator.standard_normal(game.blocks[i])
            gain = max(gain, here - float(minimize(cost, start, method="BFGS").fun))
    return compare(claim, gain, supports="measured", bound=1e-6, rtol=1e-2)


MARKOV_CHECKS: Mapping[str, Check] = {
    "local-margin": local_margin, "stationarity": stationarity, "own-curvature": own_curvature, "local-step": local_step,
    "policy-regret": policy_regret,
}  # fmt: skip
