"""Bounds that hold on a whole region: enclosures over cells, subdivided until the small-gain condition holds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.core.problem import Game
from surefoot.games.field import Field
from surefoot.games.problem import SmoothGame
from surefoot.games.small_gain import Bounds, perron_margin
from surefoot.numerics.interval_matrices import eigenvalue_bounds, spectral_norm_bound
from surefoot.numerics.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class RegionBounds:
    """Cells that cover the region, with their bounds.

    Args:
        low, high: ends (cells, d) of the cells; empty (0, d) for a quadratic game, whose bounds hold everywhere.
        bounds: on each cell.
        alpha, vector: the margin over all cells and its witness.
        centre_alpha: margin of the bounds at the region's centre: no subdivision can exceed it.
        reason: why the condition was not met, or "".
        obstruction: a point (d,) at which already the exact bounds fail, if one was found, and its margin there.
    """

    low: Array
    high: Array
    bounds: Bounds
    alpha: float
    vector: Array
    centre_alpha: float
    reason: str = ""
    obstruction: Array | None = None
    obstruction_alpha: float = 0.0

    @property
    def certified(self) -> bool:
        """Whether the small-gain condition holds on the region."""
        return self.alpha > 0


def block_bounds(jacobian: Interval, blocks: list[slice], known: str = "interval") -> Bounds:
    """mu, ell and coupling of every cell from enclosures of J (cells, d, d).

    Eigenvalues of the symmetrised own blocks, spectral norms of the others; both rounded outwards.
    """
    cells, n = jacobian.shape[0], len(blocks)
    mu, ell, coupling = np.empty((cells, n)), np.empty((cells, n)), np.zeros((cells, n, n))
    for i, rows in enumerate(blocks):
        for j, columns in enumerate(blocks):
            low, high = jacobian.low[:, rows, columns], jacobian.high[:, rows, columns]
            single = low.shape[1] == low.shape[2] == 1
            if i == j and single:
                mu[:, i], ell[:, i] = low[:, 0, 0], high[:, 0, 0]
            elif i == j:
                swapped = Interval(np.swapaxes(low, 1, 2), np.swapaxes(high, 1, 2))
                own = Interval(low, high).intersect(swapped)
                for c in range(cells):
                    mu[c, i], ell[c, i] = eigenvalue_bounds(own[c])
            elif single:
                coupling[:, i, j] = np.maximum(np.abs(low), np.abs(high))[:, 0, 0]
            else:
                for c in range(cells):
                    block = Interval(low[c], high[c])
                    coupling[c, i, j] = spectral_norm_bound(block) if block.magnitude.any() else 0.0
    return Bounds(mu, ell, coupling, known)


def bound_region(game: SmoothGame, *, cells: int = 512, share: float = 0.5, field: Field | None = None) -> RegionBounds:
    """Bounds over the game's region, subdivided where they are too coarse.

    Cells that miss the target are halved along their longest edge (relative to the region). The target is `share` of the margin
    at the centre, which no subdivision can exceed; with the budget used up, any positive margin will do.

    Args:
        game: the game; quadratic games need one cell, their bounds hold everywhere.
        cells: the budget.
        share: in [0, 1); how much of the pointwise margin is asked for before the subdivision stops.
    """
    field = field or Field(game)
    if game.jacobian is not None or game.region is None:
        bounds = block_bounds(field.jacobian_interval(Interval.point(np.zeros((1, game.size)))), game.slices, "exact")
        alpha, vector = perron_margin(bounds.comparison)
        reason = "" if alpha > 0 else _why(bounds.comparison[0], alpha)
        point = None if alpha > 0 else np.zeros(game.size)
        return RegionBounds(
            np.empty((0, game.size)), np.empty((0, game.size)), bounds, alpha, vector, alpha, reason, point, alpha
        )
    check_symmetric(game, field)
    region = game.region
    centre = 0.5 * (region[0] + region[1])
    at_centre = block_bounds(field.jacobian_interval(Interval.point(centre[None])), game.slices)
    centre_alpha, _ = perron_margin(at_centre.comparison)
    low, high = region[:1].copy(), region[1:].copy()
    bounds = block_bounds(field.jacobian_interval(Interval(low, high)), game.slices)
    if centre_alpha <= 0:
        alpha, vector = perron_margin(bounds.comparison)
        return RegionBounds(
            low,
            high,
            bounds,
            alpha,
            vector,
            centre_alpha,
            _why(at_centre.comparison[0], centre_alpha),
            centre,
            centre_alpha,
        )
    while True:
        alpha, vector = perron_margin(bounds.comparison)
        ratios = ((bounds.comparison @ vector) / vector).min(axis=1)
        short = (
            np.flatnonzero(ratios < share * centre_alpha)
            if alpha < share * centre_alpha
            else np.empty(0, dtype=np.int64)
        )
        widths = (high - low) / np.maximum(region[1] - region[0], 1e-300)
        short = short[widths[short].max(axis=1) > 1e-6]
        if not short.size or len(low) + short.size > cells:
            break
        low, high, bounds = _split(field, game, low, high, bounds, short, widths)
    reason, point, at_point = "", None, 0.0
    if alpha <= 0:
        worst = int(ratios.argmin())
        reason = (
            f"the bounds are too coarse on {int((ratios <= 0).sum())} of {len(low)} cells; the budget is {cells} cells"
        )
        middle = 0.5 * (low[worst] + high[worst])
        there = block_bounds(field.jacobian_interval(Interval.point(middle[None])), game.slices)
        if (at_point := perron_margin(there.comparison)[0]) <= 0:
            reason, point = _why(there.comparison[0], at_point), middle
    return RegionBounds(low, high, bounds, alpha, vector, centre_alpha, reason, point, at_point)


def _split(
    field: Field, game: SmoothGame, low: Array, high: Array, bounds: Bounds, short: Array, widths: Array
) -> tuple[Array, Array, Bounds]:
    rows = np.arange(len(short))
    edge = widths[short].argmax(axis=1)
    middle = 0.5 * (low[short, edge] + high[short, edge])
    left_high, right_low = high[short].copy(), low[short].copy()
    left_high[rows, edge], right_low[rows, edge] = middle, middle
    fresh_low, fresh_high = np.concatenate([low[short], right_low]), np.concatenate([left_high, high[short]])
    fresh = block_bounds(field.jacobian_interval(Interval(fresh_low, fresh_high)), game.slices)
    keep = np.setdiff1d(np.arange(len(low)), short)
    merged = [
        np.concatenate([old[keep], new])
        for old, new in ((bounds.mu, fresh.mu), (bounds.ell, fresh.ell), (bounds.coupling, fresh.coupling))
    ]
    return (
        np.concatenate([low[keep], fresh_low]),
        np.concatenate([high[keep], fresh_high]),
        Bounds(merged[0], merged[1], merged[2]),
    )


def check_symmetric(game: SmoothGame, field: Field) -> None:
    """Refuse a pseudo-gradient whose own blocks are no Hessians, or that is not finite on the region.

    Raises:
        ValueError: naming the player.
    """
    if game.region is None:
        return
    generator = np.random.default_rng(0)
    points = game.region[0] + generator.random((16, game.size)) * (game.region[1] - game.region[0])
    for point in points:
        J = field.jacobian(point)
        if not np.isfinite(J).all():
            raise ValueError(
                f"the Hessians are not finite at {np.round(point, 6).tolist()}; costs must be twice differentiable on the region"
            )
        for i, own in enumerate(game.slices):
            if np.abs(J[own, own] - J[own, own].T).max() > 1e-8 * max(np.abs(J[own, own]).max(), 1e-300):
                raise ValueError(
                    f"{game.names[i]}'s own block of the Jacobian is not symmetric, so the field is no pseudo-gradient"
                )


def sample_bounds(game: Game, points: Array) -> Bounds:
    """Bounds of a black-box game at sampled points: an ESTIMATE of the region's bounds, never a proof.

    Args:
        game: any `surefoot.core.problem.Game` with a differentiable torch pseudo-gradient.
        points: (n, d).
    """
    import torch

    ends = np.cumsum((0, *game.blocks))
    blocks = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
    jacobians = [torch.func.jacrev(game.pseudo_gradient)(torch.as_tensor(p)).numpy() for p in points]
    J = Interval.point(np.stack(jacobians).astype(np.float64))
    for own in blocks:
        block = J.low[:, own, own]
        J.low[:, own, own] = J.high[:, own, own] = 0.5 * (block + np.swapaxes(block, 1, 2))
    found = block_bounds(J, blocks, "sampled")
    worst = [found.mu.min(axis=0), found.ell.max(axis=0), found.coupling.max(axis=0)]
    return Bounds(*(array[None] for array in worst), known="sampled")


def _why(K: Array, alpha: float) -> str:
    """Which part of the small-gain condition fails for one comparison matrix."""
    for i in range(len(K)):
        if K[i, i] <= 0:
            return f"player {i + 1}'s own curvature is not positive ({K[i, i]:.4g})"
    for i in range(len(K)):
        for j in range(i):
            if K[i, i] * K[j, j] <= K[i, j] * K[j, i]:
                return f"players {j + 1} and {i + 1} couple too strongly: {K[i, j] * K[j, i]:.4g} against curvatures {K[i, i] * K[j, j]:.4g}"
    return f"the comparison matrix is not an M-matrix: its least eigenvalue is {alpha:.4g}"
