"""The pseudo-gradient and its Jacobian: in floats, and enclosed over boxes by symbolic derivatives."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from surefoot.games.expressions import Derivatives, Expression, Program
from surefoot.games.problem import SmoothGame
from surefoot.numerics.intervals import Interval

Array = np.ndarray[Any, np.dtype[Any]]


class Field:
    """F and J of a smooth game.

    Own blocks of J are Hessians, so only one triangle of them is derived and both share its enclosure.
    """

    def __init__(self, game: SmoothGame) -> None:
        self.game = game
        self._derive = Derivatives()

    @cached_property
    def formulas(self) -> tuple[Expression, ...]:
        """F, one formula a strategy."""
        game = self.game
        if game.pseudo_gradient:
            return game.pseudo_gradient
        owners = np.repeat(np.arange(len(game.blocks)), game.blocks)
        return tuple(self._derive(game.costs[owner], k) for k, owner in enumerate(owners))

    @cached_property
    def _gradient(self) -> Program:
        return Program(self.formulas, self.game.size)

    @cached_property
    def _jacobian(self) -> tuple[Program, Any]:
        """Distinct entries, and which of them stands at each place of J."""
        d = self.game.size
        roots: list[Expression] = []
        place = np.zeros((d, d), dtype=np.int64)
        owners = np.repeat(np.arange(len(self.game.blocks)), self.game.blocks)
        for row in range(d):
            for column in range(d):
                if owners[row] == owners[column] and column < row and self.game.costs:
                    place[row, column] = place[column, row]
                    continue
                place[row, column] = len(roots)
                roots.append(self._derive(self.formulas[row], column))
        return Program(roots, d), place

    def gradient(self, x: Array) -> Array:
        """F at points (..., d)."""
        if self.game.jacobian is not None and self.game.offset is not None:
            return x @ self.game.jacobian.T + self.game.offset
        return np.stack(np.broadcast_arrays(*self._gradient.floats(x)), axis=-1) + np.zeros_like(x)

    def gradient_interval(self, x: Array) -> Interval:
        """An enclosure of F at the float point x (d,)."""
        if self.game.jacobian is not None and self.game.offset is not None:
            return Interval.point(self.game.jacobian) @ x + self.game.offset
        return self.gradient_box(Interval.point(x))

    def gradient_box(self, box: Interval) -> Interval:
        """An enclosure of F over a box (d,)."""
        if self.game.jacobian is not None and self.game.offset is not None:
            return Interval.point(self.game.jacobian) @ box + self.game.offset
        parts = self._gradient.intervals(box)
        return Interval(np.array([p.low for p in parts]), np.array([p.high for p in parts]))

    def jacobian_interval(self, cells: Interval) -> Interval:
        """Enclosures of J over boxes (cells, d), as (cells, d, d)."""
        if self.game.jacobian is not None:
            return Interval.point(self.game.jacobian[None])
        program, place = self._jacobian
        parts = program.intervals(cells)
        shape = (cells.shape[0],)
        low = np.stack([np.broadcast_to(p.low, shape) for p in parts], axis=-1)
        high = np.stack([np.broadcast_to(p.high, shape) for p in parts], axis=-1)
        return Interval(low[:, place], high[:, place])

    def jacobian(self, x: Array) -> Array:
        """J at a point (d,), in floats."""
        if self.game.jacobian is not None:
            return self.game.jacobian
        program, place = self._jacobian
        return np.stack(np.broadcast_arrays(*program.floats(x)), axis=-1)[..., place]
