"""Entropy-regularised policy gradients in Markov games, with a local small-gain certificate in the Fisher metric.

    theta_i <- theta_i - eta G_i(theta_i)^+ grad_i f_i(theta),   G_i = blockdiag over states of diag(p) - p p'

With the Fisher metrics at an equilibrium as local metrics, mu_i is the least eigenvalue of G_i^-1/2 H_ii G_i^-1/2 and L_ij the
norm of G_i^-1/2 H_ij G_j^-1/2; K = diag(mu) - L as in Euclidean games. The statement is local: off the equilibrium the
derivative of G^-1 is dropped. Logits have a null space (a constant a state), which is removed by an explicit basis.

References:
    V. Sharma, "Small-Gain Nash: Certified Contraction to Nash Equilibria in Differentiable Games", arXiv 2512.06791.
    S. Kakade, "A natural policy gradient", 2001.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.special import log_softmax
from torch import Tensor

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot.games.problem import MarkovGame
from surefoot.games.small_gain import Bounds

Array = np.ndarray[Any, np.dtype[Any]]


def coordination_game(discount: float = 0.9, entropy_weight: float = 1.0) -> MarkovGame:
    """The paper's game: two states, two actions; matching pays 1 and steers the state, mismatching pays -1."""
    transitions = np.full((2, 2, 2, 2), 0.5)
    transitions[:, 0, 0] = (0.9, 0.1)
    transitions[:, 1, 1] = (0.1, 0.9)
    pay = np.broadcast_to(np.array([[1.0, -1.0], [-1.0, 1.0]]), (2, 2, 2))
    return MarkovGame(
        transitions, np.stack([pay, pay]), np.array([1.0, 0.0]), discount, entropy_weight, "coordination Markov game"
    )


class Costs:
    """f_1, ..., f_N as torch functions of all logits in one row."""

    def __init__(self, game: MarkovGame) -> None:
        self.game = game
        self.P, self.R, self.start = (torch.as_tensor(a) for a in (game.transitions, game.rewards, game.start))
        self.shapes = [(len(game.start), m) for m in game.actions]

    def policies(self, theta: Tensor) -> list[Tensor]:
        parts = torch.split(theta, list(self.game.blocks))
        return [torch.log_softmax(part.reshape(shape), dim=-1) for part, shape in zip(parts, self.shapes, strict=True)]

    def __call__(self, theta: Tensor) -> Tensor:
        """(N,) costs."""
        logs = self.policies(theta)
        joint = torch.ones(len(self.start), 1, dtype=theta.dtype)
        for log in logs:  # joint actions in a row, the last player's fastest
            joint = (joint[:, :, None] * log.exp()[:, None, :]).flatten(1)
        move = torch.einsum("sm,smt->st", joint, self.P.flatten(1, -2))
        eye = torch.eye(len(self.start), dtype=theta.dtype)
        visits = (1 - self.game.discount) * torch.linalg.solve(eye - self.game.discount * move.T, self.start)
        gains = torch.einsum("s,sm,ism->i", visits, joint, self.R.flatten(2))
        entropy = torch.stack([-(log.exp() * log).sum() for log in logs])
        return -(gains + self.game.entropy_weight * entropy)


def field(game: MarkovGame, theta: Array) -> Array:
    """F(theta), each player's gradient of its own cost, by the policy-gradient theorem.

        dJ_i / d theta_i[s, a] = d(s) pi_i(a | s) (Q_i(s, a) - sum_a' pi_i(a' | s) Q_i(s, a')),   d the discounted visits

    Args:
        theta: logits (..., d), one row or many.
    """
    logs = _log_policies(game, theta)
    played = [np.exp(part) for part in logs]
    joint = _joint(played)
    transitions = game.transitions.reshape(len(game.start), -1, len(game.start))
    flat = joint.reshape(*joint.shape[: -len(played)], -1)
    move = np.einsum("...sm,smt->...st", flat, transitions)
    resolvent = np.linalg.inv(np.eye(len(game.start)) - game.discount * move)
    visits = (1 - game.discount) * np.einsum("s,...st->...t", game.start, resolvent)
    parts = []
    for i, (policy, log) in enumerate(zip(played, logs, strict=True)):
        rewards = game.rewards[i].reshape(len(game.start), -1)
        values = np.einsum("...st,...sm,sm->...t", np.swapaxes(resolvent, -1, -2), flat, rewards)
        gains = rewards + game.discount * np.einsum("smt,...t->...sm", transitions, values)
        others = _joint([np.ones_like(p) if j == i else p for j, p in enumerate(played)])
        axes = tuple(k - len(played) for k in range(len(played)) if k != i)
        means = (gains.reshape(others.shape) * others).sum(axis=axes)
        slope = visits[..., None] * means - game.entropy_weight * log
        centred = policy * (slope - (policy * slope).sum(axis=-1, keepdims=True))
        parts.append(-centred.reshape(*theta.shape[:-1], -1))
    return np.concatenate(parts, axis=-1)


