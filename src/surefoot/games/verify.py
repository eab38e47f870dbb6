"""Checkers of smooth games, by other algorithms than the solver's.

Derivatives come from interval jets instead of symbolic formulas, own curvatures from Gershgorin and Schur bounds of shifted matrices,
norms from a verified singular value decomposition; cells are checked to tile the region and, where a stated bound is sharper
than the jets', halved until it is confirmed. All inequalities of the witnesses are multiplied out again in exact rationals on the
worst cells and in intervals on all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute, unchecked
from surefoot.games.problem import SmoothGame
from surefoot.games.verify_finite import FINITE_CHECKS
from surefoot.games.verify_jets import evaluate
from surefoot.games.verify_markov import MARKOV_CHECKS
from surefoot.games.verify_nash import NASH_CHECKS
from surefoot.numerics.intervals import Interval, sqrt

Array = np.ndarray[Any, np.dtype[Any]]
HALVINGS = 12
"""So many times a cell is halved to confirm a bound that the jets cannot confirm at once."""


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the game."""


# ---- the game, again ----------------------------------------------------------------------------------------------


def _gradient(game: SmoothGame, x: Array) -> Interval:
    """F at a point, by jets."""
    if game.jacobian is not None and game.offset is not None:
        exact = [
            sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, x, strict=True)), Fraction(float(g)))
            for row, g in zip(game.jacobian, game.offset, strict=True)
        ]
        ends = [Interval.enclosing(e) for e in exact]
        return Interval(np.array([e.low for e in ends]), np.array([e.high for e in ends]))
    cells = Interval.point(x[None])
    if game.costs:
        jets = evaluate(game.costs, cells, second=False)
        parts = [jets[i].gradient[0, k] for i, own in enumerate(game.slices) for k in range(own.start, own.stop)]
    else:
        parts = [jet.value[0] for jet in evaluate(game.pseudo_gradient, cells, second=False)]
    return Interval(np.array([float(p.low) for p in parts]), np.array([float(p.high) for p in parts]))


def _jacobian(game: SmoothGame, cells: Interval) -> Interval:
    """J over boxes (c, d), by jets."""
    if game.jacobian is not None:
        return Interval.point(game.jacobian[None])
    if game.costs:
        hessians: list[Any] = [jet.hessian for jet in evaluate(game.costs, cells)]
        rows = [hessians[i][:, k] for i, own in enumerate(game.slices) for k in range(own.start, own.stop)]
    else:
        rows = [jet.gradient for jet in evaluate(game.pseudo_gradient, cells)]
    return Interval(np.stack([r.low for r in rows], axis=1), np.stack([r.high for r in rows], axis=1))


@dataclass(frozen=True, eq=False)
class _Cells:
    low: Array
    high: Array
    mu: Array
    ell: Array
    coupling: Array


def _cells(dossier: Dossier) -> _Cells:
    """The stated bounds, after checking that the cells tile the region and the bounds hold on them; once a dossier."""
    kept = vars(dossier).setdefault("_checked_cells", {})
    if "cells" not in kept:
        kept["cells"] = _checked_cells(dossier)
    return kept["cells"]


def _checked_cells(dossier: Dossier) -> _Cells:
    game: SmoothGame = dossier.problem
    stored = dossier.evidence["cells.npz"]
    d, n = game.size, len(game.blocks)
    low, high = (np.asarray(stored[name], dtype=np.float64) for name in ("low", "high"))
    mu, ell, coupling = (np.asarray(stored[name], dtype=np.float64) for name in ("mu", "ell", "coupling"))
    cells = len(mu)
    shapes = [(cells, n), (cells, n), (cells, n, n)]
    if [mu.shape, ell.shape, coupling.shape] != shapes or not all(
        np.isfinite(a).all() for a in (low, high, mu, ell, coupling)
    ):
        raise EvidenceError("the stated bounds are not finite numbers of the game's sizes")
    if (mu > ell).any() or (coupling < 0).any() or np.einsum("cii->ci", coupling).any():
        raise EvidenceError("the stated bounds contradict themselves")
    found = _Cells(low, high, mu, ell, coupling)
    if game.jacobian is not None:
        if cells != 1 or low.size or high.size:
            raise EvidenceError("a quadratic game has one set of bounds")
        _bounds_hold(game, found, 0, Interval.point(np.zeros((1, d))))
        return found
    if game.region is None or low.shape != (cells, d) or high.shape != (cells, d):
        raise EvidenceError("the cells do not fit the region")
    _tiles(low, high, game.region)
    rows = dossier.rows(cells, 256)
    enclosed = _jacobian(game, Interval(low[rows], high[rows]))
    for place, row in enumerate(rows):
        _bounds_hold(game, found, int(row), Interval(low[row][None], high[row][None]), enclosed[place : place + 1])
    return found


