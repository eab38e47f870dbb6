"""Checkers of a smooth game's region: derivatives, cells and their bounds, by other algorithms than the solver's.

Derivatives come from interval jets instead of symbolic formulas, own curvatures from shifted eigenvalues of the middle, norms from a
verified singular value decomposition; cells are checked to tile the region and, where a stated bound is sharper than the jets',
halved until it is confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare
from surefoot.games.problem import SmoothGame
from surefoot.games.verify_jets import evaluate
from surefoot.numerics.intervals import Interval, sqrt

Array = np.ndarray[Any, np.dtype[Any]]
HALVINGS = 12
"""So many times a cell is halved to confirm a bound that the jets cannot confirm at once."""


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the game."""


# ---- the game, again ----------------------------------------------------------------------------------------------


def gradient_box(game: SmoothGame, low: Array, high: Array) -> Array:
    """The largest |F_k| over a box, (d,), by jets."""
    cells = Interval(low[None], high[None])
    if game.costs:
        jets = evaluate(game.costs, cells, second=False)
        parts = [jets[i].gradient[:, k] for i, own in enumerate(game.slices) for k in range(own.start, own.stop)]
    else:
        parts = [jet.value for jet in evaluate(game.pseudo_gradient, cells, second=False)]
    return np.array([float(np.max(p.magnitude)) for p in parts])


def gradient(game: SmoothGame, points: Array) -> Interval:
    """F at points (n, d): of one point of a quadratic game in rationals, of many in intervals; otherwise by jets."""
    if game.jacobian is not None and game.offset is not None and len(points) > 1:
        return (Interval.point(points[:, None, :]) * game.jacobian).sum(axis=-1) + game.offset
    if game.jacobian is not None and game.offset is not None:
        ends = [
            [
                Interval.enclosing(sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, x, strict=True)), Fraction(float(g))))
                for row, g in zip(game.jacobian, game.offset, strict=True)
            ]
            for x in points
        ]  # fmt: skip
        return Interval(
            np.array([[e.low for e in row] for row in ends]), np.array([[e.high for e in row] for row in ends])
        )
    cells = Interval.point(points)
    if game.costs:
        jets = evaluate(game.costs, cells, second=False)
        parts = [jets[i].gradient[:, k] for i, own in enumerate(game.slices) for k in range(own.start, own.stop)]
    else:
        parts = [jet.value for jet in evaluate(game.pseudo_gradient, cells, second=False)]
    shape = (len(points),)
    return Interval(
        np.stack([np.broadcast_to(p.low, shape) for p in parts], axis=1),
        np.stack([np.broadcast_to(p.high, shape) for p in parts], axis=1),
    )


def jacobian(game: SmoothGame, cells: Interval) -> Interval:
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
class Cells:
    low: Array
    high: Array
    mu: Array
    ell: Array
    coupling: Array


def cells_of(dossier: Dossier) -> Cells:
    """The stated bounds, after checking that the cells tile the region and the bounds hold on them; once a dossier."""
    kept = vars(dossier).setdefault("_checked_cells", {})
    if "cells" not in kept:
        game: SmoothGame = dossier.problem
        kept["cells"] = checked_cells(dossier, "cells.npz", game.region)
    return kept["cells"]


def checked_cells(dossier: Dossier, name: str, region: Array | None) -> Cells:
    """The bounds stated in a file of evidence, whose cells must tile the region."""
    game: SmoothGame = dossier.problem
    stored = dossier.evidence[name]
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
    found = Cells(low, high, mu, ell, coupling)
    if game.jacobian is not None:
        if cells != 1 or low.size or high.size:
            raise EvidenceError("a quadratic game has one set of bounds")
        _bounds_hold(game, found, 0, Interval.point(np.zeros((1, d))))
        return found
    if region is None or low.shape != (cells, d) or high.shape != (cells, d):
        raise EvidenceError("the cells do not fit the region")
    _tiles(low, high, region)
    rows = dossier.rows(cells, 256)
    enclosed = jacobian(game, Interval(low[rows], high[rows]))
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
    game: SmoothGame, stated: Cells, row: int, box: Interval, enclosed: Interval | None = None, depth: int = 0
) -> None:
    """The stated bounds of one cell hold on the box, which is halved while the jets are too coarse to say."""
    J = (jacobian(game, box) if enclosed is None else enclosed)[0]
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


def _violated(game: SmoothGame, J: Interval, stated: Cells, row: int) -> str:
    room = 1e-11 * float(np.where(np.isfinite(J.magnitude), J.magnitude, 0.0).max())
    for i, rows in enumerate(game.slices):
        own = J[rows, rows]
        low, high = spectrum(own)
        if low < stated.mu[row, i] - room or high > stated.ell[row, i] + room:
            return f"the curvature of player {i + 1} was found in [{low:.9g}, {high:.9g}], outside the stated [{stated.mu[row, i]:.9g}, {stated.ell[row, i]:.9g}]"
        for j, columns in enumerate(game.slices):
            if i != j and (size := norm(J[rows, columns])) > stated.coupling[row, i, j] + room:
                return f"the coupling of players {i + 1} and {j + 1} was found to reach {size:.9g}, above the stated {stated.coupling[row, i, j]:.9g}"
    return ""


