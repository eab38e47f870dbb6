"""Checkers of norms, weights and steps: generalised eigenvalues and singular values of the stated bounds, factors in exact rationals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import eigh

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.games.problem import SmoothGame
from surefoot.games.verify_region import Cells, EvidenceError, cells_of, factor_of, steps_of, vector_of

Array = np.ndarray[Any, np.dtype[Any]]


def weights_of(dossier: Dossier, size: int, name: str = "witness.npz") -> Array:
    w = np.asarray(dossier.evidence[name]["weights"], dtype=np.float64)
    if w.shape != (size,) or not (np.isfinite(w).all() and (w > 0).all()) or abs(w.min() - 1) > 1e-9:
        raise EvidenceError("the weights are not positive with a smallest entry of 1")
    return w


def leastmargin_of(cells: Cells, w: Array) -> float:
    """min over cells of the generalised eigenvalue of (WK + K'W)/2 against W."""
    C = w[:, None] * (cells.mu[..., None] * np.eye(len(w)) - cells.coupling)
    C = 0.5 * (C + np.swapaxes(C, 1, 2))
    return min(float(eigh(c, np.diag(w), eigvals_only=True, subset_by_index=[0, 0])[0]) for c in C)


def metric_margin(claim: Claim, dossier: Dossier) -> Verdict:
    """The smallest generalised eigenvalue of the published matrix C(w, 0) against W."""
    cells = cells_of(dossier)
    value = leastmargin_of(cells, weights_of(dossier, cells.mu.shape[1]))
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-8, atol=1e-10 * float(cells.ell.max()))


def timescale_band(claim: Claim, dossier: Dossier) -> Verdict:
    """At every end of a band the margin is 0, and within it positive."""
    cells = cells_of(dossier)
    w = weights_of(dossier, cells.mu.shape[1])
    bands = np.asarray(dossier.evidence["bands.npz"]["bands"], dtype=np.float64)
    if bands.shape != (len(w), 2) or not np.isfinite(bands).all():
        raise EvidenceError("the bands are not two numbers a player")
    scale = float(cells.ell.max())
    for i, ends in enumerate(bands):
        for end in ends:
            moved = w.copy()
            if 0 < end < 1e300:
                moved[i] = end
                if abs(leastmargin_of(cells, moved)) > 1e-6 * scale:
                    raise EvidenceError(f"the margin does not vanish at an end of player {i + 1}'s band")
                continue
            moved[i] = w[i] * (1e12 if end > w[i] else 1e-12)
            if leastmargin_of(cells, moved) < -1e-9 * scale:
                raise EvidenceError(f"player {i + 1}'s band ends before the end stated")
        if not 0 <= ends[0] <= w[i] * (1 + 1e-9) or not ends[1] >= w[i] * (1 - 1e-9):
            raise EvidenceError(f"player {i + 1}'s weight is not in its band")
    with np.errstate(divide="ignore", over="ignore"):
        value = float(min(1e300, (bands[:, 1] / np.maximum(bands[:, 0], 1e-300)).min()))
    return compare(claim, value, supports="measured", bound=1.0)


def paired_margin(claim: Claim, dossier: Dossier) -> Verdict:
    """The same rate from the whole matrix: the symmetrised pairs through their singular values."""
    game: SmoothGame = dossier.problem
    if game.jacobian is None:
        raise EvidenceError("this rate is about quadratic games")
    w = weights_of(dossier, len(game.blocks), "paired.npz")
    C = np.zeros((len(w), len(w)))
    for i, rows in enumerate(game.slices):
        C[i, i] = w[i] * float(np.linalg.eigvalsh(game.jacobian[rows, rows])[0])
        for j, columns in enumerate(game.slices):
            if i != j:
                pair = w[i] * game.jacobian[rows, columns] + w[j] * game.jacobian[columns, rows].T
                C[i, j] = -0.5 * float(np.linalg.svd(pair, compute_uv=False)[0])
    value = float(eigh(C, np.diag(w), eigvals_only=True)[0])
    return compare(claim, value, supports="measured", bound=0.0, rtol=1e-8, atol=1e-10)


def step(claim: Claim, dossier: Dossier) -> Verdict:
    """T v <= value v for the step used."""
    cells = cells_of(dossier)
    n = cells.mu.shape[1]
    value = factor_of(cells, steps_of(dossier, n), vector_of(dossier, "step_vector", n))
    return compare(claim, value, supports="proved", bound=1.0, rtol=1e-9)


def step_limit(claim: Claim, dossier: Dossier) -> Verdict:
    """Just below the limit a step contracts, and just above it the comparison with the limit's vector fails."""
    cells = cells_of(dossier)
    n = cells.mu.shape[1]
    limit = np.asarray(dossier.evidence["witness.npz"]["limit"], dtype=np.float64)
    if limit.shape != (1,) or not limit[0] > 0:
        raise EvidenceError("the limit is not a positive number")
    below = float(limit[0]) * (1 - 1e-9)
    if not factor_of(cells, np.full(n, below), vector_of(dossier, "limit_vector", n)) < 1:
        return refute(claim, "a step just below the limit is not proved to contract", float(limit[0]))
    return compare(claim, float(limit[0]), supports="proved", bound=0.0, rtol=1e-12)


def classical_step(claim: Claim, dossier: Dossier) -> Verdict:
    """2 alpha / beta^2 of the stated weights, from generalised eigenvalues and singular values."""
    cells = cells_of(dossier)
    value = _classical(cells, weights_of(dossier, cells.mu.shape[1]))
    limit = float(np.asarray(dossier.evidence["witness.npz"]["limit"])[0])
    return compare(claim, value, supports="measured", bound=limit, rtol=1e-7)


def runge_kutta_step(claim: Claim, dossier: Dossier) -> Verdict:
    """The same number: the radius of circle contractivity of classical RK4 is 1."""
    cells = cells_of(dossier)
    return compare(
        claim, _classical(cells, weights_of(dossier, cells.mu.shape[1])), supports="measured", bound=0.0, rtol=1e-7
    )


def _classical(cells: Cells, w: Array) -> float:
    beta_squared = 0.0
    for c in range(len(cells.mu)):
        B = np.diag(np.maximum(np.abs(cells.mu[c]), np.abs(cells.ell[c]))) + cells.coupling[c]
        scaled = np.diag(np.sqrt(w)) @ B @ np.diag(1 / np.sqrt(w))
        beta_squared = max(beta_squared, float(np.linalg.eigvalsh(scaled.T @ scaled)[-1]))
    return 2 * leastmargin_of(cells, w) / beta_squared


STEP_CHECKS: Mapping[str, Check] = {
    "metric-margin": metric_margin, "timescale-band": timescale_band, "paired-margin": paired_margin, "step": step,
    "step-limit": step_limit, "classical-step": classical_step, "runge-kutta-step": runge_kutta_step,
}  # fmt: skip