def _tiles(low: Array, high: Array, region: Array) -> None:
    """The cells are what is left of the region after cutting it in two again and again."""
    if (low.min(axis=0) != region[0]).any() or (high.max(axis=0) != region[1]).any() or (low > high).any():
        raise EvidenceError("the cells do not reach the ends of the region")
    waiting = [np.arange(len(low))]
    while waiting:
        group = waiting.pop()
        if len(group) == 1:
            continue
        for axis in range(low.shape[1]):
            cuts = np.setdiff1d(low[group, axis], [low[group, axis].min()])
            clean = [c for c in cuts if ((high[group, axis] <= c) | (low[group, axis] >= c)).all()]
            if clean:
                left, right = group[high[group, axis] <= clean[0]], group[low[group, axis] >= clean[0]]
                for part in (left, right):
                    _full(low, high, group, part, axis, clean[0])
                waiting += [left, right]
                break
        else:
            raise EvidenceError("the cells overlap, or leave a gap")


def _full(low: Array, high: Array, group: Array, part: Array, axis: int, cut: float) -> None:
    """A side of a cut spans the group's box in every direction."""
    if not len(part):
        raise EvidenceError("the cells leave a gap")
    want_low, want_high = low[group].min(axis=0), high[group].max(axis=0)
    if high[part, axis].max() <= cut:
        want_high[axis] = cut
    else:
        want_low[axis] = cut
    if (low[part].min(axis=0) != want_low).any() or (high[part].max(axis=0) != want_high).any():
        raise EvidenceError("the cells leave a gap")


def _bounds_hold(
    game: SmoothGame, stated: _Cells, row: int, box: Interval, enclosed: Interval | None = None, depth: int = 0
) -> None:
    """The stated bounds of one cell hold on the box, which is halved while the jets are too coarse to say."""
    J = (_jacobian(game, box) if enclosed is None else enclosed)[0]
    problem = _violated(game, J, stated, row)
    if not problem:
        return
    if depth >= HALVINGS or game.jacobian is not None:
        raise EvidenceError(f"cell {row}: {problem}")
    edge = int((box.high - box.low)[0].argmax())
    middle = float(0.5 * (box.low[0, edge] + box.high[0, edge]))
    if not box.low[0, edge] < middle < box.high[0, edge]:
        raise EvidenceError(f"cell {row}: {problem}")
    for side in (0, 1):
        low, high = box.low.copy(), box.high.copy()
        (high if side == 0 else low)[0, edge] = middle
        _bounds_hold(game, stated, row, Interval(low, high), None, depth + 1)


def _violated(game: SmoothGame, J: Interval, stated: _Cells, row: int) -> str:
    size = float(np.where(np.isfinite(J.magnitude), J.magnitude, 0.0).max())
    room = 1e-11 * size
    for i, rows in enumerate(game.slices):
        own = J[rows, rows]
        low, high = _spectrum(own)
        if low < stated.mu[row, i] - room or high > stated.ell[row, i] + room:
            return f"the curvature of player {i + 1} was found in [{low:.9g}, {high:.9g}], outside the stated [{stated.mu[row, i]:.9g}, {stated.ell[row, i]:.9g}]"
        for j, columns in enumerate(game.slices):
            if i != j and (norm := _norm(J[rows, columns])) > stated.coupling[row, i, j] + room:
                return f"the coupling of players {i + 1} and {j + 1} was found to reach {norm:.9g}, above the stated {stated.coupling[row, i, j]:.9g}"
    return ""


