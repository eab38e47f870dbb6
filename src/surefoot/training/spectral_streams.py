"""Curvature over a data loader that does not fit into memory, and the ends of a batch's spectrum that follow.

    operator = StreamOperator(model, loader)                # v -> A v, a pass over the loader each
    edges = batch_edges(operator, (8, 32, 128, 512))        # top and bottom eigenvalue by batch size, largest stable rates

A pass accumulates the loader's batches with weights n_batch / N. The variance that moves an eigenvalue comes from the spread of the batches' products, so they must be
random parts of the data (a shuffled loader; of data sorted by class a batch is no random part).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.training import spectral_law as law
from surefoot.training.curvature import CurvatureOperator, directional_variance, top_eigenpairs
from surefoot.training.spectral_problem import Criterion, Curvature, Kind, refuse_mixing, row_losses
from surefoot.training.spectral_rows import Network, count, everywhere, split_batch

__all__ = ["BatchEdges", "StreamOperator", "batch_edges"]

SAME = 1e-3  # relative difference between the losses of two passes that rounding can explain


class StreamOperator:
    """``v -> A v`` for the curvature of the mean loss over everything that a loader gives, one pass a product.

    Args:
        model: in eval mode; parameters that require gradients are the coordinates.
        loader: an iterable of batches that can be gone through again and gives the same rows in every pass, in any order.
        criterion: see `row_losses`.
        kind: "ggn" or "hessian".
        population: N; None counts the rows of the first pass. Every pass must have them all, or as many as the first had where N is larger.
        split: batch -> (inputs, targets); see `split_batch`.
        ridge: added to the diagonal: the weight decay of plain descent.

    Raises:
        ValueError: an empty loader, one that can be gone through once only, passes that differ (``drop_last`` with shuffling, random augmentation), losses that are not
            finite or no loss a row, batch normalisation or dropout in train mode.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> A = StreamOperator(net, [(torch.eye(2), torch.zeros(2, 1)), (torch.ones(3, 2), torch.zeros(3, 1))], "squared")
        >>> A(torch.ones(3)).shape, A.rows
        (torch.Size([3]), 5)
    """

    def __init__(
        self, model: nn.Module, loader: Any, criterion: str | nn.Module | Criterion = "cross-entropy", *, kind: Kind = "ggn",
        population: int | None = None, split: Callable[[Any], tuple[Any, Any]] = split_batch, ridge: float = 0.0,
    ) -> None:  # fmt: skip
        if iter(loader) is loader:
            raise ValueError(
                "the loader can be gone through once only; every product needs a pass, so give a DataLoader or a list of batches"
            )
        refuse_mixing(model)
        self.model, self.loader, self.losses, self.split = model, loader, row_losses(criterion), split
        self.criterion, self.ridge = criterion, ridge
        self.kind: Kind = kind
        self.flat = Network(model)
        self.point = self.flat.vector()
        if not self.point.numel():
            raise ValueError("no parameter of the model requires a gradient")
        self.rows, first = self._loss()
        again, second = self._loss()
        if again != self.rows or abs(first - second) > SAME * max(abs(first), 1e-30):
            raise ValueError(
                f"two passes over the loader differ: {self.rows} rows with mean loss {first:.6g}, then {again} with {second:.6g}; give every row in every pass "
                "(drop_last=False), and turn random augmentation and dropout off"
            )
        if population is not None and population < self.rows:
            raise ValueError(f"the population is {population}, fewer than the {self.rows} rows of a pass")
        self.population = self.rows if population is None else population

    @property
    def dim(self) -> int:
        return self.point.numel()

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.loader:
            x, y = self.split(batch)
            yield tuple(everywhere(lambda t: t.to(self.point.device), part) for part in (x, y))  # type: ignore[misc]

    def _loss(self) -> tuple[int, float]:
        rows, total = 0, 0.0
        with torch.no_grad():
            for x, y in self._batches():
                each = self.losses(self.flat(self.point, x), y)
                if each.shape != (count(x),):
                    raise ValueError(
                        f"the loss returned shape {tuple(each.shape)}; expected one loss a row, ({count(x)},)"
                    )
                if not bool(torch.isfinite(each).all()):
                    raise ValueError(
                        f"the loss of row {rows + int((~torch.isfinite(each)).nonzero()[0])} of a pass is NaN or infinite; check the data and the weights"
                    )
                rows, total = rows + count(x), total + float(each.double().sum())
        if not rows:
            raise ValueError("the loader gave no batch")
        return rows, total / rows

    def products(self, v: Tensor) -> Iterator[tuple[int, Tensor]]:
        """``(n_batch, A_batch v)`` for every batch of a pass."""
        for x, y in self._batches():
            yield count(x), CurvatureOperator(self.model, x, y, self.criterion, kind=self.kind)(v)

    def __call__(self, v: Tensor) -> Tensor:
        total, rows = torch.zeros_like(v), 0
        for n, image in self.products(v):
            total += image * (n / self.rows)
            rows += n
        if rows != self.rows:
            raise ValueError(
                f"a pass over the loader gave {rows} rows, the first one {self.rows}; give every row in every pass"
            )
        return total + self.ridge * v if self.ridge else total

    def start(self, generator: torch.Generator) -> Tensor:
        """A random vector (P,), its direction uniform on the sphere."""
        return torch.randn(self.dim, generator=generator, dtype=self.point.dtype).to(self.point.device)

    def variance(self, direction: Tensor) -> tuple[float, float]:
        """``V`` along a unit vector from the spread over the K full batches of q rows of a pass, and its standard error.

        ``q (mean_k |A_k v|^2 - |mean_k A_k v|^2) K / (K - 1)``; a smaller last batch is left out.

        Raises:
            ValueError: fewer than two full batches.
        """
        squares: list[float] = []
        mean, size, kept = torch.zeros_like(direction, dtype=torch.float64), 0, 0
        for n, image in self.products(direction):
            size = max(size, n)
            if n == size:
                image, kept = image.double(), kept + 1
                mean += (image - mean) / kept
                squares.append(float(image.square().sum()))
        if kept < 2:
            raise ValueError(f"the loader has {kept} full batches; their spread needs at least 2")
        found = size * kept / (kept - 1) * max(0.0, float(np.mean(squares)) - float(mean.square().sum()))
        return found, size * float(np.std(squares, ddof=1)) / math.sqrt(kept)


@dataclass(frozen=True, eq=False)
class BatchEdges:
    """By batch size: the ends of a batch's spectrum by the random-matrix theorem with the end's own variance, and what follows.

    Args:
        batch: sizes (m,).
        largest, smallest: eigenvalues of a batch's matrix; ``nan`` for the smallest of a Gauss-Newton matrix, which is 0.
        error: of `largest`: residual of the eigenpair and one standard error of the variance.
        rate: largest stable rate of the optimiser asked for, see `largest_rate`.
        scale: the rate over that at the first size; for Adam the square root of the curvatures' ratio.
        rule: what the plain linear (SGD) or square-root (Adam) rule would have it be: the asymptote where noise dominates.
        damping: least damping of second-order steps, for a rate of 1: see `minimal_damping`.
        variance: V along the top eigenvector.
        whole: the top eigenvalue of all N rows, a sub-sample's own noise taken off.
    """

    batch: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray
    error: np.ndarray
    rate: np.ndarray
    scale: np.ndarray
    rule: np.ndarray
    damping: np.ndarray
    variance: float
    whole: float

    def to_dict(self) -> dict[str, Any]:
        """By name."""
        return asdict(self)


def batch_edges(
    source: StreamOperator | Curvature, batches: Sequence[int], *, optimizer: law.Optimizer = "sgd", momentum: float = 0.0, replacement: bool = False,
    tolerance: float = 1e-3, steps: int = 60, seed: int = 0,
) -> BatchEdges:  # fmt: skip
    """Predict the extreme eigenvalues of batches, and the largest stable rate, from passes over the data.

    Args:
        source: a stream, or a problem in memory (whose single rows then give the variance).
        batches: sizes, ascending.
        optimizer, momentum: "sgd" or "nesterov" with momentum, or "adam" (whose rates are of the matrix given: precondition it for absolute ones).
        replacement: batches that may hold a row twice.
        tolerance, steps: of the eigenpair.

    Raises:
        ValueError: sizes out of range; a part of the data whose top eigenvalue lies inside its own sampling noise.
    """
    if not len(batches) or list(batches) != sorted(set(batches)):
        raise ValueError(f"the batch sizes are {tuple(batches)}; expected different sizes in ascending order")
    operator: Any = CurvatureOperator.of(source) if isinstance(source, Curvature) else source
    rows = source.rows * source.unit if isinstance(source, Curvature) else source.rows
    unit = source.unit if isinstance(source, Curvature) else 1
    population = source.population or rows

    def along(v: Tensor) -> tuple[float, float]:
        if isinstance(source, Curvature):
            return directional_variance(source, v) * unit, 0.0
        return source.variance(v)

    def end(which: str) -> tuple[float, float, float, float]:
        found = top_eigenpairs(
            operator,
            generator=torch.Generator().manual_seed(seed),
            tolerance=tolerance,
            steps=min(steps, operator.dim),
            end=which,
        )
        variance, spread = along(found.vectors[:, 0])
        return float(found.values[0]), float(found.residuals[0]), variance, spread

    top, residual, variance, spread = end("largest")
    part = law.effective_batch(rows, population)
    whole = law.debiased(top, variance, part)
    effective = [law.effective_batch(b, population, replacement=replacement) for b in batches]
    largest = np.array([law.moved_eigenvalue(whole, variance, b) for b in effective])
    error = np.array([residual + spread / (b * max(abs(whole), 1e-30)) for b in effective])
    smallest = np.full(len(largest), np.nan)
    if source.kind == "hessian":
        low, _, lower, _ = end("smallest")
        low = law.debiased(low, lower, part) if low**2 > 4 * lower / part else -0.0
        smallest = np.array([law.moved_eigenvalue(low if low < 0 else -0.0, lower, b) for b in effective])
    rate = np.array([law.largest_rate(value, optimizer, momentum) for value in largest])
    power = 0.5 if optimizer == "adam" else 1.0
    sizes = np.array(batches, dtype=np.int64)
    noise = [law.noise_curvature(whole, variance, b) for b in effective]
    return BatchEdges(
        sizes, largest, smallest, error, rate, (largest[0] / largest) ** power, (sizes / sizes[0]) ** power,
        np.array([law.minimal_damping(1.0, n) for n in noise]), variance, whole,
    )  # fmt: skip
