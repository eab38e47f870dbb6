"""What a convex network is trained on, and the network that comes back.

With X (n, d) the scaled table (its last column ones, for the bias) and one target column y, the network f(x) = sum_j (x'u_j)_+ a_j
is trained by

    min  sum_k loss(f(x_k), y_k) + (beta / 2) sum_j (|u_j|^2 + a_j^2),

losses summed, not averaged: with losses averaged over n rows the weight would be beta / n. Several target columns (one against the
rest, or several regressions) are as many such problems that share the hyperplanes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.convex_networks.loss import named_loss
from surefoot.numerics.losses import Loss
from surefoot.records.fingerprint import fingerprint

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Scaling:
    """How a table becomes X: (x - centre) / spread, then a column of ones where there is a bias."""

    centre: Array
    spread: Array
    bias: bool = True

    def __call__(self, values: Array) -> Array:
        """(n, p) raw values to X (n, d)."""
        scaled = (np.asarray(values, dtype=np.float64) - self.centre) / self.spread
        return np.hstack([scaled, np.ones((len(scaled), 1))]) if self.bias else scaled


@dataclass(frozen=True, eq=False)
class PatternProgram:
    """The training problem.

    Args:
        features: X (n, d) float64, scaled and with its bias column.
        targets: (n, C); -1 and +1 for "logistic" and "hinge".
        loss_name: "squared", "logistic", "hinge", "huber" or "quantile".
        weight: beta > 0.
        radii: (d,) largest perturbation of each column of X (0 for the bias) for robust training, or None.
        loss_options: `knee` of huber, `quantile` of quantile.
        scaling: how the table became X; None: X is the table itself.
        names: of the table's columns.
        classes: labels by target column (two labels for one column), empty for regression.
        held_features, held_targets: rows kept apart, (h, d) and (h, C): the network is tried on them.

    Raises:
        ValueError: naming the argument, what was found and what was expected.
    """

    features: Tensor
    targets: Tensor
    loss_name: str
    weight: float
    radii: Tensor | None = None
    loss_options: Mapping[str, float] = field(default_factory=dict)
    scaling: Scaling | None = None
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    held_features: Tensor | None = None
    held_targets: Tensor | None = None

    def __post_init__(self) -> None:
        X, y = self.features, self.targets
        if X.ndim != 2 or y.ndim != 2 or len(X) != len(y) or len(X) == 0:
            raise ValueError(
                f"features {tuple(X.shape)} and targets {tuple(y.shape)}: expected (n, d) and (n, C) with n >= 1"
            )
        if not bool(torch.isfinite(X).all()):
            raise ValueError("features hold NaN or infinite values; drop or impute those rows first")
        if not (np.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight is {self.weight}; expected a finite number > 0")
        if not bool((X != 0).any()):
            raise ValueError("features hold zero rows only; there is nothing to learn from")
        self.loss.validate_labels(y)
        if self.radii is not None:
            if self.radii.shape != (X.shape[1],) or not bool((self.radii >= 0).all()):
                raise ValueError(f"radii must be {X.shape[1]} numbers >= 0, one a column of X")
            if not bool(torch.isfinite(self.radii).all()):
                raise ValueError("radii hold NaN or infinite values")

    @property
    def loss(self) -> Loss:
        """The loss of one prediction."""
        return named_loss(self.loss_name, **self.loss_options)

    @property
    def robust(self) -> bool:
        """Whether perturbations are trained against."""
        return self.radii is not None and bool((self.radii > 0).any())

    def fingerprint(self) -> str:
        scaling = None if self.scaling is None else (self.scaling.centre, self.scaling.spread, self.scaling.bias)
        return fingerprint(
            self.features, self.targets, self.loss_name, dict(self.loss_options), self.weight, self.radii, scaling,
            list(self.classes), self.held_features, self.held_targets,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Network:
    """A two-layer ReLU network, x -> (X(x) hidden')_+ output, neurons by falling weight.

    Attributes:
        hidden: u (m, d), in the coordinates of X.
        output: a (m, C); every neuron feeds one output and has |u| = |a|.
        scaling: from the raw table to X, or None.
        classes: labels by output, empty for regression.
    """

    hidden: Array
    output: Array
    scaling: Scaling | None = None
    classes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of neurons."""
        return len(self.hidden)

    def scores(self, features: Array) -> Array:
        """Outputs (n, C) on X (n, d)."""
        return np.maximum(features @ self.hidden.T, 0.0) @ self.output

    def __call__(self, values: Array) -> Array:
        """Outputs (n, C) on raw values (n, p)."""
        return self.scores(values if self.scaling is None else self.scaling(values))


def ordered(hidden: Array, output: Array) -> tuple[Array, Array]:
    """Neurons by falling |a|, then by their weights: the one order that a saved network has."""
    keys = (*hidden.T[::-1], *output.T[::-1], -np.abs(output).max(axis=1, initial=0.0))
    order = np.lexsort(keys)
    return hidden[order], output[order]


def make_program(
    values: Any, target: Any, *, loss: str, penalty: float, scale: bool = True, bias: bool = True, radius: float = 0.0,
    radii: Sequence[float] | None = None, names: Sequence[str] = (), classes: Sequence[str] = (), **loss_options: float,
) -> PatternProgram:  # fmt: skip
    """A problem from a raw table.

    Args:
        values: (n, p) numbers.
        target: (n,) or (n, C).
        penalty: weight decay beside the *mean* loss: beta = n penalty.
        scale: standardise the columns; a constant column becomes zero.
        bias: append a column of ones.
        radius: largest perturbation of every scaled column.
        radii: (p,) instead, one a column.

    Raises:
        ValueError: shapes, values that are not finite, penalty <= 0, radius < 0.
    """
    X = np.asarray(values, dtype=np.float64)
    y = np.asarray(target, dtype=np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if X.ndim != 2 or len(X) != len(y) or len(X) == 0:
        raise ValueError(f"values {X.shape} and target {y.shape}: expected (n, p) and (n,) or (n, C) with n >= 1")
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        name = names[column] if len(names) == X.shape[1] else f"{column}"
        raise ValueError(f"values: column {name!r} is NaN or infinite in row {row + 1}; drop or impute it first")
    if not np.isfinite(penalty) or penalty <= 0:
        raise ValueError(f"penalty is {penalty}; expected a finite number > 0")
    if not (np.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius is {radius}; expected a finite number >= 0")
    centre, spread = np.zeros(X.shape[1]), np.ones(X.shape[1])
    if scale:
        centre, spread = X.mean(axis=0), X.std(axis=0)
        spread = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(centre)), spread, 1.0)
    scaling = Scaling(centre, spread, bias)
    room: Tensor | None = None
    if radius > 0 or radii is not None:
        each = np.full(X.shape[1], radius) if radii is None else np.asarray(radii, dtype=np.float64)
        if each.shape != (X.shape[1],):
            raise ValueError(f"radii: {each.size} numbers for {X.shape[1]} columns; give one a column")
        room = torch.from_numpy(np.append(each, 0.0) if bias else each)
    return PatternProgram(
        torch.from_numpy(scaling(X)), torch.from_numpy(np.ascontiguousarray(y)), loss, float(penalty) * len(X), room,
        dict(loss_options), scaling, tuple(names), tuple(classes),
    )  # fmt: skip


def constant_columns(values: Array) -> list[int]:
    """Columns that hold one value."""
    return [int(j) for j in np.flatnonzero(np.ptp(values, axis=0) == 0)] if len(values) else []


def covered_columns(problem: PatternProgram) -> list[str]:
    """Columns whose radius is at least half the range of their values over the rows: the boxes of any two rows meet there."""
    if problem.radii is None:
        return []
    X = problem.features
    half = 0.5 * (X.amax(dim=0) - X.amin(dim=0))
    radii = problem.radii.to(X)
    wide = torch.nonzero((radii > 0) & (half > 0) & (radii >= half)).flatten().tolist()
    return [problem.names[j] if j < len(problem.names) else str(j) for j in wide]