def _spectrum(A: Interval) -> tuple[float, float]:
    """Bounds of the eigenvalues of the symmetric part: those of the middle, moved by the Frobenius norm of what is left."""
    if A.shape == (1, 1):
        return float(A.low[0, 0]), float(A.high[0, 0])
    low, high = np.maximum(A.low, A.low.T), np.minimum(A.high, A.high.T)
    if (low > high).any():
        raise EvidenceError("an own block is not symmetric")
    middle = 0.5 * (low + high)
    middle = 0.5 * (middle + middle.T)
    values, vectors = np.linalg.eigh(middle)
    rest = _frobenius(Interval(low, high) - Interval.point(vectors) @ Interval.point(np.diag(values)) @ vectors.T)
    skew = _frobenius(Interval.point(vectors.T) @ vectors - np.eye(len(values)))
    stretch = float(np.abs(values).max()) * skew * 1.01
    return float(np.nextafter(values[0] - rest - stretch, -np.inf)), float(
        np.nextafter(values[-1] + rest + stretch, np.inf)
    )


def _norm(A: Interval) -> float:
    """Upper bound of the spectral norm: the largest singular value of the middle and the Frobenius norm of what is left."""
    if A.shape == (1, 1) or not A.magnitude.any():
        return float(A.magnitude.max())
    U, s, Vt = np.linalg.svd(A.mid, full_matrices=False)
    rest = _frobenius(A - Interval.point(U * s) @ Vt)
    stretch = (1 + _frobenius(Interval.point(U.T) @ U - np.eye(len(s)))) * (
        1 + _frobenius(Interval.point(Vt) @ Vt.T - np.eye(len(s)))
    )
    return float(np.nextafter(s[0] * stretch + rest, np.inf))


def _frobenius(A: Interval) -> float:
    return float(sqrt((A**2).reshape(A.low.size).sum()).high)


# ---- witnesses ------------------------------------------------------------------------------------------------------


def _vector(dossier: Dossier, name: str, size: int) -> Array:
    """A positive vector of the evidence, scaled to a largest entry of 1."""
    v = np.asarray(dossier.evidence["witness.npz"][name], dtype=np.float64)
    if v.shape != (size,) or not (np.isfinite(v).all() and (v > 0).all()):
        raise EvidenceError(f"{name!r} is not a positive vector of {size} entries")
    if abs(v.max() - 1) > 1e-9:
        raise EvidenceError(f"{name!r} is not scaled to a largest entry of 1")
    return v


def _steps(dossier: Dossier, size: int) -> Array:
    step = np.asarray(dossier.evidence["witness.npz"]["step"], dtype=np.float64)
    if step.shape != (size,) or not (np.isfinite(step).all() and (step > 0).all()):
        raise EvidenceError("'step' is not a positive number a player")
    return step


def _exact_ratio(diagonal: Array, coupling: Array, v: Array, row: int) -> Fraction:
    """((diagonal - coupling) v)_row / v_row in rationals."""
    w = [Fraction(float(x)) for x in v]
    value = Fraction(float(diagonal[row])) * w[row] - sum(
        (Fraction(float(c)) * x for c, x in zip(coupling[row], w, strict=True)), Fraction(0)
    )
    return value / w[row]


def _margin(cells: _Cells, v: Array) -> float:
    """min over cells and players of (K v)_i / v_i: floats find the place, rationals the value."""
    ratios = (cells.mu * v - cells.coupling @ v) / v
    order = np.argsort(ratios, axis=None)[: 4 * ratios.shape[1]]
    places = [np.unravel_index(int(k), ratios.shape) for k in order]
    return float(min(_exact_ratio(cells.mu[c], cells.coupling[c], v, int(i)) for c, i in places))


