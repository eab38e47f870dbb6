"""Checks of the sampled program: its value and its dual bound, neuron by neuron from the drawn directions."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.convex_networks.problem import PatternProgram
from surefoot.convex_networks.verify_losses import Array, answer_of, data_of, dual_sum, loss_sum, network_loss
from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, Verdict, compare, refute


def _parts(dossier: Dossier) -> tuple[Array, Array, Array, str]:
    """(directions (N, d), weights (C, N), z (n, C), what is wrong with them)."""
    problem: PatternProgram = dossier.problem
    X, y = data_of(problem)
    part: Any = dossier.evidence["sampled.npz"]
    directions, weights, z = (np.asarray(part[name], dtype=float) for name in ("directions", "weights", "z"))
    wrong = ""
    if directions.ndim != 2 or directions.shape[1] != X.shape[1] or weights.shape != (y.shape[1], len(directions)):
        wrong = "directions and weights have the wrong shapes"
    elif z.shape != y.shape or not all(np.isfinite(part).all() for part in (directions, weights, z)):
        wrong = "z has the wrong shape, or the evidence is not finite"
    elif not np.allclose(np.linalg.norm(directions, axis=1), 1.0, rtol=0, atol=1e-9):
        wrong = "the directions have not length one"
    return directions, weights, z, wrong


def _value(problem: PatternProgram, directions: Array, weights: Array) -> float:
    X, y = data_of(problem)
    scores = np.zeros_like(y)
    for u, a in zip(directions, weights.T, strict=True):
        if a.any():
            scores += np.maximum(X @ u, 0.0)[:, None] * a[None, :]
    return loss_sum(problem, scores, y) + problem.weight * float(np.abs(weights).sum())


def sampled_network(claim: Claim, dossier: Dossier) -> Verdict:
    """The network's loss from its weights, against the lasso's value at its weights."""
    problem: PatternProgram = dossier.problem
    found, wrong = answer_of(dossier)
    directions, weights, _, bad = _parts(dossier)
    if wrong or bad:
        return refute(claim, wrong or bad)
    upper = _value(problem, directions, weights)
    if claim.tolerance > 1e-8 * abs(upper) * (1 + 1e-6):
        return refute(claim, "the tolerance is wider than 1e-8 of the value")
    return compare(claim, network_loss(problem, found), supports="proved", bound=upper, rtol=1e-9)


def sampled_gap(claim: Claim, dossier: Dossier) -> Verdict:
    """Both values again; no drawn neuron may price above beta."""
    problem: PatternProgram = dossier.problem
    X, y = data_of(problem)
    directions, weights, z, wrong = _parts(dossier)
    if wrong:
        return refute(claim, wrong)
    for number, u in enumerate(directions):
        priced = float(np.abs(np.maximum(X @ u, 0.0) @ z).max())
        if not priced <= problem.weight * (1 + 1e-9):
            return refute(claim, f"neuron {number} prices at {priced:.6g}, above {problem.weight:.6g}")
    upper = _value(problem, directions, weights)
    gap = (upper - dual_sum(problem, z, y)) / max(abs(upper), np.finfo(float).tiny)
    return compare(claim, gap, supports="proved", bound=1e-4, rtol=1e-5, atol=1e-10)
