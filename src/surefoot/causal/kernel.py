"""The inner loop of the central path: one Adam or proximal step per noise update, with nothing allocated.

Everything is kept transposed (row j holds the weights *into* node j), so that the noise level of node j scales a
contiguous row and the inverse comes out in the layout in which the gradient needs it. Elementwise work runs over blocks
of rows that stay in the level-two cache. The moments are those of half the gradient and without the factors (1 - beta):
`m' = m / (2 (1 - beta1))`; all factors go into scalars, which saves five passes a step.

The cost of a step is one inverse and one product, 4 d^3 flops; `reference.py` is the same algorithm as it is written in
the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import sqrt
from typing import Any, Literal

import numpy as np

from surefoot.causal.inverse import BlockInverse

Array = np.ndarray[Any, np.dtype[np.float64]]
Solver = Literal["adam", "proximal"]

DOMAIN_TOLERANCE = 1e-6
CACHE_ENTRIES = 16384
BETA1, BETA2, EPSILON = 0.99, 0.999, 1e-8


class Event(Enum):
    """Why a run of steps ended."""

    RUNNING = "the block is used up"
    STAGE_DONE = "the stage is finished"
    LEFT_DOMAIN = "the weights left the domain of the log-det function"


@dataclass
class Position:
    """Where a stage stands: everything that the next step depends on.

    `weights_in` is W transposed, (d, d); `noise_std` has shape (1,) or (d,); the moments and `move` (the last step taken,
    wanted when it must be halved) are (d, d). `step` counts the steps of this stage.
    """

    weights_in: Array
    noise_std: Array
    first_moment: Array
    second_moment: Array
    move: Array
    learning_rate: float
    acyclicity_scale: float
    step: int = 0
    objective: float = 1e16


@dataclass(frozen=True)
class Stage:
    """One stage of the path: minimise `centre * Score + h` for at most `steps` steps."""

    centre: float
    steps: int
    checkpoint: int
    tolerance: float


@dataclass(frozen=True, slots=True)
class _Block:
    """Views of some rows of everything that an elementwise step touches."""

    rows: slice
    weights: Array
    first: Array
    second: Array
    move: Array
    product: Array
    inverse: Array
    gradient: Array
    scratch: Array
    allowed: Array | None
    penalised: Array | None


@dataclass
class InnerLoop:
    """Buffers and constants of one covariance matrix.

    Args:
        covariance: (d, d) symmetric, `X'X/n`.
        sparsity: weight of the l1 term.
        floor: lower bound of the noise levels.
        solver: "adam" takes `lam sign(W)` as a subgradient, as published; "proximal" soft-thresholds.
        allowed: (d, d) of 0 and 1, or None when every edge is allowed; row -> column.
        penalised: (d, d) of 0 and 1, or None when every edge is penalised.
    """

    covariance: Array
    sparsity: float
    floor: float
    solver: Solver = "adam"
    allowed: Array | None = None
    penalised: Array | None = None

    def __post_init__(self) -> None:
        order = len(self.covariance)
        self.covariance = np.ascontiguousarray(self.covariance)
        self._mixing, self._product, self._inverse = (np.zeros((order, order)) for _ in range(3))
        self._matrix = np.zeros((order, order))
        # strided views of the diagonals, made once
        self._mixing_diagonal = self._mixing.reshape(-1)[:: order + 1]
        self._matrix_diagonal = self._matrix.reshape(-1)[:: order + 1]
        self._invert = BlockInverse(order)
        rows = max(1, min(order, CACHE_ENTRIES // order))
        # one block's worth: used again for every block, so that they stay in the cache
        self._gradient, self._scratch = np.zeros((rows, order)), np.zeros((rows, order))
        self._rows = [slice(i, min(i + rows, order)) for i in range(0, order, rows)]
        self._allowed_in = None if self.allowed is None else np.ascontiguousarray(self.allowed.T)
        self._penalised_in = None if self.penalised is None else np.ascontiguousarray(self.penalised.T)

    # ---- pieces of a step ------------------------------------------------------------------------------------

    def fit_products(self, weights_in: Array) -> None:
        """Refresh `mixing = (I - W)'` and `product = (S (I - W))'`; S is symmetric."""
        np.negative(weights_in, out=self._mixing)
        np.add(self._mixing_diagonal, 1.0, out=self._mixing_diagonal)
        np.matmul(self._mixing, self.covariance, out=self._product)

    def noise_levels(self, common: bool) -> Array:
        """Closed-form noise levels at the weights of the last `fit_products`."""
        mixing, product = self._mixing, self._product
        if common:
            level = float(mixing.reshape(-1).dot(product.reshape(-1))) / len(mixing)
            return np.array((max(sqrt(max(level, 0.0)), self.floor),))
        residual = np.vecdot(mixing, product)
        np.maximum(residual, self.floor * self.floor, out=residual)
        return np.sqrt(residual, out=residual)

    def negative_inverse(self, weights_in: Array, acyclicity_scale: float) -> float:
        """Put `(W o W - s I)^-1` into `inverse`; return its largest entry (inf if singular or not finite).

        The sign spares a pass over the matrix: the gradient of `h` is minus twice the entrywise product with W.
        """
        np.multiply(weights_in, weights_in, out=self._matrix)
        np.subtract(self._matrix_diagonal, acyclicity_scale, out=self._matrix_diagonal)
        if not self._invert(self._matrix.T, self._inverse):
            return np.inf
        largest = float(np.maximum.reduce(self._inverse, axis=None))
        return largest if largest == largest else np.inf

    def objective(self, position: Position, centre: float) -> float:
        """`centre * Score + h_s` at the position; infinite outside the domain."""
        mixing, product = self._mixing, self._product
        residual = np.vecdot(mixing, product)
        magnitude = np.abs(position.weights_in)
        if self._penalised_in is not None:
            magnitude *= self._penalised_in
        levels = np.broadcast_to(position.noise_std, residual.shape)
        fit = 0.5 * float(np.sum(residual / levels + levels)) + self.sparsity * float(magnitude.sum())
        order = len(mixing)
        matrix = -position.weights_in * position.weights_in
        matrix.reshape(-1)[:: order + 1] += position.acyclicity_scale
        sign, log_det = np.linalg.slogdet(matrix)
        if sign <= 0:
            return float("inf")
        return centre * fit + order * float(np.log(position.acyclicity_scale)) - float(log_det)

    # ---- the loop --------------------------------------------------------------------------------------------

    def advance(self, position: Position, stage: Stage, steps: int) -> Event:
        """Take up to `steps` steps of the stage in place.

        The result does not depend on how a stage is cut into calls: all that a step needs is in `position`, and the two
        products carried from step to step are recomputed here to the same bits.
        """
        common = position.noise_std.size == 1
        blocks = [self._views(position, rows) for rows in self._rows]
        update = self._proximal_update if self.solver == "proximal" else self._adam_update
        half_threshold = 0.5 * stage.centre * self.sparsity
        self.fit_products(position.weights_in)
        for _ in range(steps):
            if not self._enter_domain(position, common):
                return Event.LEFT_DOMAIN
            position.step += 1
            half_fit: Any = -0.5 * stage.centre / position.noise_std
            half_fit = float(half_fit[0]) if common else half_fit[:, None]
            for block in blocks:
                update(block, half_fit if common else half_fit[block.rows], half_threshold, position)
            self.fit_products(position.weights_in)
            position.noise_std = self.noise_levels(common)
            at_end = position.step >= stage.steps
            if at_end or position.step % stage.checkpoint == 0:
                objective = self.objective(position, stage.centre)
                previous, position.objective = position.objective, objective
                if at_end or abs(previous - objective) <= stage.tolerance * abs(previous):
                    return Event.STAGE_DONE
        return Event.RUNNING

    def _enter_domain(self, position: Position, common: bool) -> bool:
        """Invert at the current weights; while outside the domain, halve the last step (first stage only)."""
        while self.negative_inverse(position.weights_in, position.acyclicity_scale) > DOMAIN_TOLERANCE:
            if position.step == 0 or position.acyclicity_scale <= 0.9:
                return False
            if position.learning_rate <= 1e-16:
                return False
            position.move *= 0.5
            position.weights_in += position.move
            position.learning_rate *= 0.5
            self.fit_products(position.weights_in)
            position.noise_std = self.noise_levels(common)
        return True

    def _views(self, position: Position, rows: slice) -> _Block:
        return _Block(
            rows=rows,
            weights=position.weights_in[rows],
            first=position.first_moment[rows],
            second=position.second_moment[rows],
            move=position.move[rows],
            product=self._product[rows],
            inverse=self._inverse[rows],
            gradient=self._gradient[: rows.stop - rows.start],
            scratch=self._scratch[: rows.stop - rows.start],
            allowed=None if self._allowed_in is None else self._allowed_in[rows],
            penalised=None if self._penalised_in is None else self._penalised_in[rows],
        )

    def _adam_update(self, block: _Block, half_fit: Array | float, half_threshold: float, position: Position) -> None:
        """One Adam step of a block of rows on the subgradient with `lam sign(W)`."""
        gradient, scratch, move = block.gradient, block.scratch, block.move
        np.multiply(block.product, half_fit, out=gradient)
        np.multiply(block.weights, block.inverse, out=scratch)
        np.subtract(gradient, scratch, out=gradient)
        np.sign(block.weights, out=scratch)
        np.multiply(scratch, half_threshold, out=scratch)
        if block.penalised is not None:
            np.multiply(scratch, block.penalised, out=scratch)
        np.add(gradient, scratch, out=gradient)
        length, epsilon, _ = _lengths(position)
        _moments(block, epsilon)
        np.divide(block.first, scratch, out=move)
        np.multiply(move, length, out=move)
        np.subtract(block.weights, move, out=block.weights)

    def _proximal_update(
        self, block: _Block, half_fit: Array | float, half_threshold: float, position: Position
    ) -> None:
        """One Adam step on the smooth part, then the soft threshold in the metric of that step."""
        gradient, scratch, move = block.gradient, block.scratch, block.move
        np.multiply(block.product, half_fit, out=gradient)
        np.multiply(block.weights, block.inverse, out=scratch)
        np.subtract(gradient, scratch, out=gradient)
        length, epsilon, metric = _lengths(position)
        _moments(block, epsilon)
        np.divide(length, scratch, out=gradient)
        np.multiply(block.first, gradient, out=move)
        # the metric of the step is lr / (sqrt(v) + eps), without the bias correction of the first moment
        np.multiply(gradient, half_threshold * metric / length, out=gradient)
        if block.penalised is not None:
            np.multiply(gradient, block.penalised, out=gradient)
        np.subtract(block.weights, move, out=scratch)
        np.abs(scratch, out=move)
        np.subtract(move, gradient, out=move)
        np.maximum(move, 0.0, out=move)
        np.copysign(move, scratch, out=scratch)
        np.subtract(block.weights, scratch, out=move)
        np.copyto(block.weights, scratch)


def _lengths(position: Position) -> tuple[float, float, float]:
    """Scalar step length and epsilon for the moments of half gradients, and the length of the metric."""
    second_correction = sqrt((1.0 - BETA2) / (1.0 - BETA2**position.step))
    metric = position.learning_rate / second_correction
    return metric * (1.0 - BETA1) / (1.0 - BETA1**position.step), 0.5 * EPSILON / second_correction, metric


def _moments(block: _Block, epsilon: float) -> None:
    """Moments after `gradient`; leaves `sqrt(v) + eps` in `scratch`."""
    gradient, first, second, scratch = block.gradient, block.first, block.second, block.scratch
    if block.allowed is not None:
        np.multiply(gradient, block.allowed, out=gradient)
    np.multiply(first, BETA1, out=first)
    np.add(first, gradient, out=first)
    np.multiply(second, BETA2, out=second)
    np.multiply(gradient, gradient, out=gradient)
    np.add(second, gradient, out=second)
    np.sqrt(second, out=scratch)
    np.add(scratch, epsilon, out=scratch)