def _factor(cells: _Cells, step: Array, v: Array) -> float:
    """max over cells and players of (T v)_i / v_i, in rationals at the largest places."""
    own = np.maximum(np.abs(1 - step * cells.mu), np.abs(1 - step * cells.ell))
    ratios = own + step * (cells.coupling @ v) / v
    largest = Fraction(-1)
    for k in np.argsort(ratios, axis=None)[::-1][: 4 * ratios.shape[1]]:
        c, i = (int(a) for a in np.unravel_index(int(k), ratios.shape))
        h = Fraction(float(step[i]))
        diagonal = max(abs(1 - h * Fraction(float(b))) for b in (cells.mu[c, i], cells.ell[c, i]))
        beside = sum(
            (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(cells.coupling[c, i], v, strict=True)), Fraction(0)
        )
        largest = max(largest, diagonal + h * beside / Fraction(float(v[i])))
    return float(largest)


# ---- checkers -------------------------------------------------------------------------------------------------------


def small_gain(claim: Claim, dossier: Dossier) -> Verdict:
    """The bounds hold on cells that tile the region, and K v >= value v."""
    cells = _cells(dossier)
    v = _vector(dossier, "vector", cells.mu.shape[1])
    return compare(
        claim,
        _margin(cells, v),
        supports="proved",
        bound=0.0,
        rtol=1e-9,
        atol=1e-13 * float(cells.ell.max()),
        undecided=claim.outcome == "undecided" and claim.value is not None and float(claim.value) <= 0,
    )


def obstruction(claim: Claim, dossier: Dossier) -> Verdict:
    """At one point of the region already the exact comparison matrix has no positive margin."""
    game: SmoothGame = dossier.problem
    _cells(dossier)
    _vector(dossier, "vector", len(game.blocks))
    point = np.asarray(dossier.evidence["witness.npz"]["obstruction"], dtype=np.float64)
    if point.shape != (game.size,) or not np.isfinite(point).all():
        raise EvidenceError("the point is not one of the game's")
    if game.region is not None and ((point < game.region[0]) | (point > game.region[1])).any():
        raise EvidenceError("the point lies outside the region")
    J = _jacobian(game, Interval.point(point[None]))[0]
    mu = [_spectrum(J[own, own])[0] for own in game.slices]
    K = np.diag(mu) - np.array(
        [[0.0 if i == j else _norm(J[a, b]) for j, b in enumerate(game.slices)] for i, a in enumerate(game.slices)]
    )
    value = float(np.linalg.eigvals(K).real.min())
    if game.jacobian is not None and point.any():
        raise EvidenceError("a quadratic game has the same matrix everywhere; its point is the origin")
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-6, atol=1e-9 * float(np.abs(K).max()))


def _weights(dossier: Dossier, size: int, name: str = "witness.npz") -> Array:
    w = np.asarray(dossier.evidence[name]["weights"], dtype=np.float64)
    if w.shape != (size,) or not (np.isfinite(w).all() and (w > 0).all()) or abs(w.min() - 1) > 1e-9:
        raise EvidenceError("the weights are not positive with a smallest entry of 1")
    return w


def _metric_margin(cells: _Cells, w: Array) -> float:
    """min over cells of the generalised eigenvalue of (WK + K'W)/2 against W."""
    from scipy.linalg import eigh

    C = w[:, None] * (cells.mu[..., None] * np.eye(len(w)) - cells.coupling)
    C = 0.5 * (C + np.swapaxes(C, 1, 2))
    return min(float(eigh(c, np.diag(w), eigvals_only=True, subset_by_index=[0, 0])[0]) for c in C)


def metric_margin(claim: Claim, dossier: Dossier) -> Verdict:
    """The smallest generalised eigenvalue of the published matrix C(w, 0) against W."""
    cells = _cells(dossier)
    value = _metric_margin(cells, _weights(dossier, cells.mu.shape[1]))
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-8, atol=1e-10 * float(cells.ell.max()))