def spectrum(A: Interval) -> tuple[float, float]:
    """Bounds of the eigenvalues of the symmetric part: those of the middle, moved by the Frobenius norm of what is left."""
    if A.shape == (1, 1):
        return float(A.low[0, 0]), float(A.high[0, 0])
    low, high = np.maximum(A.low, A.low.T), np.minimum(A.high, A.high.T)
    if (low > high).any():
        raise EvidenceError("an own block is not symmetric")
    middle = 0.5 * (low + high)
    middle = 0.5 * (middle + middle.T)
    values, vectors = np.linalg.eigh(middle)
    rest = frobenius(Interval(low, high) - Interval.point(vectors) @ Interval.point(np.diag(values)) @ vectors.T)
    skew = frobenius(Interval.point(vectors.T) @ vectors - np.eye(len(values)))
    stretch = float(np.abs(values).max()) * skew * 1.01
    return float(np.nextafter(values[0] - rest - stretch, -np.inf)), float(
        np.nextafter(values[-1] + rest + stretch, np.inf)
    )


def norm(A: Interval) -> float:
    """Upper bound of the spectral norm: the largest singular value of the middle and the Frobenius norm of what is left."""
    if A.shape == (1, 1) or not A.magnitude.any():
        return float(A.magnitude.max())
    U, s, Vt = np.linalg.svd(A.mid, full_matrices=False)
    rest = frobenius(A - Interval.point(U * s) @ Vt)
    stretch = (1 + frobenius(Interval.point(U.T) @ U - np.eye(len(s)))) * (
        1 + frobenius(Interval.point(Vt) @ Vt.T - np.eye(len(s)))
    )
    return float(np.nextafter(s[0] * stretch + rest, np.inf))


def frobenius(A: Interval) -> float:
    return float(sqrt((A**2).reshape(A.low.size).sum()).high)


# ---- witnesses ------------------------------------------------------------------------------------------------------


def vector_of(dossier: Dossier, name: str, size: int) -> Array:
    """A positive vector of the evidence, scaled to a largest entry of 1."""
    v = np.asarray(dossier.evidence["witness.npz"][name], dtype=np.float64)
    if v.shape != (size,) or not (np.isfinite(v).all() and (v > 0).all()):
        raise EvidenceError(f"{name!r} is not a positive vector of {size} entries")
    if abs(v.max() - 1) > 1e-9:
        raise EvidenceError(f"{name!r} is not scaled to a largest entry of 1")
    return v


def steps_of(dossier: Dossier, size: int) -> Array:
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


def margin_of(cells: Cells, v: Array) -> float:
    """min over cells and players of (K v)_i / v_i: floats find the place, rationals the value."""
    ratios = (cells.mu * v - cells.coupling @ v) / v
    order = np.argsort(ratios, axis=None)[: 4 * ratios.shape[1]]
    places = [np.unravel_index(int(k), ratios.shape) for k in order]
    return float(min(_exact_ratio(cells.mu[c], cells.coupling[c], v, int(i)) for c, i in places))


def factor_of(cells: Cells, step: Array, v: Array) -> float:
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
    cells = cells_of(dossier)
    v = vector_of(dossier, "vector", cells.mu.shape[1])
    return compare(
        claim,
        margin_of(cells, v),
        supports="proved",
        bound=0.0,
        rtol=1e-9,
        atol=1e-13 * float(cells.ell.max()),
        undecided=claim.outcome == "undecided" and claim.value is not None and float(claim.value) <= 0,
    )


def obstruction(claim: Claim, dossier: Dossier) -> Verdict:
    """At one point of the region already the exact comparison matrix has no positive margin."""
    game: SmoothGame = dossier.problem
    cells_of(dossier)
    vector_of(dossier, "vector", len(game.blocks))
    point = np.asarray(dossier.evidence["witness.npz"]["obstruction"], dtype=np.float64)
    if point.shape != (game.size,) or not np.isfinite(point).all():
        raise EvidenceError("the point is not one of the game's")
    if game.region is not None and ((point < game.region[0]) | (point > game.region[1])).any():
        raise EvidenceError("the point lies outside the region")
    J = jacobian(game, Interval.point(point[None]))[0]
    mu = [spectrum(J[own, own])[0] for own in game.slices]
    K = np.diag(mu) - np.array(
        [[0.0 if i == j else norm(J[a, b]) for j, b in enumerate(game.slices)] for i, a in enumerate(game.slices)]
    )
    value = float(np.linalg.eigvals(K).real.min())
    if game.jacobian is not None and point.any():
        raise EvidenceError("a quadratic game has the same matrix everywhere; its point is the origin")
    return compare(claim, value, supports="proved", bound=0.0, rtol=1e-6, atol=1e-9 * float(np.abs(K).max()))


REGION_CHECKS: Mapping[str, Check] = {"small-gain": small_gain, "obstruction": obstruction}
