"""Checkers of norms, weights and steps: generalised eigenvalues and singular values of the stated bounds, factors in exact rationals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.linalg import eigh

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.games.problem import SmoothGame
from surefoot.games.verify_region import (
    Cells,
    EvidenceError,
    cells_of,
    checked_cells,
    factor_of,
    gradient_box,
    steps_of,
    vector_of,
)
from surefoot.numerics.interval_matrices import eigenvalue_bounds, spectral_norm_bound
from surefoot.numerics.intervals import Interval, sqrt

Array = np.ndarray[Any, np.dtype[Any]]


def weights_of(dossier: Dossier, size: int, name: str = "witness.npz") -> Array:
    """Positive weights of the evidence, the smallest 1."""
    w = np.asarray(dossier.evidence[name]["weights"], dtype=np.float64)
    if w.shape != (size,) or not (np.isfinite(w).all() and (w > 0).all()) or abs(w.min() - 1) > 1e-9:
        raise EvidenceError("the weights are not positive with a smallest entry of 1")
    return w


def least_margin(cells: Cells, w: Array) -> float:
    """min over cells of the generalised eigenvalue of (WK + K'W)/2 against W."""
    weighted = w[:, None] * (cells.mu[..., None] * np.eye(len(w)) - cells.coupling)
    forms = 0.5 * (weighted + np.swapaxes(weighted, 1, 2))
    return min(float(eigh(form, np.diag(w), eigvals_only=True, subset_by_index=[0, 0])[0]) for form in forms)


def metric_margin(claim: Claim, dossier: Dossier) -> Verdict:
    """The smallest generalised eigenvalue of the published matrix C(w, 0) against W."""
    cells = cells_of(dossier)
    value = least_margin(cells, weights_of(dossier, cells.mu.shape[1]))
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
                if abs(least_margin(cells, moved)) > 1e-6 * scale:
                    raise EvidenceError(f"the margin does not vanish at an end of player {i + 1}'s band")
                continue
            moved[i] = w[i] * (1e12 if end > w[i] else 1e-12)
            if least_margin(cells, moved) < -1e-9 * scale:
                raise EvidenceError(f"player {i + 1}'s band ends before the end stated")
        if not 0 <= ends[0] <= w[i] * (1 + 1e-9) or not ends[1] >= w[i] * (1 - 1e-9):
            raise EvidenceError(f"player {i + 1}'s weight is not in its band")
    with np.errstate(divide="ignore", over="ignore"):
        value = float(min(1e300, (bands[:, 1] / np.maximum(bands[:, 0], 1e-300)).min()))
    return compare(claim, value, supports="measured", bound=1.0)


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
    return 2 * least_margin(cells, w) / beta_squared


def runge_kutta_contraction(claim: Claim, dossier: Dossier) -> Verdict:
    """The enlarged region holds the stages of every step from the region, and its bounds give the factor, all rounded outwards.

    For stages x_i and y_i of two steps, with the tableau (A, b) and M = (b_i a_ij + b_j a_ji - b_i b_j),
        |x+ - y+|^2 = |x - y|^2 - 2 h sum b_i <F(x_i) - F(y_i), x_i - y_i> - h^2 sum M_ij <F(x_i) - F(y_i), F(x_j) - F(y_j)>.
    Classical RK4 has M + diag(b) >= 0, so every stage takes away b_i (2 h alpha - h^2 beta^2) |x_i - y_i|^2; the first alone, b_1 = 1 / 6,
    gives the factor's square 1 - h alpha / 3 + h^2 beta^2 / 6. A projection onto strategy sets enlarges no distance.
    """
    game: SmoothGame = dossier.problem
    cells_of(dossier)
    stored = dossier.evidence["enlarged.npz"]
    reach, step = (np.asarray(stored[name], dtype=np.float64) for name in ("reach", "step"))
    if reach.shape != (game.size,) or step.shape != (1,) or not (reach >= 0).all() or not step[0] > 0:
        raise EvidenceError("reach and step are not numbers >= 0 of the game's sizes")
    region = None
    if game.region is not None and game.jacobian is None:
        region = np.stack([np.nextafter(game.region[0] - reach, -np.inf), np.nextafter(game.region[1] + reach, np.inf)])
        moved = Interval.point(gradient_box(game, region[0], region[1])) * float(step[0])
        if (moved.high > reach).any():
            return refute(claim, "the stages of a step may leave the enlarged region")
    elif reach.any():
        raise EvidenceError("bounds of a quadratic game hold everywhere; nothing is enlarged")
    cells = checked_cells(dossier, "enlarged.npz", region)
    w = weights_of(dossier, cells.mu.shape[1], "enlarged.npz")
    alpha, beta = _proved_constants(cells, w)
    h = Interval.point(float(step[0]))
    if alpha <= 0 or not float((h * beta * beta).high) < 2 * alpha:
        return refute(claim, "the step is longer than rate and Lipschitz constant allow")
    squared = 1 - h * alpha / 3 + h * h * beta * beta / 6
    return compare(claim, float(sqrt(squared).high), supports="proved", bound=1.0, rtol=1e-7)


def _proved_constants(cells: Cells, w: Array) -> tuple[float, float]:
    """A lower bound of the rate and an upper bound of the Lipschitz constant in the w-norm over all cells, rounded outwards."""
    root = sqrt(Interval.point(w))
    up, down = root.reshape(-1, 1), root.reshape(1, -1)
    alpha, beta = np.inf, 0.0
    for mu, ell, L in zip(cells.mu, cells.ell, cells.coupling, strict=True):
        scaled = Interval.point(np.diag(mu) - L) * up / down
        alpha = min(alpha, eigenvalue_bounds((scaled + scaled.T) * 0.5)[0])
        beta = max(
            beta, spectral_norm_bound(Interval.point(np.diag(np.maximum(np.abs(mu), np.abs(ell))) + L) * up / down)
        )
    return alpha, beta


STEP_CHECKS: Mapping[str, Check] = {
    "metric-margin": metric_margin, "timescale-band": timescale_band, "step": step,
    "step-limit": step_limit, "classical-step": classical_step, "runge-kutta-step": runge_kutta_step,
    "runge-kutta-contraction": runge_kutta_contraction,
}  # fmt: skip