def timescale_band(claim: Claim, dossier: Dossier) -> Verdict:
    """At every end of a band the margin is 0, and within it positive."""
    cells = _cells(dossier)
    w = _weights(dossier, cells.mu.shape[1])
    bands = np.asarray(dossier.evidence["bands.npz"]["bands"], dtype=np.float64)
    if bands.shape != (len(w), 2) or not np.isfinite(bands).all():
        raise EvidenceError("the bands are not two numbers a player")
    scale = float(cells.ell.max())
    for i, ends in enumerate(bands):
        for end in ends:
            moved = w.copy()
            if 0 < end < 1e300:
                moved[i] = end
                if abs(_metric_margin(cells, moved)) > 1e-6 * scale:
                    raise EvidenceError(f"the margin does not vanish at an end of player {i + 1}'s band")
                continue
            moved[i] = w[i] * (1e12 if end > w[i] else 1e-12)
            if _metric_margin(cells, moved) < -1e-9 * scale:
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
    w = _weights(dossier, len(game.blocks), "paired.npz")
    C = np.zeros((len(w), len(w)))
    for i, rows in enumerate(game.slices):
        C[i, i] = w[i] * float(np.linalg.eigvalsh(game.jacobian[rows, rows])[0])
        for j, columns in enumerate(game.slices):
            if i != j:
                pair = w[i] * game.jacobian[rows, columns] + w[j] * game.jacobian[columns, rows].T
                C[i, j] = -0.5 * float(np.linalg.svd(pair, compute_uv=False)[0])
    from scipy.linalg import eigh

    value = float(eigh(C, np.diag(w), eigvals_only=True)[0])
    return compare(claim, value, supports="measured", bound=0.0, rtol=1e-8, atol=1e-10)


def step(claim: Claim, dossier: Dossier) -> Verdict:
    """T v <= value v for the step used."""
    cells = _cells(dossier)
    n = cells.mu.shape[1]
    value = _factor(cells, _steps(dossier, n), _vector(dossier, "step_vector", n))
    return compare(claim, value, supports="proved", bound=1.0, rtol=1e-9)


def step_limit(claim: Claim, dossier: Dossier) -> Verdict:
    """Just below the limit a step contracts, and just above it the comparison with the limit's vector fails."""
    cells = _cells(dossier)
    n = cells.mu.shape[1]
    limit = np.asarray(dossier.evidence["witness.npz"]["limit"], dtype=np.float64)
    if limit.shape != (1,) or not limit[0] > 0:
        raise EvidenceError("the limit is not a positive number")
    below = float(limit[0]) * (1 - 1e-9)
    if not _factor(cells, np.full(n, below), _vector(dossier, "limit_vector", n)) < 1:
        return refute(claim, "a step just below the limit is not proved to contract", float(limit[0]))
    return compare(claim, float(limit[0]), supports="proved", bound=0.0, rtol=1e-12)


def classical_step(claim: Claim, dossier: Dossier) -> Verdict:
    """2 alpha / beta^2 of the stated weights, from generalised eigenvalues and singular values."""
    cells = _cells(dossier)
    value = _classical(cells, _weights(dossier, cells.mu.shape[1]))
    limit = float(np.asarray(dossier.evidence["witness.npz"]["limit"])[0])
    return compare(claim, value, supports="measured", bound=limit, rtol=1e-7)


def runge_kutta_step(claim: Claim, dossier: Dossier) -> Verdict:
    """The same number: the radius of circle contractivity of classical RK4 is 1."""
    cells = _cells(dossier)
    return compare(
        claim, _classical(cells, _weights(dossier, cells.mu.shape[1])), supports="measured", bound=0.0, rtol=1e-7
    )


def _classical(cells: _Cells, w: Array) -> float:
    beta_squared = 0.0
    for c in range(len(cells.mu)):
        B = np.diag(np.maximum(np.abs(cells.mu[c]), np.abs(cells.ell[c]))) + cells.coupling[c]
        scaled = np.diag(np.sqrt(w)) @ B @ np.diag(1 / np.sqrt(w))
        beta_squared = max(beta_squared, float(np.linalg.eigvalsh(scaled.T @ scaled)[-1]))
    return 2 * _metric_margin(cells, w) / beta_squared


@dataclass(frozen=True, eq=False)
class _Point:
    x: Array
    gradient: Interval
    error: Array
    regret: Array