def _joint(played: list[Array]) -> Array:
    """Products of the players' probabilities (..., S, A_i), of shape (..., S, A_1, ..., A_N)."""
    n = len(played)
    parts = [p.reshape(*p.shape[:-1], *([1] * i), p.shape[-1], *([1] * (n - 1 - i))) for i, p in enumerate(played)]
    return np.asarray(functools.reduce(np.multiply, parts))


def natural_field(game: MarkovGame, theta: Array) -> Array:
    """G^+ F: for softmax logits the gradient over the probabilities, less its mean in every state."""
    whole = field(game, theta)
    parts = [whole[..., span] for span in game.spans]
    moved = []
    for part, log in zip(parts, _log_policies(game, theta), strict=True):
        steepest = part.reshape(log.shape) / np.exp(log)
        moved.append((steepest - steepest.mean(axis=-1, keepdims=True)).reshape(part.shape))
    return np.concatenate(moved, axis=-1)


def _log_policies(game: MarkovGame, theta: Array) -> list[Array]:
    parts = [np.asarray(theta)[..., span] for span in game.spans]
    return [
        log_softmax(part.reshape(*part.shape[:-1], len(game.start), m), axis=-1)
        for part, m in zip(parts, game.actions, strict=True)
    ]


def field_jacobian(game: MarkovGame, theta: Array) -> Array:
    """DF(theta), exact second derivatives."""
    costs = Costs(game)
    H = torch.func.hessian(costs)(torch.as_tensor(theta)).numpy()
    return np.concatenate([H[i, span] for i, span in enumerate(game.spans)])


def policies(game: MarkovGame, theta: Array) -> list[Array]:
    """Action probabilities (S, A_i) of every player."""
    return [np.exp(part) for part in _log_policies(game, theta)]


def fisher(policy: Array) -> Array:
    """Fisher matrix of softmax logits, one block a state."""
    return np.asarray(block_diag(*(np.diag(p) - np.outer(p, p) for p in policy)))


def gauge_basis(states: int, actions: int) -> Array:
    """Orthonormal basis of the logits without the constant of each state, (S A, S (A - 1))."""
    helmert = np.linalg.qr(np.column_stack([np.ones(actions), np.eye(actions)[:, : actions - 1]]))[0][:, 1:]
    return np.asarray(block_diag(*([helmert] * states)))


@dataclass(frozen=True, eq=False)
class LocalBounds:
    """Curvature and coupling in the Fisher metric at given logits.

    Args:
        bounds: mu, ell, L of one cell.
        field: G^-1 DF in metric coordinates, whose norm is the natural gradient's Lipschitz constant.
        blocks: where each player's coordinates are.
    """

    bounds: Bounds
    field: Array
    blocks: list[slice]

    def lipschitz(self, weights: Array) -> float:
        """beta in M = blockdiag(w_i G_i)."""
        root = np.concatenate(
            [np.full(s.stop - s.start, math.sqrt(w)) for s, w in zip(self.blocks, weights, strict=True)]
        )
        return float(np.linalg.norm(self.field * (root[:, None] / root[None, :]), 2))


def local_bounds(game: MarkovGame, theta: Array) -> LocalBounds:
    """Exact local constants at theta, the null space of softmax removed by a basis."""
    J = field_jacobian(game, theta)
    roots = []
    for policy in policies(game, theta):
        basis = gauge_basis(*policy.shape)
        values, vectors = np.linalg.eigh(basis.T @ fisher(policy) @ basis)
        roots.append(basis @ (vectors / np.sqrt(values)) @ vectors.T)
    whole: Any = block_diag(*roots)
    reduced = whole.T @ J @ whole
    ends = np.cumsum([0, *(r.shape[1] for r in roots)])
    blocks = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
    own = [np.linalg.eigvalsh(0.5 * (reduced[s, s] + reduced[s, s].T)) for s in blocks]
    L = np.array([[0.0 if a == b else np.linalg.norm(reduced[a, b], 2) for b in blocks] for a in blocks])
    bounds = Bounds(np.array([[v[0] for v in own]]), np.array([[v[-1] for v in own]]), L[None], "sampled")
    return LocalBounds(bounds, reduced, blocks)


