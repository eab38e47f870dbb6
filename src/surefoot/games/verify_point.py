"""Checkers of the strategies found: error bounds, existence, regret, the first rounds of play, and the picture's field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.games.problem import SmoothGame
from surefoot.games.verify_region import Cells, EvidenceError, cells_of, factor_of, gradient, steps_of, vector_of
from surefoot.games.verify_sets import distances, exact, most_gained, moves, nearest
from surefoot.numerics.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]


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
    if max(distances(game, x)) > Fraction(1, 10**12):
        raise EvidenceError("the answer lies outside the strategy sets")
    witness = dossier.evidence["witness.npz"]
    error, regret = (np.asarray(witness[name], dtype=np.float64) for name in ("error", "regret"))
    for name, array in (("error", error), ("regret", regret)):
        if array.shape != (len(game.blocks),) or not (np.isfinite(array).all() and (array >= 0).all()):
            raise EvidenceError(f"{name!r} is not one number >= 0 a player")
    return _Point(x, gradient(game, x[None])[0], error, regret)


def _maps_into_itself(game: SmoothGame, cells: Cells, point: _Point, step: Array) -> str:
    """Whether T E + e <= E on every cell, e the move of one projected step from the answer."""
    e = moves(game, point.x, point.gradient, np.repeat(step, game.blocks))
    low, high = 1.0 - Interval.point(step) * cells.mu, 1.0 - Interval.point(step) * cells.ell
    own = Interval.point(np.maximum(low.magnitude, high.magnitude))
    image = own * point.error + (Interval.point(cells.coupling) @ point.error) * step + e
    bad = np.argwhere(image.high > point.error)
    return f"the error bound of player {int(bad[0, 1]) + 1} is not supported by the residual" if len(bad) else ""


def error(claim: Claim, dossier: Dossier) -> Verdict:
    """The step maps the error set into itself; the largest radius is the value."""
    game: SmoothGame = dossier.problem
    cells, point = cells_of(dossier), _point(dossier)
    steps = steps_of(dossier, len(game.blocks))
    if factor_of(cells, steps, vector_of(dossier, "step_vector", len(steps))) >= 1:
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
    cells, point = cells_of(dossier), _point(dossier)
    steps = steps_of(dossier, len(game.blocks))
    if wrong := _maps_into_itself(game, cells, point, steps):
        return refute(claim, wrong)
    outside = _leaving(game, point)
    return compare(claim, outside, supports="proved", bound=0, undecided=outside > 0)


def regret(claim: Claim, dossier: Dossier) -> Verdict:
    """Player by player: the largest gain -g d - mu d^2 / 2 over the admissible moves d, coordinate by coordinate."""
    game: SmoothGame = dossier.problem
    cells, point = cells_of(dossier), _point(dossier)
    low, high = (game.lower, game.upper) if game.region is None else game.region
    for i, own in enumerate(game.slices):
        ends = [(low[k], high[k]) for k in range(own.start, own.stop)]
        gain = most_gained(game, i, point.x[own], point.gradient[own], Fraction(float(cells.mu[:, i].min())), ends)
        if gain > Fraction(float(point.regret[i])):
            return refute(claim, f"player {i + 1} may gain more than stated: {float(gain):.3g}")
    return compare(claim, float(point.regret.sum()), supports="proved", rtol=1e-12)


def contraction(claim: Claim, dossier: Dossier) -> Verdict:
    """Every recorded iterate is one projected step from the one before, and the moves shrink as said."""
    game: SmoothGame = dossier.problem
    cells = cells_of(dossier)
    points = np.asarray(dossier.evidence["path.npz"]["points"], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != game.size or len(points) < 3 or not np.isfinite(points).all():
        raise EvidenceError("the path is not a list of strategies")
    steps = steps_of(dossier, len(game.blocks))
    v = vector_of(dossier, "step_vector", len(steps))
    lengths = np.repeat(steps, game.blocks)
    rows = dossier.rows(len(points) - 1, 16)
    fields = gradient(game, points[rows]).mid
    for k, F in zip(rows, fields, strict=True):
        target = np.array(
            [
                float(p)
                for i, own in enumerate(game.slices)
                for p in nearest(game, i, exact(points[k] - lengths * F)[own])
            ]
        )
        if np.abs(target - points[k + 1]).max() > 1e-9 * max(1.0, float(np.abs(points).max())):
            return refute(claim, f"iterate {k + 1} is not one step from the iterate before it")
    moves = np.diff(points, axis=0)
    sizes = np.array([max(float(np.linalg.norm(m[s])) / v[i] for i, s in enumerate(game.slices)) for m in moves])
    useful = sizes[:-1] > 1e-9 * sizes[0]
    value = float((sizes[1:][useful] / sizes[:-1][useful]).max())
    inside = game.region is None or bool(((points >= game.region[0]) & (points <= game.region[1])).all())
    return compare(claim, value, supports="measured", bound=factor_of(cells, steps, v), rtol=1e-6, undecided=not inside)


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
    rows = dossier.rows(len(points), 24)
    if (wrong := np.flatnonzero(np.abs(gradient(game, points[rows]).mid - values[rows]).max(axis=1) > room)).size:
        return refute(claim, f"the field at grid point {rows[wrong[0]] + 1} is not the game's")
    return compare(claim, float(np.abs(values).max()), supports="measured", rtol=1e-12)


POINT_CHECKS: Mapping[str, Check] = {
    "error": error, "existence": existence, "regret": regret, "contraction": contraction, "field": field,
}  # fmt: skip