def _point(dossier: Dossier) -> _Point:
    game: SmoothGame = dossier.problem
    x = np.asarray(dossier.answer, dtype=np.float64)
    if x.shape != (game.size,) or not np.isfinite(x).all():
        raise EvidenceError(f"the answer is not {game.size} finite numbers")
    if ((x < game.lower) | (x > game.upper)).any():
        raise EvidenceError("the answer lies outside the strategy sets")
    witness = dossier.evidence["witness.npz"]
    error, regret = (np.asarray(witness[name], dtype=np.float64) for name in ("error", "regret"))
    for name, array in (("error", error), ("regret", regret)):
        if array.shape != (len(game.blocks),) or not (np.isfinite(array).all() and (array >= 0).all()):
            raise EvidenceError(f"{name!r} is not one number >= 0 a player")
    return _Point(x, _gradient(game, x), error, regret)


def _maps_into_itself(game: SmoothGame, cells: _Cells, point: _Point, step: Array) -> str:
    """Whether T E + e <= E on every cell, e the move of one projected step from the answer."""
    lengths = np.repeat(step, game.blocks)
    target = Interval.point(point.x) - point.gradient * lengths
    move = Interval(np.clip(target.low, game.lower, game.upper), np.clip(target.high, game.lower, game.upper)) - point.x
    e = np.array([_frobenius(move[s]) for s in game.slices])
    low, high = 1.0 - Interval.point(step) * cells.mu, 1.0 - Interval.point(step) * cells.ell
    own = Interval.point(np.maximum(low.magnitude, high.magnitude))
    image = own * point.error + (Interval.point(cells.coupling) @ point.error) * step + e
    bad = np.argwhere(image.high > point.error)
    return f"the error bound of player {int(bad[0, 1]) + 1} is not supported by the residual" if len(bad) else ""


def error(claim: Claim, dossier: Dossier) -> Verdict:
    """The step maps the error set into itself; the largest radius is the value."""
    game: SmoothGame = dossier.problem
    cells, point = _cells(dossier), _point(dossier)
    steps = _steps(dossier, len(game.blocks))
    if _factor(cells, steps, _vector(dossier, "step_vector", len(steps))) >= 1:
        return refute(claim, "the step does not contract")
    if wrong := _maps_into_itself(game, cells, point, steps):
        return refute(claim, wrong)
    undecided = _leaving(game, point) > 0
    return compare(claim, float(point.error.max()), supports="proved", rtol=1e-12, undecided=undecided)


def _leaving(game: SmoothGame, point: _Point) -> int:
    if game.region is None:
        return 0
    outside = 0
    for i, own in enumerate(game.slices):
        for k in range(own.start, own.stop):
            below = point.x[k] - point.error[i] < game.region[0, k] and game.lower[k] < game.region[0, k]
            above = point.x[k] + point.error[i] > game.region[1, k] and game.upper[k] > game.region[1, k]
            outside += int(below or above)
    return outside


def existence(claim: Claim, dossier: Dossier) -> Verdict:
    """The error balls stay within the region, and the error claim holds."""
    game: SmoothGame = dossier.problem
    cells, point = _cells(dossier), _point(dossier)
    steps = _steps(dossier, len(game.blocks))
    if wrong := _maps_into_itself(game, cells, point, steps):
        return refute(claim, wrong)
    outside = _leaving(game, point)
    return compare(claim, outside, supports="proved", bound=0, undecided=outside > 0)


def regret(claim: Claim, dossier: Dossier) -> Verdict:
    """Player by player: the largest gain -g d - mu d^2 / 2 over the admissible moves d, coordinate by coordinate."""
    game: SmoothGame = dossier.problem
    cells, point = _cells(dossier), _point(dossier)
    low, high = (game.lower, game.upper) if game.region is None else game.region
    for i, own in enumerate(game.slices):
        mu = Fraction(float(cells.mu[:, i].min()))
        gain = Fraction(0)
        for k in range(own.start, own.stop):
            x = Fraction(float(point.x[k]))
            best = Fraction(0)
            for g in (Fraction(float(point.gradient.low[k])), Fraction(float(point.gradient.high[k]))):
                d = -g / mu
                d = max(d, Fraction(float(low[k])) - x) if np.isfinite(low[k]) else d
                d = min(d, Fraction(float(high[k])) - x) if np.isfinite(high[k]) else d
                best = max(best, -g * d - mu * d * d / 2)
            gain += best
        if gain > Fraction(float(point.regret[i])):
            return refute(claim, f"player {i + 1} may gain more than stated: {float(gain):.3g}")
    return compare(claim, float(point.regret.sum()), supports="proved", rtol=1e-12)


