"""Checkers of Drop-Muon's claims on least squares, with Kronecker products in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.random import Streams
from surefoot.core.verify import Dossier, Verdict, compare
from surefoot.training.drop_muon_problem import LeastSquares

__all__ = ["average", "descent"]

Array = np.ndarray[Any, np.dtype[Any]]


def _require(truth: Any, why: str) -> None:
    if not truth:
        raise ValueError(why)


def _path(dossier: Dossier) -> tuple[Array, Array, Array, Array]:
    """Promised decreases (K,) and values (K + 1,), from Kronecker products: f = |K x - c|^2 / 2 with x the columns of all layers."""
    problem = dossier.problem
    _require(isinstance(problem, LeastSquares), "the problem is not least squares")
    A, B, C = (t.numpy() for t in (problem.left, problem.right, problem.target))
    b, (r, c) = len(A), C.shape
    X, masks = dossier.evidence["path.npz"]["X"], dossier.evidence["path.npz"]["masks"]
    settings = dossier.evidence["settings.json"]
    _require(
        X.shape == (len(masks) + 1, b, A.shape[2], B.shape[1]) and np.isfinite(X).all(),
        "the path does not fit the problem",
    )
    _require(masks.dtype == np.uint8 and set(np.unique(masks)) <= {0, 1}, "the sets are not 0 and 1")
    answer = dossier.answer
    _require(
        all(np.array_equal(np.asarray(answer[f"X{i}"]), X[-1, i]) for i in range(b)),
        "the answer is not the end of the path",
    )
    L = np.array([min(r, c) * b * np.linalg.svd(A[i])[1][0] ** 2 * np.linalg.svd(B[i])[1][0] ** 2 for i in range(b)])
    p = np.array(settings["p"], dtype=float)
    named = {"uniform": np.full(b, 1 / b), "full": np.eye(b)[0], "optimal": np.diff(_by_hand(L), prepend=0.0)}
    _require(
        np.allclose(p, named[settings["sampling"]], rtol=1e-6, atol=1e-9),
        "the probabilities are not those of the sampling",
    )
    streams = Streams(settings["seed"])
    big = [np.kron(B[i].T, A[i]) for i in range(b)]
    values, promised = [], []
    for k in range(len(X)):
        residual = sum(K @ x.flatten(order="F") for K, x in zip(big, X[k], strict=True)) - C.flatten(order="F")
        values.append(float(residual @ residual) / 2)
        if k == len(masks):
            break
        start = int(np.searchsorted(np.cumsum(p), streams.numpy("layers", k).random(), side="right"))
        _require(
            (masks[k] == (np.arange(b) >= start)).all(), f"step {k}: the set is not what seed and probabilities give"
        )
        total = 0.0
        for i in range(b):
            g = (big[i].T @ residual).reshape(X.shape[2:], order="F")
            nuclear = float(
                np.sqrt(np.maximum(np.linalg.eigvalsh(g.T @ g if g.shape[1] <= g.shape[0] else g @ g.T), 0)).sum()
            )
            if masks[k, i]:
                total += nuclear**2 / (2 * L[i])
            else:
                _require(np.array_equal(X[k, i], X[k + 1, i]), f"step {k} moved layer {i}, which was not drawn")
        promised.append(total)
    return np.array(promised), np.array(values), masks, L


def _by_hand(L: Array) -> Array:
    P = np.array([L[: i + 1].max() / L.max() for i in range(len(L))])
    P[-1] = 1.0
    return P


def descent(claim: Claim, dossier: Dossier) -> Verdict:
    """Every step's decrease beside what smoothness promises."""
    promised, values, _, _ = _path(dossier)
    large = values[:-1] > 1e-9 * values[0]
    ratios = promised[large] / np.maximum(values[:-1] - values[1:], 1e-300)[large]
    return compare(claim, float(ratios.max()), supports="proved", bound=1.0, rtol=1e-5)


def average(claim: Claim, dossier: Dossier) -> Verdict:
    """Added up, beside the whole decrease."""
    promised, values, _, _ = _path(dossier)
    return compare(claim, float(promised.sum()), supports="proved", bound=float(values[0] - values[-1]), rtol=1e-7)
