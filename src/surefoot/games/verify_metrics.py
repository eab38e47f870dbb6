"""Checkers of quadratic games in further norms: paired couplings by singular values, block matrices in exact rationals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from scipy.linalg import eigh

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.games.problem import SmoothGame
from surefoot.games.verify_region import EvidenceError, gradient, norm, spectrum
from surefoot.games.verify_sets import distances, most_gained, moves
from surefoot.games.verify_steps import weights_of
from surefoot.numerics.intervals import Interval, sqrt
from surefoot.numerics.rationals import (
    fraction_matrix,
    is_positive_definite,
    is_positive_semidefinite,
    matmul,
    transpose,
)

Array = np.ndarray[Any, np.dtype[Any]]


def _game(dossier: Dossier) -> tuple[SmoothGame, Array]:
    game: SmoothGame = dossier.problem
    if game.jacobian is None:
        raise EvidenceError("this norm is about quadratic games")
    return game, game.jacobian


def _paired_rate(dossier: Dossier) -> tuple[float, Array]:
    """The rate of the stated weights, and these."""
    game, J = _game(dossier)
    w = weights_of(dossier, len(game.blocks), "paired.npz")
    C = np.zeros((len(w), len(w)))
    for i, rows in enumerate(game.slices):
        C[i, i] = w[i] * spectrum(Interval.point(J[rows, rows]))[0]
        for j, columns in enumerate(game.slices):
            if i != j:
                C[i, j] = -0.5 * norm(
                    Interval.point(J[rows, columns]) * w[i] + Interval.point(J[columns, rows].T) * w[j]
                )
    return float(eigh(0.5 * (C + C.T), np.diag(w), eigvals_only=True)[0]), w


def paired_margin(claim: Claim, dossier: Dossier) -> Verdict:
    """The least generalised eigenvalue of the matrix of paired couplings."""
    _, J = _game(dossier)
    value, _ = _paired_rate(dossier)
    scale = float(np.abs(J).max())
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-8, atol=1e-9 * scale, undecided=value < 0)


def _paired_factor(dossier: Dossier) -> tuple[float, float, Array]:
    game, J = _game(dossier)
    rate, w = _paired_rate(dossier)
    step = np.asarray(dossier.evidence["paired.npz"]["step"], dtype=np.float64)
    if step.shape != (1,) or not (np.isfinite(step[0]) and step[0] > 0):
        raise EvidenceError("the step is not a positive number")
    root = sqrt(Interval.point(np.repeat(w, game.blocks)))
    beta = norm(Interval.point(J) * (root.reshape(-1, 1) / root.reshape(1, -1)))
    h = float(step[0])
    return math.sqrt(max(0.0, 1 - 2 * rate * h + (beta * h) ** 2)), h, w


def paired_step(claim: Claim, dossier: Dossier) -> Verdict:
    """sqrt(1 - 2 a h + beta^2 h^2), beta by a verified singular value decomposition."""
    value, _, _ = _paired_factor(dossier)
    return compare(claim, value, supports="proved", bound=1.0, rtol=1e-7, undecided=value > 1)


def _found(dossier: Dossier, name: str) -> tuple[Array, Array]:
    game, _ = _game(dossier)
    x = np.asarray(dossier.answer, dtype=np.float64)
    if x.shape != (game.size,) or not np.isfinite(x).all() or max(distances(game, x)) > Fraction(1, 10**12):
        raise EvidenceError("the answer is not within the strategy sets")
    stated = np.asarray(dossier.evidence["paired.npz"][name], dtype=np.float64)
    if stated.shape != (len(game.blocks),) or not (np.isfinite(stated).all() and (stated >= 0).all()):
        raise EvidenceError(f"{name!r} is not one number >= 0 a player")
    return x, stated


def paired_error(claim: Claim, dossier: Dossier) -> Verdict:
    """|x - x*|_w <= |x - Proj(x - h F(x))|_w / (1 - q), blockwise."""
    game, _ = _game(dossier)
    factor, h, w = _paired_factor(dossier)
    x, error = _found(dossier, "error")
    if factor >= 1:
        return refute(claim, "the step is not proved to contract")
    e = moves(game, x, gradient(game, x[None])[0], np.full(game.size, h))
    needed = math.sqrt(float((w * e**2).sum())) / (1 - factor) * (1 + 1e-9) / np.sqrt(w)
    if (needed > error).any():
        return refute(
            claim, f"the error bound of player {int(np.argmax(needed > error)) + 1} is not supported by the residual"
        )
    return compare(claim, float(error.max()), supports="proved", rtol=1e-12)


def paired_regret(claim: Claim, dossier: Dossier) -> Verdict:
    """Player by player, within the strategy sets."""
    game, J = _game(dossier)
    x, regret = _found(dossier, "regret")
    F = gradient(game, x[None])[0]
    for i, own in enumerate(game.slices):
        mu = Fraction(spectrum(Interval.point(J[own, own]))[0])
        ends = [(float(game.lower[k]), float(game.upper[k])) for k in range(own.start, own.stop)]
        if most_gained(game, i, x[own], F[own], mu, ends) > Fraction(float(regret[i])):
            return refute(claim, f"player {i + 1} may gain more than stated")
    return compare(claim, float(regret.sum()), supports="proved", rtol=1e-12)


def block_metric(claim: Claim, dossier: Dossier) -> Verdict:
    """P > 0 and P J + J'P - 2 value P >= 0 by elimination in rationals; the value against the largest one for this P."""
    game, J = _game(dossier)
    P = np.asarray(dossier.evidence["block.npz"]["P"], dtype=np.float64)
    d = game.size
    if P.shape != (d, d) or not np.isfinite(P).all() or (P != P.T).any() or abs(np.trace(P) - d) > 1e-9 * d:
        raise EvidenceError("P is not a symmetric matrix of trace d")
    owner = np.repeat(np.arange(len(game.blocks)), game.blocks)
    if P[owner[:, None] != owner[None, :]].any():
        raise EvidenceError("P is not block diagonal")
    exact, slope = fraction_matrix(P.tolist()), fraction_matrix(J.tolist())
    rate = Fraction(float(claim.value)) if isinstance(claim.value, int | float) else Fraction(0)
    product = matmul(exact, slope)
    rest = [
        [a + b - 2 * rate * p for a, b, p in zip(*rows, strict=True)]
        for rows in zip(product, transpose(product), exact, strict=True)
    ]
    if not is_positive_definite(exact) or not is_positive_semidefinite(rest):
        return refute(claim, "the matrix inequality does not hold")
    value = float(eigh(0.5 * (P @ J + J.T @ P), P, eigvals_only=True)[0])
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-6, atol=1e-9 * float(np.abs(J).max()))


METRIC_CHECKS: Mapping[str, Check] = {
    "paired-margin": paired_margin, "paired-step": paired_step, "paired-error": paired_error, "paired-regret": paired_regret,
    "block-metric": block_metric,
}  # fmt: skip