def contraction(claim: Claim, dossier: Dossier) -> Verdict:
    """Every recorded iterate is one projected step from the one before, and the moves shrink as said."""
    game: SmoothGame = dossier.problem
    cells = _cells(dossier)
    points = np.asarray(dossier.evidence["path.npz"]["points"], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != game.size or len(points) < 3 or not np.isfinite(points).all():
        raise EvidenceError("the path is not a list of strategies")
    steps = _steps(dossier, len(game.blocks))
    v = _vector(dossier, "step_vector", len(steps))
    lengths = np.repeat(steps, game.blocks)
    rows = dossier.rows(len(points) - 1, 16)
    for k in rows:
        target = np.clip(points[k] - lengths * _gradient(game, points[k]).mid, game.lower, game.upper)
        if np.abs(target - points[k + 1]).max() > 1e-9 * max(1.0, float(np.abs(points).max())):
            return refute(claim, f"iterate {k + 1} is not one step from the iterate before it")
    moves = np.diff(points, axis=0)
    sizes = np.array([max(float(np.linalg.norm(m[s])) / v[i] for i, s in enumerate(game.slices)) for m in moves])
    useful = sizes[:-1] > 1e-9 * sizes[0]
    value = float((sizes[1:][useful] / sizes[:-1][useful]).max())
    inside = game.region is None or bool(((points >= game.region[0]) & (points <= game.region[1])).all())
    return compare(claim, value, supports="measured", bound=_factor(cells, steps, v), rtol=1e-6, undecided=not inside)


def field(claim: Claim, dossier: Dossier) -> Verdict:
    """F at the grid's points by jets; the points are the answer but for two strategies."""
    game: SmoothGame = dossier.problem
    stored = dossier.evidence["field.npz"]
    points, values = (np.asarray(stored[name], dtype=np.float64) for name in ("points", "values"))
    axes = [game.slices[0].start, game.slices[1].start]
    if np.asarray(stored["axes"]).tolist() != axes or np.asarray(stored["blocks"]).tolist() != list(game.blocks):
        raise EvidenceError("the picture is not of the first two players' strategies")
    if (
        points.ndim != 2
        or points.shape[1] != game.size
        or values.shape != points.shape
        or not np.isfinite(values).all()
    ):
        raise EvidenceError("the grid is not one of strategies")
    if (np.diff(points[:, axes[0]]) < 0).any():
        raise EvidenceError("the grid is not in ascending order")
    others = [k for k in range(game.size) if k not in axes]
    if (points[:, others] != np.asarray(dossier.answer)[others]).any():
        raise EvidenceError("the grid does not pass through the answer")
    room = 1e-9 * max(float(np.abs(values).max()), 1e-300)
    for k in dossier.rows(len(points), 24):
        if np.abs(_gradient(game, points[k]).mid - values[k]).max() > room:
            return refute(claim, f"the field at grid point {k + 1} is not the game's")
    return compare(claim, float(np.abs(values).max()), supports="measured", rtol=1e-12)


def nothing(claim: Claim, dossier: Dossier) -> Verdict:
    """A claim that could not be made, said as such; there is nothing to derive again, but it may not claim anything."""
    if claim.outcome == "undecided" and claim.value is None and claim.reason:
        return Verdict(claim.name, "confirmed", None, f"nothing is claimed: {claim.reason}")
    return unchecked(claim, "a claim without evidence")


CHECKS: Mapping[str, Check] = {
    "small-gain": small_gain, "obstruction": obstruction, "metric-margin": metric_margin, "timescale-band": timescale_band,
    "paired-margin": paired_margin, "step": step, "step-limit": step_limit, "classical-step": classical_step,
    "runge-kutta-step": runge_kutta_step, "error": error, "existence": existence, "regret": regret, "contraction": contraction,
    "field": field,    "nothing": nothing, **FINITE_CHECKS, **NASH_CHECKS, **MARKOV_CHECKS,
}  # fmt: skip