def published_bounds(game: MarkovGame, theta: Array, *, radius: float = 0.1) -> tuple[Bounds, float]:
    """The constants as the paper's code takes them, for comparison only: bounds, and the natural gradient's Lipschitz constant.

    Extremes over the corners of a cube, and eigenvalues within 1e-5 of 0 dropped as the null space of softmax: an estimate, as
    extremes can lie inside the cube. Two players only.
    """
    if len(game.blocks) != 2:
        raise ValueError(f"the published constants are for two players; this game has {len(game.blocks)}")
    first = game.blocks[0]
    spans = [slice(0, first), slice(first, sum(game.blocks))]
    mu, ell, L, beta = np.full(2, math.inf), np.full(2, -math.inf), np.zeros((2, 2)), 0.0
    for corner in itertools.product((-radius, radius), repeat=len(theta)):
        point = theta + np.array(corner)
        roots = []
        for policy in policies(game, point):
            values, vectors = np.linalg.eigh(fisher(policy))
            regular = values > 1e-5
            roots.append((vectors[:, regular] / np.sqrt(values[regular])) @ vectors[:, regular].T)
        whole: Any = block_diag(*roots)
        scaled = whole @ field_jacobian(game, point) @ whole
        beta = max(beta, float(np.linalg.norm(scaled, 2)))
        for i, j in itertools.product(range(2), repeat=2):
            block = scaled[spans[i], spans[j]]
            if i != j:
                L[i, j] = max(L[i, j], float(np.linalg.norm(block, 2)))
                continue
            values = np.linalg.eigvalsh(0.5 * (block + block.T))
            kept = values[np.abs(values) > 1e-5]
            mu[i], ell[i] = min(mu[i], float(kept.min())), max(ell[i], float(kept.max()))
    return Bounds(mu[None], ell[None], L[None], "sampled"), beta


@dataclass(kw_only=True)
class NaturalState(State):
    """theta (d,), and the norm of the field there."""

    theta: Array
    gradient_norm: float = math.inf


@dataclass(frozen=True)
class NaturalPolicyGradient(Method[MarkovGame, NaturalState, Array]):
    """All players follow their natural gradients at once.

    Args:
        step_length: eta.
        geometry: "fisher" for natural gradients, "euclidean" for plain ones.
        tolerance: stop once the joint gradient norm is below it.
        spread: standard deviation of the random start.
        block: iterations a step.
    """

    step_length: float = 0.135
    geometry: Literal["fisher", "euclidean"] = "fisher"
    tolerance: float = 1e-10
    spread: float = 0.01
    block: int = 20
    horizon: int | None = None

    def __post_init__(self) -> None:
        if not self.step_length > 0:
            raise ValueError(f"step_length is {self.step_length}; expected a positive number")

    def init(self, problem: MarkovGame, start: Array | None, streams: Streams) -> NaturalState:
        """Random logits near 0, or the logs of the policies given."""
        if start is not None:
            theta = np.log(np.array(start, dtype=np.float64))
        else:
            theta = self.spread * streams.numpy("start").standard_normal(sum(problem.blocks))
        if theta.shape != (sum(problem.blocks),) or not np.isfinite(theta).all():
            raise ValueError(f"the start is not {sum(problem.blocks)} positive probabilities")
        return NaturalState(streams=streams, theta=theta)

    def step(self, problem: MarkovGame, state: NaturalState) -> NaturalState:
        """A block of iterations."""
        for _ in range(state.room(self.block)):
            F = field(problem, state.theta)
            state.gradient_norm = float(np.linalg.norm(F))
            if not state.gradient_norm > self.tolerance:
                break
            direction = F if self.geometry == "euclidean" else natural_field(problem, state.theta)
            state.theta = state.theta - self.step_length * direction
            state.k += 1
            state.count(gradient=1)
        return state

    def look(self, state: NaturalState) -> Look:
        """The joint gradient norm."""
        size = float(np.abs(state.theta).max())
        if size > 100:
            return Look({"gradient_norm": state.gradient_norm}, Status.DIVERGED, f"logits grew to {size:.3g}")
        done = state.gradient_norm <= self.tolerance
        return Look({"gradient_norm": state.gradient_norm}, Status.CONVERGED if done else None)

    def answer(self, problem: MarkovGame, state: NaturalState) -> Array:
        """All policies in one row: probabilities by player, state, action."""
        return np.asarray(np.concatenate([p.ravel() for p in policies(problem, state.theta)]), dtype=np.float64)

    def certify(self, problem: MarkovGame, state: NaturalState) -> Certificate:
        """Local claims at the policies found."""
        from surefoot.games.certify_markov import certify_markov

        return certify_markov(problem, self.answer(problem, state), self.step_length)
